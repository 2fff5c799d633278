"""Seconds of each kind of update, for the wall-clock of an experiment: measured in turns in one process, data loading included.

What a run measures depends on what else the machine did meanwhile; runs of one experiment are hours apart, so their clocks do not compare.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import numpy as np

from active_learning.build import build, first_state, loader_of
from active_learning.settings import Config, reference_config
from active_learning.step import train_step, uniform_step


def _stepper(config: Config, kind: str) -> Callable[[int], None]:
    """Runs updates of one kind, as the loop does: the next examples, the step, the figures of the step before."""
    it = build(reference_config(config) if kind == "reference" else config)
    step = train_step if kind == "active" else uniform_step
    count = config.batch_size * config.select.ratio if kind == "active" else it.config.batch_size
    loader = loader_of(it, 0)
    reference = it.task.init(it.scorer, jax.random.key(1))
    held = [first_state(it, reference if kind == "active" else None)]
    compiled = jax.jit(partial(step, it.recipe), donate_argnums=0).lower(held[0], loader.peek(count).batch).compile()

    def run(updates: int) -> None:
        late = None
        for _ in range(updates):
            held[0], said = compiled(held[0], loader.next(count).batch)
            late, said = said, late
            jax.device_get(said)
        jax.block_until_ready(late)

    return run


def step_seconds(config: Config, rounds: int = 9, updates: int = 10) -> dict[str, float]:
    """Median seconds of a "uniform", an "active" and a "reference" update; the order turns from round to round."""
    plain = replace(config, evaluate=replace(config.evaluate, gate=""))
    steppers = {kind: _stepper(plain, kind) for kind in ("uniform", "active", "reference")}
    seconds: dict[str, list[float]] = {kind: [] for kind in steppers}
    for stepper in steppers.values():
        stepper(2)
    for n in range(rounds):
        kinds = list(steppers)
        for kind in kinds[n % 3 :] + kinds[: n % 3]:
            began = time.perf_counter()
            steppers[kind](updates)
            seconds[kind].append((time.perf_counter() - began) / updates)
    return {kind: float(np.median(values)) for kind, values in seconds.items()}

"""Seconds of each kind of update, for the wall-clock of an experiment: measured in turns in one
process, data loading included.

What a run measures depends on what else the machine did meanwhile; runs of one experiment are hours
apart, so their clocks do not compare.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np

from active_learning.settings import Config
from active_learning.train.build import build, first_state
from active_learning.train.updates import UpdateRunner

KINDS = ("uniform", "active", "ahead", "reference")


def _stepper(config: Config, kind: str) -> Callable[[int], None]:
    """Carries out updates of one kind, as the loop does; the figures of each are fetched while the
    next one runs.
    """
    active = kind in ("active", "ahead")
    if active:
        config = replace(
            config, select=replace(config.select, schedule="ahead" if kind == "ahead" else "exact")
        )
    experiment = build(config.reference.own_runs(config)[""] if kind == "reference" else config)
    updates = UpdateRunner(experiment, experiment.loader(0), restored=False)
    held = [first_state(experiment, experiment.init_scorer(jax.random.key(1)) if active else None)]
    updates.compile(held[0], active)

    def run(count: int) -> None:
        previous = None
        for _ in range(count):
            held[0], metrics = updates(held[0], active, more=active)
            previous, metrics = metrics.metrics, previous
            jax.device_get(metrics)
        jax.block_until_ready((held[0], previous))

    return run


def step_seconds(config: Config, rounds: int = 9, updates: int = 10) -> dict[str, float]:
    """Median seconds of an update of each kind: "uniform", "active", "ahead" (selected for during
    the one before) and "reference"; the order turns from round to round.
    """
    plain = replace(config, evaluate=replace(config.evaluate, gate=""))
    steppers = {kind: _stepper(plain, kind) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for stepper in steppers.values():
        stepper(2)
    for n in range(rounds):
        first = n % len(KINDS)
        for kind in KINDS[first:] + KINDS[:first]:
            began = time.perf_counter()
            steppers[kind](updates)
            seconds[kind].append((time.perf_counter() - began) / updates)
    return {kind: float(np.median(values)) for kind, values in seconds.items()}

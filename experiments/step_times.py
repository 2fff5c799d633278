"""Seconds of each kind of update, for the wall-clock of an experiment: measured in turns in one
process, data loading included.

What a run measures depends on what else the machine did meanwhile; runs of one experiment are hours
apart, so their clocks do not compare.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from active_learning.references import Kernel
from active_learning.settings import Config
from active_learning.train.build import Experiment, build, first_state
from active_learning.train.stored_inputs import with_stored
from active_learning.train.updates import UpdateRunner


def stepper(experiment: Experiment, active: bool) -> Callable[[int], None]:
    """Carries out so many updates, as the loop does; the figures of each are fetched while the next
    one runs.

    Args:
      experiment: Whose updates; a reference that it has to train is zeros.
      active: Whether the updates select.
    """
    updates = UpdateRunner(experiment, experiment.loader(0), restored=False)
    one = jax.eval_shape(experiment.init_reference, jax.random.key(0))
    zeros = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype)
    reference = jax.tree.map(zeros, experiment.reference.abstract_params(one))
    held = [first_state(experiment, reference if active else None)]
    updates.compile(held[0], active)

    def run(count: int) -> None:
        previous = None
        for _ in range(count):
            held[0], metrics = updates(held[0], active, more=active)
            previous, metrics = metrics.metrics, previous
            jax.device_get(metrics)
        jax.block_until_ready((held[0], previous))

    return run


def in_turns(
    steppers: dict[str, Callable[[int], None]], rounds: int = 9, updates: int = 10
) -> dict[str, float]:
    """Median seconds of an update by each stepper; the order turns from round to round."""
    names, seconds = list(steppers), {name: [] for name in steppers}
    for run in steppers.values():
        run(2)
    for n in range(rounds):
        first = n % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            steppers[name](updates)
            seconds[name].append((time.perf_counter() - began) / updates)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def step_seconds(
    config: Config, rounds: int = 9, updates: int = 10, kernel: Kernel | None = None
) -> dict[str, float]:
    """Median seconds of an update of each kind: "uniform", "active", "ahead" (selected for during
    the one before) and "reference".

    With a kernel reference also "stored", an update that reads its losses, and "kernel", the
    seconds of everything before the first of them.
    """
    plain = replace(config, evaluate=replace(config.evaluate, gate=""))
    exact, ahead = (
        build(replace(plain, select=replace(plain.select, schedule=kind)))
        for kind in ("exact", "ahead")
    )
    steppers = {
        "uniform": stepper(exact, active=False),
        "active": stepper(exact, active=True),
        "ahead": stepper(ahead, active=True),
        "reference": stepper(build(plain.reference.own_runs(plain)[""]), active=False),
    }
    once = {}
    if kernel is not None:
        with tempfile.TemporaryDirectory() as folder:
            joined = with_stored(build(replace(plain, reference=kernel)), Path(folder))
            assert joined is not None, "nothing asks it to stop"
            steppers["stored"] = stepper(joined[0], active=True)
            once["kernel"] = joined[0].known.seconds
    return in_turns(steppers, rounds, updates) | once

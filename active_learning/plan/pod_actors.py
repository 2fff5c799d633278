"""The plan of a TPU slice of which some chips only score (`select.actors`): two programs.

Between the two meshes nothing is compiled: the runtime copies what `train.selectors.Actors` sends.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

from active_learning.config import ConfigError
from active_learning.core import sharding
from active_learning.core.step import select_step, train_on_selection
from active_learning.data.stored_rows import COLUMN
from active_learning.plan.abstract import abstract_batch
from active_learning.plan.pod import GIB, CompiledStep, bytes_on_a_chip, reported
from active_learning.plan.pod_lines import large_collectives
from active_learning.plan.topology import CHIPS, is_slice
from active_learning.train.build import Experiment, abstract_state
from active_learning.train.selectors import Actors, placed_shapes


@dataclass(frozen=True)
class CompiledActors:
    """What the compiler reports of both programs, and the bytes that are sent between them."""

    scoring: CompiledStep
    training: CompiledStep
    # The selected rows of all chips, for each update; 0 where they are read anew.
    rows: int
    # The models that score, for each copy and chip.
    models: int


def check_parts(places: Sequence[Sequence[int]], actors: int) -> None:
    """Checks that the first `actors` chips and the others are slices, by their coordinates.

    Raises:
      ConfigError: They are not, and the TPU compiler takes whole slices only.
    """
    half = len(places) // 2
    halves = half and is_slice(places[:half]) and is_slice(places[half:])
    for name, part in (("score", places[:actors]), ("train", places[actors:])):
        if not part or not is_slice(part):
            raise ConfigError(
                f"config.select.actors={actors}: the {len(part)} of {len(places)} chips that "
                f"{name} are no slice, and the TPU compiler takes whole slices only"
                f"{f'; half of the chips, {half}, is one' if halves else ''}"
            )


def compile_actors(experiment: Experiment) -> CompiledActors:
    """Compiles selection for the actors and the update for the others.

    Small views and stored features are taken to be read from the disk, and what is selected to be
    read in full after that, as for data on disk.
    """
    mesh, small = experiment.actor_mesh, experiment.scorer_view
    assert mesh is not None, "without actors there is one program"
    began, state = time.monotonic(), abstract_state(experiment)
    two_stage = small.image_shape != experiment.view.image_shape or small.features > 0
    selector = Actors(experiment, sends_rows=not two_stage)
    examples = abstract_batch(experiment)
    candidates = {k: v for k, v in examples.items() if not (two_stage and k == "image")}
    full = {k: v for k, v in examples.items() if k not in ("image_small", COLUMN)}
    batch = placed_shapes(candidates, selector.placement)
    scoring = selector.scoring_shapes(state)
    chosen = jax.eval_shape(partial(select_step, selector.recipe), scoring, batch)[1]
    select, take = selector.programs(scoring, batch)
    first = reported(select, mesh, began)
    if take is not None:
        first = _both(first, reported(take, mesh, began))
    began, everywhere = time.monotonic(), sharding.replicated(experiment.mesh)
    rows = _first(full, len(chosen.indices), sharding.batch_sharding(experiment.mesh))
    update = sharding.aot_compile(
        partial(train_on_selection, experiment.recipe),
        state,
        {},
        placed_shapes(chosen, everywhere),
        rows,
        rest=everywhere,
    )
    copied = [getattr(scoring, name) for name in selector.trained]
    return CompiledActors(
        first,
        reported(update, experiment.mesh, began),
        0 if two_stage else bytes_on_a_chip(rows) * experiment.mesh.size,
        bytes_on_a_chip(copied),
    )


def _both(one: CompiledStep, two: CompiledStep) -> CompiledStep:
    """Two programs of the same chips, one after the other."""
    return replace(
        two,
        stays=max(one.stays, two.stays),
        temporary=max(one.temporary, two.temporary),
        collectives=one.collectives + two.collectives,
    )


def _first(batch: dict[str, Any], count: int, placement: Any) -> dict[str, Any]:
    """The shapes of `count` rows of a batch."""
    return {
        name: jax.ShapeDtypeStruct((count, *leaf.shape[1:]), leaf.dtype, sharding=placement)
        for name, leaf in batch.items()
    }


def actor_lines(experiment: Experiment, topology: str) -> Iterator[str]:
    """Compiles both programs and describes what the compiler reports of each.

    Raises:
      ConfigError: One does not fit, or the compiler takes no part of this slice.
    """
    try:
        done = compile_actors(experiment)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise ConfigError(
                f"scoring or training does not fit its part of {topology}: {str(error)[:200]!r}"
            ) from error
        reason = str(error).splitlines()[0].rpartition(") ")[2]
        raise ConfigError(
            f"config.select.actors={experiment.config.select.actors}: the compiler refuses "
            f"programs for a part of {topology}: {reason}"
        ) from error
    for name, step in (("scoring", done.scoring), ("training", done.training)):
        has = CHIPS[step.device_kind].memory
        yield ""
        yield (
            f"{name}, compiled for {step.chips} chips of {topology} ({step.device_kind}) in "
            f"{step.seconds:.0f} s; of one chip and update:"
        )
        yield (
            f"  memory: {step.stays / GIB:.2f} GiB of state and batch, "
            f"{step.temporary / GIB:.2f} GiB temporary; {step.memory / GIB:.2f} of {has:.0f} GiB"
        )
        yield from large_collectives(step.collectives)
        if step.memory > has * GIB:
            raise ConfigError(f"{name} does not fit a {step.device_kind}'s {has:.0f} GiB")
    refresh = experiment.config.select.refresh
    often = "every update" if refresh == 1 else f"every {refresh} updates"
    rows = f"{done.rows / 1e6:.1f} MB of selected rows" if done.rows else "the selected indices"
    yield (
        f"between them: {rows} for every update, and {done.models / 1e6:.1f} MB of models to each "
        f"chip that scores, {often}; no candidate"
    )

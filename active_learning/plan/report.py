"""The plan of a run as lines of text."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from active_learning.checks import on_any_devices
from active_learning.config import ConfigError
from active_learning.data.sources.source import DataError
from active_learning.plan.abstract import build_abstract
from active_learning.plan.advice import advice_lines
from active_learning.plan.cost_model import (
    cost_lines,
    cost_model_of,
    memory_lines,
    other_scorers,
)
from active_learning.plan.diagnostics import diagnose_reference, diagnostics_lines
from active_learning.plan.pod_actors import actor_lines, check_parts
from active_learning.plan.pod_lines import pod_lines
from active_learning.plan.split import split_lines
from active_learning.plan.topology import devices_of
from active_learning.references import Trained
from active_learning.references.row_pass import count_captions
from active_learning.settings import Config
from active_learning.train.build import Experiment, abstract_state, build
from active_learning.train.feature_pass import charged_parts
from active_learning.train.fitting import fitted
from active_learning.train.starts import open_models
from active_learning.train.stored_inputs import with_stored


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """Sizes to plan for where the data cannot be opened, and the assumed MFU of the chips."""

    image_size: int = 224
    classes: int = 1000
    examples: int = 1_281_167
    mfu: float = 0.5


def plan_lines(
    config: Config, assumed: Assumptions, topology: str = "", reference: Path | None = None
) -> Iterator[str]:
    """All lines of the plan.

    Args:
      config: The config to plan.
      assumed: What is not known.
      topology: TPU slice to compile the step for; empty: none.
      reference: Run folder of a reference to evaluate.

    Raises:
      ConfigError: For a config, topology or reference that cannot be used.
      DataError: Where a reference is to be evaluated without data.
    """
    # First, since an unknown topology ends the plan.
    chips = devices_of(topology) if topology else []
    if chips and config.select.actors:
        check_parts([chip.coords for chip in chips], config.select.actors)
    if config.reference.for_plan() != config.reference:
        yield f"no file {config.reference.path}: the reference is planned at the size of the scorer"
        config = dataclasses.replace(config, reference=config.reference.for_plan())
    planned = _planned(config, assumed, needs_data=bool(reference))
    yield from planned.notes
    experiment, shape = planned.experiment, planned.image_shape
    classes, examples = planned.classes, planned.examples
    config, changes = fitted(config, examples)
    yield from changes
    model = cost_model_of(
        config, planned.learner, planned.scorer, examples, shape, planned.captions, classes
    )
    yield from cost_lines(model, other_scorers(config, model, planned.learner, examples, shape))
    yield from split_lines(model, len(chips))
    here = build_abstract(on_any_devices(config), shape, classes, examples, jax.devices()[:1])
    yield from memory_lines(_state_bytes(here), config.batch_size, config.select.ratio, shape)
    if topology:
        there = build_abstract(config, shape, classes, examples, chips)
        if there.actor_mesh is not None:
            yield from actor_lines(there, topology)
        else:
            yield from pod_lines(there, topology, assumed.mfu)
    diagnostics = None
    if reference and experiment:
        _check_reference(config, reference)
        # Where a run would keep them whose reference this is.
        joined = with_stored(experiment, reference.parent)
        assert joined is not None, "nobody asked to stop"
        experiment, _ = joined
        diagnostics = diagnose_reference(experiment, reference)
        yield from diagnostics_lines(diagnostics)
    yield from advice_lines(model, diagnostics, classes)


@dataclasses.dataclass(frozen=True)
class _Planned:
    """What the costs depend on: of the data where they can be opened, else as assumed."""

    learner: Any
    scorer: Any
    image_shape: tuple[int, int, int]
    classes: int
    examples: int
    # With data only.
    captions: int | None = None
    experiment: Experiment | None = None
    notes: tuple[str, ...] = ()


def _planned(config: Config, assumed: Assumptions, needs_data: bool) -> _Planned:
    """Opens the data. Raises DataError where that fails and `needs_data`."""
    try:
        experiment = build(_without_reference(config), jax.devices()[:1])
    except DataError as error:
        if needs_data:
            raise
        size, classes = assumed.image_size, assumed.classes
        what = "with a caption each" if config.task.text else f"in {classes:,} classes"
        note = f"no data ({error}); planned for {assumed.examples:,} images of {size} px {what}"
        opened, _ = open_models(config)
        shape = (size, size, 3)
        view = config.task.view_of(opened, shape, classes, (0.5,) * 3, (0.5,) * 3)
        learner = config.task.specialize(opened.learner, view)
        scorer = config.task.specialize(opened.scorer, view)
        return _Planned(learner, scorer, shape, classes, assumed.examples, notes=(note,))
    data, shape = experiment.data, experiment.view.image_shape
    classes, examples = data.num_classes, len(data.train)
    captions = None
    if config.task.text:
        captions = count_captions(data.parts[name] for name in charged_parts(config))
    return _Planned(
        experiment.learner, experiment.scorer, shape, classes, examples, captions, experiment
    )


def _without_reference(config: Config) -> Config:
    """The config with a reference that is not read from disk, as planning needs none there."""
    return dataclasses.replace(on_any_devices(config), reference=Trained())


def _check_reference(config: Config, reference: Path) -> None:
    if config.task.text:
        raise ConfigError(
            f"--reference={reference}: evaluating it here needs labels; "
            "for image-text pairs use active_learning.evaluate"
        )
    if "reference" not in config.select.policy.needs:
        raise ConfigError(
            f"--reference={reference}: policy {config.select.policy.name!r} needs no reference"
        )


def _state_bytes(experiment: Experiment) -> dict[str, tuple[int, int]]:
    """Bytes of parameters and optimizer state of the models that the state holds."""
    state = abstract_state(experiment)
    models = {
        "learner": state.learner,
        "ema": state.ema,
        "online": state.online,
        "reference": state.reference,
    }
    return {
        name: (_bytes(model.params), _bytes(model.opt_state))
        for name, model in models.items()
        if model is not None
    }


def _bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

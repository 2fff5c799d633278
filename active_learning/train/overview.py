"""Describes a run before it starts: data, parts, models, and the cost of an update."""

from collections.abc import Iterator
from typing import Any

import jax
from clu import parameter_overview

from active_learning.cost.ledger import total
from active_learning.data import classes
from active_learning.data.sources.problems import Problems
from active_learning.train.build import Experiment


def lines(experiment: Experiment) -> Iterator[str]:
    """One line each on data, parts, models and cost.

    Allocates nothing: parameters are counted from their shapes.
    """
    data, config, view = experiment.data, experiment.config, experiment.view
    shape = "x".join(map(str, view.image_shape))
    mean, std = _rounded(view.mean), _rounded(view.std)
    yield f"data: {config.task.describe(data)}, {shape}, mean {mean}, std {std}"
    if experiment.class_counts:
        yield classes.line(experiment.class_counts)
    parts = ", ".join(f"{name} {len(part):,}" for name, part in data.parts.items())
    trained_on = "+".join(config.split.train_on)
    yield f"parts: {parts}; trained on {trained_on} ({len(data.train):,})"
    yield from problem_lines(experiment)
    yield from experiment.changes
    yield _model("learner", experiment.learner, view, experiment.init_learner)
    yield _model("scorer", experiment.scorer, experiment.scorer_view, experiment.init_scorer)
    if experiment.two_stage_decode:
        yield _two_stage(experiment)
    yield _update(experiment)


def _update(experiment: Experiment) -> str:
    config, steps = experiment.config, experiment.steps
    b, ratio = config.batch_size, config.select.ratio
    if not steps.window:
        return f"update: uniform, {b} examples, {steps.total} updates"
    factor = total(dict(experiment.costs)) / total(dict(experiment.uniform_costs))
    return (
        f"update: {config.select.policy.name}, {b} of {b * ratio} candidates in the first "
        f"{steps.window} of {steps.total} updates, {factor:.2f}x the FLOPs of a uniform update"
    )


def _model(role: str, module: Any, view: Any, init: Any) -> str:
    forward = module.cost(view.image_shape).forward
    size = "x".join(map(str, view.image_shape[:2]))
    return (
        f"{role}: {type(module).__name__} on {size}, {count_parameters(init):,} parameters, "
        f"{forward:.3g} FLOPs a forward pass"
    )


def count_parameters(init: Any) -> int:
    """Parameters that `init(key)` would make."""
    shapes = jax.eval_shape(init, jax.random.key(0))
    return int(parameter_overview.count_parameters(shapes))


def problems(experiment: Experiment) -> list[Problems]:
    """The counts of unusable examples of all sources on disk, each once."""
    parts = experiment.data.parts.values()
    every = [one for part in parts for one in part.source.problems_of()]
    return list({id(one): one for one in every}.values())


def problem_lines(experiment: Experiment) -> list[str]:
    """What could not be used so far, by name."""
    return [line for one in problems(experiment) for line in one.lines()]


def bad_examples(experiment: Experiment) -> dict[str, float]:
    """How many examples could not be used so far; empty for sources in memory."""
    every = problems(experiment)
    return {"data/bad_examples": float(sum(len(p.bad) for p in every))} if every else {}


def _two_stage(experiment: Experiment) -> str:
    if experiment.scorer_view.features and "learner" not in experiment.recipe.policy.needs:
        return "candidates: stored features; only what is chosen is decoded"
    if experiment.data.train.source.prepared:
        return "candidates: prepared small views; only what is chosen is decoded in full"
    return (
        "candidates: full files, JPEG decoded at a reduced scale; only what is chosen is decoded "
        "in full; that saves about half of the decoding of JPEG, "
        "views made by `prepare --small` far more"
    )


def _rounded(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3f}" for value in values)

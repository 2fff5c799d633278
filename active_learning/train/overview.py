"""Describes a run before it starts: data, parts, models, and the cost of an update."""

from collections.abc import Iterator
from typing import Any

import jax
from clu import parameter_overview

from active_learning.checks import resolve
from active_learning.cost.ledger import total
from active_learning.data import classes
from active_learning.data.sources.problems import Problems
from active_learning.models.frozen import frozen_mask
from active_learning.train.build import Experiment, sized_reference
from active_learning.train.fitting import fitted
from active_learning.train.starts import Start

_NOT_TAKEN = "new", "left"  # How rows of such a table begin.
_shown: set[tuple[str, tuple[str, ...]]] = set()  # Hashes and rows that `weight_lines` gave.


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
    starts = experiment.starts
    yield _model("learner", experiment.learner, view, experiment.init_learner, starts.learner)
    if config.select.policy.uses_scorers:
        shown = experiment.scorer, experiment.scorer_view, experiment.init_scorer, starts.scorer
        yield _model("scorer", *shown)
    if experiment.two_stage_decode:
        yield _two_stage(experiment)
    yield _update(experiment)
    if config.select.policy.reads_reference:
        yield from _reference(experiment)


def _reference(experiment: Experiment) -> Iterator[str]:
    """What the reference costs before the first update, of this run's uniform updates."""
    config, devices = experiment.config, experiment.device_count
    updates, examples = 0, 0
    uniform = experiment.steps.total * total(dict(experiment.uniform_costs))
    reference, price = sized_reference(experiment, experiment.data)
    if price:
        yield f"reference: {reference.title}, {price:.1%} of the FLOPs of uniform training"
    for name, own in config.reference.own_runs(config).items():
        pool = config.reference.pool_size(config, experiment.data, name)
        own, _ = fitted(own, pool, devices)
        count = resolve(own, pool, devices).total
        updates, examples = updates + count, examples + count * own.batch_size
    if not updates:
        return
    flops = examples * experiment.scorer.cost(experiment.scorer_view.image_shape).train
    share = f"{flops / uniform:.0%} of the FLOPs of uniform training"
    line = f"reference, unless it is trained already: {updates} updates, {share}"
    if flops > uniform / 2:
        line += "; a smaller config.reference.total, or a longer run, makes that less"
    yield line


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


def _model(role: str, module: Any, view: Any, init: Any, start: Start) -> str:
    forward = module.cost(view.image_shape).forward
    size = "x".join(map(str, view.image_shape[:2]))
    count = f"{count_parameters(init):,} parameters"
    if start.freeze:
        count = f"trains {_count_trained(init, start.freeze):,} of {count}"
    return f"{role}: {type(module).__name__} on {size}, {count}, {forward:.3g} FLOPs a forward pass"


def _count_trained(init: Any, freeze: str) -> int:
    shapes = jax.eval_shape(init, jax.random.key(0))
    frozen = jax.tree.leaves(frozen_mask(shapes, freeze))
    sizes = (leaf.size for leaf in jax.tree.leaves(shapes))
    return sum(size for size, stays in zip(sizes, frozen, strict=True) if not stays)


def weight_lines(weights: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What models start from published weights, and what was taken of each file.

    Where the same was taken before, for another model or another run of this process, the table is
    not repeated.

    Args:
      weights: As in config.json: layout, hash and table, by model.
    """
    for role, report in weights.items():
        line, table = f"{role} starts from {report['layout']} weights", report["table"]
        taken = tuple(" ".join(row.split()) for row in table if not row.startswith(_NOT_TAKEN))
        if (report["hash"], taken) in _shown:
            yield f"{line}, taken as above"
        else:
            _shown.add((report["hash"], taken))
            yield "\n".join((f"{line}:", *table))


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

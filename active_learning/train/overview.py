"""What a run will do, said before it starts: data, parts, models, and what a step costs."""

from collections.abc import Iterator

import jax
from clu import parameter_overview

from active_learning.cost.ledger import total
from active_learning.data import classes
from active_learning.data.sources.problems import Problems
from active_learning.train.build import Run


def lines(it: Run) -> Iterator[str]:
    """One line each on data, split, models and cost. Allocates nothing: parameters are counted from their shapes."""
    data, config, task = it.data, it.config, it.task
    height, width, channels = task.image_shape
    what = f"{data.num_classes} classes"
    if data.train.captions is not None:
        what = f"{data.provenance['captions']:,} captions ({data.provenance['captions_cut']:,} cut to {task.context} tokens)"
    yield f"data: {what}, {height}x{width}x{channels}, mean {_rounded(task.mean)}, std {_rounded(task.std)}"
    if data.train.captions is None:
        yield classes.line(data.train.source.class_counts(config.data.label))
    parts = ", ".join(f"{name} {len(part):,}" for name, part in data.parts.items())
    yield f"parts: {parts}; trained on {'+'.join(config.split.train_on)} ({len(data.train):,})"
    yield from problem_lines(it)
    for role, module, seen in (
        ("learner", it.learner, task),
        ("scorer", it.scorer, it.scorer_task),
    ):
        forward, size = (
            module.cost(seen.image_shape).forward,
            "x".join(map(str, seen.image_shape[:2])),
        )
        yield f"{role}: {type(module).__name__} on {size}, {count(seen, module):,} parameters, {forward:.3g} FLOPs a forward pass"
    if it.deferred:
        yield _second_look(it)
    step, plain = total(it.costs), total(it.uniform_costs)
    yield (
        f"step: {config.select.policy.name}, {config.batch_size} of {config.batch_size * config.select.ratio} candidates in the first "
        f"{it.clock.window} of {it.clock.total} updates, {step / plain:.2f}x the FLOPs of a uniform update"
        if it.clock.window
        else f"step: uniform, {config.batch_size} examples, {it.clock.total} updates"
    )


def problems(it: Run) -> list[Problems]:
    """The counts of unusable examples of all sources on disk, each once."""
    sources = [part.source for part in it.data.parts.values()]
    return list({id(one): one for source in sources for one in source.problems_of()}.values())


def problem_lines(it: Run) -> list[str]:
    """What could not be used so far, by name."""
    return [line for one in problems(it) for line in one.lines()]


def count(task, module) -> int:
    """Parameters of a module of a task."""
    return int(
        parameter_overview.count_parameters(
            jax.eval_shape(lambda: task.init(module, jax.random.key(0)))
        )
    )


def _second_look(it: Run) -> str:
    prepared = it.data.train.source.prepared
    how = "prepared small views" if prepared else "full files, decoded at a reduced scale"
    hint = (
        ""
        if prepared
        else "; that saves about half of the decoding, views made by `prepare --small` far more"
    )
    return f"candidates: {how}; only what is chosen is decoded in full{hint}"


def _rounded(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3f}" for value in values)

"""Part 1: what only an accelerator has (bf16, fused attention) and what saves memory (remat, scan)
against the plain float32 step, the device against the host, and the fused step against its parts.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import jax
import numpy as np
import optax

from active_learning.core import homes, policies, sharding
from active_learning.core.recipe import init_state
from active_learning.core.step import select_step, train_on_selection, train_step, uniform_step
from active_learning.data.sources.shapes import Shapes
from active_learning.models import ViT
from active_learning.models.transformer import stack_blocks, unstack_blocks
from active_learning.plan.abstract import build_abstract
from active_learning.settings import Config, Optim, Select
from active_learning.train.build import Experiment

PLAIN = ViT(width=32, depth=2, heads=2, patch=16)
B, SIZE, CLASSES, STEPS, RATIO = 8, 32, 10, 3, 4


@dataclass(frozen=True)
class Option:
    """A way to run the step that must give the same result.

    Changes of the learner, the compute type, the platform, and the tolerances of the losses and of
    the learner's movement from its start (both relative, the latter in Euclidean length).
    """

    name: str
    changes: dict
    dtype: str = "float32"
    platform: str = ""
    loss: float = 1e-5
    update: float = 1e-3


OPTIONS = (
    Option("float32 on the host", {}, platform="cpu", loss=1e-4),
    Option("remat full", {"remat": "full"}),
    Option("remat dots", {"remat": "dots"}),
    Option("scan", {"scan": True}),
    Option("bf16", {}, "bfloat16", loss=0.05, update=0.3),
    Option("bf16, fused attention", {"attention": "cudnn"}, "bfloat16", loss=0.05, update=0.3),
)
FUSED = OPTIONS[-1].name


def experiment(learner: ViT, dtype: str = "float32", select: Select | None = None) -> Experiment:
    """A small experiment without augmentation, on the first device."""
    config = Config(
        data=Shapes(),
        learner=learner,
        scorer=PLAIN,
        batch_size=B,
        total="1000 steps",
        dtype=dtype,
        augment=False,
        select=Select() if select is None else select,
        optim=Optim(learning_rate=1e-2, warmup="0 steps"),
    )
    return build_abstract(config, (SIZE, SIZE, 3), CLASSES, 10**6, jax.devices()[:1])


def batch_of(size: int) -> dict[str, np.ndarray]:
    """Random images and labels, with distinct ids."""
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (size, SIZE, SIZE, 3)).astype(np.uint8),
        "label": rng.integers(0, CLASSES, size).astype(np.int32),
        "id": np.stack([np.zeros(size), np.arange(size)], axis=1).astype(np.uint32),
        "epoch": np.zeros(size, np.int32),
    }


def trained(option: Option, params: dict | None = None) -> tuple[np.ndarray, dict, dict]:
    """Losses of a few updates, and the learner's parameters before and after, unrolled.

    `params`: what it starts from; fresh parameters by default.
    """
    learner = replace(PLAIN, **option.changes)
    place = jax.default_device(jax.devices(option.platform)[0]) if option.platform else None
    with place or contextlib.nullcontext():
        built = experiment(learner, option.dtype)
        before = params
        if before is None:  # With a head that is not zero, so that every parameter has a gradient.
            before = built.init_learner(jax.random.key(0))
            kernel = jax.random.normal(jax.random.key(1), before["head"]["kernel"].shape)
            before = jax.device_get(before | {"head": before["head"] | {"kernel": kernel}})
        start = stack_blocks(before) if learner.scan else before
        state = init_state(built.recipe, jax.random.key(0), start)
        step, batch = jax.jit(partial(uniform_step, built.recipe)), batch_of(B)
        losses = []
        for _ in range(STEPS):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    after = jax.device_get(state.learner.params)
    return np.array(losses), before, unstack_blocks(after) if learner.scan else after


def check(options: Sequence[Option] = OPTIONS) -> Iterator[dict]:
    """Compares each option with the plain float32 step.

    Yields the differences and whether they are within tolerance (`ok`), or why the option cannot
    run here (`ok` None).
    """
    with jax.default_matmul_precision("highest"):  # TF32 is not float32.
        yield from _check(options)


def _check(options: Sequence[Option]) -> Iterator[dict]:
    losses, before, after = trained(Option("plain", {}))
    length = lambda tree: float(optax.tree.norm(tree))
    moved = length(jax.tree.map(np.subtract, after, before))
    for option in options:
        row = {"option": option.name, "tolerance": {"loss": option.loss, "update": option.update}}
        try:
            ours, _, theirs = trained(option, before)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            yield row | {"ok": None, "why": str(error).splitlines()[0][:120]}
            continue
        gap = length(jax.tree.map(np.subtract, theirs, after)) / moved
        worst = {"loss": float(np.abs(ours / losses - 1).max()), "update": gap}
        within = worst["loss"] <= option.loss and worst["update"] <= option.update
        yield row | {"ok": within, "difference": worst}


def check_step() -> Iterator[dict]:
    """The fused step against select_step and train_on_selection, and take_sharded against x[i]."""
    with jax.default_matmul_precision("highest"):
        select = Select(policy=policies.learnability, ratio=RATIO)
        built = experiment(PLAIN, select=select)
        recipe, batch = built.recipe, batch_of(B * RATIO)
        parts = [built.init_learner(jax.random.key(0))]
        parts += [built.init_scorer(jax.random.key(seed)) for seed in (1, 2)]
        step = jax.jit(partial(train_step, recipe))
        # The rate of the first update is 0: the second one is compared.
        state, _ = step(init_state(recipe, jax.random.key(0), *parts), batch)
        fused, (_, chosen) = step(state, batch)
        selected, again = jax.jit(partial(select_step, recipe))(state, batch)
        apart, _ = jax.jit(partial(train_on_selection, recipe))(selected, batch, again)
    same = bool(np.array_equal(chosen.indices, again.indices))
    yield {"option": "same selection in one program and in two", "ok": same}
    ids = np.asarray(batch["id"])[np.asarray(chosen.indices)]
    distinct = len(np.unique(np.asarray(chosen.indices))) == B
    ok = distinct and bool(np.array_equal(ids, chosen.ids))
    yield {"option": "ids of the selected rows, all distinct", "ok": ok}
    yield compared("one program against two", fused, apart, state)
    mesh = sharding.make_mesh(jax.devices())
    on_all = jax.device_put(batch, sharding.batch_sharding(mesh))
    indices = homes.home_first(chosen.indices, B * RATIO, mesh.size)
    taken = jax.jit(partial(sharding.take_sharded, mesh=mesh))(on_all, indices)
    equal = jax.tree.map(lambda x, y: np.array_equal(x[np.asarray(indices)], y), batch, taken)
    yield {"option": "take_sharded equals x[indices]", "ok": all(jax.tree.leaves(equal))}


def compared(name: str, one: object, other: object, start: object) -> dict:
    """Distance of two learners over the way that the first has come."""
    norm = lambda x, y: float(
        optax.tree.norm(jax.tree.map(np.subtract, *map(jax.device_get, (x, y))))
    )
    learner = lambda state: state.learner.params
    gap = norm(learner(one), learner(other)) / norm(learner(one), learner(start))
    tolerance = {"update": 1e-3}
    return {
        "option": name, "tolerance": tolerance, "ok": gap <= 1e-3, "difference": {"update": gap},
    }  # fmt: skip


def run(scale: str, deadline: float, save: Callable) -> dict:
    """All checks that fit into the time; `ok` when none failed except fused attention."""
    result: dict = {"rows": [], "skipped": []}
    for row in chain(check_step(), check(OPTIONS[-2:] if scale == "smoke" else OPTIONS)):
        result["rows"].append(row)
        save(result)
        if time.monotonic() > deadline:
            result["skipped"].append("the checks after these: no time left")
            break
    rows = result["rows"]
    result["ok"] = all(row["ok"] is not False for row in rows if row["option"] != FUSED)
    result["fused_attention"] = any(row["option"] == FUSED and row["ok"] for row in rows)
    save(result)
    return result


def line(row: dict) -> str:
    """One check as a line."""
    if row["ok"] is None:
        return f"{row['option']:24s} not here: {row['why']}"
    metrics = ", ".join(
        f"{name} {value:.1e} (at most {row['tolerance'][name]:.0e})"
        for name, value in row.get("difference", {}).items()
    )
    return f"{row['option']:24s} {'ok' if row['ok'] else 'WRONG'}{': ' if metrics else ''}{metrics}"


def lines(result: dict) -> Iterator[str]:
    """All checks as lines."""
    yield from map(line, result["rows"])
    yield from (f"skipped: {why}" for why in result["skipped"])

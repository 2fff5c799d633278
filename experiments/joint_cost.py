"""What joint selection costs an update, in FLOPs and in time: two passes, stored reference with the
learner's forward pass reused, two resolutions, and small proxies (`experiments.bench_joint`).

All steps run in turns in one process on the same random pairs; each is divided by the uniform step
of its round. With F a forward pass of b pairs and ratio r, the arithmetic of a uniform step is 3F:

    two passes, live reference    r F (learner) + r F (reference) + 3 F
    stored reference, reuse       r F + 2 F
    Flexi, stored reference       r L + 3 (F + L) / 2, with L a pass at the low resolution
    small proxies                 3 F + 2 r P + 3 P, with P a pass of a proxy
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from active_learning.core import policies, resolution
from active_learning.core.optim import Optim
from active_learning.core.recipe import Model, Recipe, init_state
from active_learning.core.sharding import aot_compile
from active_learning.core.step import train_step, uniform_step
from active_learning.cost import ledger
from active_learning.cost.flops import Cost
from active_learning.models import Text, TwoTower, ViT
from active_learning.models.flexi import at_patch
from active_learning.settings import Pairs
from active_learning.tasks import View
from experiments.bench_step import interleaved, step_on

HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Size:
    """Models and batch to time."""

    learner: TwoTower
    proxy: TwoTower
    side: int
    low_patch: int
    b: int
    ratio: int = 5


def towers(width: int, depth: int, patch: int, text_depth: int, context: int) -> TwoTower:
    heads = max(1, width // 32)
    text = Text(vocab=512, context=context, width=width, depth=text_depth, heads=heads)
    image = ViT(width=width, depth=depth, heads=heads, patch=patch)
    return TwoTower(image, text, image_out=0, text_out=0)


SIZES = {
    "smoke": Size(towers(32, 1, 4, 1, 8), towers(16, 1, 8, 1, 8), 16, 8, 16),
    "cpu": Size(towers(128, 4, 4, 1, 16), towers(32, 1, 8, 1, 16), 32, 8, 64),
}


@dataclass(frozen=True)
class Arm:
    """One way to train, with its charge and the arithmetic that it is held against."""

    recipe: Recipe
    costs: dict[str, float]
    arithmetic: float
    stored: bool = False


def model_of(module: TwoTower, size: Size) -> Model:
    pixels = (0.5,) * 3
    view = View((size.side, size.side, 3), pixels, pixels, context=module.text.context)
    return Pairs().model(module, view, Optim().make(1, 1000))


def arms_of(size: Size) -> dict[str, Arm]:
    shape, r, b = (size.side, size.side, 3), size.ratio, size.b
    full, small = model_of(size.learner, size), model_of(size.proxy, size)
    low_module = at_patch(size.learner, size.low_patch)
    flexi = resolution.mixed(full, model_of(low_module, size), HALF)
    cost, low, proxy = (m.cost(shape) for m in (size.learner, low_module, size.proxy))
    charge = partial(ledger.step_costs, b=b, ratio=r)
    f, coarse, p = cost.forward, low.forward, proxy.forward
    base = Recipe(full, sub_batch_size=b)
    joint = replace(base, scorer=full, policy=policies.joint_learner)
    fused = replace(joint, policy=policies.joint_learner_fused)
    needs, both = policies.joint_learner.needs, (0.5 * cost + 0.5 * low, cost)
    return {
        "uniform": Arm(base, charge(cost, proxy, ()), 1.0),
        "two passes, live reference": Arm(joint, charge(cost, cost, needs), (2 * r + 3) / 3),
        "stored reference, reuse": Arm(
            fused, charge(cost, cost, needs, references=0, reuse=True), (r + 2) / 3, stored=True
        ),
        "Flexi, stored reference": Arm(
            replace(joint, learner=flexi),
            charge(*both, needs, references=0, learner_scores=low),
            (r * coarse + 1.5 * (f + coarse)) / (3 * f),
            stored=True,
        ),
        "small proxies": Arm(
            replace(base, scorer=small, policy=policies.joint),
            charge(cost, proxy, policies.joint.needs),
            (3 * f + (2 * r + 3) * p) / (3 * f),
        ),
    }


def batch_of(size: Size, stored: bool, seed: int = 0) -> dict[str, jax.Array]:
    """Random pairs, with embeddings of a reference where they are stored."""
    rng, count = np.random.default_rng(seed), size.b * size.ratio
    width, text = size.learner.image.width, size.learner.text
    batch = {
        "image": rng.integers(0, 256, (count, size.side, size.side, 3)).astype(np.uint8),
        "tokens": rng.integers(1, text.vocab, (count, text.context)).astype(np.int32),
        "id": np.stack([np.zeros(count), np.arange(count)], axis=1).astype(np.uint32),
        "epoch": np.zeros(count, np.int32),
    }
    if stored:
        for name in ("image", "text"):
            rows = rng.normal(size=(count, width)).astype(np.float32)
            batch[f"reference_{name}"] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        batch["reference_scale"] = np.full(count, 10.0, np.float32)
        batch["reference_bias"] = np.full(count, -10.0, np.float32)
    return jax.device_put(batch)


def step_of(arm: Arm, size: Size) -> Callable[[], Any]:
    """The compiled step of an arm on its own state."""
    image = jnp.zeros((1, size.side, size.side, 3))
    tokens = jnp.zeros((1, size.learner.text.context), jnp.int32)
    init = lambda module, key: module.init(jax.random.key(key), image, tokens)["params"]
    needs, recipe = arm.recipe.policy.needs, arm.recipe
    scorer = size.proxy if "online" in needs else size.learner
    state = init_state(
        recipe,
        jax.random.key(0),
        init(size.learner, 1),
        init(scorer, 2) if "online" in needs else None,
        init(scorer, 3) if "reference" in needs and not arm.stored else None,
    )
    batch, step = batch_of(size, arm.stored), train_step
    if not needs:
        batch, step = {name: rows[: size.b] for name, rows in batch.items()}, uniform_step
    return step_on(aot_compile(partial(step, recipe), state, batch), state, batch)


def measure(size: Size, rounds: int, names: tuple[str, ...] = ()) -> dict:
    """FLOPs and time of the arms `names` (empty: all) over a uniform step's."""
    arms = {name: arm for name, arm in arms_of(size).items() if not names or name in names}
    steps = {name: step_of(arm, size) for name, arm in arms.items()}
    cpu: dict[str, list[float]] = {}
    seconds = interleaved(steps, rounds, 1, cpu)
    uniform = ledger.total(arms["uniform"].costs)
    over = lambda times, name: float(np.median(np.array(times[name]) / np.array(times["uniform"])))
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "b": size.b,
        "ratio": size.ratio,
        "low_over_full_pass": at_patch(size.learner, size.low_patch)
        .cost((size.side, size.side, 3))
        .forward
        / _forward(size),
        "rounds": rounds,
        "uniform_ms": 1e3 * float(np.median(seconds["uniform"])),
        "arms": {
            name: {
                "arithmetic": arm.arithmetic,
                "flops": ledger.total(arm.costs) / uniform,
                "time": over(seconds, name),
                "cpu_time": over(cpu, name),
            }
            for name, arm in arms.items()
        },
    }


def _forward(size: Size) -> float:
    cost: Cost = size.learner.cost((size.side, size.side, 3))
    return cost.forward


def lines(result: dict) -> list[str]:
    """The table."""
    out = [
        f"b {result['b']}, ratio {result['ratio']}, {result['device']}, uniform "
        f"{result['uniform_ms']:.0f} ms; over a uniform step:",
        f"{'':28s} {'arithmetic':>10s} {'FLOPs':>8s} {'time':>8s} {'CPU time':>9s}",
    ]
    for name, row in result["arms"].items():
        out.append(
            f"{name:28s} {row['arithmetic']:10.0%} {row['flops']:8.0%} {row['time']:8.0%} "
            f"{row['cpu_time']:9.0%}"
        )
    return out

"""Parts 3 and 4: times of an update with selection over one without, at the paper's sizes.

Images, labels and tokens are random; only times are read. Everything of a case is compiled at once
in threads, then timed in turns.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from active_learning.core import policies
from active_learning.core.step import select_step, train_step, uniform_step
from active_learning.cost import flops, ledger
from active_learning.data.sources.shapes import Shapes
from active_learning.models import Text, TwoTower, ViT
from active_learning.models.vit import VARIANTS
from active_learning.plan.abstract import abstract_batch, build_abstract
from active_learning.settings import Config, Select
from active_learning.tasks import Labels, Pairs
from active_learning.train.build import Experiment, first_state
from experiments.bench_step import interleaved
from experiments.gpu_parts.resident import compile_all


@dataclass(frozen=True)
class Case:
    """A learner with scorers, and the policies whose updates are timed beside uniform ones."""

    name: str
    config: Config
    pixels: int
    compared: tuple[policies.Policy, ...] = (policies.learnability,)
    # Seconds that compiling and timing are expected to take.
    seconds: float = 45.0


def config_of(learner: Any, scorer: Any, b: int, chunk: int, dtype: str, task: Any) -> Config:
    """Ratio 4; accuracy does not matter here."""
    return Config(
        data=Shapes(),
        learner=learner,
        scorer=scorer,
        batch_size=b,
        total="1000 steps",
        dtype=dtype,
        task=task,
        select=Select(policy=policies.learnability, ratio=4, score_chunk=chunk),
    )


def vit(variant: str, attention: str, **changes: Any) -> ViT:
    """A published size at patch 16; traced as one block, so that it compiles quickly."""
    return ViT(**VARIANTS[variant], patch=16, attention=attention, **({"scan": True} | changes))


def tower(variant: str, attention: str) -> TwoTower:
    """A SigLIP of one size: 64 tokens, a vocabulary of 32,000."""
    text = Text(**VARIANTS[variant], vocab=32_000, context=64, pool="last", scan=True)
    image = vit(variant, attention, pool="map")
    return TwoTower(image, text, image_out=0, text_out=VARIANTS[variant]["width"])


def vit_cases(scale: str, attention: str) -> tuple[Case, ...]:
    if scale == "smoke":
        tiny = ViT(width=8, depth=1, heads=1, patch=8)
        return (Case("tiny", config_of(tiny, tiny, 4, 0, "float32", Labels()), 16),)
    small = vit("Ti", attention)
    sizes = (("B", vit("B", attention, scan=False), 256), ("L", vit("L", attention), 128))
    return tuple(
        Case(
            f"ViT-{name}/16 with ViT-Ti scorers",
            config_of(learner, small, b, 256, "bfloat16", Labels()),
            224,
        )
        for name, learner, b in sizes
    )


def pair_cases(scale: str, attention: str) -> tuple[Case, ...]:
    both = (policies.learnability, policies.joint)
    if scale == "smoke":
        image, text = ViT(width=8, depth=1, heads=1, patch=8), Text(32, 4, 8, 1, 1)
        tiny = TwoTower(image, text, image_out=8, text_out=8)
        return (Case("tiny pairs", config_of(tiny, tiny, 16, 0, "float32", Pairs()), 16, both),)
    towers = tower("B", attention), tower("Ti", attention)
    config = config_of(*towers, 256, 256, "bfloat16", Pairs())
    return (Case("SigLIP B/16 with Ti scorers", config, 224, both),)


NAMES = {"learnability": "active", "joint": "JEST"}


def random_batch(experiment: Experiment, size: int) -> dict[str, jax.Array]:
    """A batch of the right shapes with random content."""
    rng, batch = np.random.default_rng(0), {}
    vocab = getattr(getattr(experiment.learner, "text", None), "vocab", 2)
    most = {"label": experiment.view.num_classes or 2, "tokens": vocab, "epoch": 1}
    for name, leaf in abstract_batch(experiment).items():
        shape = (size, *leaf.shape[1:])
        high = most.get(name, 256)
        batch[name] = jax.device_put(rng.integers(0, high, shape).astype(leaf.dtype), leaf.sharding)
    return batch


def programs(case: Case) -> tuple[dict[str, tuple], dict[str, dict[str, float]]]:
    """What is timed: by name a function, its state and its batch; and FLOPs of an update."""
    shape, devices = (case.pixels, case.pixels, 3), jax.devices()[:1]
    build = partial(
        build_abstract, image_shape=shape, classes=1000, examples=10**6, devices=devices
    )
    plain = build(case.config)
    b, recipe = case.config.batch_size, plain.recipe
    candidates = random_batch(plain, b * case.config.select.ratio)
    batch = jax.tree.map(lambda leaf: leaf[:b], candidates)
    make = lambda: first_state(plain, plain.init_scorer(jax.random.key(1)))
    jobs = {"uniform": (partial(uniform_step, recipe), make(), batch)}
    costs = {"uniform": plain.uniform_costs}
    for policy in case.compared:
        select = replace(case.config.select, policy=policy)
        own = build(replace(case.config, select=select))
        name = NAMES[policy.name]
        jobs[name] = (partial(train_step, own.recipe), make(), candidates)
        costs[name] = own.costs
    state = make()  # Of its own: the other programs donate theirs.
    online = replace(state, learner=state.online, online=None, reference=None)
    small = replace(recipe, learner=recipe.scorer)
    jobs["scoring"] = (partial(select_step, recipe), make(), candidates)
    jobs["online"] = (partial(uniform_step, small), online, batch)
    return jobs, costs


def timed(case: Case, rounds: int, repeats: int) -> dict:
    """Compiles the case, times it in turns and forms the quotients."""
    began = time.perf_counter()
    jobs, costs = programs(case)
    lowered = {
        name: jax.jit(function, donate_argnums=0).lower(state, batch)
        for name, (function, state, batch) in jobs.items()
    }
    built = time.perf_counter()
    compiled = compile_all(lowered)
    compile_seconds = time.perf_counter() - built
    calls = {
        name: stepper(compiled[name], state, batch) for name, (_, state, batch) in jobs.items()
    }
    seconds = interleaved(calls, rounds, repeats)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    work = {name: ledger.total(cost) for name, cost in costs.items()}
    peak = flops.PEAK_FLOPS.get(jax.devices()[0].device_kind)
    over = lambda name: np.median(np.array(seconds[name]) / np.array(seconds["uniform"]))
    alone = sum(np.array(seconds[name]) for name in ("uniform", "scoring", "online"))
    return {
        "case": case.name,
        "batch_size": case.config.batch_size,
        "ratio": case.config.select.ratio,
        "dtype": case.config.dtype,
        "setup_seconds": built - began,
        "compile_seconds": compile_seconds,
        "median_ms": {name: 1e3 * value for name, value in median.items()},
        "spread": {name: float(np.ptp(v) / np.median(v)) for name, v in seconds.items()},
        "over_uniform": {name: float(over(name)) for name in work},
        "flops_over_uniform": {name: work[name] / work["uniform"] for name in work},
        "efficiency": {name: float(over(name)) * work["uniform"] / work[name] for name in work},
        "integration": float(np.median(np.array(seconds["active"]) / alone)),
        "mfu": peak and {name: work[name] / median[name] / peak for name in work},
        "peak_gib": {name: peak_bytes(one) / 2**30 for name, one in compiled.items()},
        "rounds": rounds,
    }


def stepper(program: Any, state: Any, batch: Any) -> Callable[[], Any]:
    """A call that goes on from its own state on the same batch."""
    held = [state]

    def call() -> Any:
        held[0], rest = program(held[0], batch)
        return held[0], rest

    return call


def peak_bytes(program: Any) -> int:
    """Arguments, outputs and temporaries of a program, from the compiler."""
    memory = program.memory_analysis()
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return used + memory.temp_size_in_bytes


def run(cases: tuple[Case, ...], scale: str, deadline: float, save: Callable) -> dict:
    """Every case that fits into the time; one that fails leaves its reason."""
    rounds, repeats = (2, 1) if scale == "smoke" else (7, 3)
    result: dict[str, Any] = {"cases": [], "skipped": []}
    for case in cases:
        left = deadline - time.monotonic()
        if left < case.seconds:
            why = f"needs about {case.seconds:.0f} s, {max(left, 0):.0f} s left"
            result["skipped"].append({"case": case.name, "why": why})
            continue
        try:
            result["cases"].append(timed(case, rounds, repeats))
        except (RuntimeError, ValueError) as error:  # Out of memory, or not on this device.
            why = str(error).splitlines()[0][:300]
            result["skipped"].append({"case": case.name, "why": f"failed: {why}"})
        save(result)
    save(result)
    return result


def lines(result: dict) -> Iterator[str]:
    """The results as a short table."""
    for one in result["cases"]:
        times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in one["median_ms"].items())
        yield f"{one['case']}, b {one['batch_size']}, ratio {one['ratio']}: {times}"
        for name, ratio in one["over_uniform"].items():
            if name != "uniform":
                yield (
                    f"  {name}: {ratio:.3f} of a uniform update's time, "
                    f"{one['flops_over_uniform'][name]:.3f} of its FLOPs, efficiency quotient "
                    f"{one['efficiency'][name]:.3f}"
                )
        yield (
            f"  integration quotient {one['integration']:.3f}, largest spread "
            f"{max(one['spread'].values()):.0%}, compiled in {one['compile_seconds']:.0f} s"
        )
        if one["mfu"]:
            yield "  MFU: " + ", ".join(f"{name} {value:.1%}" for name, value in one["mfu"].items())
    for row in result["skipped"]:
        yield f"{row['case']} skipped: {row['why']}"

"""What selection costs in time: the active step against its parts and against its arithmetic, interleaved in one process.

    python -m experiments.bench_step [--preset=smoke|cpu|gpu] [--rounds 7] [--out runs/bench]

integration quotient = active / (uniform + scoring alone + online update alone): what putting them into one step costs;
efficiency quotient = (active / uniform) / the same ratio in FLOPs: what small models cost beyond their arithmetic.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from active_learning import policies
from active_learning.build import Run, build, first_state, loader_of
from active_learning.data.shapes import Shapes
from active_learning.models import ViT
from active_learning.models.vit import VARIANTS
from active_learning.select import gumbel_top_k
from active_learning.settings import Config, Select, Split
from active_learning.step import select_step, train_step, uniform_step

PEAKS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
}  # dense bf16, data sheets
CANDIDATES = 65_536


def vit(variant: str, patch: int) -> ViT:
    return ViT(**VARIANTS[variant], patch=patch)


def case(
    learner: ViT, scorer: ViT, b: int, size: int = 32, dtype: str = "float32", chunk: int = 0, train: int = 2000
) -> Config:
    """A config to time: drawn images, ratio 4; accuracy does not matter here."""
    return Config(
        data=Shapes(train=train, test=16, size=size),
        learner=learner,
        scorer=scorer,
        split=Split(),
        batch_size=b,
        total="1000 steps",
        dtype=dtype,
        select=Select(policy=policies.learnability, ratio=4, chunk=chunk),
    )


PRESETS: dict[str, Callable[[], dict[str, Config]]] = {
    "smoke": lambda: {
        "tiny": case(ViT(width=32, depth=1, heads=2, patch=8), ViT(width=16, depth=1, heads=1, patch=8), 16, train=200)
    },
    "cpu": lambda: {
        "width 128 / 32": case(
            ViT(width=128, depth=3, heads=4, patch=8), ViT(width=32, depth=2, heads=1, patch=8), 128, chunk=128
        )
    },
    "gpu": lambda: {
        f"ViT-{large} / ViT-{small}": case(vit(large, 16), vit(small, 16), 256, 224, "bfloat16", 256, 1500)
        for large, small in (("B", "Ti"), ("L", "Ti"), ("L", "S"))
    },
}


def steps_of(it: Run) -> dict[str, Callable[[], Any]]:
    """The four things to time, compiled: each call runs one step on its own state and returns what to wait for."""
    b, ratio = it.config.batch_size, it.config.select.ratio
    loader = loader_of(it, 0)
    candidates, batch = loader.next(b * ratio).batch, loader.next(b).batch
    loader.close()
    reference = it.task.init(it.scorer, jax.random.key(1))
    small = replace(it.recipe, learner=it.recipe.scorer)
    state = first_state(it, reference)

    def compiled(step, recipe, state, data, donate=True):
        run = jax.jit(partial(step, recipe), donate_argnums=0 if donate else ()).lower(state, data).compile()
        held = [state]

        def call():
            held[0], said = run(held[0], data)
            return held[0], said

        return call

    def fresh(learner_as_online=False):
        copy = jax.tree.map(lambda x: x.copy(), state)
        return replace(copy, learner=copy.online, online=None, reference=None) if learner_as_online else copy

    return {
        "uniform": compiled(uniform_step, it.recipe, fresh(), batch),
        "active": compiled(train_step, it.recipe, fresh(), candidates),
        "scoring": compiled(select_step, it.recipe, fresh(), candidates, donate=False),
        "online": compiled(uniform_step, small, fresh(learner_as_online=True), batch),
    }


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Seconds a call, round by round; the order turns from round to round, so that drift hits all alike."""
    for call in calls.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(rounds):
        names = list(calls)
        for name in names[n % len(names) :] + names[: n % len(names)]:
            began = time.perf_counter()
            for _ in range(repeats):
                last = calls[name]()
            jax.block_until_ready(last)
            seconds[name].append((time.perf_counter() - began) / repeats)
    return seconds


def quotients(seconds: dict[str, list[float]], flop_ratio: float) -> dict[str, float]:
    """Medians over rounds of the quotients within a round."""
    of = {name: np.array(values) for name, values in seconds.items()}
    integration = of["active"] / (of["uniform"] + of["scoring"] + of["online"])
    return {
        "integration": float(np.median(integration)),
        "active_over_uniform": float(np.median(of["active"] / of["uniform"])),
        "flop_ratio": flop_ratio,
        "efficiency": float(np.median(of["active"] / of["uniform"]) / flop_ratio),
    }


def scoring_memory(config: Config, ratio: int) -> int:
    """Temporary bytes of `select_step` at a ratio, from the compiler."""
    it = build(replace(config, select=replace(config.select, ratio=ratio)))
    state = first_state(it, it.task.init(it.scorer, jax.random.key(1)))
    loader = loader_of(it, 0)
    batch = loader.peek(config.batch_size * ratio).batch
    loader.close()
    return jax.jit(partial(select_step, it.recipe)).lower(state, batch).compile().memory_analysis().temp_size_in_bytes


def bench(name: str, config: Config, rounds: int, repeats: int) -> dict:
    it = build(config)
    seconds = interleaved(steps_of(it), rounds, repeats)
    flops = {"active": sum(it.costs.values()), "uniform": sum(it.uniform_costs.values())}
    figures = quotients(seconds, flops["active"] / flops["uniform"])
    median = {key: float(np.median(values)) for key, values in seconds.items()}
    peak = PEAKS.get(jax.devices()[0].device_kind)
    memory = {f"ratio {ratio}": scoring_memory(config, ratio) for ratio in (2, 10)} if config.select.chunk else {}
    return {
        "case": name,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "batch_size": config.batch_size,
        "ratio": config.select.ratio,
        "median_ms": {key: 1e3 * value for key, value in median.items()},
        "spread": {key: float(np.ptp(values) / np.median(values)) for key, values in seconds.items()},
        "mfu": {key: flops[key] / median[key] / peak / jax.device_count() for key in flops} if peak else None,
        "scoring_temporary_bytes": memory,
        "rounds": rounds,
        **figures,
    }


def selection_ms(rounds: int) -> float:
    """Median milliseconds of drawing 6,554 of 65,536 scores without replacement."""
    logits = jax.random.normal(jax.random.key(0), (CANDIDATES,))
    draw = jax.jit(lambda key: gumbel_top_k(key, logits, CANDIDATES // 10)).lower(jax.random.key(0)).compile()
    keys = iter(jax.random.split(jax.random.key(1), 10 * rounds + 1))
    return 1e3 * float(np.median(interleaved({"draw": lambda: draw(next(keys))}, rounds, 10)["draw"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=10, help="calls a round")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    cases = [bench(name, config, args.rounds, args.repeats) for name, config in PRESETS[args.preset]().items()]
    result = {"cases": cases, "selection_65536_ms": selection_ms(args.rounds)}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"bench_step_{args.preset}.json").write_text(json.dumps(result, indent=1) + "\n")
    for one in cases:
        times = "  ".join(f"{key} {value:.2f} ms" for key, value in one["median_ms"].items())
        print(f"{one['case']}: {times}")
        print(
            f"  integration {one['integration']:.3f}  efficiency {one['efficiency']:.3f} (time {one['active_over_uniform']:.3f}x, "
            f"FLOPs {one['flop_ratio']:.3f}x)  MFU {one['mfu']}  scoring's memory {one['scoring_temporary_bytes']}"
        )
    print(f"selecting from {CANDIDATES:,} scores: {result['selection_65536_ms']:.2f} ms")


if __name__ == "__main__":
    main()

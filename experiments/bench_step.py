"""What selection costs in time: the active step against its parts and against its arithmetic,
interleaved in one process.

    python -m experiments.bench_step [--preset=smoke|cpu|gpu] [--rounds 7] [--against=DIR]

integration quotient = active / (uniform + scoring alone + online update alone): what putting them
into one step costs; efficiency quotient = (active / uniform) / the same ratio in FLOPs: what small
models cost beyond their arithmetic. Shares of the named scopes come from a profile of the active
step, memory from the compiler.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from active_learning.core import policies
from active_learning.core.select import gumbel_top_k
from active_learning.core.sharding import aot_compile
from active_learning.core.step import select_step, train_step, uniform_step
from active_learning.cost import flops
from active_learning.data.sources.shapes import Shapes
from active_learning.models import ViT
from active_learning.models.vit import VARIANTS
from active_learning.plan.abstract import abstract_batch, build_abstract
from active_learning.settings import Config, Select, Split
from active_learning.train.build import Experiment, abstract_state, build, first_state
from experiments import against, scopes

CANDIDATES = 65_536


def vit(variant: str, patch: int, attention: str = "xla") -> ViT:
    return ViT(**VARIANTS[variant], patch=patch, attention=attention)


def case(
    learner: ViT,
    scorer: ViT,
    b: int,
    size: int = 32,
    dtype: str = "float32",
    chunk: int = 0,
    train: int = 2000,
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
        select=Select(policy=policies.learnability, ratio=4, score_chunk=chunk),
    )


def accelerator(attention: str) -> dict[str, Config]:
    """The paper's sizes at 224 px in bf16."""
    return {
        f"ViT-{large} / ViT-{small}": case(
            vit(large, 16, attention), vit(small, 16, attention), b, 224, "bfloat16", 256, 1500
        )
        for large, small, b in (
            ("B", "Ti", 256),
            ("L", "Ti", 128),
            ("L", "S", 128),
        )  # without remat within 80 GB
    }


PRESETS: dict[str, Callable[[], dict[str, Config]]] = {
    "smoke": lambda: {
        "tiny": case(
            ViT(width=32, depth=1, heads=2, patch=8),
            ViT(width=16, depth=1, heads=1, patch=8),
            16,
            chunk=16,
            train=200,
        )
    },
    "cpu": lambda: {
        "width 128 / 32": case(
            ViT(width=128, depth=3, heads=4, patch=8),
            ViT(width=32, depth=2, heads=1, patch=8),
            128,
            chunk=128,
        )
    },
    "gpu": lambda: accelerator("cudnn"),
    "gpu-unfused": lambda: accelerator("xla"),
}


@dataclass(frozen=True)
class Step:
    """A compiled step: its text and memory as the compiler says; each call runs it once on its own
    state and returns what to wait for.
    """

    text: str
    peak_bytes: int
    call: Callable[[], Any]

    def __call__(self) -> Any:
        return self.call()


def step_on(run: jax.stages.Compiled, state: Any, data: Any) -> Step:
    """A compiled step that goes on from its own state (donated) on the same data."""
    held, memory = [state], run.memory_analysis()

    def call():
        held[0], metrics = run(held[0], data)
        return held[0], metrics

    used = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Step(run.as_text(), used + memory.temp_size_in_bytes, call)


def steps_of(experiment: Experiment) -> dict[str, Step]:
    """The four things to time, compiled."""
    b, ratio = experiment.config.batch_size, experiment.config.select.ratio
    loader = experiment.loader(0)
    candidates, batch = loader.next(b * ratio).batch, loader.next(b).batch
    loader.close()
    small = replace(experiment.recipe, learner=experiment.recipe.scorer)
    state = first_state(experiment, experiment.init_scorer(jax.random.key(1)))
    copy = lambda: jax.tree.map(lambda x: x.copy(), state)
    online = replace(copy(), learner=copy().online, online=None, reference=None)
    scoring = jax.jit(partial(select_step, experiment.recipe)).lower(state, candidates).compile()
    return {
        "uniform": step_on(
            aot_compile(partial(uniform_step, experiment.recipe), state, batch), copy(), batch
        ),
        "active": step_on(
            aot_compile(partial(train_step, experiment.recipe), state, candidates),
            copy(),
            candidates,
        ),
        "scoring": step_on(scoring, state, candidates),
        "online": step_on(aot_compile(partial(uniform_step, small), online, batch), online, batch),
    }


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    repeats: int,
    cpu: dict[str, list[float]] | None = None,
) -> dict[str, list[float]]:
    """Seconds a call, round by round; the order turns from round to round, so that drift hits all
    alike. `cpu`: takes the seconds that this process's threads ran, which other processes on the
    machine do not lengthen.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(rounds):
        names = list(calls)
        for name in names[n % len(names) :] + names[: n % len(names)]:
            ran, began = time.process_time(), time.perf_counter()
            for _ in range(repeats):
                last = calls[name]()
            jax.block_until_ready(last)
            seconds[name].append((time.perf_counter() - began) / repeats)
            if cpu is not None:
                cpu.setdefault(name, []).append((time.process_time() - ran) / repeats)
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


def scoring_memory(experiment: Experiment, ratio: int) -> int:
    """Temporary bytes of `select_step` at a ratio, from the compiler."""
    config = replace(experiment.config, select=replace(experiment.config.select, ratio=ratio))
    view, devices = experiment.view, list(experiment.mesh.devices.flat)
    experiment = build_abstract(config, view.image_shape, view.num_classes, 10**6, devices)
    step = jax.jit(partial(select_step, experiment.recipe)).lower(
        abstract_state(experiment), abstract_batch(experiment)
    )
    return step.compile().memory_analysis().temp_size_in_bytes


def bench(name: str, config: Config, rounds: int, repeats: int) -> dict:
    experiment = build(config)
    steps = steps_of(experiment)
    cpu: dict[str, list[float]] = {}
    seconds = interleaved(steps, rounds, repeats, cpu)
    work = {
        "active": sum(experiment.costs.values()),
        "uniform": sum(experiment.uniform_costs.values()),
    }
    metrics = quotients(seconds, work["active"] / work["uniform"])
    metrics["cpu"] = quotients(cpu, work["active"] / work["uniform"])
    median = {key: float(np.median(values)) for key, values in seconds.items()}
    peak = flops.PEAK_FLOPS.get(jax.devices()[0].device_kind)
    memory = (
        {f"ratio {ratio}": scoring_memory(experiment, ratio) for ratio in (2, 10)}
        if config.select.score_chunk
        else {}
    )
    return {
        "case": name,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "batch_size": config.batch_size,
        "ratio": config.select.ratio,
        "median_ms": {key: 1e3 * value for key, value in median.items()},
        "spread": {
            key: float(np.ptp(values) / np.median(values)) for key, values in seconds.items()
        },
        "flops_per_second": {key: work[key] / median[key] for key in work},
        "mfu": {key: work[key] / median[key] / peak / jax.device_count() for key in work}
        if peak
        else None,
        "shares": scopes.shares(steps["active"].text, steps["active"], repeats),
        "peak_bytes": {key: step.peak_bytes for key, step in steps.items()},
        "scoring_temporary_bytes": memory,
        "rounds": rounds,
        **metrics,
    }


def selection_ms(rounds: int) -> float:
    """Median milliseconds of drawing 6,554 of 65,536 scores without replacement."""
    logits = jax.random.normal(jax.random.key(0), (CANDIDATES,))
    draw = (
        jax.jit(lambda key: gumbel_top_k(key, logits, CANDIDATES // 10))
        .lower(jax.random.key(0))
        .compile()
    )
    keys = iter(jax.random.split(jax.random.key(1), 10 * rounds + 1))
    return 1e3 * float(
        np.median(interleaved({"draw": lambda: draw(next(keys))}, rounds, 10)["draw"])
    )


def vit_b_share(milliseconds: float, rate: float) -> float:
    """Selecting from 65,536 over a ViT-B/16 update at b = 4,096 (224 px), at the FLOP/s that the
    learner reaches here.
    """
    cost = replace(vit("B", 16), num_classes=1000).cost((224, 224, 3)).train
    return 1e-3 * milliseconds * rate / (4096 * cost)


def beside(checkout: Path | None, rounds: int) -> dict:
    """Our uniform ViT-Ti/16 step and big_vision's, in turns."""
    calls, why = against.steps(checkout)
    if not calls:
        return {"skipped": why}
    cpu: dict[str, list[float]] = {}
    seconds = {
        name: np.array(values) for name, values in interleaved(calls, rounds, 1, cpu).items()
    }
    return {
        "batch_size": against.BATCH,
        "median_ms": {name: 1e3 * float(np.median(values)) for name, values in seconds.items()},
        "spread": {
            name: float(np.ptp(values) / np.median(values)) for name, values in seconds.items()
        },
        "ours_over_theirs": float(np.median(seconds["ours"] / seconds["theirs"])),
        "ours_over_theirs_cpu": float(np.median(np.array(cpu["ours"]) / np.array(cpu["theirs"]))),
        "rounds": rounds,
    }


def table(result: dict) -> list[str]:
    """The figures as lines."""
    lines = []
    for one in result["cases"]:
        times = "  ".join(f"{key} {value:.2f} ms" for key, value in one["median_ms"].items())
        lines.append(f"{one['case']} on {one['device']}: {times}")
        lines.append(
            f"  integration {one['integration']:.3f}  efficiency "
            f"{one['efficiency']:.3f} (time {one['active_over_uniform']:.3f}x, "
            f"FLOPs {one['flop_ratio']:.3f}x)  largest spread {max(one['spread'].values()):.0%}"
        )
        cpu = one["cpu"]
        lines.append(
            f"  in CPU time: integration {cpu['integration']:.3f}  efficiency "
            f"{cpu['efficiency']:.3f} (time {cpu['active_over_uniform']:.3f}x)"
        )
        lines.append(
            "  shares of the active step: "
            + "  ".join(f"{name} {share:.1%}" for name, share in one["shares"].items())
        )
        if one["mfu"]:
            lines.append(
                "  MFU: " + "  ".join(f"{name} {value:.1%}" for name, value in one["mfu"].items())
            )
        peak, scoring = one["peak_bytes"], one["scoring_temporary_bytes"]
        lines.append(
            f"  memory: active {peak['active'] / 1e6:.0f} MB, uniform "
            f"{peak['uniform'] / 1e6:.0f} MB"
            + "".join(
                f", scoring at {name} {value / 1e6:.1f} MB" for name, value in scoring.items()
            )
        )
    lines.append(
        f"selecting from {CANDIDATES:,} scores: {result['selection_65536_ms']:.2f} ms, "
        f"{result['selection_over_vit_b_step']:.1e} of a ViT-B/16 update's time at b = 4,096"
    )
    text = result["big_vision"]
    if "skipped" in text:
        lines.append(f"big_vision: skipped, {text['skipped']}")
    else:
        lines.append(
            f"ViT-Ti/16, b {text['batch_size']}: {text['median_ms']['ours']:.0f} ms, "
            f"big_vision {text['median_ms']['theirs']:.0f} ms, "
            f"ours / theirs {text['ours_over_theirs']:.3f} "
            f"({text['ours_over_theirs_cpu']:.3f} in CPU time)"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=10, help="calls a round")
    parser.add_argument("--against", type=Path, help="folder of a big_vision checkout")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    result: dict = {"cases": [], "selection_65536_ms": selection_ms(args.rounds)}
    result["big_vision"] = beside(args.against, args.rounds)
    for name, config in PRESETS[args.preset]().items():
        result["cases"].append(bench(name, config, args.rounds, args.repeats))
        rate = result["cases"][0]["flops_per_second"]["uniform"]
        result["selection_over_vit_b_step"] = vit_b_share(result["selection_65536_ms"], rate)
        # After each case: what was measured is there when the time is up.
        (args.out / f"bench_step_{args.preset}.json").write_text(
            json.dumps(result, indent=1) + "\n"
        )
    print("\n".join(table(result)))


if __name__ == "__main__":
    main()

"""All that is measured on an accelerator, correctness first: one command, a short table last.

    python -m experiments.gpu [--scale=gpu|smoke] [--minutes 28] [--out runs/gpu]

1. correctness: the options that only an accelerator has (bf16, fused attention) and those that save
   memory (remat, scan) against the plain float32 step on the same batch, within stated tolerances;
   what fails is said, and fused attention is then left out;
2. `bench_step --preset=gpu`, about 15 minutes of which most is compilation; 3. `noise --scale=gpu`
   in what is left: it is hours, so it is stopped in time, keeps what it has, and the same command
   goes on with it. JSON and run folders go to a folder of OUT named after the device; the report of
   `noise --scale=gpu` also to experiments/results/noise_gpu_final.json (with the finished runs,
   packed, in a folder of that name) and docs/noise_gpu_final.png.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

from active_learning.core import sharding
from active_learning.core.recipe import init_state
from active_learning.core.step import uniform_step
from active_learning.models import ViT
from active_learning.models.transformer import stack_blocks, unstack_blocks
from active_learning.plan.abstract import build_abstract
from active_learning.settings import Optim, Select
from experiments.bench_step import case, table

LEAST = 60  # seconds: with less left nothing is started
PLAIN = ViT(width=32, depth=2, heads=2, patch=16)
B, SIZE, CLASSES, STEPS = 8, 32, 10, 3


@dataclass(frozen=True)
class Option:
    """A way to run the step that must say the same: changes of the learner, the compute type, and
    the tolerance of the learner's losses and of its way from the start (both relative, the latter
    in Euclidean length).
    """

    name: str
    changes: dict
    dtype: str = "float32"
    loss: float = 1e-5
    update: float = 1e-3


OPTIONS = (
    Option("remat full", {"remat": "full"}),
    Option("remat dots", {"remat": "dots"}),
    Option("scan", {"scan": True}),
    Option("bf16", {}, "bfloat16", loss=0.05, update=0.3),
    Option("bf16, fused attention", {"attention": "cudnn"}, "bfloat16", loss=0.05, update=0.3),
)


def trained(learner: ViT, dtype: str, params: dict | None = None) -> tuple[np.ndarray, dict, dict]:
    """Losses of a few updates on the same batch, and the learner's parameters before (default:
    fresh ones) and after, unrolled.
    """
    config = case(learner, PLAIN, B, dtype=dtype)
    config = replace(
        config, augment=False, select=Select(), optim=Optim(learning_rate=1e-2, warmup="0 steps")
    )
    it = build_abstract(config, (SIZE, SIZE, 3), CLASSES, 10**6, jax.devices()[:1])
    before = params
    if before is None:  # with a head that is not zero, so that every parameter has a gradient
        before = it.init_learner(jax.random.key(0))
        kernel = jax.random.normal(jax.random.key(1), before["head"]["kernel"].shape)
        before = before | {"head": before["head"] | {"kernel": kernel}}
    start = stack_blocks(before) if learner.scan else before
    state = init_state(it.recipe, jax.random.key(0), start)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (B, SIZE, SIZE, 3)).astype(np.uint8),
        "label": rng.integers(0, CLASSES, B).astype(np.int32),
    }
    step, losses = sharding.aot_compile(partial(uniform_step, it.recipe), state, batch), []
    for _ in range(STEPS):
        state, figures = step(state, batch)
        losses.append(float(figures["loss"]))
    after = state.learner.params
    return (
        np.array(losses),
        jax.device_get(before),
        jax.device_get(unstack_blocks(after) if learner.scan else after),
    )


def check(options=OPTIONS) -> Iterator[dict]:
    """Each option beside the plain float32 step: differences, whether they are within tolerance, or
    why it cannot run here.
    """
    with jax.default_matmul_precision("highest"):  # TF32 is no float32
        yield from _check(options)


def _check(options) -> Iterator[dict]:
    losses, before, after = trained(PLAIN, "float32")
    length = lambda tree: float(optax.tree.norm(tree))
    moved = length(jax.tree.map(np.subtract, after, before))
    for option in options:
        row = {"option": option.name, "tolerance": {"loss": option.loss, "update": option.update}}
        try:
            ours, _, theirs = trained(replace(PLAIN, **option.changes), option.dtype, before)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            yield row | {"ok": None, "why": str(error).splitlines()[0][:120]}
            continue
        gap = length(jax.tree.map(np.subtract, theirs, after)) / moved
        worst = {"loss": float(np.abs(ours / losses - 1).max()), "update": gap}
        yield row | {
            "ok": worst["loss"] <= option.loss and worst["update"] <= option.update,
            "difference": worst,
        }


def said(row: dict) -> str:
    if row["ok"] is None:
        return f"{row['option']:24s} not here: {row['why']}"
    figures = ", ".join(
        f"{name} {value:.1e} (at most {row['tolerance'][name]:.0e})"
        for name, value in row["difference"].items()
    )
    return f"{row['option']:24s} {'ok' if row['ok'] else 'WRONG'}: {figures}"


def run(deadline: float, environment: dict[str, str], *command: str) -> str:
    """Runs a module until the deadline, then asks it to stop: what became of it."""
    left = deadline - time.monotonic()
    if left < LEAST:
        return "skipped: no time left"
    child = subprocess.Popen([sys.executable, "-m", *command], env=environment)
    try:
        code = child.wait(left)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        return f"stopped after {left / 60:.0f} minutes; what is finished is kept"
    return "done" if code == 0 else f"failed with exit code {code}"


def summary(out: Path, preset: str, scale: str) -> Iterator[str]:
    """The figures of what was finished, as lines."""
    steps, report = (
        out / f"bench_step_{preset}.json",
        out / "noise" / scale / "final" / "report" / "report.json",
    )
    if steps.exists():
        yield from table(json.loads(steps.read_text()))
    if report.exists():
        yield json.loads(report.read_text())["headline"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=("gpu", "smoke"), default="gpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--minutes", type=float, default=28, help="of the device, for everything")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    environment = {"JAX_COMPILATION_CACHE_DIR": str(distributed.default_cache())} | os.environ
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = (
        "false"  # of this process alone: the memory is for those that it starts
    )
    kind = jax.devices()[0].device_kind
    out = args.out / re.sub(r"[^a-z0-9]+", "-", kind.lower())
    out.mkdir(parents=True, exist_ok=True)
    rows = list(check())
    (out / "correctness.json").write_text(
        json.dumps({"device": kind, "rows": rows}, indent=1) + "\n"
    )
    print("\n".join(map(said, rows)), flush=True)
    if any(row["ok"] is False for row in rows if "fused" not in row["option"]):
        sys.exit("a step is wrong on this device: nothing is timed")
    fused = rows[-1]["ok"] is True
    preset = "smoke" if args.scale == "smoke" else "gpu" if fused else "gpu-unfused"
    rounds = "2" if args.scale == "smoke" else str(args.rounds)
    became = {
        name: run(deadline, environment, f"experiments.{name}", *options)
        for name, options in {
            "bench_step": (f"--preset={preset}", "--rounds", rounds, "--out", str(out)),
            "noise": (f"--scale={args.scale}", "--out", str(out / "noise")),
        }.items()
    }
    print(f"\n{kind}\n" + "\n".join(map(said, rows)))
    print(
        "\n".join(
            [
                *(f"{name}: {what}" for name, what in became.items()),
                *summary(out, preset, args.scale),
            ]
        )
    )
    if any(what.startswith("failed") for what in became.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()

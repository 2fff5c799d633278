"""All that is measured on one GPU, in parts that save their results as they go.

    python -m experiments.gpu [--minutes 9] [--parts correctness,regime,...] [--data DIR]
    python -m experiments.gpu --scale=smoke      # everything in miniature, on any device
    python -m experiments.gpu --list             # the plan, with expected seconds
    python -m experiments.gpu --pack FOLDER      # the data as files small enough to copy

correctness  the options of the step against plain float32; a wrong step ends the run
regime       ResNet-18 on CIFAR-10 with 40 % wrong human labels, data and augmentation on the
             device: uniform training, the recipe, filtering first, controls; raw and averaged
             weights
quotients    time of an update with selection over one without, ViT-B/16 and L/16 at 224 px, MFU
pairs        the same for image-text pairs: ActiveCLIP and JEST

Each part has a share of `--minutes`; time that one part does not use goes to the next, and what no
longer fits is skipped and listed as skipped. Results: OUT/<part>.json and OUT/summary.txt.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax

from active_learning.distributed import enable_compilation_cache
from experiments.gpu_parts import arms, correctness, packed, regime, steps, table


@dataclass(frozen=True)
class Context:
    """What a part gets to know."""

    scale: str
    data: Path | None
    out: Path
    # Of the part, as time.monotonic() counts.
    deadline: float
    save: Callable[[dict], None]

    def result(self, part: str) -> dict:
        """What an earlier part saved; empty where it did not run."""
        path = self.out / f"{part}.json"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def attention(self) -> str:
        """Fused attention where the correctness part found it correct."""
        fused = self.result("correctness").get("fused_attention", False)
        return "cudnn" if fused else "xla"


@dataclass(frozen=True)
class Part:
    """A part of the plan."""

    name: str
    run: Callable[[Context], dict]
    lines: Callable[[dict], Iterator[str]]
    # Expected seconds at the full scale, and the least that it is started with.
    seconds: float
    least: float


def run_correctness(context: Context) -> dict:
    return correctness.run(context.scale, context.deadline, context.save)


def run_regime(context: Context) -> dict:
    if context.data is None and context.scale != "smoke":
        raise FileNotFoundError("no data: give its folder with --data or ACTIVE_LEARNING_DATA")
    small = context.scale == "smoke"
    sets = packed.drawn(200, 50) if small else packed.read(context.data)
    return regime.run(context.scale, *sets, context.deadline, context.save)


def run_steps(cases: Callable[[str, str], tuple[steps.Case, ...]], context: Context) -> dict:
    chosen = cases(context.scale, context.attention)
    return steps.run(chosen, context.scale, context.deadline, context.save)


PARTS = (
    Part("correctness", run_correctness, correctness.lines, 60, 20),
    Part("regime", run_regime, table.lines, 300, 90),
    Part("quotients", partial(run_steps, steps.vit_cases), steps.lines, 120, 60),
    Part("pairs", partial(run_steps, steps.pair_cases), steps.lines, 60, 60),
)


def plan(parts: tuple[Part, ...], minutes: float) -> dict[str, float]:
    """Seconds after the start at which each part must end: its share of the minutes, cumulated."""
    total, ends, end = sum(part.seconds for part in parts), {}, 0.0
    for part in parts:
        end += part.seconds / total * 60 * minutes
        ends[part.name] = end
    return ends


def device() -> dict[str, Any]:
    """What the results were measured on."""
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
    }


def run_parts(
    parts: tuple[Part, ...], scale: str, data: Path | None, out: Path, minutes: float
) -> bool:
    """Runs the parts in turn; returns whether none failed."""
    began, ends, good = time.monotonic(), plan(parts, minutes), True
    about = device()
    print(about["device"], flush=True)
    for part in parts:
        started = time.monotonic()
        deadline = began + ends[part.name] if scale == "gpu" else float("inf")
        save = partial(save_result, out / f"{part.name}.json", about, started)
        left = deadline - started
        if left < min(part.least, 0.5 * part.seconds):
            save({"skipped_part": f"needs {part.least:.0f} s, {max(left, 0):.0f} s left"})
            print(f"{part.name}: skipped, {max(left, 0):.0f} s left", flush=True)
            continue
        try:
            result = part.run(Context(scale, data, out, deadline, save))
        except Exception as error:  # The parts after it do not depend on it.
            good = False
            kept = json.loads((out / f"{part.name}.json").read_text()) if _saved(save) else {}
            save(kept | {"failed": f"{type(error).__name__}: {error}"[:2000]})
            print(f"{part.name}: failed: {type(error).__name__}: {error}", flush=True)
            if scale == "smoke":
                raise
            continue
        print(f"\n{part.name}, {time.monotonic() - started:.0f} s")
        print("\n".join(part.lines(result)), flush=True)
        if result.get("ok") is False:
            print("a step is wrong on this device: nothing is timed", flush=True)
            return False
    return good


def _saved(save: partial) -> bool:
    return save.args[0].exists()


def save_result(path: Path, about: dict[str, Any], started: float, result: dict) -> None:
    """Writes a part's result as far as it has come."""
    seconds = {"part_seconds": time.monotonic() - started}
    path.write_text(json.dumps(about | seconds | result, indent=1) + "\n")


def write_summary(out: Path) -> None:
    """The tables of all parts that saved a result, as text."""
    text = []
    for part in PARTS:
        path = out / f"{part.name}.json"
        if not path.exists():
            continue
        result = json.loads(path.read_text())
        text.append(f"{part.name}, {result['part_seconds']:.0f} s on {result['device']}")
        for key in ("failed", "skipped_part"):
            text += [f"{key}: {result[key]}"] if key in result else []
        if not {"failed", "skipped_part"} & result.keys():
            text += part.lines(result)
    (out / "summary.txt").write_text("\n".join(text) + "\n")


def show_plan(parts: tuple[Part, ...], minutes: float) -> None:
    """Prints the parts with their expected seconds and their share of the time."""
    before = 0.0
    for part in parts:
        end = plan(parts, minutes)[part.name]
        print(
            f"{part.name:12s} expected {part.seconds:4.0f} s, at least {part.least:3.0f} s, "
            f"gets {end - before:4.0f} s of {60 * minutes:.0f}"
        )
        before = end
    for arm in arms.ARMS if any(part.name == "regime" for part in parts) else ():
        print(f"  regime: {arm.name}, {arm.budget:.0%} of uniform's updates")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=("gpu", "smoke"), default="gpu")
    parser.add_argument("--minutes", type=float, default=9, help="for everything together")
    parser.add_argument("--parts", default=",".join(part.name for part in PARTS))
    parser.add_argument("--out", type=Path, help="default: $OUT, else runs/gpu")
    parser.add_argument("--data", type=Path, help="default: $ACTIVE_LEARNING_DATA")
    parser.add_argument("--list", action="store_true", help="print the plan, run nothing")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="pack the data, run nothing")
    parser.add_argument("--pack-mib", type=float, default=53, help="of each folder of --pack")
    args = parser.parse_args()
    names = args.parts.split(",")
    if unknown := set(names) - {part.name for part in PARTS}:
        parser.error(f"--parts: unknown {', '.join(sorted(unknown))}")
    parts = tuple(part for part in PARTS if part.name in names)
    given = os.environ.get("ACTIVE_LEARNING_DATA")
    data = args.data or (Path(given) if given else None)
    if args.list:
        show_plan(parts, args.minutes)
        return
    if args.pack:
        if data is None:
            parser.error("--pack needs the data: --data or ACTIVE_LEARNING_DATA")
        for folder, size in packed.write(args.pack, *packed.read(data), args.pack_mib):
            print(f"{folder}: {size / packed.MIB:.1f} MiB")
        return
    out = args.out or Path(os.environ.get("OUT", "runs/gpu"))
    out.mkdir(parents=True, exist_ok=True)
    enable_compilation_cache()
    good = run_parts(parts, args.scale, data, out, args.minutes)
    write_summary(out)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

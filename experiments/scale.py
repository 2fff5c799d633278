"""What holds beyond one machine, measured: object stores, large indices, many workers, pods.

    python -m experiments.scale --step=N [--scale=smoke|desk] [--out experiments/results]

Runs every part of a step (`experiments/scale_parts/stepN_*.py`); each writes a JSON file to --out
and says in its docstring what it does.
"""

import argparse
import importlib
from pathlib import Path

PARTS = Path(__file__).parent / "scale_parts"


def parts_of(step: int) -> list[str]:
    """Names of the modules that measure a step."""
    return [
        path.stem
        for path in sorted(PARTS.glob(f"step{step}*.py"))
        if not path.stem.removeprefix(f"step{step}")[:1].isdecimal()
    ]


def main(argv: list[str] | None = None) -> None:
    steps = sorted({int(path.stem[4:].partition("_")[0]) for path in PARTS.glob("step*.py")})
    parser = argparse.ArgumentParser("experiments.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--step", type=int, choices=steps, required=True)
    parser.add_argument("--scale", choices=("smoke", "desk"), default="desk")
    parser.add_argument("--out", type=Path, default=Path("experiments/results"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in parts_of(args.step):
        print(f"{name}:", flush=True)
        importlib.import_module(f"experiments.scale_parts.{name}").main(args.scale, args.out)


if __name__ == "__main__":
    main()

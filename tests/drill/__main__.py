"""`python -m tests.drill [--part=NAME ...] [--count=N] [--start=N] [--seed=N]
[--out=FOLDER] [--results=FILE]`.

Faults on purpose, through the public commands only. Prints one table; exits with 1 when anything
was not as promised (docs/reliability.md), after a line for each such case. The cases of a part are
the same for the same seed; --start and --count run a stretch of them, for one that failed.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.drill import bad_configs, bad_inputs, commands, damage, injections, kills
from tests.drill.table import Result, as_json, drill, table


@dataclass(frozen=True)
class Part:
    """A part of the drill: how many cases, what is right, and what makes the cases."""

    count: int
    promise: str
    cases: Callable


PARTS = {
    "kills": Part(50, "SIGKILL at any moment, ten kinds of runs: the same bits", kills.kills),
    "damage": Part(200, "damaged files: noticed, and repaired or named", damage.files),
    "stops": Part(12, "SIGTERM and Ctrl-C, two processes: saved, the same bits", kills.stops),
    "configs": Part(500, "bad values: one line that names the key", bad_configs.configs),
    "inputs": Part(1000, "damaged data: left out and counted, or one line", bad_inputs.inputs),
    "injections": Part(150, "mischief in a run folder: text in the report", injections.injections),
}


def parts(
    names: list[str], folder: Path, count: int = 0, seed: int = 0, jobs: int = 2, start: int = 0
) -> list[Result]:
    """Runs parts of the drill in `folder`; `count` cases of each from `start` on (0: all)."""
    straight = kills.Straight(folder)
    results = []
    for name in names:
        part = PARTS[name]
        where = {"configs": straight.data, "inputs": folder / "inputs"}.get(name, straight)
        every = part.cases(part.count, seed, where)
        cases = itertools.islice(every, start, start + count if count else None)
        results.append(drill(name, part.promise, cases, jobs, commands.close))
    return results


def main() -> int:
    """Prints what went wrong as it happens, and the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, default=[])
    parser.add_argument("--count", type=int, default=0, help="cases a part (default: all)")
    parser.add_argument("--start", type=int, default=0, help="the first case's number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder to work in; kept (default: a temporary)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="also write the table as JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        names = args.part or list(PARTS)
        results = parts(names, folder, args.count, args.seed, args.jobs, args.start)
    print(table(results))
    if args.results is not None:
        args.results.write_text(json.dumps(as_json(results), indent=1) + "\n")
    return int(any(result.faults for result in results))


if __name__ == "__main__":
    sys.exit(main())

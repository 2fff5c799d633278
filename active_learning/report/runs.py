"""Reads run folders into frozen values.

Whatever is missing, damaged or unfinished is a `RunError` whose message is one line.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from active_learning.cost.accounts import ACCOUNTS, RECOMPUTE
from active_learning.report.decisions import Decision, read_decisions, read_label_check
from active_learning.report.files import (
    MAX_METRICS_BYTES,
    RunError,
    get_count,
    get_float,
    get_object,
    get_text,
    number,
    parse,
    read_object,
    read_text,
)
from active_learning.report.setup import Setup, read_setup
from active_learning.report.text import clean

FILES = ("config.json", "metrics.jsonl", "summary.json")
CLOCKS = ("step", "examples", "candidates", "flops", "train_seconds")
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Reference:
    """The reference of a run: its accuracy, and what its training cost."""

    # In [0, 1]; None if unknown.
    accuracy: float | None
    flops: float
    seconds: float
    # Whether that cost is part of the run's own.
    charged: bool
    steps: float = 0.0


@dataclass(frozen=True)
class Run:
    """One finished run."""

    path: Path
    name: str
    seed: int
    total_steps: int
    baseline: bool
    # The lines of metrics.jsonl, in order.
    lines: tuple[dict, ...] = field(repr=False)
    final: dict
    # The whole run's FLOPs by account, and those of recomputation.
    flops: dict[str, float]
    examples: float
    candidates: float
    train_seconds: float
    # Updates during which selection was on; None if not recorded.
    window_steps: int | None
    reference: Reference | None
    device: str
    setup: Setup = field(default_factory=Setup)
    class_names: tuple[str, ...] = ()
    # What until='auto' decided, and what was known of the labels ("": nothing).
    decisions: tuple[Decision, ...] = ()
    label_check: str = ""
    config: dict = field(default_factory=dict, repr=False)
    # Update -> file of its score snapshot.
    snapshots: dict[int, Path] = field(default_factory=dict, repr=False)

    @property
    def total_flops(self) -> float:
        """FLOPs of the five accounts together."""
        return total_flops(self.flops)

    def final_value(self, metric: str) -> float | None:
        """Value at the end of the run: from the summary, else the last line that has it.

        None if it was never measured.
        """
        values = [self.final.get(metric), *(line.get(metric) for line in reversed(self.lines))]
        return next((v for v in map(number, values) if v is not None), None)


def total_flops(flops: Mapping[str, float]) -> float:
    """Sum the five accounts; recomputation is not one of them."""
    return float(sum(flops[account] for account in ACCOUNTS))


def load_runs(
    paths: Iterable[Path | str], step_seconds: dict[str, float] | None = None
) -> list[Run]:
    """Load every run at or under `paths`, each once, in a stable order.

    Args:
      paths: Run folders, or folders that hold run folders at any depth.
      step_seconds: If given, the runs' clocks are replaced, see `timed`.

    Raises:
      RunError: A folder holds no run or a damaged one, or two runs are of the same arm, budget
        and seed.
    """
    runs = [read_run(folder) for folder in find_folders(paths)]
    if step_seconds is not None:
        runs = [timed(run, step_seconds) for run in runs]
    seen: dict[tuple, Run] = {}
    for run in runs:
        key = (run.name, run.total_steps, run.seed)
        if key in seen:
            same = f"{run.name}, {run.total_steps} updates, seed {run.seed}"
            raise RunError(f"{run.path}: same arm, budget and seed as {seen[key].path} ({same})")
        seen[key] = run
    return sorted(runs, key=lambda run: (not run.baseline, run.name, run.total_steps, run.seed))


def find_folders(paths: Iterable[Path | str]) -> list[Path]:
    """Find run folders at or under `paths`.

    A folder with any file of a run is a run folder: a half-written run is refused, never skipped.
    """
    folders: dict[Path, Path] = {}
    for path in map(Path, paths):
        if "\0" in str(path) or not path.is_dir():
            raise RunError(f"{path}: no such folder")
        before = len(folders)
        already = False
        for folder, below, files in os.walk(path):
            below.sort()
            if any(name in files for name in FILES):
                below.clear()
                already |= Path(folder).resolve() in folders
                folders.setdefault(Path(folder).resolve(), Path(folder))
        if len(folders) == before and not already:
            raise RunError(
                f"{path}: no run folder here or below (a run folder holds {', '.join(FILES)})"
            )
    return list(folders.values())


def read_run(folder: Path) -> Run:
    """Read one run folder.

    Raises:
      RunError: A file is missing or damaged, a key is absent, or the run did not finish.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise RunError(f"{folder}: {name} is missing")
    config_file, summary_file = str(folder / "config.json"), str(folder / "summary.json")
    saved, summary = read_object(Path(config_file)), read_object(Path(summary_file))
    config = get_object(saved, "config", config_file)
    total = get_count(saved, "total_steps", config_file)
    if total == 0:
        raise RunError(f"{config_file}: 'total_steps' is 0")
    if summary.get("complete") is not True or get_count(summary, "step", summary_file) < total:
        raise RunError(
            f"{folder}: not finished ({summary.get('step', '?')} of {total} updates); rerun its "
            "command, or leave it out"
        )
    return Run(
        path=folder,
        name=clean(get_text(saved, "name", config_file)),
        seed=get_count(saved, "seed", config_file),
        total_steps=total,
        baseline=saved.get("baseline") is True,
        lines=_lines(folder / "metrics.jsonl"),
        final=get_object({"final": {}} | summary, "final", summary_file),
        flops=_flops(summary, summary_file),
        examples=get_float(summary, "examples", summary_file),
        candidates=get_float(summary, "candidates", summary_file),
        train_seconds=get_float(summary, "train_seconds", summary_file),
        window_steps=None
        if summary.get("window_steps") is None
        else get_count(summary, "window_steps", summary_file),
        reference=_reference(summary, summary_file),
        device=clean(summary.get("device") or "unknown", 100),
        setup=read_setup(config, config_file),
        class_names=_class_names(saved, config_file),
        decisions=read_decisions(summary, summary_file),
        label_check=read_label_check(summary, summary_file),
        config=config,
        snapshots={
            int(file.stem): file
            for file in sorted((folder / "snapshots").glob("*.npz"))
            if file.stem.isascii() and file.stem.isdecimal()
        },
    )


def timed(run: Run, seconds: dict[str, float]) -> Run:
    """Replace a run's clock by updates of each kind times the seconds of one.

    What a run itself measured depends on what else the machine did.

    Args:
      run: The run.
      seconds: Seconds per update by kind ("uniform", "active", "ahead", "reference", and "stored"
        where the reference's losses are read), measured in turns in one process, and those of
        fitting a "kernel" reference. NaN results where a run's kind was not measured.
    """
    window = run.window_steps or 0
    before = 0.0
    if run.reference is not None and run.reference.charged:
        before = run.reference.steps * seconds["reference"]
        if run.setup.reference_kind == "kernel":
            before = seconds.get("kernel", math.nan)
    selecting = seconds.get(_kind_in_window(run.setup), math.nan) if window else 0.0

    def clock(step: float | int) -> float:
        active = min(step, window)
        return before + active * selecting + (step - active) * seconds["uniform"]

    lines = tuple(line | {"train_seconds": clock(line["step"])} for line in run.lines)
    return replace(run, lines=lines, train_seconds=clock(run.total_steps))


def _kind_in_window(setup: Setup) -> str:
    """Kind of update while selection is on; "" if other models score than in those measured."""
    stored = setup.reference_kind == "kernel"
    known = stored or setup.reference_kind in ("trained", "loaded")
    if setup.scorers != {"online", "reference"} or not known:
        return ""
    if setup.schedule == "ahead":
        return "" if stored else "ahead"
    return "stored" if stored else "active"


def _lines(path: Path) -> tuple[dict, ...]:
    lines: list[dict] = []
    for n, row in enumerate(read_text(path, MAX_METRICS_BYTES).split("\n"), 1):
        if not row.strip():
            continue
        where = f"{path}: line {n}"
        line = parse(row, where)
        absent = [key for key in CLOCKS if not isinstance(line, dict) or key not in line]
        if absent:
            raise RunError(f"{where} has no {absent[0]!r}")
        line["flops"] = _flops(line, where)
        for key in ("step", "examples", "candidates", "train_seconds"):
            line[key] = get_float(line, key, where)
        if lines and line["step"] < lines[-1]["step"]:
            raise RunError(f"{where} goes back to update {line['step']:.0f}")
        lines.append(line)
    if not lines:
        raise RunError(f"{path}: empty")
    return tuple(lines)


def _flops(record: dict, where: str) -> dict[str, float]:
    flops = get_object(record, "flops", where)
    accounts = {account: get_float(flops, account, where) for account in ACCOUNTS}
    return accounts | {RECOMPUTE: number(flops.get(RECOMPUTE)) or 0.0}


def _reference(summary: dict, where: str) -> Reference | None:
    if summary.get("reference") is None:
        return None
    saved = get_object(summary, "reference", where)
    cost = {key: number(saved.get(key)) or 0.0 for key in ("flops", "seconds", "steps")}
    return Reference(number(saved.get("accuracy")), charged=saved.get("charged") is True, **cost)


def _class_names(saved: dict, where: str) -> tuple[str, ...]:
    names = saved.get("class_names") or []
    if not isinstance(names, list) or len(names) > MAX_CLASSES:
        raise RunError(f"{where}: 'class_names' is not a list of at most {MAX_CLASSES:,} names")
    return tuple(clean(name, 80) for name in names)

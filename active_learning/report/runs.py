"""Reads run folders into frozen values.

Whatever is missing, damaged or unfinished is a `RunError` whose text is one clear line.
"""

import json
import math
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

ACCOUNTS = ("learner_train", "online_score", "online_train", "reference_score", "reference_train")
FILES = ("config.json", "metrics.jsonl", "summary.json")
CLOCKS = ("step", "examples", "candidates", "flops", "train_seconds")


class RunError(ValueError):
    """A folder that cannot be reported on; the text names the folder and what is wrong, in one line."""


@dataclass(frozen=True)
class Reference:
    """The reference that a run was given: its own accuracy in [0, 1], and what its training cost (charged to the run or
    not).
    """

    accuracy: float | None
    flops: float
    seconds: float
    charged: bool
    steps: float = 0.0


@dataclass(frozen=True)
class Run:
    """One finished run. `lines`: metrics.jsonl in order; `flops`: by account, in all; `probes`: step -> file."""

    path: Path
    name: str
    seed: int
    total_steps: int
    baseline: bool
    lines: tuple[dict, ...] = field(repr=False)
    final: dict
    flops: dict[str, float]
    examples: float
    candidates: float
    train_seconds: float
    window_steps: int | None
    reference: Reference | None
    device: str
    class_names: tuple[str, ...] = ()
    config: dict = field(default_factory=dict, repr=False)
    probes: dict[int, Path] = field(default_factory=dict, repr=False)

    @property
    def total_flops(self) -> float:
        """The five accounts together."""
        return total_flops(self.flops)

    def setting(self, key: str, default=None):
        """A dotted key of the config; `default` where it was not written, as is a late key at its own."""
        value = self.config
        for name in key.split("."):
            value = value.get(name, default) if isinstance(value, dict) else default
        return value

    def final_value(self, metric: str) -> float | None:
        """The value at the end of the run: from the summary, else the last line that has it; None when it was never
        measured.
        """
        if number(self.final.get(metric)) is not None:
            return number(self.final[metric])
        return next((number(line[metric]) for line in reversed(self.lines) if metric in line), None)


@dataclass(frozen=True)
class Probe:
    """Scores (B,) of one super-batch and its n most and least preferred images (uint8 NHWC), with labels, truths (-1: unknown), scores; of
    image-text pairs also the captions (label and truth then say whose caption and whose image it is).
    """

    step: int
    scores: np.ndarray
    top: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    bottom: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    texts: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())  # of top and bottom


def number(value) -> float | None:
    """A finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def total_flops(flops: dict[str, float]) -> float:
    """Sum of the five accounts (recomputation has a column of its own and is not in it)."""
    return float(sum(flops[account] for account in ACCOUNTS))


def load_runs(
    paths: Iterable[Path | str], step_seconds: dict[str, float] | None = None
) -> list[Run]:
    """Every run under `paths` (run folders, or folders that hold run folders at any depth), each once, in a stable
    order; with `step_seconds` their clocks are `timed`.
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
    """Run folders at or under `paths`. A folder with any file of a run is one: a half-written run is refused, never
    skipped.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise RunError(f"{path}: no such folder")
        before = len(found)
        already = False
        for folder, below, files in os.walk(path):
            below.sort()
            if any(name in files for name in FILES):
                below.clear()
                already |= Path(folder).resolve() in found
                found.setdefault(Path(folder).resolve(), Path(folder))
        if len(found) == before and not already:
            raise RunError(
                f"{path}: no run folder here or below (a run folder holds {', '.join(FILES)})"
            )
    return list(found.values())


def read_run(folder: Path) -> Run:
    """One run folder. RunError: a file is missing or damaged, a key is absent, or the run did not finish."""
    for name in FILES:
        if not (folder / name).is_file():
            raise RunError(f"{folder}: {name} is missing")
    saved = _object(folder / "config.json")
    config = saved.get("config")
    if not isinstance(config, dict):
        raise RunError(f"{folder}/config.json: no 'config' object")
    summary = _object(folder / "summary.json")
    total = _integer(saved, "total_steps", folder / "config.json")
    if (
        summary.get("complete") is not True
        or _integer(summary, "step", folder / "summary.json") < total
    ):
        raise RunError(f"{folder}: not finished ({summary.get('step', '?')} of {total} updates)")
    lines = _lines(folder / "metrics.jsonl")
    return Run(
        path=folder,
        name=_name(saved, folder / "config.json"),
        seed=_integer(saved, "seed", folder / "config.json"),
        total_steps=total,
        baseline=saved.get("baseline") is True,
        lines=lines,
        final=summary["final"] if isinstance(summary.get("final"), dict) else {},
        flops=_flops(summary, folder / "summary.json"),
        examples=_float(summary, "examples", folder / "summary.json"),
        candidates=_float(summary, "candidates", folder / "summary.json"),
        train_seconds=_float(summary, "train_seconds", folder / "summary.json"),
        window_steps=_window(summary, folder / "summary.json"),
        reference=_reference(summary, folder / "summary.json"),
        device=str(summary.get("device") or "unknown"),
        class_names=tuple(map(str, saved.get("class_names") or config.get("class_names") or ())),
        config=config,
        probes={
            int(p.stem): p for p in sorted((folder / "probe").glob("*.npz")) if p.stem.isdigit()
        },
    )


def timed(run: Run, seconds: dict[str, float]) -> Run:
    """The run with the wall-clock that it has on a quiet machine: updates of each kind times the seconds of one ("uniform", "active",
    "ahead", "reference"), measured in turns in one process. What the run itself measured depends on what else ran beside it. NaN: updates
    of its kind were not measured.
    """
    window = run.window_steps or 0
    charged = run.reference is not None and run.reference.charged
    before = run.reference.steps * seconds["reference"] if charged else 0.0
    chosen = seconds.get(_kind_in_window(run), math.nan) if window else 0.0

    def clock(step: float | int) -> float:
        active = min(step, window)
        return before + active * chosen + (step - active) * seconds["uniform"]

    lines = tuple(line | {"train_seconds": clock(line["step"])} for line in run.lines)
    return replace(run, lines=lines, train_seconds=clock(run.total_steps))


def _kind_in_window(run: Run) -> str:
    """The kind of a run's updates while selection is on; "" where other models score than in those that are measured."""
    needs = run.setting("select.policy.needs", ("online", "reference"))
    if set(needs) != {"online", "reference"} or run.setting("reference.kind", "trained") not in (
        "trained",
        "loaded",
    ):
        return ""
    return "ahead" if run.setting("select.schedule") == "ahead" else "active"


def read_probe(step: int, path: Path) -> Probe:
    """One probe file. RunError when an array is missing or the file is damaged."""
    try:
        with np.load(path) as arrays:
            parts = ("image", "label", "truth", "score")
            top, bottom = (
                tuple(arrays[f"{part}_{side}"] for part in parts) for side in ("top", "bottom")
            )
            texts = (tuple(map(str, arrays.get(f"text_{side}", ()))) for side in ("top", "bottom"))
            return Probe(step, np.asarray(arrays["scores"], np.float64), top, bottom, tuple(texts))
    except (KeyError, OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path}: damaged probe ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from error


def probes_in_window(run: Run) -> list[Probe]:
    """The first and the last probe taken while selection was on: two, one (they are the same) or none."""
    steps = sorted(
        step for step in run.probes if run.window_steps is None or step <= run.window_steps
    )
    return [read_probe(step, run.probes[step]) for step in dict.fromkeys(steps[:1] + steps[-1:])]


def _object(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RunError(f"{path}: damaged ({str(error).splitlines()[0]})") from error
    if not isinstance(value, dict):
        raise RunError(f"{path}: damaged (not a JSON object)")
    return value


def _lines(path: Path) -> tuple[dict, ...]:
    lines: list[dict] = []
    try:
        text = path.read_text(encoding="utf-8").splitlines()
    except (ValueError, OSError) as error:
        raise RunError(f"{path}: damaged ({str(error).splitlines()[0]})") from error
    for n, row in enumerate(text, 1):
        try:
            line = json.loads(row)
        except ValueError as error:
            raise RunError(f"{path}: line {n} is damaged ({error})") from error
        absent = [key for key in CLOCKS if not isinstance(line, dict) or key not in line]
        if absent:
            raise RunError(f"{path}: line {n} has no {absent[0]!r}")
        line["flops"] = _flops(line, f"{path}: line {n}")
        for key in ("step", "examples", "candidates", "train_seconds"):
            line[key] = _float(line, key, f"{path}: line {n}")
        if lines and line["step"] < lines[-1]["step"]:
            raise RunError(f"{path}: line {n} goes back to update {line['step']:.0f}")
        lines.append(line)
    if not lines:
        raise RunError(f"{path}: empty")
    return tuple(lines)


def _flops(record: dict, where) -> dict[str, float]:
    flops = record.get("flops")
    if not isinstance(flops, dict):
        raise RunError(f"{where}: no 'flops' object")
    accounts = {account: _float(flops, account, where) for account in ACCOUNTS}
    return accounts | {"recompute": number(flops.get("recompute")) or 0.0}


def _reference(summary: dict, where) -> Reference | None:
    saved = summary.get("reference")
    if saved is None:
        return None
    if not isinstance(saved, dict):
        raise RunError(f"{where}: 'reference' is no object")
    cost = {key: number(saved.get(key)) or 0.0 for key in ("flops", "seconds", "steps")}
    return Reference(number(saved.get("accuracy")), charged=saved.get("charged") is True, **cost)


def _window(summary: dict, where) -> int | None:
    return None if summary.get("window_steps") is None else _integer(summary, "window_steps", where)


def _name(config: dict, where) -> str:
    if not isinstance(config.get("name"), str) or not config["name"]:
        raise RunError(f"{where}: no 'name'")
    return config["name"]


def _float(record: dict, key: str, where) -> float:
    value = number(record.get(key))
    if value is None:
        raise RunError(f"{where}: {key!r} is missing or no finite number")
    return value


def _integer(record: dict, key: str, where) -> int:
    value = _float(record, key, where)
    if value != int(value):
        raise RunError(f"{where}: {key!r} is no integer")
    return int(value)

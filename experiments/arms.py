"""Arms of an experiment: named configs x seeds, each run once, cached by its config's hash, resumable, summed before they start."""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from active_learning import train
from active_learning.config import config_hash
from active_learning.metrics import LOG
from active_learning.settings import Config


@dataclass(frozen=True)
class Arm:
    """One config at one budget (a share of the full run), for each of the seeds."""

    config: Config
    budget: float
    seeds: tuple[int, ...]

    @property
    def cost(self) -> float:
        """In full-length runs, without scoring."""
        return self.budget * len(self.seeds)

    def runs(self, out: Path) -> Iterable[tuple[Config, Path]]:
        for seed in self.seeds:
            config = replace(self.config, seed=seed)
            if config.reference.path:
                shared = f"{config.reference.path}-seed{seed}"
                config = replace(config, reference=replace(config.reference, path=str(out / "references" / shared)))
            slug = re.sub(r"[^a-z0-9.]+", "-", config.name.lower()).strip("-")
            yield config, out / "runs" / f"{slug}-{self.budget:.2f}-seed{seed}-{config_hash(config)}"


def show(arms: list[Arm]) -> None:
    """The list, with its sum of full-length runs."""
    for arm in arms:
        print(f"  {arm.config.name:40s} budget {arm.budget:5.0%}  seeds {len(arm.seeds)}")
    print(f"  {sum(arm.cost for arm in arms):.1f} full-length runs in all, references not counted")


def run_all(arms: list[Arm], out: Path) -> Iterator[list[Path]]:
    """Runs what is not complete yet, seed by seed, so that every arm has its first seed early. Yields the run folders after each seed."""
    todo = sorted((run for arm in arms for run in arm.runs(out)), key=lambda run: run[0].seed)
    folders, start = [], time.monotonic()
    for n, (config, folder) in enumerate(todo, 1):
        began = time.monotonic()
        summary = train.run(config, folder)
        if not summary["complete"]:
            raise SystemExit(f"stopped at {folder}; the same command continues it")
        spent, total = time.monotonic() - began, time.monotonic() - start
        accuracy = next(
            (v for k, v in summary["final"].items() if k.endswith(("_full/accuracy", "_full/recall"))), float("nan")
        )
        LOG.info("[%d/%d] %s: %.4f  (%.0f s, %.0f min so far)", n, len(todo), folder.name, accuracy, spent, total / 60)
        folders.append(folder)
        if n == len(todo) or todo[n][0].seed != config.seed:
            yield folders

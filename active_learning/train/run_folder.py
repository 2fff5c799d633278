"""A run's folder: claiming it, what it says about the run, and reading its config back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from active_learning.config import (
    FORMAT,
    ConfigError,
    config_hash,
    differences,
    from_json,
    hashed,
    kind_of,
    to_json,
)
from active_learning.cost.ledger import Ledger, total
from active_learning.metrics import write_atomic
from active_learning.references import Obtained
from active_learning.settings import Config
from active_learning.storage.mirror import FEATURES
from active_learning.train.build import Experiment


def init_workdir(workdir: Path, config: Config, about: dict[str, Any]) -> None:
    """Writes config.json, or checks that the folder belongs to this config, data and scores.

    Overwrites nothing but the config of a run that never began.

    Raises:
      ConfigError: Names what differs.
    """
    path, begun = workdir / "config.json", _has_begun(workdir)
    ours = {"format": FORMAT, "config": to_json(config), "hash": config_hash(config)} | about
    if not (path.exists() and begun):
        if begun:
            raise ConfigError(
                f"{workdir}: directory is not empty and has no config.json; refusing to use it "
                "as workdir"
            )
        workdir.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(ours, indent=1))
        return
    theirs = _read_config(workdir)
    if theirs["hash"] != ours["hash"]:
        what = _differences(config, theirs["config"])
        raise ConfigError(
            f"{workdir}: holds a run of another config ({what}); give the values it "
            "was started with, or another --workdir"
        )
    for key, what in (("hash", "data"), ("scores", "stored scores")):
        before, now = theirs["data"].get(key), about["data"].get(key)
        made_of = [one["data"].get("ids", "place") for one in (theirs, about)]
        if before != now and made_of[0] != made_of[1]:
            raise ConfigError(
                f"{workdir}: the run's ids are of kind {made_of[0]!r}, but those of these data are "
                f"of kind {made_of[1]!r}; train it again in a new folder"
            )
        if before != now:
            raise ConfigError(
                f"{workdir}: {what} changed since the run started: {before}, now {now}"
                f"{_changed(theirs['data'], about['data'])}; continue with those of the start, or "
                "train in a new folder"
            )
    for role, now in about["weights"].items():
        before = theirs.get("weights", {}).get(role, {}).get("hash")
        if before != now["hash"]:
            raise ConfigError(
                f"{workdir}: the weights file of config.{role}.path changed since the run "
                f"started: {before}, now {now['hash']}"
            )


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which numbers differ between two descriptions of data, in brackets."""
    pairs = [(name, before.get(name), now.get(name)) for name in ("examples", "shards", "classes")]
    differing = [f"{old} {name}, now {new}" for name, old, new in pairs if old != new]
    return f" ({'; '.join(differing)})" if differing else ""


def _differences(config: Config, stored: dict[str, Any]) -> str:
    """The first keys by which a config is another than a stored one; '': it was hand-edited."""
    try:
        trees = hashed(config), hashed(from_json(stored))
    except ConfigError:  # It names what is not registered here.
        trees = to_json(config), stored
    return "; ".join(differences(*trees)[:3])


def _has_begun(workdir: Path) -> bool:
    """Whether the folder holds more than there is before a run's first update."""
    before = ("config.json", "reference", FEATURES)
    return workdir.is_dir() and any(
        path.name not in before and not path.name.startswith(".") for path in workdir.iterdir()
    )


def _read_config(workdir: Path) -> dict[str, Any]:
    """config.json of a run folder.

    Raises:
      ConfigError: There is none, it is damaged, or an incompatible version wrote it.
    """
    path = Path(workdir) / "config.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{workdir}: no run there (no config.json)") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({type(error).__name__})") from error
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise ConfigError(f"{path}: not a config of this program")
    if content.get("format") != FORMAT:
        raise ConfigError(
            f"{workdir}: written in config format {content.get('format', 1)}, this version reads "
            f"{FORMAT}; read it with the version that wrote it, or train it again in a new folder"
        )
    return content


def load_config(workdir: Path, data: str = "") -> Config:
    """The config of a run folder. Constructs registered classes and functions only.

    Args:
      workdir: The run's folder.
      data: Where its data lie now; '': where they lay.

    Raises:
      ConfigError: No readable config there, or one that names something not registered.
      DataError: `data` is given, and the source of the run has no path.
    """
    config = from_json(_read_config(workdir)["config"])
    if not isinstance(config, Config):
        raise ConfigError(f"{workdir}: its config.json holds no run's config")
    return dataclasses.replace(config, data=config.data.moved(data)) if data else config


def check_same_data(workdir: Path, experiment: Experiment) -> None:
    """Compares the opened data with those that a run was trained on, by their content.

    Raises:
      ConfigError: They differ, so that the splits would be others than in the run.
    """
    before = _read_config(workdir).get("data")
    before = before.get("hash") if isinstance(before, dict) else None
    now = experiment.data.provenance["hash"]
    if before != now:
        raise ConfigError(
            f"{workdir}: trained on data of content hash {before}, these have {now}; --data=PATH "
            "says where the run's own data lie"
        )


def about(experiment: Experiment) -> dict[str, Any]:
    """What reports want to know of a run, for config.json."""
    config, data = experiment.config, experiment.data
    return {
        "name": config.name,
        "seed": config.seed,
        "total_steps": experiment.steps.total,
        "batch_size": config.batch_size,
        "policy": config.select.policy.name,
        "needs": list(config.select.policy.needs),
        "baseline": config.baseline,
        "class_names": list(data.class_names),
        "class_counts": experiment.class_counts,
        "learner": kind_of(type(config.learner)),
        "data": data.provenance,
        "weights": _weights(experiment),
    }


def _weights(experiment: Experiment) -> dict[str, Any]:
    """Published weights that the models start from, by role: layout, hash and what was taken."""
    starts = experiment.starts
    reports = {
        "learner": starts.learner.report(experiment.learner, experiment.view),
        "scorer": starts.scorer.report(experiment.scorer, experiment.scorer_view),
    }
    if starts.reference is not None:
        role = experiment.reference_role
        reports["reference"] = starts.reference.report(role.module, role.view)
    return {role: report for role, report in reports.items() if report is not None}


def summarize(
    experiment: Experiment, ledger: Ledger, final: dict, reference: Obtained | None, complete: bool
) -> dict[str, Any]:
    """The content of summary.json."""
    device = jax.devices()[0]
    return {
        "complete": complete,
        "final": final,
        "reference": _reference_bill(experiment, reference),
        "device": f"{len(jax.devices())} x {device.device_kind}",
    } | ledger.as_dict()


def _reference_bill(experiment: Experiment, reference: Obtained | None) -> dict | None:
    if reference is None or not experiment.reference.reported:
        return None
    return {
        "accuracy": reference.metrics.get(f"test_full/{experiment.task.primary_metric}"),
        "flops": total(reference.flops),
        "seconds": reference.train_seconds,
        "steps": reference.step,
        "charged": experiment.reference.charge,
    }


def opening_ledger(
    experiment: Experiment, reference: Obtained | None, prefilter: tuple[float, float]
) -> Ledger:
    """What the run has paid before its first update."""
    ledger = Ledger()
    if reference is not None and experiment.reference.charge:
        ledger.charge({"reference_train": total(reference.flops)})
        ledger.charge({"recompute": reference.flops.get("recompute", 0.0)})
        ledger.train_seconds += reference.train_seconds
    ledger.charge({"reference_score": prefilter[0]})
    ledger.train_seconds += prefilter[1]
    return ledger

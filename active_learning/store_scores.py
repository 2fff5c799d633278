"""`python -m active_learning.store_scores RUN [--config=FILE [--config.x=...]] [--model learner|online|reference] [--out FILE.npz]`

Scores every example of the training source with a model of a run, once, and writes the losses by id beside the data; a config with
`reference.kind='stored'` and `reference.path=FILE.npz` then selects without running a reference. `--config` is the config that will read them
(labels of its parts and its normalisation are used); without it the run's own.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from active_learning import checkpoint
from active_learning.config import ConfigError, from_flags, from_json, name_of
from active_learning.data.sources.source import DataError
from active_learning.references import stored
from active_learning.settings import Config, Reference, Select
from active_learning.train.build import Part, Run, build


def store(
    run: Path, config: Config | None = None, which: str = "learner", out: Path | None = None
) -> tuple[Path, dict]:
    """Scores and writes; returns the file and what its JSON says. Raises ConfigError or DataError naming folder, key or file."""
    path = Path(run) / "config.json"
    if not path.exists():
        raise ConfigError(f"{run}: no run there (no config.json)")
    theirs = from_json(json.loads(path.read_text())["config"])
    config = theirs if config is None else config
    it = build(dataclasses.replace(config, select=Select(), reference=Reference()))
    params = checkpoint.load_params(run, which)
    module = dataclasses.replace(
        theirs.learner if which == "learner" else theirs.scorer, num_classes=it.data.num_classes
    )
    task, part = it.task, everything(it)
    if theirs.small_view or which != "learner":
        task, part = it.scorer_task, part.small_view()
    loss, hit = stored.score_all(task.model(module, it.recipe.learner.optimizer), params, part)
    shape = task.image_shape
    about = {
        "data": it.data.provenance["hash"],
        "model": stored.model_hash(params),
        "architecture": name_of(type(module)),
        "view": stored.view_of(shape),
        "dtype": config.dtype,
        "flops": len(part) * module.cost(shape).forward,
        "mean": task.mean,
        "std": task.std,
    }
    out = out or default_file(config, Path(run), about["model"])
    return out, stored.write(out, stored.Stored(part.source.ids, part.labels, loss, hit, about))


def everything(it: Run) -> Part:
    """The whole training source, with the labels its parts are used with."""
    source = it.data.train.source
    labels = source.labels(it.config.data.label).astype(np.int32)
    for name, part in it.data.parts.items():
        if name != "test":
            labels[part.indices] = part.labels
    return Part(source, np.arange(len(source)), labels, None)


def default_file(config: Config, run: Path, model: str) -> Path:
    """Beside the data where they are files, else in the run's folder."""
    folder = config.data.folder() or run
    return folder / f"scores-{model}.npz"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m active_learning.store_scores", description=__doc__
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", choices=("learner", "online", "reference"), default="learner")
    parser.add_argument("--out", type=Path)
    try:
        config, rest = from_flags(sys.argv[1:] if argv is None else argv)
        args = parser.parse_args(rest)
        out, about = store(args.run, config, args.model, args.out)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{out}: {about['examples']} scores of model {about['model']}, {about['flops']:.3g} FLOPs once"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Score every example of the training source once with a model of a run.

    python -m active_learning.store_scores RUN [--config=FILE [--config.x=...]] [--out FILE.npz]

Writes the losses by id beside the data; a config with `reference.kind='stored'` and
`reference.path=FILE.npz` then selects without running a reference. --config is the config that
will read them (the labels of its parts and its normalization are used); without it, the run's own.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from active_learning import checkpoint, cli
from active_learning.arguments import Parser, path
from active_learning.config import ConfigError, from_flags, kind_of
from active_learning.data.parts import Part
from active_learning.references import score_file
from active_learning.references.trained import Trained
from active_learning.settings import Config, Select
from active_learning.train.build import Experiment, build
from active_learning.train.run_folder import load_config


def store(
    run: Path,
    config: Config | None = None,
    which: str = "learner",
    out: Path | None = None,
    data: str = "",
) -> tuple[Path, dict]:
    """Scores the training source and writes the file.

    Args:
      run: Folder of the run whose model scores.
      config: The config that will read the scores; None: the run's own.
      which: "learner", "ema" (the average of its weights), "online" or "reference".
      out: The file; None: beside the data where they are files, else in the run's folder.
      data: Where the run's data lie now; '': where they lay. Not with `config`.

    Returns:
      The file, and what its JSON says about it.

    Raises:
      ConfigError: Names the folder or key that does not fit.
      DataError: Data that cannot be read.
    """
    if out is not None and out.suffix != ".npz":
        raise ConfigError(f"--out={out}: expected a name that ends in .npz")
    if config is not None and data:
        raise ConfigError(f"--data={data}: with --config, give --config.data.path={data}")
    theirs = load_config(run, data)
    config = theirs if config is None else config
    if config.task.text:
        raise ConfigError(
            f"{run}: a run on image-text pairs; scores of a pair depend on the caption drawn"
        )
    experiment = build(dataclasses.replace(config, select=Select(), reference=Trained()))
    params = checkpoint.load_params(run, which)
    module = dataclasses.replace(
        theirs.learner if which in ("learner", "ema") else theirs.scorer,
        num_classes=experiment.data.num_classes,
    )
    view, part = experiment.view, whole_source(experiment)
    if theirs.small_view or which not in ("learner", "ema"):
        view, part = experiment.scorer_view, part.small_view()
    model = config.task.model(module, view, experiment.recipe.learner.optimizer)
    loss, hit = score_file.score_all(model, params, part)
    about = {
        "data": experiment.data.provenance["hash"],
        "ids": experiment.data.provenance.get("ids", "place"),
        "model": checkpoint.params_hash(params),
        "architecture": kind_of(type(module)),
        "view": score_file.view_name(view.image_shape),
        "dtype": config.dtype,
        "flops": len(part) * module.cost(view.image_shape).forward,
        "mean": view.mean,
        "std": view.std,
    }
    out = out or default_file(config, Path(run), about["model"])
    scores = score_file.Scores(part.source.ids, part.labels, loss, hit, about)
    return out, score_file.write(out, scores)


def whole_source(experiment: Experiment) -> Part:
    """The whole training source, with the labels that its parts are used with."""
    source = experiment.data.train.source
    labels = source.labels(experiment.config.data.label).astype(np.int32)
    for part in experiment.data.parts.values():
        if part.source is source:
            labels[part.indices] = part.labels
    return Part(source, np.arange(len(source)), labels, None)


def default_file(config: Config, run: Path, model: str) -> Path:
    """Beside the data where they are files, else in the run's folder."""
    folder = config.data.folder() or run
    return Path(folder) / f"scores-{model}.npz"


def main(argv: list[str] | None = None) -> int:
    """Prints where the scores are."""
    parser = Parser("active_learning.store_scores", __doc__)
    parser.add_argument("run", type=path)
    parser.add_argument(
        "--model", choices=("learner", "ema", "online", "reference"), default="learner"
    )
    parser.add_argument("--out", type=path)
    cli.add_import_flag(parser)
    cli.add_data_flag(parser)

    def command() -> None:
        config, rest = from_flags(sys.argv[1:] if argv is None else argv)
        args = parser.parse_args(rest)
        cli.import_modules(args.imports)
        out, about = store(args.run, config, args.model, args.out, args.data)
        count, flops = about["examples"], about["flops"]
        print(f"{out}: {count} scores of model {about['model']}, {flops:.3g} FLOPs once")

    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())

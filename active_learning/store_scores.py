"""Score every example of the training source once with a model of a run.

    python -m active_learning.store_scores RUN [--config=FILE [--config.x=...]] [--out FILE]

Labels: writes the losses by id to FILE (.npz, .parquet or .csv). Image-text pairs: writes the
embeddings of every image and every caption by id to a folder. A config with
`reference.kind='stored'` and `reference.path=FILE` then selects without running a reference.
--config is the config that will read them (the labels of its parts and its normalization are
used); without it, the run's own. The same command again continues where it was stopped.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from active_learning import checkpoint, cli, distributed
from active_learning.arguments import Parser, path
from active_learning.config import ConfigError, from_flags, kind_of
from active_learning.data.embeddings import DTYPES
from active_learning.data.parts import Part
from active_learning.references import embedding_pass, score_file
from active_learning.references.trained import Trained
from active_learning.settings import Config, Select
from active_learning.tasks import View
from active_learning.train.build import Experiment, build
from active_learning.train.run_folder import load_config
from active_learning.train.starts import open_models


def store(
    run: Path,
    config: Config | None = None,
    which: str = "learner",
    out: Path | None = None,
    dtype: str = "bfloat16",
    data: str = "",
) -> tuple[Path, dict]:
    """Scores the training source and writes the file, or the folder for pairs.

    Args:
      run: Folder of the run whose model scores.
      config: The config that will read the scores; None: the run's own.
      which: "learner", "ema" (the average of its weights), "online" or "reference".
      out: Where to; None: beside the data where they are files, else in the run's folder.
      dtype: Of stored embeddings, "bfloat16" or "float32".
      data: Where the run's data lie now; '': where they lay. Not with `config`.

    Returns:
      The file or folder, and what is said about it there.

    Raises:
      ConfigError: Names the folder or key that does not fit.
      DataError: Data that cannot be read.
    """
    if config is not None and data:
        raise ConfigError(f"--data={data}: with --config, give --config.data.path={data}")
    theirs, _ = open_models(load_config(run, data))
    config = theirs if config is None else config
    pairs = bool(config.task.text)
    _check_name(out, pairs)
    experiment = build(dataclasses.replace(config, select=Select(), reference=Trained()))
    params = checkpoint.load_params(run, which)
    module = theirs.learner if which in ("learner", "ema") else theirs.scorer
    if not pairs:
        module = dataclasses.replace(module, num_classes=experiment.data.num_classes)
    view, part = experiment.view, whole_source(experiment)
    if theirs.small_view or which not in ("learner", "ema"):
        view, part = experiment.scorer_view, part.small_view()
    about = {
        "data": experiment.data.provenance["hash"],
        "ids": experiment.data.provenance.get("ids", "place"),
        "model": checkpoint.params_hash(params),
        "architecture": kind_of(type(module)),
        "view": score_file.view_name(view.image_shape),
        "mean": list(view.mean),
        "std": list(view.std),
    }
    if out is None:
        name = f"embeddings-{about['model']}" if pairs else f"scores-{about['model']}.npz"
        out = Path(config.data.folder() or run) / name
    if pairs:
        return out, _store_pairs(experiment, module, params, (view, part), out, about, dtype)
    return out, _store_labels(experiment, module, params, (view, part), out, about)


def _store_labels(
    experiment: Experiment,
    module: Any,
    params: PyTree,
    seen: tuple[View, Part],
    out: Path,
    about: dict,
) -> dict:
    """Scores all examples of the source of a run on labels."""
    config, (view, part) = experiment.config, seen
    model = config.task.model(module, view, experiment.recipe.learner.optimizer)
    pieces = score_file.Pieces(out, about)
    loss, hit = score_file.score_all(model, params, part, mesh=experiment.mesh, pieces=pieces)
    flops = len(part) * module.cost(view.image_shape).forward
    about = about | {"dtype": config.dtype, "flops": flops}
    scores = score_file.Scores(part.source.ids, part.labels, loss, hit, about)
    written = distributed.run_on_primary(lambda: score_file.write(out, scores))
    distributed.run_on_primary(pieces.remove)
    return written


def _check_name(out: Path | None, pairs: bool) -> None:
    if out is None:
        return
    if not pairs and out.suffix not in score_file.SUFFIXES:
        raise ConfigError(
            f"--out={out}: expected a name that ends in {', '.join(score_file.SUFFIXES)}"
        )
    if pairs and (out.suffix in score_file.SUFFIXES or out.is_file()):
        raise ConfigError(
            f"--out={out}: embeddings of image-text pairs go to a folder, give a name without "
            "suffix"
        )


def _store_pairs(
    experiment: Experiment,
    module: Any,
    params: PyTree,
    seen: tuple[View, Part],
    out: Path,
    about: dict,
    dtype: str,
) -> dict:
    """Embeds all images and captions of the source of a run on pairs."""
    config, train, (view, part) = experiment.config, experiment.data.train, seen
    assert train.captions is not None  # attached by the task
    rows = np.arange(len(train.source))
    part = dataclasses.replace(part, captions=train.captions, caption_of=rows)
    model = config.task.model(
        config.task.specialize(module, view), view, experiment.recipe.learner.optimizer
    )
    images = len(part) * module.image.cost(view.image_shape).forward
    texts = int(train.captions.counts.sum()) * module.text.cost().forward
    about = about | {
        "captions": embedding_pass.captions_hash(train.captions),
        "dtype": dtype,
        "compute": config.dtype,
        "flops": images + texts,
    }
    return embedding_pass.embed_all(model, params, part, experiment.mesh, out, about)


def whole_source(experiment: Experiment) -> Part:
    """The whole training source, with the labels that its parts are used with."""
    source = experiment.data.train.source
    labels = source.labels(experiment.config.data.label).astype(np.int32)
    for part in experiment.data.parts.values():
        if part.source is source:
            labels[part.indices] = part.labels
    return Part(source, np.arange(len(source)), labels, None)


def main(argv: list[str] | None = None) -> int:
    """Prints where the scores are."""
    parser = Parser("active_learning.store_scores", __doc__)
    parser.add_argument("run", type=path)
    parser.add_argument(
        "--model", choices=("learner", "ema", "online", "reference"), default="learner"
    )
    parser.add_argument("--out", type=path)
    parser.add_argument(
        "--dtype", choices=tuple(DTYPES), default="bfloat16", help="of stored embeddings"
    )
    cli.add_import_flag(parser)
    cli.add_data_flag(parser)

    def command() -> None:
        config, rest = from_flags(sys.argv[1:] if argv is None else argv)
        args = parser.parse_args(rest)
        cli.import_modules(args.imports)
        out, about = store(args.run, config, args.model, args.out, args.dtype, args.data)
        count, flops = about["examples"], about["flops"]
        what = "embedded pairs" if "captions" in about else "scores"
        print(f"{out}: {count} {what} of model {about['model']}, {flops:.3g} FLOPs once")

    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())

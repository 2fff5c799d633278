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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from active_learning import checkpoint, cli, distributed
from active_learning.arguments import Parser, path, run_path
from active_learning.config import ConfigError, from_flags, kind_of
from active_learning.core.recipe import Model
from active_learning.core.sharding import batch_sharding, replicated
from active_learning.data.parts import Part
from active_learning.data.stored_rows import DTYPES, PairTables, RowTable
from active_learning.evaluators.embed import Embedder
from active_learning.references import score_file
from active_learning.references.row_pass import embed_pairs, logit_scalars
from active_learning.references.trained import Trained
from active_learning.settings import Config, Select
from active_learning.storage.addresses import is_bucket
from active_learning.storage.runs import readable
from active_learning.tasks import View
from active_learning.train.build import Experiment, build
from active_learning.train.run_folder import load_config
from active_learning.train.starts import open_models

BATCH = 500  # images, or captions, at a time


def store(
    run: Path | str,
    config: Config | None = None,
    which: str = "learner",
    out: Path | None = None,
    dtype: str = "bfloat16",
    data: str = "",
) -> tuple[Path, dict]:
    """Scores the training source and writes the file, or the folder for pairs.

    Args:
      run: Folder of the run whose model scores, or its address in a bucket.
      config: The config that will read the scores; None: the run's own.
      which: "learner", "ema" (the average of its weights), "online" or "reference".
      out: Where to; None: beside the data where they are files, else in the run's folder. Must be
        given for a run in a bucket.
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
    if out is None and is_bucket(str(run)):
        raise ConfigError(f"{run}: a run in a bucket needs --out=FILE, where the scores go")
    run = readable(run)
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
    scoring = _Pass(experiment, module, params, view, part, out, about)
    return out, scoring.embed_pairs(dtype) if pairs else scoring.score_labels()


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


@dataclass(frozen=True)
class _Pass:
    """One pass of a model over all examples of a source, and where its results go."""

    experiment: Experiment
    module: Any
    params: PyTree
    view: View
    part: Part
    out: Path
    about: dict

    def _model(self, module: Any) -> Model:
        optimizer = self.experiment.recipe.learner.optimizer
        return self.experiment.config.task.model(module, self.view, optimizer)

    def score_labels(self) -> dict:
        """Writes the losses of the labels."""
        out, part, mesh = self.out, self.part, self.experiment.mesh
        pieces = score_file.Pieces(out, self.about)
        model = self._model(self.module)
        loss, hit = score_file.score_all(model, self.params, part, mesh=mesh, pieces=pieces)
        flops = len(part) * self.module.cost(self.view.image_shape).forward
        about = self.about | {"dtype": self.experiment.config.dtype, "flops": flops}
        scores = score_file.Scores(part.source.ids, part.labels, loss, hit, about)
        written = distributed.run_on_primary(lambda: score_file.write(out, scores))
        distributed.run_on_primary(pieces.remove)
        return written

    def embed_pairs(self, dtype: str) -> dict:
        """Writes the embeddings of all images and captions."""
        config, captions = self.experiment.config, self.experiment.data.train.captions
        assert captions is not None  # attached by the task
        part = dataclasses.replace(
            self.part, captions=captions, caption_of=np.arange(len(self.part))
        )
        count, mesh = int(captions.counts.sum()), self.experiment.mesh
        flops = len(part) * self.module.image_cost(self.view.image_shape).forward
        flops += count * self.module.text_cost().forward
        model = self._model(config.task.specialize(self.module, self.view))
        embedder = Embedder(model, min(BATCH, len(part)), batch_sharding(mesh))
        tables = self._tables(dtype, flops)
        embed_pairs(embedder, jax.device_put(self.params, replicated(mesh)), part, tables)
        return tables.image.about | {"examples": len(part), "texts": count}

    def _tables(self, dtype: str, flops: float) -> PairTables:
        """Tables of images and captions in the folder; made by the primary process first."""
        captions, ids = self.experiment.data.train.captions, self.part.source.ids
        assert captions is not None  # attached by the task
        width = self.module.image_out or self.module.image.width
        scale, bias = logit_scalars(self.params)
        about = {name: value for name, value in self.about.items() if name != "ids"} | {
            "ids_by": self.about["ids"],
            "captions": captions.content_hash(),
            "compute": self.experiment.config.dtype,
            "flops": flops,
            "scale": scale,
            "bias": bias,
        }

        def begun() -> PairTables:
            image = about | {"content": "image embeddings"}
            text = about | {"content": "caption embeddings"}
            return PairTables(
                RowTable.begin(self.out / "image", image, ids, width, None, dtype),
                RowTable.begin(self.out / "text", text, ids, width, captions.counts, dtype),
                scale,
                bias,
            )

        def make() -> None:
            begun()

        distributed.run_on_primary(make)
        return begun()


def whole_source(experiment: Experiment) -> Part:
    """The whole training source, with the labels that its parts are used with."""
    source = experiment.data.train.source
    labels = source.labels(experiment.config.data.label).astype(np.int32)
    for part in experiment.data.parts.values():
        if part.source is source:
            labels[np.asarray(part.indices)] = part.labels
    return Part(source, np.arange(len(source)), labels, None)


def main(argv: list[str] | None = None) -> int:
    """Prints where the scores are."""
    parser = Parser("active_learning.store_scores", __doc__)
    parser.add_argument("run", type=run_path)
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

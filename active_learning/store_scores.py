"""Score every example of the training source once with a model of a run.

    python -m active_learning.store_scores RUN [--config=FILE [--config.x=...]] [--out FILE]

Labels: writes the losses by id to FILE (.npz, .parquet or .csv). Image-text pairs: writes the
embeddings of every image and every caption by id to a folder. A config with
`reference.kind='stored'` and `reference.path=FILE` then selects without running a reference.
--config is the config that will read them (the labels of its parts and its normalization are
used); without it, the run's own. The same command again continues where it was stopped.
--task=I/N is one of N workers that share the examples, --task=finish puts their pieces together;
--ray=ADDRESS runs both on a Ray cluster.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from active_learning import checkpoint, cli
from active_learning.arguments import Parser, path, run_path
from active_learning.config import ConfigError, from_flags, kind_of
from active_learning.core.recipe import Model
from active_learning.core.sharding import batch_sharding, replicated
from active_learning.data.parts import Part
from active_learning.data.stored_rows import DTYPES, PairTables, RowTable
from active_learning.evaluators.embed import Embedder
from active_learning.references import score_file
from active_learning.references.pair_pieces import PairPieces
from active_learning.references.row_pass import (
    embed_pairs,
    embedding_flops,
    logit_scalars,
    pair_values,
)
from active_learning.references.trained import Trained
from active_learning.settings import Config, Select
from active_learning.storage import workers
from active_learning.storage.addresses import is_bucket
from active_learning.storage.pieces import Pieces, check_all, make_all, signature
from active_learning.storage.runs import readable
from active_learning.storage.workers import ALL, Task, task_of
from active_learning.tasks import View
from active_learning.train.build import Experiment, build
from active_learning.train.run_folder import load_config
from active_learning.train.starts import open_models

KIND = "scores"  # of the workers' locks


def store(
    run: Path | str,
    config: Config | None = None,
    which: str = "learner",
    out: Path | None = None,
    dtype: str = "bfloat16",
    data: str = "",
    task: Task = ALL,
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
      task: Which pieces are scored here, where several workers share them.

    Returns:
      The file or folder, and what is said about it there; {} where pieces of other workers may be
      missing still.

    Raises:
      ConfigError: Names the folder or key that does not fit, who else is at work there, or the
        tasks whose pieces are missing.
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
    about = _about(experiment, params, module, view)
    if out is None:
        name = f"embeddings-{about['model']}" if pairs else f"scores-{about['model']}.npz"
        out = Path(config.data.folder() or run) / name
    scoring = _Pass(experiment, module, params, view, part, out, about, task)
    return out, scoring.embed_pairs(dtype) if pairs else scoring.score_labels()


def _about(experiment: Experiment, params: PyTree, module: Any, view: View) -> dict:
    """What the scores are of."""
    return {
        "data": experiment.data.provenance["hash"],
        "ids": experiment.data.provenance.get("ids", "place"),
        "model": checkpoint.params_hash(params),
        "architecture": kind_of(type(module)),
        "view": score_file.view_name(view.image_shape),
        "mean": list(view.mean),
        "std": list(view.std),
    }


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
    task: Task

    def _model(self, module: Any) -> Model:
        optimizer = self.experiment.recipe.learner.optimizer
        return self.experiment.config.task.model(module, self.view, optimizer)

    def _pieces(self, *marks: object) -> Pieces:
        """Where the pieces, and the locks of workers, are kept: beside what they become."""
        return Pieces(self.out.with_name(f".{self.out.name}.pieces"), signature(*marks))

    def score_labels(self) -> dict:
        """Writes the losses of the labels."""
        out, part, mesh = self.out, self.part, self.experiment.mesh
        flops = len(part) * self.module.cost(self.view.image_shape).forward
        about = self.about | {"dtype": self.experiment.config.dtype, "flops": flops}
        if (written := score_file.already(out, about, part)) is not None:
            return written
        pieces = self._pieces(json.dumps(about, sort_keys=True), part.labels)
        model, spans = self._model(self.module), score_file.pieces_of(len(part))
        score = score_file.scorer(model, self.params, part, score_file.BATCH, mesh)
        names = [str(rows[0]) for rows in spans]

        def make(number: int) -> Mapping[str, np.ndarray]:
            return dict(zip(("loss", "hit"), score(spans[number]), strict=True))

        with workers.held(pieces.folder, self.task, KIND, out):
            make_all(pieces, names, self.task, make)
            if self.task.count > 1:
                return {}
            missing = [number for number, name in enumerate(names) if not pieces.has(name)]
            check_all(missing, len(names), pieces.folder, KIND, out)
            scored = [pieces.get(name) for name in names]
            loss, hit = (np.concatenate([one[key] for one in scored]) for key in ("loss", "hit"))
            scores = score_file.Scores(part.source.ids, part.labels, loss, hit, about)
            written = score_file.write(out, scores)
            pieces.remove()
            workers.remove_locks(pieces.folder, KIND)
        return written

    def embed_pairs(self, dtype: str) -> dict:
        """Writes the embeddings of all images and captions."""
        config, captions = self.experiment.config, self.experiment.data.train.captions
        assert captions is not None  # attached by the task
        part = dataclasses.replace(
            self.part, captions=captions, caption_of=np.arange(len(self.part))
        )
        count, mesh = int(captions.counts.sum()), self.experiment.mesh
        flops = embedding_flops(self.module, self.view.image_shape, len(part), count)
        model = self._model(config.task.specialize(self.module, self.view))
        size = min(score_file.BATCH, len(part))
        embedder = Embedder(model, size, batch_sharding(mesh))
        params = jax.device_put(self.params, replicated(mesh))
        mark = json.dumps(self.about, sort_keys=True), captions.content_hash(), config.dtype, dtype
        pieces = self._pieces(*mark)
        shared = PairPieces(pieces, len(part), dtype)
        missing = list(range(len(shared.names)))
        if self.out.exists():
            missing = shared.missing(self._tables(dtype, flops))
        if missing and self.task.count > 1:
            make = shared.maker(pair_values(embedder, params, part))
            with workers.held(pieces.folder, self.task, KIND, self.out):
                make_all(pieces, shared.names, self.task, make, only=missing)
            return {}
        with workers.held(pieces.folder, self.task, KIND, self.out):
            tables = self._tables(dtype, flops)
            shared.put(tables)
            if self.task.finish:
                missing = shared.missing(tables)
                check_all(missing, len(shared.names), pieces.folder, KIND, self.out)
            embed_pairs(embedder, params, part, tables)
            pieces.remove()
            workers.remove_locks(pieces.folder, KIND)
        return tables.image.about | {"examples": len(part), "texts": count}

    def _tables(self, dtype: str, flops: float) -> PairTables:
        """Tables of images and captions in the folder; empty ones where there are none."""
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
        image = about | {"content": "image embeddings"}
        text = about | {"content": "caption embeddings"}
        return PairTables(
            RowTable.begin(self.out / "image", image, ids, width, None, dtype),
            RowTable.begin(self.out / "text", text, ids, width, captions.counts, dtype),
            scale,
            bias,
        )


def whole_source(experiment: Experiment) -> Part:
    """The whole training source, with the labels that its parts are used with."""
    source = experiment.data.train.source
    labels = source.labels(experiment.config.data.label).astype(np.int32)
    for part in experiment.data.parts.values():
        if part.source is source:
            labels[np.asarray(part.indices)] = part.labels
    return Part(source, np.arange(len(source)), labels, None)


def run(argv: list[str]) -> str:
    """The command. Returns what to print at its end. Raises what `store` does."""
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
    cli.add_task_flags(parser)
    config, rest = from_flags(argv)
    args = parser.parse_args(rest)
    if args.ray:
        return cli.run_on_ray("active_learning.store_scores", argv, args)
    task = task_of(args.task, os.environ)
    cli.import_modules(args.imports)
    out, about = store(args.run, config, args.model, args.out, args.dtype, args.data, task)
    if not about:
        return task.done(out)
    count, flops = about["examples"], about["flops"]
    what = "embedded pairs" if "captions" in about else "scores"
    return f"{out}: {count} {what} of model {about['model']}, {flops:.3g} FLOPs once"


def main(argv: list[str] | None = None) -> int:
    """Prints where the scores are."""
    return cli.guarded(lambda: print(run(sys.argv[1:] if argv is None else argv)))


if __name__ == "__main__":
    sys.exit(main())

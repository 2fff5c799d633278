"""Write the weights of a run's model in the layout of a public library.

    python -m active_learning.export RUN OUT [--format=own|timm|hf|open_clip|npz]

The folder OUT gets names, shapes and config of the publisher's library, class names and
normalization included. RUN may also be published weights, which are converted. `Published` and
`reference.kind='loaded'` read what is written.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from active_learning import checkpoint, cli
from active_learning.arguments import Parser, path, run_path
from active_learning.checks import on_any_devices
from active_learning.config import ConfigError
from active_learning.models.weights import FORMATS, About, Layout, open_weights, write_weights
from active_learning.storage.runs import readable
from active_learning.train import run_folder
from active_learning.train.build import build


def export(
    run: Path | str, out: Path, fmt: str = "own", which: str = "learner", data: str = ""
) -> Layout:
    """Writes the weights of one model.

    Args:
      run: A run folder or its address in a bucket, or published weights.
      out: Folder to write, new or empty.
      fmt: A key of `FORMATS`.
      which: "learner", "online" or "reference" of a run.
      data: Where the run's data lie now; '': where they lay.

    Returns:
      The layout that was written.

    Raises:
      ConfigError: Names what cannot be read or written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already; give a new or empty folder")
    module, params, about = _model_of(readable(run), which, data)
    return write_weights(out, module, params, about, fmt)


def _model_of(run: Path, which: str, data: str) -> tuple[Any, Any, About]:
    """Module, parameters and inputs of a run's model or of published weights."""
    if not (run / "checkpoints").is_dir() and not (run / "summary.json").exists():
        weights = open_weights(run)
        return weights.module, weights.params(), weights.about
    experiment = build(on_any_devices(run_folder.load_config(run, data)))
    run_folder.check_same_data(run, experiment)
    learner = which == "learner"
    module = experiment.learner if learner else experiment.scorer
    view = experiment.view if learner else experiment.scorer_view
    names = experiment.data.class_names if view.num_classes else ()
    about = About(view.image_shape, view.mean, view.std, tuple(names))
    return module, checkpoint.load_params(run, which), about


def main(argv: list[str] | None = None) -> int:
    """Prints what was written."""
    parser = Parser("active_learning.export", __doc__)
    parser.add_argument("run", type=run_path, help="run folder, or published weights to convert")
    parser.add_argument("out", type=path, help="folder to write")
    parser.add_argument("--format", choices=tuple(FORMATS), default="own")
    parser.add_argument("--model", choices=("learner", "online", "reference"), default="learner")
    cli.add_import_flag(parser)
    cli.add_data_flag(parser)
    args = parser.parse_args(argv)

    def command() -> None:
        cli.import_modules(args.imports)
        layout = export(args.run, args.out, args.format, args.model, args.data)
        weights = open_weights(args.out)
        count = sum(int(np.prod(shape)) for shape in weights.leaves.values())
        file = args.out / layout.tensors_file
        print(f"{file}: layout {layout.name}, {len(weights.tensors)} tensors, {count:,} parameters")

    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())

"""Evaluate the newest checkpoint of a run on whole sets.

    python -m active_learning.evaluate DIR [--set NAME] [--model learner|online|reference]

--data=PATH says where the run's data lie now, if they were moved.

For image-text models also zero-shot and few-shot classification, retrieval on a caption file, and
with --judgements=FILE (Flickr8k's expert or crowd file) the agreement with people.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from active_learning import checkpoint, cli
from active_learning.arguments import Parser, run_path
from active_learning.checks import on_any_devices
from active_learning.evaluators import image_text
from active_learning.storage.runs import readable
from active_learning.train.build import build
from active_learning.train.run_folder import check_same_data, load_config
from active_learning.train.stored_inputs import with_stored


def evaluate(
    workdir: Path | str,
    sets: tuple[str, ...] = (),
    which: str = "learner",
    args: argparse.Namespace | None = None,
    data: str = "",
) -> dict:
    """Evaluates one model of a run.

    Args:
      workdir: The run's folder, or its address in a bucket.
      sets: Names of evaluation sets; empty: the config's own.
      which: "learner", "ema" (the average of its weights), "online" or "reference".
      args: Further flags of image-text models (`evaluators.image_text.add_flags`).
      data: Where the run's data lie now; '': where they lay.

    Returns:
      Metrics by set, and by file or flag for what `args` asks for.

    Raises:
      ConfigError: No run there, no such model or set, or other data than it was trained on.
      DataError: Data that cannot be read.
    """
    workdir = readable(workdir)
    config = load_config(workdir, data)
    if sets:
        evaluation = dataclasses.replace(config.evaluate, sets=sets)
        config = dataclasses.replace(config, evaluate=evaluation)
    built = build(on_any_devices(config))
    check_same_data(workdir, built)
    joined = with_stored(built, workdir)
    assert joined is not None, "nobody asked to stop"
    experiment, _ = joined
    params = checkpoint.load_params(workdir, which)
    learner = which in ("learner", "ema")
    model = experiment.recipe.model("learner" if learner else which)
    view = experiment.view if learner else experiment.scorer_view
    evaluator, out = config.task.evaluator(model, view, config.evaluate.batch_size), {}
    for name in config.evaluate.sets:
        metrics = evaluator(params, experiment.data.parts[name])
        out[name] = {k: v for k, v in metrics.items() if isinstance(v, float)}
        if "per_class" in metrics:
            numbers = tuple(str(k) for k in range(len(metrics["per_class"])))
            names = experiment.data.class_names or numbers
            out[name]["per_class"] = dict(zip(names, metrics["per_class"], strict=True))
        out[name] |= config.task.extra_metrics(experiment, evaluator, params, name, metrics)
    return out | config.task.flag_metrics(experiment, evaluator, params, args)


def main(argv: list[str] | None = None) -> int:
    """Prints the metrics as JSON."""
    parser = Parser("active_learning.evaluate", __doc__)
    parser.add_argument("workdir", type=run_path)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument(
        "--model", choices=("learner", "ema", "online", "reference"), default="learner"
    )
    cli.add_import_flag(parser)
    cli.add_data_flag(parser)
    image_text.add_flags(parser)
    args = parser.parse_args(argv)

    def command() -> None:
        cli.import_modules(args.imports)
        metrics = evaluate(args.workdir, tuple(args.sets), args.model, args, args.data)
        print(json.dumps(metrics, indent=1))

    return cli.guarded(command)


if __name__ == "__main__":
    sys.exit(main())

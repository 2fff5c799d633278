"""`python -m active_learning.evaluate DIR [--set NAME] [--model learner|online|reference]`: figures of a run's newest checkpoint.

For image-text models also zero-shot and few-shot classification with the templates used, and with `--judgements=FILE` (Flickr8k's expert or
crowd file) the agreement with people.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from active_learning import checkpoint
from active_learning.config import ConfigError, from_json
from active_learning.data.sources.source import DataError
from active_learning.evaluators import image_text
from active_learning.evaluators.retrieval import clip_benchmark_names
from active_learning.references import stored
from active_learning.settings import Pairs
from active_learning.train.build import build


def evaluate(
    workdir: Path,
    sets: tuple[str, ...] = (),
    which: str = "learner",
    args: argparse.Namespace | None = None,
) -> dict:
    """Figures of one model of the run on whole sets (default: the config's own). Raises ConfigError naming folder or key."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise ConfigError(f"{workdir}: no run there (no config.json)")
    config = from_json(json.loads(path.read_text())["config"])
    if sets:
        config = dataclasses.replace(
            config, evaluate=dataclasses.replace(config.evaluate, sets=sets)
        )
    it = build(config)
    params = checkpoint.load_params(workdir, which)
    model = it.recipe.learner if which == "learner" else it.recipe.scorer
    evaluator, out = it.task.evaluator(model, config.evaluate.batch_size), {}
    for name in config.evaluate.sets:
        part = it.data.parts[name]
        figures = evaluator(params, part)
        out[name] = {k: v for k, v in figures.items() if isinstance(v, float)}
        if "per_class" in figures:
            names = it.data.class_names or tuple(str(k) for k in range(len(figures["per_class"])))
            out[name]["per_class"] = dict(zip(names, figures["per_class"], strict=True))
        if isinstance(config.task, Pairs):
            out[name] |= clip_benchmark_names(figures)
    if not isinstance(config.task, Pairs):
        if args is not None and (args.judgements or args.zero_shot or args.captions):
            raise ConfigError("--judgements, --zero_shot, --captions: config.task has no texts")
        return out
    towers = image_text.Towers(
        evaluator.embed,
        params,
        it.data.train.captions.encode,
        it.task.image_shape[0],
        stored.model_hash(params),
        None if args is None else args.features,
    )
    for name in config.evaluate.sets:
        out[name] |= image_text.classification(towers, config.task, it.data, name)
    if args is not None:
        out |= image_text.evaluate_flags(towers, config.task, it.data, args)
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m active_learning.evaluate", description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--set", dest="sets", action="append", default=[])
    parser.add_argument("--model", choices=("learner", "online", "reference"), default="learner")
    image_text.add_flags(parser)
    args = parser.parse_args(argv)
    try:
        print(
            json.dumps(
                evaluate(args.workdir, tuple(args.sets), args.model, args),
                indent=1,
            )
        )
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

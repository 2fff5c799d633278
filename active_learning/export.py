"""`python -m active_learning.export RUN --out=NAME.npz|NAME.safetensors [--model learner|online|reference]`: a trained two-tower's weights.

Names and shapes are those of published SigLIP checkpoints; `reference.kind='loaded'` reads the .npz again.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from active_learning import checkpoint
from active_learning.config import ConfigError, from_json
from active_learning.data.sources.source import DataError
from active_learning.models.weights import siglip
from active_learning.settings import Pairs


def export(run: Path, out: Path, which: str = "learner") -> dict[str, tuple[int, ...]]:
    """Writes the weights of one model of a run; returns their names and shapes. Raises ConfigError naming folder or file."""
    path = run / "config.json"
    if not path.exists():
        raise ConfigError(f"{run}: no run there (no config.json)")
    config = from_json(json.loads(path.read_text())["config"])
    if not isinstance(config.task, Pairs):
        raise ConfigError(
            f"{run}: no run on image-text pairs; only two-tower weights have a layout to export to"
        )
    module = config.learner if which in ("learner", "ema") else config.scorer
    weights = siglip.to_weights(checkpoint.load_params(run, which), module)
    siglip.save(out, weights)
    return {name: values.shape for name, values in weights.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m active_learning.export", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--model", choices=("learner", "ema", "online", "reference"), default="learner"
    )
    args = parser.parse_args(argv)
    try:
        shapes = export(args.run, args.out, args.model)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"{args.out}: {len(shapes)} arrays, {sum(int(np.prod(s)) for s in shapes.values()):,} numbers"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

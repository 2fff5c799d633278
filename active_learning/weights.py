"""Print what a weights file holds: its layout, the sizes of its model, and its tensors.

    python -m active_learning.weights PATH [--check=io.npz] [--heads=N]

The table lists the tensors that are taken, new and left. With --check the model runs on the inputs
in a file and its outputs are compared with those in the file; docs/weights.md has their names.
"""

import sys
from pathlib import Path

from active_learning import cli
from active_learning.arguments import Parser, number, path
from active_learning.models.weights.adapt import adapt, format_lines
from active_learning.models.weights.check import compare, sizes
from active_learning.models.weights.files import Weights, open_weights


def show(weights: Weights) -> None:
    """Prints layout, sizes and table."""
    for line in sizes(weights):
        print(line)
    print(format_lines(adapt(weights, weights.module, weights.about.image_shape).lines))


def check(weights: Weights, path: Path) -> bool:
    """Prints the largest difference of each output in a file.

    Returns:
      Whether all are within float32 rounding.

    Raises:
      ConfigError: The file cannot be used.
    """
    good = True
    for difference in compare(weights, path):
        verdict = "ok" if difference.ok else f"above {difference.tolerance:.0e}"
        print(f"{difference.output}: largest difference {difference.largest:.2e}, {verdict}")
        good = good and difference.ok
    return good


def main(argv: list[str] | None = None) -> int:
    """Exits with 1 when an output differs."""
    parser = Parser("active_learning.weights", __doc__)
    parser.add_argument("path", type=path, help=".safetensors or .npz file, or a folder with one")
    parser.add_argument("--check", type=path, help=".npz file of inputs and expected outputs")
    parser.add_argument(
        "--heads", type=number(int, 1, 4096), default=0, help="where the file does not say"
    )
    args = parser.parse_args(argv)
    good = True

    def command() -> None:
        nonlocal good
        weights = open_weights(args.path, args.heads)
        show(weights)
        if args.check:
            good = check(weights, args.check)

    return cli.guarded(command) or (0 if good else 1)


if __name__ == "__main__":
    sys.exit(main())

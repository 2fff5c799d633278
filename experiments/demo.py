"""`make demo`: drawn shapes, 40 % wrong labels, five minutes on two cores; ends with a table and
the path of a page to open.

Plain training, learnability at decayed budgets of 45 and 60 %, the control (plain training on the
reference's own data) and the reference itself, whose training is on the bill.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from active_learning.config import freeze
from active_learning.metrics import show_log
from active_learning.report.__main__ import write
from active_learning.settings import Checkpoint, Evaluate
from configs import shapes
from experiments.arms import Arm, run_all, shared_by

UPDATES = 900  # of the full budget
SEED = 21  # of the run and of the drawn set; the setting was fixed on other seeds


def arms(steps: int) -> list[Arm]:
    """The demo's runs, each with its own fully decayed schedule."""
    config = freeze(shapes.get_config())
    config = replace(config, reference=replace(config.reference, path="shapes"))
    uniform = freeze(shapes.get_config("uniform"))
    control = replace(
        uniform, baseline=False, split=replace(uniform.split, train_on=("reference",))
    )

    def arm(config, name, budget):
        seldom = {
            "evaluate": Evaluate(every="10 %", subset=1000),
            "checkpoint": Checkpoint(every="100 %"),
        }
        config = replace(config, data=replace(config.data, seed=SEED))
        return Arm(
            replace(config, name=name, total=f"{round(budget * steps)} steps", **seldom),
            budget,
            (SEED,),
        )

    return [  # the longest first, so that both workers end together
        arm(uniform, "uniform", 1.0),
        arm(control, "control: uniform on the reference's data", 1.0),
        *(arm(config, "learnability", budget) for budget in (0.6, 0.45)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument(
        "--steps", type=int, default=UPDATES, help=f"updates of the full budget ({UPDATES})"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that share the work, each on its own core"
    )
    args = parser.parse_args()
    show_log()
    with shared_by(args.workers):
        *_, folders = run_all(arms(args.steps), args.out)
    page = write(folders, args.out / "report", "test/accuracy", "Shapes with 40 % wrong labels")
    print((page / "table.md").read_text())
    print(f"open {(page / 'index.html').resolve()}")


if __name__ == "__main__":
    main()

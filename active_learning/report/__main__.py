"""python -m active_learning.report RUN... [--out DIR] [--metric test/accuracy] [--title TITLE]"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from active_learning.report import charts, page, tables
from active_learning.report.analysis import analyse
from active_learning.report.headline import headline
from active_learning.report.runs import RunError, load_runs


def write(
    paths: Sequence[str | Path],
    out: Path | None,
    metric: str,
    title: str,
    step_seconds: dict[str, float] | None = None,
) -> Path:
    """Writes index.html, table.md, report.json and figure.png; returns their folder. `step_seconds`: see `runs.timed`.

    RunError before anything is written.
    """
    runs = load_runs(paths, step_seconds)
    analysis = analyse(runs, metric)
    out = out or default_out(paths)
    html = page.render(analysis, title)
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.html").write_text(html, encoding="utf-8")
    (out / "table.md").write_text(tables.markdown(analysis, title), encoding="utf-8")
    figures = tables.report(analysis, title) | {
        "step_seconds": step_seconds
    }  # null: the runs' own clocks
    (out / "report.json").write_text(
        json.dumps(figures, indent=1, allow_nan=False), encoding="utf-8"
    )
    (out / "figure.png").write_bytes(charts.main_png(analysis, title))
    print(headline(analysis))
    return out


def default_out(paths: Sequence[str | Path]) -> Path:
    """The default output folder: `report` next to the first run given (inside, when that is a folder of runs)."""
    first = Path(paths[0])
    return (first.resolve().parent if (first / "config.json").exists() else first) / "report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0, or 2 with one line on stderr when a run folder cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m active_learning.report",
        description="Run folders -> one HTML page, a table and JSON.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run folder, or a folder that holds run folders at any depth",
    )
    parser.add_argument(
        "--out", type=Path, help="where to write (default: 'report' next to the first run)"
    )
    parser.add_argument(
        "--metric",
        default="test/accuracy",
        help="evaluated metric, higher is better (default: %(default)s)",
    )
    parser.add_argument("--title", default="Active learning against uniform sampling")
    options = parser.parse_args(arguments)
    try:
        out = write(options.runs, options.out, options.metric, options.title)
    except RunError as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(f"wrote {out}/index.html, table.md, report.json, figure.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())

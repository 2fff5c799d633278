"""Command: run folders -> index.html, table.md, report.json and figure.png.

python -m active_learning.report RUN... [--out DIR] [--metric test/accuracy] [--title TITLE]
"""

import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from active_learning.arguments import Parser, run_path
from active_learning.report import charts, page, tables
from active_learning.report.analysis import analyze
from active_learning.report.files import RunError
from active_learning.report.headline import headline
from active_learning.report.runs import load_runs
from active_learning.report.text import clean
from active_learning.storage.addresses import is_bucket
from active_learning.storage.errors import ConfigError, StorageError
from active_learning.storage.runs import published, readable_reports


def write(
    paths: Sequence[str | Path],
    out: Path | str | None,
    metric: str,
    title: str,
    step_seconds: dict[str, float] | None = None,
) -> Path | str:
    """Write index.html, table.md, report.json and figure.png.

    Args:
      paths: Run folders, or folders that hold run folders at any depth; also addresses.
      out: Output folder or address; None for `default_out(paths)`.
      metric: Evaluated metric to compare by; higher is better.
      title: Title of the page.
      step_seconds: If given, replaces the runs' own clocks, see `runs.timed`.

    Returns:
      The output folder.

    Raises:
      RunError: A run folder cannot be used; nothing is written then.
      ConfigError, StorageError: A bucket refuses, or does not answer.
      OSError: The output folder cannot be written.
    """
    title = clean(title)
    runs = load_runs([readable_reports(str(path)) for path in paths], step_seconds)
    analysis = analyze(runs, metric)
    out = out or default_out(paths)
    html = page.render(analysis, title)
    # step_seconds is null if the clocks are the runs' own.
    numbers = tables.report(analysis, title) | {"step_seconds": step_seconds}
    with published(out) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(html, encoding="utf-8")
        (folder / "table.md").write_text(tables.markdown(analysis, title), encoding="utf-8")
        (folder / "report.json").write_text(
            json.dumps(numbers, indent=1, allow_nan=False), encoding="utf-8"
        )
        (folder / "figure.png").write_bytes(charts.main_png(analysis, title))
    print(headline(analysis))
    return out


def default_out(paths: Sequence[str | Path]) -> Path:
    """Return the default output folder: `report` beside the first run, or in a folder of runs.

    For runs in a bucket it is `report` in the current folder.
    """
    if is_bucket(str(paths[0])):
        return Path("report")
    first = Path(paths[0])
    return (first.resolve().parent if (first / "config.json").exists() else first) / "report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
      0; with one line on stderr 2 if a run cannot be used, or 3 if the disk is full or a bucket
      does not answer.
    """
    parser = Parser("active_learning.report", "Run folders -> one HTML page, a table and JSON.")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run folder, or a folder that holds run folders at any depth; also an address",
    )
    parser.add_argument(
        "--out", type=run_path, help="where to write (default: 'report' next to the first run)"
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
        print(f"wrote {clean(out, 1000)}/index.html, table.md, report.json, figure.png", flush=True)
    except BrokenPipeError:  # The reader of our output has closed it, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (RunError, ConfigError, StorageError, OSError) as error:
        print(f"error: {clean(error, 1000)}", file=sys.stderr)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return 3 if full or isinstance(error, StorageError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The small files of a run folder that a later command relies on."""

import json
from pathlib import Path

from active_learning.metrics import LOG, write_atomic

_SUMMARY = {"complete": bool, "final": dict, "flops": dict, "step": int}


def read_summary(workdir: Path) -> dict | None:
    """Reads summary.json.

    Returns:
      The summary, or None when there is none or it is unreadable (half-written by an older version,
      or damaged): the run then continues from its last checkpoint and writes it again.
    """
    path = Path(workdir) / "summary.json"
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_bytes())
        if all(isinstance(summary[name], kind) for name, kind in _SUMMARY.items()):
            return summary
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    LOG.warning("%s: unreadable; it is made again from the last checkpoint", path)
    return None


def write_summary(workdir: Path, summary: dict) -> None:
    """Writes summary.json as a whole."""
    write_atomic(Path(workdir) / "summary.json", json.dumps(summary, indent=1))

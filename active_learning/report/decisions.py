"""What a run with `until='auto'` decided, when and why, from its summary.json."""

from dataclasses import dataclass

from active_learning.report.files import RunError, get_count, get_object, get_text
from active_learning.report.text import clean

# A run makes two or three.
MAX_DECISIONS = 100
MAX_REASON = 400


@dataclass(frozen=True)
class Decision:
    """One decision about selection."""

    step: int
    decision: str
    reason: str


def read_decisions(summary: dict, where: str) -> tuple[Decision, ...]:
    """The decisions in their order; none for a run that decides nothing.

    Raises:
      RunError: They are damaged.
    """
    saved = summary.get("selection") or []
    objects = isinstance(saved, list) and all(isinstance(one, dict) for one in saved)
    if not objects or len(saved) > MAX_DECISIONS:
        raise RunError(f"{where}: 'selection' is not a list of at most {MAX_DECISIONS} objects")
    return tuple(
        Decision(
            get_count(one, "step", where),
            clean(get_text(one, "decision", where)),
            clean(get_text(one, "reason", where), MAX_REASON),
        )
        for one in saved
    )


def read_label_check(summary: dict, where: str) -> str:
    """What is known of the labels, as one line; "" where nothing is."""
    if summary.get("labels") is None:
        return ""
    return clean(get_text(get_object(summary, "labels", where), "text", where), MAX_REASON)

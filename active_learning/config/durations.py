"""Durations with their unit: '2400 steps' (or '2400'), '10 epochs', '300000 examples', '35 %'."""

import math
import re

from active_learning.config.errors import ConfigError

_UNITS = {
    "": "steps",
    "step": "steps",
    "epoch": "epochs",
    "example": "examples",
    "percent": "%",
    "%": "%",
}
_DURATION = re.compile(r"\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:e[0-9]+)?)\s*([A-Za-z]+|%)?\s*")


def is_zero(duration: str | int) -> bool:
    """Whether a duration is zero of its unit; False for what is no duration."""
    match = _DURATION.fullmatch(str(duration))
    return bool(match) and float(match[1]) == 0


def to_steps(
    duration: str | int, key: str, *, batch_size: int, pool: int, total: int | None = None
) -> int:
    """Converts a duration to updates of the learner (rounded).

    Args:
      duration: A number with its unit, e.g. '2400 steps', '10 epochs', '300000 examples', '35 %'.
      key: Dotted key, for error messages.
      batch_size: Examples in an update of the learner.
      pool: Examples in an epoch.
      total: Updates that '%' refers to; None where percentages are not allowed.

    Raises:
      ConfigError: An unknown unit, two durations at once, or '%' without `total`.
    """
    text = str(duration)
    match = _DURATION.fullmatch(text)
    if not match:
        several = len(re.findall(r"[0-9]+\s*(?:[A-Za-z]+|%)", text)) > 1
        expected = "expected a number with steps, epochs, examples or %"
        raise ConfigError(f"{key}={text!r}: {'two durations, give one' if several else expected}")
    number, unit = float(match[1]), (match[2] or "").lower()
    unit = _UNITS.get(unit, _UNITS.get(unit.removesuffix("s")))
    if unit is None:
        raise ConfigError(
            f"{key}={text!r}: unknown unit {match[2]!r}, expected steps, epochs, examples or %"
        )
    if unit == "%" and total is None:
        raise ConfigError(f"{key}={text!r}: a percentage of what? give steps, epochs or examples")
    scale = {
        "steps": 1.0,
        "epochs": pool / batch_size,
        "examples": 1.0 / batch_size,
        "%": (total or 0) / 100.0,
    }
    steps = number * scale[unit]
    if not math.isfinite(steps) or steps > 2**53:
        raise ConfigError(f"{key}={text!r}: too long")
    return round(steps)

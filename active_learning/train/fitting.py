"""Fits the sizes of a shipped config to a small pool."""

import dataclasses

from active_learning.settings import Config, Select

LEAST_BATCH = 8  # The smallest batch that a run is fitted to.


def fitted(config: Config, pool: int, devices: int = 1) -> tuple[Config, list[str]]:
    """Reduces the sizes that `config.fit` names until a pool can serve them.

    Sizes become powers of two, a batch at least `LEAST_BATCH` and one example a device. A config
    whose sizes the pool can serve is returned as it is.

    Args:
      config: The config.
      pool: Examples that candidates are drawn from.
      devices: Devices that share a batch.

    Returns:
      The config, and a line for each change.
    """
    b, ratio, lines = config.batch_size, config.select.ratio, []
    selects = bool(config.select.policy.needs)
    least = max(LEAST_BATCH, devices)
    if "batch_size" in config.fit:
        b = _reduced(b, pool // (ratio if selects else 1), least)
    if selects and "select.ratio" in config.fit and b * ratio > pool:
        ratio = _reduced(ratio, pool // b, 1)
    changes = [
        f"{key} {now} instead of {before}"
        for key, before, now in (
            ("batch_size", config.batch_size, b),
            ("select.ratio", config.select.ratio, ratio),
        )
        if before != now
    ]
    if not changes:
        return config, []
    on = "+".join(config.split.train_on)
    lines.append(f"{', '.join(changes)}: {on} holds only {pool} examples (config.fit)")
    select = dataclasses.replace(config.select, ratio=ratio)
    config = dataclasses.replace(config, batch_size=b, select=select)
    if selects and ratio < 2:
        lines.append(
            f"uniform sampling instead of {select.policy.name}: {pool} examples leave "
            f"nothing to choose from beside a batch of {b}"
        )
        config = without_selection(config)
    return config, lines


def without_selection(config: Config) -> Config:
    """The config with uniform sampling, and no gate."""
    evaluate = dataclasses.replace(config.evaluate, gate="")
    return dataclasses.replace(config, select=Select(), evaluate=evaluate)


def _reduced(size: int, most: int, least: int) -> int:
    """`size` if it is at most `most`, else the largest power of two that is, but not below `least`.

    Never more than `size`.
    """
    if size <= most:
        return size
    power = 1 << max(0, most.bit_length() - 1)
    return min(size, max(power, least))

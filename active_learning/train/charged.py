"""Which examples a pass over the data is charged for."""

import numpy as np

from active_learning.data.parts import Part
from active_learning.settings import Config


def own_runs(config: Config) -> list[Config]:
    """Runs that train a reference for this one."""
    if not config.select.policy.reads_reference:
        return []  # Nothing is read of a reference that the config names all the same.
    return list(config.reference.own_runs(config).values())


def charged_parts(config: Config) -> set[str]:
    """Names of the parts that a pass is charged for.

    These are the parts that the learner or a reference trains on, and the gate where it decides;
    evaluation is never charged.
    """
    names = {name for run in (config, *own_runs(config)) for name in run.split.train_on}
    if config.select.policy.reads_reference:
        names |= config.reference.fitted_parts
    decides = config.select.until == "auto" and config.evaluate.gate
    return names | {config.evaluate.gate} if decides else names


def count_rows(parts: list[Part]) -> int:
    """Examples that are in any of the parts, each counted once."""
    rows: dict[int, list[np.ndarray]] = {}
    for part in parts:
        rows.setdefault(id(part.source), []).append(np.asarray(part.indices))
    return sum(len(np.unique(np.concatenate(one))) for one in rows.values())

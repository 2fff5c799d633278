"""What a run reads that is computed once, before it: features, embeddings, losses."""

from collections.abc import Callable
from pathlib import Path

from active_learning.train.build import Experiment
from active_learning.train.embedding_pass import with_embeddings
from active_learning.train.feature_pass import Bill, located, with_features
from active_learning.train.kernel_pass import with_kernel
from active_learning.train.zero_shot_pass import with_zero_shot


def with_stored(
    experiment: Experiment, workdir: Path, requested: Callable[[], bool] = lambda: False
) -> tuple[Experiment, Bill] | None:
    """Joins what is computed once, and computes what is missing of it.

    Args:
      experiment: One whose models and reference read nothing stored is returned as it is.
      workdir: Folder of the run, where it is kept unless the config says otherwise.
      requested: Asked before each piece whether to stop.

    Returns:
      The experiment and what the passes over the training data cost this run, whether they were
      made now or before; None when it was stopped.

    Raises:
      DataError: What is stored is damaged or of other data.
    """
    experiment, bill = located(experiment, workdir), Bill()
    for join in (with_features, with_embeddings, with_zero_shot, with_kernel):
        joined = join(experiment, requested)
        if joined is None:
            return None
        experiment, bill = joined[0], bill + joined[1]
    return experiment, bill

"""An existing reference examined on a config's data, before the run."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from active_learning import checkpoint
from active_learning.core.step import select_step
from active_learning.references.score_file import score_all
from active_learning.train.build import Experiment, first_state
from active_learning.train.starts import check_param_shapes


@dataclass(frozen=True)
class ReferenceDiagnostics:
    """Fractions of examples; None where there is no gate, or the true labels are unknown."""

    # Accuracy of the reference on the gate.
    gate_accuracy: float | None
    # Labels, and true labels, of the pool that the reference predicts.
    agreement: float
    clean_agreement: float | None
    # Effective sample size over the super-batch, with a fresh online model at the config's
    # temperature.
    ess_fraction: float
    # Corrupted labels in the pool, and among the examples that the first update would select.
    corrupted_pool: float | None
    corrupted_selected: float | None


def diagnose_reference(
    experiment: Experiment, folder: Path, examples: int = 2000
) -> ReferenceDiagnostics:
    """Evaluate a reference on a sample of the pool, on the gate, and on the first super-batch.

    Args:
      experiment: The built experiment that would use the reference.
      folder: Run folder of the reference.
      examples: Size of the sample.

    Raises:
      ConfigError: Where the folder's model is not the config's scorer.
    """
    like = jax.eval_shape(experiment.init_scorer, jax.random.key(0))
    params = check_param_shapes(checkpoint.load_params(folder), like, f"--reference={folder}")
    model, data = experiment.recipe.scorer, experiment.data
    if model is None or data is None:
        raise ValueError("the experiment has no scorer or was assembled without data")
    pool = data.train
    rows = np.arange(min(examples, len(pool)))
    sample = dataclasses.replace(pool.small_view().select(rows), columns={})
    agreement, clean_agreement = score_all(model, params, sample)[1].mean(), None
    if pool.clean_labels is not None:
        clean = dataclasses.replace(sample, labels=sample.clean_labels)
        clean_agreement = float(score_all(model, params, clean)[1].mean())
    gate, accuracy = experiment.config.evaluate.gate, None
    if gate:
        accuracy = float(score_all(model, params, data.parts[gate])[1].mean())
    rows, ess = _first_selection(experiment, params)
    corrupted = pool.is_corrupted
    return ReferenceDiagnostics(
        gate_accuracy=accuracy,
        agreement=float(agreement),
        clean_agreement=clean_agreement,
        ess_fraction=ess,
        corrupted_pool=None if corrupted is None else float(corrupted.mean()),
        corrupted_selected=None if corrupted is None else float(corrupted[rows].mean()),
    )


def _first_selection(experiment: Experiment, params) -> tuple[np.ndarray, float]:
    """Rows of the pool that the first update would select, and the effective sample size."""
    config = experiment.config
    loader = experiment.loader(0)
    batch, rows, _ = loader.peek(config.batch_size * config.select.ratio)
    loader.close()
    step = jax.jit(lambda state, batch: select_step(experiment.recipe, state, batch))
    _, chosen = step(first_state(experiment, params), batch)
    return rows[np.asarray(chosen.indices)], float(chosen.metrics["ess_fraction"])


def diagnostics_lines(diagnostics: ReferenceDiagnostics) -> Iterator[str]:
    """The diagnostics as a table."""
    yield ""
    yield "the reference"
    rows = {
        "accuracy on the gate": diagnostics.gate_accuracy,
        "agreement with the pool's labels": diagnostics.agreement,
        "agreement with the true labels": diagnostics.clean_agreement,
        "effective sample size / super-batch": diagnostics.ess_fraction,
        "corrupted labels in the pool": diagnostics.corrupted_pool,
        "corrupted labels selected first": diagnostics.corrupted_selected,
    }
    for name, value in rows.items():
        yield f"  {name:36s} {'unknown' if value is None else f'{value:.1%}'}"

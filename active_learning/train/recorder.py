"""Per-update selection logging: metric means, ids, corrupted fraction, extreme images."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from active_learning import distributed
from active_learning.core.recipe import Chosen
from active_learning.data.sources.source import join_id
from active_learning.metrics import LOG
from active_learning.references import replay
from active_learning.train.build import Experiment
from active_learning.train.choices import ChoiceCounter

# Effective sample size, as a fraction of the super-batch, above which sampling is nearly uniform.
NEARLY_UNIFORM = 0.95
# Moments of a snapshot, in % of the window; one more is taken at its end.
SNAPSHOTS_AT = (4, 25, 50, 75)


class SelectionLogger:
    """Collects what happens between two log lines, on the host, one update behind the device.

    Args:
      experiment: The run.
      workdir: Its folder.
      step: Updates done already.
    """

    def __init__(self, experiment: Experiment, workdir: Path, step: int):
        self.experiment, self.workdir = experiment, workdir
        self.settings = experiment.config.log
        self.is_corrupted = experiment.data.train.is_corrupted
        self._warned = False
        self._values: dict[str, list[float]] = {}
        self._chosen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._chosen_from = step
        self.counter = self._counter(step)
        window = experiment.steps.window
        moments = {max(1, window * percent // 100) for percent in SNAPSHOTS_AT} | {window}
        self._snapshot_at = moments if window and self.settings.snapshots else set()

    def add(
        self,
        step: int,
        metrics: dict[str, Any],
        chosen: Chosen | None,
        rows: np.ndarray,
        epochs: np.ndarray,
    ) -> None:
        """Adds one update.

        Args:
          step: Updates done.
          metrics: Its scalars, on host.
          chosen: Its selection, on device; None for a uniform update.
          rows: Rows of the training part that were the candidates.
          epochs: Their epochs.
        """
        for name, value in metrics.items():
            self._add(f"train/{name}", value)
        taken, weights, scores = rows, np.ones(len(rows), np.float32), None
        if chosen is not None:
            indices, weights, selected, scores = jax.device_get(
                (chosen.indices, chosen.weights, chosen.metrics, chosen.scores)
            )
            if step in self._snapshot_at:
                self._write_snapshot(step, chosen, rows, epochs)
            taken, epochs = rows[indices], epochs[indices]
            for name, value in selected.items():
                self._add(f"select/{name}", value)
            if self.is_corrupted is not None:
                self._add("candidates/corrupted_fraction", self.is_corrupted[rows].mean())
        if self.is_corrupted is not None:
            self._add("select/corrupted_fraction", self.is_corrupted[taken].mean())
        if self.counter is not None:
            self.counter.add(step, rows, scores, taken)
        if self.settings.chosen:
            part = self.experiment.data.train
            ids = part.ids[taken] if chosen is None else join_id(jax.device_get(chosen.ids))
            self._chosen.append((ids.astype(np.uint64), epochs, weights))

    def _add(self, name: str, value: Any) -> None:
        self._values.setdefault(name, []).append(float(value))

    def summary(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        self._values = {}
        self._warn_if_uniform(means.get("select/ess_fraction", 0.0))
        return means

    def _warn_if_uniform(self, ess: float) -> None:
        policy = self.experiment.recipe.policy
        if self._warned or policy.is_joint or ess <= NEARLY_UNIFORM:
            return
        self._warned = True
        captions = self.experiment.data.train.captions is not None
        scaled = captions and not policy.needs_embeddings
        LOG.warning(
            "the sampling is nearly uniform (effective sample size %.3f of the super-batch): "
            "lower config.select.temperature%s",
            ess,
            ", or raise config.task.score_scale" if scaled else "",
        )

    def _counter(self, step: int) -> ChoiceCounter | None:
        """Counts of all updates up to `step`; None where this process or the run keeps none."""
        if not self.settings.choices or not distributed.is_primary():
            return None
        counter = ChoiceCounter(len(self.experiment.data.train))
        if step and not counter.restore(self.workdir, step):
            LOG.warning("%s: no counts of choices up to update %d", self.workdir, step)
        return counter

    def flush(self, step: int) -> None:
        """Writes what was collected up to `step`: counts, and chosen/FROM.npy and .npz.

        The first are those of `choices`, the second those of `replay`.
        """
        if self.counter is not None:
            # One more than there are checkpoints: the newest may be damaged or not yet complete.
            self.counter.save(self.workdir, step, self.experiment.config.checkpoint.max_to_keep + 1)
            self.counter.write(self.workdir, self.experiment.data.train.ids)
        if not self._chosen:
            return
        choices = replay.Choices(*(np.stack(values) for values in zip(*self._chosen, strict=True)))
        replay.write(self.workdir / "chosen", self._chosen_from, choices)
        self._chosen_from += len(self._chosen)
        self._chosen = []

    def _write_snapshot(
        self, step: int, chosen: Chosen, rows: np.ndarray, epochs: np.ndarray
    ) -> None:
        """Writes the scores of a super-batch with its highest- and lowest-scoring examples.

        For pairs: the highest of the chosen and the lowest of the rejected, with their captions.
        """
        n, pairs = self.settings.snapshots, self.experiment.data.train.captions is not None
        scores, indices = jax.device_get((chosen.scores, chosen.indices))
        order = np.argsort(-scores, kind="stable")
        taken = np.isin(order, indices)
        sides = {"top": order, "bottom": order[::-1]}
        if pairs:
            sides = {"top": order[taken], "bottom": order[~taken][::-1]}
        out: dict[str, Any] = {"scores": scores.astype(np.float32)}
        for name, places in sides.items():
            shown = places[:n]
            columns = self._pairs if pairs else self._labels
            columns = columns(rows[shown], epochs[shown]) | {
                "image": self.experiment.data.train.images(rows[shown]),
                "score": scores[shown].astype(np.float32),
            }
            out |= {f"{column}_{name}": values for column, values in columns.items()}
        folder = self.workdir / "snapshots"
        folder.mkdir(exist_ok=True)
        np.savez(folder / f"{step:08d}.npz", **out)

    def _labels(self, rows: np.ndarray, epochs: np.ndarray) -> dict[str, np.ndarray]:
        del epochs
        part, unknown = self.experiment.data.train, np.full(len(rows), -1, np.int32)
        clean = unknown if part.clean_labels is None else part.clean_labels[rows]
        return {"label": part.labels[rows], "clean_label": clean.astype(np.int32)}

    def _pairs(self, rows: np.ndarray, epochs: np.ndarray) -> dict[str, np.ndarray]:
        part = self.experiment.data.train
        assert part.captions is not None and part.caption_of is not None
        caption_of = part.caption_of[rows]
        text = part.captions.drawn_text(caption_of, part.ids[rows], epochs)
        return {
            "label": caption_of.astype(np.int64),
            "clean_label": part.indices[rows],
            "text": np.array(text),
        }

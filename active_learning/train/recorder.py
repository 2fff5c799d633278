"""Per-update selection logging: metric means, ids, corrupted fraction, extreme images."""

from pathlib import Path

import jax
import numpy as np

from active_learning.core.recipe import Chosen
from active_learning.data.sources.source import join_id
from active_learning.metrics import LOG
from active_learning.references import replay
from active_learning.train.build import Experiment

NEARLY_UNIFORM = 0.95  # effective share of the super-batch above which selection is hardly one


class SelectionLogger:
    """Collects between two log lines; everything here is NumPy on the host, one step behind the device."""

    def __init__(self, experiment: Experiment, workdir: Path, step: int):
        self.experiment, self.workdir = experiment, workdir
        self.settings = experiment.config.log
        self.is_corrupted = experiment.data.train.is_corrupted
        self._warned = False
        self._values: dict[str, list[float]] = {}
        self._chosen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._chosen_from = step
        window = experiment.steps.window
        self._snapshot_at = (
            {max(1, window * share // 100) for share in (4, 25, 50, 75)} | {window}
            if window
            else set()
        )

    def add(
        self, step: int, metrics: dict, chosen: Chosen | None, rows: np.ndarray, epochs: np.ndarray
    ) -> None:
        """One step: its scalars, and what was chosen of the super-batch `rows` (row numbers within the training part)."""
        for name, value in metrics.items():
            self._values.setdefault(f"train/{name}", []).append(float(value))
        taken, weights = rows, np.ones(len(rows), np.float32)
        if chosen is not None:
            indices, weights, selected = jax.device_get(
                (chosen.indices, chosen.weights, chosen.metrics)
            )
            if step in self._snapshot_at and self.settings.snapshots:
                self._write_snapshot(step, chosen, rows, epochs)
            taken, epochs = rows[indices], epochs[indices]
            for name, value in selected.items():
                self._values.setdefault(f"select/{name}", []).append(float(value))
            if self.is_corrupted is not None:
                self._values.setdefault("candidates/corrupted_fraction", []).append(
                    float(self.is_corrupted[rows].mean())
                )
        if self.is_corrupted is not None:
            self._values.setdefault("select/corrupted_fraction", []).append(
                float(self.is_corrupted[taken].mean())
            )
        if self.settings.chosen:
            part = self.experiment.data.train
            ids = (
                part.source.ids[part.indices[taken]]
                if chosen is None
                else join_id(jax.device_get(chosen.ids))
            )
            self._chosen.append((ids.astype(np.uint64), epochs, weights))

    def summary(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        policy = self.experiment.recipe.policy
        if means.get("select/ess_fraction", 0.0) > NEARLY_UNIFORM and not self._warned and not policy.is_joint:
            self._warned = True
            by_product = self.experiment.data.train.captions is not None and not policy.needs_embeddings
            LOG.warning(
                "the sampling is nearly uniform (effective share %.3f of the super-batch): lower config.select.temperature%s",
                means["select/ess_fraction"],
                ", or raise config.task.score_scale" if by_product else "",
            )
        self._values = {}
        return means

    def flush(self) -> None:
        """Writes the choices noted so far: chosen/FROM.npy and .npz, see `replay`."""
        if not self._chosen:
            return
        choices = replay.Choices(*(np.stack(values) for values in zip(*self._chosen, strict=True)))
        replay.write(self.workdir / "chosen", self._chosen_from, choices)
        self._chosen_from += len(self._chosen)
        self._chosen = []

    def _write_snapshot(self, step: int, chosen: Chosen, rows: np.ndarray, epochs: np.ndarray) -> None:
        """The extremes: the highest scores among the chosen and the lowest among the rejected for pairs, which carry their captions; else the
        highest and lowest of all.
        """
        part, n = self.experiment.data.train, self.settings.snapshots
        scores, indices = jax.device_get((chosen.scores, chosen.indices))
        order, pairs = np.argsort(-scores, kind="stable"), part.captions is not None
        taken = np.isin(order, indices)
        sides = (
            {"top": order[taken], "bottom": order[~taken][::-1]}
            if pairs
            else {"top": order, "bottom": order[::-1]}
        )
        out = {"scores": scores.astype(np.float32)}
        for name, places in sides.items():
            shown, when = rows[places[:n]], epochs[places[:n]]
            out |= {
                f"image_{name}": part.images(shown),
                f"score_{name}": scores[places[:n]].astype(np.float32),
            }
            if pairs:
                whose, ids = part.caption_of[shown], part.source.ids[part.indices[shown]]
                out |= {
                    f"label_{name}": whose.astype(np.int64),
                    f"truth_{name}": part.indices[shown],
                }
                out[f"text_{name}"] = np.array(part.captions.drawn_text(whose, ids, when))
            else:
                clean = (
                    np.full(len(shown), -1, np.int32) if part.clean_labels is None else part.clean_labels[shown]
                )
                out |= {
                    f"label_{name}": part.labels[shown],
                    f"truth_{name}": clean.astype(np.int32),
                }
        (self.workdir / "snapshots").mkdir(exist_ok=True)
        np.savez(self.workdir / "snapshots" / f"{step:08d}.npz", **out)

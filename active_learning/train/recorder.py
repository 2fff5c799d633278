"""What the loop notes of each step's choice: means for the log, ids, wrong labels among the chosen, pictures of the extremes."""

from pathlib import Path

import jax
import numpy as np

from active_learning.core.recipe import Chosen
from active_learning.data.sources.source import join_id
from active_learning.metrics import LOG
from active_learning.references import replay
from active_learning.train.build import Run

NEARLY_UNIFORM = 0.95  # effective share of the super-batch above which selection is hardly one


class Notes:
    """Collects between two log lines; everything here is NumPy on the host, one step behind the device."""

    def __init__(self, it: Run, workdir: Path, step: int):
        self.it, self.workdir, self.settings = it, workdir, it.config.log
        train = it.data.train
        self.wrong, self._warned = train.wrong, False
        self._values: dict[str, list[float]] = {}
        self._chosen: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._chosen_from = step
        window = it.clock.window
        self._probe_at = (
            {max(1, window * share // 100) for share in (4, 25, 50, 75)} | {window}
            if window
            else set()
        )

    def add(
        self, step: int, figures: dict, chosen: Chosen | None, rows: np.ndarray, epochs: np.ndarray
    ) -> None:
        """One step: its scalars, and what was chosen of the super-batch `rows` (row numbers within the training part)."""
        for name, value in figures.items():
            self._values.setdefault(f"train/{name}", []).append(float(value))
        taken, weights = rows, np.ones(len(rows), np.float32)
        if chosen is not None:
            indices, weights, selected = jax.device_get(
                (chosen.indices, chosen.weights, chosen.metrics)
            )
            if step in self._probe_at and self.settings.probes:
                self._picture(step, chosen, rows, epochs)
            taken, epochs = rows[indices], epochs[indices]
            for name, value in selected.items():
                self._values.setdefault(f"select/{name}", []).append(float(value))
            if self.wrong is not None:
                self._values.setdefault("pool/wrong_share", []).append(
                    float(self.wrong[rows].mean())
                )
        if self.wrong is not None:
            self._values.setdefault("select/wrong_share", []).append(
                float(self.wrong[taken].mean())
            )
        if self.settings.chosen:
            part = self.it.data.train
            ids = (
                part.source.ids[part.indices[taken]]
                if chosen is None
                else join_id(jax.device_get(chosen.ids))
            )
            self._chosen.append((ids.astype(np.uint64), epochs, weights))

    def summary(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        policy = self.it.recipe.policy
        if means.get("select/ess_fraction", 0.0) > NEARLY_UNIFORM and not self._warned and not policy.is_joint:
            self._warned = True
            by_product = self.it.data.train.captions is not None and not policy.needs_embeddings
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

    def _picture(self, step: int, chosen: Chosen, rows: np.ndarray, epochs: np.ndarray) -> None:
        """The extremes: the highest scores among the chosen and the lowest among the rejected for pairs, which carry their captions; else the
        highest and lowest of all."""
        part, n = self.it.data.train, self.settings.probes
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
            these, when = rows[places[:n]], epochs[places[:n]]
            out |= {
                f"image_{name}": part.images(these),
                f"score_{name}": scores[places[:n]].astype(np.float32),
            }
            if pairs:
                whose, ids = part.caption_of[these], part.source.ids[part.indices[these]]
                out |= {
                    f"label_{name}": whose.astype(np.int64),
                    f"truth_{name}": part.indices[these],
                }
                out[f"text_{name}"] = np.array(part.captions.drawn_text(whose, ids, when))
            else:
                truth = (
                    np.full(len(these), -1, np.int32) if part.truth is None else part.truth[these]
                )
                out |= {
                    f"label_{name}": part.labels[these],
                    f"truth_{name}": truth.astype(np.int32),
                }
        (self.workdir / "probe").mkdir(exist_ok=True)
        np.savez(self.workdir / "probe" / f"{step:08d}.npz", **out)

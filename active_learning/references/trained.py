"""A reference trained here: a run of its own, on its own part of the split."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from active_learning import checkpoint, distributed
from active_learning.config import ConfigError, setting
from active_learning.core.optim import Optim
from active_learning.data.parts import Data
from active_learning.models.on_features import alone
from active_learning.references.base import Obtained, Reference, TrainRun


@dataclass(frozen=True)
class Trained(Reference):
    """Trained on a held-out part (and others), or found complete in its folder."""

    kind_name = "trained"

    # Run folder or address to train it into, or to find it complete in; '': WORKDIR/reference.
    path: str = ""
    # The part of the split that it is trained on.
    part: str = "reference"
    # Further parts, e.g. the rest beside a small curated part; all are drawn from alike.
    also: tuple[str, ...] = ()
    # Duration of its training; 0: an untrained reference (a control).
    total: str = "1000 steps"
    batch_size: int = setting(128, at_least=1, at_most=2**24)
    optim: Optim = Optim(learning_rate=2e-3)
    # Whether its training is on this run's bill.
    charge: bool = True
    # Added to the run's seed.
    seed: int = setting(0, at_least=0, below=2**31)

    def check(self, config: Any) -> None:
        if not config.select.policy.reads_reference:
            return
        judged = (*config.evaluate.sets, config.evaluate.gate)
        for key, part in self._trained_on():
            if part in judged:
                raise ConfigError(
                    f"{key}={part!r} is also an evaluation set; choose a part "
                    "that is not in config.evaluate.sets and not config.evaluate.gate"
                )
        if self.part in self.also or len(set(self.also)) < len(self.also):
            raise ConfigError(
                f"config.reference.also={self.also}: names a part twice, with "
                f"config.reference.part={self.part!r}"
            )

    def held_out(self, config: Any) -> bool:
        return not {self.part, *self.also} & set(config.split.train_on)

    def own_runs(self, config: Any) -> dict[str, Any]:
        return {"": own_run_config(config, self, train_on=(self.part, *self.also))}

    def pool_size(self, config: Any, data: Data, name: str) -> int:
        known = config.split.parts or {"pool": 1}
        for key, part in self._trained_on():
            if part not in known:
                raise ConfigError(f"{key}={part!r}: no part is named so; parts: {', '.join(known)}")
        return sum(len(data.parts[part]) for _, part in self._trained_on())

    def _trained_on(self) -> list[tuple[str, str]]:
        """Key and name of each part that it is trained on."""
        more = [("config.reference.also", name) for name in self.also]
        return [("config.reference.part", self.part), *more]

    def obtain(self, experiment: Any, workdir: Path, train: TrainRun) -> Obtained | None:
        with distributed.writable(self.path or workdir / "reference", shared=True) as place:
            summary = train(self.own_runs(experiment.config)[""], place.folder)
            if not summary["complete"]:
                return None
            return obtained(summary, params_of(place.folder))

    def planned_training_flops(self, config: Any, steps_of: Callable, per_example: float) -> float:
        runs = self.own_runs(config).values()
        return sum(steps_of(own) * own.batch_size for own in runs) * per_example


def params_of(folder: Path) -> Any:
    """The learner's parameters of a run that all processes have just finished."""
    distributed.share(folder)
    with distributed.agreement("reference"):
        return checkpoint.load_params(folder)


def obtained(summary: dict, params: Any) -> Obtained:
    """A finished run as a reference."""
    return Obtained(
        params, summary["final"], summary["flops"], summary["train_seconds"], summary["step"]
    )


def own_run_config(config: Any, reference: Any, **split: Any) -> Any:
    """The run that trains a reference: the scorer's architecture, uniformly, on part of the data.

    Args:
      config: The config of the run that needs the reference.
      reference: Its section, with the keys of `Trained` except those of parts.
      **split: Fields of the split that decide what it is trained on.
    """
    return dataclasses.replace(
        config,
        name="reference",
        baseline=False,
        seed=config.seed + reference.seed,
        learner=alone(config.scorer, config.learner),
        batch_size=reference.batch_size,
        total=reference.total,
        optim=reference.optim,
        scorer_optim=Optim(),
        select=type(config.select)(),
        flexi=type(config.flexi)(),
        distill=type(config.distill)(),
        reference=Trained(),
        init_from="",
        fsdp=1,
        small_view=bool(config.data.small),
        fit=("batch_size",) if "reference.batch_size" in config.fit else (),
        split=dataclasses.replace(config.split, **split),
        evaluate=dataclasses.replace(config.evaluate, every="20 %", gate=""),
        log=dataclasses.replace(config.log, chosen=False),
        checkpoint=type(config.checkpoint)(every="50 %"),
    )

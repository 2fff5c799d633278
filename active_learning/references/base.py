"""Where a reference comes from: the value behind `config.reference`, one class for each way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jax
from jaxtyping import PyTree

from active_learning.config import ConfigError, Section, fields_of
from active_learning.cost.ledger import ACCOUNTS
from active_learning.data.parts import Data
from active_learning.models.published import Published

# Trains one run: (config, workdir) -> its summary, or one with complete=False when it was stopped.
TrainRun = Callable[[Any, Path], dict]


@dataclass(frozen=True)
class Obtained:
    """A reference that is ready for use.

    Attributes:
      params: Its parameters (K of them on a leading axis when cross-fitted); None when the run
        itself holds or needs none.
      metrics: Its own final metrics, where known.
      flops: What its training cost, by account.
      train_seconds, step: Wall-clock seconds and updates of its training.
    """

    params: PyTree | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    train_seconds: float = 0.0
    step: int = 0


class Reference(Section):
    """A source of reference scores. It has the scorer's architecture, or that of its weights.

    `kind` in a config names one of the subclasses; each knows what it needs, what it refuses, what
    it charges, and how its scores reach the step.
    """

    variants = True
    default_kind: ClassVar[str] = "trained"

    # Reference models that score each super-batch while the run trains.
    models_scoring: ClassVar[int] = 1
    # Whether the state holds reference parameters when the run begins.
    has_params: ClassVar[bool] = True
    # Whether it exists before the first update, so that it can score the whole pool once.
    exists_before: ClassVar[bool] = True
    # Whether it is trained along with the learner, on every super-batch.
    trains_along: ClassVar[bool] = False
    # Whether it is a model of its own, which summaries report.
    reported: ClassVar[bool] = True
    # Whether its training is on the run's bill.
    charge: bool = True
    # Folder or file it comes from or goes to; '': none, or WORKDIR/reference.
    path: str = ""

    def as_kind(self, kind: type["Reference"], **changes: Any) -> "Reference":
        """A reference of another kind with the keys that both have, and `changes`."""
        names = fields_of(type(self)).keys() & fields_of(kind).keys()
        return kind(**{name: getattr(self, name) for name in names} | changes)

    def held_out(self, config: Any) -> bool:
        """Whether it was certainly not trained on the examples it scores."""
        del config
        return False

    @property
    def title(self) -> str:
        """What it is, for logs."""
        return self.kind_name

    @property
    def fitted_parts(self) -> set[str]:
        """Parts of the split, beside those of runs of its own, whose labels it is made of."""
        return set()

    def check(self, config: Any) -> None:
        """Refuses what cannot work with this config. Raises ConfigError."""

    def own_runs(self, config: Any) -> dict[str, Any]:
        """Configs of the runs that train it, by the subfolder of each ('' for a single one)."""
        del config
        return {}

    def check_own_runs(self, config: Any, data: Data, resolve: Callable[[Any, int], Any]) -> None:
        """Checks the runs that train it before anything is written.

        Args:
          config: The config of the run that needs the reference.
          data: The data of that run.
          resolve: Checks one config on a pool of so many examples; raises ConfigError.
        """
        for name, own in self.own_runs(config).items():
            pool = self.pool_size(config, data, name)
            try:
                resolve(own, pool)
            except ConfigError as error:
                raise ConfigError(f"config.reference, as a run of its own: {error}") from error

    def pool_size(self, config: Any, data: Data, name: str) -> int:
        """Examples that its own run `name` trains on."""
        raise NotImplementedError

    def attach(self, config: Any, data: Data, view: str) -> tuple[Data, dict | None]:
        """Joins the columns it brings to the data.

        Returns:
          The data, and its accuracy and loss on the gate where they are known without a model.
        """
        del config, view
        return data, None

    def obtain(self, experiment: Any, workdir: Path, train: TrainRun) -> Obtained | None:
        """Makes it ready: trains, loads or copies it. None when it was stopped before its end."""
        raise NotImplementedError

    def recipe_fields(self, config: Any, scorer_model: Callable) -> dict[str, Any]:
        """Fields of `core.recipe.Recipe` that it decides.

        Args:
          config: The config of the run.
          scorer_model: Optim section -> the scorer as a `Model` with that optimizer.
        """
        del config, scorer_model
        return {}

    def initial_params(self, params: PyTree | None, fresh: Callable[[], PyTree]) -> PyTree | None:
        """Reference parameters of the first train state; `fresh` makes untrained ones."""
        del fresh
        return params

    def published(self, config: Any) -> Published | None:
        """Published weights that it is; None for references of the scorer's architecture.

        Raises:
          ConfigError: Weights that this config has no use for.
        """
        del config
        return None

    def abstract_params(self, one: PyTree) -> PyTree | None:
        """Shapes of what `obtain` will return, given the shapes of one model's parameters."""
        return one if self.has_params else None

    def each(self, params: PyTree) -> list[PyTree]:
        """The parameters of each reference model."""
        return [params]

    def one_of(self, params: PyTree) -> PyTree:
        """The parameters of one model, to compare their shapes."""
        return params

    def batch_columns(self, module: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Further columns of a super-batch: name -> numpy type and shape of one example.

        Args:
          module: That of the reference.
        """
        del module
        return {}

    def sized(
        self,
        image_shape: tuple[int, int, int],
        images: Callable[[], int],
        classes: int,
        run_flops: float,
    ) -> tuple["Reference", float]:
        """Itself with sizes that depend on the run, and what it costs before the first update.

        Args:
          image_shape: Of the images that it sees.
          images: How many the run is charged for.
          classes: Classes of the data.
          run_flops: FLOPs of the run without selection.

        Returns:
          The reference, and a fraction of `run_flops` where that is decided here.
        """
        del image_shape, images, classes, run_flops
        return self, 0.0

    def for_plan(self) -> "Reference":
        """The reference that a plan can do with where the files of this one are not at hand."""
        return self

    def planned_training_flops(self, config: Any, steps_of: Callable, per_example: float) -> float:
        """FLOPs of training it that a plan can know beforehand.

        Args:
          config: The config to plan.
          steps_of: (config of a run) -> its updates.
          per_example: FLOPs of training the scorer on one example.
        """
        del config, steps_of, per_example
        return 0.0

    def planned_pass_flops(
        self, image_shape: tuple[int, int, int], images: int, captions: int, classes: int
    ) -> float:
        """FLOPs of computing once what it stores, as far as the run is charged for that.

        Args:
          image_shape: Of the images that it sees.
          images: How many are charged for.
          captions: How many these images have; 0 without captions.
          classes: Classes of the data.
        """
        del image_shape, images, captions, classes
        return 0.0


def single(params: PyTree, k: int) -> PyTree:
    """Model k of parameters with a leading axis."""
    return jax.tree.map(lambda leaf: leaf[k], params)


class WithoutModel:
    """What references share whose scores come with each batch: no model of theirs runs."""

    models_scoring = 0
    has_params = False

    def obtain(self, experiment: Any, workdir: Path, train: TrainRun) -> Obtained | None:
        """No parameters: what it brings was joined to the data."""
        del workdir, train
        free: dict[str, float] = dict.fromkeys(ACCOUNTS, 0.0)  # the pass was charged with the data
        return Obtained(None, dict(experiment.known.final), free, experiment.known.seconds)

    def each(self, params: PyTree) -> list[PyTree]:
        """None."""
        del params
        return []

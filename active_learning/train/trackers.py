"""Copies of the logged scalars in experiment trackers: TensorBoard, Weights & Biases, MLflow.

A run's own record is metrics.jsonl. A tracker that fails is left out from then on, with a warning;
it never ends a run. Where and as whom they write is read from their own environment variables
(WANDB_MODE=offline, MLFLOW_TRACKING_URI, ...).
"""

import hashlib
import importlib.util
import os
import time
from pathlib import Path
from typing import Protocol

from active_learning.config import ConfigError
from active_learning.metrics import LOG


class Tracker(Protocol):
    """Takes scalars of one update."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds the values of an update."""
        ...

    def close(self) -> None:
        """Ends the run."""
        ...


class TensorBoard:
    """Event files in WORKDIR/tensorboard."""

    def __init__(self, workdir: Path):
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds the values of an update."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the event file."""
        self._board.close()


class WandB:
    """A run of Weights & Biases, continued when the run is; its files are in WORKDIR/wandb."""

    def __init__(self, project: str, workdir: Path, name: str):
        import wandb  # pyright: ignore[reportMissingImports]  # extra [wandb]

        self._run = wandb.init(
            project=project, dir=str(workdir), name=name, id=_identifier(workdir), resume="allow"
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds the values of an update."""
        self._run.log(values, step=step)

    def close(self) -> None:
        """Uploads what is left."""
        self._run.finish()


class MLflow:
    """A run of MLflow, continued when the run is; without MLFLOW_TRACKING_URI in WORKDIR/mlflow."""

    _TAG = "active_learning.run"

    def __init__(self, experiment: str, workdir: Path, name: str):
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:  # MLflow writes to plain folders on request only.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (workdir / "mlflow").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(experiment)
        number = (
            self._client.create_experiment(experiment) if known is None else known.experiment_id
        )
        same = f"tags.`{self._TAG}` = '{_identifier(workdir)}'"
        before = self._client.search_runs([number], same, max_results=1)
        self._id = (
            before[0].info.run_id
            if before
            else self._client.create_run(
                number, run_name=name, tags={self._TAG: _identifier(workdir)}
            ).info.run_id
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds the values of an update."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(1000 * time.time())
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._id)


class Trackers:
    """All trackers of a run.

    Args:
      workdir: The run's folder.
      name: The run's name.
      tensorboard: Whether TensorBoard is one of them.
      wandb: Project of Weights & Biases; "": none.
      mlflow: Experiment of MLflow; "": none.
    """

    def __init__(
        self,
        workdir: Path,
        name: str,
        *,
        tensorboard: bool = False,
        wandb: str = "",
        mlflow: str = "",
    ):
        self._trackers: list[Tracker] = []
        if tensorboard:
            self._trackers.append(TensorBoard(workdir))
        if wandb:
            self._try(lambda: self._trackers.append(WandB(wandb, workdir, name)))
        if mlflow:
            self._try(lambda: self._trackers.append(MLflow(mlflow, workdir, name)))

    def write(self, step: int, values: dict[str, object]) -> None:
        """Adds the scalars among the values of an update."""
        scalars = {
            name: float(value) for name, value in values.items() if isinstance(value, int | float)
        }
        for tracker in list(self._trackers):
            if not self._try(lambda tracker=tracker: tracker.write(step, scalars)):
                self._trackers.remove(tracker)

    def close(self) -> None:
        """Closes all."""
        for tracker in self._trackers:
            self._try(tracker.close)

    @staticmethod
    def _try(action) -> bool:
        try:
            action()
        except Exception as error:  # Whatever a tracker raises, the run goes on.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            LOG.warning("a tracker failed; the run goes on without it: %s", reason)
            return False
        return True


def check_installed(tensorboard: bool, wandb: str, mlflow: str) -> None:
    """Raises ConfigError for a tracker that is asked for and not installed."""
    for asked, module, key, extra in (
        (tensorboard, "tensorboardX", "tensorboard", "logging"),
        (wandb, "wandb", "wandb", "wandb"),
        (mlflow, "mlflow", "mlflow", "mlflow"),
    ):
        if asked and importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"config.log.{key}={asked!r}: needs {module}, pip install -e '.[{extra}]'"
            )


def _identifier(workdir: Path) -> str:
    """A name of the run folder, by which a tracker finds the run again."""
    return hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()[:16]

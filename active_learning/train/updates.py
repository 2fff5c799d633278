"""How an update is carried out: selection and training in one jit, or in two, with a second look at what was chosen in between.

exact            train_step
exact, deferred  select_step on the small views, the chosen rows are read in full, train_on_selection
ahead            select_step for update n + 1 (by the online model after update n - 1), train_on_selection for update n: selection, and reading
                 what it chose, hide behind the training; the choice for n + 1 is `TrainState.pending`
"""

from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from active_learning.core.recipe import Chosen, TrainState
from active_learning.core.sharding import aot_compile, replicated
from active_learning.core.step import select_step, train_on_selection, train_step, uniform_step
from active_learning.data.loader import LoadedBatch, Loader
from active_learning.data.sources.source import join_id
from active_learning.train.build import Experiment


class UpdateOutput(NamedTuple):
    """Outputs of one update.

    Attributes:
      metrics: Scalars, on device.
      chosen: The selection, on device; None for uniform updates.
      rows, epochs: Dataset rows and epochs of the candidates, on host.
    """

    metrics: dict[str, Any]
    chosen: Chosen | None
    rows: np.ndarray
    epochs: np.ndarray


class _PreparedBatch(NamedTuple):
    """A super-batch whose choice is `TrainState.pending`."""

    position: int
    batch: LoadedBatch
    full: Future | None


def with_pending(experiment: Experiment, state: TrainState) -> TrainState:
    """The state with room for a pending choice, where one is made ahead: what a checkpoint of such a run looks like."""
    if experiment.config.select.schedule == "exact" or not experiment.steps.window:
        return state
    one, size = np.zeros(1, np.int64), experiment.config.select.ratio * experiment.config.batch_size
    example = experiment.data.train.batch(one, one.astype(np.int32), experiment.two_stage_decode)
    batch = {
        name: jax.ShapeDtypeStruct((size, *rows.shape[1:]), rows.dtype)
        for name, rows in example.items()
    }
    chosen = jax.eval_shape(partial(select_step, experiment.recipe), state, batch)[1]
    room = jax.jit(
        lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), chosen),
        out_shardings=replicated(experiment.mesh),
    )
    return replace(state, pending=room())


class UpdateRunner:
    """Carries out updates; every kind is compiled once, ahead of time. `restored`: the state's pending choice is a real one."""

    def __init__(self, experiment: Experiment, loader: Loader, restored: bool):
        self.experiment, self.loader, self.restored = experiment, loader, restored
        self.ahead, b = experiment.config.select.schedule == "ahead", experiment.config.batch_size
        self.sizes = {True: b * experiment.config.select.ratio, False: b}  # by "selection is on"
        self._compiled: dict[str, Any] = {}
        self._prepared: _PreparedBatch | None = None

    @property
    def position(self) -> int:
        """Where the next update's candidates begin."""
        return self.loader.position if self._prepared is None else self._prepared.position

    def compiled(self, active: bool) -> bool:
        return ("train" if active else "uniform") in self._compiled

    def compile(self, state: TrainState, active: bool) -> None:
        """Ahead of time, so that no compilation is ever on the training clock."""
        recipe, everywhere, state = (
            self.experiment.recipe,
            replicated(self.experiment.mesh),
            replace(state, pending=None),
        )
        if not active:
            self.discard_pending()
        batch = self.loader.peek(self.sizes[active], active and self.experiment.two_stage_decode)
        examples, step = [batch.batch], train_step if active else uniform_step
        if active and (self.ahead or self.experiment.two_stage_decode):
            select = jax.jit(partial(_select, recipe), out_shardings=everywhere)
            self._compiled["select"] = select.lower(state, batch.batch, 0).compile()
            _, chosen = self._compiled["select"](state, batch.batch, 0)
            full = self._fetch_full(chosen, batch)
            examples, step = (
                [batch.batch, chosen, None if full is None else full.result()],
                train_on_selection,
            )
        run = aot_compile(partial(step, recipe), state, *examples, rest=everywhere)
        self._compiled["train" if active else "uniform"] = run

    def __call__(self, state: TrainState, active: bool, more: bool) -> tuple[TrainState, UpdateOutput]:
        """One update; `more`: selection will be on in the next one as well. Dispatches, and waits for data only."""
        last = state.step  # of the update before, which is not donated yet
        self.loader.busy = lambda: not last.is_deleted() and not last.is_ready()
        pending, state = state.pending, replace(state, pending=None)
        if not active:
            self.discard_pending()
            batch = self.loader.next(self.sizes[False])
            state, metrics = self._compiled["uniform"](state, batch.batch)
            return replace(state, pending=pending), UpdateOutput(metrics, None, batch.rows, batch.epochs)
        if self.ahead:
            return self._ahead(state, pending, more)
        return self._exact(state)

    def _exact(self, state: TrainState) -> tuple[TrainState, UpdateOutput]:
        batch = self.loader.next(self.sizes[True], self.experiment.two_stage_decode)
        if not self.experiment.two_stage_decode:
            state, (metrics, chosen) = self._compiled["train"](state, batch.batch)
        else:
            state, chosen = self._select_now(state, batch, 0)
            full = self.loader.wait(self._fetch_full(chosen, batch))
            state, metrics = self._compiled["train"](state, batch.batch, chosen, full)
        return state, UpdateOutput(metrics, chosen, batch.rows, batch.epochs)

    def _ahead(
        self, state: TrainState, pending: Chosen | None, more: bool
    ) -> tuple[TrainState, UpdateOutput]:
        if self._prepared is None:
            state, pending = self._prepare(state, 0, pending if self.restored else None)
        (_, batch, full), chosen = self._prepared, pending
        self._prepared = None
        if more:
            state, pending = self._prepare(state, 1)
        full = None if full is None else self.loader.wait(full)
        state, metrics = self._compiled["train"](state, batch.batch, chosen, full)
        return replace(state, pending=pending), UpdateOutput(metrics, chosen, batch.rows, batch.epochs)

    def _prepare(
        self, state: TrainState, ahead: int, pending: Chosen | None = None
    ) -> tuple[TrainState, Chosen]:
        """The next super-batch and its choice (`pending` where it was made before the run stopped)."""
        position, batch = self.loader.position, self.loader.next(self.sizes[True], self.experiment.two_stage_decode)
        if pending is None:
            state, pending = self._select_now(state, batch, ahead)
        self._prepared = _PreparedBatch(position, batch, self._fetch_full(pending, batch))
        return state, pending

    def _select_now(self, state: TrainState, batch: LoadedBatch, ahead: int) -> tuple[TrainState, Chosen]:
        policy_state, chosen = self._compiled["select"](state, batch.batch, ahead)
        return replace(state, policy_state=policy_state), chosen

    def _fetch_full(self, chosen: Chosen, batch: LoadedBatch) -> Future | None:
        """The chosen rows, read in full once the choice is there; None where the super-batch holds them already."""
        if not self.experiment.two_stage_decode:
            return None

        def find():
            indices, ids = jax.device_get((chosen.indices, chosen.ids))
            return self.experiment.data.train.rows_of(join_id(ids)), batch.epochs[indices]

        return self.loader.fetch(find)

    def discard_pending(self) -> bool:
        """Forgets a choice made ahead, as if its candidates had never been read. Whether there was one."""
        had = self._prepared is not None
        self.loader.position, self._prepared = self.position, None
        return had


def _select(recipe, state: TrainState, batch, ahead) -> tuple[Any, Chosen]:
    """select_step for the update `ahead` of the state's: what changes in the state, and the choice."""
    state, chosen = select_step(recipe, replace(state, step=state.step + ahead), batch)
    return state.policy_state, chosen

"""Carries out updates: selection and training in one jit, or in two with a full read in between.

exact             train_step.
exact, two-stage  select_step on small views, the chosen rows are decoded in full, then
                  train_on_selection.
ahead             select_step for update n + 1, by the online model after update n - 1, then
                  train_on_selection for update n. Selection, and decoding what it chose, hide
                  behind training; the choice for n + 1 is `TrainState.pending`.
"""

from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from active_learning.core import infobatch
from active_learning.core.recipe import Batch, Chosen, Recipe, TrainState
from active_learning.core.sharding import aot_compile, replicated
from active_learning.core.step import select_step, train_on_selection, train_step, uniform_step
from active_learning.data.loader import LoadedBatch, Loader
from active_learning.data.pruned import Pruned
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
    """The state with room for a pending choice, where selection runs ahead.

    A checkpoint of such a run has this structure.
    """
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
    """Carries out updates; each kind is compiled once, ahead of time.

    Args:
      experiment: The run.
      loader: Feeds it.
      restored: Whether the state's pending choice was restored from a checkpoint.
    """

    def __init__(self, experiment: Experiment, loader: Loader, restored: bool):
        self.experiment, self.loader, self.restored = experiment, loader, restored
        self.ahead, b = experiment.config.select.schedule == "ahead", experiment.config.batch_size
        # Examples drawn for an update, by whether selection is on.
        self.sizes = {True: b * experiment.config.select.ratio, False: b}
        self._compiled: dict[str, Any] = {}
        self._prepared: _PreparedBatch | None = None

    @property
    def position(self) -> int:
        """Where the next update's candidates begin."""
        return self.loader.position if self._prepared is None else self._prepared.position

    def begin_epoch(self, state: TrainState) -> TrainState:
        """The state before the next update; where a stream draws by remembered losses, its epoch.

        A restored run first draws the epoch in which it was stopped again.
        """
        stream = self.loader.stream
        while self.position >= stream.end:
            assert isinstance(stream, Pruned), "other streams have no end"
            memory = state.policy_state
            if stream.end == 0 and self.position:
                known = memory["snapshot"]
            else:
                memory = infobatch.next_epoch(memory, self.position // self.sizes[False])
                memory = jax.device_put(memory, replicated(self.experiment.mesh))
                state, known = replace(state, policy_state=memory), memory["snapshot"]
            start = int(memory["start"]) * self.sizes[False]
            stream.begin(int(memory["epoch"]), start, np.asarray(known))
        return state

    def compiled(self, active: bool) -> bool:
        """Whether this kind of update is compiled already."""
        return ("train" if active else "uniform") in self._compiled

    def compile(self, state: TrainState, active: bool) -> None:
        """Compiles a kind of update, so that no compilation is on the training clock."""
        recipe, everywhere = self.experiment.recipe, replicated(self.experiment.mesh)
        two_stage, state = self.experiment.two_stage_decode, replace(state, pending=None)
        if not active:
            self.discard_pending()
        batch = self.loader.peek(self.sizes[active], active and two_stage)
        examples, step = [batch.batch], train_step if active else uniform_step
        if active and (self.ahead or two_stage):
            select = jax.jit(partial(_select, recipe), out_shardings=everywhere)
            self._compiled["select"] = select.lower(state, batch.batch, 0).compile()
            _, chosen = self._compiled["select"](state, batch.batch, 0)
            full = self._fetch_full(chosen, batch)
            examples = [batch.batch, chosen, None if full is None else full.result()]
            step = train_on_selection
        run = aot_compile(partial(step, recipe), state, *examples, rest=everywhere)
        self._compiled["train" if active else "uniform"] = run

    def __call__(
        self, state: TrainState, active: bool, more: bool
    ) -> tuple[TrainState, UpdateOutput]:
        """Dispatches one update; waits for data only.

        Args:
          state: Donated.
          active: Whether selection is on.
          more: Whether it will be on in the next update as well.
        """
        last = state.step  # Of the update before, whose buffer is not donated yet.
        self.loader.busy = lambda: not last.is_deleted() and not last.is_ready()
        pending, state = state.pending, replace(state, pending=None)
        if not active:
            self.discard_pending()
            batch = self.loader.next(self.sizes[False])
            state, metrics = self._compiled["uniform"](state, batch.batch)
            output = UpdateOutput(metrics, None, batch.rows, batch.epochs)
            return replace(state, pending=pending), output
        if self.ahead:
            return self._ahead(state, pending, more)
        return self._exact(state)

    def _exact(self, state: TrainState) -> tuple[TrainState, UpdateOutput]:
        batch = self.loader.next(self.sizes[True], self.experiment.two_stage_decode)
        if not self.experiment.two_stage_decode:
            state, (metrics, chosen) = self._compiled["train"](state, batch.batch)
        else:
            state, chosen = self._select_now(state, batch, 0)
            full = self._wait(self._fetch_full(chosen, batch))
            state, metrics = self._compiled["train"](state, batch.batch, chosen, full)
        return state, UpdateOutput(metrics, chosen, batch.rows, batch.epochs)

    def _ahead(
        self, state: TrainState, pending: Chosen | None, more: bool
    ) -> tuple[TrainState, UpdateOutput]:
        if self._prepared is None:
            state, pending = self._prepare(state, 0, pending if self.restored else None)
        assert self._prepared is not None
        (_, batch, future), chosen = self._prepared, pending
        self._prepared = None
        if more:
            state, pending = self._prepare(state, 1)
        full = self._wait(future)
        state, metrics = self._compiled["train"](state, batch.batch, chosen, full)
        output = UpdateOutput(metrics, chosen, batch.rows, batch.epochs)
        return replace(state, pending=pending), output

    def _prepare(
        self, state: TrainState, ahead: int, pending: Chosen | None = None
    ) -> tuple[TrainState, Chosen]:
        """Reads the next super-batch and selects from it.

        `pending`: its choice, where it was made before the run stopped.
        """
        position = self.loader.position
        batch = self.loader.next(self.sizes[True], self.experiment.two_stage_decode)
        if pending is None:
            state, pending = self._select_now(state, batch, ahead)
        self._prepared = _PreparedBatch(position, batch, self._fetch_full(pending, batch))
        return state, pending

    def _select_now(
        self, state: TrainState, batch: LoadedBatch, ahead: int
    ) -> tuple[TrainState, Chosen]:
        policy_state, chosen = self._compiled["select"](state, batch.batch, ahead)
        return replace(state, policy_state=policy_state), chosen

    def _fetch_full(self, chosen: Chosen, batch: LoadedBatch) -> Future | None:
        """Decodes the chosen rows in full; None where the super-batch holds them already."""
        if not self.experiment.two_stage_decode:
            return None

        def find():
            indices, ids = jax.device_get((chosen.indices, chosen.ids))
            return self.experiment.data.train.rows_of(join_id(ids)), batch.epochs[indices]

        return self.loader.fetch(find)

    def _wait(self, full: Future | None) -> Any:
        return None if full is None else self.loader.wait(full)

    def discard_pending(self) -> bool:
        """Forgets a choice made ahead, as if its candidates had never been read.

        Returns:
          Whether there was one.
        """
        had = self._prepared is not None
        self.loader.position, self._prepared = self.position, None
        return had


def _select(recipe: Recipe, state: TrainState, batch: Batch, ahead: Any) -> tuple[Any, Chosen]:
    """`select_step` for the update `ahead` of the state's: the new policy state, and the choice."""
    state, chosen = select_step(recipe, replace(state, step=state.step + ahead), batch)
    return state.policy_state, chosen

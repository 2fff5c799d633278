"""Carries out updates: selection and training in one jit, or in two with a full read in between.

exact             train_step.
exact, two-stage  select_step on small views, the chosen rows are decoded in full, then
                  train_on_selection.
ahead             select_step for update n + 1, by the online model after update n - 1, then
                  train_on_selection for update n. Selection, and decoding what it chose, hide
                  behind training; the choice for n + 1 is `TrainState.pending`. With actors
                  (`train.selectors`) it runs on other devices.
"""

from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from active_learning.core import infobatch
from active_learning.core.recipe import Chosen, TrainState
from active_learning.core.sharding import aot_compile, batch_sharding, replicated
from active_learning.core.step import select_step, train_on_selection, train_step, uniform_step
from active_learning.data.loader import LoadedBatch, Loader
from active_learning.data.pruned import Pruned
from active_learning.data.sources.source import join_id
from active_learning.train.build import Experiment
from active_learning.train.selectors import make_selector


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
    chosen: Chosen
    # The chosen rows, where the super-batch is not what they are taken from in training.
    rows: Any


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
    return replace(state, pending=make_selector(experiment).room(state, chosen))


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
        self.selector, training = make_selector(experiment), batch_sharding(experiment.mesh)
        self.placements = {True: self.selector.placement, False: training}
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
        self.loader.placement = self.placements[active]
        batch = self.loader.peek(self.sizes[active], active and two_stage)
        examples, step = [batch.batch], train_step if active else uniform_step
        if active and (self.ahead or two_stage):
            chosen = self.selector.compile(state, batch.batch)
            rows = self._rows(chosen, batch)
            rows = rows.result() if isinstance(rows, Future) else rows
            examples = [self.selector.for_training(batch.batch), chosen, rows]
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
            self.loader.placement = self.placements[False]
            batch = self.loader.next(self.sizes[False])
            state, metrics = self._compiled["uniform"](state, batch.batch)
            output = UpdateOutput(metrics, None, batch.rows, batch.epochs)
            return replace(state, pending=pending), output
        self.loader.placement = self.placements[True]
        if self.ahead:
            return self._ahead(state, pending, more)
        return self._exact(state)

    def _exact(self, state: TrainState) -> tuple[TrainState, UpdateOutput]:
        batch = self.loader.next(self.sizes[True], self.experiment.two_stage_decode)
        if not self.experiment.two_stage_decode:
            state, (metrics, chosen) = self._compiled["train"](state, batch.batch)
        else:
            state, chosen = self.selector.select(state, batch.batch, 0, 0)
            rows = self._wait(self._rows(chosen, batch))
            state, metrics = self._compiled["train"](state, batch.batch, chosen, rows)
        return state, UpdateOutput(metrics, chosen, batch.rows, batch.epochs)

    def _ahead(
        self, state: TrainState, pending: Any, more: bool
    ) -> tuple[TrainState, UpdateOutput]:
        if self._prepared is None:
            state, pending = self._prepare(state, 0, pending if self.restored else None)
        assert self._prepared is not None
        _, batch, chosen, rows = self._prepared
        self._prepared = None
        if more:
            state, pending = self._prepare(state, 1)
        rows, candidates = self._wait(rows), self.selector.for_training(batch.batch)
        state, metrics = self._compiled["train"](state, candidates, chosen, rows)
        output = UpdateOutput(metrics, chosen, batch.rows, batch.epochs)
        return replace(state, pending=pending), output

    def _prepare(
        self, state: TrainState, ahead: int, pending: Any = None
    ) -> tuple[TrainState, Any]:
        """Reads the next super-batch and selects from it.

        `pending`: its choice, where it was made before the run stopped.
        """
        position = self.loader.position
        batch = self.loader.next(self.sizes[True], self.experiment.two_stage_decode)
        if pending is None:
            update = position // self.sizes[True]
            state, chosen = self.selector.select(state, batch.batch, ahead, update)
        else:
            chosen = self.selector.recall(state, pending)
        self._prepared = _PreparedBatch(position, batch, chosen, self._rows(chosen, batch))
        return state, self.selector.keep(chosen)

    def _rows(self, chosen: Chosen, batch: LoadedBatch) -> Any:
        """The chosen rows, decoded in full or sent by actors; None: taken in the update."""
        if not self.experiment.two_stage_decode:
            return self.selector.take(batch.batch, chosen)

        def find():
            indices, ids = jax.device_get((chosen.indices, chosen.ids))
            return self.experiment.data.train.rows_of(join_id(ids)), batch.epochs[indices]

        return self.loader.fetch(find, self.placements[False])

    def _wait(self, rows: Any) -> Any:
        return self.loader.wait(rows) if isinstance(rows, Future) else rows

    def discard_pending(self) -> bool:
        """Forgets a choice made ahead, as if its candidates had never been read.

        Returns:
          Whether there was one.
        """
        had = self._prepared is not None
        self.loader.position, self._prepared = self.position, None
        return had

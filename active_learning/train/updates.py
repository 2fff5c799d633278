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
from active_learning.data.loader import Loaded, Loader
from active_learning.data.sources.source import join_id
from active_learning.train.build import Run


class Said(NamedTuple):
    """What an update says: figures and choice (None: uniform) on the devices; rows and epochs of its candidates on the host."""

    figures: dict[str, Any]
    chosen: Chosen | None
    rows: np.ndarray
    epochs: np.ndarray


class _Decided(NamedTuple):
    """A super-batch whose choice is `TrainState.pending`."""

    position: int
    batch: Loaded
    full: Future | None


def with_pending(it: Run, state: TrainState) -> TrainState:
    """The state with room for a pending choice, where one is made ahead: what a checkpoint of such a run looks like."""
    if it.config.select.schedule == "exact" or not it.clock.window:
        return state
    one, size = np.zeros(1, np.int64), it.config.select.ratio * it.config.batch_size
    example = it.data.train.batch(one, one.astype(np.int32), it.deferred)
    batch = {
        name: jax.ShapeDtypeStruct((size, *rows.shape[1:]), rows.dtype)
        for name, rows in example.items()
    }
    chosen = jax.eval_shape(partial(select_step, it.recipe), state, batch)[1]
    room = jax.jit(
        lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), chosen),
        out_shardings=replicated(it.mesh),
    )
    return replace(state, pending=room())


class Updates:
    """Carries out updates; every kind is compiled once, ahead of time. `restored`: the state's pending choice is a real one."""

    def __init__(self, it: Run, loader: Loader, restored: bool):
        self.it, self.loader, self.restored = it, loader, restored
        self.ahead, b = it.config.select.schedule == "ahead", it.config.batch_size
        self.sizes = {True: b * it.config.select.ratio, False: b}  # by "selection is on"
        self._compiled: dict[str, Any] = {}
        self._decided: _Decided | None = None

    @property
    def position(self) -> int:
        """Where the next update's candidates begin."""
        return self.loader.position if self._decided is None else self._decided.position

    def compiled(self, active: bool) -> bool:
        return ("train" if active else "uniform") in self._compiled

    def compile(self, state: TrainState, active: bool) -> None:
        """Ahead of time, so that no compilation is ever on the training clock."""
        recipe, everywhere, state = (
            self.it.recipe,
            replicated(self.it.mesh),
            replace(state, pending=None),
        )
        if not active:
            self.drop()
        batch = self.loader.peek(self.sizes[active], active and self.it.deferred)
        examples, step = [batch.batch], train_step if active else uniform_step
        if active and (self.ahead or self.it.deferred):
            select = jax.jit(partial(_select, recipe), out_shardings=everywhere)
            self._compiled["select"] = select.lower(state, batch.batch, 0).compile()
            _, chosen = self._compiled["select"](state, batch.batch, 0)
            full = self._look(chosen, batch)
            examples, step = (
                [batch.batch, chosen, None if full is None else full.result()],
                train_on_selection,
            )
        run = aot_compile(partial(step, recipe), state, *examples, rest=everywhere)
        self._compiled["train" if active else "uniform"] = run

    def __call__(self, state: TrainState, active: bool, more: bool) -> tuple[TrainState, Said]:
        """One update; `more`: selection will be on in the next one as well. Dispatches, and waits for data only."""
        last = state.step  # of the update before, which is not donated yet
        self.loader.busy = lambda: not last.is_deleted() and not last.is_ready()
        pending, state = state.pending, replace(state, pending=None)
        if not active:
            self.drop()
            batch = self.loader.next(self.sizes[False])
            state, figures = self._compiled["uniform"](state, batch.batch)
            return replace(state, pending=pending), Said(figures, None, batch.rows, batch.epochs)
        if self.ahead:
            return self._ahead(state, pending, more)
        return self._exact(state)

    def _exact(self, state: TrainState) -> tuple[TrainState, Said]:
        batch = self.loader.next(self.sizes[True], self.it.deferred)
        if not self.it.deferred:
            state, (figures, chosen) = self._compiled["train"](state, batch.batch)
        else:
            state, chosen = self._choose(state, batch, 0)
            full = self.loader.wait(self._look(chosen, batch))
            state, figures = self._compiled["train"](state, batch.batch, chosen, full)
        return state, Said(figures, chosen, batch.rows, batch.epochs)

    def _ahead(
        self, state: TrainState, pending: Chosen | None, more: bool
    ) -> tuple[TrainState, Said]:
        if self._decided is None:
            state, pending = self._decide(state, 0, pending if self.restored else None)
        (_, batch, full), chosen = self._decided, pending
        self._decided = None
        if more:
            state, pending = self._decide(state, 1)
        full = None if full is None else self.loader.wait(full)
        state, figures = self._compiled["train"](state, batch.batch, chosen, full)
        return replace(state, pending=pending), Said(figures, chosen, batch.rows, batch.epochs)

    def _decide(
        self, state: TrainState, ahead: int, pending: Chosen | None = None
    ) -> tuple[TrainState, Chosen]:
        """The next super-batch and its choice (`pending` where it was made before the run stopped)."""
        position, batch = self.loader.position, self.loader.next(self.sizes[True], self.it.deferred)
        if pending is None:
            state, pending = self._choose(state, batch, ahead)
        self._decided = _Decided(position, batch, self._look(pending, batch))
        return state, pending

    def _choose(self, state: TrainState, batch: Loaded, ahead: int) -> tuple[TrainState, Chosen]:
        policy_state, chosen = self._compiled["select"](state, batch.batch, ahead)
        return replace(state, policy_state=policy_state), chosen

    def _look(self, chosen: Chosen, batch: Loaded) -> Future | None:
        """The chosen rows, read in full once the choice is there; None where the super-batch holds them already."""
        if not self.it.deferred:
            return None

        def find():
            indices, ids = jax.device_get((chosen.indices, chosen.ids))
            return self.it.data.train.rows_of(join_id(ids)), batch.epochs[indices]

        return self.loader.look(find)

    def drop(self) -> bool:
        """Forgets a choice made ahead, as if its candidates had never been read. Whether there was one."""
        had = self._decided is not None
        self.loader.position, self._decided = self.position, None
        return had


def _select(recipe, state: TrainState, batch, ahead) -> tuple[Any, Chosen]:
    """select_step for the update `ahead` of the state's: what changes in the state, and the choice."""
    state, chosen = select_step(recipe, replace(state, step=state.step + ahead), batch)
    return state.policy_state, chosen

"""Where selection runs: on the devices that train, or on others beside them (actors)."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from active_learning.core.recipe import Batch, Chosen, ModelState, Recipe, TrainState
from active_learning.core.sharding import batch_sharding, replicated, take_sharded
from active_learning.core.step import select_step
from active_learning.train.build import Experiment

# A super-batch, or rows of one.
Arrays = dict[str, jax.Array]


@runtime_checkable
class Selector(Protocol):
    """Chooses sub-batches."""

    # Where super-batches are placed.
    placement: NamedSharding

    def compile(self, state: TrainState, batch: Arrays) -> Chosen:
        """Compiles what it runs. Returns the choice of update 0 from this super-batch."""
        ...

    def select(
        self, state: TrainState, batch: Arrays, ahead: int, update: int
    ) -> tuple[TrainState, Chosen]:
        """Chooses what update `update` trains on, `ahead` updates after the state's own."""
        ...

    def take(self, batch: Arrays, chosen: Chosen) -> Arrays | None:
        """The chosen rows for the devices that train; None: they take them themselves."""
        ...

    def for_training(self, batch: Arrays) -> Arrays:
        """The super-batch for the devices that train."""
        ...

    def room(self, state: TrainState, chosen: Chosen) -> Any:
        """Shape of what `keep` returns, filled with zeros."""
        ...

    def keep(self, chosen: Chosen) -> Any:
        """What a checkpoint holds of a choice that is not trained on yet."""
        ...

    def recall(self, state: TrainState, pending: Any) -> Chosen:
        """Inverse of `keep`, after a restart."""
        ...


def make_selector(experiment: Experiment) -> Selector:
    """The selector that the config asks for."""
    if experiment.actor_mesh is None:
        return OwnDevices(experiment)
    return Actors(experiment, sends_rows=not experiment.two_stage_decode)


class OwnDevices(Selector):
    """Selects on the devices that train."""

    def __init__(self, experiment: Experiment):
        self.recipe, self.everywhere = experiment.recipe, replicated(experiment.mesh)
        self.placement = batch_sharding(experiment.mesh)
        self._select: Any = None

    def compile(self, state: TrainState, batch: Arrays) -> Chosen:
        select = jax.jit(partial(_select, self.recipe), out_shardings=self.everywhere)
        self._select = select.lower(state, batch, 0).compile()
        return self._select(state, batch, 0)[1]

    def select(
        self, state: TrainState, batch: Arrays, ahead: int, update: int
    ) -> tuple[TrainState, Chosen]:
        del update
        policy_state, chosen = self._select(state, batch, ahead)
        return replace(state, policy_state=policy_state), chosen

    def take(self, batch: Arrays, chosen: Chosen) -> None:
        del batch, chosen

    def for_training(self, batch: Arrays) -> Arrays:
        return batch

    def room(self, state: TrainState, chosen: Chosen) -> Chosen:
        del state
        return _zeros(chosen, self.everywhere)

    def keep(self, chosen: Chosen) -> Chosen:
        return chosen

    def recall(self, state: TrainState, pending: Chosen) -> Chosen:
        del state
        return pending


class PendingOfActors(NamedTuple):
    """A choice not trained on yet, and the copies of the scoring models that actors hold."""

    chosen: Chosen
    models: dict[str, ModelState]


class Actors(Selector):
    """Selects on devices of its own, with copies of the scoring models.

    The copies are made anew every `select.refresh` updates. With 1 they are those of the update
    before, as in `schedule='ahead'` without actors. Between the two meshes go the copies, the
    selected rows and the indices; super-batches lie on the actors only.

    Args:
      experiment: The run.
      sends_rows: Whether the selected rows are those of the super-batch; else they are read anew.
    """

    def __init__(self, experiment: Experiment, sends_rows: bool):
        mesh = experiment.actor_mesh
        assert mesh is not None
        self.recipe = replace(experiment.recipe, mesh=mesh if mesh.size > 1 else None)
        self.refresh = experiment.config.select.refresh
        self.placement, self.everywhere = batch_sharding(mesh), replicated(mesh)
        self.trainers = experiment.mesh
        self.sends_rows = sends_rows
        self.trained = [name for name in self.recipe.policy.needs if name != "reference"]
        self._models: dict[str, ModelState] = {}
        self._policy_state: Any = None
        self._constant: dict[str, Any] = {}
        self._select: Any = None
        self._take: Any = None

    def compile(self, state: TrainState, batch: Arrays) -> Chosen:
        models, policy_state = self._models, self._policy_state
        scoring = self._scoring_state(state, 0, fresh=True)
        self._models, self._policy_state = models, policy_state
        self._select, self._take = self.programs(scoring, batch)
        return self._sent(self._select(scoring, batch, 0)[1])

    def programs(
        self, scoring: TrainState, batch: dict[str, Any]
    ) -> tuple[jax.stages.Compiled, jax.stages.Compiled | None]:
        """Compiles what runs on the actors: selecting, and taking the rows that are sent.

        Args:
          scoring: What selection reads, or its shapes.
          batch: A super-batch, or its shapes.
        """
        choose = partial(_select, self.recipe)
        select = jax.jit(choose, out_shardings=self.everywhere).lower(scoring, batch, 0).compile()
        if not self.sends_rows:
            return select, None
        indices = jax.eval_shape(choose, scoring, batch, 0)[1].indices
        indices = placed_shapes(indices, self.everywhere)
        take = jax.jit(
            lambda rows, indices: take_sharded(rows, indices, self.recipe.mesh),
            out_shardings=self.placement,
        )
        return select, take.lower(batch, indices).compile()

    def scoring_shapes(self, state: TrainState) -> TrainState:
        """The shapes of what selection reads, from those of the state."""
        read = {*self.trained, "reference"}
        parts = {name: getattr(state, name) for name in ("learner", "online", "reference")}
        models = {
            name: None if part is None or name not in read else ModelState(part.params)
            for name, part in parts.items()
        }
        scoring = TrainState(
            step=state.step, key=state.key, policy_state=state.policy_state, **models
        )
        return placed_shapes(scoring, self.everywhere)

    def select(
        self, state: TrainState, batch: Arrays, ahead: int, update: int
    ) -> tuple[TrainState, Chosen]:
        fresh = (update - ahead) % self.refresh == 0 or not self._models
        scoring = self._scoring_state(state, update, fresh)
        self._policy_state, chosen = self._select(scoring, batch, 0)
        sent = jax.device_put(self._policy_state, replicated(self.trainers))
        return replace(state, policy_state=sent), self._sent(chosen)

    def take(self, batch: Arrays, chosen: Chosen) -> Arrays | None:
        if not self.sends_rows:
            return None
        rows = self._take(batch, jax.device_put(chosen.indices, self.everywhere))
        return jax.device_put(rows, batch_sharding(self.trainers))

    def for_training(self, batch: Arrays) -> Arrays:
        del batch
        return {}

    def room(self, state: TrainState, chosen: Chosen) -> PendingOfActors:
        models = {name: ModelState(getattr(state, name).params) for name in self.trained}
        room = _zeros(chosen, replicated(self.trainers))
        return PendingOfActors(room, _zeros(models, self.everywhere))

    def keep(self, chosen: Chosen) -> PendingOfActors:
        return PendingOfActors(chosen, self._models)

    def recall(self, state: TrainState, pending: PendingOfActors) -> Chosen:
        self._models = dict(pending.models)
        self._policy_state = jax.device_put(state.policy_state, self.everywhere)
        return pending.chosen

    def _sent(self, chosen: Chosen) -> Chosen:
        return jax.device_put(chosen, replicated(self.trainers))

    def _scoring_state(self, state: TrainState, update: int, fresh: bool) -> TrainState:
        """What selection reads, on the actors.

        The step is counted on the host and the policy state stays here, so that only a fresh copy
        waits for the update before.
        """
        if fresh:
            models = {name: ModelState(getattr(state, name).params) for name in self.trained}
            self._models = jax.device_put(models, self.everywhere)
        if not self._constant:
            reference = None if state.reference is None else ModelState(state.reference.params)
            constant = {"key": state.key, "reference": reference}
            self._constant = jax.device_put(constant, self.everywhere)
        if self._policy_state is None:
            self._policy_state = jax.device_put(state.policy_state, self.everywhere)
        step = jax.device_put(jnp.int32(update), self.everywhere)
        return TrainState(
            step=step,
            learner=self._models.get("learner"),
            online=self._models.get("online"),
            policy_state=self._policy_state,
            **self._constant,
        )


def _select(recipe: Recipe, state: TrainState, batch: Batch, ahead: Any) -> tuple[Any, Chosen]:
    """`select_step` for the update `ahead` of the state's: the new policy state, and the choice."""
    state, chosen = select_step(recipe, replace(state, step=state.step + ahead), batch)
    return state.policy_state, chosen


def placed_shapes(tree: Any, placement: NamedSharding) -> Any:
    """The shapes of a tree of arrays, placed on other devices."""
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placement)
    return jax.tree.map(place, tree)


def _zeros(tree: Any, placement: NamedSharding) -> Any:
    """Zeros of these shapes, made where they belong."""
    make = lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
    return jax.jit(make, out_shardings=placement)()

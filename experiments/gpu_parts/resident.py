"""Training on a data set that lies on the device as a whole: only positions travel.

The steps are the package's own `train_step` and `uniform_step`; batches are gathered, augmented and
selected inside the same program. The number of updates, the learning rate and the temperature are
arguments, so that runs of different lengths and rates share one program. A program is one update,
dispatched without waiting, and is compiled when it is first needed: a scan over many updates took
minutes to compile, all programs before the first update.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from active_learning.core import losses, policies
from active_learning.core.optim import decayed_matrices
from active_learning.core.recipe import Model, Recipe, TrainState, init_state
from active_learning.core.scores import ScoreInputs
from active_learning.core.step import train_step, uniform_step
from active_learning.data.augment import Augmentation, augmented
from active_learning.data.order import Order
from active_learning.tasks import Labels, View

TASK = Labels()
MOMENTUM, WEIGHT_DECAY, CLIP, WARMUP = 0.9, 5e-4, 5.0, 0.05
SCORER_RATE = 0.1  # Peak rate of both small models.


@dataclass(frozen=True)
class Models:
    """Learner and scorer, what they see, and the sizes of an update."""

    learner: Any
    scorer: Any
    view: View
    batch_size: int
    ratio: int
    ema_half_life: float
    # Updates between two fetches of metrics.
    dispatched: int

    def module(self, role: str) -> Any:
        """The Flax module of "learner" or "scorer", with classes and compute type filled in."""
        return TASK.specialize(getattr(self, role), self.view)

    def cost(self, role: str) -> Any:
        """FLOPs per example."""
        return self.module(role).cost(self.view.image_shape)

    def init(self, role: str, seed: int) -> PyTree:
        """Fresh parameters."""
        return TASK.init(self.module(role), self.view, jax.random.key(seed))

    def model(self, role: str, total: Any, rate: Any) -> Model:
        """The model with its optimizer: SGD with Nesterov momentum, cosine schedule."""
        return TASK.model(self.module(role), self.view, sgd(total, rate))


def cosine(total: Any, rate: Any) -> Callable[[Any], Any]:
    """Linear warm-up over 5 % of `total` updates, then cosine to 0; all may be traced."""

    def at(update: Any) -> Any:
        warmup = jnp.maximum(1.0, jnp.round(WARMUP * total))
        rising = update / warmup
        done = jnp.clip((update - warmup) / jnp.maximum(total - warmup, 1.0), 0.0, 1.0)
        return rate * jnp.where(rising < 1.0, rising, 0.5 * (1.0 + jnp.cos(jnp.pi * done)))

    return at


def sgd(total: Any, rate: Any) -> optax.GradientTransformation:
    """SGD with weight decay on matrices, whose total and peak rate may be traced."""
    return optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.add_decayed_weights(WEIGHT_DECAY, mask=decayed_matrices),
        optax.trace(MOMENTUM, nesterov=True),
        optax.scale_by_learning_rate(cosine(total, rate)),
    )


def augment(batch: dict, key: Any) -> dict:
    """Random crops from a border of 4 px, and flips."""
    image = augmented(Augmentation(), batch["image"], batch["id"], batch["epoch"], key)
    return batch | {"image": image}


def tempered(inputs: ScoreInputs, policy_state: Any, temperature: Any) -> tuple[jax.Array, Any]:
    """Cautious learnability over a temperature that may be traced (that of a recipe is static)."""
    values, policy_state = policies.cautious_learnability.score(inputs, policy_state)
    return values / temperature, policy_state


def recipe(models: Models, role: str, total: Any, rate: Any, temperature: Any = 1.0) -> Recipe:
    """What trains "learner" (with the online model, by cautious learnability) or "scorer"."""
    scorer = models.model("scorer", total, SCORER_RATE)
    score = partial(tempered, temperature=temperature)
    return Recipe(
        learner=models.model(role, total, rate) if role == "learner" else scorer,
        scorer=scorer,
        policy=replace(policies.cautious_learnability, score=score),
        sub_batch_size=models.batch_size,
        augment=augment,
        ema_half_life=models.ema_half_life if role == "learner" else 0.0,
    )


def one_update(
    models: Models,
    role: str,
    active: bool,
    state: TrainState,
    columns: dict[str, jax.Array],
    rows: jax.Array,
    epochs: jax.Array,
    settings: dict[str, jax.Array],
) -> tuple[TrainState, dict[str, jax.Array]]:
    """An update on (B,) or (b,) rows of the columns.

    Returns the state, and the loss and the corrupted fraction of what it was trained on.
    """
    how = recipe(models, role, **settings)
    batch = {name: column[rows] for name, column in columns.items()} | {"epoch": epochs}
    corrupted = batch["corrupted"]
    if active:
        state, (metrics, chosen) = train_step(how, state, batch)
        corrupted = corrupted[chosen.indices]
    else:
        state, metrics = uniform_step(how, state, batch)
    return state, {"loss": metrics["loss"], "corrupted": jnp.mean(corrupted)}


def example_losses(models: Models, params: PyTree, columns: dict, chunk: int) -> jax.Array:
    """The scorer's loss of every example, without augmentation."""
    model = models.model("scorer", 1, 0.0)

    def forward(batch: dict) -> jax.Array:
        return model.act_loss(model.apply(params, batch, False), batch)

    return in_chunks(forward, {name: columns[name] for name in ("image", "label")}, chunk)


def hits(models: Models, role: str, params: PyTree, test: dict, chunk: int) -> jax.Array:
    """1.0 for every test example that is classified correctly."""
    model = models.model(role, 1, 0.0)

    def forward(batch: dict) -> jax.Array:
        return losses.accuracy(model.apply(params, batch, False)["logits"], batch["label"])

    return in_chunks(forward, test, chunk)


def in_chunks(function: Callable, batch: dict, chunk: int) -> jax.Array:
    """`function` on chunks of the batch; the last chunk is padded with its first rows."""
    count = jax.tree.leaves(batch)[0].shape[0]
    rows = jnp.arange(-(-count // chunk) * chunk) % count
    out = jax.lax.map(
        lambda at: function({name: leaf[at] for name, leaf in batch.items()}),
        rows.reshape(-1, chunk),
    )
    return out.reshape(-1)[:count]


UPDATES = {"uniform": ("learner", False), "active": ("learner", True), "scorer": ("scorer", False)}
# Judging needs no fast convolutions: their tuning would take longer than it saves.
UNTUNED = {"gpu": {"xla_gpu_autotune_level": "0"}}


class Programs:
    """The compiled programs of the regime by name: UPDATES, losses, learner_hits, scorer_hits.

    Attributes:
      seconds: What the compilation of each took.
    """

    def __init__(self, models: Models, columns: dict, test: dict, chunk: int):
        self.models, self.columns, self.test, self.chunk = models, columns, test, chunk
        self.seconds: dict[str, float] = {}
        self._compiled: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """The program, compiled on first use."""
        if name not in self._compiled:
            began = time.perf_counter()
            lowered, options = self._lowered(name), None
            if name not in UPDATES:
                options = UNTUNED.get(jax.default_backend())
            self._compiled[name] = lowered.compile(compiler_options=options)
            self.seconds[name] = time.perf_counter() - began
        return self._compiled[name]

    def updates(
        self,
        kind: str,
        state: TrainState,
        columns: dict[str, jax.Array],
        rows: np.ndarray,
        epochs: np.ndarray,
        settings: dict[str, jax.Array],
    ) -> tuple[TrainState, list[dict]]:
        """Dispatches an update of a kind for each row of `rows`; waits for none of them."""
        run, metrics = self.get(kind), []
        for at in zip(rows, epochs, strict=True):
            state, one = run(state, columns, *at, settings)
            metrics.append(one)
        return state, metrics

    def _lowered(self, name: str) -> Any:
        models = self.models
        shapes = {
            role: jax.eval_shape(partial(models.init, role, 0)) for role in ("learner", "scorer")
        }
        if name == "losses":
            function = jax.jit(partial(example_losses, models, chunk=self.chunk))
            return function.lower(shapes["scorer"], self.columns)
        if name not in UPDATES:
            role = name.removesuffix("_hits")
            function = jax.jit(partial(hits, models, role, chunk=self.chunk))
            return function.lower(shapes[role], self.test)
        role, active = UPDATES[name]
        online = shapes["scorer"] if role == "learner" else None
        how, key = recipe(models, role, **settings_of(1, 0.0)), jax.random.key(0)
        state = jax.eval_shape(partial(init_state, how), key, shapes[role], online)
        size = models.batch_size * (models.ratio if active else 1)
        at = jax.ShapeDtypeStruct((size,), jnp.int32)
        numbers = {key: jax.ShapeDtypeStruct((), jnp.float32) for key in settings_of(1, 0.0)}
        function = jax.jit(partial(one_update, models, role, active), donate_argnums=0)
        return function.lower(state, self.columns, at, at, numbers)


def compile_all(lowered: dict[str, Any]) -> dict[str, Any]:
    """Compiles several lowered programs at once."""
    with ThreadPoolExecutor(len(lowered)) as pool:
        waiting = {name: pool.submit(one.compile) for name, one in lowered.items()}
        return {name: one.result() for name, one in waiting.items()}


def settings_of(total: float, rate: float, temperature: float = 1.0) -> dict[str, Any]:
    """What a program takes as arguments."""
    values = {"total": total, "rate": rate, "temperature": temperature}
    return {name: jnp.float32(value) for name, value in values.items()}


class Stream:
    """Positions of an endless stream over some rows of the data, in the order of the package."""

    def __init__(self, rows: np.ndarray, seed: int):
        self._rows, self._order, self._at = rows, Order(len(rows), seed), 0

    def next(self, updates: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and epochs of `updates` batches of `size` examples."""
        places, epochs = self._order.positions(self._at, updates * size)
        self._at += updates * size
        rows = self._rows[places].astype(np.int32)
        return rows.reshape(updates, size), epochs.reshape(updates, size)


def fresh_state(models: Models, role: str, seed: int) -> TrainState:
    """The first state: the learner and the online model, or a reference."""
    how = recipe(models, role, **settings_of(1, 0.0))
    online = models.init("scorer", seed + 1) if role == "learner" else None
    state = init_state(how, jax.random.key(seed), models.init(role, seed), online)
    return replace(state, step=jnp.int32(0))

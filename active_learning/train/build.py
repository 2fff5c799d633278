"""From a config to what runs: data and their parts, the task, the recipe, the first state. Everything that can be wrong is found here."""

import dataclasses
import functools
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from active_learning import checkpoint
from active_learning.config import ConfigError
from active_learning.core import optim, sharding
from active_learning.core.recipe import Batch, Model, Recipe, TrainState, init_state
from active_learning.cost import flops, ledger
from active_learning.data import splits
from active_learning.data.augment import Augmentation, augmented, mixed
from active_learning.data.captions import Captions
from active_learning.data.loader import Candidates, Loader
from active_learning.data.order import Interleaved, Order
from active_learning.data.sources.on_disk import stand_in
from active_learning.data.sources.source import DataError, channel_stats, split_id
from active_learning.models.layers import shared
from active_learning.references import attach, replay, stored
from active_learning.settings import Clock, Config, Optim, Pairs, resolve
from active_learning.tasks import captions
from active_learning.tasks.labels import Classification, Contrastive


@dataclass(frozen=True)
class Part:
    """Examples of a source: their indices in it, the labels they are used with, and the true ones where known (for reports only)."""

    source: object
    indices: np.ndarray
    labels: np.ndarray  # (n,) int32, of this part
    truth: np.ndarray | None  # (n,) int32
    columns: dict[str, np.ndarray] = field(
        default_factory=dict
    )  # (n,) each, carried by every batch
    captions: Captions | None = None  # of the whole source
    caption_of: np.ndarray | None = None  # (n,) row of the source whose captions each example has

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def wrong(self) -> np.ndarray | None:
        """(n,) bool: whose label, or caption, is another's. None when that is unknown."""
        if self.captions is not None:
            return self.caption_of != self.indices
        return None if self.truth is None else self.labels != self.truth

    def order(self, seed: int) -> Order | Interleaved:
        """The endless order of the part's rows; of a mixture with weights each source has its share. DataError for a source without rows."""
        weights = self.source.weights
        if not weights:
            return Order(len(self), seed)
        number = self.source.source_of(self.indices)
        try:
            return Interleaved(
                [np.flatnonzero(number == n) for n in range(len(weights))], weights, seed
            )
        except ValueError as error:
            raise DataError(f"config.data.weights: {error}") from error

    def images(self, rows: np.ndarray) -> np.ndarray:
        return self.read(rows)["image"]

    def read(self, rows: np.ndarray, small: bool = False) -> dict[str, np.ndarray]:
        """Images (or small views) of rows, and `rows`, where each unreadable one is replaced by one of its label. DataError: none left."""
        gather = self.source.gather_small if small else self.source.gather
        seen, used = gather(self.indices[rows]), rows
        bad = seen.pop("bad", None)
        for attempt in range(100):
            if bad is None or not bad.any():
                return seen | {"rows": used}
            at, used = np.flatnonzero(bad), used.copy()
            used[at] = [stand_in(self.labels, int(row), attempt) for row in rows[at]]
            again = gather(self.indices[used[at]])
            bad[at] = again.pop("bad")
            for name, values in again.items():
                seen[name][at] = values
        raise DataError(
            f"no readable example of label {self.labels[rows[np.flatnonzero(bad)[0]]]} was found"
        )

    @functools.cached_property
    def _by_id(self) -> tuple[np.ndarray, np.ndarray]:
        ids = self.source.ids[self.indices]
        order = np.argsort(ids, kind="stable")
        return ids[order], order

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Row numbers of ids of this part."""
        ordered, order = self._by_id
        return order[np.searchsorted(ordered, ids)]

    def small_view(self) -> "Part":
        """The same examples in their small view; as they are where there is none."""
        has = self.source.small
        return dataclasses.replace(self, source=self.source.small_view()) if has else self

    def batch(self, rows: np.ndarray, epochs: np.ndarray, small: bool = False) -> Batch:
        """Rows of this part as a batch, in full or in their small view; row numbers count within the part."""
        seen = self.read(rows, small)
        used = seen.pop("rows")
        ids = self.source.ids[self.indices[used]]
        seen |= {"label": self.labels[used], "id": split_id(ids), "epoch": epochs.astype(np.int32)}
        if self.captions is not None:
            seen["tokens"] = self.captions.draw(self.caption_of[used], ids, epochs)
        return seen | {name: values[used] for name, values in self.columns.items()}


@dataclass(frozen=True)
class Data:
    """The training part, the parts it was split from, and the test set."""

    train: Part
    parts: dict[str, Part]
    class_names: tuple[str, ...]
    num_classes: int
    provenance: dict


def open_data(config: Config) -> Data:
    """Opens the source, splits it by id, and checks that the parts are disjoint. ConfigError or DataError name key, file or value."""
    source = config.data.with_text(config.task.text) if isinstance(config.task, Pairs) else config.data
    opened = source.open()
    train, test, split = opened.train, opened.test, config.split
    if config.small_view:
        train, test = train.small_view(), test.small_view()
    unknown = set(split.train_on) | set(split.labels)
    if split.parts:
        strata = train.labels(config.data.label)
        sizes = {
            name: int(size if size >= 1 else size * len(train))
            for name, size in split.parts.items()
        }
        indices = splits.split(strata, sizes, split.seed, groups=train.picture_ids)
        splits.check_disjoint({name: train.ids[rows] for name, rows in indices.items()})
    else:
        indices = {"pool": np.arange(len(train))}
    if missing := sorted(unknown - set(indices)):
        raise ConfigError(
            f"config.split: no part is named {missing[0]!r}; parts: {', '.join(indices)}"
        )

    def part(source, rows, column):
        truth = source.clean_labels()
        return Part(
            source,
            rows,
            source.labels(column)[rows].astype(np.int32),
            None if truth is None else truth[rows],
        )

    parts = {
        name: part(train, rows, split.labels.get(name, config.data.label))
        for name, rows in indices.items()
    }
    for name, source in {"test": test, **_also(config)}.items():
        if name in parts:
            raise ConfigError(f"config.split.parts: {name!r} is the name of a set to evaluate on")
        parts[name] = part(source, np.arange(len(source)), opened.test_label)
    chosen = [parts[name] for name in split.train_on]
    joined = Part(
        train,
        np.concatenate([p.indices for p in chosen]),
        np.concatenate([p.labels for p in chosen]),
        None if chosen[0].truth is None else np.concatenate([p.truth for p in chosen]),
    )
    if split.fold >= 0:
        half = splits.fold_of(train.picture_ids[joined.indices]) == split.fold
        truth = None if joined.truth is None else joined.truth[half]
        joined = Part(train, joined.indices[half], joined.labels[half], truth)
    for name in config.evaluate.sets + ((config.evaluate.gate,) if config.evaluate.gate else ()):
        if name not in parts:
            raise ConfigError(
                f"config.evaluate: no part is named {name!r}; parts: {', '.join(parts)}"
            )
        if name in split.train_on:
            raise ConfigError(f"config.evaluate: part {name!r} is also trained on")
        if not len(parts[name]):
            raise ConfigError(f"config.evaluate: part {name!r} holds no examples")
    return Data(joined, parts, tuple(train.class_names), train.num_classes, train.describe())


def loader_of(it: "Run", position: int) -> Loader:
    """What feeds the run: the stream of candidates, or another run's choices."""
    train = it.data.train
    stream = (
        Candidates(train, it.config.seed)
        if it.choices is None
        else replay.Replay(train, it.choices)
    )
    return Loader(stream, sharding.over_data(it.mesh), position)


def _also(config: Config) -> dict:
    """The further sets to evaluate on: the test set of each source."""
    found = {name: data.open().test for name, data in config.evaluate.also.items()}
    return {
        name: source.small_view() if config.small_view else source for name, source in found.items()
    }


def subset(part: Part, size: int) -> np.ndarray:
    """A fixed stratified subset of rows, the same in every run."""
    if size >= len(part):
        return np.arange(len(part))
    return np.sort(splits.split(part.labels, {"subset": size}, 0)["subset"])


def _sample(part: Part) -> np.ndarray:
    """Indices that mean and deviation are computed from: all in memory, a fixed stratified sample of what is on disk."""
    return part.indices[subset(part, part.source.stats_sample)]


@dataclass(frozen=True)
class Run:
    """All that the loop needs besides the state."""

    config: Config
    clock: Clock
    data: Data | None  # None: assembled for a plan
    task: Any  # of `tasks`
    recipe: Recipe
    learner: Any  # Flax modules, number of classes filled in
    scorer: Any
    costs: dict[str, float]  # FLOPs of an update inside the window, by account
    uniform_costs: dict[str, float]  # and after it
    mesh: Mesh
    scorer_task: Any  # the same task in the view that the scorers see
    choices: replay.Choices | None = None  # of another run, to be trained on
    stored_gate: dict[str, float] | None = (
        None  # accuracy and loss on the gate of a reference whose scores are stored
    )

    @property
    def deferred(self) -> bool:
        """Whether candidates are read small, and only what was chosen in full."""
        source = self.data.train.source
        return bool(
            source.small and self.recipe.policy.needs and source.reads_small
        )


def _augment(batch: Batch, key, settings: Augmentation, mesh: Mesh | None) -> Batch:
    """The batch in another guise, a function of (key, id, epoch)."""
    name = "image" if "image" in batch else "image_small"
    batch = batch | {name: augmented(settings, batch[name], batch["id"], batch["epoch"], key)}
    return (
        mixed(batch, name, key, settings.mixup, partial(sharding.take_sharded, mesh=mesh))
        if settings.mixup
        else batch
    )


def _plain(batch: Batch, key) -> Batch:
    return batch


def _optimizer(settings: Optim, warmup: int, total: int):
    return optim.adamw(
        settings.learning_rate, warmup, total, settings.weight_decay, settings.b2, settings.clip
    )


def task_of(
    config: Config,
    shape: tuple[int, int, int],
    classes: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Classification | Contrastive:
    """The config's task on images of this shape, mean and deviation."""
    task = config.task
    if isinstance(task, Pairs):
        context = config.learner.text.context
        return Contrastive(
            task.loss, shape, context, mean, std, config.dtype, task.score_scale, task.chunk
        )
    return Classification(classes, shape, mean, std, config.dtype, config.label_smoothing)


def _pixels(config: Config, train: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the channels."""
    if isinstance(config.task, Pairs) and config.task.pixels == "unit":
        return (0.5,) * 3, (0.5,) * 3
    return channel_stats(train.source, _sample(train))


def _scorers_view(config: Config, task, train: Part) -> Classification | Contrastive:
    """The task in the small view, where there is one."""
    small = train.small_view()
    if small is train:
        return task
    mean, std = _pixels(config, small)
    return dataclasses.replace(
        task, image_shape=tuple(small.source.image_shape), mean=mean, std=std
    )


def _reference_of(config: Config, clock: Clock, task, scorer) -> dict:
    """What the recipe must know of the reference. A co-trained one learns at twice the online model's rate, as in the paper."""
    if config.reference.kind == "online":
        return {"reference_params": lambda state: state.online.params}
    if config.reference.kind == "cotrained":
        twice = dataclasses.replace(
            config.scorer_optim, learning_rate=2 * config.scorer_optim.learning_rate
        )
        return {
            "reference": task.model(scorer, _optimizer(twice, clock.scorer_warmup, clock.total))
        }
    return {}


def build(config: Config, devices: list[jax.Device] | None = None) -> Run:
    """Everything but the state; compiles nothing. Raises ConfigError or DataError."""
    data = open_data(config)
    if not len(data.train):
        raise DataError(f"{config.split.train_on}: no examples to train on")
    if len(data.train) < jax.process_count():
        raise DataError(
            f"{config.split.train_on}: {len(data.train)} examples for {jax.process_count()} processes"
        )
    devices = jax.devices() if devices is None else devices
    clock = resolve(config, len(data.train), len(devices))
    choices = None
    if config.select.replay:
        choices = replay.read(
            Path(config.select.replay), config.batch_size, clock.total, data.provenance["hash"]
        )
        replay.rows_of(data.train.source.ids[data.train.indices], choices.ids, replay.KEY)
    if isinstance(config.task, Pairs):
        data = captions.attach(config, data)
    shape = tuple(data.train.source.image_shape)
    task = task_of(config, shape, data.num_classes, *_pixels(config, data.train))
    scorer_task = _scorers_view(config, task, data.train)
    data, stored_gate = attach.attach(config, data, stored.view_of(scorer_task.image_shape))
    run = assemble(config, clock, task, scorer_task, devices)
    return dataclasses.replace(run, data=data, choices=choices, stored_gate=stored_gate)


def _cost(role: str, module, task):
    """FLOPs of a module on its view. Raises ConfigError when the module cannot read it."""
    try:
        return module.cost(task.image_shape)
    except ValueError as error:
        raise ConfigError(f"config.{role}: {error}") from error


def over(mesh: Mesh, learner: Model) -> Model:
    """The learner where devices share it: in training each of its parameters is gathered where a layer reads it."""
    if sharding.FSDP_AXIS not in mesh.shape:
        return learner

    def gather(x: jax.Array, path: str) -> jax.Array:
        return sharding.gather(x, f"learner/params/{path}", mesh)

    def apply(params: PyTree, batch: Batch, train: bool) -> Any:
        return learner.apply(shared(params, gather) if train else params, batch, train)

    return dataclasses.replace(learner, apply=apply)


def assemble(config: Config, clock: Clock, task, scorer_task, devices: list[jax.Device]) -> Run:
    """A run without its data: the models, the recipe and the bill of a step on these devices."""
    mesh = sharding.make_mesh(devices, config.fsdp)
    task, scorer_task = task.on(mesh), scorer_task.on(mesh)
    learner, scorer = task.fitted(config.learner), scorer_task.fitted(config.scorer)
    policy, several = config.select.policy, mesh if mesh.size > 1 else None
    large = task.model(learner, _optimizer(config.optim, clock.warmup, clock.total))
    recipe = Recipe(
        learner=over(mesh, large),
        scorer=scorer_task.model(
            scorer, _optimizer(config.scorer_optim, clock.scorer_warmup, clock.total)
        ),
        policy=policy,
        sub_batch_size=config.batch_size,
        temperature=config.select.temperature,
        standardize=config.select.standardize,
        chunk=config.select.chunk,
        augment=partial(_augment, settings=config.augmentation, mesh=several)
        if config.augment
        else _plain,
        mesh=several,
        accumulate=config.accumulate,
        **_reference_of(config, clock, scorer_task, scorer),
    )
    costs = [_cost(*one) for one in (("learner", learner, task), ("scorer", scorer, scorer_task))]
    if config.accumulate > 1 and recipe.learner.pairwise:  # the second forward pass
        costs = [cost + flops.Cost(recompute=cost.forward) for cost in costs]
    b, ratio, kind = config.batch_size, config.select.ratio, config.reference.kind
    per_step = [
        ledger.step_costs(*costs, policy.needs, b, ratio, kind, policy.reuse),
        ledger.step_costs(*costs, (), b, ratio, kind),
    ]
    return Run(config, clock, None, task, recipe, learner, scorer, *per_step, mesh, scorer_task)


def _fresh(run: Run, saved, reference) -> TrainState:
    """The state at step 0; `saved`: parameters that the learner starts from, `reference`: those of the trained reference."""
    config, task = run.config, run.scorer_task
    key = jax.random.key(config.seed)
    learner = run.task.init(run.learner, jax.random.fold_in(key, 1)) if saved is None else saved
    needs = run.recipe.policy.needs
    online = task.init(run.scorer, jax.random.fold_in(key, 2)) if "online" in needs else None
    if "reference" not in needs:
        reference = None
    elif config.reference.kind == "cotrained":
        reference = task.init(run.scorer, jax.random.fold_in(key, 4))
    return init_state(run.recipe, jax.random.fold_in(key, 3), learner, online, reference)


def first_state(run: Run, reference=None) -> TrainState:
    """The state at step 0, made where it belongs. `reference`: parameters of the trained reference."""
    saved = None
    if run.config.init_from:
        like = jax.eval_shape(lambda: run.task.init(run.learner, jax.random.key(0)))
        saved = checkpoint.load_params(Path(run.config.init_from))
        saved = matching(saved, like, f"config.init_from={run.config.init_from}")
    shapes = jax.eval_shape(partial(_fresh, run), saved, reference)
    make = jax.jit(partial(_fresh, run), out_shardings=sharding.shardings_of(shapes, run.mesh))
    return make(saved, reference)


def state_shapes(run: Run) -> TrainState:
    """`first_state` as shapes with their shardings; nothing is allocated."""
    config, reference = run.config, None
    if config.reference.kind in ("trained", "loaded", "crossfitted"):
        reference = jax.eval_shape(lambda: run.scorer_task.init(run.scorer, jax.random.key(0)))
        if config.reference.kind == "crossfitted":
            reference = jax.eval_shape(
                lambda p: jax.tree.map(lambda x: jnp.stack([x] * splits.FOLDS), p), reference
            )
    shapes = jax.eval_shape(partial(_fresh, run), None, reference)
    place = lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)  # noqa: E731
    return jax.tree.map(place, shapes, sharding.shardings_of(shapes, run.mesh))


def matching(params, like, key: str):
    """`params` when its tree and shapes are those of `like`; else ConfigError naming the first leaf that differs."""
    theirs = {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    ours = {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    for name in sorted(set(ours) | set(theirs)):
        if ours.get(name) != theirs.get(name):
            raise ConfigError(
                f"{key}: parameter {name} is {theirs.get(name)} there, {ours.get(name)} in this config"
            )
    return params

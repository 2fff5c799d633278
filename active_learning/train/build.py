"""Assembles a run from its config: data, models, recipe, costs and the first train state.

All config and data errors are raised here, before anything is compiled.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from active_learning import checkpoint
from active_learning.checks import StepCounts, check_values, resolve
from active_learning.config import ConfigError
from active_learning.core import distillation, resolution, sharding
from active_learning.core.recipe import Batch, Model, Recipe, TrainState, init_state, unaugmented
from active_learning.cost.ledger import total
from active_learning.data.augment import Augmentation, augmented, mixed
from active_learning.data.loader import Loader
from active_learning.data.parts import Data
from active_learning.data.sources.source import DataError
from active_learning.models.layers import shared
from active_learning.references import Reference, replay, score_file
from active_learning.settings import Config
from active_learning.storage.runs import readable
from active_learning.tasks import Task, View
from active_learning.train.charged import charged_parts, count_rows
from active_learning.train.costs import Role, low_resolution, update_costs
from active_learning.train.economics import UNPROVEN, too_dear
from active_learning.train.fitting import fitted, without_selection
from active_learning.train.known import Known
from active_learning.train.open_data import open_data
from active_learning.train.starts import Start, Starts, check_param_shapes, open_models
from active_learning.train.streams import stream_of, with_memory


@dataclass(frozen=True)
class Experiment:
    """Everything that the loop needs besides the state."""

    config: Config
    steps: StepCounts
    # None where it is assembled for a plan; `data` is for all others.
    opened_data: Data | None
    # What the learner and the scorers see.
    view: View
    scorer_view: View
    recipe: Recipe
    # Flax modules, with what the data decide filled in.
    learner: Any
    scorer: Any
    # FLOPs of an update by account, inside the window and after it.
    costs: Mapping[str, float]
    uniform_costs: Mapping[str, float]
    mesh: Mesh
    # The devices that score, where they are not those that train.
    actor_mesh: Mesh | None = None
    # Published weights that the models start from.
    starts: Starts = field(default_factory=Starts)
    # The model of a reference that has an architecture of its own, None for others.
    own_reference: Role | None = None
    # Recorded choices of another run that are trained on.
    choices: replay.Choices | None = None
    # A line for each size that was fitted to a small pool.
    changes: tuple[str, ...] = ()
    # What a reference whose scores are stored said of the gate and the labels.
    known: Known = field(default_factory=Known)

    @property
    def data(self) -> Data:
        """What it trains on and is judged on."""
        assert self.opened_data is not None, "assembled for a plan, without data"
        return self.opened_data

    @property
    def task(self) -> Task:
        """What is learnt."""
        return self.config.task

    @property
    def reference(self) -> Reference:
        """Where the reference comes from."""
        return self.config.reference

    @property
    def device_count(self) -> int:
        """Devices that train or score."""
        return self.mesh.size + (0 if self.actor_mesh is None else self.actor_mesh.size)

    @property
    def class_counts(self) -> dict[str, int]:
        """Training examples of each class by name; empty for image-text pairs."""
        train = self.data.train
        if train.captions is not None:
            return {}
        return train.source.class_counts(self.config.data.label)

    @property
    def two_stage_decode(self) -> bool:
        """Whether only the chosen examples are read in full.

        Candidates are read as small views, or as stored features without any image.
        """
        source, needs = self.data.train.source, self.recipe.policy.needs
        small = source.small or (self.scorer_view.features and "learner" not in needs)
        return bool(small and needs and source.reads_small)

    def init_learner(self, key: jax.Array) -> PyTree:
        """Fresh parameters of the learner."""
        return self.task.init(self.learner, self.view, key)

    def init_scorer(self, key: jax.Array) -> PyTree:
        """Fresh parameters of a scorer."""
        return self.task.init(self.scorer, self.scorer_view, key)

    @property
    def reference_role(self) -> Role:
        """Module and view of a reference."""
        return self.own_reference or Role(self.scorer, self.scorer_view)

    def init_reference(self, key: jax.Array) -> PyTree:
        """Fresh parameters of one reference model."""
        role = self.reference_role
        return self.task.init(role.module, role.view, key)

    def loader(self, position: int) -> Loader:
        """Feeds the run from `position` on: candidates, or another run's choices."""
        stream = stream_of(self.config, self.data.train, self.choices, self.steps.total)
        return Loader(stream, sharding.batch_sharding(self.mesh), position)


def build(config: Config, devices: list[sharding.Device] | None = None) -> Experiment:
    """Builds everything but the state; compiles nothing.

    Raises:
      ConfigError: A key that cannot work.
      DataError: A file or value of the data that cannot be used.
    """
    given, (config, starts) = config, open_models(config)
    check_values(config)
    if config.init_from and not (readable(config.init_from) / "checkpoints").is_dir():
        raise ConfigError(f"config.init_from={config.init_from!r}: no run there (no checkpoints)")
    data = open_data(config)
    train_on, processes = config.split.train_on, jax.process_count()
    if not len(data.train):
        raise DataError(f"{train_on}: no examples to train on")
    if len(data.train) < processes:
        raise DataError(f"{train_on}: {len(data.train)} examples for {processes} processes")
    devices = jax.devices() if devices is None else devices
    given, changes = fitted(given, len(data.train), len(devices))
    config, _ = fitted(config, len(data.train), len(devices))
    steps = resolve(config, len(data.train), len(devices))
    if config.select.actors and processes > 1:
        raise ConfigError(
            f"config.select.actors={config.select.actors}: only in one process, here are "
            f"{processes}"
        )
    choices = _choices(config, data, steps.total) if config.select.replay else None
    data = config.task.attach(config, data)
    data_view = config.task.view(config, data)
    view = starts.learner.view(data_view)
    scorer_view = starts.scorer.view(data_view.with_small(data.train, config.task))
    gate = None
    if config.select.policy.reads_reference:
        name = score_file.view_name(scorer_view.image_shape)
        data, gate = config.reference.attach(config, data, name)
    experiment = assemble(given, steps, view, scorer_view, devices)
    reference, price = sized_reference(experiment, data)
    if too_dear(price, given.select.until):
        changes.append(
            f"uniform sampling instead of {given.select.policy.name}: the reference would cost "
            f"{price:.1%} of uniform training, and until='auto' spends at most {UNPROVEN:.0%} "
            "before it knows of corrupted labels; train longer, or give config.select.until a "
            "duration"
        )
        given, config = without_selection(given), without_selection(config)
        steps = resolve(config, len(data.train), len(devices))
        experiment = assemble(given, steps, view, scorer_view, devices)
    given = dataclasses.replace(given, reference=reference)
    experiment = dataclasses.replace(experiment, config=given)
    if experiment.own_reference is not None:
        config.task.check_reference_texts(experiment.own_reference.module, data)
    data, recipe = with_memory(data, experiment.recipe)
    return dataclasses.replace(
        experiment,
        opened_data=data,
        recipe=recipe,
        choices=choices,
        known=Known(gate=gate),
        changes=tuple(changes),
    )


def _choices(config: Config, data: Data, updates: int) -> replay.Choices:
    """The recorded choices that a run replays, all of them among its data."""
    folder, about = readable(config.select.replay), data.provenance
    by = about.get("ids", "place")
    choices = replay.read(folder, config.batch_size, updates, about["hash"], by)
    data.train.rows_of(choices.ids, replay.KEY)
    return choices


def sized_reference(experiment: Experiment, data: Data) -> tuple[Reference, float]:
    """The reference with sizes that fit the run, and what it costs of uniform training."""
    config = experiment.config
    if not config.select.policy.reads_reference:
        return config.reference, 0.0
    return config.reference.sized(
        experiment.scorer_view.image_shape,
        lambda: count_rows([data.parts[name] for name in charged_parts(config)]),
        data.num_classes,
        total(dict(experiment.uniform_costs)) * experiment.steps.total,
    )


def assemble(
    config: Config,
    steps: StepCounts,
    view: View,
    scorer_view: View,
    devices: list[sharding.Device],
) -> Experiment:
    """Builds a run without its data: the models, the recipe and the cost of an update."""
    given, (config, starts) = config, open_models(config)
    check_values(config)
    actors, task = config.select.actors, config.task
    mesh = sharding.make_mesh(devices[actors:], config.fsdp)
    view, scorer_view = view.on(mesh), scorer_view.on(mesh)
    learner = task.specialize(config.learner, view)
    scorer = task.specialize(config.scorer, scorer_view)

    def scorer_model(optim: Any) -> Model:
        optimizer = starts.scorer.optimizer(optim.make(steps.scorer_warmup, steps.total))
        return starts.scorer.model(task.model(scorer, scorer_view, optimizer))

    own, frozen = _own_reference(config, starts, scorer_view)

    devices_or_none = mesh if mesh.size > 1 else None
    augment = partial(_augment, settings=config.augmentation, mesh=devices_or_none)
    recipe = Recipe(
        learner=_learner(config, steps, starts.learner, view, learner, mesh),
        distill=config.distill.weight > 0,
        scorer=scorer_model(config.scorer_optim),
        policy=config.select.policy,
        sub_batch_size=config.batch_size,
        temperature=config.select.temperature,
        standardize=config.select.standardize,
        score_chunk=config.select.score_chunk,
        augment=augment if config.augment else unaugmented,
        mesh=devices_or_none,
        grad_accum_steps=config.grad_accum_steps,
        ema_half_life=float(steps.ema),
        frozen_reference=frozen,
        **config.reference.recipe_fields(config, scorer_model),
    )
    both = (starts.learner, learner, view), (starts.scorer, scorer, scorer_view)
    costs, uniform_costs = update_costs(config, recipe, *both, own)
    return Experiment(
        config=given,
        steps=steps,
        opened_data=None,
        view=view,
        scorer_view=scorer_view,
        recipe=recipe,
        learner=learner,
        scorer=scorer,
        costs=costs,
        uniform_costs=uniform_costs,
        mesh=mesh,
        actor_mesh=sharding.make_mesh(devices[:actors]) if actors else None,
        starts=starts,
        own_reference=own,
    )


def _learner(
    config: Config, steps: StepCounts, start: Start, view: View, module: Any, mesh: Mesh
) -> Model:
    """The learner; in part on larger patches and with soft targets, where the config has them."""
    optimizer = start.optimizer(config.optim.make(steps.warmup, steps.total))

    def model_of(module: Any) -> Model:
        return start.model(with_fsdp_gather(mesh, config.task.model(module, view, optimizer)))

    model = model_of(module)
    if config.flexi.patch:
        fraction = resolution.rows_at_low(config.flexi.fraction, config.batch_size)
        model = resolution.mixed(model, model_of(low_resolution(config, module)), fraction)
    if config.distill.weight:
        soft_loss = config.task.soft_loss(view, config.distill.temperature)
        model = distillation.distilled(model, soft_loss, config.distill.weight)
    return model


def _own_reference(
    config: Config, starts: Starts, view: View
) -> tuple[Role, Model] | tuple[None, None]:
    """A reference from published weights at their own size, on the scorers' images."""
    if starts.reference is None or starts.reference.resolved is None:
        return None, None
    view = starts.reference.view(view)
    module = config.task.specialize(starts.reference.resolved.module, view)
    return Role(module, view), config.task.model(module, view, optax.set_to_zero())


def _augment(batch: Batch, key: jax.Array, settings: Augmentation, mesh: Mesh | None) -> Batch:
    """Augments a batch; randomness depends only on (key, id, epoch)."""
    name = next((column for column in ("image", "image_small") if column in batch), None)
    if name is None:  # Stored features are of unaugmented images.
        return batch
    rows, ids, epochs = (jnp.asarray(batch[column]) for column in (name, "id", "epoch"))
    image = augmented(settings, rows, ids, epochs, key)
    batch = batch | {name: image}
    if not settings.mixup:
        return batch
    return mixed(batch, name, key, settings.mixup, partial(sharding.take_sharded, mesh=mesh))


def with_fsdp_gather(mesh: Mesh, learner: Model) -> Model:
    """The learner under FSDP: in training each parameter is all-gathered where a layer uses it."""
    if sharding.FSDP_AXIS not in mesh.shape:
        return learner

    def gather(x: jax.Array, path: str) -> jax.Array:
        return sharding.gather(x, f"learner/params/{path}", mesh)

    def apply(params: PyTree, batch: Batch, train: bool) -> Any:
        return learner.apply(shared(params, gather) if train else params, batch, train)

    return dataclasses.replace(learner, apply=apply)


def _fresh(
    experiment: Experiment,
    learner: PyTree | None,
    reference: PyTree | None,
    online: PyTree | None = None,
) -> TrainState:
    """The state at step 0 from the models' parameters, where given."""
    key = jax.random.key(experiment.config.seed)
    fold = partial(jax.random.fold_in, key)
    needs = experiment.recipe.policy.needs
    if learner is None:
        learner = experiment.init_learner(fold(1))
    if "online" not in needs:
        online = None
    elif online is None:
        online = experiment.init_scorer(fold(2))
    if "reference" in needs:
        fresh = lambda: experiment.init_scorer(fold(4))
        reference = experiment.reference.initial_params(reference, fresh)
    else:
        reference = None
    return init_state(experiment.recipe, fold(3), learner, online, reference)


def first_state(experiment: Experiment, reference: PyTree | None = None) -> TrainState:
    """The state at step 0, created with its final shardings.

    Args:
      experiment: The run.
      reference: Parameters of the reference, where it exists before the run.
    """
    fold = partial(jax.random.fold_in, jax.random.key(experiment.config.seed))
    starts, folder = experiment.starts, experiment.config.init_from
    learner = starts.learner.params(experiment.learner, experiment.view, fold(1))
    online = starts.scorer.params(experiment.scorer, experiment.scorer_view, fold(2))
    if folder:
        like = jax.eval_shape(experiment.init_learner, jax.random.key(0))
        learner = checkpoint.load_params(readable(folder))
        learner = check_param_shapes(learner, like, f"config.init_from={folder}")
    make = partial(_fresh, experiment)
    shardings = sharding.state_shardings(
        jax.eval_shape(make, learner, reference, online), experiment.mesh
    )
    return jax.jit(make, out_shardings=shardings)(learner, reference, online)


def abstract_state(experiment: Experiment) -> TrainState:
    """`first_state` as shapes with their shardings; nothing is allocated."""
    one = jax.eval_shape(experiment.init_reference, jax.random.key(0))
    reference = experiment.reference.abstract_params(one)
    shapes = jax.eval_shape(partial(_fresh, experiment), None, reference)
    shardings = sharding.state_shardings(shapes, experiment.mesh)
    place = lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)
    return jax.tree.map(place, shapes, shardings)

"""The training step compiled for a TPU slice that is not here.

Compiles ahead of time with libtpu (extra [plan]) on the local CPU; nothing is executed. Memory and
collectives are as reported by the compiler, times are arithmetic with the assumptions printed
beside them.
"""

import dataclasses
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from active_learning.config import ConfigError
from active_learning.core import sharding
from active_learning.core.step import train_step, uniform_step
from active_learning.cost.flops import PEAK_FLOPS
from active_learning.cost.ledger import ACCOUNTS
from active_learning.models import TwoTower
from active_learning.plan.abstract import abstract_batch
from active_learning.plan.hlo import Collective, collectives
from active_learning.plan.topology import CHIPS
from active_learning.settings import Select
from active_learning.train.build import Experiment, abstract_state, assemble

GIB = 2**30
# Named scopes of the step that exist for selection.
SELECTION = ("score_online", "score_reference", "score_learner", "select", "take")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
_SIZE = r"([\d.]+)([KMG])"
# What the compiler says when a program is too large: today's wording, and that of earlier releases.
_OUT_OF_MEMORY = (
    re.compile(rf"required for HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
    re.compile(rf"[Uu]sed {_SIZE} of {_SIZE}"),
)


@dataclass(frozen=True)
class CompiledStep:
    """What the compiler reports of a step, for one chip."""

    chips: int
    device_kind: str
    # Bytes of state and batch, and temporary bytes.
    stays: int
    temporary: int
    collectives: tuple[Collective, ...]
    # Wall-clock of the compilation.
    seconds: float

    @property
    def memory(self) -> int:
        """Bytes a chip needs."""
        return self.stays + self.temporary


def compile_step(experiment: Experiment) -> CompiledStep:
    """Compile the experiment's step (with selection inside a window, else uniform) for its mesh.

    Raises:
      ConfigError: Where it does not fit the chips, with changes of the config that would make it.
    """
    began, step = time.monotonic(), train_step if experiment.steps.window else uniform_step
    state, batch = abstract_state(experiment), abstract_batch(experiment)
    kind = experiment.mesh.devices.flat[0].device_kind
    try:
        done = sharding.aot_compile(
            partial(step, experiment.recipe),
            state,
            batch,
            rest=sharding.replicated(experiment.mesh),
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(_too_large(experiment, str(error))) from error
    compiled = reported(done, experiment.mesh, began)
    if kind in CHIPS and compiled.memory > (has := CHIPS[kind].memory * GIB):
        raise ConfigError(_does_not_fit(experiment, float(compiled.memory), has))
    return compiled


def reported(done: jax.stages.Compiled, mesh: Mesh, began: float) -> CompiledStep:
    """What the compiler reports of a program, whose compilation began at a monotonic time.

    Raises:
      ConfigError: It reports nothing.
    """
    kind = mesh.devices.flat[0].device_kind
    memory, text = done.memory_analysis(), done.as_text()
    if memory is None or text is None:
        raise ConfigError(f"the compiler for {kind} reports neither memory nor its program")
    return CompiledStep(
        chips=mesh.size,
        device_kind=kind,
        stays=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        collectives=tuple(collectives(text)),
        seconds=time.monotonic() - began,
    )


def _too_large(experiment: Experiment, message: str) -> str:
    """The compiler's refusal as one line; its own first line where it is worded in another way."""
    temporaries, used = (pattern.search(message) for pattern in _OUT_OF_MEMORY)
    needed = temporaries or used
    if needed is None:
        kind = experiment.mesh.devices.flat[0].device_kind
        return f"the step does not fit a {kind}: {message.splitlines()[0]}"
    needs, has = (float(needed[n]) * _UNITS[needed[n + 1]] for n in (1, 3))
    if temporaries:  # state and batch come on top of these
        needs += _argument_bytes(experiment)
    return _does_not_fit(experiment, needs, has)


def _does_not_fit(experiment: Experiment, needs: float, has: float) -> str:
    """By how much a step does not fit a chip, and what would make it fit."""
    kind = experiment.mesh.devices.flat[0].device_kind
    ways = ", or ".join(remedies(experiment, needs - has, needs))
    return (
        f"the step needs {needs / GIB:.1f} GiB of a {kind}'s {has / GIB:.1f}, "
        f"{(needs - has) / GIB:.1f} GiB too much; "
        f"would fit: {ways or 'more chips or a smaller model'}"
    )


def bytes_on_a_chip(tree: PyTree) -> int:
    """Bytes of placed arrays, or their shapes, on one chip."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )


def _argument_bytes(experiment: Experiment) -> int:
    """Bytes of state and batch on one chip."""
    return bytes_on_a_chip((abstract_state(experiment), abstract_batch(experiment)))


def learner_bytes(experiment: Experiment) -> int:
    """Bytes of the learner on one chip: parameters, optimizer state, moving average."""
    state = abstract_state(experiment)
    return bytes_on_a_chip((state.learner, state.ema))


def remedies(experiment: Experiment, over: float, needs: float) -> Iterator[str]:
    """Changes of the config that would free `over` of the `needs` bytes of a chip."""
    config, chips = experiment.config, experiment.mesh.size
    kept = [role for role in _without_remat(experiment) if role]
    if kept:  # the largest saving, of an amount that only another compilation can tell
        yield "perhaps " + " ".join(f"--config.{role}.remat=full" for role in kept)
    whole = learner_bytes(experiment)
    rest = needs - whole  # nearly all of it grows with the examples a chip trains on at a time
    own, parts = config.batch_size // chips, config.grad_accum_steps
    if rest > over:
        enough = [
            n for n in range(parts + 1, own + 1) if own % n == 0 and rest * parts / n < rest - over
        ]
        if enough:
            yield f"--config.grad_accum_steps={enough[0]} (the same batch in {enough[0]} parts)"
    for fsdp in (2, 4, 8, 16, 32):
        if fsdp > config.fsdp and chips % fsdp == 0:
            mesh = sharding.make_mesh(list(experiment.mesh.devices.flat), fsdp)
            free = whole - learner_bytes(dataclasses.replace(experiment, mesh=mesh))
            if free > over:
                yield f"--config.fsdp={fsdp} ({free / GIB:.1f} GiB of the learner's state)"
                break
    less = int(config.batch_size * (1 - over / rest)) // chips * chips if rest > over else 0
    if 0 < less < config.batch_size:
        yield f"--config.batch_size={less}"


def _without_remat(experiment: Experiment) -> Iterator[str]:
    """Keys of the models that keep activations for the backward pass."""
    trained = {"learner": experiment.learner}
    if "online" in experiment.recipe.policy.needs:
        trained["scorer"] = experiment.scorer
    for role, module in trained.items():
        parts = {"": module}
        if isinstance(module, TwoTower):
            parts = {".image": module.image, ".text": module.text}
        for name, part in parts.items():
            if (
                "remat" in {field.name for field in dataclasses.fields(part)}
                and part.remat != "full"
            ):
                yield f"{role}{name}"


def plan_metrics(experiment: Experiment, compiled: CompiledStep, mfu: float) -> dict:
    """The plan of a step as numbers: bytes and FLOPs of one chip, seconds of a step.

    Args:
      experiment: The experiment.
      compiled: Its compiled step.
      mfu: Fraction of the chips' peak that is assumed.
    """
    selects, config = bool(experiment.steps.window), experiment.config
    uniform = experiment.uniform_costs
    costs = experiment.costs if selects else uniform
    rate = PEAK_FLOPS.get(compiled.device_kind, 0.0) * mfu * compiled.chips
    chip = CHIPS.get(compiled.device_kind)
    sent = [(c.scope in SELECTION, c.wire * max(1, c.times)) for c in compiled.collectives]
    moved = sum(size for _, size in sent)
    return {
        "chips": compiled.chips,
        "device": compiled.device_kind,
        "mesh": dict(experiment.mesh.shape),
        "batch_size": config.batch_size,
        "ratio": config.select.ratio if selects else 1,
        "stays_bytes": compiled.stays,
        "temporary_bytes": compiled.temporary,
        "flops": {
            account: costs.get(account, 0.0) / compiled.chips
            for account in (*ACCOUNTS, "recompute")
        },
        "flops_over_uniform": sum(costs.values()) / sum(uniform.values()),
        "moved_bytes": moved,
        "selection_moved_bytes": sum(size for selects, size in sent if selects),
        "compute_seconds": sum(costs.values()) / rate if rate else None,
        "uniform_compute_seconds": sum(uniform.values()) / rate if rate else None,
        "moved_seconds": moved / chip.links if chip else None,
        "compile_seconds": compiled.seconds,
    }


@dataclass(frozen=True)
class UpdateCounts:
    """What the compiler counts for one chip and an update of the learner."""

    flops: float
    # Bytes read and written.
    memory_traffic: float


def count_update(experiment: Experiment) -> UpdateCounts | None:
    """The learner's update on one chip's part of the batch, as the compiler counts it.

    Extrapolated from 1 and 2 unrolled layers, since the body of a scan is counted once however
    long it is. None for a learner without layers to count.
    """
    learner = experiment.learner
    names = {field.name for field in dataclasses.fields(learner)}
    if not {"depth", "scan"} <= names or learner.depth < 2:
        return None
    counts = []
    for layers in (1, 2):
        config = dataclasses.replace(
            experiment.config,
            learner=dataclasses.replace(learner, depth=layers, scan=False),
            batch_size=experiment.config.batch_size // experiment.mesh.size,
            select=Select(),
            fsdp=1,
        )
        steps = dataclasses.replace(experiment.steps, window=0)
        device = experiment.mesh.devices.flat[0]
        alone = assemble(config, steps, experiment.view, experiment.scorer_view, [device])
        step = partial(uniform_step, alone.recipe)
        done = sharding.aot_compile(step, abstract_state(alone), abstract_batch(alone))
        cost = done.cost_analysis()
        if cost is None:
            return None
        counts.append(np.array([cost["flops"], cost["bytes accessed"]]))
    one, two = counts
    return UpdateCounts(*map(float, one + (learner.depth - 1) * (two - one)))

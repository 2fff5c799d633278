"""Checks of a config that need no data, and its durations in updates.

Ranges of single keys are declared at the fields (`config.setting`); here is what relates keys.
"""

import dataclasses
from dataclasses import dataclass

from active_learning.config import ConfigError, check_ranges, is_zero, to_steps
from active_learning.core.resolution import rows_at_low
from active_learning.settings import Config

# Latest end of the window with until='auto', in % of the run: late in the decay of the learning
# rate, uniform sampling gives the best final accuracy (docs/choosing.md).
AUTO_LATEST = 60


@dataclass(frozen=True)
class StepCounts:
    """A config's durations in updates.

    Attributes:
      total: Updates of the run.
      window: Updates in which selection is on; the most there can be when `until` is 'auto'.
      evaluate, log, checkpoint: Intervals.
      warmup, scorer_warmup: Updates of learning-rate warm-up.
      ema: Half-life of the moving average of the learner's weights; 0: none.
    """

    total: int
    window: int
    evaluate: int
    log: int
    checkpoint: int
    warmup: int
    scorer_warmup: int
    ema: int


def resolve(config: Config, pool: int, devices: int) -> StepCounts:
    """Checks a config and converts its durations.

    Args:
      config: The config.
      pool: Examples that candidates are drawn from.
      devices: Devices of the mesh.

    Raises:
      ConfigError: Names the key that cannot work.
    """
    check_ranges(config)
    _check_actors(config, devices)
    devices -= config.select.actors
    _check_devices(config, devices)
    config.reference.check(config)
    _check_filter(config)
    _check_reuse(config)
    _check_flexi(config, devices)
    _check_distill(config)
    config.augmentation.check()
    config.task.check(config)
    _check_views(config)
    _check_auto(config)
    _check_pool(config, pool)
    if config.select.replay and config.select.policy.needs:
        raise ConfigError(
            f"config.select.replay={config.select.replay!r}: its choices are given, so "
            "config.select.policy must be uniform"
        )
    return _step_counts(config, pool)


def check_values(config: Config) -> None:
    """Checks that data and models are such. Raises ConfigError; comes before anything is opened."""
    if not callable(getattr(config.data, "open", None)):
        raise ConfigError(f"config.data={config.data!r:.60}: expected a source of examples")
    for role in ("learner", "scorer"):
        module = getattr(config, role)
        if not (callable(getattr(module, "cost", None)) and dataclasses.is_dataclass(module)):
            raise ConfigError(f"config.{role}={module!r:.60}: expected a model, e.g. a ViT")


def on_any_devices(config: Config) -> Config:
    """The config without the keys that ask for a number of devices, for other uses of its models.

    The learner is whole on each device, and no device is set apart for scoring.
    """
    select = dataclasses.replace(config.select, actors=0, refresh=1)
    return dataclasses.replace(config, fsdp=1, select=select)


def _step_counts(config: Config, pool: int) -> StepCounts:
    def steps(duration: str, key: str, total: int | None = None) -> int:
        name, b = f"config.{key}", config.batch_size
        return to_steps(duration, name, batch_size=b, pool=pool, total=total)

    def interval(duration: str, key: str) -> int:
        # Rounded up to one update: '1 %' of a short run. Zero itself is a mistake.
        if is_zero(duration):
            raise ConfigError(f"config.{key}={duration!r}: must be above 0")
        return max(1, steps(duration, key, total))

    def warmup(duration: str, key: str) -> int:
        updates = steps(duration, key, total)
        if updates > total > 0:
            raise ConfigError(f"config.{key}={duration!r}: longer than the run's {total} updates")
        return updates

    total = steps(config.total, "total")
    auto = config.select.until == "auto"
    until = steps(f"{AUTO_LATEST} %" if auto else config.select.until, "select.until", total)
    return StepCounts(
        total=total,
        window=min(until, total) if config.select.policy.needs else 0,
        evaluate=interval(config.evaluate.every, "evaluate.every"),
        log=interval(config.log.every, "log.every"),
        checkpoint=interval(config.checkpoint.every, "checkpoint.every"),
        warmup=warmup(config.optim.warmup, "optim.warmup"),
        scorer_warmup=warmup(config.scorer_optim.warmup, "scorer_optim.warmup"),
        ema=steps(config.ema, "ema", total),
    )


def _check_devices(config: Config, devices: int) -> None:
    b, select, accum = config.batch_size, config.select, config.grad_accum_steps
    scoring = select.actors or devices
    if b % devices:
        raise ConfigError(f"config.batch_size={b}: not divisible by the {devices} devices")
    if devices % config.fsdp:
        raise ConfigError(f"config.fsdp={config.fsdp}: does not divide the {devices} devices")
    if select.score_chunk and (b * select.ratio // scoring) % select.score_chunk:
        raise ConfigError(
            f"config.select.score_chunk={select.score_chunk}: must divide the "
            f"{b * select.ratio // scoring} candidates of a device"
        )
    if b % (accum * devices):
        raise ConfigError(
            f"config.grad_accum_steps={accum}: must divide the {b // devices} examples of a "
            f"device (config.batch_size={b})"
        )


def _check_actors(config: Config, devices: int) -> None:
    """Actors leave devices to train, choose ahead, and have something to score."""
    select, key = config.select, f"config.select.actors={config.select.actors}"
    if not select.actors:
        if select.refresh != 1:
            raise ConfigError(
                f"config.select.refresh={select.refresh}: only with config.select.actors"
            )
        return
    if select.actors >= devices:
        raise ConfigError(
            f"{key}: of {devices} devices at least one must train, so at most {devices - 1}"
        )
    if not select.policy.needs:
        raise ConfigError(f"{key}: policy {select.policy.name!r} does not score during training")
    if select.schedule != "ahead":
        raise ConfigError(
            f"{key}: actors choose one update ahead, so config.select.schedule must be 'ahead'"
        )
    if config.batch_size % select.actors:
        raise ConfigError(f"{key}: must divide config.batch_size={config.batch_size}")
    if config.reference.trains_along:
        raise ConfigError(
            f"{key}: a co-trained reference trains on super-batches, which lie on the actors only"
        )


def _check_filter(config: Config) -> None:
    policy, reference = config.select.policy, config.reference
    if not 0 < policy.pool_fraction <= 1:
        raise ConfigError(
            f"config.select.policy.pool_fraction={policy.pool_fraction}: expected a fraction of "
            "the pool in (0, 1]"
        )
    if policy.pool_fraction < 1 and not reference.exists_before:
        raise ConfigError(
            f"config.reference.kind={reference.kind_name!r}: {policy.name!r} scores once, with a "
            "reference that exists before the run"
        )


def _check_reuse(config: Config) -> None:
    policy = config.select.policy
    if not policy.reuse_forward:
        return
    if "learner" not in policy.needs or "online" in policy.needs:
        raise ConfigError(
            f"config.select.policy: {policy.name!r} reuses a forward pass, so it can only score "
            "with the learner"
        )
    for key, value, only in (
        ("select.schedule", config.select.schedule, "exact"),
        ("data.small", config.data.small, 0),
    ):
        if value != only:
            raise ConfigError(
                f"config.{key}={value!r}: {policy.name!r} scores and trains in one pass, so it "
                f"must be {only!r}"
            )


def _check_flexi(config: Config, devices: int) -> None:
    flexi, policy = config.flexi, config.select.policy
    if not flexi.patch:
        return
    try:
        rows_at_low(flexi.fraction, config.batch_size // devices)
    except ValueError as error:
        raise ConfigError(f"config.flexi.fraction={error}") from error
    if policy.reuse_forward:
        raise ConfigError(
            f"config.flexi.patch={flexi.patch}: {policy.name!r} trains on the scoring pass, "
            "which has one resolution; use the policy without '_fused'"
        )
    if config.grad_accum_steps > 1:
        raise ConfigError(
            f"config.grad_accum_steps={config.grad_accum_steps}: with config.flexi.patch a batch "
            "cannot be cut further; use 1"
        )


def _check_distill(config: Config) -> None:
    policy, reference = config.select.policy, config.reference
    key = f"config.distill.weight={config.distill.weight}"
    if not config.distill.weight:
        return
    if "reference" not in policy.needs:
        raise ConfigError(f"{key}: policy {policy.name!r} uses no reference to learn from")
    if reference.models_scoring != 1:
        raise ConfigError(
            f"{key}: config.reference.kind={reference.kind_name!r} is not a single model that "
            "runs; use 'trained' or 'loaded'"
        )
    if policy.reuse_forward:
        raise ConfigError(
            f"{key}: {policy.name!r} trains on the scoring pass; use the policy without '_fused'"
        )


def _check_views(config: Config) -> None:
    small = config.data.small
    if config.small_view and not small:
        raise ConfigError(
            "config.small_view=True: there is no small view, config.data.small is not set"
        )
    if small and not config.small_view and "learner" in config.select.policy.needs:
        raise ConfigError(
            f"config.data.small={small}: a small view is for the small models, but policy "
            f"{config.select.policy.name!r} scores with the learner, which sees the full one"
        )


def _check_pool(config: Config, pool: int) -> None:
    policy, b, ratio = config.select.policy, config.batch_size, config.select.ratio
    holds = f"but {config.split.train_on} holds {pool} examples"
    if policy.needs and ratio * b > pool:
        raise ConfigError(f"config.select.ratio={ratio}: {ratio * b} candidates a step, {holds}")
    if b > pool:
        raise ConfigError(f"config.batch_size={b}: {holds}")
    if (kept := round(policy.pool_fraction * pool)) < b:
        raise ConfigError(
            f"config.select.policy.pool_fraction={policy.pool_fraction}: {kept} of {pool} "
            "examples are less than a batch"
        )


def _check_auto(config: Config) -> None:
    if config.select.until == "auto" and not config.evaluate.gate:
        raise ConfigError(
            "config.select.until='auto' needs a gate: name a part in config.evaluate.gate"
        )

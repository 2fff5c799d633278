"""`python -m active_learning.plan.__main__ --config=FILE [--config.x=...] [--reference=RUN] [--topology=v5e:16x16]`: before you pay.

What a run costs by account, the share of uniform's updates at which selection breaks even (for scorer sizes, ratios and what is already paid
for), the memory of the state, and with `--reference` a probe of it on the config's data. `--topology` compiles the step for a TPU pod. Where
the data cannot be opened, it plans from --image-size, --classes and --examples.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from active_learning import checkpoint
from active_learning.config import ConfigError, from_flags
from active_learning.core.step import select_step
from active_learning.cost import ledger
from active_learning.data.sources.source import DataError
from active_learning.models import TwoTower, ViT
from active_learning.plan import pod
from active_learning.references.stored import score_all
from active_learning.settings import Config, Pairs, Select, resolve
from active_learning.train.build import (
    Run,
    assemble,
    build,
    first_state,
    loader_of,
    matching,
    state_shapes,
    task_of,
)
from active_learning.train.loop import read_summary

RATIOS = (2, 4, 8, 16)
SIZES = {
    "ViT-Ti": (192, 12, 3),
    "ViT-S": (384, 12, 6),
    "ViT-B": (768, 12, 12),
}  # width, depth, heads
LEVELS = ("none", "pretrained", "foundation dataset", "replayed policy")
CHEAP = 15  # a scorer less than this many times cheaper than the learner has little left to save


@dataclass(frozen=True)
class Bill:
    """What a run is charged, and what its parts cost.

    updates, window, b, ratio, policy, kind (of reference): the config's; learner, scorer: `flops.Cost` per example; reference: FLOPs of
    training it; once: FLOPs of scoring the pool before the run.
    """

    updates: int
    window: int
    b: int
    ratio: int
    learner: object
    scorer: object
    policy: object
    kind: str
    reference: float
    once: float = 0.0

    def step(self, ratio: int, level: str = "none", scorer: object = None) -> float:
        """FLOPs of an update inside the window at one of `LEVELS`."""
        kind = "stored" if level == "foundation dataset" else self.kind
        if level == "pretrained" and kind == "cotrained":
            kind = "loaded"
        needs = () if level == "replayed policy" else self.policy.needs
        reuse = bool(needs) and self.policy.reuse
        return ledger.total(
            ledger.step_costs(
                self.learner, scorer or self.scorer, needs, self.b, ratio, kind, reuse
            )
        )

    @property
    def plain(self) -> float:
        """FLOPs of a uniform update."""
        return ledger.total(ledger.step_costs(self.learner, self.scorer, (), self.b, 1))

    def accounts(self) -> dict[str, float]:
        """FLOPs of the whole run by account."""
        book = ledger.Ledger()
        policy = self.policy
        active = ledger.step_costs(
            self.learner, self.scorer, policy.needs, self.b, self.ratio, self.kind, policy.reuse
        )
        book.charge(active, self.window)
        book.charge(
            ledger.step_costs(self.learner, self.scorer, (), self.b, 1), self.updates - self.window
        )
        book.charge({"reference_train": self.reference, "reference_score": self.once})
        return book.flops

    def break_even(self, ratio: int, level: str, scorer: object = None) -> float:
        """beta*: the share of uniform's updates at which the bill is uniform's, the window keeping its share of the run. 1 at most."""
        extra = (self.step(ratio, level, scorer) - self.plain) * self.window / self.updates
        paid = 0.0
        if level == "none" and self.reference:
            size = 1.0 if scorer is None else scorer.train / self.scorer.train
            paid = self.reference * size / (self.plain * self.updates)
        return max(0.0, (1 - paid) / (1 + extra / self.plain))


def bill_of(
    config: Config, learner, scorer, examples: int, image_shape: tuple[int, int, int]
) -> Bill:
    """The bill of a config on a pool of `examples` images of a shape. Raises ConfigError."""
    clock = resolve(config, examples, 1)
    small, policy, paid = (
        scorer.cost(seen_by_scorers(config, image_shape)),
        config.select.policy,
        0.0,
    )
    if policy.reads_reference and config.reference.kind in ("trained", "crossfitted"):
        ref = dataclasses.replace(
            config,
            batch_size=config.reference.batch_size,
            total=config.reference.total,
            select=Select(),
        )
        paid = resolve(ref, examples, 1).total * config.reference.batch_size * small.train
        paid *= 2 if config.reference.kind == "crossfitted" else 1
    elif (
        policy.reads_reference and config.reference.kind == "loaded"
    ):  # a published one (.npz) says nothing of its cost
        trained = read_summary(Path(config.reference.path))
        paid = ledger.total(trained["flops"]) if trained else 0.0
    return Bill(
        clock.total, clock.window, config.batch_size, config.select.ratio, learner.cost(image_shape), small, policy, config.reference.kind,
        paid * config.reference.charge, examples * small.forward if policy.keep < 1 and config.reference.kind != "stored" else 0.0,
    )  # fmt: skip


def seen_by_scorers(config: Config, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of the small view; the learner's where there is none."""
    small = config.data.small
    return (small, small, image_shape[2]) if small else image_shape


def sizes(
    learner, scorer, image_shape: tuple[int, int, int], small_shape: tuple[int, int, int]
) -> dict[str, object]:
    """Costs of scorers to compare: the config's own, and the standard ViTs that are cheaper than a ViT learner (two-towers of them for a
    two-tower), on the scorers' view."""
    found = {"this config's": scorer.cost(small_shape)}
    if isinstance(learner, TwoTower):
        for name, (width, depth, heads) in SIZES.items():
            size = {"width": width, "depth": depth, "heads": heads, "mlp_dim": 0}
            towers = {
                tower: dataclasses.replace(getattr(learner, tower), **size)
                for tower in ("image", "text")
            }
            cost = dataclasses.replace(learner, image_out=0, text_out=width, **towers).cost(
                small_shape
            )
            if cost.forward < learner.cost(image_shape).forward:
                found[name] = cost
    if isinstance(learner, ViT):
        for name, (width, depth, heads) in SIZES.items():
            cost = dataclasses.replace(
                learner, width=width, depth=depth, heads=heads, mlp_dim=0
            ).cost(small_shape)
            if cost.forward < learner.cost(image_shape).forward:
                found[name] = cost
    return found


def money(bill: Bill, scorers: dict[str, object]) -> Iterator[str]:
    """FLOPs by account, and the break-even tables."""
    accounts, uniform = bill.accounts(), bill.plain * bill.updates
    yield f"policy {bill.policy.name}: {bill.updates:,} updates of {bill.b:,} examples, ratio {bill.ratio}, window {bill.window:,} updates"
    for account, value in accounts.items():
        if value:
            yield f"  {account:16s} {value:9.3g} FLOPs  {value / uniform:6.1%} of uniform training"
    yield f"  {'total':16s} {ledger.total(accounts):9.3g} FLOPs  {ledger.total(accounts) / uniform:6.1%} at the same number of updates"
    if not bill.policy.needs:
        return
    yield ""
    yield "break-even: the largest share of uniform's updates that costs no more than uniform training, by what is already paid for"
    yield f"  {'scorer':14s} {'cheaper':>8s} {'ratio':>6s}  " + "  ".join(
        f"{level:>18s}" for level in LEVELS
    )
    for name, cost in scorers.items():
        for ratio in RATIOS if bill.ratio in RATIOS else sorted({*RATIOS, bill.ratio}):
            cells = "  ".join(f"{bill.break_even(ratio, level, cost):18.2f}" for level in LEVELS)
            yield f"  {name:14s} {bill.learner.forward / cost.forward:7.0f}x {ratio:6d}  {cells}"


def memory(state, b: int, ratio: int, image_shape: tuple[int, int, int]) -> Iterator[str]:
    """Bytes of the train state (a tree of shapes) by model, and of a super-batch. Activations and gradients come on top."""
    yield ""
    yield "memory of the state on every device (activations and gradients come on top)"
    for name in ("learner", "online", "reference"):
        model = getattr(state, name)
        if model is not None:
            params, moments = _bytes(model.params), _bytes(model.opt_state)
            yield f"  {name:10s} parameters {params / 2**20:9.1f} MiB  optimizer {moments / 2**20:9.1f} MiB"
    yield f"  super-batch of {b * ratio:,} images, over all devices: {b * ratio * np.prod(image_shape) / 2**20:.1f} MiB as uint8"


def _bytes(tree) -> int:
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")
    )


@dataclass(frozen=True)
class Probe:
    """A reference looked at before the run. Shares of examples; None where the true labels or a gate are unknown."""

    gate_accuracy: float | None
    agreement: float  # pool labels that the reference predicts
    agreement_truth: float | None  # true labels that it predicts
    effective_share: (
        float  # of the super-batch, with a fresh online model, at the config's temperature
    )
    wrong_pool: float | None  # wrong labels in the pool
    wrong_chosen: float | None  # and among what the first step would choose


def probe(it: Run, folder: Path, examples: int = 2000) -> Probe:
    """Reads a reference on a sample of the pool, on the gate, and on the first super-batch. Raises ConfigError."""
    params = checkpoint.load_params(folder)
    like = jax.eval_shape(lambda: it.scorer_task.init(it.scorer, jax.random.key(0)))
    params, model, pool = (
        matching(params, like, f"--reference={folder}"),
        it.recipe.scorer,
        it.data.train,
    )
    sample = dataclasses.replace(
        pool.small_view(),
        indices=pool.indices[:examples],
        labels=pool.labels[:examples],
        truth=None,
        columns={},
    )
    agreement, right = score_all(model, params, sample)[1].mean(), None
    if pool.truth is not None:
        right = float(
            score_all(model, params, dataclasses.replace(sample, labels=pool.truth[:examples]))[
                1
            ].mean()
        )
    gate = it.config.evaluate.gate
    accuracy = float(score_all(model, params, it.data.parts[gate])[1].mean()) if gate else None
    loader = loader_of(it, 0)
    batch, rows, _ = loader.peek(it.config.batch_size * it.config.select.ratio)
    loader.close()
    _, chosen = jax.jit(lambda s, b: select_step(it.recipe, s, b))(first_state(it, params), batch)
    wrong = None if pool.truth is None else pool.labels != pool.truth
    return Probe(
        accuracy, float(agreement), right, float(chosen.metrics["ess"]), None if wrong is None else float(wrong.mean()),
        None if wrong is None else float(wrong[rows[np.asarray(chosen.indices)]].mean()),
    )  # fmt: skip


def findings(found: Probe) -> Iterator[str]:
    """The probe in figures."""
    yield ""
    yield "the reference"
    rows = {
        "accuracy on the gate": found.gate_accuracy,
        "agreement with the pool's labels": found.agreement,
        "agreement with the true labels": found.agreement_truth,
        "effective share of the super-batch": found.effective_share,
        "wrong labels in the pool": found.wrong_pool,
        "wrong labels in the first choice": found.wrong_chosen,
    }
    for name, value in rows.items():
        yield f"  {name:36s} {'unknown' if value is None else f'{value:.1%}'}"


def verdict(bill: Bill, found: Probe | None, classes: int) -> Iterator[str]:
    """Will this pay, and what would: plain words."""
    yield ""
    if not bill.policy.needs:
        yield "verdict: plain training; there is nothing to break even"
        return
    now = bill.break_even(bill.ratio, "none")
    cheaper = bill.learner.forward / bill.scorer.forward
    yield f"verdict: it pays when uniform's final accuracy is reached in less than {now:.0%} of uniform's updates"
    if "learner" in bill.policy.needs:
        yield "  the learner scores, so no smaller scorer can make this cheaper; a policy with an online model can"
    elif cheaper < CHEAP:
        yield f"  the scorer is only {cheaper:.0f}x cheaper than the learner: below {CHEAP}x little is left to save, take a smaller one"
    if now < 0.5:
        yield "  more than half of the updates must be saved: lower the ratio, close the window earlier or pay for less (levels above)"
    if found is None:
        yield "  beta unknown: whether it is reached depends on the data; --reference=RUN probes a reference you have"
        return
    if found.agreement < 2 / classes:
        yield "  the reference hardly knows the labels: its scores are noise, train it longer or on better data"
    if found.effective_share > 0.9:
        yield "  the sampling is nearly uniform: lower select.temperature, or standardize the scores"
    if found.effective_share < 1 / bill.ratio:
        yield "  fewer effective candidates than examples to choose: the choice is nearly a top-k, raise select.temperature"
    if found.wrong_pool is not None and found.wrong_pool > 0.02:
        better = found.wrong_chosen < 0.9 * found.wrong_pool
        shares = f"{found.wrong_chosen:.0%} of the chosen, {found.wrong_pool:.0%} of the pool"
        yield f"  it {'avoids' if better else 'does not avoid'} wrong labels at the start ({shares})"
    yield "  it lasts as long as the reference is ahead of the online model: close the window (select.until) when the lead is gone"


def parse(argv: list[str]) -> tuple[Config, argparse.Namespace]:
    """The config and the other flags. Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="python -m active_learning.plan.__main__", description=__doc__
    )
    parser.add_argument("--reference", type=Path, help="run folder of a reference to probe")
    parser.add_argument(
        "--image-size", type=int, default=224, help="pixels, where the data cannot be opened"
    )
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=1_281_167)
    parser.add_argument(
        "--topology", default="", help="compile the step for these TPU chips, e.g. v5e:16x16"
    )
    parser.add_argument(
        "--mfu",
        type=float,
        default=0.5,
        help="share of the chips' peak that is assumed for the step's time",
    )
    config, rest = from_flags(argv)
    args = parser.parse_args(rest)
    if config is None:
        raise ConfigError("--config=FILE is missing: the config to plan")
    return config, args


def report(config: Config, args: argparse.Namespace) -> Iterator[str]:
    """All lines of the plan. Raises ConfigError, and DataError when a reference is to be probed without data."""
    chips = (
        pod.devices_of(args.topology) if args.topology else []
    )  # first: an unknown topology ends the plan
    # Planning needs no reference on disk: a stored or loaded one is not read here.
    bare = dataclasses.replace(
        config, reference=dataclasses.replace(config.reference, kind="trained")
    )
    try:
        it: Run | None = build(bare, jax.devices()[:1])
        shape, classes, examples = it.task.image_shape, it.data.num_classes, len(it.data.train)
        learner, scorer = it.learner, it.scorer
    except DataError as error:
        if args.reference:
            raise
        it, shape, classes, examples = (
            None,
            (args.image_size, args.image_size, 3),
            args.classes,
            args.examples,
        )
        what = "with captions" if isinstance(config.task, Pairs) else f"in {classes:,} classes"
        yield f"no data ({error}); planned for {examples:,} images of {args.image_size} px {what}"
        task = task_of(config, shape, classes, (0.5,) * 3, (0.5,) * 3)
        learner, scorer = task.fitted(config.learner), task.fitted(config.scorer)
    bill = bill_of(config, learner, scorer, examples, shape)
    small = seen_by_scorers(config, shape)
    yield from money(bill, sizes(learner, scorer, shape, small))
    here = assembled(
        dataclasses.replace(config, fsdp=1), shape, classes, examples, jax.devices()[:1]
    )
    yield from memory(state_shapes(here), config.batch_size, config.select.ratio, shape)
    if args.topology:
        yield from pod.lines(
            assembled(config, shape, classes, examples, chips), args.topology, args.mfu
        )
    found = None
    if args.reference:
        if isinstance(config.task, Pairs):
            raise ConfigError(
                f"--reference={args.reference}: probing reads labels; for image-text pairs see `evaluate`"
            )
        if "reference" not in config.select.policy.needs:
            raise ConfigError(
                f"--reference={args.reference}: policy {config.select.policy.name!r} needs no reference"
            )
        found = probe(it, args.reference)
        yield from findings(found)
    yield from verdict(bill, found, classes)


def assembled(
    config: Config, shape: tuple[int, int, int], classes: int, examples: int, devices: list
) -> Run:
    """The run on devices that need not be here, on data that need not either. Raises ConfigError."""
    channels = (0.5,) * shape[2]
    task = task_of(config, shape, classes, channels, channels)
    small = dataclasses.replace(task, image_shape=seen_by_scorers(config, shape))
    return assemble(config, resolve(config, examples, len(devices)), task, small, devices)


def main(argv: list[str] | None = None) -> int:
    """Prints the plan; 2 and one line on stderr for what cannot be planned."""
    try:
        for line in report(*parse(sys.argv[1:] if argv is None else argv)):
            print(line)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

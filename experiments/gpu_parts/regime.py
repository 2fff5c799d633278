"""Part 2, the regime: a ResNet-18 on CIFAR-10N `worse` (40 % wrong human labels), bfloat16, the
whole data set on the device. Uniform training against the recipe and against filtering first.

Two references, each trained on one half of the training set, give every example the loss of the
one that did not see it. These losses are stored on the device; training and scoring are charged to
each arm that reads them. Every arm is evaluated on the clean test set, raw and averaged weights.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from active_learning.core import policies
from active_learning.cost.ledger import Ledger, step_costs
from active_learning.data.sources.source import split_id
from active_learning.tasks import View
from experiments.gpu_parts.arms import ARMS, SIZES, UNIFORM_FRACTION, Arm, Size
from experiments.gpu_parts.packed import Images
from experiments.gpu_parts.resident import (
    Models,
    Programs,
    Stream,
    fresh_state,
    settings_of,
)
from experiments.gpu_parts.table import reached

FOLDS = 2
DROPPED = 0.4  # Fraction that "filter first" drops.


@dataclass
class Regime:
    """What the arms share."""

    size: Size
    models: Models
    programs: Programs
    columns: dict[str, jax.Array]
    test: dict[str, jax.Array]
    train_rows: np.ndarray
    tune: dict[str, jax.Array]
    # Peak rate, and what references cost, once known.
    rate: float = 0.1
    updates: int = 0
    seconds: dict[str, float] | None = None
    reference_bill: dict[str, float] | None = None
    reference_seconds: float = 0.0


def prepare(size: Size, train: Images, test: Images) -> Regime:
    """Puts the data on the device."""
    pixels = train.image.reshape(-1, train.image.shape[-1]) / np.float32(255)
    mean, std = (tuple(map(float, of(pixels, axis=0))) for of in (np.mean, np.std))
    shape, classes = train.image.shape[1:], int(train.clean_label.max()) + 1
    view = View(shape, mean, std, num_classes=classes, dtype=size.dtype)
    models = Models(
        size.learner,
        size.scorer,
        view,
        size.batch_size,
        size.ratio,
        size.ema_half_life,
        size.dispatched,
    )
    columns = {
        "image": train.image,
        "label": train.label,
        "id": split_id(np.arange(len(train))),
        "corrupted": train.label != train.clean_label,
        "reference_loss": np.zeros(len(train), np.float32),
    }
    order = np.random.default_rng(0).permutation(len(train))
    held_out, rows = order[: size.tune], order[size.tune :]
    repeated = np.resize(held_out, len(test))  # One shape for the tune and the test set.
    sets = (
        columns,
        {"image": test.image, "label": test.clean_label},
        {"image": train.image[repeated], "label": train.label[repeated]},
    )
    columns, on_test, on_tune = jax.device_put(sets)
    programs = Programs(models, columns, on_test, size.chunk)
    return Regime(size, models, programs, columns, on_test, rows, on_tune)


def costs(models: Models, active: bool) -> dict[str, float]:
    """FLOPs of an update by account; the reference's losses are stored."""
    needs = policies.cautious_learnability.needs if active else ()
    both = models.cost("learner"), models.cost("scorer")
    return step_costs(*both, needs, models.batch_size, models.ratio, references=0)


def accuracy(result: jax.Array, labels: jax.Array) -> dict[str, float]:
    """Of all examples, and of the worst class."""
    right, classes = np.asarray(result), np.asarray(labels)
    per_class = np.bincount(classes, right) / np.maximum(np.bincount(classes), 1)
    return {"accuracy": float(right.mean()), "worst_class": float(per_class.min())}


def rounded(updates: float, size: int) -> int:
    """A number of updates that whole dispatches carry out, at least one."""
    return max(1, round(updates / size)) * size


def run_arm(regime: Regime, arm: Arm, total: int, seed: int, rate: float | None = None) -> dict:
    """Trains one arm, and evaluates it along the way; evaluation is on no clock.

    Each program is compiled before the clock starts.
    """
    size, programs = regime.size, regime.programs
    window = rounded(arm.window * total, size.dispatched) if arm.window else 0
    temperature = size.temperature if arm.temperature is None else arm.temperature
    settings = settings_of(total, regime.rate if rate is None else rate, temperature)
    reference_loss = arm.reference * regime.columns["reference_loss"]
    columns = regime.columns | {"reference_loss": reference_loss}
    stream = Stream(kept_rows(regime) if arm.filtered else regime.train_rows, seed)
    state, ledger = fresh_state(regime.models, "learner", seed), Ledger()
    if arm.reads_reference:
        ledger.charge(regime.reference_bill or {})
    seconds = {"active": 0.0, "uniform": 0.0}
    curve, corrupted, selected = [], {"active": [], "uniform": []}, 0
    every = rounded(total / size.evaluations, size.dispatched)
    for kind in ("active", "uniform") if window else ("uniform",):
        programs.get(kind)
    jax.block_until_ready((state, columns))
    while ledger.step < total:
        until = min(total, (ledger.step // every + 1) * every)
        if ledger.step < window:
            until = min(until, window)
        kind = "active" if ledger.step < window else "uniform"
        batch = size.batch_size * (size.ratio if kind == "active" else 1)
        began, outputs = time.perf_counter(), []
        for _ in range((until - ledger.step) // size.dispatched):
            rows, epochs = stream.next(size.dispatched, batch)
            state, metrics = programs.updates(kind, state, columns, rows, epochs, settings)
            outputs += metrics
        jax.block_until_ready((state, outputs))
        seconds[kind] += time.perf_counter() - began
        done = until - ledger.step
        ledger.charge(costs(regime.models, kind == "active"), done)
        ledger.step, ledger.examples = until, until * size.batch_size
        ledger.candidates += done * batch if kind == "active" else 0
        selected += done if kind == "active" else 0
        metrics = jax.device_get(outputs)
        corrupted[kind] += [float(np.mean(one["corrupted"])) for one in metrics]
        loss = float(np.mean([one["loss"] for one in metrics]))
        if not np.isfinite(loss):
            raise FloatingPointError(f"{arm.name}: training loss {loss} before update {until}")
        ledger.train_seconds = sum(seconds.values())
        curve.append(_evaluated(regime, state, ledger, loss))
    charged = regime.reference_seconds if arm.reads_reference else 0.0
    return {
        "arm": arm.name,
        "budget": arm.budget,
        "updates": total,
        "window_updates": window,
        "rate": float(settings["rate"]),
        "seed": seed,
        "final": curve[-1],
        "corrupted_fraction": {
            name: float(np.mean(values)) for name, values in corrupted.items() if values
        },
        "ms_per_update": {
            name: 1e3 * seconds[name] / count
            for name, count in (("active", selected), ("uniform", total - selected))
            if count
        },
        "flops": ledger.flops,
        "total_flops": ledger.total,
        "train_seconds": ledger.train_seconds,
        "reference_seconds": charged,
        "total_seconds": ledger.train_seconds + charged,
        "curve": curve,
    }


def _evaluated(regime: Regime, state: Any, ledger: Ledger, loss: float) -> dict[str, float]:
    """A point of the curve: raw and averaged weights on the test set."""
    labels, judge = regime.test["label"], regime.programs.get("learner_hits")
    raw, averaged = (
        accuracy(judge(params, regime.test), labels)
        for params in (state.learner.params, state.ema.params)
    )
    return {
        "update": ledger.step,
        "train_loss": loss,
        "flops": ledger.total,
        "seconds": ledger.train_seconds,
        **raw,
        **{f"ema_{name}": value for name, value in averaged.items()},
    }


def kept_rows(regime: Regime) -> np.ndarray:
    """Rows of the training set that "filter first" keeps."""
    loss = np.asarray(regime.columns["reference_loss"])[regime.train_rows]
    kept = np.argsort(loss, kind="stable")[: round((1 - DROPPED) * len(loss))]
    return regime.train_rows[np.sort(kept)]


def choose_rate(regime: Regime, deadline: float) -> dict:
    """Uniform's peak rate, by accuracy on held-out noisy labels after short runs.

    Also decides uniform's number of updates by the time that an update takes.
    """
    size, tried, began = regime.size, {}, time.perf_counter()
    total = rounded(size.pilot_updates, size.dispatched)
    warm_up(regime)
    for rate in size.rates:
        own = run_pilot(regime, total, rate)
        tried[f"{rate:g}"] = own["tune_accuracy"]
        regime.seconds = regime.seconds or own["seconds"]
    regime.rate = max(size.rates, key=lambda rate: tried[f"{rate:g}"])
    left = max(deadline - time.monotonic(), 0.0)
    fits = UNIFORM_FRACTION * left / regime.seconds["uniform"]
    passes = size.passes * len(regime.train_rows) / size.batch_size
    regime.updates = rounded(min(size.updates, passes, fits), size.dispatched)
    return {
        "tried": tried,
        "rate": regime.rate,
        "pilot_updates": total,
        "updates": regime.updates,
        "seconds_per_update": regime.seconds,
        "seconds": time.perf_counter() - began,
    }


def warm_up(regime: Regime) -> None:
    """Runs both kinds of update once: the first call of a program loads it."""
    settings, stream = settings_of(1, 0.0), Stream(regime.train_rows, 0)
    for kind, ratio in (("uniform", 1), ("active", regime.size.ratio)):
        state = fresh_state(regime.models, "learner", 0)
        at = stream.next(1, ratio * regime.size.batch_size)
        state, _ = regime.programs.updates(kind, state, regime.columns, *at, settings)
        jax.block_until_ready(state)


def run_pilot(regime: Regime, total: int, rate: float) -> dict:
    """A short uniform run, judged on the tune set; seconds of an update of both kinds."""
    size, stream = regime.size, Stream(regime.train_rows, 1)
    state, seconds = fresh_state(regime.models, "learner", 0), {}
    settings = settings_of(total, rate, size.temperature)
    jax.block_until_ready(state)
    began = time.perf_counter()
    for _ in range(total // size.dispatched):
        at = stream.next(size.dispatched, size.batch_size)
        state, _ = regime.programs.updates("uniform", state, regime.columns, *at, settings)
    jax.block_until_ready(state)
    seconds["uniform"] = (time.perf_counter() - began) / total
    result = regime.programs.get("learner_hits")(state.learner.params, regime.tune)
    right = accuracy(result, regime.tune["label"])["accuracy"]
    if regime.seconds is None:
        at = stream.next(size.dispatched, size.ratio * size.batch_size)
        began = time.perf_counter()
        state, _ = regime.programs.updates("active", state, regime.columns, *at, settings)
        jax.block_until_ready(state)
        seconds["active"] = (time.perf_counter() - began) / size.dispatched
    return {"tune_accuracy": right, "seconds": seconds}


def train_references(regime: Regime) -> dict:
    """Trains a reference on each half; every example gets the loss of the one of the other half.

    Fills in the column `reference_loss` and what it cost.
    """
    size, models = regime.size, regime.models
    total = rounded(size.reference * regime.updates, size.dispatched)
    for name in ("scorer", "losses"):  # Compilation is on no clock.
        regime.programs.get(name)
    began, fold = time.perf_counter(), np.arange(len(regime.columns["label"])) % FOLDS
    loss, trained, settings = np.zeros(len(fold), np.float32), [], settings_of(total, 0.0)
    for k in range(FOLDS):
        stream = Stream(regime.train_rows[fold[regime.train_rows] == k], seed=k)
        state = fresh_state(models, "scorer", seed=10 + k)
        for _ in range(total // size.dispatched):
            at = stream.next(size.dispatched, size.batch_size)
            state, _ = regime.programs.updates("scorer", state, regime.columns, *at, settings)
        of_all = np.asarray(regime.programs.get("losses")(state.learner.params, regime.columns))
        loss = np.where(fold == k, loss, of_all)
        trained.append(state.learner.params)
    regime.reference_seconds = time.perf_counter() - began
    judged = [regime.programs.get("scorer_hits")(params, regime.test) for params in trained]
    accuracies = [accuracy(result, regime.test["label"])["accuracy"] for result in judged]
    regime.columns = regime.columns | {"reference_loss": jnp.asarray(loss)}
    scorer = models.cost("scorer")
    regime.reference_bill = {
        "reference_train": FOLDS * total * size.batch_size * scorer.train,
        # Both references score everything here; half of the losses is used.
        "reference_score": FOLDS * len(fold) * scorer.forward,
    }
    corrupted = np.asarray(regime.columns["corrupted"])
    kept = kept_rows(regime)
    return {
        "references": FOLDS,
        "updates_each": total,
        "accuracy": accuracies,
        "seconds": regime.reference_seconds,
        "flops": regime.reference_bill,
        "corrupted_fraction": {
            "all": float(corrupted[regime.train_rows].mean()),
            "kept by the filter": float(corrupted[kept].mean()),
        },
    }


def expected_seconds(regime: Regime, arm: Arm, total: int) -> float:
    """Seconds of training and of evaluation, from what an update takes."""
    per_update = regime.seconds
    selected = arm.window * total
    training = selected * per_update["active"] + (total - selected) * per_update["uniform"]
    return 1.05 * training + 2.0


def run(scale: str, train: Images, test: Images, deadline: float, save: Callable) -> dict:
    """The whole part; `save(result)` after everything that is finished."""
    size = SIZES[scale]
    began = time.monotonic()
    regime = prepare(size, train, test)
    result: dict[str, Any] = {
        "training_examples": len(regime.train_rows),
        "test_examples": len(test),
        "corrupted_fraction": float(np.mean(train.label != train.clean_label)),
        "batch_size": size.batch_size,
        "ratio": size.ratio,
        "temperature": size.temperature,
        "ema_half_life": size.ema_half_life,
        "dtype": size.dtype,
        "scorer_forward_over_learner": regime.models.cost("scorer").forward
        / regime.models.cost("learner").forward,
        "compile_seconds": regime.programs.seconds,
        "arms": [],
        "skipped": [],
    }
    save(result)
    result["rate_choice"] = choose_rate(regime, deadline)
    save(result)
    for arm in ARMS if scale == "gpu" else ARMS[:3]:
        if arm.reads_reference and regime.reference_bill is None:
            result["reference"] = train_references(regime)
            save(result)
        total = rounded(arm.budget * regime.updates, size.dispatched)
        needs, left = expected_seconds(regime, arm, total), deadline - time.monotonic()
        if needs > left:
            why = f"needs about {needs:.0f} s, {max(left, 0):.0f} s left"
            result["skipped"].append({"arm": arm.name, "budget": arm.budget, "why": why})
        else:
            result["arms"].append(run_arm(regime, arm, total, seed=0))
        save(result)
    result["seconds"] = time.monotonic() - began
    result["reached"] = list(reached(result["arms"]))
    save(result)
    return result

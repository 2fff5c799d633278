"""The training loop: restore, update, log one update late, evaluate, save, stop cleanly.

One loop for all tasks, policies and references.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax

from active_learning import checkpoint, distributed, metrics
from active_learning.checks import resolve
from active_learning.config import ConfigError, config_hash
from active_learning.cost.ledger import Ledger
from active_learning.evaluators.batches import reporting
from active_learning.metrics import LOG, NonFiniteError
from active_learning.references import Obtained
from active_learning.references.pool_filter import filter_pool
from active_learning.settings import Config, Log
from active_learning.storage.runs import Place
from active_learning.train import overview, run_folder
from active_learning.train.build import Experiment, build, first_state
from active_learning.train.delayed import DelayedOutputs
from active_learning.train.evaluation import Evaluation
from active_learning.train.fitting import fitted
from active_learning.train.gate import Gate
from active_learning.train.gathered import GatheredCheckpoints
from active_learning.train.goodput import Goodput, OwnTime
from active_learning.train.recorder import SelectionLogger
from active_learning.train.save_clock import CheckpointClock
from active_learning.train.signals import PreemptionGuard
from active_learning.train.starts import check_param_shapes
from active_learning.train.stored_inputs import with_stored
from active_learning.train.trackers import Trackers, check_installed
from active_learning.train.updates import UpdateRunner, with_pending
from active_learning.train.watchdog import Watchdog

__all__ = ["NonFiniteError", "run"]


def run(
    config: Config,
    workdir: Path | str,
    guard: PreemptionGuard | None = None,
    profile: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """Trains to the end, or until it is asked to stop; continues what is in the folder.

    Args:
      config: The run.
      workdir: Its folder, or an address in a bucket.
      guard: Turns signals into a request to stop; None: one of its own.
      profile: Updates (from, to) of which a trace is written.

    Returns:
      The content of summary.json; `complete` is False when it was stopped.

    Raises:
      ConfigError, DataError: Before anything is compiled.
      NonFiniteError: With the number of the update.
      StorageError: The disk or the bucket failed.
    """
    # Before a folder in a bucket is claimed, for which all have to train the same.
    distributed.check_same({"config": config_hash(config), "code": distributed.code_version()})
    with distributed.writable(workdir) as place:
        return _run(config, place, guard, profile)


def _run(
    config: Config, place: Place, guard: PreemptionGuard | None, profile: tuple[int, int]
) -> dict[str, Any]:
    workdir = place.folder
    if not distributed.is_own(workdir):
        distributed.check_same({}, workdir)
    check_installed(**_tracked(config.log))
    with distributed.agreement("data"):
        experiment = build(config)
        _check_reference_runs(experiment)
        if guard is None and not experiment.steps.total:
            # Only the untrained reference of a control is a run without updates.
            raise ConfigError(f"config.total={config.total!r}: less than one update")
    config = experiment.config  # With its sizes fitted to a small pool.
    distributed.check_same({"data": str(experiment.data.provenance["hash"])})
    about = run_folder.about(experiment)
    distributed.run_on_primary(lambda: run_folder.init_workdir(workdir, config, about))
    summary = distributed.run_on_primary(lambda: _complete_summary(workdir))
    if summary is not None:
        LOG.info("%s: complete already", workdir)
        return summary
    for line in overview.lines(experiment):
        LOG.info("%s: %s", config.name, line)
    for line in overview.weight_lines(about["weights"]):
        LOG.info("%s: %s", config.name, line)
    with contextlib.nullcontext(guard) if guard else PreemptionGuard(place.failed) as guard:
        training = _prepared(experiment, workdir, guard)
        if training is None:
            return run_folder.summarize(experiment, Ledger(), {}, None, complete=False)
        return training.run(profile)


def _prepared(experiment: Experiment, workdir: Path, guard: PreemptionGuard) -> "Training | None":
    """The training, once what it reads is at hand: stored outputs, the reference, a filtered pool.

    None when the guard asked to stop before.
    """
    config = experiment.config
    joined = with_stored(experiment, workdir, lambda: guard.requested)
    if joined is None:
        return None
    experiment, bill = joined
    reference, prefilter = None, (bill.flops, bill.seconds)
    if config.select.policy.reads_reference:
        train = lambda own, folder: run(own, folder, guard)
        reference = config.reference.obtain(experiment, workdir, train)
        if reference is None:
            return None
        _check_params(experiment, reference)
    if config.select.policy.pool_fraction < 1:
        params = None if reference is None else reference.params
        experiment, flops, seconds = filter_pool(experiment, params, workdir)
        prefilter = prefilter[0] + flops, prefilter[1] + seconds
    return Training(experiment, workdir, guard, reference, prefilter)


def _complete_summary(workdir: Path) -> dict | None:
    """The summary of a complete run whose newest checkpoint is intact, else None."""
    summary = metrics.read_summary(workdir)
    if summary is None or not summary["complete"]:
        return None
    if (damage := checkpoint.newest_damage(workdir)) is not None:
        LOG.warning("%s: complete, but its checkpoint is damaged (%s)", workdir, damage)
        return None
    return summary


def _check_reference_runs(experiment: Experiment) -> None:
    """A reference that is to be trained is a run of its own: checks it before anything starts."""
    config = experiment.config
    if config.select.policy.reads_reference:
        devices = experiment.device_count
        config.reference.check_own_runs(
            config,
            experiment.data,
            lambda own, pool: resolve(fitted(own, pool, devices)[0], pool, devices),
        )


def _check_params(experiment: Experiment, reference: Obtained) -> None:
    if reference.params is not None:
        one = experiment.reference.one_of(reference.params)
        like = jax.eval_shape(experiment.init_reference, jax.random.key(0))
        check_param_shapes(one, like, "config.reference")


class Training:
    """One run in progress: the state, its ledger and clocks, and what happens between updates.

    Args:
      experiment: What is trained.
      workdir: The run's folder.
      guard: Says when to stop.
      reference: The reference, where the policy reads one.
      prefilter: FLOPs and seconds of going over the pool once, for a policy that filters it and
        for scorers on stored features.
    """

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        guard: PreemptionGuard,
        reference: Obtained | None,
        prefilter: tuple[float, float],
    ):
        config = experiment.config
        self.experiment, self.workdir, self.guard = experiment, workdir, guard
        self.reference = reference
        kind = GatheredCheckpoints if distributed.is_own(workdir) else checkpoint.Checkpoints
        self.checkpoints = kind(workdir / "checkpoints", config.checkpoint.max_to_keep)
        self.ledger = run_folder.opening_ledger(experiment, reference, prefilter)
        self.watch = metrics.Stopwatch(self.ledger.train_seconds)
        self.goodput = Goodput(self.watch, self.ledger.train_seconds)
        self.evaluation = Evaluation(experiment)
        self.gate = Gate(experiment, self.evaluation, self.ledger.total)
        params = None if reference is None else reference.params
        self.state = with_pending(experiment, first_state(experiment, params))
        position = self._restore()
        self.loader = experiment.loader(position)
        self.updates = UpdateRunner(experiment, self.loader, restored=self.ledger.step > 0)
        self.save_clock = CheckpointClock(
            experiment.steps.checkpoint, self.ledger.train_seconds, self.checkpoints.empty
        )
        # Where this process began, for the rate; and stalls and seconds at the last log line.
        self.began = self.ledger.step, self.ledger.train_seconds
        self.logged = 0.0, self.ledger.train_seconds
        self.writer, self.trackers = metrics.NoWriter(), Trackers(workdir, config.name)
        if distributed.is_primary():
            self.writer = metrics.Writer(workdir, self.ledger.step)
            self.trackers = Trackers(workdir, config.name, **_tracked(config.log))
        self.logger = SelectionLogger(experiment, workdir, self.ledger.step)
        self.delayed = DelayedOutputs(config.name, self.logger)
        self.own_time = OwnTime(config.name, self.watch, self.ledger.step)
        self.watchdog = Watchdog(config.log.watchdog_minutes, workdir)

    def _restore(self) -> int:
        """Continues from the newest checkpoint; returns the data position."""
        restored = self.checkpoints.restore(self.state)
        if restored is None:
            return 0
        self.state, meta = restored
        self.ledger = Ledger.from_dict(meta["ledger"])
        self.watch.seconds = self.ledger.train_seconds
        self.goodput.restore(meta)
        self.gate.restore(meta)
        LOG.info("%s: resumes at update %d", self.experiment.config.name, self.ledger.step)
        self.gate.tell()
        return meta["position"]

    def _save(self) -> None:
        self.ledger.train_seconds = self.watch.seconds
        meta = self.gate.state() | {
            "position": self.updates.position,
            "ledger": self.ledger.as_dict(),
            "hash": config_hash(self.experiment.config),
        }
        meta |= self.goodput.state()
        self.logger.flush(self.ledger.step)
        self.checkpoints.save(self.ledger.step, self.state, meta)

    def run(self, profile: tuple[int, int]) -> dict[str, Any]:
        """Trains to the end of the run or until it is asked to stop; saves in either case."""
        span = profile if distributed.is_primary() else (0, 0)
        trace = metrics.Profile(self.workdir / "profile", *span)
        with self.watchdog, reporting(self.watchdog.progress):
            return self._watched(trace)

    def _watched(self, trace: metrics.Profile) -> dict[str, Any]:
        final: dict[str, Any] = {}
        try:
            complete = self._train(trace)
            for line in overview.problem_lines(self.experiment):
                LOG.info("%s: %s", self.experiment.config.name, line)
            with self.watchdog.during("a save"):
                self._save()
            if complete:
                with self.watchdog.during("the final evaluation"):
                    final = self._final_metrics()
            with self.watchdog.during("a save"):
                self.checkpoints.wait()
        finally:
            with (
                self.watchdog.during("closing the run's files"),
                contextlib.ExitStack() as closing,  # All are closed, whichever fails.
            ):
                closing.callback(self.checkpoints.close)
                closing.callback(self.writer.close)
                closing.callback(self.trackers.close)
                closing.callback(self.loader.close)
                closing.callback(trace.close, self.state)
        summary = (
            run_folder.summarize(self.experiment, self.ledger, final, self.reference, complete)
            | self.gate.summary()
            | {"goodput": self.goodput.fraction}
        )
        if distributed.is_primary():
            metrics.write_summary(self.workdir, summary)
        distributed.barrier("summary")
        return summary

    def _final_metrics(self) -> dict[str, Any]:
        """Evaluates on whole sets; writes and returns the metrics."""
        final = self.evaluation.full(self.state)
        if self.reference is not None and self.experiment.reference.trains_along:
            own = self.evaluation.full_reference(self.state)
            self.reference = dataclasses.replace(self.reference, metrics=own)
        self._write(final)
        return final

    def _train(self, trace: metrics.Profile) -> bool:
        """Runs updates; returns whether the run is complete."""
        steps = self.experiment.steps
        with self.watchdog.during("an evaluation"):
            self.gate.warm_up(self.state, self.ledger.step)
        self.watchdog.beat(self.ledger.step)
        self.watch.start()
        if not self.ledger.step:
            with self.watch.paused(), self.watchdog.during("an evaluation"):
                self.ledger.charge(self.gate.open(self.state, self.watch))
        self._update_until(steps.total, trace)
        self.delayed.fetch()
        self.watch.stop()
        self.ledger.train_seconds = self.watch.seconds
        return self.ledger.step >= steps.total

    def _update_until(self, total: int, trace: metrics.Profile) -> None:
        """Runs updates until there are `total` of them or the guard asks to stop."""
        while self.ledger.step < total and not self.guard.requested:
            active = self.ledger.step < self.gate.window
            self.state = self.updates.begin_epoch(self.state)
            if not self.updates.compiled(active):
                self.delayed.fetch()
                with self.watch.paused(), self.watchdog.paused():
                    self.updates.compile(self.state, active)
            trace.at(self.ledger.step, self.state)
            with jax.profiler.StepTraceAnnotation("update", step_num=self.ledger.step):
                more = self.ledger.step + 1 < self.gate.window
                self.state, output = self.updates(self.state, active, more)
            self._charge(active)
            self.delayed.put(self.ledger.step, output)
            self.watchdog.beat(self.ledger.step)
            self._between_updates()

    def _charge(self, active: bool) -> None:
        self.ledger.step += 1
        self.ledger.examples += self.experiment.config.batch_size
        self.ledger.candidates += self.updates.sizes[True] if active else 0
        self.ledger.window_steps += int(active)
        self.ledger.charge(self.experiment.costs if active else self.experiment.uniform_costs)

    def _due(self, every: int) -> bool:
        return self.ledger.step % every == 0 or self.ledger.step == self.experiment.steps.total

    def _between_updates(self) -> None:
        """Logs, evaluates and saves, off the training clock, where one of them is due."""
        steps, step = self.experiment.steps, self.ledger.step
        log, evaluate = self._due(steps.log), self._due(steps.evaluate)
        save = self.save_clock.due(step, self.watch.elapsed()) and step < steps.total
        look = self.gate.due(step, evaluate)
        if not (log or evaluate or save or look):
            return
        self.delayed.fetch()
        with self.watch.paused():
            self.ledger.train_seconds = self.watch.seconds
            values = self._logged() if log else {}
            with self.watchdog.during("an evaluation"):
                if evaluate:
                    values |= self.evaluation.during(self.state)
                if look:
                    values |= self._look_at_gate(evaluate)
            if values:
                self._write(values)
            if evaluate:
                self._show_progress(values)
            if save:
                with self.watchdog.during("a save"):
                    self._save()

    def _write(self, values: dict[str, Any]) -> None:
        self.writer.write(self.ledger.as_dict(), values)
        self.trackers.write(self.ledger.step, values)

    def _look_at_gate(self, evaluate: bool) -> dict[str, float]:
        """Watches the gate; charges for it, and for a choice that is discarded."""
        values, cost, closes = self.gate.look(self.state, self.ledger.step, evaluate, self.watch)
        self.ledger.train_seconds = self.watch.seconds
        self.ledger.charge(cost)
        if closes and self.updates.discard_pending():
            costs = self.experiment.costs
            self.ledger.charge({k: costs[k] for k in ("online_score", "reference_score")})
            self.ledger.candidates += self.updates.sizes[True]
        return values

    def _logged(self) -> dict[str, float]:
        """Means since the last log line, and how the data kept up."""
        stalled, seconds = self.loader.stall_seconds, self.watch.seconds
        fraction = (stalled - self.logged[0]) / max(seconds - self.logged[1], 1e-9)
        self.logged = stalled, seconds
        values = self.logger.summary()
        values["select/open"] = float(self.ledger.step <= self.gate.window)
        values["data/stall_fraction"] = fraction
        values["run/goodput"] = self.goodput.fraction
        values |= self.own_time.compare(self.ledger.step, self.delayed.waited)
        return values | overview.bad_examples(self.experiment)

    def _show_progress(self, values: dict[str, float]) -> None:
        step, seconds = self.began
        rate = (self.ledger.step - step) / max(self.watch.seconds - seconds, 1e-9)
        name, steps = self.experiment.config.name, self.experiment.steps.total
        metrics.progress(name, self.ledger.step, steps, rate, self.ledger.total, values)


def _tracked(settings: Log) -> dict[str, Any]:
    """The trackers that get the scalars, by the names of `Trackers` and `check_installed`."""
    return {
        "tensorboard": settings.tensorboard,
        "wandb": settings.wandb,
        "mlflow": settings.mlflow,
    }

"""The loop: restore, iterate, step, log one step late, evaluate, save, stop cleanly. One loop for all objectives and policies."""

import contextlib
import json
import signal
from pathlib import Path

import jax
import numpy as np

from active_learning import checkpoint, distributed, metrics
from active_learning.config import ConfigError, config_hash, differences, name_of, to_json
from active_learning.core.recipe import TrainState
from active_learning.cost.ledger import Ledger, total
from active_learning.data import splits
from active_learning.metrics import LOG
from active_learning.references import attach
from active_learning.settings import Config, reference_config
from active_learning.tasks import captions
from active_learning.train import overview, recorder
from active_learning.train.build import Run, build, first_state, loader_of, matching
from active_learning.train.evaluation import Evaluation
from active_learning.train.updates import Updates, with_pending


class NonFinite(RuntimeError):
    """The loss (or a score) is no longer a number; the message names the step."""


class Stop:
    """SIGTERM asks the loop to save and return, of several processes all at the same update, whichever got the signal.

    Outside the block the former handler is back.
    """

    _asked, _looks, _former = False, 0, None

    @property
    def asked(self) -> bool:
        if jax.process_count() > 1 and not self._asked:
            self._looks += 1
            self._asked = distributed.told_to_stop(self._looks)
        return self._asked

    def __enter__(self):
        if jax.process_count() > 1:
            return self  # the processes' own handler tells them all
        with contextlib.suppress(
            ValueError
        ):  # not in the main thread: somebody else handles signals
            self._former = signal.signal(signal.SIGTERM, self._ask)
        return self

    def _ask(self, *_):
        self._asked = True

    def __exit__(self, *_):
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)


def claim(workdir: Path, config: Config, extra: dict) -> None:
    """Writes config.json, or checks that the one there is of this config, data and stored scores. Raises ConfigError naming what differs;
    overwrites nothing but the config of a run that never began."""
    path, begun = workdir / "config.json", _begun(workdir)
    ours = {"config": to_json(config), "hash": config_hash(config)} | extra
    if path.exists() and begun:
        theirs = json.loads(path.read_text())
        if theirs["hash"] != ours["hash"]:
            what = "; ".join(differences(ours["config"], theirs["config"])[:3])
            raise ConfigError(f"{workdir}: holds a run of another config ({what})")
        for key, what in (("hash", "data"), ("scores", "stored scores")):
            before, now = theirs["data"].get(key), extra["data"].get(key)
            if before != now:
                raise ConfigError(
                    f"{workdir}: its run began with other {what} ({before} then, {now} now)"
                )
        return
    if begun:
        raise ConfigError(f"{workdir}: not empty and no run of ours (no config.json)")
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ours, indent=1))


def _begun(workdir: Path) -> bool:
    """Whether the folder holds more than what is there before a run's first update: its config and its reference."""
    return workdir.is_dir() and any(
        path.name not in ("config.json", "reference") for path in workdir.iterdir()
    )


def reference_of(config: Config, it: Run, workdir: Path, stop: Stop) -> tuple[dict, dict] | None:
    """The reference's (summary, parameters): loaded from any run of ours, or trained in its own run folder, or found there complete.
    Of cross-fitted references the sums of their bills and their parameters with a leading axis.

    None when it was stopped before its end. Raises ConfigError when the folder to load holds no complete run, or the folder to train
    into one of another config.
    """
    folder = Path(config.reference.path) if config.reference.path else workdir / "reference"
    if config.reference.kind == "loaded" and folder.suffix == ".npz":
        return captions.published(it, folder)
    if config.reference.kind == "loaded":
        summary = read_summary(folder)
        if summary is None or not summary["complete"]:
            raise ConfigError(
                f"config.reference.path={str(folder)!r}: no complete run there to load"
            )
        captions.check_reference(folder, it.data)
    elif config.reference.kind == "crossfitted":
        return _crossfitted(config, it, folder, stop)
    else:
        summary = run(reference_config(config), folder, stop)
    return (summary, checkpoint.load_params(folder)) if summary["complete"] else None


def _crossfitted(config: Config, it: Run, folder: Path, stop: Stop) -> tuple[dict, dict] | None:
    folders = [folder / f"fold{k}" for k in range(splits.FOLDS)]
    found = [run(reference_config(config, k), path, stop) for k, path in enumerate(folders)]
    if not all(summary["complete"] for summary in found):
        return None
    headline = f"test_full/{it.task.headline}"
    own = [s["final"][headline] for s in found if headline in s["final"]]
    summary = {
        "final": {headline: float(np.mean(own))} if own else {},
        "flops": {
            account: sum(s["flops"][account] for s in found) for account in found[0]["flops"]
        },
        "train_seconds": sum(s["train_seconds"] for s in found),
        "step": sum(s["step"] for s in found),
    }
    return summary, jax.tree.map(
        lambda *leaves: np.stack(leaves), *map(checkpoint.load_params, folders)
    )


def read_summary(workdir: Path) -> dict | None:
    path = workdir / "summary.json"
    return json.loads(path.read_text()) if path.exists() else None


def run(
    config: Config, workdir: Path | str, stop: Stop | None = None, profile: tuple[int, int] = (0, 0)
) -> dict:
    """Trains to the end, or until SIGTERM, and returns the summary; called again with the same folder it continues where it stopped.
    Of the updates from profile[0] to before profile[1] a trace is written.

    Raises ConfigError or DataError before any compilation, NonFinite with the step's number.
    """
    workdir = Path(workdir)
    it = build(config)
    attach.check_own_runs(it)
    about = _about(it)
    distributed.on_first(lambda: claim(workdir, config, about))
    if (done := read_summary(workdir)) is not None and done["complete"]:
        LOG.info("%s: complete already", workdir)
        return done
    for line in overview.lines(it):
        LOG.info("%s: %s", config.name, line)
    with contextlib.nullcontext(stop) if stop else Stop() as stop:
        reference, params, once = None, None, (0.0, 0.0)
        reads = config.select.policy.reads_reference
        if reads and config.reference.kind in (
            "stored",
            "cotrained",
        ):  # its own accuracy is not known, or not yet
            reference = {"final": {}, "flops": {}, "train_seconds": 0.0, "step": 0}
        elif reads and config.reference.kind != "online":
            found = reference_of(config, it, workdir, stop)
            if found is None:
                return _summary(it, Ledger(), {}, None, complete=False)
            reference, params = found
            one = (
                jax.tree.map(lambda leaf: leaf[0], params)
                if config.reference.kind == "crossfitted"
                else params
            )
            matching(
                one,
                jax.eval_shape(lambda: it.scorer_task.init(it.scorer, jax.random.key(0))),
                "config.reference",
            )
        if config.select.policy.keep < 1:
            it, *once = attach.filtered(it, params, workdir)
        return _Training(it, workdir, stop, reference, params, once).run(profile)


def _about(it: Run) -> dict:
    config = it.config
    return {
        "name": config.name,
        "seed": config.seed,
        "total_steps": it.clock.total,
        "batch_size": config.batch_size,
        "policy": config.select.policy.name,
        "baseline": config.baseline,
        "class_names": list(it.data.class_names),
        "learner": name_of(type(config.learner)),
        "data": it.data.provenance,
    }


def _summary(it: Run, ledger: Ledger, final: dict, reference: dict | None, complete: bool) -> dict:
    bill = None
    if reference is not None:
        bill = {
            "accuracy": reference["final"].get(f"test_full/{it.task.headline}"),
            "flops": total(reference["flops"]),
            "seconds": reference["train_seconds"],
            "steps": reference["step"],
            "charged": it.config.reference.charge and it.config.reference.kind != "stored",
        }
    device = jax.devices()[0]
    where = {"device": f"{len(jax.devices())} x {device.device_kind}"}
    return {"complete": complete, "final": final, "reference": bill} | where | ledger.as_dict()


class _Training:
    """One run in progress: the state, its ledger and clocks, and what is done between steps."""

    def __init__(self, it: Run, workdir: Path, stop: Stop, reference: dict | None, params, once):
        self.it, self.workdir, self.stop, self.reference = it, workdir, stop, reference
        self.checkpoints = checkpoint.Checkpoints(
            workdir / "checkpoints", it.config.checkpoint.keep
        )
        self.ledger, self.window = Ledger(), it.clock.window
        self.state: TrainState = with_pending(it, first_state(it, params))
        self.gate_losses = 0  # evaluations in a row with the online model at or above the reference
        if reference is not None and it.config.reference.charge:
            self.ledger.charge({"reference_train": total(reference["flops"])})
            self.ledger.charge({"recompute": reference["flops"].get("recompute", 0.0)})
            self.ledger.train_seconds += reference["train_seconds"]
        self.ledger.charge({"reference_score": once[0]})
        self.ledger.train_seconds += once[1]
        position = self._restore()
        self.loader = loader_of(it, position)
        self.updates = Updates(it, self.loader, restored=self.ledger.step > 0)
        self.watch = metrics.Stopwatch(self.ledger.train_seconds)
        self.first_step, self.first_seconds = self.ledger.step, self.ledger.train_seconds
        self.logged = (
            0.0,
            self.ledger.train_seconds,
        )  # seconds waited for data, and of training, at the last log line
        board = it.config.log.tensorboard
        self.writer = (
            metrics.Writer(workdir, self.ledger.step, board)
            if distributed.first()
            else metrics.NoWriter()
        )
        self.evaluation = Evaluation(it)
        self.notes = recorder.Notes(it, workdir, self.ledger.step)

    def _restore(self) -> int:
        found = self.checkpoints.restore(self.state)
        if found is None:
            return 0
        self.state, meta = found
        self.ledger, self.window, self.gate_losses = (
            Ledger.from_dict(meta["ledger"]),
            meta["window"],
            meta["gate_losses"],
        )
        LOG.info("%s: continues at update %d", self.it.config.name, self.ledger.step)
        return meta["position"]

    def _save(self) -> None:
        self.ledger.train_seconds = self.watch.seconds
        meta = {
            "position": self.updates.position,
            "ledger": self.ledger.as_dict(),
            "window": self.window,
            "gate_losses": self.gate_losses,
            "hash": config_hash(self.it.config),
        }
        self.notes.flush()
        self.checkpoints.save(self.ledger.step, self.state, meta)

    def run(self, profile: tuple[int, int]) -> dict:
        """Steps to the end of the run or to SIGTERM; saves in either case."""
        traced = metrics.Profile(
            self.workdir / "profile", *(profile if distributed.first() else (0, 0))
        )
        try:
            complete = self._steps(traced)
            final = {}
            for line in overview.problem_lines(self.it):
                LOG.info("%s: %s", self.it.config.name, line)
            if complete:
                final = self.evaluation.full(self.state)
                if self.reference is not None and self.it.config.reference.kind == "cotrained":
                    self.reference["final"] = self.evaluation.full_reference(self.state)
                self.writer.write(self.ledger.as_dict(), final)
            self._save()
        finally:
            traced.close(self.state)
            self.loader.close()
            self.writer.close()
            self.checkpoints.close()
        summary = _summary(self.it, self.ledger, final, self.reference, complete)
        if distributed.first():
            (self.workdir / "summary.json").write_text(json.dumps(summary, indent=1))
        distributed.meet("summary")
        return summary

    def _steps(self, traced: metrics.Profile) -> bool:
        clock = self.it.clock
        late = None  # (step, what it said) of the step before: fetched while the next one runs
        if self._gate_decides and self.ledger.step < self.window:
            self.evaluation.gate(self.state)  # compiles, off the clock
        self.watch.start()
        while self.ledger.step < clock.total and not self.stop.asked:
            active = self.ledger.step < self.window
            if not self.updates.compiled(active):
                self._fetch(late)
                late = None
                with self.watch.paused():
                    self.updates.compile(self.state, active)
            traced.at(self.ledger.step, self.state)
            with jax.profiler.StepTraceAnnotation("update", step_num=self.ledger.step):
                self.state, said = self.updates(
                    self.state, active, self.ledger.step + 1 < self.window
                )
            self._charge(active)
            self._fetch(late)
            late = self._between((self.ledger.step, said))
        self._fetch(late)
        self.watch.stop()
        self.ledger.train_seconds = self.watch.seconds
        return self.ledger.step >= clock.total

    def _charge(self, active: bool) -> None:
        self.ledger.step += 1
        self.ledger.examples += self.it.config.batch_size
        self.ledger.candidates += self.updates.sizes[True] if active else 0
        self.ledger.window_steps += int(active)
        self.ledger.charge(self.it.costs if active else self.it.uniform_costs)

    def _fetch(self, late) -> None:
        if late is None:
            return
        step, said = late
        scored = (
            {} if said.chosen is None else {"the mean score": said.chosen.metrics["score_mean_all"]}
        )
        figures, scored = jax.device_get((said.figures, scored))
        for name, value in (figures | scored).items():
            if not np.isfinite(value):
                raise NonFinite(f"{self.it.config.name}: {name} is {value} at update {step}")
        if distributed.first():
            self.notes.add(step, figures, said.chosen, said.rows, said.epochs)

    def _due(self, every: int) -> bool:
        return self.ledger.step % every == 0 or self.ledger.step == self.it.clock.total

    def _between(self, late):
        """Logging, evaluation and checkpoints, off the training clock. Returns what is still to be fetched."""
        clock, config = self.it.clock, self.it.config
        log, evaluate = self._due(clock.log), self._due(clock.evaluate)
        if not (log or evaluate or self._due(clock.checkpoint)):
            return late
        self._fetch(late)
        with self.watch.paused():
            self.ledger.train_seconds = self.watch.seconds
            values = self._logged() if log else {}
            if evaluate:
                values |= self.evaluation.now(self.state)
                values |= self._gate()
            if values:
                self.writer.write(self.ledger.as_dict(), values)
            if evaluate:
                rate = (self.ledger.step - self.first_step) / max(
                    self.watch.seconds - self.first_seconds, 1e-9
                )
                metrics.progress(
                    config.name, self.ledger.step, clock.total, rate, self.ledger.total, values
                )
            if self._due(clock.checkpoint) and self.ledger.step < clock.total:
                self._save()
        return None

    def _logged(self) -> dict:
        """Means since the last log line, whether selection is on, the share of the time in which the loop waited for data, and the examples
        that cannot be used."""
        waited, seconds = self.loader.waited, self.watch.seconds
        share = (waited - self.logged[0]) / max(seconds - self.logged[1], 1e-9)
        self.logged = waited, seconds
        unusable = (
            {"data/unusable": sum(len(p.bad) for p in problems)}
            if (problems := overview.problems(self.it))
            else {}
        )
        open_ = {"select/open": float(self.ledger.step <= self.window)}
        return self.notes.summary() | open_ | {"data/wait_share": share} | unusable

    @property
    def _gate_decides(self) -> bool:
        return self.it.config.select.until == "auto" and bool(self.it.clock.window)

    def _gate(self) -> dict:
        """Online against reference on the gate; with until='auto' three evaluations in a row at or above it close the window."""
        config = self.it.config
        if (
            not config.evaluate.gate
            or self.ledger.step > self.window
            or not {"online", "reference"} <= set(config.select.policy.needs)
        ):
            return {}
        # A gate that decides is a part of the method, one that is only looked at is not.
        with self.watch.running() if self._gate_decides else contextlib.nullcontext():
            values, cost = self.evaluation.gate(self.state)
        self.ledger.train_seconds = self.watch.seconds
        if self._gate_decides:
            self.ledger.charge(cost)
            caught_up = values["gate/online_merit"] >= values["gate/reference_merit"]
            self.gate_losses = self.gate_losses + 1 if caught_up else 0
            if self.gate_losses >= 3:
                self.window = self.ledger.step
                if self.updates.drop():  # scored ahead, never trained on
                    self.ledger.charge(
                        {name: self.it.costs[name] for name in ("online_score", "reference_score")}
                    )
                    self.ledger.candidates += self.updates.sizes[True]
                LOG.info(
                    "%s: the online model has caught up, selection stops after update %d",
                    config.name,
                    self.window,
                )
        return values

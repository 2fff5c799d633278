"""The loop: exact resume, the window, the ledger of a real run, references, stops."""

import dataclasses
import json
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from active_learning import checkpoint, metrics
from active_learning.config import ConfigError
from active_learning.core import policies
from active_learning.cost.ledger import ACCOUNTS
from active_learning.references import CopyOfOnline, CrossFitted, Loaded, Obtained, Trained
from active_learning.report.__main__ import write
from active_learning.settings import Evaluate, Log, Optim, Select, Split
from active_learning.train import choices, economics, loop
from active_learning.train.build import build
from active_learning.train.evaluation import Evaluation
from tests import world

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")


PARTS = {"pool": 400, "reference": 120, "gate": 40}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return world.write_arrays(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "straight"
    return folder, loop.run(world.config(data), folder)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ids(folder):
    return np.concatenate([np.load(path) for path in sorted((folder / "chosen").glob("*.npy"))])


def models(folder, which=("learner", "online", "reference")):
    return {name: checkpoint.load_params(folder, name) for name in which}


@pytest.mark.parametrize("looks", [1, 4, 9])
def test_a_stopped_and_continued_run_is_the_straight_run_bit_for_bit(
    data, straight, tmp_path, looks
):
    folder, expected = straight
    config = world.config(data)
    reference = dataclasses.replace(config.reference, path=str(folder / "reference"))
    config = dataclasses.replace(config, reference=reference)
    first = loop.run(config, tmp_path / "run", world.StopAfter(looks))
    assert not first["complete"]
    assert first["step"] == looks
    last = loop.run(config, tmp_path / "run")
    assert last["complete"]
    np.testing.assert_array_equal(ids(tmp_path / "run"), ids(folder))
    for ours, theirs in zip(
        choices.read_counts(tmp_path / "run"), choices.read_counts(folder), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    jax.tree.map(np.testing.assert_array_equal, models(tmp_path / "run"), models(folder))
    assert last["flops"] == expected["flops"]
    assert last["final"] == expected["final"]
    steps = [(line["step"], line.get("test/accuracy")) for line in lines(tmp_path / "run")]
    assert steps == [(line["step"], line.get("test/accuracy")) for line in lines(folder)]


def test_the_counts_of_choices_are_those_of_the_recorded_ids(straight):
    folder, summary = straight
    counts = choices.read_counts(folder)
    by_id = dict(zip(counts.id.tolist(), counts.chosen.tolist(), strict=True))
    recorded, times = np.unique(ids(folder), return_counts=True)
    assert [by_id[int(one)] for one in recorded] == times.tolist()
    assert counts.chosen.sum() == summary["examples"] == times.sum()
    uniform = (summary["step"] - summary["window_steps"]) * 16
    assert counts.candidate.sum() == summary["candidates"] + uniform
    assert np.isfinite(counts.last_score[counts.last_step > 0]).all()
    assert counts.last_step.max() == summary["window_steps"]
    assert np.isnan(counts.last_score[counts.last_step == 0]).all()


def test_a_complete_run_is_not_run_again(data, straight):
    folder, expected = straight
    before = (folder / "metrics.jsonl").read_bytes()
    assert loop.run(world.config(data), folder) == expected
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_the_ledger_of_a_run_by_hand(data, straight):
    _, summary = straight
    config = world.config(data)
    learner = dataclasses.replace(config.learner, num_classes=world.CLASSES).cost((8, 8, 3))
    scorer = dataclasses.replace(config.scorer, num_classes=world.CLASSES).cost((8, 8, 3))
    total, window, b, ratio = 12, 6, 16, 4
    assert summary["flops"] == {
        "learner_train": total * b * learner.train,
        "online_score": window * b * ratio * scorer.forward,
        "online_train": window * b * scorer.train,
        "reference_score": window * b * ratio * scorer.forward,
        "reference_train": 20 * b * scorer.train,
        "recompute": 0.0,
    }
    assert (summary["examples"], summary["candidates"], summary["window_steps"]) == (
        total * b,
        window * b * ratio,
        window,
    )
    assert summary["reference"]["charged"]
    assert summary["reference"]["flops"] == summary["flops"]["reference_train"]


def test_metrics_have_every_clock_and_show_the_window_close(straight):
    folder, summary = straight
    rows = lines(folder)
    assert [row["step"] for row in rows if "test/accuracy" in row] == [3, 6, 9, 12]
    assert [row["select/open"] for row in rows if "select/open" in row] == [1, 1, 1, 0, 0, 0]
    assert all(set(row["flops"]) == {*ACCOUNTS, "recompute"} for row in rows)
    assert rows[-1]["test_full/accuracy"] == summary["final"]["test_full/accuracy"]
    assert (folder / "metrics.csv").read_text().startswith("step,examples,candidates")
    assert sorted(int(p.stem) for p in (folder / "snapshots").glob("*.npz"))[-1] == 6


def test_chosen_ids_come_from_the_pool_only_and_are_distinct_in_a_step(data, straight):
    folder, _ = straight
    from active_learning.train.open_data import open_data

    parts = open_data(world.config(data)).parts
    pool = set(parts["pool"].indices.tolist())
    chosen = ids(folder)
    assert chosen.shape == (12, 16)
    assert chosen.dtype == np.uint64
    assert set(chosen.ravel().tolist()) <= pool
    assert all(len(set(step.tolist())) == 16 for step in chosen)


def test_a_loaded_reference_can_be_off_the_bill(data, straight, tmp_path):
    folder, _ = straight
    config = world.config(data, reference=Loaded(path=str(folder / "reference"), charge=False))
    summary = loop.run(config, tmp_path / "run")
    assert summary["flops"]["reference_train"] == 0.0
    assert summary["reference"]["charged"] is False
    jax.tree.map(
        np.testing.assert_array_equal,
        models(tmp_path / "run")["reference"],
        models(folder)["reference"],
    )


def test_the_window_closes_by_itself_before_the_rate_has_decayed(data):
    config = world.config(
        data, select=Select(policy=policies.learnability, ratio=4, until="auto"), total="40 steps"
    )
    config = dataclasses.replace(config, evaluate=Evaluate(every="2 steps", subset=60, gate="gate"))
    assert build(config).steps.window == 24


def test_a_copy_of_the_online_model_as_reference_scores_zero(data, tmp_path):
    config = world.config(data, reference=CopyOfOnline())
    loop.run(config, tmp_path / "run")
    for path in (tmp_path / "run" / "probe").glob("*.npz"):
        np.testing.assert_array_equal(np.load(path)["scores"], 0.0)


def test_a_loss_that_is_no_number_stops_the_run_with_its_step(data, tmp_path):
    # Weight decay of 100 at this rate multiplies the weights by -1e6 in each update.
    diverges = Optim(
        learning_rate=1e4, weight_decay=1e2, clip=0.0, warmup="0 steps", schedule="constant"
    )
    config = world.config(data, optim=diverges, select=Select())
    with pytest.raises(
        loop.NonFiniteError, match=r"run: (loss|grad_norm) is (nan|inf) at update \d+"
    ):
        loop.run(config, tmp_path / "run")


def test_a_folder_of_another_config_is_refused_and_untouched(data, straight):
    folder, _ = straight
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    other = world.config(
        data, select=Select(policy=policies.learnability, ratio=4, temperature=0.25, until="50 %")
    )
    with pytest.raises(
        ConfigError, match=r"another config \(config\.select\.temperature: 0\.5 there, 0\.25 here\)"
    ):
        loop.run(other, folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_folder_that_is_no_run_is_refused(data, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="directory is not empty and has no config.json"):
        loop.run(world.config(data), tmp_path)


def test_a_reference_of_another_shape_names_the_parameter(data, straight, tmp_path):
    folder, _ = straight
    from active_learning.models import MLP

    loaded = Loaded(path=str(folder / "reference"))
    config = world.config(data, scorer=MLP(width=9, depth=1), reference=loaded)
    with pytest.raises(
        ConfigError,
        match=r"config\.reference: parameter \['head'\]\['kernel'\] is \(8, 4\) there, \(9, 4\)",
    ):
        loop.run(config, tmp_path / "run")


def test_a_reference_trained_otherwise_is_not_taken_for_this_one(data, straight, tmp_path):
    folder, _ = straight
    longer = Trained(path=str(folder / "reference"), total="30 steps", batch_size=16)
    with pytest.raises(
        ConfigError, match=r"another config \(config\.total: '20 steps' there, '30 steps' here\)"
    ):
        loop.run(world.config(data, reference=longer), tmp_path / "run")


def test_there_must_be_a_complete_run_to_load(data, tmp_path):
    nothing = Loaded(path=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere': no complete run there"):
        loop.run(world.config(data, reference=nothing), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 200}, "800 candidates a step"),
        ({"evaluate": Evaluate(sets=("pool",))}, "part 'pool' is also trained on"),
        ({"evaluate": Evaluate(sets=("tuna",))}, "no part is named 'tuna'"),
        ({"evaluate": Evaluate(subset=0)}, r"config\.evaluate\.subset=0: must be at least 1"),
        (
            {"evaluate": Evaluate(batch_size=0)},
            r"config\.evaluate\.batch_size=0: must be at least 1",
        ),
        (
            {"batch_size": 800, "select": Select()},
            r"config\.batch_size=800: but \('pool',\) holds 400 examples",
        ),
        (
            {"split": Split(parts=PARTS | {"test": 10})},
            r"config\.split\.parts: 'test' is the name of an evaluation set",
        ),
        ({"split": Split(parts=PARTS, labels={"test": "clean"})}, "no part is named 'test'"),
        (
            {"split": Split(parts=PARTS | {"tune": 0}), "evaluate": Evaluate(sets=("tune",))},
            "config.evaluate.sets: part 'tune' holds no examples",
        ),
        (
            {"reference": Trained(part="gate")},
            r"config\.reference\.part='gate' is also an evaluation set",
        ),
        (
            {"reference": Trained(total="20 %", batch_size=16)},
            r"^config\.reference, as a run of its own: config\.total='20 %': a percentage",
        ),
        (
            {"reference": CrossFitted(total="2 steps 3 epochs", batch_size=16)},
            r"^config\.reference, as a run of its own: "
            r"config\.total='2 steps 3 epochs': two durations",
        ),
        (
            {"reference": Trained(part="x")},
            r"^config\.reference\.part='x': no part is named so; parts: pool, reference, gate",
        ),
        (
            {
                "select": Select(
                    policy=dataclasses.replace(policies.offline_filter, pool_fraction=0.03)
                )
            },
            r"config\.select\.policy\.pool_fraction=0\.03: "
            r"12 of 400 examples are less than a batch",
        ),
        ({"total": "1.000.000 examples"}, r"config\.total='1\.000\.000 examples'"),
    ],
)
def test_bad_configs_are_refused_before_anything_is_written(data, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as raised:
        loop.run(world.config(data, **changes), tmp_path / "run")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_run_that_never_began_leaves_its_folder_to_the_next_config(data, straight, tmp_path):
    nothing = Loaded(path=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="no complete run there"):
        loop.run(world.config(data, reference=nothing), tmp_path / "run")
    result = dataclasses.replace(nothing, path=str(straight[0] / "reference"))
    assert loop.run(world.config(data, reference=result, total="1 steps"), tmp_path / "run")[
        "complete"
    ]


def test_uniform_training_needs_no_more_examples_than_a_batch(data, tmp_path):
    config = world.config(data, split=Split(parts=PARTS | {"reference": 20}), total="2 steps")
    assert loop.run(config, tmp_path / "run")[
        "complete"
    ]  # a reference part of 20 examples, batches of 16


def test_the_handler_of_sigterm_is_back_after_a_run_with_a_reference(data, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    loop.run(world.config(data, total="1 steps"), tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) is before


def lost_scores(inputs, policy_state):
    return inputs.online * np.nan, policy_state


def test_scores_that_are_no_numbers_stop_the_run_with_the_step(data, tmp_path):
    policy = policies.Policy("lost", lost_scores)
    with pytest.raises(loop.NonFiniteError, match="run: the mean score is nan at update 1"):
        loop.run(world.config(data, select=Select(policy=policy, ratio=4)), tmp_path / "run")


def test_a_gate_that_decides_is_on_the_training_clock(data, straight, tmp_path, monkeypatch):
    gate, clock = Evaluation.learner_on_gate, [0.0]

    def slow(self, state):
        clock[0] += 1.0
        return gate(self, state)

    monkeypatch.setattr(Evaluation, "learner_on_gate", slow)
    monkeypatch.setattr(Evaluation, "reference_on_gate", lambda *_: (2.0, {}))
    monkeypatch.setattr(economics, "UNPROVEN", 10.0)
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    given = {"reference": Loaded(path=str(straight[0] / "reference"), charge=False)}
    spent = {}
    for until in ("auto", "60 %"):
        select = Select(policy=policies.learnability, ratio=4, until=until)
        spent[until] = loop.run(world.config(data, select=select, **given), tmp_path / until)[
            "train_seconds"
        ]
    # After updates 1, 2 and 4 of 7; the first call of all, which compiles, is off the clock.
    assert spent == {"auto": 3.0, "60 %": 0.0}


def test_recomputation_of_the_reference_is_in_no_account(data, tmp_path, monkeypatch):
    flops = dict.fromkeys(ACCOUNTS, 1.0) | {"recompute": 100.0}
    experiment = build(world.config(data))
    params = experiment.init_scorer(jax.random.key(0))
    told = Obtained(params, flops=flops, train_seconds=2.0, step=3)
    monkeypatch.setattr(Trained, "obtain", lambda *_: told)
    summary = loop.run(world.config(data, total="1 steps"), tmp_path / "run")
    assert (summary["flops"]["reference_train"], summary["flops"]["recompute"]) == (5.0, 100.0)
    assert summary["reference"]["flops"] == 5.0


def test_a_learner_can_start_from_saved_weights(data, straight, tmp_path):
    folder, _ = straight
    config = world.config(
        data,
        init_from=str(folder),
        select=Select(),
        optim=Optim(learning_rate=0.0),
        total="1 steps",
    )
    loop.run(config, tmp_path / "run")
    jax.tree.map(
        np.testing.assert_array_equal,
        checkpoint.load_params(tmp_path / "run"),
        checkpoint.load_params(folder),
    )


def test_tensorboard_by_option(data, tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    plain = {
        "select": Select(),
        "evaluate": Evaluate(every="3 steps", subset=60),
    }  # the run of the report's test
    loop.run(
        world.config(data, log=Log(every="2 steps", tensorboard=True), **plain), tmp_path / "run"
    )
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    content, result = file.read_bytes(), {}
    while content:  # records: length, its checksum (12 bytes), the event, its checksum (4)
        size = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + size])
        result |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        content = content[16 + size :]
    last = next(line for line in reversed(lines(tmp_path / "run")) if "test/accuracy" in line)
    assert result["test/accuracy", last["step"]] == pytest.approx(last["test/accuracy"])


def test_the_report_reads_what_the_loop_writes(data, straight, tmp_path):
    plain = world.config(
        data,
        name="plain",
        baseline=True,
        select=Select(),
        evaluate=Evaluate(every="3 steps", subset=60),
    )
    loop.run(plain, tmp_path / "plain")
    page = write([straight[0], tmp_path / "plain"], tmp_path / "report", "test/accuracy", "title")
    (arm,) = [
        a for a in json.loads((page / "report.json").read_text())["arms"] if a["name"] == "run"
    ]
    assert (
        json.dumps(straight[1]["final"]["test_full/accuracy"])[:6]
        in (page / "report.json").read_text()
        and arm
    )
    assert "plain" in (page / "table.md").read_text()


def test_more_than_a_day_left_is_said_in_hours(caplog):
    with caplog.at_level("INFO"):
        metrics.progress("run", 0, 108_000, 1.0, 0.0, {})
    assert "ETA 30:00:00" in caplog.text


def test_a_line_shows_what_is_looked_at_while_a_run_goes_on(caplog):
    shown = ("train/loss", "test/accuracy", "test/ema_accuracy", "gate/online_metric")
    others = ("train/grad_norm", "gate/online_accuracy", "select/score_mean_all", "test/loss")
    with caplog.at_level("INFO"):
        metrics.progress("run", 1, 9, 1.0, 0.0, dict.fromkeys(shown + others, 0.25))
    line = caplog.messages[-1]
    assert all(f"{name} 0.25" in line for name in shown)
    assert not any(name in line for name in others)

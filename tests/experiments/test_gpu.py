"""The GPU run: its data format, its updates on the device, its plan and its tables."""

import jax
import numpy as np
import pytest

from active_learning.core import optim
from active_learning.core.step import train_step, uniform_step
from experiments import gpu
from experiments.gpu_parts import arms, correctness, packed, regime, resident, table

SIZE = arms.SIZES["smoke"]


@pytest.fixture(scope="module")
def prepared():
    shared = regime.prepare(SIZE, *packed.drawn(200, 50))
    shared.updates = SIZE.updates
    return shared


def same_arrays(one: packed.Images, other: packed.Images) -> None:
    for name in packed.Images.__annotations__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_packed_images_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    train, test = (
        packed.Images(
            rng.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8),
            rng.integers(0, 10, count).astype(np.int32),
            rng.integers(0, 10, count).astype(np.int32),
        )
        for count in (2300, 1100)
    )
    folders = packed.write(tmp_path, train, test, 0.12)
    assert len(folders) > 1
    for folder, size in folders:
        held = sum(path.stat().st_size for path in folder.iterdir())
        assert held == size <= 0.12 * packed.MIB
    again = packed.read(tmp_path)
    same_arrays(again[0], train)
    same_arrays(again[1], test)
    with pytest.raises(ValueError, match="one file has"):
        packed.write(tmp_path / "small", train, test, 0.001)


def test_arrays_are_read_where_nothing_is_packed(tmp_path):
    train, test = packed.drawn(20, 10)
    (tmp_path / "cifar10n").mkdir()
    columns = {"image": train.image, "label": train.clean_label, "label_worse": train.label}
    np.savez(tmp_path / "cifar10n" / "train.npz", **columns)
    np.savez(tmp_path / "cifar10n" / "test.npz", image=test.image, label=test.label)
    again = packed.read(tmp_path)
    same_arrays(again[0], train)
    same_arrays(again[1], test)
    with pytest.raises(FileNotFoundError, match="ACTIVE_LEARNING_DATA"):
        packed.read(tmp_path / "none")


def test_the_schedule_with_traced_length_is_that_of_the_package():
    ours = jax.jit(lambda update, total, rate: resident.cosine(total, rate)(update))
    theirs = optim.warmup_cosine(0.3, 5, 100)
    for update in (0, 1, 4, 5, 6, 50, 99, 100):
        assert ours(update, 100.0, 0.3) == pytest.approx(float(theirs(update)), abs=1e-6)


@pytest.mark.parametrize("active", [True, False])
def test_updates_are_the_packages_own_step_repeated(prepared, active):
    models, settings = prepared.models, resident.settings_of(4, 0.05, 0.5)
    stream = resident.Stream(prepared.train_rows, 0)
    rows, epochs = stream.next(SIZE.dispatched, SIZE.batch_size * (SIZE.ratio if active else 1))
    state = resident.fresh_state(models, "learner", 0)
    kind, columns = "active" if active else "uniform", prepared.columns
    state, metrics = prepared.programs.updates(kind, state, columns, rows, epochs, settings)
    how = resident.recipe(models, "learner", **settings)
    alone = resident.fresh_state(models, "learner", 0)
    step = jax.jit(lambda state, batch: (train_step if active else uniform_step)(how, state, batch))
    for n in range(SIZE.dispatched):
        batch = {name: column[rows[n]] for name, column in prepared.columns.items()}
        alone, out = step(alone, batch | {"epoch": epochs[n]})
        own = out[0] if active else out
        np.testing.assert_allclose(own["loss"], metrics[n]["loss"], rtol=1e-5)
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, state.learner.params, alone.learner.params)
    jax.tree.map(close, state.ema.params, alone.ema.params)
    assert int(state.step) == SIZE.dispatched


def test_only_what_is_needed_is_compiled(prepared):
    alone = resident.Programs(prepared.models, prepared.columns, prepared.test, SIZE.chunk)
    alone.get("scorer_hits")
    first = alone.get("scorer_hits")
    assert list(alone.seconds) == ["scorer_hits"] and alone.get("scorer_hits") is first


def test_a_stream_sees_every_row_once_an_epoch():
    stream = resident.Stream(np.arange(100, 112), 3)
    rows, epochs = stream.next(3, 4)
    assert sorted(rows.ravel()) == list(range(100, 112)) and not epochs.any()
    rows, epochs = stream.next(1, 12)
    assert sorted(rows.ravel()) == list(range(100, 112)) and (epochs == 1).all()


def test_in_chunks_drops_the_padding():
    out = resident.in_chunks(lambda batch: 2 * batch["x"], {"x": jax.numpy.arange(7)}, 3)
    np.testing.assert_array_equal(out, 2 * np.arange(7))


def test_an_arm_is_charged_for_what_runs(prepared):
    prepared.reference_bill = {"reference_train": 7.0, "reference_score": 5.0}
    prepared.reference_seconds = 3.0
    recipe = arms.Arm("recipe", 1.0, window=0.5)
    row = regime.run_arm(prepared, recipe, SIZE.updates, seed=0)
    learner, scorer = (prepared.models.cost(role) for role in ("learner", "scorer"))
    b, half = SIZE.batch_size, SIZE.updates // 2
    assert row["window_updates"] == half
    assert row["flops"]["learner_train"] == SIZE.updates * b * learner.train
    assert row["flops"]["online_train"] == half * b * scorer.train
    assert row["flops"]["online_score"] == half * SIZE.ratio * b * scorer.forward
    assert (row["flops"]["reference_train"], row["flops"]["reference_score"]) == (7.0, 5.0)
    assert row["total_seconds"] == row["train_seconds"] + 3.0
    assert [point["update"] for point in row["curve"]] == [4, 8]
    hard = arms.Arm("hard", 1.0, window=0.5, reference=0.0)
    assert regime.run_arm(prepared, hard, SIZE.updates, seed=0)["reference_seconds"] == 0.0


def test_references_score_what_they_were_not_trained_on(prepared, monkeypatch):
    drawn = {}

    class Watched(resident.Stream):
        def __init__(self, rows, seed):
            drawn[seed] = rows
            super().__init__(rows, seed)

    monkeypatch.setattr(regime, "Stream", Watched)
    marks = iter((np.full(200, 1.0, np.float32), np.full(200, 2.0, np.float32)))
    programs = prepared.programs
    monkeypatch.setitem(programs._compiled, "losses", lambda params, columns: next(marks))
    regime.train_references(prepared)
    loss = np.asarray(prepared.columns["reference_loss"])
    assert set(loss[drawn[0]]) == {2.0} and set(loss[drawn[1]]) == {1.0}
    assert not set(drawn[0]) & set(drawn[1])


def test_filter_first_drops_the_largest_losses(prepared):
    loss = np.random.default_rng(0).permutation(200).astype(np.float32)
    prepared.columns = prepared.columns | {"reference_loss": loss}
    kept, rows = regime.kept_rows(prepared), prepared.train_rows
    dropped = np.setdiff1d(rows, kept)
    assert len(kept) == 96 and len(dropped) == 64  # Of 160 rows that are not the tune set.
    assert loss[kept].max() < loss[dropped].min()


def test_levels_are_read_from_the_curves():
    point = lambda update, raw, ema: {
        "update": update, "accuracy": raw, "ema_accuracy": ema, "flops": 2.0 * update,
        "seconds": 0.1 * update,
    }  # fmt: skip
    arm = lambda name, budget, seconds, *curve: {
        "arm": name, "budget": budget, "reference_seconds": seconds, "curve": list(curve),
        "final": curve[-1],
    }  # fmt: skip
    full = arm("uniform", 1.0, 0.0, point(50, 0.5, 0.6), point(100, 0.7, 0.72))
    ours = arm("recipe", 0.5, 3.0, point(25, 0.6, 0.5), point(50, 0.71, 0.70))
    rows = {(row["arm"], row["level"]): row for row in table.reached([full, ours])}
    assert rows["recipe", "uniform"]["updates"] == 50
    assert rows["recipe", "uniform"]["seconds"] == pytest.approx(8.0)
    assert rows["recipe", "uniform, EMA"]["updates"] is None
    assert rows["uniform", "uniform, EMA"]["flops"] == 200.0


def test_a_part_without_time_is_skipped_and_a_failure_ends_no_other(tmp_path):
    def fails(context):
        context.save({"some": 1})
        raise RuntimeError("out of memory")

    def works(context):
        return {"left": 1}

    parts = (
        gpu.Part("fails", fails, lambda result: iter(()), 10, 1),
        gpu.Part("late", works, lambda result: iter(()), 10, 1000),
        gpu.Part("works", works, lambda result: iter(["fine"]), 10, 1),
    )
    assert gpu.plan(parts, 0.5) == {"fails": 10.0, "late": 20.0, "works": 30.0}
    assert gpu.run_parts(parts, "gpu", None, tmp_path, 0.5) is False
    failed = (tmp_path / "fails.json").read_text()
    assert "out of memory" in failed and '"some": 1' in failed
    assert "works" not in failed and (tmp_path / "fails.json").exists()


def test_the_fused_step_is_its_parts():
    rows = list(correctness.check_step())
    assert all(row["ok"] for row in rows), rows
    assert len(rows) == 4


def test_the_plan_is_printed(capsys):
    gpu.show_plan(gpu.PARTS, 9)
    text = capsys.readouterr().out
    assert "regime" in text and "recipe, window 25 %, 50% of uniform's updates" in text

"""Stored embeddings of pairs: the choices are those of a live reference, on 1 and 8 devices and
after a restart, for learnability and for joint selection.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from active_learning import checkpoint, store_scores
from active_learning.config import ConfigError
from active_learning.core import policies
from active_learning.data import stored_rows
from active_learning.data.errors import DataError
from active_learning.references import Loaded, Stored, pair_pieces, row_pass
from active_learning.settings import Evaluate, Select
from active_learning.storage.workers import ALL, Task
from active_learning.train import build, loop
from tests import pairs_world, world
from tests.train.test_loop import ids


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pairs_world.write_tars(tmp_path_factory.mktemp("tars"))


@pytest.fixture(scope="module")
def reference(data, tmp_path_factory):
    """A run of the scorer's architecture, long enough to differ from its initialization."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    own = world.own_run(base(data))
    loop.run(dataclasses.replace(own, total="3 steps"), folder)
    return folder


@pytest.fixture(scope="module")
def stored(data, reference, tmp_path_factory):
    out = tmp_path_factory.mktemp("stored") / "embeddings"
    return store_scores.store(reference, base(data), out=out, dtype="float32")


def base(data, **changes):
    towers = {"learner": pairs_world.towers(16, depth=1), "scorer": pairs_world.towers(8, depth=1)}
    return pairs_world.config(data, **towers, **changes)


def config(data, reference, policy=policies.learnability, **changes):
    paired = base(data, reference=reference, **changes)
    select = Select(policy=policy, ratio=2, until="100 %")
    return dataclasses.replace(paired, select=select, evaluate=Evaluate(every="4 steps", subset=24))


@pytest.mark.parametrize("policy", [policies.learnability, policies.joint])
@pytest.mark.parametrize("devices", [1, 8])
def test_choices_are_those_of_a_live_reference(
    data, reference, stored, tmp_path, monkeypatch, policy, devices
):
    some = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda *_: some)
    live = config(data, Loaded(path=str(reference)), policy)
    cached = config(data, Stored(path=str(stored[0])), policy)
    loop.run(live, tmp_path / "live")
    first = loop.run(cached, tmp_path / "cached", world.StopAfter(2))
    assert not first["complete"]
    summary = loop.run(cached, tmp_path / "cached")
    np.testing.assert_array_equal(ids(tmp_path / "cached"), ids(tmp_path / "live"))
    assert summary["flops"]["reference_score"] == 0


def test_the_stored_embeddings_are_those_of_the_drawn_captions(data, reference, stored):
    experiment = build.build(config(data, Stored(path=str(stored[0]))))
    live = build.build(config(data, Loaded(path=str(reference))))
    train = experiment.data.train
    params = jax.device_put(checkpoint.load_params(reference, "learner"))
    rows, epochs = np.arange(24), np.arange(24) % 3
    batch = train.batch(rows, epochs)
    drawn = jax.device_put(live.data.train.batch(rows, epochs))
    outputs = live.recipe.scorer.apply(params, drawn, False)
    np.testing.assert_allclose(batch["reference_image"], outputs.image, atol=2e-6)
    np.testing.assert_allclose(batch["reference_text"], outputs.text, atol=2e-6)
    np.testing.assert_allclose(batch["reference_scale"], outputs.scale, rtol=1e-6)
    np.testing.assert_allclose(batch["reference_bias"], outputs.bias, rtol=1e-6)
    assert (train.caption_of != train.indices).any()  # some captions are another pair's


def test_workers_embed_what_one_embeds(data, reference, tmp_path, monkeypatch):
    for module in (row_pass, pair_pieces):
        monkeypatch.setattr(module, "PIECE", 40)
    store = lambda out, task=ALL: store_scores.store(reference, base(data), out=out, task=task)
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    _, about = store(one)
    for index in (0, 1):  # six pieces; the second worker is missing, then killed
        assert store(two, Task(index, 2))[1] == {}
        if index == 0:
            with pytest.raises(ConfigError, match="two: 3 of 6 pieces are missing; run --task=1/2"):
                store(two, Task(finish=True))
    assert store(two, Task(finish=True))[1].keys() == about.keys()
    assert store(two, Task(1, 2))[1].keys() == about.keys()  # late: nothing to do
    store(three, Task(2, 3))
    store(three)  # one alone takes over
    for kind in ("image", "text"):
        for name in ("values", "stored", "starts", "ids"):
            first, *others = ((o / kind / f"{name}.npy").read_bytes() for o in (one, two, three))
            assert all(other == first for other in others), (kind, name)
        told = [json.loads((out / kind / "about.json").read_text()) for out in (one, two, three)]
        assert all(one.pop("seconds") > 0 for one in told)
        assert told[0] == told[1] == told[2] and told[0]["examples"] == 96
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two"]


def test_a_stopped_pass_goes_on_where_it_was(data, reference, stored, tmp_path, monkeypatch):
    monkeypatch.setattr(row_pass, "PIECE", 40)
    written, write = [], stored_rows.RowTable.write

    def stopping(self, rows, *values):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(len(rows))
        write(self, rows, *values)

    out = tmp_path / "e"
    again = lambda: store_scores.store(reference, base(data), out=out, dtype="float32")
    monkeypatch.setattr(stored_rows.RowTable, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        again()
    with pytest.raises(DataError, match="56 of 96 examples have no embeddings yet"):
        build.build(config(data, Stored(path=str(out))))
    monkeypatch.setattr(
        stored_rows.RowTable,
        "write",
        lambda self, rows, *values: written.append(len(rows)) or write(self, rows, *values),
    )
    _, about = again()
    # All images, then the captions; of the second pass only what was missing.
    assert written == [40, 40, 16, 40, 40, 16]
    assert about["examples"] == 96 and about["texts"] == 192
    for name in ("image", "text"):
        np.testing.assert_allclose(
            *(np.load(folder / name / "values.npy") for folder in (out, stored[0])), atol=2e-6
        )


def test_bfloat16_by_hand():
    values = np.array([1.0, -2.5, 1 + 2**-9, 1 + 3 * 2**-9, 0.0], np.float32)
    packed = stored_rows.to_bfloat16(values)
    assert packed.tolist() == [0x3F80, 0xC020, 0x3F80, 0x3F81, 0]
    result = stored_rows.from_bfloat16(packed)
    assert result.dtype == np.float32 and np.abs(result - values).max() <= 2**-8


def test_bfloat16_halves_the_files(data, reference, stored, tmp_path):
    store_scores.store(reference, base(data), out=tmp_path / "half")
    half, whole = (np.load(f / "text" / "values.npy") for f in (tmp_path / "half", stored[0]))
    assert half.dtype == np.uint16 and whole.dtype == np.float32
    np.testing.assert_allclose(stored_rows.from_bfloat16(half), whole, atol=2**-8)


def test_what_does_not_fit_gets_one_line(data, reference, stored, tmp_path):
    def refused(match, kind=DataError, **changes):
        fields = {"path": str(stored[0])} | changes
        with pytest.raises(kind, match=match) as caught:
            build.build(config(data, Stored(**fields)))
        assert "\n" not in str(caught.value)

    refused("no about.json there", path=str(tmp_path / "nowhere"))
    refused("embeddings of another model", model="0" * 12)
    other = tmp_path / "other"
    pairs_world.write_tars(tmp_path, seed=5)
    with pytest.raises(DataError, match="embeddings of another (data|captions)"):
        build.build(config(tmp_path, Stored(path=str(stored[0]))))
    gated = dataclasses.replace(
        config(data, Stored(path=str(stored[0]))), evaluate=Evaluate(gate="gate")
    )
    with pytest.raises(ConfigError, match=r"config\.evaluate\.gate='gate': .* not a model"):
        build.build(gated)
    with pytest.raises(ConfigError, match="go to a folder"):
        store_scores.store(reference, out=tmp_path / "s.csv")
    assert not other.exists()

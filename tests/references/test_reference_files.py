"""Files that references write: replaced as a whole, refused or made again when damaged."""

import json

import numpy as np
import pytest

from active_learning.data.sources.source import DataError
from active_learning.references import pool_filter, score_file

ABOUT = {"data": "d", "model": "m", "view": "v"}


def write(path, losses=(0.5, 1.0)):
    count = len(losses)
    scores = score_file.Scores(
        np.arange(count, dtype=np.int64),
        np.zeros(count, np.int32),
        np.array(losses, np.float32),
        np.ones(count, bool),
        ABOUT,
    )
    return score_file.write(path, scores)


def test_stored_scores_are_read_back_and_nothing_else_is_left(tmp_path):
    write(tmp_path / "s.npz")
    assert score_file.read(tmp_path / "s.npz", "d", "v").loss.tolist() == [0.5, 1.0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.json", "s.npz"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_stored_losses_that_are_not_finite_are_refused(tmp_path, value):
    write(tmp_path / "s.npz", (0.5, value, value))
    with pytest.raises(DataError, match=r"s\.npz: 2 losses are not finite, the first of id 1"):
        score_file.read(tmp_path / "s.npz", "d", "v")


@pytest.mark.parametrize("content", ["", "[]", "{}", "[" * 5000, json.dumps(ABOUT)])
def test_an_unreadable_description_of_scores_is_one_line(tmp_path, content):
    write(tmp_path / "s.npz")
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DataError, match=r"s\.json: unreadable") as caught:
        score_file.read(tmp_path / "s.npz", "d", "v")
    assert "\n" not in str(caught.value)


def test_a_damaged_choice_of_the_pool_counts_as_none(tmp_path):
    file = tmp_path / "kept.npz"
    assert pool_filter._read(file) is None
    np.savez(file, id=np.arange(3), flops=1.0, seconds=2.0)
    read = {name: values.tolist() for name, values in pool_filter._read(file).items()}
    assert read == {"id": [0, 1, 2], "flops": 1.0, "seconds": 2.0}
    whole = file.read_bytes()
    other_ids = whole.replace(np.arange(3).tobytes(), np.arange(1, 4).tobytes())
    assert other_ids != whole
    for damaged in (b"", whole[:100], whole[:-30], other_ids):
        file.write_bytes(damaged)
        assert pool_filter._read(file) is None

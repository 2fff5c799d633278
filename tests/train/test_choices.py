"""What a run chose is counted by row, resumes exactly, and comes out as lines on a page."""

import numpy as np
import pytest

from active_learning.curation import chosen
from active_learning.curation.records import Record
from active_learning.data.errors import DataError
from active_learning.train import choices

IDS = np.array([40, 7, 1 << 47, 3])


def counted(tmp_path):
    counter = choices.ChoiceCounter(4)
    counter.add(1, np.array([1, 3, 0]), np.array([0.5, -1.0, 2.0]), np.array([0]))
    counter.save(tmp_path, 1, keep=2)
    counter = choices.ChoiceCounter(4)
    assert counter.restore(tmp_path, 1) and not counter.restore(tmp_path, 2)
    counter.add(2, np.array([0, 0]), np.array([1.0, 1.25]), np.array([0, 0]))
    counter.add(3, np.array([3]), None, np.array([3]))
    return counter


def test_counts_by_hand_and_lines_for_people(tmp_path):
    counted(tmp_path).write(tmp_path, IDS)
    counts, rows = chosen.rows_of(tmp_path, np.array([3, 40, 99, 7, 1 << 47]))
    assert rows.tolist() == [3, 0, -1, 1, 2]
    assert counts.last_step.tolist() == [2, 1, 0, 1]
    assert chosen.remarks(counts, rows) == {
        0: "chosen 1 of 2 times, last score -1.00",
        1: "chosen 3 of 3 times, last score 1.25",
        3: "chosen 0 of 1 times, last score 0.50",
    }
    records = [Record("p", "d", "cat", "dog", 0.9, 1, "label")]
    text = chosen.note(tmp_path, counts, rows, ["a", "b", "c", "d", "e"], records)
    assert "50% of its 4 examples were never chosen" in text
    assert "suspect labels were chosen 0% of the times they came up" in text
    assert "the other examples were chosen 80%" in text


def test_old_counts_are_removed_and_damaged_ones_are_none(tmp_path):
    counter = counted(tmp_path)
    for step in (2, 3, 4):
        counter.save(tmp_path, step, keep=2)
    files = sorted((tmp_path / choices.FOLDER).iterdir())
    assert [path.name for path in files] == ["00000003.npz", "00000004.npz"]
    files[0].write_bytes(b"PK damaged")
    assert not counter.restore(tmp_path, 3)
    assert not choices.ChoiceCounter(5).restore(tmp_path, 4)


def test_what_does_not_fit_gets_one_line(tmp_path):
    with pytest.raises(DataError, match=r"no chosen\.parquet"):
        choices.read_counts(tmp_path)
    (tmp_path / choices.FILE).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not readable"):
        choices.read_counts(tmp_path)
    counted(tmp_path).write(tmp_path, IDS)
    with pytest.raises(DataError, match="no id in common"):
        chosen.rows_of(tmp_path, np.array([1, 2]))

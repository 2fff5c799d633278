"""What a run chose is counted by id, survives a restart and comes out as one line."""

import numpy as np
import pytest

from active_learning.curation import chosen
from active_learning.data.errors import DataError

IDS = np.array([40, 7, 1 << 48, 3])


def test_counts_by_hand_and_resumes(tmp_path):
    counter = chosen.ChoiceCounter(IDS)
    counter.add(np.array([7, 3, 40]), np.array([0.5, -1.0, 2.0]), np.array([40]))
    counter.write(tmp_path)
    counter = chosen.read_counter(tmp_path)
    counter.add(np.array([40, 40]), np.array([1.0, 1.25]), np.array([40, 40]))
    counter.add(np.array([3]), None, np.array([3]))
    counter.write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [chosen.FILE]
    assert chosen.remarks(tmp_path, IDS) == {
        0: "chosen 3 of 3 times, last score 1.25",
        1: "chosen 0 of 1 times, last score 0.50",
        3: "chosen 1 of 2 times, last score -1.00",
    }


def test_what_does_not_fit_gets_one_line(tmp_path):
    with pytest.raises(DataError, match=r"no chosen\.parquet"):
        chosen.read_counter(tmp_path)
    (tmp_path / chosen.FILE).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not readable"):
        chosen.read_counter(tmp_path)
    counter = chosen.ChoiceCounter(IDS)
    counter.add(np.array([7]), None, np.array([7]))
    counter.write(tmp_path)
    with pytest.raises(DataError, match="no id in common"):
        chosen.remarks(tmp_path, np.array([1, 2]))
    with pytest.raises(ValueError, match="not among"):
        counter.add(np.array([8]), None, np.array([7]))

"""What two runs' recorded choices have in common, by hand."""

import json

import numpy as np
import pytest

from active_learning.references import replay
from experiments import amortisation


def recorded(folder, ids, start=0):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({"batch_size": 4, "total_steps": 3, "data": {"hash": "x"}})
    )
    ids = np.array(ids, np.uint64)
    replay.write(
        folder / "chosen",
        start,
        replay.Choices(ids, np.zeros(ids.shape, np.int32), np.ones(ids.shape, np.float32)),
    )
    return folder


def test_the_overlap_counts_ids_of_the_same_update_in_any_order(tmp_path):
    live = recorded(tmp_path / "live", [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]])
    other = recorded(tmp_path / "other", [[4, 3, 2, 1], [5, 6, 7, 1]])
    recorded(other, [[5, 6, 7, 8]], start=2)
    assert amortisation.overlap(live, live) == 1.0
    assert amortisation.overlap(live, other) == pytest.approx((4 + 3 + 0) / 12)


def test_means_over_seeds_keep_every_seeds_overlap():
    run = {
        "final": {"tune_full/accuracy": 0.5},
        "flops": dict.fromkeys((*amortisation.ACCOUNTS, "recompute"), 2.0),
    }
    run |= {"train_seconds": 3.0}
    row = amortisation.summed([run | {"overlap": 1.0}, run | {"overlap": 0.5}], 4.0, "tune")
    assert (row["overlap"], row["total"], row["accuracy"], row["seconds"]) == (
        [1.0, 0.5],
        3.0,
        [0.5, 0.5],
        3.0,
    )
    assert "overlap" not in amortisation.summed([run], 4.0, "tune")

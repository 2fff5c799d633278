"""The measurements beyond one machine are found by the names of their files."""

import json

import numpy as np
import pytest

from active_learning.data.sources import catalog
from experiments import scale
from experiments.scale_parts import step2_index, step2_mixing, step2_paper


def test_parts_are_found_by_step():
    assert "step1_runs" in scale.parts_of(1)
    assert all(name.startswith("step1") for name in scale.parts_of(1))
    assert scale.parts_of(10) == []


def test_a_step_without_measurements_is_refused(capsys):
    with pytest.raises(SystemExit):
        scale.main(["--step=99"])
    assert "invalid choice: 99" in capsys.readouterr().err


def test_a_large_set_is_opened_by_its_catalog(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "LARGE", 20)
    step2_index.write_tars(tmp_path, 3, 20)
    first, again = (
        step2_index.opened(20, str(tmp_path), 0, 2, as_run, True) for as_run in (False, True)
    )
    assert first["examples"] == again["examples"] == 60
    assert list(tmp_path.glob(".catalog-*/arrays/*/pool.npy"))


def test_a_sparse_set_is_as_large_as_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "LARGE", 100)
    step2_index.write_sparse(tmp_path, 4, 1 << 23)
    one = step2_index.opened(100, str(tmp_path), 512, 2, False, False)
    assert one["examples"] == 1 << 25 and one["bytes_an_example"] < 1


def test_how_batches_are_mixed():
    labels = np.repeat(np.arange(8), 1024)  # by class
    full, chunk = (step2_mixing.alike(labels, shuffle) for shuffle in (0, 256))
    assert full["neighbors"] == pytest.approx(1, abs=0.1)
    assert full["one_class"] == pytest.approx(1, abs=0.1)
    # All pairs of a batch lie in one chunk, of one class.
    assert chunk["one_class"] == pytest.approx(8, rel=0.01)
    assert chunk["neighbors"] == pytest.approx(8192 / (2 * 255) * (1 - 1 / 8192), rel=0.02)


def test_what_saturates_first():
    data = {
        "candidates": {
            "bytes": {"photo": 1000.0, "small view": 10.0},
            "cost_of_ratio_1": {"prepared": {"cpu": 1.5}},
        },
        "decode": {"threads": 2, "images_per_s": 1000.0},
    }
    rates = {"selected_a_second": 1e6, "candidates_a_second": 5e6}
    one, chunks, copies = step2_paper.ways(rates, data)
    assert one["bytes_a_second"] == 1e6 * 1000 + 5e6 * 10
    assert chunks["bytes_a_second"] == 5e6 * 1010
    assert one["first_to_saturate"] == "connections of a host"
    assert one["speed"] == pytest.approx(64 * 64 / 0.05 / 6e6)
    # 1e6 photos of 2 ms, half of that for small views, on 64 hosts of 112 cores.
    assert copies["fractions"]["cores of a host"] == pytest.approx(3000 / 64 / 112)
    compute = step2_paper.compute()
    assert 1 < compute["flops_of_uniform"] < 1.2
    page = step2_paper.table(
        {
            "compute": compute,
            "ways": [one],
            "stored_bytes": {"photos": 1, "small views": 1, "index": 1},
        }
    )
    assert "connections of a host" in page and json.dumps(one)

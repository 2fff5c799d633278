"""Several workers of one curation: the tables of one, whoever dies, starts late or is alone."""

import threading

import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.curation import examples, pipeline, sharing
from active_learning.curation.sharing import KIND, Sharing
from active_learning.data.sources.from_path import section_of
from active_learning.storage import workers
from active_learning.storage.pieces import Pieces
from active_learning.storage.workers import Task
from tests.curation.test_pipeline import QUICK, planted

FINISH = Task(finish=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    planted(folder / "data", 180, 1)
    return folder / "data"


def curated(data, out, task=workers.ALL):
    return pipeline.curate(section_of(str(data)), out, QUICK, "world", None, task)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "out"
    return out, curated(data, out)


def results(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(examples, "BLOCK", 32)
    monkeypatch.setattr(pipeline, "COPIES", 50)
    monkeypatch.setattr(sharing, "PAUSE", 0.05)


def test_workers_find_what_one_finds(data, alone, tmp_path, monkeypatch):
    """The first worker is killed while it reads; the second takes over all but the models."""
    out, saved, save = tmp_path / "out", [], Pieces.save

    def stopping(self, name, arrays):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(name)
        save(self, name, arrays)

    monkeypatch.setattr(Pieces, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        curated(data, out, Task(0, 2))
    assert saved == ["read-0", "read-2"]
    monkeypatch.setattr(
        Pieces,
        "save",
        lambda self, name, arrays: saved.append(self.path(name)) or save(self, name, arrays),
    )
    assert curated(data, out, Task(1, 2)) is None
    with pytest.raises(ConfigError, match="out: 2 of 4 pieces are missing; run --task=0/2 again"):
        curated(data, out, FINISH)
    assert curated(data, out, Task(0, 2)) is None
    assert len(saved) == len(set(saved))  # nothing was made twice
    assert curated(data, out, FINISH) == alone[1]
    assert results(out) == results(alone[0])
    left = {path.name for path in (out / "work").iterdir()}
    assert not [name for name in left if name.startswith("read-") or name.endswith(".lock")]
    assert {path.name for path in (alone[0] / "work").iterdir()} <= left


def test_a_worker_waits_for_those_at_work_only(tmp_path):
    names = [f"p{number}" for number in range(6)]
    pieces, made = Pieces(tmp_path, "x"), []
    shared = Sharing(tmp_path, tmp_path, Task(0, 3))

    def make(number):
        made.append(number)
        return {"value": np.array(number)}

    with workers.held(tmp_path, Task(1, 3), KIND):  # at work; task 2 is not
        worker = threading.Thread(target=shared.all, args=(pieces, names, make))
        worker.start()
        worker.join(1.0)
        assert worker.is_alive() and sorted(made) == [0, 2, 3, 5]
        pieces.save("p1", {"value": np.array(1)})
    worker.join(10.0)  # the other has gone and left p4
    assert not worker.is_alive() and sorted(made) == [0, 2, 3, 4, 5]
    alone = Sharing(tmp_path / "alone", tmp_path)
    assert [int(one["value"]) for one in alone.each(pieces, names, make)] == list(range(6))
    assert not (tmp_path / "alone").exists()

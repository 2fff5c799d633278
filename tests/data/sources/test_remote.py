"""Shards in buckets: the same examples as on disk, whatever the server does; few requests."""

import dataclasses
import errno
import os
import shutil
import threading

import numpy as np
import obstore
import pyarrow as pa
import pytest
from pyarrow import parquet

from active_learning import prepare
from active_learning.config import ConfigError
from active_learning.data import order
from active_learning.data.loader import Candidates, Loader
from active_learning.data.parts import Part
from active_learning.data.sources import remote
from active_learning.data.sources.array_record import Readers
from active_learning.data.sources.cache import Cache
from active_learning.data.sources.from_path import FromPath, section_of
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.mixture import Mixture
from active_learning.data.sources.on_disk import Disk
from active_learning.data.sources.source import DataError
from active_learning.storage import addresses
from active_learning.storage.errors import StorageError
from experiments.bucket_servers import buckets
from tests.data.photos import COLOURS, blob, write_folder
from tests.data.sources.test_array_record import write
from tests.data.sources.test_webdataset import examples, write_tar


@pytest.fixture(params=["gs"])
def bucket(request, monkeypatch):
    """(address of an empty bucket, the faults of its server); failing requests are asked again
    after milliseconds.
    """
    kind = request.param
    monkeypatch.setattr(addresses.random, "uniform", lambda low, high: 0.02)
    quick = {**addresses._RETRY, "max_retries": 1}
    monkeypatch.setattr(addresses, "_RETRY", quick)
    with buckets(kind) as (environment, faults):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        addresses._store.cache_clear()
        yield f"{kind}://bucket", faults
    addresses._store.cache_clear()


both = pytest.mark.parametrize("bucket", ["gs", "s3"], indirect=True)


def upload(folder, address):
    """Puts the files of a folder below an address."""
    store, prefix = addresses.store_of(address)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.endswith(".index.npz"):
            obstore.put(store, f"{prefix}/{file.relative_to(folder)}", file.read_bytes())


def tars(folder, shards=2, count=30):
    folder.mkdir()
    for n in range(shards):
        write_tar(folder / f"train-{n:03d}.tar", examples(count, count * n))
    write_tar(folder / "test-0.tar", examples(9, 1000))
    return folder


def records(folder):
    folder.mkdir()
    write(folder / "train-0.array_record", 60)
    write(folder / "test-0.array_record", 12)
    return folder


def tables(folder):
    folder.mkdir()
    for name, count in (("train-0", 30), ("train-1", 30), ("test", 9)):
        images = [{"bytes": blob(list(COLOURS)[n % 3], n), "path": ""} for n in range(count)]
        labels = [n % 3 for n in range(count)]
        content = {
            "image": images,
            "label": labels,
            "id": [hash(name) % 999 * 1000 + n for n in range(count)],
        }
        parquet.write_table(pa.table(content), folder / f"{name}.parquet", row_group_size=8)
    return folder


def everything(source: Disk) -> list:
    """What a run sees of a source: ids, labels, names, pixels, provenance."""
    rows = np.arange(len(source))
    about = {name: value for name, value in source.describe().items() if name != "where"}
    seen = source.gather(rows)
    assert not seen["bad"].any()
    return [
        source.ids.tolist(),
        source.labels("label").tolist(),
        [source.name(row) for row in range(len(source))],
        seen["image"].tobytes(),
        about,
    ]


@both
@pytest.mark.parametrize("make", [tars, records, tables])
def test_a_bucket_is_like_a_folder(bucket, make, tmp_path):
    address, faults = bucket
    folder = make(tmp_path / "set")
    upload(folder, f"{address}/a b/set")
    here = section_of(str(folder)).open()
    there = FromPath(path=f"{address}/a b/set/", cache=str(tmp_path / "cache")).open()
    for ours, theirs in ((here.train, there.train), (here.test, there.test)):
        assert everything(ours) == everything(theirs)
    before = faults.requests
    again = FromPath(path=f"{address}/a b/set/", cache=str(tmp_path / "cache")).open()
    opening = faults.requests - before
    assert everything(again.train) == everything(here.train)
    assert faults.requests == before + opening  # all that is needed is on the disk


def test_shards_in_a_bucket_are_prepared_as_those_on_disk(bucket, tmp_path, monkeypatch):
    address, faults = bucket
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upload(tars(tmp_path / "set"), f"{address}/set")
    faults.fraction = 0.1
    for source, out in ((str(tmp_path / "set"), "here"), (f"{address}/set", "there")):
        assert prepare.main([source, str(tmp_path / out), "--small=8", "--shard=20"]) == 0
    here, there = ((tmp_path / out / "SHA256SUMS").read_text() for out in ("here", "there"))
    assert here == there


def test_moved_data_may_lie_in_a_bucket():
    section = FromPath(path="/a/set", test_path="/a/set/test-0.tar")
    moved = section.moved("gs://bucket/set")
    assert (moved.path, moved.test_path) == ("gs://bucket/set", "gs://bucket/set/test-0.tar")
    assert moved.moved("/b/set") == FromPath(path="/b/set", test_path="/b/set/test-0.tar")


def test_patterns_and_single_shards(bucket, tmp_path):
    address, _ = bucket
    upload(tars(tmp_path / "set"), f"{address}/set")
    keys = {"cache": str(tmp_path / "cache")}
    for path, count in (
        ("set/train-{000..001}.tar", 60),
        ("set/train-*.tar", 60),
        ("set/train-001.tar", 30),
        ("set", 69),
    ):
        opened = FromPath(path=f"{address}/{path}", **keys).open()
        assert len(opened.train) + len(opened.test) == count
    for path, message in (
        ("set/none-*.tar", "no object has such a name"),
        ("none", "no tars, Parquet files or prepared shards there"),
        ("set/none.tar", "not there"),
    ):
        with pytest.raises((ConfigError, DataError), match=message) as error:
            FromPath(path=f"{address}/{path}", **keys).open()
        assert f"{address}/{path}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("keys", [{}, {"cache_gb": 0.0}, {"cache_gb": 2e-4, "shuffle": 15}])
def test_faults_change_nothing(bucket, keys, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "BLOCK", 1 << 14)
    monkeypatch.setattr(remote, "CHUNK", 15)
    address, faults = bucket
    folder = tars(tmp_path / "set", 3)
    upload(folder, f"{address}/set")
    here = everything(section_of(str(folder)).open().train)
    faults.fraction = 0.2
    there = FromPath(path=f"{address}/set", cache=str(tmp_path / "cache"), **keys).open().train
    assert everything(there) == here
    assert faults.injected > 2 and not there.problems.bad


def test_an_outage_is_waited_for(bucket, tmp_path):
    address, faults = bucket
    upload(tars(tmp_path / "set"), f"{address}/set")
    source = FromPath(path=f"{address}/set", cache_gb=0.0, cache=str(tmp_path / "c")).open().train
    wanted = source.gather(np.arange(20))["image"]
    faults.outage(0.6)
    seen = source.gather(np.arange(20))
    assert not seen["bad"].any() and np.array_equal(seen["image"], wanted)
    assert faults.injected >= 20


def test_a_server_that_goes_on_failing_ends_the_run(bucket, tmp_path, monkeypatch):
    address, faults = bucket
    upload(tars(tmp_path / "set"), f"{address}/set")
    source = FromPath(path=f"{address}/set", cache_gb=0.0, cache=str(tmp_path / "c")).open().train
    part = Part(source, np.arange(len(source)), source.labels("label"), None)
    monkeypatch.setattr(addresses, "PATIENCE", 0.2)
    faults.fraction = 1.0
    with pytest.raises(StorageError, match=r"^gs://bucket/set/train-00\d\.tar: .*gave up after"):
        part.read(np.arange(4))
    assert not source.problems.bad  # a server that fails is no bad example
    faults.fraction, faults.denied = 0.0, True
    with pytest.raises(ConfigError, match=r"^gs://bucket/set/train-00\d\.tar: 403"):
        part.read(np.arange(4))


@pytest.mark.parametrize("make", [records, tables])
def test_refused_requests_are_no_bad_examples(bucket, make, tmp_path):
    address, faults = bucket
    upload(make(tmp_path / "set"), f"{address}/set")
    source = FromPath(path=f"{address}/set", size=16, cache=str(tmp_path / "c")).open().train
    shutil.rmtree(tmp_path / "c" / "copies")
    faults.denied = True
    source.files.begin(np.arange(4))
    fresh = FromPath(path=f"{address}/set", size=16, cache=str(tmp_path / "c"))
    with pytest.raises(ConfigError, match=r"^gs://bucket/set: 403"):
        fresh.open()
    for reader in vars(source.files).values():
        if isinstance(reader, Readers):
            reader._open.clear()
    with pytest.raises(ConfigError, match=r"^gs://bucket/set/train-\d\.\w+: 403"):
        source.gather(np.arange(4))


def test_a_full_disk_ends_with_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = Cache(tmp_path / "c", 10_000)
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match=r"No space left on device\); give another folder"):
        cache.read("x", 100, 5, 0, lambda: bytes(100))
    assert not list((tmp_path / "c").glob("*"))


def test_an_object_that_changes_is_found(bucket, tmp_path):
    address, _ = bucket
    folder = tars(tmp_path / "set")
    upload(folder, f"{address}/set")
    source = FromPath(path=f"{address}/set", cache_gb=0.0, cache=str(tmp_path / "c")).open().train
    write_tar(folder / "train-000.tar", examples(3))
    upload(folder, f"{address}/set")
    with pytest.raises((ConfigError, DataError), match=r"train-000\.tar"):
        source.gather(np.arange(20))


def run_through(source, count, seed=0, batch=32):
    """Ids of the first `count` candidates of a run, by the loader."""
    part = Part(source, np.arange(len(source)), source.labels("label"), None)
    loader = Loader(Candidates(part, seed), None)
    rows = np.concatenate([loader.next(batch).rows for _ in range(count // batch)])
    loader.close()
    return part.ids[rows]


def test_requests_per_example(bucket, tmp_path, monkeypatch):
    """One an example where a set does not fit; few where it does, or is shuffled in chunks."""
    chunk = 64
    monkeypatch.setattr(order, "CHUNK", chunk)
    monkeypatch.setattr(remote, "CHUNK", chunk)
    monkeypatch.setattr(remote, "BLOCK", 1 << 16)
    address, faults = bucket
    count = 4 * chunk
    folder = tars(tmp_path / "set", 2, count // 2)
    upload(folder, f"{address}/set")
    size = sum(file.stat().st_size for file in folder.iterdir())
    epochs = 2
    requests, ids = {}, {}
    for name, keys in {
        "one by one": {"cache_gb": 0.0},
        "all in the cache": {},
        "in chunks": {"cache_gb": size / 1.1e9, "shuffle": chunk},
    }.items():
        source = FromPath(path=f"{address}/set", cache=str(tmp_path / name), **keys).open().train
        before = faults.requests
        ids[name] = run_through(source, epochs * count).tolist()
        requests[name] = (faults.requests - before) / (epochs * count)
    local = section_of(str(folder)).open().train
    assert (
        ids["one by one"] == ids["all in the cache"] == run_through(local, epochs * count).tolist()
    )
    assert set(ids["in chunks"][:count]) == set(ids["one by one"][:count])
    assert requests["one by one"] >= 1
    assert requests["all in the cache"] < 0.02
    assert requests["in chunks"] < 0.1


def test_a_mixture_of_a_bucket_and_a_disk(bucket, tmp_path):
    address, faults = bucket
    upload(tars(tmp_path / "set"), f"{address}/set")
    write_folder(tmp_path / "photos", each=20)
    photos = ImageFolder(path=str(tmp_path / "photos"), size=24)
    ids = []
    for path in (str(tmp_path / "set"), f"{address}/set"):
        shards = FromPath(path=path, size=24, cache=str(tmp_path / "c"))
        mixture = Mixture(sources={"a": shards, "b": photos}, weights={"a": 1, "b": 3})
        ids.append(run_through(mixture.open().train, 256).tolist())
    assert ids[0] == ids[1] and faults.requests > 0
    with pytest.raises(
        DataError, match=r"^config\.data\.sources\.a\.shuffle: sources of a mixture"
    ):
        dataclasses.replace(
            mixture, sources={"a": dataclasses.replace(shards, shuffle=8), "b": photos}
        ).open()


def test_the_cache_keeps_its_limit_and_finds_damage(tmp_path):
    cache = Cache(tmp_path / "c", 10_000)
    fetched = []

    def read(name, offset=0, size=10):
        def fetch():
            fetched.append(name)
            return bytes([name]) * 1000

        return cache.read(f"x/{name}", 1000, size, offset, fetch)

    for name in range(25):
        assert read(name) == bytes([name]) * 10
        assert sum(f.stat().st_size for f in (tmp_path / "c").rglob("*") if f.is_file()) <= 10_000
    assert read(24, 990) == bytes([24]) * 10 and fetched == list(range(25))
    assert read(0) == bytes(10) and fetched[-1] == 0  # it had been removed
    cache = Cache(tmp_path / "c", 10_000)  # another process
    read(24)
    assert len(fetched) == 26
    path = tmp_path / "c" / "x" / "24"
    path.write_bytes(bytes(path.stat().st_size))  # as a machine that lost power leaves it
    cache = Cache(tmp_path / "c", 10_000)
    assert read(24) == bytes([24]) * 10 and fetched[-1] == 24
    path.unlink()  # by another process
    assert read(24) == bytes([24]) * 10 and len(fetched) == 28


def test_a_block_is_fetched_once_however_many_ask(tmp_path):
    cache, begun, fetched = Cache(tmp_path / "c", 10_000), threading.Event(), []

    def fetch():
        fetched.append(1)
        begun.wait(5)
        return bytes(100)

    def read():
        assert cache.read("x", 100, 5, 0, fetch) == bytes(5)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.set()
    for thread in threads:
        thread.join()
    assert len(fetched) == 1


def test_a_cache_that_is_too_small_for_chunks_is_refused(bucket, tmp_path):
    address, _ = bucket
    upload(tars(tmp_path / "set"), f"{address}/set")
    with pytest.raises(DataError, match=r"^config\.data\.shuffle=20: .* of copies, more than"):
        FromPath(path=f"{address}/set", cache_gb=1e-6, shuffle=20, cache=str(tmp_path)).open()


def test_prepared_shards_need_room_for_copies(bucket, tmp_path):
    address, _ = bucket
    upload(records(tmp_path / "set"), f"{address}/set")
    with pytest.raises(DataError, match=r"prepared shards are copied whole; .*cache_gb"):
        FromPath(path=f"{address}/set", cache_gb=0.0, cache=str(tmp_path / "c")).open()


def test_image_folders_are_not_read_from_buckets():
    with pytest.raises(DataError, match=r"config\.data\.path='gs://b/x': only tars"):
        ImageFolder(path="gs://b/x").open()

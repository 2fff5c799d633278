"""Addresses against servers on loopback: objects, faults that pass, faults that do not."""

import logging
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest

from active_learning.config import ConfigError
from active_learning.storage import addresses, runs
from active_learning.storage.errors import MissingError, StorageError


def put(address: str, content: bytes) -> None:
    at, path = addresses.store_of(address)
    addresses.retried(address, obstore.put, at, path, content)


def get(address: str) -> bytes:
    at, path = addresses.store_of(address)
    return addresses.retried(address, lambda: bytes(obstore.get(at, path).bytes()))


def names(address: str) -> list[str]:
    at, path = addresses.store_of(address)
    listed = addresses.retried(address, lambda: obstore.list(at, path).collect())
    return [one["path"] for one in listed]


def test_kinds_of_addresses():
    kinds = {"gs://b/x": "gs", "S3://b": "s3", "az://c/x": "az", "https://h/x": "https"}
    for address, kind in kinds.items():
        assert addresses.kind_of(address) == kind
        assert addresses.is_bucket(address) == (kind != "https")
    for other in ("gs:/b/x", "gs://", "/gs://b/x", "hf://b/x", "runs/x", "C:/x", ""):
        assert addresses.kind_of(other) is None and not addresses.is_bucket(other)
        with pytest.raises(ConfigError, match="expected gs://"):
            addresses.store_of(other)


def test_what_is_put_is_listed_and_read(store):
    bucket, _ = store
    large = bytes(range(256)) * 60_000  # 15 MB: more than one part
    put(f"{bucket}/run/a b+ü%41.txt", b"small")
    put(f"{bucket}/run/inner/large", large)
    put(f"{bucket}/running", b"")
    assert get(f"{bucket}/run/a b+ü%41.txt") == b"small"
    assert get(f"{bucket}/run/inner/large") == large
    assert sorted(names(f"{bucket}/run")) == ["run/a b+ü%41.txt", "run/inner/large"]
    at, path = addresses.store_of(f"{bucket}/run/inner/large")
    assert bytes(obstore.get_range(at, path, start=255, length=3)) == b"\xff\x00\x01"


def test_a_tenth_of_failing_requests_changes_nothing(store):
    bucket, faults = store
    faults.fraction = 0.3
    for n in range(30):
        put(f"{bucket}/run/{n}", b"%d" % n)
    assert [get(f"{bucket}/run/{n}") for n in range(30)] == [b"%d" % n for n in range(30)]
    assert len(names(f"{bucket}/run")) == 30
    assert faults.injected > 10


def test_an_outage_longer_than_one_attempt_is_waited_for(store, monkeypatch, caplog):
    bucket, faults = store
    monkeypatch.setitem(addresses._RETRY, "max_retries", 1)
    caplog.set_level(logging.WARNING, "active_learning")
    addresses.check_login(bucket)
    faults.outage(1.5)
    began = time.monotonic()
    put(f"{bucket}/x", b"1")
    assert time.monotonic() - began > 1.4 and get(f"{bucket}/x") == b"1"
    assert len(caplog.messages) == 1, "told once, not at every try"
    assert caplog.messages[0].startswith(f"{bucket}/x: ")
    assert caplog.messages[0].endswith("trying again for up to 10 minutes")


def test_patience_ends_with_one_line_that_names_the_object(store, monkeypatch):
    bucket, faults = store
    monkeypatch.setitem(addresses._RETRY, "max_retries", 1)
    monkeypatch.setattr(addresses, "PATIENCE", 0.6)
    addresses.check_login(bucket)
    faults.outage(60)
    with pytest.raises(StorageError) as caught:
        put(f"{bucket}/run/x", b"1")
    assert str(caught.value).startswith(f"{bucket}/run/x: ")
    assert "gave up after 0.01 minutes" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_refused_for_good_is_not_tried_again(store):
    bucket, faults = store
    with pytest.raises(MissingError, match=rf"{bucket}/none: not there \(404 Not Found"):
        get(f"{bucket}/none")
    elsewhere = bucket.replace("bucket", "another")
    for operation in (names, lambda address: put(address, b"1")):
        what = "(NoSuchBucket|ContainerNotFound)"
        with pytest.raises(MissingError, match=rf"{elsewhere}/x: not there \(404.*{what}"):
            operation(f"{elsewhere}/x")
    faults.denied, before = True, faults.requests
    for operation in (get, names, lambda address: put(address, b"1")):
        with pytest.raises(ConfigError, match=rf"^{bucket}/x: 403 Forbidden, Injected$"):
            operation(f"{bucket}/x")
    assert faults.requests - before == 3


def test_missing_account_and_missing_credentials_are_told(monkeypatch):
    addresses._store.cache_clear()
    with pytest.raises(ConfigError, match="az://c: Generic MicrosoftAzure error: Account must be"):
        addresses.store_of("az://c/x")


@pytest.fixture
def silent_metadata(monkeypatch):
    """A metadata server that accepts connections and never answers; no other credentials."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    addresses._store.cache_clear()
    addresses._login.cache_clear()
    with socket.create_server(("127.0.0.1", 0)) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
        for name, value in {
            "HOME": "/nonexistent",
            "GCE_METADATA_HOST": host,
            "GCE_METADATA_IP": host,
            "AWS_REGION": "us-east-1",
            "AWS_METADATA_ENDPOINT": f"http://{host}",
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_MSI_ENDPOINT": f"http://{host}/token",
        }.items():
            monkeypatch.setenv(name, value)
        yield server
    addresses._store.cache_clear()
    addresses._login.cache_clear()


def test_without_credentials_a_bucket_is_refused_before_anything_is_made(
    silent_metadata, monkeypatch, tmp_path
):
    """With the waits of the real check, of all three kinds at once."""
    pytest.importorskip("obstore")
    monkeypatch.setattr(runs, "user_cache", lambda: tmp_path / "cache")

    def refusal(kind: str) -> tuple[str, float]:
        began = time.monotonic()
        with pytest.raises(ConfigError) as caught, runs.writable(f"{kind}://b/run"):
            pass
        return str(caught.value), time.monotonic() - began

    with ThreadPoolExecutor() as pool:
        refused = dict(zip(addresses.BUCKETS, pool.map(refusal, addresses.BUCKETS), strict=True))
    for kind, (line, seconds) in refused.items():
        assert re.fullmatch(rf"{kind}://b: no credentials \(.*\); see docs/running.md, .*", line)
        assert seconds < 9  # Google's client asks two addresses.
    silent_metadata.accept()[0].close()
    assert not (tmp_path / "cache").exists()


def test_one_check_of_credentials_serves_all_operations_on_a_bucket(store):
    bucket, faults = store
    addresses.check_login(bucket)
    before = faults.requests
    for n in range(3):
        put(f"{bucket}/{n}", b"1")
    assert (before, faults.requests) == (1, 4)

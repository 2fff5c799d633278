"""Object stores on loopback."""

import pytest

from active_learning.storage import addresses

pytest.importorskip("obstore")
pytest.importorskip("moto")


@pytest.fixture(params=["gs", "s3"])
def store(request, monkeypatch):
    """(address of an empty bucket, the faults of its server)."""
    from experiments.bucket_servers import buckets

    with buckets(request.param) as (environment, faults):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        addresses._store.cache_clear()
        yield f"{request.param}://bucket", faults
    addresses._store.cache_clear()

"""Eight emulated CPU devices, promotions as errors: what is silent elsewhere fails here.

Nearly all of the suite's time is compilation, often of the same program: compiled programs are kept
(in one folder for all workers; jax writes them in place, so a half-written one is compiled again,
with a warning that pyproject.toml ignores), LLVM optimises nothing, and fused loops are written by
the older emitter, which takes half as long.
"""

import os
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"
FLAGS = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
if version("jaxlib").startswith("0.10."):  # a flag that XLA does not know ends the process
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(CACHE)
)  # also for the processes that tests start
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(params=["gs", "s3", "az"])
def store(request, monkeypatch):
    """(address of an empty bucket on loopback, the faults of its server)."""
    pytest.importorskip("obstore")
    pytest.importorskip("moto")
    from active_learning.storage import addresses
    from experiments.bucket_servers import buckets

    with buckets(request.param) as (environment, faults):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(addresses, "_warned_at", {})  # Each test has servers of its own.
        addresses._store.cache_clear()
        addresses._login.cache_clear()
        yield f"{request.param}://bucket", faults
    addresses._store.cache_clear()
    addresses._login.cache_clear()

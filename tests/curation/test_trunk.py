"""Features of a published model: those of the model itself, whole again after an interruption."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from active_learning.config import ConfigError
from active_learning.curation import trunk as module
from active_learning.curation.features import compress
from active_learning.curation.sharing import Sharing
from active_learning.curation.trunk import Trunk
from active_learning.data.transforms import normalize
from active_learning.models import published
from active_learning.models.published import Published, resolve
from active_learning.models.weights import write_weights
from active_learning.models.weights.layout import About
from tests.models.weights import tiny

COUNT = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny ViT of 16 px in a file, and pictures of that size."""
    folder = tmp_path_factory.mktemp("weights")
    fmt, vit = tiny.CASES["hf_vit"]
    about = About((16, 16, 3), (0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
    write_weights(folder / "vit", vit, tiny.params_of(vit), about, fmt)
    pictures = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    return folder / "vit", pictures


def features(path, pictures, work, rows=None):
    rows = np.arange(COUNT) if rows is None else rows
    digests = np.array([f"{row:016x}" for row in rows])
    told = []
    result = Trunk.open(path).features(
        lambda row: pictures[row],
        rows,
        digests,
        Sharing(work, work),
        lambda share, what: told.append(share),
    )
    assert told[-1] == 1.0
    return result


def test_they_are_those_of_the_model(world, tmp_path, monkeypatch):
    path, pictures = world
    monkeypatch.setattr(module, "BATCH", 8)
    result = features(path, pictures, tmp_path)
    vit, init, _ = resolve(Published(path=str(path)), (16, 16, 3), 0)
    params = jax.tree.map(jnp.asarray, init(jax.random.key(0)))
    pixels = normalize(jnp.asarray(pictures), (0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
    wanted = compress(np.asarray(vit.apply({"params": params}, pixels)["features"]), 512)
    np.testing.assert_allclose(np.abs(result), np.abs(wanted), atol=2e-3)  # up to signs of axes
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, atol=1e-5)


def test_a_stopped_pass_goes_on_where_it_was(world, tmp_path, monkeypatch):
    path, pictures = world
    monkeypatch.setattr(module, "BLOCK", 10)
    monkeypatch.setattr(module, "BATCH", 8)
    read = []

    class Counted:
        def __getitem__(self, row):
            if len(read) >= 25:
                raise KeyboardInterrupt
            read.append(row)
            return pictures[row]

    hashed = []

    def content_hash(path, do=published.content_hash):
        hashed.append(path)
        return do(path)

    monkeypatch.setattr(published, "content_hash", content_hash)
    with pytest.raises(KeyboardInterrupt):
        features(path, Counted(), tmp_path)
    assert len(hashed) == 1  # for all blocks
    assert len(list(tmp_path.iterdir())) == 2
    read.clear()
    whole = features(path, Counted(), tmp_path)
    assert sorted(read) == list(range(20, 30))
    np.testing.assert_array_equal(whole, features(path, pictures, tmp_path / "anew"))


def test_what_is_no_model_gets_one_line(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"--weights\.path: "):
        Trunk.open(tmp_path)

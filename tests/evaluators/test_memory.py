"""Evaluations hold neither the images of a set nor its similarity matrix.

experiments/evaluation_memory.py measures the same at full size.
"""

import tracemalloc

import jax
import numpy as np

from active_learning.core.sharding import make_mesh
from active_learning.evaluators import retrieval
from experiments import evaluation_memory

MIB = 2**20


def peak_of(run) -> float:
    """Peak of what NumPy allocates during a call, in MiB."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


def test_images_are_not_held():
    part = evaluation_memory.Synthetic(600, 56)  # 5.4 MiB decoded
    mesh = make_mesh(jax.devices()[:1])
    evaluation_memory.accuracy(part, 20, mesh)  # compiles
    assert peak_of(lambda: evaluation_memory.accuracy(part, 20, mesh)) < 3.0


def test_similarities_are_not_held():
    rng = np.random.default_rng(0)
    images, texts = (rng.normal(size=(2000, 8)).astype(np.float32) for _ in range(2))
    owner = np.arange(2000)  # all similarities: 15 MiB
    peak = peak_of(lambda: retrieval.retrieval_metrics(images, texts, owner, block=1 << 17))
    assert peak < 3.0

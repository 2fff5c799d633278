"""Peak memory of evaluating large sets: images for accuracy, image-text pairs for retrieval.

    python -m experiments.evaluation_memory [--count 50000] [--size 224] [--batch_size 250]
        [--out DIR]

The sets are synthetic and made when read, so what is measured is what the evaluators hold. Models
are tiny but their embeddings have 512 dimensions. Prints one line for each evaluation and writes
evaluation_memory.json to --out.
"""

import argparse
import json
import resource
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from active_learning.core.sharding import batch_sharding, make_mesh
from active_learning.models import Text, TwoTower, ViT
from active_learning.tasks import Labels, Pairs
from active_learning.tasks.base import Task, View

GIB, CLASSES, CONTEXT, VOCAB, CAPTIONS = 2**30, 1000, 16, 1000, 1


@dataclass(frozen=True)
class Synthetic:
    """Images made from their row when they are read; labels, and captions of random tokens."""

    count: int
    size: int

    def __len__(self) -> int:
        return self.count

    @property
    def labels(self) -> np.ndarray:
        return (np.arange(self.count) % CLASSES).astype(np.int32)

    @property
    def caption_of(self) -> np.ndarray:
        return np.arange(self.count)

    @property
    def captions(self) -> SimpleNamespace:
        tokens = np.random.default_rng(0).integers(
            0, VOCAB, (self.count, CAPTIONS, CONTEXT), np.uint16
        )
        return SimpleNamespace(tokens=tokens, counts=np.full(self.count, CAPTIONS))

    def images(self, rows: np.ndarray) -> np.ndarray:
        """One noise image, brightened by the row's own color."""
        noise = np.random.default_rng(1).integers(0, 128, (self.size, self.size, 3), np.uint8)
        color = np.stack([rows % 125, rows // 125 % 125, rows // 15625 % 125], axis=1)
        return noise[None] + color[:, None, None].astype(np.uint8)


def evaluator_of(task: Task, module, part: Synthetic, batch_size: int, mesh: Mesh):
    """An evaluator of a module on the part's images, and fresh parameters."""
    view = View(
        (part.size, part.size, 3), (0.5,) * 3, (0.25,) * 3, num_classes=CLASSES, context=CONTEXT
    )
    module = task.specialize(module, view)
    model = task.model(module, view, optax.sgd(0.0))
    params = task.init(module, view, jax.random.key(0))
    return task.evaluator(model, view, batch_size, batch_sharding(mesh)), params


def accuracy(part: Synthetic, batch_size: int, mesh: Mesh) -> dict:
    """Evaluate a small classifier on all images."""
    module = ViT(width=32, depth=1, heads=1, patch=part.size // 7)
    evaluator, params = evaluator_of(Labels(), module, part, batch_size, mesh)
    metrics = evaluator(params, part)
    return {name: metrics[name] for name in ("accuracy", "loss")}


def retrieval(part: Synthetic, batch_size: int, mesh: Mesh) -> dict:
    """Evaluate small towers on all pairs."""
    image = ViT(width=32, depth=1, heads=1, patch=part.size // 7)
    text = Text(vocab=VOCAB, context=CONTEXT, width=32, depth=1, heads=1)
    module = TwoTower(image, text, image_out=512, text_out=512)
    evaluator, params = evaluator_of(Pairs(), module, part, batch_size, mesh)
    metrics = evaluator(params, part)
    return {name: metrics[name] for name in ("recall", "i2t_mean_rank", "t2i_mean_rank")}


def measured(evaluate, part: Synthetic) -> dict:
    """Results of an evaluation, its seconds, and the process's peak memory so far."""
    began = time.monotonic()
    metrics = evaluate(part)
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return metrics | {"seconds": round(seconds, 1), "peak_gib": round(peak / GIB, 3)}


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=250)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    part, mesh = Synthetic(args.count, args.size), make_mesh(jax.devices()[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    out: dict = {"count": args.count, "size": args.size, "batch_size": args.batch_size}
    out["before_gib"] = round(before, 3)
    out["decoded_gib"] = round(args.count * args.size**2 * 3 / GIB, 3)
    out["similarities_gib"] = round(args.count**2 * CAPTIONS * 4 / GIB, 3)
    for name, evaluate in (("accuracy", accuracy), ("retrieval", retrieval)):
        bound = partial(evaluate, batch_size=args.batch_size, mesh=mesh)
        out[name] = measured(bound, part)
        print(f"{name} on {args.count:,}: {out[name]}", flush=True)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "evaluation_memory.json").write_text(json.dumps(out, indent=1) + "\n")
    return out


if __name__ == "__main__":
    main()

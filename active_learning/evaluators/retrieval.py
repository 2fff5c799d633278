"""Retrieval of captions by images and of images by captions."""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer, PyTree

from active_learning.core.recipe import Model
from active_learning.evaluators.embed import Embedder

AT = (1, 5, 10)
BLOCK = 1 << 24  # similarities held at a time: 64 MiB as float32


class Retrieval:
    """Ranks all captions of a set for each image, and all images for each caption.

    Images are read batch by batch; only embeddings, captions and one block of similarities are
    held. Arguments as of `Embedder`.
    """

    def __init__(self, model: Model, batch_size: int, placement=None):
        self.embed = Embedder(model, batch_size, placement)

    def __call__(self, params: PyTree, part: Any, rows: np.ndarray | None = None) -> dict:
        """Evaluate on rows of a part of the split; see `retrieval_metrics`.

        Args:
          params: Parameters of the model.
          part: Has a length, `images(rows)`, `captions` and `caption_of`.
          rows: Rows to evaluate on; None for all.
        """
        rows = np.arange(len(part)) if rows is None else rows
        tokens, owner = captions_of(part, rows)
        images = self.embed.images(params, part, rows)
        return retrieval_metrics(images, self.embed.texts(params, tokens), owner)


def captions_of(
    part, rows: np.ndarray
) -> tuple[Integer[np.ndarray, "m L"], Integer[np.ndarray, "m"]]:
    """Token ids of all captions of these rows, and the place in `rows` of each one's image."""
    given, captions = part.caption_of[rows], part.captions
    return captions.of(given), np.repeat(np.arange(len(rows)), captions.counts[given])


def retrieval_metrics(
    images: Float[np.ndarray, "n D"],
    texts: Float[np.ndarray, "m D"],
    owner: Integer[np.ndarray, "m"],
    block: int = BLOCK,
) -> dict:
    """Retrieval metrics of embeddings, from exact ranks.

    Args:
      images: Image embeddings.
      texts: Text embeddings.
      owner: The image that each text belongs to; every image has at least one text.
      block: Similarities held at a time.

    Returns:
      i2t_r1, i2t_r5, i2t_r10 (captions by images) and t2i_r1 ... (images by captions): recall;
      i2t_mean_rank, i2t_median_rank, t2i_...: ranks, 1 is first; recall: mean of the six recalls;
      log_rank: mean of log(1 + rank) both ways, in nats; per_image: log(1 + rank) of each image,
      the mean of its own and of its captions'.
    """
    ranks = {
        "i2t": _blockwise(images, texts, block, lambda s, at: image_ranks(s, owner, at.start)),
        "t2i": _blockwise(texts, images, block, lambda s, at: text_ranks(s, owner[at])),
    }
    out = {}
    for way, rank in ranks.items():
        out |= {f"{way}_r{k}": float(np.mean(rank <= k)) for k in AT}
        out |= {
            f"{way}_mean_rank": float(rank.mean()),
            f"{way}_median_rank": float(np.median(rank)),
        }
    out["recall"] = float(np.mean([out[f"{way}_r{k}"] for way in ranks for k in AT]))
    of_images, of_texts = np.log1p(ranks["i2t"]), np.log1p(ranks["t2i"])
    of_captions = np.bincount(owner, of_texts) / np.bincount(owner)
    out["log_rank"] = float((of_images.mean() + of_texts.mean()) / 2)
    return out | {"per_image": np.round((of_images + of_captions) / 2, 4).tolist()}


def clip_benchmark_names(metrics: dict) -> dict[str, float]:
    """Recall under the names that clip_benchmark uses: image_retrieval_recall@5 and so on."""
    names = {"image_retrieval_recall": "t2i", "text_retrieval_recall": "i2t"}
    return {f"{name}@{k}": metrics[f"{way}_r{k}"] for name, way in names.items() for k in AT}


def _blockwise(queries: np.ndarray, keys: np.ndarray, block: int, ranks) -> np.ndarray:
    """Ranks of all queries from blocks of rows of the similarity matrix."""
    rows = max(1, block // len(keys))
    spans = [slice(start, start + rows) for start in range(0, len(queries), rows)]
    return np.concatenate([ranks(queries[at] @ keys.T, at) for at in spans])


def text_ranks(
    scores: Float[np.ndarray, "m n"], owner: Integer[np.ndarray, "m"]
) -> Float[np.ndarray, "m"]:
    """Rank of each text's own image among all images.

    Half of those with equal scores count as before it.
    """
    own = scores[np.arange(len(owner)), owner][:, None]
    return 1 + (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2


def image_ranks(
    scores: Float[np.ndarray, "n m"], owner: Integer[np.ndarray, "m"], first: int = 0
) -> Float[np.ndarray, "n"]:
    """Rank of each image's best own text among it and all texts of other images.

    Half of those with equal scores count as before it. Row 0 is image number `first`.
    """
    own = np.flatnonzero((owner >= first) & (owner < first + len(scores)))
    image = owner[own] - first
    best = np.full(len(scores), -np.inf, scores.dtype)
    np.maximum.at(best, image, scores[image, own])
    # No text of its own is above the best one, but some may equal it: these are no rivals.
    alike = np.bincount(image, scores[image, own] == best[image], minlength=len(scores))
    equal = (scores == best[:, None]).sum(axis=1) - alike
    return 1 + (scores > best[:, None]).sum(axis=1) + equal / 2

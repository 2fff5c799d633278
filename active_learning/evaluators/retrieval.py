"""Retrieval of captions by images and of images by captions."""

import numpy as np
from jaxtyping import Float, Int, PyTree

from active_learning.core.recipe import Model
from active_learning.evaluators.embed import Embedder

AT = (1, 5, 10)


class Retrieval:
    """Ranks every caption of a set for each image, and every image for each caption: `(params, examples) -> figures`."""

    def __init__(self, model: Model, batch_size: int, placement=None):
        self.embed = Embedder(model, batch_size, placement)

    def examples(self, part, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Images of these rows of a part, all captions that go with them, and for each caption the place of its image."""
        whose = part.caption_of[rows]
        there = (
            np.arange(part.captions.tokens.shape[1])[None] < part.captions.counts[whose][:, None]
        )
        owner, place = np.nonzero(there)
        return {
            "image": part.images(rows),
            "tokens": part.captions.tokens[whose[owner], place],
            "owner": owner,
        }

    def __call__(self, params: PyTree, examples: dict[str, np.ndarray]) -> dict:
        """Recall at 1, 5 and 10, mean and median rank (1: first) each way, `recall` (mean of the six), `log_rank` (mean of log(1 + rank), nats,
        both ways), and log(1 + rank) of each image (`per_image`: its caption's mean and its own)."""
        images = self.embed.images(params, examples["image"])
        texts = self.embed.texts(params, examples["tokens"])
        return figures(images, texts, examples["owner"])


def figures(
    images: Float[np.ndarray, "n D"], texts: Float[np.ndarray, "m D"], owner: Int[np.ndarray, "m"]
) -> dict:
    """The figures of embeddings whose text j belongs to image owner[j]; each image has at least one text."""
    ranks = {
        "i2t": image_ranks(images @ texts.T, owner),
        "t2i": text_ranks(texts @ images.T, owner),
    }
    out = {}
    for way, rank in ranks.items():
        out |= {f"{way}_r{k}": float(np.mean(rank <= k)) for k in AT}
        out |= {
            f"{way}_mean_rank": float(rank.mean()),
            f"{way}_median_rank": float(np.median(rank)),
        }
    out["recall"] = float(np.mean([out[f"{way}_r{k}"] for way in ranks for k in AT]))
    mine = np.log1p(ranks["i2t"])
    theirs = np.bincount(owner, np.log1p(ranks["t2i"])) / np.bincount(owner)
    out["log_rank"] = float((mine.mean() + np.log1p(ranks["t2i"]).mean()) / 2)
    return out | {"per_image": np.round((mine + theirs) / 2, 4).tolist()}


def text_ranks(
    scores: Float[np.ndarray, "m n"], owner: Int[np.ndarray, "m"]
) -> Float[np.ndarray, "m"]:
    """Rank of each text's own image among all images; of those that score alike, half count as before it."""
    own = scores[np.arange(len(owner)), owner][:, None]
    return 1 + (scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2


def image_ranks(
    scores: Float[np.ndarray, "n m"], owner: Int[np.ndarray, "m"]
) -> Float[np.ndarray, "n"]:
    """Rank of each image's best own text among it and all texts of others; of those that score alike, half count as before it."""
    own = owner[None] == np.arange(len(scores))[:, None]
    best = np.where(own, scores, -np.inf).max(axis=1)[:, None]
    return 1 + ((scores > best) & ~own).sum(axis=1) + ((scores == best) & ~own).sum(axis=1) / 2

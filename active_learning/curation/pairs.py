"""Images with captions: how well each caption fits its picture, judged by towers fitted without it.

The image tower is the kernel map of the frozen features with a ridge regression onto the text
embeddings, cross-fitted; the text tower is the principal components of weighted word counts,
which need no fitting to pictures. Similarity is the cosine of the two. Generic captions are
similar to many pictures: the normalized form (s-CLIPLoss, Wang et al. 2024) takes off how well a
picture fits the other captions, and a caption the other pictures.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float, Int64

from active_learning.curation import kernel
from active_learning.curation.crossfit import CrossFit, Fit, LazyMap, Tick, piece_of
from active_learning.curation.folds import assign_folds
from active_learning.storage.pieces import Pieces

WORDS, DIMENSIONS = 2000, 128
TEMPERATURE = 0.1
_WORD = re.compile(r"\w+")


def text_embeddings(captions: Sequence[Sequence[str]]) -> Float[np.ndarray, "n d"]:
    """Unit vectors of the captions of each example taken together; zero where no word is known.

    Words that only one example uses say nothing about another and are left out.
    """
    words = [Counter(w for one in texts for w in _WORD.findall(one.lower())) for texts in captions]
    documents = Counter(word for counts in words for word in counts)
    known = sorted((w for w, c in documents.items() if c > 1), key=lambda w: (-documents[w], w))
    place = {word: number for number, word in enumerate(known[:WORDS])}
    table = np.zeros((len(words), max(1, len(place))), np.float32)
    for row, counts in enumerate(words):
        for word, count in counts.items():
            if word in place:
                rarity = np.log(len(words) / documents[word])
                table[row, place[word]] = (1.0 + np.log(count)) * rarity
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
    table -= table.mean(axis=0)
    _, vectors = np.linalg.eigh(table.T @ table)
    embedded = table @ vectors[:, ::-1][:, :DIMENSIONS]
    return embedded / np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-9)


def fits(
    features: Float[np.ndarray, "n d"],
    texts: Float[np.ndarray, "n e"],
    groups: Int64[np.ndarray, "n"],
    settings: CrossFit,
) -> tuple[dict[str, Fit], Int64[np.ndarray, "n"]]:
    """What makes the piece of each fold, by its name, and the fold of every example."""
    fold = assign_folds(np.zeros(len(texts), np.int64), groups, settings.folds, 0, settings.seed)
    mapped = LazyMap(features, settings)

    def fit(part: int) -> dict[str, np.ndarray]:
        held, ridge = fold == part, settings.kernel.ridge
        return {"outputs": kernel.held_out_regression(mapped.get(), texts, held, ridge)}

    return {f"pairs-f{part}": partial(fit, part) for part in range(settings.folds)}, fold


def image_embeddings(
    features: Float[np.ndarray, "n d"],
    texts: Float[np.ndarray, "n e"],
    groups: Int64[np.ndarray, "n"],
    settings: CrossFit,
    pieces: Pieces,
    tick: Tick | None = None,
) -> tuple[Float[np.ndarray, "n e"], Int64[np.ndarray, "n"]]:
    """Text embeddings predicted from the pictures by models that saw neither picture nor caption.

    Returns:
      Unit vectors, and the fold of every example.
    """
    made, fold = fits(features, texts, groups, settings)
    out = np.zeros_like(texts)
    for part, (name, fit) in enumerate(made.items()):
        out[fold == part] = piece_of(pieces, name, fit)["outputs"]
        if tick is not None:
            tick((part + 1) / settings.folds, f"captions, fold {part + 1}")
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9), fold


def similarities(
    images: Float[np.ndarray, "n e"], texts: Float[np.ndarray, "n e"], block: int = 1024
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Cosine of each pair, and the same less the mean of both log-mean-exponentials.

    Args:
      images: Unit vectors.
      texts: Unit vectors; row i of both is a pair.
      block: Rows at a time; memory is block x n floats.

    Returns:
      similarity, normalized: higher = fits better.
    """
    own = (images * texts).sum(axis=1)
    n = len(own)
    rows, columns = np.zeros(n), np.zeros(n)
    for start in range(0, n, block):
        part = np.exp((images[start : start + block] @ texts.T).astype(np.float64) / TEMPERATURE)
        rows[start : start + block] = part.sum(axis=1)
        columns += part.sum(axis=0)
    return own, own - TEMPERATURE / 2 * (np.log(rows / n) + np.log(columns / n))

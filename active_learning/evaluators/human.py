"""Agreement with human judgements of captions: Flickr8k's expert and crowd files."""

import gzip
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.stats import kendalltau

from active_learning.data.sources.source import DataError

# Image, the image whose caption is judged, number of that caption, mean score.
Judgement = tuple[str, str, int, float]


def read_judgements(path: Path) -> list[Judgement]:
    """Read lines of `image TAB caption#k TAB ...`, gzipped or not.

    Three expert scores (1 to 4) follow, of which the mean is taken, or the fraction of the crowd
    that said yes.

    Raises:
      DataError: Naming file and line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file of judgements")
    out: list[Judgement] = []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for number, line in enumerate(lines, 1):
            cells = line.split()
            try:
                image, (owner, _, place) = cells[0], cells[1].partition("#")
                scores = [float(v) for v in cells[2:5]]
                expert = (
                    all(v == int(v) and 1 <= v <= 4 for v in scores)
                    and len(cells) == 5
                    and "." not in cells[2]
                )
                out.append(
                    (image, owner, int(place), float(np.mean(scores)) if expert else scores[0])
                )
            except (ValueError, IndexError) as error:
                raise DataError(
                    f"{path}: line {number} is no judgement: {line.strip()[:60]!r}"
                ) from error
    return out


def agreement(
    similarity: Float[np.ndarray, "n"], judged: Float[np.ndarray, "n"]
) -> dict[str, float]:
    """Kendall's tau-b and tau-c of a model's similarities and people's scores.

    Returns:
      tau_b, tau_c, and the number of judgements.
    """
    tau_b, tau_c = (np.asarray(kendalltau(similarity, judged, variant=kind)) for kind in "bc")
    return {
        "tau_b": float(tau_b[0]),
        "tau_c": float(tau_c[0]),
        "judgements": float(len(judged)),
    }

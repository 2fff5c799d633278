"""Embeddings kept in a file, so that classifiers on them can be fitted without the model."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from active_learning.data.sources.source import DataError


def stored_features(
    file: Path | None,
    key: str,
    labels: Int[np.ndarray, "n"],
    compute: Callable[[], Float[np.ndarray, "n D"]],
) -> Float[np.ndarray, "n D"]:
    """Read features from a file, or compute and write them where there is none.

    Args:
      file: An .npz with features, labels and the key; None: nothing is kept.
      key: What the features depend on, such as the model's hash and the set.
      labels: Class number of each row.
      compute: Makes the features.

    Raises:
      DataError: Naming a file that is no .npz of features, or that holds those of another model.
    """
    if file is None:
        return compute()
    if file.exists():
        try:
            with np.load(file, allow_pickle=False) as stored:
                features, theirs, old = stored["features"], stored["labels"], str(stored["key"])
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{file}: not a file of features ({error}); delete it") from error
        if old != key or not np.array_equal(theirs, labels):
            raise DataError(
                f"{file}: features of {old}, here they are of {key}; "
                "delete it or name another folder"
            )
        return features
    features = compute()
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    with partial.open("wb") as out:
        np.savez(out, features=features, labels=labels, key=np.array(key))
    partial.replace(file)
    return features

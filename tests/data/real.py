"""The real data sets, for the tests that need them: skipped with a reason where they are not,
unless they are required.
"""

import os
from pathlib import Path

import pytest

from active_learning.data.sources.arrays import ENVIRONMENT, Arrays


def real(name: str, **fields) -> Arrays:
    """The data set `name` under $ACTIVE_LEARNING_DATA.

    Without it the test is skipped; with ACTIVE_LEARNING_REQUIRE_DATA=1 it fails.
    """
    root = os.environ.get(ENVIRONMENT, "")
    if root and (Path(root).expanduser() / name / "train.npz").is_file():
        return Arrays(name=name, **fields)
    reason = f"{name}/train.npz is not under ${ENVIRONMENT}={root!r}"
    if os.environ.get("ACTIVE_LEARNING_REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)

"""What feeds a run: candidates, another run's choices, or what a policy remembers."""

from dataclasses import replace
from functools import partial

import numpy as np

from active_learning.core import infobatch
from active_learning.core.recipe import Recipe
from active_learning.data.loader import Candidates, Stream
from active_learning.data.parts import Data, Part
from active_learning.data.pruned import Pruned
from active_learning.references.replay import Choices, Replay
from active_learning.settings import Config


def stream_of(config: Config, train: Part, choices: Choices | None, total: int) -> Stream:
    """The stream of a run of `total` updates on a part."""
    policy = config.select.policy
    if policy.remember is not None:
        return Pruned(train, config.seed, policy.prune_fraction, config.batch_size, total)
    return Candidates(train, config.seed) if choices is None else Replay(train, choices)


def with_memory(data: Data, recipe: Recipe) -> tuple[Data, Recipe]:
    """For a policy that remembers losses: rows in every batch, and room for each example.

    Others get both back as they are.
    """
    if recipe.policy.remember is None:
        return data, recipe
    rows = np.arange(len(data.train), dtype=np.int32)
    policy = replace(recipe.policy, init=partial(infobatch.init, len(rows)))
    data = replace(data, train=data.train.with_column("row", rows))
    return data, replace(recipe, policy=policy)

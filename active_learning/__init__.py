"""Train for less by choosing what to train on.

ClassAct / ActiveCLIP (arXiv 2312.05328) as pure functions in `core`, and a training loop around
them.
"""

from active_learning.core import losses, policies, scores, select
from active_learning.core.homes import home_first
from active_learning.core.policies import Policy
from active_learning.core.recipe import Chosen, Model, ModelState, Recipe, TrainState, init_state
from active_learning.core.scores import ScoreInputs
from active_learning.core.select import Selection
from active_learning.core.sharding import make_mesh, take_sharded
from active_learning.core.step import (
    select_step,
    train_on_selection,
    train_step,
    uniform_step,
    update_step,
)

__all__ = [
    "Chosen",
    "Model",
    "ModelState",
    "Policy",
    "Recipe",
    "ScoreInputs",
    "Selection",
    "TrainState",
    "home_first",
    "init_state",
    "losses",
    "make_mesh",
    "policies",
    "scores",
    "select",
    "select_step",
    "take_sharded",
    "train_on_selection",
    "train_step",
    "uniform_step",
    "update_step",
]

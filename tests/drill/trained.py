"""A config for own data whose reference is trained on a part of its own: --config=FILE:NAME."""

import importlib

from active_learning.config import section
from active_learning.references import Trained
from active_learning.settings import Split


def get_config(name: str):
    """The config NAME, with that reference."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.split = section(Split, parts={"pool": 0.7, "reference": 0.2, "gate": 0.1})
    config.reference = section(Trained, total="6 steps", batch_size=16)
    return config

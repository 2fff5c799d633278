"""What is learnt: a task is one config value; a new objective is a new file with a new value."""

from active_learning.tasks.base import Task, View
from active_learning.tasks.captions import Pairs
from active_learning.tasks.labels import Labels

__all__ = ["Labels", "Pairs", "Task", "View"]

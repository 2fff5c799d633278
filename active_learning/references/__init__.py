"""Where a reference comes from, one class for each way; `config.reference.kind` names one."""

from active_learning.references.base import Obtained, Reference
from active_learning.references.cotrained import CoTrained
from active_learning.references.crossfitted import CrossFitted
from active_learning.references.embedded import Embedded
from active_learning.references.kernel import Kernel
from active_learning.references.loaded import Loaded
from active_learning.references.online import CopyOfOnline
from active_learning.references.stored import Stored
from active_learning.references.trained import Trained
from active_learning.references.zero_shot import ZeroShot

__all__ = [
    "CoTrained",
    "CopyOfOnline",
    "CrossFitted",
    "Embedded",
    "Kernel",
    "Loaded",
    "Obtained",
    "Reference",
    "Stored",
    "Trained",
    "ZeroShot",
]

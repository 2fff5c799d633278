"""The optimizer as a section of a config."""

from dataclasses import dataclass

import optax

from active_learning.config import Section, setting
from active_learning.core.optim import adamw


@dataclass(frozen=True)
class Optim(Section):
    """AdamW with linear warm-up and cosine decay to 0."""

    # Peak learning rate, reached after the warm-up.
    learning_rate: float = setting(1e-3, at_least=0.0)
    # Duration of the linear warm-up.
    warmup: str = "5 %"
    weight_decay: float = setting(1e-4, at_least=0.0)
    b2: float = setting(0.99, at_least=0.0, below=1.0)
    # Largest global gradient norm; 0: no clipping.
    clip: float = setting(1.0, at_least=0.0)

    def make(self, warmup: int, total: int) -> optax.GradientTransformation:
        """The optimizer of a run of `total` updates, `warmup` of them with a rising rate."""
        return adamw(self.learning_rate, warmup, total, self.weight_decay, self.b2, self.clip)

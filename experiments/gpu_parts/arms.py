"""The arms of the regime, by priority, and how much of everything they get."""

from dataclasses import dataclass
from typing import Any

from active_learning.models import MLP, ResNet

# A temperature at which sampling is uniform: the scores run, and decide nothing.
FLAT = 1e9


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    learner: Any
    scorer: Any
    batch_size: int
    # Updates between two fetches of metrics, and examples in a chunk of evaluation.
    dispatched: int
    chunk: int
    # Uniform's full budget, where time allows: at most so many updates and passes over the data.
    # (Longer runs learn the wrong labels by heart.)
    updates: int
    passes: int
    pilot_updates: int
    rates: tuple[float, ...]
    # Updates of each reference over those of uniform's full budget.
    reference: float
    # Examples held out of the training set to choose the rate on.
    tune: int
    dtype: str
    ema_half_life: float
    evaluations: int
    ratio: int = 4
    temperature: float = 0.5


SIZES = {
    "gpu": Size(
        ResNet(),
        ResNet(width=32, stages=(1, 1, 1)),
        batch_size=256,
        dispatched=50,
        chunk=1000,
        updates=6000,
        passes=30,
        pilot_updates=600,
        rates=(0.05, 0.1, 0.2),
        reference=0.25,
        tune=2000,
        dtype="bfloat16",
        ema_half_life=200.0,
        evaluations=20,
    ),
    "smoke": Size(
        MLP(width=8, depth=1),
        MLP(width=4, depth=1),
        batch_size=8,
        dispatched=2,
        chunk=50,
        updates=8,
        passes=30,
        pilot_updates=2,
        rates=(0.05,),
        reference=0.5,
        tune=40,
        dtype="float32",
        ema_half_life=4.0,
        evaluations=2,
    ),
}


@dataclass(frozen=True)
class Arm:
    """One run: a budget (of uniform's full one), and what it trains on."""

    name: str
    budget: float
    # Fraction of the run with selection.
    window: float = 0.0
    # Factor of the stored reference losses in the score: 0 leaves the online model's loss alone.
    reference: float = 1.0
    temperature: float | None = None
    filtered: bool = False

    @property
    def reads_reference(self) -> bool:
        return self.filtered or (self.window > 0 and self.reference > 0)


# By priority: what does not fit any more is skipped.
ARMS = (
    Arm("uniform", 1.0),
    Arm("recipe, window 25 %", 0.5, window=0.25),
    Arm("filter first", 0.5, filtered=True),
    Arm("uniform", 0.5),
    Arm("recipe, window 60 %", 0.5, window=0.6),
    Arm("recipe, window 25 %", 0.33, window=0.25),
    Arm("control: scores of 0", 0.5, window=0.25, temperature=FLAT),
    Arm("hard", 0.5, window=0.25, reference=0.0),
    Arm("filter first", 0.33, filtered=True),
    Arm("recipe, window 25 %", 1.0, window=0.25),
)
# Uniform's full budget as a fraction of the time that is left when its length is decided.
UNIFORM_FRACTION = 0.22

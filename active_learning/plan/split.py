"""How many chips should score while the others train (`select.actors`), by arithmetic."""

from collections.abc import Iterator
from dataclasses import dataclass

from active_learning.plan.cost_model import CostModel


@dataclass(frozen=True)
class Split:
    """A division of chips between scoring and training."""

    actors: int
    chips: int
    # Time of an update over that of a uniform one on all chips, at equal FLOP/s.
    time: float


def best_split(model: CostModel, chips: int) -> Split | None:
    """The fastest division that the batch allows; None where there is none.

    The slower of the two halves decides: scoring on `actors` chips, or training on the others.
    """
    scoring, training, b = model.scoring_update, model.training_update, model.batch_size
    times = {
        actors: max(scoring / actors, training / (chips - actors))
        for actors in range(1, chips)
        if b % actors == 0 and b % (chips - actors) == 0
    }
    if not times:
        return None
    actors = min(times, key=lambda k: (times[k], k))
    return Split(actors, chips, times[actors] * chips / model.uniform_update)


def split_lines(model: CostModel, chips: int) -> Iterator[str]:
    """The best division, beside doing both on all chips.

    Args:
      model: What an update costs.
      chips: Of the slice; 0: not known, so that only the fraction is printed.
    """
    if not model.policy.needs or model.policy.reuse_forward or model.cotrained:
        return
    scoring, training = model.scoring_update, model.training_update
    yield ""
    yield (
        f"actors: scoring is {scoring / (scoring + training):.1%} of an update's FLOPs, so about "
        "that fraction of the chips would score while the others train (select.actors, "
        "select.schedule='ahead')"
    )
    if chips < 2:
        return
    split = best_split(model, chips)
    if split is None:
        yield f"  no split of {chips} chips divides config.batch_size={model.batch_size}"
        return
    together = (scoring + training) / model.uniform_update
    yield (
        f"  best split of {chips} chips: select.actors={split.actors}, {chips - split.actors} "
        f"train; an update then takes {split.time:.2f}x a uniform one on all chips "
        f"({together:.2f}x where all chips do both in turn)"
    )

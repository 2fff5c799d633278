"""Whether selection can pay and what would help, from the costs and a reference's diagnostics."""

from collections.abc import Iterator

from active_learning.plan.cost_model import CostModel
from active_learning.plan.diagnostics import ReferenceDiagnostics

# Learner's over scorer's forward FLOPs below which scoring uses up most of what is saved.
MIN_COST_RATIO = 15


def advice_lines(
    model: CostModel, reference: ReferenceDiagnostics | None, classes: int
) -> Iterator[str]:
    """What has to be saved for selection to pay, and which settings to change.

    Args:
      model: What the run costs.
      reference: Diagnostics of an existing reference; None: there is none to look at.
      classes: Number of classes.
    """
    yield ""
    if not model.policy.needs:
        yield "advice: uniform training; there is nothing to break even"
        return
    yield from _cost_advice(model)
    if reference is None:
        yield (
            "  whether selection breaks even depends on the data; "
            "pass --reference=RUN to evaluate an existing reference"
        )
        return
    yield from _reference_advice(model, reference, classes)


def _cost_advice(model: CostModel) -> Iterator[str]:
    now = model.break_even(model.ratio, "none")
    cheaper = model.learner.forward / model.scorer.forward
    yield (
        "advice: selection pays if it reaches uniform's final accuracy in less than "
        f"{now:.0%} of uniform's updates"
    )
    if "learner" in model.policy.needs:
        yield (
            "  the learner scores, so a smaller scorer cannot make this cheaper; "
            "a policy with an online model can"
        )
    elif cheaper < MIN_COST_RATIO:
        yield (
            f"  the scorer is only {cheaper:.0f}x cheaper than the learner: below "
            f"{MIN_COST_RATIO}x scoring uses up most of the savings; use a smaller scorer"
        )
    yield from _large_reference(model)
    if now < 0.5:
        yield (
            "  more than half of the updates must be saved: lower select.ratio, end selection "
            "earlier (select.until) or reuse a reference (levels above)"
        )


def _large_reference(model: CostModel) -> Iterator[str]:
    """What published weights at their own size cost, and what to do where they cannot pay."""
    if model.reference is None or not model.references:
        return
    cheaper = model.learner.forward / model.reference.forward
    stored = model.break_even(model.ratio, "foundation dataset")
    yield (
        f"  the reference is {cheaper:.1f}x cheaper than the learner and runs on every candidate: "
        f"break-even {model.break_even(model.ratio, 'pretrained'):.0%} of uniform's updates"
    )
    if cheaper < MIN_COST_RATIO:
        yield (
            "  it can hardly pay so: store its embeddings of each image and caption once with "
            "config.reference.kind='embedded'; the break-even is then "
            f"{stored:.0%}, after one pass over the data"
        )


def _reference_advice(
    model: CostModel, reference: ReferenceDiagnostics, classes: int
) -> Iterator[str]:
    if reference.agreement < 2 / classes:
        yield (
            "  the reference is hardly better than chance on these labels, so its scores are "
            "noise; train it longer or on better data"
        )
    if reference.ess_fraction > 0.9:
        yield "  sampling is nearly uniform: lower select.temperature, or set select.standardize"
    if reference.ess_fraction < 1 / model.ratio:
        yield (
            "  the effective sample is smaller than the sub-batch, so selection is nearly top-k; "
            "raise select.temperature"
        )
    pool, selected = reference.corrupted_pool, reference.corrupted_selected
    if pool is not None and selected is not None and pool > 0.02:
        yield (
            f"  the first selection {'avoids' if selected < 0.9 * pool else 'does not avoid'} "
            f"corrupted labels ({selected:.0%} of the selected, {pool:.0%} of the pool)"
        )
    yield (
        "  the gain lasts while the reference beats the online model; "
        "end selection there with select.until"
    )

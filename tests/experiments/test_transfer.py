"""The table of references from elsewhere."""

from pathlib import Path

from active_learning.config import config_hash
from experiments import transfer


def test_differences_are_to_uniform_on_the_same_pool():
    def row(pool, reference, accuracy, flops, own=None, chosen=None):
        return {
            "pool": pool,
            "reference": reference,
            "seeds": [1, 2],
            "accuracy": accuracy,
            "reference_accuracy": own,
            "corrupted_selected": chosen,
            "total_flops": flops,
        }

    rows = [
        row("clean", "uniform", [0.5, 0.6], 2.0),
        row("clean", "same data", [0.6, 0.7], 3.0, 0.55, 0.0),
        row("noisy", "uniform", [0.4, 0.4], 2.0),
        row("noisy", "other data", [0.42, 0.44], 2.2, 0.3, 0.257),
    ]
    lines = transfer.table({"rows": rows}).splitlines()[2:]
    assert lines == [
        "| clean | uniform | 2 | 55.0 ± 7.1 | - | - | - | 1.00 |",
        "| clean | same data | 2 | 65.0 ± 7.1 | +10.0 ± 0.0 | 55.0 | 0 | 1.50 |",
        "| noisy | uniform | 2 | 40.0 ± 0.0 | - | - | - | 1.00 |",
        "| noisy | other data | 2 | 43.0 ± 1.4 | +3.0 ± 1.0 | 30.0 | 26 | 1.10 |",
    ]


def test_arms_are_the_references_on_both_pools():
    scale = transfer.SCALES["desk"]
    arms = transfer.arms(scale, Path("data"), Path("weights"), Path("features"))
    assert len({config_hash(arm.config) for arm in arms}) == len(arms) == 8
    clean = {arm.config.split.labels["pool"] for arm in arms if "clean" in arm.config.name}
    assert clean == {"label"}
    curated = next(arm.config for arm in arms if "curated" in arm.config.name)
    (own,) = curated.reference.own_runs(curated).values()
    assert own.split.train_on == ("curated", "rest")

import jax
import numpy as np

from active_learning.references import Kernel
from active_learning.references.kernel import SIZES, size_flops
from active_learning.train import overview, run_folder
from active_learning.train.build import build
from tests.world import config, write_arrays


def test_the_lines_before_a_run_state_data_models_and_cost(tmp_path):
    experiment = build(config(write_arrays(tmp_path)))
    text = "\n".join(overview.lines(experiment))
    params = experiment.init_learner(jax.random.key(0))
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters" in text
    forward = experiment.learner.cost(experiment.view.image_shape).forward
    assert f"{forward:.3g} FLOPs" in text
    assert f"trained on pool ({len(experiment.data.train):,})" in text
    ratio = sum(experiment.costs.values()) / sum(experiment.uniform_costs.values())
    assert ratio > 1 and f"{ratio:.2f}x the FLOPs of a uniform update" in text
    # 20 updates of 16 examples by the scorer, 12 of the learner's own.
    scoring = experiment.scorer.cost(experiment.scorer_view.image_shape).train
    share = 20 * 16 * scoring / (12 * sum(experiment.uniform_costs.values()))
    assert f"trained already: 20 updates, {share:.0%} of the FLOPs of uniform training" in text


def test_the_price_of_a_kernel_reference_is_stated_before_it_is_paid(tmp_path):
    experiment = build(config(write_arrays(tmp_path), reference=Kernel(size="tiny")))
    uniform = 12 * sum(experiment.uniform_costs.values())
    share = size_flops(SIZES["tiny"], (8, 8, 3), 400, 4) / uniform
    line = f"reference: kernel (tiny), {share:.1%} of the FLOPs of uniform training"
    assert line in list(overview.lines(experiment))


def test_the_class_counts_of_the_training_data_are_printed_and_stored(tmp_path):
    experiment = build(config(write_arrays(tmp_path)))
    counts = np.bincount(np.load(tmp_path / "train.npz")["label"]).tolist()
    expected = {str(k): count for k, count in enumerate(counts)}
    assert run_folder.about(experiment)["class_counts"] == expected
    assert f"4 classes: 0 = 0 ({counts[0]})" in "\n".join(overview.lines(experiment))

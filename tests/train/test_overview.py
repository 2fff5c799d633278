import jax

from active_learning.train import overview
from active_learning.train.build import build
from tests.world import config, write_arrays


def test_what_is_said_before_a_run(tmp_path):
    it = build(config(write_arrays(tmp_path)))
    said = "\n".join(overview.lines(it))
    params = it.init_learner(jax.random.key(0))
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters" in said
    forward = it.learner.cost(it.view.image_shape).forward
    assert f"{forward:.3g} FLOPs" in said and f"trained on pool ({len(it.data.train):,})" in said
    ratio = sum(it.costs.values()) / sum(it.uniform_costs.values())
    assert ratio > 1 and f"{ratio:.2f}x the FLOPs of a uniform update" in said

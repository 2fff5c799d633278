"""FSDP on 4 x 2 emulated devices: the same selections and parameters as on one device."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import active_learning as al
from active_learning.core import sharding
from active_learning.models import MLP, ViT
from active_learning.plan.hlo import collectives
from active_learning.tasks import Labels, View
from active_learning.train.build import with_fsdp_gather
from tests import toy

B, b, STEPS = 64, 16, 4
TASK = Labels()
VIEW = View((toy.SIDE, toy.SIDE, 3), (0.5,) * 3, (0.25,) * 3, toy.CLASSES)
WIDTH, DEPTH = 24, 3
LARGE = ViT(
    num_classes=toy.CLASSES, width=WIDTH, depth=DEPTH, heads=2, patch=2, scan=True, remat="dots"
)
SMALL = MLP(num_classes=toy.CLASSES, width=8, depth=1)


def recipe(mesh=None, large=LARGE, policy=al.policies.learnability) -> al.Recipe:
    learner, scorer = (
        TASK.model(large, VIEW, optax.adamw(1e-2, eps=1e-3)),
        TASK.model(SMALL, VIEW, optax.adamw(2e-2)),
    )
    if mesh is not None:
        learner = with_fsdp_gather(mesh, learner)
    return al.Recipe(
        learner=learner,
        scorer=scorer,
        policy=policy,
        sub_batch_size=b,
        temperature=0.5,
        mesh=mesh,
        ema_half_life=2.0,
    )


def fresh(of: al.Recipe, large) -> al.TrainState:
    keys = jax.random.split(jax.random.key(0), 4)
    return al.init_state(
        of,
        keys[0],
        TASK.init(large, VIEW, keys[1]),
        online=TASK.init(SMALL, VIEW, keys[2]),
        reference=TASK.init(SMALL, VIEW, keys[3]),
    )


def train(mesh, large=LARGE, policy=al.policies.learnability):
    of = recipe(None if mesh.size == 1 else mesh, large, policy)
    make = partial(fresh, of, large)
    state = jax.jit(make, out_shardings=sharding.state_shardings(jax.eval_shape(make), mesh))()
    batches = [
        jax.device_put(toy.batch(B, seed=n), sharding.batch_sharding(mesh)) for n in range(STEPS)
    ]
    step = sharding.aot_compile(partial(al.train_step, of), state, batches[0])
    ids = []
    for batch in batches:
        state, (_, chosen) = step(state, batch)
        ids.append(sorted(map(tuple, np.asarray(chosen.ids).tolist())))
    return state, ids, step


@pytest.fixture(scope="module")
def shared():
    return train(al.make_mesh(fsdp=2))


@pytest.fixture(scope="module")
def alone():
    return train(toy.mesh_of(1))


def test_a_shared_learner_chooses_the_same_ids_and_reaches_the_same_parameters(shared, alone):
    assert shared[1] == alone[1]
    ours, theirs = (
        toy.host((state.learner.params, state.online.params, state.ema.params))
        for state, *_ in (shared, alone)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)


def test_the_learner_its_moments_and_its_average_are_split_and_the_small_models_are_whole(shared):
    state = shared[0]
    for tree in (
        state.learner.params,
        state.ema.params,
        state.learner.opt_state[0].mu,
        state.learner.opt_state[0].nu,
    ):
        up = tree["blocks"]["mlp"]["up"]
        assert up["kernel"].sharding.spec == P(None, "fsdp", None)
        assert up["kernel"].addressable_shards[0].data.shape == (DEPTH, WIDTH // 2, 4 * WIDTH)
        assert up["bias"].sharding.is_fully_replicated
    small = jax.tree.leaves((state.online, state.reference))
    assert all(leaf.sharding.is_fully_replicated for leaf in small)


def test_weights_are_gathered_layer_by_layer_and_images_or_activations_never(shared):
    moved = list(collectives(shared[2].as_text()))
    (images,) = [
        c for c in moved if c.kind == "all-to-all" and c.bytes == 8 * toy.SIDE * toy.SIDE * 3
    ]
    assert images.scope == "take" and images.times == 0  # its rounds are known when the indices are
    square, long, ends = WIDTH * WIDTH, 4 * WIDTH * WIDTH, {12 * WIDTH, WIDTH * toy.CLASSES}
    gathered = [c for c in moved if c.kind == "all-gather" and c.scope == "learner"]
    in_layers = Counter(c.bytes // 4 for c in gathered if c.times == DEPTH)
    assert in_layers == {
        square: 2 * 4,
        long: 2 * 2,
    }  # of one layer, forward, and again where it is rematerialised
    assert {c.bytes // 4 for c in gathered if c.times != DEPTH} == ends
    layer, vectors = 4 * square + 2 * long, 40 * WIDTH
    for c in moved:
        assert c.kind in ("all-gather", "all-to-all") or c.bytes <= 4 * (layer + vectors), (
            c
        )  # gradients of a layer
        assert c.kind != "all-gather" or c.scope == "learner" or c.bytes <= 4 * B, c  # scores
        if c.kind == "all-reduce" and c.times == DEPTH and c.group == 8:
            assert c.bytes <= 4 * vectors, c  # those of matrices are split first


def test_the_learner_may_score_although_no_device_holds_it_whole():
    meshes = al.make_mesh(fsdp=2), toy.mesh_of(1)
    ours, theirs = (train(mesh, SMALL, al.policies.hard_learner)[1] for mesh in meshes)
    assert ours == theirs


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("learner/params/blocks/mlp/up/kernel", (24, 1024, 4096), P(None, "fsdp", None)),
        ("learner/opt_state/1/0/mu/blocks/mlp/up/kernel", (24, 1024, 4096), P(None, "fsdp", None)),
        ("ema/params/blocks/mlp/up/kernel", (24, 1024, 4096), P(None, "fsdp", None)),
        ("learner/params/text/embed", (32_000, 512), P("fsdp", None)),
        ("learner/params/text/embed", (32_001, 512), P()),  # does not divide
        ("learner/params/blocks/mlp/up/bias", (24, 4096), P()),
        ("online/params/blocks/mlp/up/kernel", (12, 192, 768), P()),
        ("reference/params/blocks/mlp/up/kernel", (12, 192, 768), P()),
        ("step", (), P()),
    ],
)
def test_rules_by_path(path, shape, spec):
    assert sharding.match_partition_rule(path, shape, al.make_mesh(fsdp=2))[1] == spec
    assert sharding.match_partition_rule(path, shape, al.make_mesh())[1] == P()


def test_a_size_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match="fsdp=3 does not divide the 8 devices"):
        al.make_mesh(fsdp=3)


def test_rows_travel_over_both_axes():
    mesh = al.make_mesh(fsdp=2)
    images = np.random.default_rng(1).integers(0, 256, (B, 6, 6, 3)).astype(np.uint8)
    x = jax.device_put(images, sharding.batch_sharding(mesh))
    take = jax.jit(lambda x, i: al.take_sharded(x, i, mesh))
    for indices in (np.arange(b), np.random.default_rng(0).permutation(B)[:b]):
        ordered = al.home_first(jnp.asarray(indices), B, 8)
        out = take(x, ordered)
        np.testing.assert_array_equal(np.asarray(out), images[np.asarray(ordered)])
        assert out.sharding.spec == P(("data", "fsdp"))

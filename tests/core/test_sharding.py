"""Taking the sub-batch on 8 emulated devices, and the sharded step against the one-device step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import active_learning as al
from active_learning.core import homes, sharding
from active_learning.plan.hlo import collectives
from tests import toy

B, b, DEVICES = 64, 16, 8


def index_sets() -> list[np.ndarray]:
    """30 random and adversarial sets of distinct rows."""
    rng = np.random.default_rng(0)
    skewed = [
        np.arange(16),
        np.arange(48, 64),
        np.arange(63, 47, -1),
        np.arange(0, 64, 4),
        np.r_[np.arange(8), np.arange(56, 64)],
    ]
    halves = [np.r_[rng.permutation(16)[:12], 16 + rng.permutation(48)[:4]] for _ in range(5)]
    return skewed + halves + [rng.permutation(B)[:b] for _ in range(20)]


@pytest.fixture(scope="module")
def take():
    mesh = toy.mesh_of(DEVICES)
    function = jax.jit(lambda x, i: al.take_sharded(x, i, mesh))
    images = np.random.default_rng(1).integers(0, 256, (B, 6, 6, 3)).astype(np.uint8)
    return function, images, jax.device_put(images, sharding.batch_sharding(mesh))


@pytest.mark.parametrize("indices", index_sets())
def test_take_equals_indexing_bit_for_bit_and_stays_sharded(take, indices):
    function, images, sharded = take
    for order in (indices, np.asarray(al.home_first(jnp.asarray(indices), B, DEVICES))):
        out = function(sharded, jnp.asarray(order))
        np.testing.assert_array_equal(np.asarray(out), images[order])
        assert out.sharding.spec == P("data")


@pytest.mark.parametrize("indices", index_sets())
def test_home_first_permutes_and_moves_no_more_rows_than_it_must(indices):
    ordered = np.asarray(al.home_first(jnp.asarray(indices), B, DEVICES))
    assert sorted(ordered.tolist()) == sorted(indices.tolist())
    owned = np.bincount(indices // (B // DEVICES), minlength=DEVICES)
    travelling = int(np.maximum(owned - b // DEVICES, 0).sum())
    home = np.arange(b) // (b // DEVICES)
    assert int((ordered // (B // DEVICES) != home).sum()) == travelling


def test_home_first_needs_few_rounds_on_many_devices():
    rng = np.random.default_rng(0)
    devices, size, chosen = 64, 2048, 1024
    for _ in range(10):
        ordered = np.asarray(
            al.home_first(jnp.asarray(rng.permutation(size)[:chosen]), size, devices)
        )
        owner, home = ordered // (size // devices), np.arange(chosen) // (chosen // devices)
        pairs = (owner * devices + home)[owner != home]
        assert np.bincount(pairs).max() <= 2
        assert len(pairs) < 0.12 * chosen


@pytest.fixture(scope="module")
def grouped():
    """`take` on 8 devices in two groups of four, as on a large mesh."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(homes, "FLAT", 4)
        mesh = toy.mesh_of(DEVICES)

        def taken(x, indices):
            """Rows, and keys made of them, as augmentation does with what it gets."""
            rows = al.take_sharded(x, indices, mesh)
            fold = lambda row: jax.random.fold_in(jax.random.key(0), row[0, 0, 0])
            return rows, jax.random.key_data(jax.vmap(fold)(rows))

        function, order = jax.jit(taken), jax.jit(lambda i: al.home_first(i, B, DEVICES))
        images = np.random.default_rng(1).integers(0, 256, (B, 6, 6, 3)).astype(np.uint8)
        sharded = jax.device_put(images, sharding.batch_sharding(mesh))
        function(sharded, order(jnp.arange(b)))  # Traced while the patch holds.
        yield function, order, images, sharded


@pytest.mark.parametrize("indices", index_sets())
def test_groups_take_the_same_rows(grouped, indices):
    function, order, images, sharded = grouped
    ordered = order(jnp.asarray(indices))
    assert sorted(ordered.tolist()) == sorted(indices.tolist())
    # The order as it comes sends rows by two exchanges in turn.
    for taken in (jnp.asarray(indices), ordered):
        rows, _ = function(sharded, taken)
        np.testing.assert_array_equal(np.asarray(rows), images[taken])
        assert rows.sharding.spec == P("data")


def test_groups_of_many_devices_need_few_rounds():
    """And nothing has to go by both ways in turn."""
    rng, devices, groups = np.random.default_rng(0), 256, 16
    assert homes.groups_of(devices) == groups
    for size, chosen in ((20_480, 4096), (163_840, 32_768)):
        order = jax.jit(partial(al.home_first, super_batch_size=size, devices=devices))
        rounds = []
        for _ in range(4):
            ordered = np.asarray(order(jnp.asarray(rng.permutation(size)[:chosen])))
            owner, home = ordered // (size // devices), np.arange(chosen) // (chosen // devices)
            inside = owner // groups == home // groups
            assert (inside | (owner % groups == home % groups)).all()
            pairs, moves = owner * devices + home, inside & (owner != home)
            rounds.append(np.bincount(pairs[moves]).max() + np.bincount(pairs[~inside]).max())
        # A round sends 16 rows, where an exchange among all devices sends 256.
        assert np.mean(rounds) <= (4 if chosen == 4096 else 10)


@pytest.mark.parametrize(
    ("rows", "count", "message"), [(60, 16, "super-batch size 60"), (64, 12, "sub-batch size 12")]
)
def test_sizes_that_do_not_divide_are_named(rows, count, message):
    with pytest.raises(ValueError, match=f"{message} is not divisible by the 8 devices"):
        al.take_sharded(jnp.zeros((rows, 2)), jnp.arange(count), toy.mesh_of(DEVICES))


def run(devices: int, steps: int = 8):
    mesh = toy.mesh_of(devices)
    recipe = toy.recipe(mesh=mesh if devices > 1 else None, score_chunk=4)
    state = toy.state(recipe)
    step = jax.jit(partial(al.train_step, recipe))
    ids, gaps = [], []
    for n in range(steps):
        batch, state = toy.on(mesh, toy.batch(B, seed=n), state)
        key = jax.random.fold_in(jax.random.fold_in(state.key, n), 0)
        state, (_, chosen) = step(state, batch)
        perturbed = np.sort(
            np.asarray(
                chosen.scores / recipe.temperature + jax.random.gumbel(key, (B,), jnp.float32)
            )
        )[::-1]
        gaps.append(perturbed[7] - perturbed[8])
        ids.append(sorted(map(tuple, np.asarray(chosen.ids).tolist())))
    return toy.host(state), ids, gaps, step, (state, batch)


def test_eight_devices_choose_the_same_ids_and_reach_the_same_parameters_as_one():
    one, ids, gaps, *_ = run(1)
    eight, sharded_ids, *_ = run(8)
    assert min(gaps) > 1e-5  # else rounding could decide who is chosen
    assert ids == sharded_ids
    for name in ("learner", "online"):
        for leaf in ("w", "b"):
            ours, theirs = getattr(eight, name).params[leaf], getattr(one, name).params[leaf]
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def _bytes_moved(text: str, kind: str) -> list[int]:
    return [result.bytes for result in collectives(text) if result.kind == kind]


def test_the_compiled_step_gathers_no_images_and_donates_its_state():
    mesh = toy.mesh_of(8)
    recipe = toy.recipe(mesh=mesh)
    batch, state = toy.on(mesh, toy.batch(512), toy.state(recipe))
    compiled = (
        jax.jit(partial(al.train_step, recipe), donate_argnums=0).lower(state, batch).compile()
    )
    text = compiled.as_text()
    image_bytes = toy.SIDE * toy.SIDE * 3
    assert _bytes_moved(text, "all-to-all")  # the rows that travel
    params = sum(p.nbytes for p in jax.tree.leaves(toy.params(0)))
    for kind in ("all-gather", "all-reduce"):
        for size in _bytes_moved(text, kind):
            assert size <= max(512 * 4, 2 * params + 64), (
                kind,
                size,
            )  # scores, or the two models' gradients and figures
            assert size < 512 * image_bytes / 8
    donated = compiled.memory_analysis().alias_size_in_bytes
    assert donated >= sum(
        p.nbytes for m in (state.learner, state.online) for p in jax.tree.leaves(m.params)
    )


def test_plain_indexing_would_fail_the_same_check():
    mesh = toy.mesh_of(8)
    images = jax.device_put(jnp.zeros((256, 8, 8, 3), jnp.uint8), sharding.batch_sharding(mesh))
    text = jax.jit(lambda x, i: x[i]).lower(images, jnp.arange(32)).compile().as_text()
    moved = [size for kind in ("all-gather", "all-reduce") for size in _bytes_moved(text, kind)]
    assert max(moved) >= 32 * 8 * 8 * 3


def test_one_trace_inside_and_one_after_the_window():
    recipe = toy.recipe()
    traces = {"active": 0, "uniform": 0}

    def counted(name, step):
        def traced(state, batch):
            traces[name] += 1
            return step(recipe, state, batch)

        return jax.jit(traced)

    active, uniform = counted("active", al.train_step), counted("uniform", al.uniform_step)
    state = toy.state(recipe)
    for n in range(4):
        state, _ = active(state, toy.batch(32, seed=n))
    for n in range(4):
        state, _ = uniform(state, toy.batch(8, seed=n))
    assert traces == {"active": 1, "uniform": 1}

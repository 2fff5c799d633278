"""Start from published weights: new head, other resolution, frozen parts, rates, cost."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from active_learning.config import ConfigError
from active_learning.core import losses
from active_learning.models import Published, Text, TwoTower, ViT, frozen, resize
from active_learning.models.published import open_published, resolve
from active_learning.models.weights import write_weights
from tests.hlo import product_flops
from tests.models.weights import tiny

LARGE = (32, 24, 3)


@pytest.fixture
def folder(tmp_path):
    def write(case: str):
        fmt, module = tiny.CASES[case]
        write_weights(tmp_path / case, module, tiny.params_of(module), tiny.ABOUT, fmt)
        return str(tmp_path / case)

    return write


def statuses(table: str) -> set[tuple[str, str]]:
    lines = [line.split() for line in table.splitlines()[1:]]
    return {(line[0], line[1]) for line in lines if line[0] != "taken"}


def test_a_head_of_as_many_classes_is_taken_another_one_is_new(folder):
    published = Published(path=folder("hf_vit"))
    saved = tiny.params_of(tiny.CASES["hf_vit"][1])
    module, init, table = resolve(published, tiny.SHAPE, 3)
    tiny.assert_same(init(jax.random.key(0)), saved)
    assert statuses(table) == set()
    module, init, table = resolve(published, tiny.SHAPE, 5)
    params = init(jax.random.key(0))
    assert module.num_classes == 5
    assert not np.any(params["head"]["kernel"]) and params["head"]["kernel"].shape == (8, 5)
    tiny.assert_same(params["block_1"], saved["block_1"])
    assert statuses(table) == {
        ("left", "classifier.weight"),
        ("left", "classifier.bias"),
        ("new", "head/kernel"),
        ("new", "head/bias"),
    }


def test_a_normal_head_is_a_function_of_the_key(folder):
    _, init, _ = resolve(Published(path=folder("timm_vit"), head="normal"), tiny.SHAPE, 500)
    kernels = [init(jax.random.key(k))["head"]["kernel"] for k in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()
    assert np.std(kernels[0]) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("case", ["hf_dinov2_registers", "timm_vit fc_norm", "hf_siglip"])
def test_positions_are_resized_and_those_of_the_class_token_are_kept(folder, case):
    module, init, table = resolve(Published(path=folder(case)), LARGE, 3)
    params, saved = init(jax.random.key(0)), tiny.params_of(tiny.CASES[case][1])
    old = saved.get("image", saved)["position"]
    prefix = module.prefix_positions
    assert params["position"].shape == (prefix + 4 * 3, 8)
    np.testing.assert_array_equal(params["position"][:prefix], old[:prefix])
    assert ("resized", "position") in statuses(table)
    out = jax.jit(module.apply)({"params": params}, jnp.zeros((1, *LARGE)))
    assert out["logits"].shape == (1, 3)


def test_kernels_by_hand():
    """Cubic weights at the distances 0.25, 0.75, 1.25 and 1.75, with a = -0.75 and a = -0.5."""
    np.testing.assert_allclose(
        resize.bicubic(2, 4) @ [0, 1], [-0.10546875, 0.2265625, 0.7734375, 1.10546875]
    )
    np.testing.assert_allclose(
        resize.bicubic_antialias(2, 4) @ [0, 1],
        [-0.0703125 / 0.796875, 0.2265625 / 1.09375, 0.8671875 / 1.09375, 0.8671875 / 0.796875],
    )
    np.testing.assert_allclose(resize.bilinear_corners(2, 3) @ [0, 1], [0, 0.5, 1])
    for kernel in resize.KERNELS.values():
        for old, new in ((5, 9), (9, 5), (4, 4), (1, 3)):
            np.testing.assert_allclose(kernel(old, new).sum(axis=1), 1, rtol=1e-6)
            np.testing.assert_allclose(kernel(4, 4), np.eye(4), atol=1e-12)


@pytest.mark.parametrize("sizes", [(4, 8), (14, 16), (16, 9), (7, 3)])
def test_antialiased_kernels_are_those_of_pillow(sizes):
    old, new = sizes
    values = np.random.default_rng(0).normal(size=(1, old)).astype(np.float32)
    for kernel, method in (
        (resize.bicubic_antialias, Image.Resampling.BICUBIC),
        (resize.bilinear_antialias, Image.Resampling.BILINEAR),
    ):
        theirs = np.asarray(Image.fromarray(values).resize((new, 1), method))
        np.testing.assert_allclose(values @ kernel(old, new).T, theirs, atol=1e-5)


def test_a_resized_patch_embeds_an_enlarged_patch_as_the_original(folder):
    rng = np.random.default_rng(0)
    kernel, patch = rng.normal(size=(4 * 4 * 3, 5)), rng.normal(size=(4, 4, 3))
    enlarge = resize.bilinear_antialias(4, 8)
    large = np.einsum("Yy,Xx,yxc->YXc", enlarge, enlarge, patch)
    np.testing.assert_allclose(
        large.reshape(-1) @ resize.resize_patch(kernel, 4, 8), patch.reshape(-1) @ kernel
    )
    module, init, table = resolve(Published(path=folder("hf_vit"), patch=4), tiny.SHAPE, 3)
    assert module.patch == 4
    assert init(jax.random.key(0))["embed"]["kernel"].shape == (48, 8)
    assert statuses(table) == {("resized", "embed/kernel"), ("resized", "position")}


def test_the_image_tower_of_two_is_a_classifier(folder):
    published = Published(path=folder("hf_clip"))
    module, init, table = resolve(published, tiny.SHAPE, 4)
    assert isinstance(module, ViT)
    saved = tiny.params_of(tiny.CASES["hf_clip"][1])
    rest = {name: v for name, v in init(jax.random.key(0)).items() if name != "head"}
    tiny.assert_same(rest, saved["image"])
    assert ("left", "text_projection.weight") in statuses(table)
    both, init, _ = resolve(published, tiny.SHAPE, 0, texts=True)
    assert isinstance(both, TwoTower)
    tiny.assert_same(init(jax.random.key(0)), saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": ""}, r"config.learner.path='': give a .safetensors"),
        ({"path": "/nowhere"}, r"config.learner.path: /nowhere: no such file or folder"),
        ({"freeze": "half"}, r"config.learner.freeze='half': expected '', 'all but head'"),
        ({"freeze": "first 3 blocks"}, r"config.learner.freeze='first 3 blocks': there are 2"),
        ({"freeze": "first 1 block", "scan": True}, r"needs scan=False"),
        ({"freeze": "text"}, r"the model has one tower only"),
    ],
)
def test_errors_name_the_key(folder, fields, message):
    published = Published(**{"path": folder("hf_vit")} | fields)
    with pytest.raises(ConfigError, match=message):
        open_published(published, texts=False)


def test_what_does_not_fit_the_data_is_said(folder):
    with pytest.raises(ConfigError, match="layout hf_vit has no text tower"):
        open_published(Published(path=folder("hf_vit")), texts=True)
    with pytest.raises(ConfigError, match="is for images of 3 channels, the data have 1"):
        resolve(Published(path=folder("hf_vit")), (16, 16, 1), 3)


def test_scanned_blocks_hold_the_same_parameters(folder):
    path = folder("timm_vit")
    _, init, _ = resolve(Published(path=path), tiny.SHAPE, 3)
    scanned, init_scanned, _ = resolve(Published(path=path, scan=True), tiny.SHAPE, 3)
    plain, stacked = init(jax.random.key(0)), init_scanned(jax.random.key(0))
    np.testing.assert_array_equal(
        stacked["blocks"]["mlp"]["up"]["kernel"][1], plain["block_1"]["mlp"]["up"]["kernel"]
    )
    assert scanned.scan


TOWERS = TwoTower(
    tiny.vit(pool="cls", class_token=True),
    Text(vocab=9, context=4, width=8, depth=2, heads=2, mlp_dim=12),
    4,
    4,
)
IMAGES = jax.random.normal(jax.random.key(0), (4, *tiny.SHAPE))


def trained_names(module, freeze: str) -> set[str]:
    mask = frozen.frozen_mask(tiny.params_of(module), freeze)
    leaves = jax.tree_util.tree_leaves_with_path(mask)
    paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, f in leaves if not f]
    return {path.split("/")[0] for path in paths}


def test_which_parameters_are_frozen():
    module = tiny.vit(num_classes=3, pool="cls")
    assert trained_names(module, "all but head") == {"head"}
    assert trained_names(module, "first 1 block") == {"block_1", "norm", "head"}
    assert trained_names(module, "first 0 blocks") == {"block_0", "block_1", "norm", "head"}
    assert trained_names(TOWERS, "image") == {"text", "text_head", "t", "b"}
    assert trained_names(TOWERS, "text") == {"image", "image_head", "t", "b"}
    assert trained_names(TOWERS, "all but head") == {"image_head", "text_head", "t", "b"}
    everything = {"image", "text", "image_head", "text_head", "t", "b"}
    assert trained_names(TOWERS, "") == trained_names(TOWERS, "first 1 blocks") == everything


def test_rates_fall_from_block_to_block_and_the_head_has_its_own():
    module = tiny.vit(num_classes=3, pool="cls")
    scales = frozen.rate_scales(tiny.params_of(module), 0.5, 10.0)
    assert scales["head"]["kernel"] == 10.0
    assert scales["norm"]["scale"] == 1.0
    assert scales["block_1"]["mlp"]["up"]["kernel"] == 0.5
    assert scales["block_0"]["mlp"]["up"]["kernel"] == 0.25
    assert scales["position"] == scales["embed"]["kernel"] == scales["cls"] == 0.125
    stacked = tiny.vit(num_classes=3, pool="cls", scan=True)
    scales = frozen.rate_scales(tiny.params_of(stacked), 0.5, 10.0)
    np.testing.assert_allclose(np.ravel(scales["blocks"]["mlp"]["up"]["kernel"]), [0.25, 0.5])
    both = frozen.rate_scales(tiny.params_of(TOWERS), 0.5)
    assert both["text"]["embed"] == both["image"]["position"] == 0.125


@pytest.mark.parametrize("freeze", ["all but head", "first 1 blocks", "first 2 blocks"])
@pytest.mark.parametrize("pool", ["cls", "map"])
def test_frozen_parameters_stay_and_their_gradients_are_not_computed(freeze, pool):
    """The cost is what the compiler runs: products of the compiled gradient step."""
    size = {"width": 32, "depth": 2, "heads": 1, "mlp_dim": 128, "qkv_bias": "qkv"}
    module = ViT(num_classes=10, patch=4, pool=pool, **size)
    params = tiny.params_of(module)
    labels = jnp.array([3, 1, 4, 1])

    def loss(params):
        apply = lambda p, x, train: module.apply({"params": p}, x, train=train)
        out = frozen.stop_frozen(apply, freeze)(params, IMAGES, True)
        return jnp.mean(losses.softmax_xent(out["logits"], labels))

    step = jax.jit(jax.value_and_grad(loss))
    cost = frozen.trained_cost(module, tiny.SHAPE, freeze)
    ran = product_flops(step.lower(params).compile().as_text()) / len(IMAGES)
    assert ran == pytest.approx(cost.train, rel=0.02)
    assert cost.forward == module.cost(tiny.SHAPE).forward
    optimizer = frozen.trained_only(optax.adamw(0.1), freeze)
    updates, state = optimizer.update(step(params)[1], optimizer.init(params), params)
    mask = frozen.frozen_mask(params, freeze)
    moved = jax.tree.map(lambda u: bool(np.any(u)), updates)
    assert jax.tree.map(lambda f: not f, mask) == moved
    held = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    leaves = zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True)
    trained = sum(leaf.size for leaf, is_frozen in leaves if not is_frozen)
    assert held == 2 * trained


def test_costs_of_frozen_towers():
    shape, total = tiny.SHAPE, TOWERS.cost(tiny.SHAPE)
    image, text = TOWERS.image.cost(shape), TOWERS.text.cost()
    locked = frozen.trained_cost(TOWERS, shape, "image")
    head = 2 * 8 * 4
    assert locked.forward == total.forward
    assert locked.train == image.forward + head + text.train + 3 * head
    heads_only = frozen.trained_cost(TOWERS, shape, "all but head")
    assert heads_only.train == image.forward + text.forward + 4 * head
    none = frozen.trained_cost(TOWERS, shape, "first 0 blocks")
    assert none.train == pytest.approx(total.train - image.first)

"""Weights of every layout: write and read again; publishers' files give their outputs."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from active_learning.config import ConfigError
from active_learning.models import MLP, ResNet, Text, TwoTower, ViT
from active_learning.models.weights import load_into, open_weights, write_weights
from active_learning.models.weights.check import compare
from tests.models.weights import tiny


def tensors_of(folder) -> dict[str, np.ndarray]:
    files = list(folder.glob("*.safetensors"))
    return load_file(files[0]) if files else dict(np.load(folder / "weights.npz"))


@pytest.mark.parametrize("name", tiny.CASES)
def test_what_is_written_is_read_and_written_again_bit_for_bit(tmp_path, name):
    fmt, module = tiny.CASES[name]
    params = tiny.params_of(module)
    layout = write_weights(tmp_path / "a", module, params, tiny.ABOUT, fmt)
    assert layout.name == name.split()[0]
    read = open_weights(tmp_path / "a")
    assert read.layout is layout
    assert read.module == module
    assert read.about == tiny.ABOUT
    tiny.assert_same(read.params(), params)
    write_weights(tmp_path / "b", read.module, read.params(), read.about, fmt)
    first, again = tensors_of(tmp_path / "a"), tensors_of(tmp_path / "b")
    assert first.keys() == again.keys()
    for tensor, values in first.items():
        np.testing.assert_array_equal(values, again[tensor])
    for file in (tmp_path / "a").glob("*.json"):
        assert file.read_text() == (tmp_path / "b" / file.name).read_text()


@pytest.mark.parametrize("name", tiny.PUBLISHED)
def test_a_publishers_file_gives_the_publishers_outputs(name):
    folder = tiny.published(name)
    result = list(compare(open_weights(folder), folder / "io.npz"))
    assert result
    assert [one for one in result if not one.ok] == []


# Of each layout one case with a head where it may have one.
WHOLE = ("hf_vit", "hf_dinov2 with head", "hf_clip", "hf_siglip", "timm_vit registers")
WHOLE += ("timm_vit attention", "open_clip", "jax_vit", "big_vision")
FORMAT_OF = {"hf": "hf", "timm": "timm", "open": "open_clip", "jax": "npz"}


@pytest.mark.parametrize("name", tiny.PUBLISHED)
def test_a_publishers_file_is_written_back_bit_for_bit(tmp_path, name):
    folder, fmt = tiny.published(name), FORMAT_OF[name.split("_")[0]]
    read = open_weights(folder)
    write_weights(tmp_path, read.module, read.params(), read.about, fmt)
    theirs, ours = tensors_of(folder), tensors_of(tmp_path)
    assert theirs.keys() == ours.keys()
    for tensor, values in theirs.items():
        expected = np.zeros_like(values) if tensor.endswith("mask_token") else values
        np.testing.assert_array_equal(ours[tensor], expected, err_msg=tensor)
    again = open_weights(tmp_path)
    assert (again.module, again.about) == (read.module, read.about)


def test_class_names_and_pixels_go_along(tmp_path):
    about = tiny.About(tiny.SHAPE, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), ("cat", "dog", "owl"))
    for case in ("hf_vit", "timm_vit", "jax_vit", "own", "hf_dinov2 with head"):
        fmt, module = tiny.CASES[case]
        folder = tmp_path / case
        write_weights(folder, module, tiny.params_of(module), about, fmt)
        assert open_weights(folder).about == about


@pytest.mark.parametrize(
    ("case", "fmt"), [("hf_vit", "hf"), ("timm_vit", "timm"), ("hf_dinov2", "hf")]
)
def test_our_own_defaults_are_written_as_the_same_function(tmp_path, case, fmt):
    """No key bias, no position of the class token, one head on the class token."""
    module = ViT(
        num_classes=3,
        pool="gap" if case == "timm_vit" else "cls",
        layer_scale=case == "hf_dinov2",
        **tiny.SIZE | {"patch": 8, "qkv_bias": "qv"},
    )
    params = tiny.params_of(module)
    write_weights(tmp_path, module, params, tiny.ABOUT, fmt)
    read = open_weights(tmp_path)
    image = jax.random.normal(jax.random.key(1), (2, *tiny.SHAPE))
    ours = jax.jit(module.apply)({"params": params}, image)["logits"]
    theirs = jax.jit(read.module.apply)({"params": read.params()}, image)["logits"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_any_model_of_ours_is_read_again(tmp_path):
    for name, module in {
        "mlp": MLP(num_classes=3, width=4),
        "resnet": ResNet(num_classes=3, width=8, stages=(1, 1)),
        "towers": TwoTower(tiny.vit(), Text(vocab=9, context=4, width=8, depth=1, heads=2), 4, 4),
    }.items():
        params = tiny.params_of(module)
        write_weights(tmp_path / name, module, params, tiny.ABOUT, "own")
        read = open_weights(tmp_path / name)
        assert read.module == module
        tiny.assert_same(read.params(), params)


@pytest.mark.parametrize(
    ("module", "fmt", "message"),
    [
        (
            ViT(num_classes=3, width=8, depth=1, heads=2),
            "hf",
            r"hf_vit: pool='gap', expected 'cls'",
        ),
        (MLP(num_classes=3), "timm", r"no layout for a MLP; use --format=own"),
        (tiny.siglip(), "open_clip", r"image.pool='map', expected 'cls'"),
        (tiny.vit(num_classes=3, layer_scale=True), "npz", r"layer_scale=True, expected False"),
    ],
)
def test_what_a_format_cannot_hold_is_said(tmp_path, module, fmt, message):
    with pytest.raises(ConfigError, match=message):
        write_weights(tmp_path, module, {}, tiny.ABOUT, fmt)


def write(folder, case: str = "timm_vit"):
    fmt, module = tiny.CASES[case]
    write_weights(folder, module, tiny.params_of(module), tiny.ABOUT, fmt)
    return folder


def edit(folder, change) -> None:
    """Rewrites the tensors of a folder after `change(dict)`."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({"blocks.1.mlp.fc1.bias": np.zeros(5, np.float32)}),
            r"model.safetensors: blocks.1.mlp.fc1.bias is \(5,\), expected \(12,\)$",
        ),
        (
            lambda t: t.pop("blocks.1.attn.proj.weight"),
            r"blocks.1.attn.proj.weight is missing, expected \(8, 8\)$",
        ),
        (
            lambda t: t.update({"pos_embed": np.zeros((1, 8, 8), np.float32)}),
            r"tensor pos_embed has \d positions for patches, expected 4 for 16 x 16 pixels",
        ),
        (
            lambda t: t.update({"dist_token": np.zeros((1, 1, 8), np.float32)}),
            r"tensor dist_token belongs to a variant of timm's ViT that is not read",
        ),
        (lambda t: (t.clear(), t.update(x=np.zeros(1))), r"tensors of no known layout .*x; known"),
        (
            lambda t: t.update({"patch_embed.proj.weight": np.zeros(3, np.float32)}),
            r"looks like timm_vit, but its tensors or its config are not: ",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named_in_one_line(tmp_path, change, message):
    folder = write(tmp_path)
    edit(folder, change)
    with pytest.raises(ConfigError, match=message) as caught:
        open_weights(folder)
    assert "\n" not in str(caught.value)


def test_who_may_read_the_config_may_read_the_weights(tmp_path):
    folder = write(tmp_path)
    modes = {(folder / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(modes) == 1


def test_a_truncated_file_names_the_tensor_that_is_cut(tmp_path):
    file = write(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"truncated: tensor \S+ of shape \(.*\) has \d+ of \d+ "):
        open_weights(tmp_path)
    file.write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"model.safetensors: not a readable .safetensors file"):
        open_weights(tmp_path)


def test_a_damaged_npz_names_the_tensor(tmp_path):
    file = write(tmp_path, "jax_vit") / "weights.npz"
    content = bytearray(file.read_bytes())
    at = content.index(b"Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel.npy") + 300
    content[at] ^= 255
    file.write_bytes(bytes(content))
    with pytest.raises(ConfigError, match=r"tensor \S+Dense_0/kernel .*cannot be read: Bad CRC"):
        open_weights(tmp_path).params()
    file.write_bytes(bytes(content[:500]))
    with pytest.raises(ConfigError, match=r"weights.npz: no readable .npz"):
        open_weights(tmp_path)


def test_pickles_are_refused_with_the_line_that_converts_them(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(ConfigError, match=r"pickle files can run code.*save_file\(torch.load"):
            open_weights(path)
    np.savez(tmp_path / "weights.npz", x=np.array([{}], dtype=object))
    with pytest.raises(ConfigError, match=r"array x holds Python objects \(pickle\)"):
        open_weights(tmp_path)
    with pytest.raises(ConfigError, match="no such file or folder"):
        open_weights(tmp_path / "nothing")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_half_precision_is_read_as_float32(tmp_path, dtype):
    for case in ("timm_vit", "jax_vit"):
        folder = write(tmp_path / case, case)
        halves = {name: v.astype(dtype) for name, v in tensors_of(folder).items()}
        if case == "timm_vit":
            save_file(halves, folder / "model.safetensors")
        else:
            np.savez(folder / "weights.npz", **halves)
        params = open_weights(folder).params()
        expected = tiny.params_of(tiny.CASES[case][1])
        tiny.assert_same(
            params, jax.tree.map(lambda v: v.astype(dtype).astype(np.float32), expected)
        )


def test_a_sharded_file_is_read_through_its_index(tmp_path):
    folder = write(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    names, weight_map = sorted(tensors), {}
    for k, part in enumerate((names[:9], names[9:])):
        file = f"model-0000{k + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    tiny.assert_same(open_weights(folder).params(), tiny.params_of(tiny.CASES["timm_vit"][1]))
    index.write_text(json.dumps({"weight_map": weight_map | {"pos_embed": "../x.safetensors"}}))
    with pytest.raises(ConfigError, match=r"pos_embed is said to be in '../x.safetensors'"):
        open_weights(folder)
    index.write_text("{}")
    with pytest.raises(ConfigError, match="no weight_map"):
        open_weights(folder)


def test_heads_are_asked_for_where_the_file_does_not_say(tmp_path):
    folder = write(tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"does not say how many attention heads.*set heads"):
        open_weights(folder)
    assert open_weights(folder, heads=2).module.heads == 2
    with pytest.raises(ConfigError, match="heads 3 do not divide the width 8"):
        open_weights(folder, heads=3)


def test_a_standard_model_of_timm_says_its_heads_by_its_name(tmp_path):
    """The published files of standard models have no model_args."""
    module = tiny.vit(width=128, heads=2, num_classes=3, **tiny.CLS)
    write_weights(tmp_path, module, tiny.params_of(module), tiny.ABOUT, "timm")
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model_args"], config["norm_epsilon"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_weights(tmp_path).module == module


def test_names_and_metadata_are_the_publishers(tmp_path):
    folder = write(tmp_path, "hf_vit")
    with safe_open(folder / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
        layer = "vit.encoder.layer.1"
        assert file.get_tensor(f"{layer}.intermediate.dense.weight").shape == (12, 8)
        assert file.get_tensor("classifier.weight").shape == (3, 8)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}


def test_weights_that_must_fit_a_given_module(tmp_path):
    folder = write(tmp_path, "big_vision")
    ours = TwoTower(
        tiny.vit(pool="map", qkv_bias="qv", activation="gelu_tanh"),
        Text(vocab=20, context=5, pool="last", pad=1, **tiny.SIZE | {"qkv_bias": "qv"}),
        0,
        8,
    )
    params = load_into(folder, ours, tiny.SHAPE, "config.reference.path")
    full = tiny.params_of(tiny.siglip())
    assert "bias" not in params["image"]["block_0"]["attention"]["key"]
    np.testing.assert_array_equal(params["text"]["embed"], full["text"]["embed"])
    with pytest.raises(
        ConfigError,
        match=r"config.reference.path=.*2 parameters do not fit this config: text/embed is "
        r"\(20, 8\), expected \(21, 8\); text/position",
    ):
        text = Text(vocab=21, context=6, pool="last", pad=1, **tiny.SIZE)
        load_into(
            folder, TwoTower(tiny.vit(pool="map"), text, 0, 8), tiny.SHAPE, "config.reference.path"
        )


def test_a_model_of_another_function_is_refused_though_its_parameters_fit(tmp_path):
    folder = write(tmp_path, "big_vision")
    other = dataclasses.replace(tiny.siglip(), image=tiny.vit(pool="map", activation="gelu"))
    with pytest.raises(
        ConfigError, match=r"its model has image.activation='gelu_tanh', not 'gelu'"
    ):
        load_into(folder, other, tiny.SHAPE, "config.reference.path")


@pytest.mark.parametrize("case", [c for c in tiny.CASES if c in WHOLE])
def test_a_file_without_any_one_of_its_tensors_is_refused_by_name(tmp_path, case):
    """Nothing is read as a smaller model because a tensor is missing."""
    folder = write(tmp_path, case)
    file = next(f for f in folder.iterdir() if f.suffix in (".safetensors", ".npz"))
    tensors = tensors_of(folder)
    for name in tensors:
        # The model does without the first two; the second block is as the first.
        if name.endswith("mask_token") or name == "params/b" or "1." in name or "block_1" in name:
            continue
        rest = {n: v for n, v in tensors.items() if n != name}
        save_file(rest, file) if file.suffix == ".safetensors" else np.savez(file, **rest)
        with pytest.raises(ConfigError) as caught:
            open_weights(folder)
        # Without its class token a model would have a position too many.
        named = (name, "no known layout", *(["pos_embedding has 5"] if name == "cls" else []))
        assert "\n" not in str(caught.value)
        assert any(text in str(caught.value) for text in named), name


@pytest.mark.parametrize(
    ("case", "key", "value", "message"),
    [
        (
            "timm_vit",
            ("model_args", "embed_dim"),
            16,
            r"is \(8, 3, 8, 8\), expected \(16, 3, 8, 8\)",
        ),
        ("timm_vit", ("model_args", "depth"), 3, r"tensor blocks.2.norm1.weight is missing"),
        ("timm_vit", ("model_args", "depth"), 1, r"tensor blocks.1.norm1.weight is there"),
        ("hf_vit", ("intermediate_size",), 9, r"weight is \(12, 8\), expected \(9, 8\)"),
        (
            "hf_dinov2_registers",
            ("num_register_tokens",),
            5,
            r"is \(1, 4, 8\), expected \(1, 5, 8\)",
        ),
        ("hf_clip", ("text_config", "vocab_size"), 7, r"is \(20, 8\), expected \(7, 8\)"),
        ("hf_siglip", ("vision_config", "image_size"), 24, r"has 4 positions .* expected 9"),
    ],
)
def test_a_config_of_other_sizes_is_refused(tmp_path, case, key, value, message):
    folder = write(tmp_path, case)
    config = json.loads((folder / "config.json").read_text())
    *parents, last = key
    node = config
    for parent in parents:
        node = node[parent]
    node[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=message):
        open_weights(folder)

"""Evaluations of a two-tower model by files: labelled folders, caption files, kept features."""

import argparse
import json
from types import SimpleNamespace

import numpy as np
import pytest

from active_learning.data import images
from active_learning.data.sources.source import DataError
from active_learning.evaluators import Embedder, image_sets, image_text
from active_learning.evaluators.features import stored_features

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


class ColorTowers(Embedder):
    """Embeds an image as its mean color, and a text as the color it names."""

    def __init__(self):
        self.read = 0

    def images(self, params, part, rows=None):
        rows = np.arange(len(part)) if rows is None else rows
        self.read += len(rows)
        return _unit(part.images(rows).astype(np.float32).mean(axis=(1, 2)))

    def texts(self, params, tokens):
        return _unit(tokens.astype(np.float32))


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-8)


def encode(texts):
    return np.array([[word in text for word in ("red", "green", "blue")] for text in texts], int)


@pytest.fixture
def towers(tmp_path):
    return image_text.Towers(ColorTowers(), None, encode, 16, "model", tmp_path / "features")


def write_images(folder, split: str, count: int = 4) -> None:
    """Class folders of one color each; the last blue one is red."""
    for name, color in COLORS.items():
        (folder / split / name).mkdir(parents=True)
        for n in range(count):
            wrong = name == "blue" and n == count - 1
            pixels = np.full((20, 24, 3), COLORS["red"] if wrong else color, np.uint8)
            (folder / split / name / f"{n}.png").write_bytes(images.encode_png(pixels))


def test_zero_shot_and_probes_on_a_folder(towers, tmp_path):
    for split in ("train", "val"):
        write_images(tmp_path / "set", split)
    path = str(tmp_path / "set")
    result = image_text.labelled_images(towers, path, ("a {} thing",))
    assert result["zero_shot"]["acc1"] == pytest.approx(11 / 12)
    assert result["zero_shot"]["mean_per_class_recall"] == pytest.approx((3 / 4 + 1 + 1) / 3)
    assert "acc5" not in result["zero_shot"] and result["zero_shot"]["images"] == 12
    assert result["few_shot"]["acc1"] == pytest.approx(11 / 12)
    assert result["linear_probe"]["lp_acc1"] == pytest.approx(11 / 12)
    # The features are kept: the images are not read again, and the numbers are the same.
    read = towers.embed.read
    assert image_text.labelled_images(towers, path, ("a {} thing",)) == result
    assert towers.embed.read == read == 24


def test_class_names_of_a_file_replace_those_of_the_folders(towers, tmp_path):
    write_images(tmp_path / "set", "test")
    path, names = str(tmp_path / "set" / "test"), tmp_path / "names.txt"
    names.write_text("the red\nthe green\nthe blue\n")  # red and blue exchanged
    result = image_text.labelled_images(towers, path, ("{}",), names)
    assert result["zero_shot"]["acc1"] == pytest.approx((1 + 4 + 0) / 12)
    assert "few_shot" not in result  # no training images there
    names.write_text("red\n")
    with pytest.raises(DataError, match=r"names.txt: 1 class names, but .* has 3 classes"):
        image_text.labelled_images(towers, path, ("{}",), names)


def test_retrieval_with_several_captions_an_image(towers, tmp_path):
    lines = []
    for name, color in COLORS.items():
        blob = images.encode_png(np.full((16, 16, 3), color, np.uint8))
        (tmp_path / f"{name}.png").write_bytes(blob)
        lines += [f"{name}.png#{n}\ta {name} one, number {n}" for n in range(5)]
    lines[0] = "blue.png#0\ta red one"  # nearest to the wrong image
    file = tmp_path / "token"
    file.write_text("\n".join(lines))
    result = image_text.captioned_images(towers, tmp_path, file)
    assert result["image_retrieval_recall@1"] == pytest.approx(14 / 15)
    # Red's own five captions tie with blue's red one, which counts half before them.
    assert result["text_retrieval_recall@1"] == pytest.approx(2 / 3)
    assert result["text_retrieval_recall@5"] == result["image_retrieval_recall@5"] == 1.0
    assert (result["images"], result["captions"]) == (3, 15)
    (tmp_path / "red.png").unlink()
    with pytest.raises(DataError, match=r"red.png: No such file"):
        image_text.captioned_images(towers, tmp_path, file)


def test_flags_are_read_and_half_of_a_pair_is_refused(towers, tmp_path):
    write_images(tmp_path / "set", "test")
    parser = argparse.ArgumentParser()
    image_text.add_flags(parser)
    task = SimpleNamespace(templates=("{}",), classes=())
    path = str(tmp_path / "set" / "test")
    templates = tmp_path / "templates.json"
    templates.write_text(json.dumps(["a {c}", "the {c} one"]))
    args = parser.parse_args(["--zero_shot", path, "--templates", str(templates)])
    result = image_text.evaluate_flags(towers, task, None, args)
    assert result[path]["zero_shot"]["templates"] == 2
    for flags, why in (
        (["--captions", "x"], "--captions=FILE and --images=FOLDER belong together"),
        (["--class_names", "x"], "--zero_shot=PATH, which is missing"),
    ):
        with pytest.raises(DataError, match=why):
            image_text.evaluate_flags(towers, task, None, parser.parse_args(flags))


def test_features_of_another_model_are_refused(tmp_path):
    file, labels = tmp_path / "a" / "x.npz", np.array([0, 1])
    made = np.array([[1.0], [2.0]], np.float32)
    np.testing.assert_array_equal(stored_features(file, "m", labels, lambda: made), made)
    np.testing.assert_array_equal(stored_features(file, "m", labels, lambda: 1 / 0), made)
    for key, other in (("n", labels), ("m", labels + 1)):
        with pytest.raises(DataError, match=r"x.npz: features of m, here they are of"):
            stored_features(file, key, other, lambda: made)
    file.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x.npz: not a file of features"):
        stored_features(file, "m", labels, lambda: made)


def test_a_table_with_numbers_and_a_label_that_is_none(tmp_path):
    blob = images.encode_png(np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "a.png").write_bytes(blob)
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,2\na.png,0\n")
    train, test = image_sets.open_labelled(str(table), 16)
    assert train is None and test.labels.tolist() == [2, 0] and len(test.class_names) == 3
    table.write_text("path,tag\na.png,2\n")
    with pytest.raises(DataError, match="no column 'label'; there are: tag"):
        image_sets.open_labelled(str(table), 16)

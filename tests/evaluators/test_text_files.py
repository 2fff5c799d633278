"""Class names, templates and captions from files: each layout by hand, one line for bad ones."""

import json

import pytest

from active_learning.data.sources.source import DataError
from active_learning.evaluators.text_files import read_captions, read_names, read_templates

COCO = {
    "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 9, "file_name": "9.jpg"}],
    "annotations": [
        {"image_id": 9, "caption": "a dog"},
        {"image_id": 7, "caption": "a cat "},
        {"image_id": 9, "caption": "one dog"},
    ],
}
KARPATHY = {
    "images": [
        {"filename": "1.jpg", "filepath": "val2014", "split": "test", "sentences": [{"raw": "x"}]},
        {"filename": "2.jpg", "split": "restval", "sentences": [{"raw": "y"}, {"raw": "z"}]},
    ]
}


def write(folder, name: str, content) -> object:
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_names_and_templates_a_line_or_as_json(tmp_path):
    lines = write(tmp_path, "names.txt", "tench\ngreat white shark\n\n")
    listed = write(tmp_path, "names.json", ["tench", "great white shark"])
    assert read_names(lines) == read_names(listed) == ("tench", "great white shark")
    templates = write(tmp_path, "t.txt", "a photo of a {}.\na sketch of {c}\n")
    assert read_templates(templates) == ("a photo of a {}.", "a sketch of {}")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty; expected one text a line"),
        ("a\n\nb\n", "text 2 is empty"),
        ('["a", 3]', "expected a JSON list of strings"),
        ('["a"', "not JSON"),
    ],
)
def test_a_bad_file_of_names_is_named(tmp_path, content, why):
    file = write(tmp_path, "names.txt", content)
    with pytest.raises(DataError, match=why) as caught:
        read_names(file)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="No such file"):
        read_names(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "a {name}", "{0} {}"])
def test_a_template_needs_one_place_for_the_name(tmp_path, template):
    file = write(tmp_path, "t.txt", f"a {{}}\n{template}\n")
    with pytest.raises(DataError, match=r"template 2 is .* expected one \{\} for the class name"):
        read_templates(file)


def test_captions_of_coco(tmp_path):
    result = read_captions(write(tmp_path, "captions_val.json", COCO))
    assert result.paths == ("9.jpg", "7.jpg")
    assert result.captions == (("a dog", "one dog"), ("a cat",))


def test_captions_of_karpathys_splits(tmp_path):
    file = write(tmp_path, "dataset_coco.json", KARPATHY)
    assert read_captions(file).paths == ("val2014/1.jpg",)
    assert read_captions(file, "train").captions == (("y", "z"),)
    with pytest.raises(DataError, match="no captions in it for split 'val'"):
        read_captions(file, "val")


def test_captions_of_flickr_and_at_most_five(tmp_path):
    lines = [f"a.jpg#{n}\tcaption {n} ." for n in range(6)] + ["b.jpg#0\tone, two"]
    result = read_captions(write(tmp_path, "results.token", "\n".join(lines)))
    assert result.paths == ("a.jpg", "b.jpg")
    assert result.captions[0] == tuple(f"caption {n} ." for n in range(5))
    assert result.captions[1] == ("one, two",)
    table = write(tmp_path, "captions.txt", 'image,caption\na.jpg,x\na.jpg,"y, z"\n')
    assert read_captions(table).captions == (("x", "y, z"),)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"images": []}', "no captions in it"),
        ('{"other": 1}', "not a caption file that is known"),
        ({"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}, "has no image"),
        ("a.jpg#0\tx\nb.jpg x\n", "line 2 has no tab"),
        ("image,caption\na.jpg,x,y\n", "line 2 has 3 cells"),
        ("", "no captions in it"),
    ],
)
def test_a_bad_caption_file_is_named(tmp_path, content, why):
    file = write(tmp_path, "captions", content)
    with pytest.raises(DataError, match=why) as caught:
        read_captions(file)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)

"""Captions and names from files of any origin."""

import pytest

from active_learning.data import text
from active_learning.data.errors import DataError


def test_clean_text_can_be_encoded():
    assert text.clean("cut \ud83d") == "cut \ufffd"
    assert text.clean("\ud83d\ude00") == "\U0001f600"  # two halves that belong together
    assert text.clean("e\u0301\0") == "\u00e9"
    assert text.encoded("caf\udce9").startswith(b"caf")
    assert text.printable("a\nb\udce9") == "a\\nb\\udce9"
    assert text.clean_value({"a": ["\ud83d", float("nan")]}) == {"a": ["\ufffd", None]}


@pytest.mark.parametrize(
    ("value", "captions"),
    [
        ("a", ["a"]),
        (1984, ["1984"]),
        (["a", " ", None, "b"], ["a", "b"]),
        (None, []),
        (float("nan"), []),
        ("", []),
    ],
)
def test_captions_of_a_value(value, captions):
    assert text.captions(value) == captions


def test_captions_by_language_are_refused_with_the_keys_and_can_be_chosen():
    with pytest.raises(DataError, match=r"keys en, de: name one, e.g. 'COLUMN.en'"):
        text.captions({"en": "a", "de": "b"})
    assert text.column_of(("caption",), "caption.de") == "caption.de"
    assert text.values_of({"caption": [{"de": "b"}, None]}, "caption.de") == ["b", None]


def test_usual_names_of_a_caption_column():
    assert text.column_of(("path", "Title"), "caption") == "Title"
    assert text.column_of(("path",), "caption") is None
    assert text.column_of(("caption",), "words") is None

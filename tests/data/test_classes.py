"""The class rule, by hand-written cases."""

import numpy as np
import pytest

from active_learning.data import classes
from active_learning.data.classes import MISSING, Classes
from active_learning.data.errors import DataError


@pytest.mark.parametrize(
    ("values", "names", "numbers"),
    [
        ([0, 2, 10, 1], ("0", "1", "2", "10"), [0, 2, 3, 1]),
        (["2.0", "0", None, "", float("nan"), 1.0], ("0", "1", "2"), [2, 0, -1, -1, -1, 1]),
        (["007", "7", "08"], ("7", "8"), [0, 0, 1]),
        ([1, 3, 4], ("1", "2", "3", "4"), [0, 2, 3]),  # most of 1 .. 4 occur: all are classes
        ([100123, 7654321, 15075141], ("100123", "7654321", "15075141"), [0, 1, 2]),
        ([True, "false", "TRUE"], ("false", "true"), [1, 0, 1]),
        (["b", "10", "a"], ("10", "a", "b"), [2, 0, 1]),
        ([-1, 0, 1, -1], ("0", "1"), [-1, 0, 1, -1]),
        (["caf\u00e9", "cafe\u0301"], ("caf\u00e9",), [0, 0]),  # composed and decomposed
    ],
)
def test_labels_without_names(values, names, numbers):
    known = classes.of_labels(values, 0, "t.csv")
    assert known.names == names
    assert known.numbers(values, "t.csv").tolist() == numbers


def test_given_names_are_looked_up_by_text_and_counted_by_number():
    known = Classes(("0", "1", "10", "11", "2"), given=True)
    assert known.numbers([2, "2", "10", 4.0, 5, "02", True], "x").tolist() == [
        2,
        4,
        2,
        4,
        MISSING,
        4,
        1,
    ]
    named = Classes(("cat", "dog"), given=True)
    assert named.numbers(["dog", "1", 0, "-1", -1, "elk"], "x").tolist() == [1, 1, 0, -1, -1, -1]


def test_a_number_of_classes_from_the_config():
    assert classes.of_labels([0, 2], 4, "x").names == ("0", "1", "2", "3")
    with pytest.raises(DataError, match=r"config\.data\.classes=3: x has 2 different labels"):
        classes.of_labels(["a", "b"], 3, "x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], r"holds a list \(\[1, 2\]\); one label"),
        ({"a": 1}, "holds a dict"),
        (0.5, "holds 0.5; a class is"),
    ],
)
def test_what_is_no_label_is_refused_by_name(value, message):
    for one in (
        lambda: classes.of_labels([value, 1], 0, "t: 'y'"),
        lambda: Classes(("a", "b")).numbers([value], "t: 'y'"),
    ):
        with pytest.raises(DataError, match=f"^t: 'y' {message}") as error:
            one()
        assert "\n" not in str(error.value)


def test_fewer_than_two_classes_are_refused():
    with pytest.raises(DataError, match="one class, 'a'; two or more"):
        classes.check_several(("a",), "x")


def test_matching_by_name_and_the_line_that_is_printed():
    labels = np.array([0, 1, 2, 0])
    assert classes.matched(labels, ("2", "0", "7"), ("0", "1", "2")).tolist() == [2, 0, MISSING, 2]
    counted = classes.counts(np.array([0, 0, 1], np.int32), ("cat", "dog", "elk"))
    assert counted == {"cat": 2, "dog": 1, "elk": 0}
    assert classes.line(counted, 2) == "3 classes: 0 = cat (2), 1 = dog (1) and 1 more"


@pytest.mark.parametrize("values", [["0.1", "0.2", "1"], ["1e-3", ".5"], ["-0.25", "3"]])
def test_fractions_written_as_texts_are_no_classes(values):
    with pytest.raises(DataError, match=r"x holds .*; a class is a whole number or a name"):
        classes.of_labels(values, 0, "x")


def test_versions_are_names():
    assert classes.of_labels(["1.5", "v2"], 0, "x").names == ("1.5", "v2")

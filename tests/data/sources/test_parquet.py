"""Label columns of Parquet in every type that can be a class; the others are named."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from active_learning.data.sources.from_path import section_of
from active_learning.data.sources.source import DataError
from tests.data.photos import blob

COUNT = 12
NUMBERS = [n % 3 for n in range(COUNT)]
TEXTS = ["abc"[n] for n in NUMBERS]


def opened(folder, label):
    images = [{"bytes": blob("red", n), "path": f"{n}.png"} for n in range(COUNT)]
    parquet.write_table(pa.table({"image": images, "label": label}), folder / "train.parquet")
    return section_of(str(folder)).open().train


def fixed(values, size):
    return pa.array(values, pa.list_(pa.int64(), size))


@pytest.mark.parametrize(
    ("label", "names"),
    [
        (pa.array(NUMBERS, pa.int8()), "012"),
        (pa.array([float(n) for n in NUMBERS]), "012"),
        (pa.array(TEXTS).dictionary_encode(), "abc"),
        (pa.array(TEXTS, pa.large_string()), "abc"),
        (pa.array(TEXTS, pa.string_view()), "abc"),
        (pa.array([n == 1 for n in NUMBERS]), ("false", "true")),
        (pa.array([[n] for n in NUMBERS]), "012"),
        (pa.array([[n] for n in NUMBERS], pa.large_list(pa.int64())), "012"),
        (fixed([[n] for n in NUMBERS], 1), "012"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_a_label_is_read(tmp_path, label, names):
    source = opened(tmp_path, label)
    assert source.class_names == tuple(names)
    wanted = [n == 1 for n in NUMBERS] if len(names) == 2 else NUMBERS
    assert source.labels("label").tolist() == [int(wanted[row]) for row in rows_of(source)]


def rows_of(source):
    """The rows of the file that a source holds, by the names of its examples."""
    return [int(source.name(n).rpartition("/")[2]) for n in range(len(source))]


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        (fixed([[n, n] for n in NUMBERS], 2), r"fixed_size_list<.*int64>\[2\]"),
        (pa.array([[n, 1] for n in NUMBERS]), "list<.*int64>"),
        (pa.array([18000 + n for n in NUMBERS], pa.date32()), r"date32\[day\]"),
        (pa.array([{"a": n} for n in NUMBERS]), "struct<a: int64>"),
        (pa.array([b"a"] * COUNT), "binary"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_what_cannot_be_a_label_is_named(tmp_path, label, kind):
    with pytest.raises(DataError, match=rf"column 'label' holds {kind}; a class is a whole number"):
        opened(tmp_path, label)

"""Tables of rows by example: what is written is read, and what does not fit is refused."""

import json

import numpy as np
import pytest

from active_learning.data.errors import DataError
from active_learning.data.stored_rows import RowTable, folder_for

IDS = np.array([70, 10, 40], np.int64)
COUNTS = np.array([2, 1, 3], np.int64)
ABOUT = {"content": "caption embeddings", "data": "d", "model": "m"}
VALUES = np.arange(24, dtype=np.float32).reshape(6, 4)  # of all examples, in order


def begun(folder, **changes):
    fields = {"about": ABOUT, "ids": IDS, "width": 4, "counts": COUNTS} | changes
    return RowTable.begin(folder, **fields)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_examples_of_several_rows_are_read_by_place_in_any_order_of_writing(tmp_path, dtype):
    table = begun(tmp_path / "t", dtype=dtype)
    table.write(np.array([2, 0]), VALUES[[3, 4, 5, 0, 1]], seconds=3.0)
    assert table.is_stored(np.arange(3)).tolist() == [True, False, True]
    with pytest.raises(DataError, match="no caption embeddings of id 10 and 0 more"):
        table.read(np.array([0, 1]))
    again = begun(tmp_path / "t", dtype=dtype)  # goes on with what is there
    again.write(np.array([1]), VALUES[[2]], seconds=1.0)
    opened = RowTable(tmp_path / "t")
    read = opened.read(np.array([2, 0, 1, 2]), np.array([2, 1, 0, 0]))
    np.testing.assert_array_equal(read, VALUES[[5, 1, 2, 3]])
    np.testing.assert_array_equal(opened.read(np.array([0, 2])), VALUES[[0, 3]])
    assert opened.about["examples"] == 3 and opened.seconds_per_example == pytest.approx(4 / 3)
    assert opened.width == 4 and opened.ids.tolist() == IDS.tolist()


def test_a_value_that_is_no_number_names_its_example_and_nothing_is_written(tmp_path):
    table, bad = begun(tmp_path / "t"), VALUES[[2, 3, 4, 5]]
    bad[2, 1] = np.inf
    with pytest.raises(DataError, match="caption embeddings of id 40 are not finite"):
        table.write(np.array([1, 2]), bad)
    assert not table.is_stored(np.arange(3)).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": IDS[::-1].copy()}, "caption embeddings of another ids"),
        ({"about": ABOUT | {"model": "other"}}, r"another model \(m there, other in this config\)"),
        ({"width": 5}, "another width"),
        ({"dtype": "bfloat16"}, "another dtype"),
    ],
)
def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path, changes, message):
    begun(tmp_path / "t")
    with pytest.raises(DataError, match=message) as caught:
        begun(tmp_path / "t", **changes)
    assert "\n" not in str(caught.value)


def test_damage_is_named_by_its_file(tmp_path):
    folder = tmp_path / "t"
    begun(folder)
    about = json.loads((folder / "about.json").read_text())
    (folder / "about.json").write_text(json.dumps(about | {"dtype": "int4"}))
    with pytest.raises(DataError, match=r"about.json: cannot be read \(KeyError\)"):
        RowTable(folder)
    (folder / "about.json").write_text(json.dumps(about))
    np.save(folder / "starts.npy", np.arange(4))
    with pytest.raises(
        DataError, match=r"values.npy: float32 of shape \(6, 4\), expected .*\(3, 4"
    ):
        RowTable(folder)
    (folder / "ids.npy").unlink()
    with pytest.raises(DataError, match="ids.npy: cannot be read"):
        RowTable(folder)


def test_tables_of_one_store_lie_apart(tmp_path):
    names = {
        folder_for(tmp_path, about, ids).name
        for about in (ABOUT, ABOUT | {"model": "n"}, ABOUT | {"view": "v"})
        for ids in (IDS, IDS[:2])
    }
    assert len(names) == 6

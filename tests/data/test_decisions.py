"""Decisions and conditions: what they keep, and one line for what cannot be read."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from active_learning.data.decisions import parse, read_decisions
from active_learning.data.errors import DataError

COLUMNS = ("key", "score", "issue", "probability")


def row(score=0.5, issue="label", probability=None):
    return {"key": "k", "score": score, "issue": issue, "probability": probability}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("score<0.5", False),
        ("score <= .5".replace(" .", " 0."), True),
        ("score>0.4 and issue=='label'", True),
        ("score>0.6 or issue!='duplicate'", True),
        ("not (score>0.4 and issue=='label')", False),
        ("score>0.9 or score<0.1 and issue=='label'", False),
        ('issue=="label"', True),
        ("probability<0.5", False),
        ("probability!=0.5", True),
        ("score>-1e-3", True),
    ],
)
def test_conditions(condition, expected):
    assert parse(condition, COLUMNS)(row()) is expected


@pytest.mark.parametrize(
    ("condition", "part"),
    [
        ("", "its end"),
        ("score", "its end"),
        ("score<", "its end"),
        ("scores<0.3", "no column 'scores'"),
        ("score<0.3 and", "its end"),
        ("(score<0.3", "not closed"),
        ("score<0.3)", "unexpected ')'"),
        ("score=0.3", "cannot read"),
        ("score<issue", "number or a text"),
        ("__import__('os').system('true')", 'cannot read ".system'),
        ("__import__<0.3", "no column '__import__'"),
        ("score(0.3", "not '('"),
    ],
)
def test_what_cannot_be_read_is_one_line(condition, part):
    with pytest.raises(DataError, match="condition") as error:
        parse(condition, COLUMNS)
    assert part in str(error.value) and "\n" not in str(error.value)


@given(st.text(max_size=30))
def test_any_text_is_parsed_or_refused(text):
    with contextlib.suppress(DataError):
        assert parse(text, COLUMNS)(row()) in (True, False)


def test_a_table_of_decisions(tmp_path):
    file = tmp_path / "decisions.csv"
    file.write_text(
        "key,path,label,decision,new_label\na,p,cat,drop,\nb,p,cat,relabel,dog\nc,p,cat,keep,\n"
    )
    result = read_decisions(str(file))
    assert not result.keeps("a") and result.keeps("b") and result.keeps("unheard of")
    assert result.relabel == {"b": "dog"} and result.keys == {"a", "b"}


def test_a_query_keeps_what_fulfills_it_in_every_row(tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text("key,score,issue\na,0.1,ok\nb,0.95,label\nc,0.2,label\nc,1.0,duplicate\n")
    result = read_decisions(f"{file}:score<0.9")
    assert [result.keeps(key) for key in "abcd"] == [True, False, False, False]
    result = read_decisions(str(file))  # a plain table of keys
    assert [result.keeps(key) for key in "abcd"] == [True, True, True, False]


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "scores.parquet"
    pq.write_table(pa.table({"key": ["a", "b"], "score": [0.1, 0.9]}), file)
    assert read_decisions(f"{file}:score<0.5").only == {"a"}
    file.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable table"):
        read_decisions(f"{file}:score<0.5")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("key,decision\na,burn\n", "row 2 decides 'burn'"),
        ("key,decision,new_label\na,relabel,\n", "gives no new_label"),
        ("name,decision\na,drop\n", "no column 'key'"),
        ("key,decision\na\n", "fewer fields"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, content, part):
    file = tmp_path / "d.csv"
    file.write_text(content)
    with pytest.raises(DataError) as error:
        read_decisions(str(file))
    assert part in str(error.value) and str(file) in str(error.value)


def test_missing_files_and_other_kinds(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_decisions(str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match=r"expected a .csv or .parquet"):
        read_decisions("score<0.3")

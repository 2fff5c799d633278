"""A few cases of each part of the drill, in every run of the suite."""

import pytest

from tests.drill import bad_configs, commands
from tests.drill.__main__ import PARTS, parts
from tests.drill.injections import MARK, _Active
from tests.drill.table import Case, Result, as_json, drill, table

COUNTS = {"kills": 1, "damage": 2, "stops": 1, "configs": 4, "inputs": 6, "injections": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drill")


@pytest.mark.parametrize("part", PARTS)
def test_a_slice_of_the_drill(part, folder):
    (result,) = parts([part], folder / part, COUNTS[part], seed=1, jobs=1)
    assert result.faults == []
    assert result.count == COUNTS[part]


def test_the_same_seed_makes_the_same_configs():
    assert bad_configs.generated(40, 3) == bad_configs.generated(40, 3)
    assert len(set(bad_configs.generated(40, 3))) == 40


@pytest.mark.parametrize(
    ("end", "fault"),
    [
        ({"code": 0}, ""),
        ({"code": 2, "err": "error: config.total='x': no\n"}, ""),
        ({"code": 2, "err": "nothing is said\n"}, "refused without a line"),
        ({"code": 2, "err": "error: one\nerror: two\n"}, "refused without a line"),
        ({"code": 1, "err": "Traceback (most recent call last)\nKeyError: 1\n"}, "traceback: Key"),
        ({"code": 0, "err": "Traceback (most recent call last)\nKeyError: 1\n"}, "traceback: Key"),
        ({"code": -11}, "exit code -11"),
        ({"code": -9, "hung": True}, "hangs"),
    ],
)
def test_how_an_end_is_judged(end, fault):
    done = commands.Done(**({"out": "", "err": "", "seconds": 1.0, "peak": 0} | end))
    assert done.fault().startswith(fault) and bool(done.fault()) == bool(fault)


@pytest.mark.parametrize(
    ("page", "found"),
    [
        (f"<p>&lt;img src=x onerror={MARK}()&gt;</p>", []),
        (f"<img alt='[{MARK}](http://{MARK}.example)' src='data:x'>", []),
        (f"<img src=x onerror={MARK}()>", ["img"]),
        (f"<a href='javascript:{MARK}()'>x</a>", ["a"]),
        (f"<script>alert('{MARK}')</script>", ["script"]),
        (f"<p {MARK}=1>", [MARK]),
        ("<b>bold</b>", ["b"]),
    ],
)
def test_what_is_active_in_a_page(page, found):
    assert _Active(page).found == found


def test_a_case_that_raises_is_a_fault_and_is_counted():
    def broken():
        raise KeyError("summary")

    cases = [Case("fine", lambda: ""), Case("broken", broken)]
    result = drill("part", "all is well", cases, 2, lambda: None)
    assert result.faults == ["part: broken: KeyError: 'summary'"]
    assert "| part | 1/2 | 0 | all is well |" in table([result])
    (part,) = as_json([result])["parts"]
    assert (part["cases"], part["right"], part["faults"]) == (2, 1, result.faults)
    assert table([Result("a", "b")]).count("\n") == 2

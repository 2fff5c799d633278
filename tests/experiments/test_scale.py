"""The measurements beyond one machine are found by the names of their files."""

import pytest

from experiments import scale


def test_parts_are_found_by_step():
    assert "step1_runs" in scale.parts_of(1)
    assert all(name.startswith("step1") for name in scale.parts_of(1))
    assert scale.parts_of(10) == []


def test_a_step_without_measurements_is_refused(capsys):
    with pytest.raises(SystemExit):
        scale.main(["--step=99"])
    assert "invalid choice: 99" in capsys.readouterr().err

"""The headline experiment: what its wall-clock is made of."""

import json

import pytest

from experiments import noise


@pytest.mark.parametrize(("phase", "expected"), [("final", {"active": 3.0}), ("tune", None)])
def test_step_times_are_for_the_final_arms_of_one_ratio(tmp_path, monkeypatch, phase, expected):
    (tmp_path / "times.json").write_text(json.dumps({"active": 3.0}))
    given = []
    monkeypatch.setattr(noise, "run_all", lambda arms, out, store: iter([[]]))
    monkeypatch.setattr(noise, "write", lambda folders, out, metric, title, seconds: given.append(seconds))
    noise.run([], tmp_path, f"noise_smoke_{phase}", tmp_path / "times.json")
    assert given == [expected]

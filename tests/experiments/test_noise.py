"""The headline experiment: what its wall-clock is made of."""

import json

import pytest

from experiments import noise


@pytest.mark.parametrize(("phase", "expected"), [("final", {"active": 3.0}), ("tune", None)])
def test_step_times_are_for_the_final_arms_of_one_ratio(tmp_path, monkeypatch, phase, expected):
    (tmp_path / "times.json").write_text(json.dumps({"active": 3.0}))
    given = []
    monkeypatch.setattr(noise, "run_all", lambda arms, out, store: iter([[]]))
    monkeypatch.setattr(
        noise, "write", lambda folders, out, metric, title, seconds: given.append(seconds)
    )
    noise.run([], tmp_path, f"noise_smoke_{phase}", tmp_path / "times.json")
    assert given == [expected]


def test_choices_are_made_without_the_test_set_and_on_other_seeds():
    scale = noise.SCALES["desk"]
    tuned, final = noise.tune_arms(scale), noise.final_arms(scale)
    assert {arm.config.evaluate.sets for arm in tuned} == {("tune",)}
    seeds = [{seed for arm in arms for seed in arm.seeds} for arms in (tuned, final)]
    assert not seeds[0] & seeds[1]
    assert "60 %" in {arm.config.select.until for arm in tuned}  # the config's own is among them
    assert final[0].config.optim.learning_rate in {arm.config.optim.learning_rate for arm in tuned}

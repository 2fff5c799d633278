"""What bench_parts makes of its times."""

from types import SimpleNamespace

import pytest

from experiments import bench_parts


def test_rates_are_of_cpu_time_as_the_quotients_beside_them(monkeypatch):
    def model(flops):
        return SimpleNamespace(cost=lambda shape: SimpleNamespace(train=flops))

    def interleaved(calls, rounds, repeats, cpu):
        names = {name for pair in bench_parts.QUOTIENTS.values() for name in pair}
        cpu.update({name: [2.0, 2.0, 4.0] for name in names} | {"online update": [1.0, 1.0, 8.0]})
        return {
            name: [10.0, 30.0, 20.0] for name in names
        }  # the clock, which other processes lengthen

    experiment = SimpleNamespace(
        learner=model(600.0), scorer=model(60.0), view=SimpleNamespace(image_shape=(32, 32, 3))
    )
    monkeypatch.setattr(bench_parts, "build", lambda config: experiment)
    monkeypatch.setattr(bench_parts, "calls_of", lambda experiment: {})
    monkeypatch.setattr(bench_parts, "interleaved", interleaved)
    result = bench_parts.bench(rounds=3, repeats=1, preset="smoke")
    b = result["batch_size"]
    assert result["flops_per_second"] == pytest.approx(
        {"learner update": 300.0 * b, "online update": 60.0 * b}
    )
    assert "it reaches 20% of the FLOP/s of the learner's" in bench_parts.table(result)

"""What the moving average of the learner's weights costs: an update with it over one without.

    python -m experiments.bench_ema [--preset=smoke|cpu|gpu] [--rounds 21] [--repeats 10]

Interleaved in one process; the quotients are medians over rounds, in time and in CPU time of this
process, which other processes on the machine do not lengthen.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np

from active_learning.core.sharding import aot_compile
from active_learning.core.step import uniform_step
from active_learning.settings import Config
from active_learning.train.build import build, first_state
from experiments.bench_step import PRESETS, Step, interleaved, step_on

RESULTS = Path(__file__).parent / "results"


def uniform_update(config: Config) -> Step:
    """A compiled update of plain training."""
    experiment = build(config)
    loader = experiment.loader(0)
    batch = loader.next(config.batch_size).batch
    loader.close()
    state = first_state(experiment, experiment.init_scorer(jax.random.key(1)))
    run = aot_compile(partial(uniform_step, experiment.recipe), state, batch)
    return step_on(run, state, batch)


def bench(config: Config, rounds: int, repeats: int) -> dict:
    """Times of both kinds of update, and their quotients."""
    steps = {
        "without": uniform_update(config),
        "with": uniform_update(replace(config, ema="2 %")),
    }
    cpu: dict[str, list[float]] = {}
    seconds = interleaved(steps, rounds, repeats, cpu)
    over = lambda times: np.array(times["with"]) / np.array(times["without"])
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "median_ms": {name: 1e3 * float(np.median(times)) for name, times in seconds.items()},
        "time": float(np.median(over(seconds))),
        "cpu_time": float(np.median(over(cpu))),
        "cpu_time_error": float(over(cpu).std(ddof=1) / np.sqrt(rounds)),
        "rounds": rounds,
        "repeats": repeats,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    cases = PRESETS[args.preset]()
    result = {name: bench(config, args.rounds, args.repeats) for name, config in cases.items()}
    for name, one in result.items():
        print(
            f"{name}: {one['time']:.3f} in time, {one['cpu_time']:.3f} +- "
            f"{one['cpu_time_error']:.3f} in CPU time"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"bench_ema_{args.preset}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

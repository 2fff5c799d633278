"""What the parts of an update cost, and what was tried to make them cheaper: quotients, timed in
turns in one process.

    python -m experiments.bench_parts [--preset=smoke|cpu] [--rounds 7] [--repeats 10] [--out DIR]

The table "expected / seen" of docs/performance.md is made from the result.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from active_learning.core.recipe import Batch, Recipe, TrainState
from active_learning.core.sharding import aot_compile
from active_learning.core.step import select_step, uniform_step
from active_learning.train.build import Experiment, build, first_state
from experiments.bench_step import PRESETS, Step, interleaved, step_on


def descent(model, params) -> Callable[[], Any]:
    """The optimizer alone: its update from a gradient as large as the parameters."""

    def move(params, moments):
        updates, moments = model.optimizer.update(params, moments, params)
        return optax.apply_updates(params, updates), moments

    return partial(jax.jit(move), params, model.optimizer.init(params))


def update(recipe: Recipe, state: TrainState, batch: Batch) -> Step:
    """A plain update of the recipe's learner."""
    state = jax.tree.map(lambda x: x.copy(), state)
    return step_on(aot_compile(partial(uniform_step, recipe), state, batch), state, batch)


def cut(image: jax.Array, patch: int) -> jax.Array:
    """Images as rows of patches, as the ViT cuts them."""
    size, rows = image.shape[0], image.shape[1] // patch
    parts = image.reshape(size, rows, patch, rows, patch, -1).transpose(0, 1, 3, 2, 4, 5)
    return parts.reshape(size, rows * rows, -1)


def calls_of(experiment: Experiment) -> dict[str, Callable[[], Any]]:
    """What is timed: each call runs it once."""
    b, ratio = experiment.config.batch_size, experiment.config.select.ratio
    loader = experiment.loader(0)
    candidates, batch = (jax.tree.map(jnp.asarray, loader.next(n).batch) for n in (b * ratio, b))
    loader.close()
    fresh = [experiment.init_scorer(jax.random.key(seed)) for seed in (1, 2)]
    state, scorer = first_state(experiment, fresh[1]), experiment.recipe.scorer
    score = lambda params, rows: scorer.act_loss(scorer.apply(params, rows, False), rows)
    pair = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fresh)
    floats = lambda image: image.astype(jnp.float32) / 127.5 - 1.0
    image, patch = batch["image"], experiment.scorer.patch
    small = replace(experiment.recipe, learner=scorer)
    learner = replace(state, online=None, reference=None)
    return {
        "learner update": update(experiment.recipe, learner, batch),
        "online update": update(small, replace(learner, learner=state.online), batch),
        "augmentation": partial(jax.jit(experiment.recipe.augment), batch, state.key),
        "learner AdamW": descent(experiment.recipe.learner, state.learner.params),
        "online AdamW": descent(scorer, fresh[0]),
        "patches of floats": partial(jax.jit(lambda x: cut(x, patch)), floats(image)),
        "patches of bytes, then floats": partial(jax.jit(lambda x: floats(cut(x, patch))), image),
        "floats, then patches": partial(jax.jit(lambda x: cut(floats(x), patch)), image),
        "scorers in turn": partial(
            jax.jit(lambda p, q, rows: (score(p, rows), score(q, rows))), *fresh, batch
        ),
        "scorers in one call": partial(jax.jit(jax.vmap(score, (0, None))), pair, batch),
        "scoring in chunks": partial(
            jax.jit(partial(select_step, experiment.recipe)), state, candidates
        ),
        "scoring all at once": partial(
            jax.jit(partial(select_step, replace(experiment.recipe, score_chunk=0))),
            state,
            candidates,
        ),
    }


# figure -> (what, over what); medians over rounds of the quotients within a round
QUOTIENTS = {
    "augmentation": ("augmentation", "online update"),
    "online_adamw": ("online AdamW", "online update"),
    "learner_adamw": ("learner AdamW", "learner update"),
    "patches": ("patches of floats", "online update"),
    "patches_of_bytes": ("patches of bytes, then floats", "floats, then patches"),
    "one_call": ("scorers in one call", "scorers in turn"),
    "all_at_once": ("scoring all at once", "scoring in chunks"),
}


def bench(rounds: int, repeats: int, preset: str) -> dict:
    (config,) = PRESETS[preset]().values()
    experiment = build(config)
    cpu: dict[str, list[float]] = {}
    seconds = {
        name: np.array(t)
        for name, t in interleaved(calls_of(experiment), rounds, repeats, cpu).items()
    }
    b, costs = (
        config.batch_size,
        (
            experiment.learner.cost(experiment.view.image_shape),
            experiment.scorer.cost(experiment.view.image_shape),
        ),
    )
    rates = {
        name: b * cost.train / float(np.median(cpu[name]))
        for name, cost in zip(("learner update", "online update"), costs, strict=True)
    }
    over = lambda of: {
        key: float(np.median(np.array(of[a]) / np.array(of[c])))
        for key, (a, c) in QUOTIENTS.items()
    }
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "batch_size": b,
        "ratio": config.select.ratio,
        "chunk": config.select.score_chunk,
        "median_ms": {name: 1e3 * float(np.median(values)) for name, values in seconds.items()},
        "flops_per_second": rates,  # of CPU time, as the quotients of the table
        "quotients": over(seconds),
        "quotients_cpu": over(cpu),
        "rounds": rounds,
    }


def table(result: dict) -> str:
    """What was expected of the step, and what was measured: quotients in CPU time, which other load
    disturbs less.
    """
    q, rate = result["quotients_cpu"], result["flops_per_second"]
    rows = [
        (
            "Augmentation costs the small models a lot: it reads pixel by pixel",
            f"{q['augmentation']:.1%} of the small update",
        ),
        (
            "AdamW over many small arrays is mostly overhead",
            f"{q['online_adamw']:.1%} of the online model's update, "
            f"{q['learner_adamw']:.1%} of the learner's",
        ),
        (
            "The loader waits",
            "it reads ahead in a thread; nothing of it is inside the step",
        ),
        (
            "Cutting images into patches is expensive",
            f"a transpose of 6-D float32 is {q['patches']:.0%} of the small update; cut "
            f"as bytes and made floats afterwards it takes "
            f"{q['patches_of_bytes']:.2f} times the other order",
        ),
        (
            "Online and reference scored in one batched call (`vmap` over stacked "
            "parameters) save launches",
            f"{q['one_call']:.2f} times the time of one after the other: two products "
            f"of few columns become a batched product. Not kept",
        ),
        (
            "Larger scoring chunks are faster",
            f"all {result['batch_size'] * result['ratio']} candidates at once take "
            f"{q['all_at_once']:.2f} times as long as chunks of "
            f"{result['chunk']} (they leave the cache)",
        ),
        (
            "The small update is bound by its products",
            f"it reaches {rate['online update'] / rate['learner update']:.0%} of the "
            f"FLOP/s of the learner's. The rest are layer norms, tanh of "
            "GELU, residuals and transposes at small width, which move memory for "
            "little arithmetic. This is what the efficiency quotient "
            "shows",
        ),
    ]
    return "| expected | seen |\n| --- | --- |\n" + "\n".join(f"| {a} | {c} |" for a, c in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=("smoke", "cpu"), default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=10, help="calls a round")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    result = bench(args.rounds, args.repeats, args.preset)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"bench_parts_{args.preset}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""Joint selection: its cost in a whole step (`cpu`), and alone its memory and time at the size of
JEST's super-batches with its share of a step with a ViT-B learner (`full`); `smoke`: both, tiny.

    python -m experiments.bench_joint --preset=cpu|full|smoke [--rounds 9] [--out FILE.json]

`cpu`: the table of `experiments.joint_cost`, every step in turns over the uniform one.
`full`: B = 32,768 candidates, b = 6,554, 16 chunks, embeddings of a SigLIP B/16 (768 numbers), two
models. Peak memory is that of the process (its growth from just before the embeddings are made), so
run it alone. The share is analytic: products of joint selection over the FLOPs of a step whose
scorers are ViT-Ti, chunk and tile included; the time is that of this machine.
"""

import argparse
import json
import resource
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from active_learning.core import contrastive, policies, scores, select
from active_learning.cost import ledger
from active_learning.models import VARIANTS, Text, TwoTower, ViT
from experiments import joint_cost

PRESETS = {"full": (32_768, 6_554, 768), "smoke": (1_024, 128, 64)}


def peak() -> float:
    """Largest resident memory of the process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def tower(variant: str) -> TwoTower:
    """A SigLIP of one size: 224 px, patches of 16, 64 tokens."""
    size = VARIANTS[variant]
    text = Text(vocab=32_000, context=64, pool="last", **size)
    return TwoTower(ViT(patch=16, pool="map", **size), text, image_out=0, text_out=size["width"])


def embeddings(size: int, width: int, seed: int) -> contrastive.Embeddings:
    """Random unit vectors, the scale and bias that SigLIP starts from."""
    make = jax.jit(lambda key: contrastive.l2_normalize(jax.random.normal(key, (size, width))))
    image, text = (make(key) for key in jax.random.split(jax.random.key(seed)))
    return contrastive.Embeddings(image, text, jnp.full((size,), 10.0), jnp.full((size,), -10.0))


def measure(size: int, b: int, width: int) -> dict:
    """Figures of one choice, compiled before it is timed."""
    before = peak()
    online, reference = (embeddings(size, width, seed) for seed in (0, 1))
    pairs, _ = policies.joint.score(scores.ScoreInputs(online=online, reference=reference), ())
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((pairs.hard, pairs.easy)))
    choose = (
        jax.jit(partial(select.joint, b=b, chunks=16)).lower(jax.random.key(0), pairs).compile()
    )
    began = time.perf_counter()
    chosen = jax.block_until_ready(choose(jax.random.key(0), pairs)).indices
    seconds = time.perf_counter() - began
    assert len(set(chosen.tolist())) == b
    products = (
        2 * 2 * 2.0 * size * b * width
    )  # two models, rows and columns, two FLOPs a multiply-add
    shape = (224, 224, 3)
    costs = ledger.step_costs(
        tower("B").cost(shape), tower("Ti").cost(shape), policies.joint.needs, b, round(size / b)
    )
    return {
        "candidates": size,
        "chosen": b,
        "embedding": width,
        "seconds": round(seconds, 2),
        "embeddings_bytes": held,
        "peak_bytes": peak() - before,
        "peak_over_embeddings": round((peak() - before) / held, 2),
        "temporaries_bytes": choose.memory_analysis().temp_size_in_bytes,
        "flops": products,
        "step_flops": sum(costs.values()),
        "share_of_step": products / sum(costs.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=(*PRESETS, "cpu"), default="full")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict = {}
    if args.preset in PRESETS:
        result = measure(*PRESETS[args.preset])
    for name, value in result.items():
        print(f"{name:22s} {value:,.6g}" if isinstance(value, float) else f"{name:22s} {value:,}")
    if args.preset in joint_cost.SIZES:
        smoke = args.preset == "smoke"  # compiling all of them takes longer than it is worth
        names = ("uniform", "Flexi, stored reference") if smoke else ()
        rounds = 2 if smoke else args.rounds
        result["cost"] = joint_cost.measure(joint_cost.SIZES[args.preset], rounds, names)
        print("\n".join(joint_cost.lines(result["cost"])))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A model in plain JAX and a loop of one's own: `python -m examples.plain_jax`."""

from functools import partial

import jax
import optax

import active_learning as al
from examples import blobs


def model(width: int, rate: float, seed: int) -> tuple[al.Model, dict]:
    """An MLP with one hidden layer as functions, and its first parameters."""
    keys = jax.random.split(jax.random.key(seed))
    params = {
        "hidden": jax.random.normal(keys[0], (blobs.DIMENSIONS, width)) / blobs.DIMENSIONS**0.5,
        "head": jax.random.normal(keys[1], (width, blobs.CLASSES)) / width**0.5,
    }

    def apply(params, batch, train):
        return jax.nn.relu(batch["x"] @ params["hidden"]) @ params["head"]

    def loss(logits, batch):
        return al.losses.softmax_xent(logits, batch["label"])

    return al.Model(apply, loss, loss, optax.adam(rate)), params


def train(recipe: al.Recipe, state: al.TrainState, data: dict, updates: int) -> al.TrainState:
    """The loop: B candidates per update where the policy scores, b examples where it does not."""
    selects = bool(recipe.policy.needs)
    step = jax.jit(partial(al.train_step if selects else al.uniform_step, recipe), donate_argnums=0)
    for batch in blobs.batches(data, recipe.sub_batch_size * (4 if selects else 1), updates):
        state, _ = step(state, batch)
    return state


def main(policy: al.Policy = al.policies.cautious_learnability, updates: int = 60) -> float:
    """Trains on corrupted labels, and returns the accuracy on clean ones."""
    key, clean = jax.random.key(0), blobs.points(2000, seed=3)
    learner, large = model(256, 1e-3, seed=0)
    (scorer, small), (_, untrained) = model(32, 3e-3, seed=1), model(32, 3e-3, seed=2)
    # The reference learns from held-out examples whose labels are as corrupted as the others.
    alone = al.Recipe(learner=scorer, sub_batch_size=64)
    held_out = blobs.points(4000, corrupted=0.6, seed=1)
    reference = train(
        alone, al.init_state(alone, key, untrained), held_out, 8 * updates
    ).learner.params
    recipe = al.Recipe(
        learner=learner, scorer=scorer, policy=policy, sub_batch_size=64, temperature=0.5
    )
    state = al.init_state(recipe, key, large, online=small, reference=reference)
    state = train(recipe, state, blobs.points(8000, corrupted=0.6, seed=2), updates)
    logits = learner.apply(state.learner.params, clean, False)
    return float((logits.argmax(axis=1) == clean["label"]).mean())


if __name__ == "__main__":
    print(f"uniform {main(al.policies.uniform):.1%}, selected {main():.1%}")

"""A tiny world for the step's tests: linear softmax classifiers in plain JAX on 4 x 4 images, no
trainer and no Flax.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import active_learning as al
from active_learning.core import contrastive, losses, sharding

CLASSES, SIDE = 5, 4
LEARNER_RATE, ONLINE_RATE = 0.5, 0.25


def apply(params, batch, train):
    del train
    x = batch["image"].reshape(batch["image"].shape[0], -1).astype(jnp.float32) / 255.0
    return {"logits": x @ params["w"] + params["b"][None]}


def loss(outputs, batch):
    return losses.softmax_xent(outputs["logits"], batch["label"])


def model(rate: float) -> al.Model:
    return al.Model(apply, loss, loss, optax.sgd(rate))


def params(seed: int):
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.normal(size=(SIDE * SIDE * 3, CLASSES)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=CLASSES), jnp.float32),
    }


def pair_model(rate: float = 0.1) -> al.Model:
    """Images against the same images in another space, sigmoid loss with a learned scale."""

    def embed(params, batch, train):
        del train
        x = batch["image"].reshape(batch["image"].shape[0], -1).astype(jnp.float32) / 255.0
        rows = (x.shape[0],)
        towers = (contrastive.l2_normalize(x @ params[name]) for name in ("image", "text"))
        return contrastive.Embeddings(
            *towers, jnp.broadcast_to(params["t"], rows), jnp.broadcast_to(params["b"], rows)
        )

    def sigmoid(outputs, batch):
        scale, bias = outputs.scale[0], outputs.bias[0]
        return contrastive.sigmoid(outputs.image, outputs.text, scale, bias)

    return al.Model(embed, sigmoid, sigmoid, optax.sgd(rate), pairwise=True)


def pair_params(seed: int = 0):
    keys = jax.random.split(jax.random.key(seed))
    matrices = {
        name: jax.random.normal(key, (SIDE * SIDE * 3, 6))
        for name, key in zip(("image", "text"), keys, strict=True)
    }
    return matrices | {"t": jnp.float32(3.0), "b": jnp.float32(-1.0)}


def batch(size: int, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    rows = {
        "image": rng.integers(0, 256, (size, SIDE, SIDE, 3)).astype(np.uint8),
        "label": rng.integers(0, CLASSES, size).astype(np.int32),
        "id": np.stack([np.full(size, seed), rng.permutation(size) + 1000], axis=-1).astype(
            np.uint32
        ),
        "epoch": np.zeros(size, np.int32),
    }
    return {name: jnp.asarray(values) for name, values in rows.items()}


def recipe(**changes) -> al.Recipe:
    base = al.Recipe(
        learner=model(LEARNER_RATE),
        scorer=model(ONLINE_RATE),
        policy=al.policies.learnability,
        sub_batch_size=8,
        temperature=0.5,
    )
    return dataclasses.replace(base, **changes)


def state(of: al.Recipe, seed: int = 0) -> al.TrainState:
    return al.init_state(of, jax.random.key(seed), params(1), params(2), params(3))


def on(mesh, *trees):
    """A batch over the mesh's data axis, other trees replicated."""
    batch, *others = trees
    return jax.device_put(batch, sharding.batch_sharding(mesh)), *(
        jax.device_put(t, sharding.replicated(mesh)) for t in others
    )


def mesh_of(count: int):
    return al.make_mesh(jax.devices()[:count])


def host(tree):
    """A pytree as NumPy, typed keys as their words."""

    def unwrap(x):
        return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.device_get(jax.tree.map(unwrap, tree))

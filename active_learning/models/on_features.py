"""Scorers that are heads on stored features of published weights."""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from active_learning.config import ConfigError, Section, setting
from active_learning.cost import flops
from active_learning.models.frozen import head_inputs
from active_learning.models.layers import Dense
from active_learning.models.published import Published, Resolved, open_published


@dataclass(frozen=True)
class OnFeatures(Section):
    """Reference and online model are heads on features that a published model gives once.

    One pass over the data computes and stores the features, by id; scoring a candidate then reads
    a row of a file and costs one small product. Features are of the unaugmented view.
    """

    # The weights that give the features, as in `Published`; '': those of config.learner.
    of: str = ""
    # Attention heads of these weights, where the file does not say; 0: as it says.
    heads: int = setting(0, at_least=0, at_most=4096)
    # 'linear', or 'mlp' with one hidden layer.
    head: str = setting("linear", one_of=("linear", "mlp"))
    # Hidden units of an 'mlp'.
    width: int = setting(256, at_least=1, at_most=2**16)
    # Folder of the stored features, which several runs may share; '': WORKDIR/features.
    store: str = setting("", hashed=False)
    # Whether the pass over the training data is on this run's bill.
    charge: bool = True

    def published(self, learner: Any) -> Published:
        """The weights that give the features.

        Args:
          learner: Value of config.learner, whose weights they are where `of` is empty.

        Raises:
          ConfigError: `of` is empty and the learner starts from no weights.
        """
        if self.of:
            return Published(path=self.of, heads=self.heads)
        if isinstance(learner, OnFeatures) and learner.of:
            return learner.published(learner)
        if not isinstance(learner, Published):
            raise ConfigError(
                "config.scorer.of='': config.learner does not start from published weights, so "
                "give a .safetensors or .npz file, or a folder with one"
            )
        return Published(path=learner.path, heads=learner.heads, patch=learner.patch)


def alone(scorer: Any, learner: Any) -> Any:
    """The scorer as the learner of a run of its own, which trains a reference.

    Its features are on the bill of the run that needs the reference.
    """
    if not isinstance(scorer, OnFeatures):
        return scorer
    published = scorer.published(learner)
    return replace(scorer, of=published.path, heads=published.heads, charge=False)


class FeatureHead(nn.Module):
    """Maps stored features to logits: normalization, at most one hidden layer, and a linear layer.

    Normalization is that of each example, without parameters.
    """

    num_classes: int = 0
    # Features of an example.
    inputs: int = 0
    # Hidden units; 0: none.
    width: int = 0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, features: Float[Array, "B D"], *, train: bool = False) -> dict[str, Array]:
        del train  # The same function in both modes.
        x = nn.LayerNorm(use_scale=False, use_bias=False, dtype=self.dtype)(features)
        if self.width:
            x = nn.gelu(Dense(self.width, dtype=self.dtype, name="hidden")(x))
        x = x.astype(jnp.float32)
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head")(x)
        return {"logits": logits, "features": x}

    def cost(self, image_shape: tuple[int, int, int]) -> flops.Cost:
        """FLOPs per example; the size of the images does not matter."""
        del image_shape
        if not self.width:
            return flops.dense(1, self.inputs, self.num_classes, first=True)
        hidden = flops.dense(1, self.inputs, self.width, first=True)
        return hidden + flops.dense(1, self.width, self.num_classes)


def open_features(scorer: OnFeatures, learner: Any, key: str) -> tuple[Resolved, FeatureHead]:
    """The model that gives the features, without a head, and the head that reads them.

    Args:
      scorer: The config value.
      learner: Value of config.learner.
      key: Of `scorer` in the config, for error messages.

    Raises:
      ConfigError: Names the key and what is wrong with the weights.
    """
    published = scorer.published(learner)
    named = f"{key}.of" if scorer.of else "config.learner"
    resolved = open_published(published, texts=False, key=named)
    module = replace(resolved.module, num_classes=0)
    width = scorer.width if scorer.head == "mlp" else 0
    head = FeatureHead(inputs=head_inputs(module), width=width)
    return replace(resolved, module=module), head

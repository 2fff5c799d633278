"""Features of a published model for curation: frozen, at its own image size, on all local devices.

Heads on these features are cross-fitted as on any others. Blocks of features are kept as pieces,
so that a pass that was stopped goes on where it was.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int64, UInt8

from active_learning.config import ConfigError
from active_learning.curation.features import compress
from active_learning.curation.sharing import Sharing
from active_learning.data import images
from active_learning.data.sources.on_disk import threads_here
from active_learning.data.transforms import normalize
from active_learning.models.published import Published, Resolved, open_published
from active_learning.storage.pieces import Pieces, signature

BLOCK = 512  # images whose features are written at once
BATCH = 64  # images that run at once on each device
COMPONENTS = 512  # principal components that are kept, at most


@dataclass(frozen=True)
class Trunk:
    """A published model without its head.

    Attributes:
      resolved: Its file.
    """

    resolved: Resolved

    @classmethod
    def open(cls, path: Path) -> "Trunk":
        """Reads what a file says; no values. Raises ConfigError naming --weights."""
        resolved = open_published(Published(path=str(path)), texts=False, key="--weights")
        height, width, _ = resolved.about.image_shape
        if height != width:
            raise ConfigError(
                f"--weights={path}: for images of {height} x {width}, which is not square"
            )
        return cls(resolved)

    @property
    def mark(self) -> str:
        """A hash of the weights."""
        return self.resolved.content_hash()

    def features(
        self,
        picture: Callable[[int], UInt8[np.ndarray, "h w c"]],
        rows: Int64[np.ndarray, "m"],
        digests: np.ndarray,
        sharing: Sharing,
        progress: Callable[[float, str], None],
    ) -> Float[np.ndarray, "m d"]:
        """Unit vectors: half-whitened principal components of the model's features.

        Args:
          picture: Reads one example at its full size.
          rows: The examples.
          digests: Of the content of these examples.
          sharing: Where blocks are kept, and who makes them.
          progress: Called with (share done, what).
        """
        pieces = Pieces(sharing.work, signature(self.mark))
        starts = range(0, len(rows), BLOCK)
        forward: list[Callable] = []  # made for the first block that is missing

        def make(number: int) -> dict[str, np.ndarray]:
            start = starts[number]
            if not forward:
                forward.append(self._forward())
            made = {"features": forward[0](picture, rows[start : start + BLOCK])}
            progress(min(start + BLOCK, len(rows)) / len(rows), "features of the given weights")
            return made

        names = [f"trunk-{start}-{signature(digests[start : start + BLOCK])}" for start in starts]
        sharing.all(pieces, names, make)
        progress(1.0, "features of the given weights")
        blocks = [pieces.get(name)["features"] for name in names]
        return compress(np.concatenate(blocks), COMPONENTS)

    def _forward(self) -> Callable[[Callable, np.ndarray], Float[np.ndarray, "k d"]]:
        """(picture, rows) -> features, with the parameters read and placed once."""
        about = self.resolved.about
        module = dataclasses.replace(self.resolved.module, num_classes=0)
        size = about.image_shape[0]
        params = self.resolved.adapted(module, about.image_shape).params(jax.random.key(0))
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        by_row = NamedSharding(mesh, PartitionSpec("data"))
        batch = BATCH * mesh.size

        @jax.jit
        def run(params, pixels: UInt8[Array, "b s s c"]) -> Float[Array, "b d"]:
            outputs = module.apply({"params": params}, normalize(pixels, about.mean, about.std))
            return outputs["features"].astype(jnp.float32)

        def forward(picture: Callable, rows: np.ndarray) -> np.ndarray:
            out = []
            with ThreadPoolExecutor(threads_here(), "decode") as pool:
                for start in range(0, len(rows), batch):
                    part = rows[start : start + batch].tolist()
                    views = list(pool.map(lambda row: _view(picture(row), size), part))
                    filled = views + [views[-1]] * (batch - len(views))
                    outputs = run(params, jax.device_put(np.stack(filled), by_row))
                    out.append(np.asarray(outputs)[: len(views)])
            return np.concatenate(out)

        return forward


def _view(picture: UInt8[np.ndarray, "h w c"], size: int) -> UInt8[np.ndarray, "s s 3"]:
    """The picture in color, covering size x size."""
    color = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
    return images.cover(color, size)

"""TPU slices by name: what their chips are, and the devices that the TPU compiler compiles for."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from active_learning.config import ConfigError
from active_learning.core.sharding import Device


@dataclass(frozen=True)
class Chip:
    """Data sheet of a chip."""

    # GiB.
    memory: float
    # Bytes a second, of the memory and of all links together.
    memory_bandwidth: float
    links: float


CHIPS = {  # by `jax.Device.device_kind`
    "TPU v5 lite": Chip(16.0, 819e9, 200e9),
    "TPU v5": Chip(95.0, 2765e9, 600e9),
    "TPU v6 lite": Chip(32.0, 1640e9, 448e9),
}
# Generation: dimensions of its topologies, and most chips of a slice.
GENERATIONS = {"v5e": (2, 256), "v6e": (2, 256), "v5p": (3, 8960)}
# Names that clouds give to slices: chips of v5e and v6e, TensorCores (two a chip) of v5p.
_SQUARE = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_CUBE = {
    8: "2x2x1",
    16: "2x2x2",
    32: "2x2x4",
    64: "2x4x4",
    128: "4x4x4",
    256: "4x4x8",
    512: "4x8x8",
    1024: "8x8x8",
    2048: "8x8x16",
    4096: "8x16x16",
}
_SLICES = {
    "v5litepod": ("v5e", _SQUARE),
    "v5e": ("v5e", _SQUARE),
    "v6e": ("v6e", _SQUARE),
    "v5p": ("v5p", _CUBE),
}
_LAYOUT = re.compile(r"(\w+):([1-9]\d*(?:x[1-9]\d*)*)")
_EXPECTED = (
    "expected a topology such as v5e:16x16, v6e:8x8 or v5p:4x4x4, or a cloud's name for a slice "
    "such as v5litepod-256, v6e-64 or v5p-128"
)


def is_slice(places: Sequence[Sequence[int]]) -> bool:
    """Whether some chips of a slice, by their coordinates, are a slice: a full known rectangle."""
    sides = (np.ptp(np.array(places), axis=0) + 1).tolist()
    shape = sorted(side for side in sides if side > 1)
    whole = {*_SQUARE.values(), *_CUBE.values()}
    known = [sorted(int(n) for n in name.split("x") if n != "1") for name in whole]
    return math.prod(sides) == len(places) and shape in known


def canonical(topology: str) -> str:
    """The compiler's name of a topology: 'v5litepod-256' and 'v5e:16x16' are 'v5e:16x16'.

    Raises:
      ConfigError: For a name that is not known. The compiler is not asked: libtpu ends the process
        on some of them.
    """
    text = topology.strip().lower()
    kind, _, count = text.partition("-")
    if kind in _SLICES and count.isdigit():
        generation, layouts = _SLICES[kind]
        if int(count) not in layouts:
            sizes = ", ".join(str(size) for size in layouts)
            raise ConfigError(
                f"--topology={topology}: no such slice; {kind}-N with N one of {sizes}"
            )
        return f"{generation}:{layouts[int(count)]}"
    match = _LAYOUT.fullmatch(text)
    if match is None or match[1] not in GENERATIONS:
        raise ConfigError(f"--topology={topology}: unknown; {_EXPECTED}")
    dimensions, most = GENERATIONS[match[1]]
    sides = [int(side) for side in match[2].split("x")]
    if len(sides) != dimensions or math.prod(sides) > most:
        raise ConfigError(
            f"--topology={topology}: "
            f"{match[1]} has {dimensions} dimensions and at most {most} chips"
        )
    return text


def devices_of(topology: str) -> list[Device]:
    """The chips of a topology such as 'v5e:16x16' or 'v5litepod-256'; nothing is allocated on them.

    Raises:
      ConfigError: For an unknown topology, without libtpu, or while another process uses it.
    """
    name = canonical(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology={topology}: needs the TPU compiler, pip install -e '.[plan]'"
        )
    # Keeps libtpu from asking a cloud's metadata server which machine this is.
    for variable, value in (
        ("SKIP_MDS_QUERY", "1"),
        ("ACCELERATOR_TYPE", "none"),
        ("WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(f"TPU_{variable}", value)
    from jax.experimental import topologies

    try:
        devices = list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
    except Exception as error:  # libtpu raises several kinds
        why = str(error).splitlines()[0]
        if "lockfile" in why or "libtpu_lock" in why:
            raise ConfigError(
                f"--topology={topology}: another process is using libtpu; wait until it ends, or "
                "set ALLOW_MULTIPLE_LIBTPU_LOAD=1 if it only compiles too"
            ) from error
        raise ConfigError(
            f"--topology={topology}: refused by libtpu ({why}); {_EXPECTED}"
        ) from error
    kind = devices[0].device_kind
    if kind not in CHIPS:
        known = ", ".join(CHIPS)
        raise ConfigError(f"--topology={topology}: no data sheet for {kind}; known: {known}")
    return devices

"""Time and peak memory of reading published weights: a self-made file of 400M random parameters.

    python -m experiments.bench_weights [--parameters=400] [--layout=timm|hf|npz] [--dtype=F32|BF16]

The file is written and read in processes of their own. The peak is the largest resident size that
the operating system saw (mapped pages included) less that before reading, over the size of the
parameters in float32.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from active_learning.models import ViT
from active_learning.models.weights import About, open_weights
from active_learning.models.weights.files import layout_for
from active_learning.models.weights.table import expand, expected_shape, leaves_of

SHAPE = (224, 224, 3)


def module_of(millions: int) -> ViT:
    """A ViT of about so many million parameters; 400 is about So400m."""
    width = 1152
    depth = max(1, round(millions * 1e6 / (12 * width * width)))
    fields = {"qkv_bias": "qkv", "activation": "gelu", "prefix_positions": 1}
    return ViT(num_classes=1000, width=width, depth=depth, heads=16, pool="cls", **fields)


def write(folder: Path, module: ViT, fmt: str, dtype: str) -> None:
    """Writes random tensors under the publisher's names, and the config beside them."""
    layout, leaves = layout_for(module, fmt), leaves_of(module, SHAPE)
    rows = expand(layout.table(module, layout.written_prefix(module)), module, leaves)
    rng, kind = np.random.default_rng(0), {"F32": np.float32, "BF16": ml_dtypes.bfloat16}[dtype]
    tensors = {
        r.theirs: rng.standard_normal(expected_shape(r, module, leaves), np.float32).astype(kind)
        for r in rows
    }
    if layout.tensors_file.endswith(".npz"):
        np.savez(folder / layout.tensors_file, **tensors)
    else:
        from safetensors.numpy import save_file

        save_file(tensors, folder / layout.tensors_file)
    for name, content in layout.files(module, About(SHAPE)).items():
        (folder / name).write_text(json.dumps(content))


def peak() -> float:
    """Largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def read(folder: Path) -> dict[str, float]:
    """Reads all parameters, and says what it took."""
    weights = open_weights(folder)
    before, start = peak(), time.perf_counter()
    params = weights.params()
    seconds = time.perf_counter() - start
    size = 4.0 * sum(int(np.prod(shape)) for shape in weights.leaves.values())
    assert params
    return {
        "gigabytes": size / 1e9,
        "seconds": seconds,
        "peak_ratio": (peak() - before) / size,
        "peak_ratio_of_the_process": peak() / size,
    }


def main() -> None:
    """Writes, reads and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=400, help="millions")
    parser.add_argument("--layout", default="timm", choices=("timm", "hf", "npz"))
    parser.add_argument("--dtype", default="F32", choices=("F32", "BF16"))
    parser.add_argument("--step", default="", help="write or read, within a folder")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.step == "write":
        write(args.folder, module_of(args.parameters), args.layout, args.dtype)
    elif args.step == "read":
        print(json.dumps(read(args.folder)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            for step in ("write", "read"):
                command = [sys.executable, "-m", "experiments.bench_weights", *sys.argv[1:]]
                more = [f"--step={step}", f"--folder={folder}"]
                subprocess.run([*command, *more], check=True)


if __name__ == "__main__":
    main()

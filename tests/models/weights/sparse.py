"""Published files of full size that take no room: the names, shapes and config, all values 0."""

import json
import struct
from pathlib import Path

from active_learning.models import VARIANTS, ViT
from active_learning.models.weights import About, layout_for
from active_learning.models.weights.table import expand, expected_shape, leaves_of

IMAGENET = About((224, 224, 3))


def vit(size: str, classes: int = 1000) -> ViT:
    """A standard ViT with patches of 16 px, as timm has it."""
    timm = {"pool": "cls", "prefix_positions": 1, "activation": "gelu", "qkv_bias": "qkv"}
    return ViT(num_classes=classes, patch=16, **timm, **VARIANTS[size])


def write(out: Path, module: ViT, about: About = IMAGENET) -> Path:
    """Writes a folder in timm's layout; the file system stores no zeros."""
    layout, leaves = layout_for(module, "timm"), leaves_of(module, about.image_shape)
    header, at = {}, 0
    for row in expand(layout.table(module, ""), module, leaves):
        shape = expected_shape(row, module, leaves)
        size = 4
        for n in shape:
            size *= n
        header[row.theirs] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [at, at + size],
        }
        at += size
    out.mkdir(parents=True)
    for name, content in layout.files(module, about).items():
        (out / name).write_text(json.dumps(content))
    text = json.dumps(header).encode()
    with (out / layout.tensors_file).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return out

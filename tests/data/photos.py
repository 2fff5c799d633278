"""Small picture files for the tests of sources on disk: the class is the colour."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (210, 50, 40)}


def picture(name: str, number: int, height: int = 20, width: int = 24) -> np.ndarray:
    rng = np.random.default_rng([*name.encode(), number])
    return np.clip(np.array(COLOURS[name]) + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(
        np.uint8
    )


def blob(name: str, number: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(name, number)).save(out, kind)
    return out.getvalue()


def write_folder(root: Path, each: int = 40, first: int = 0) -> Path:
    """A folder for each class with `each` PNGs."""
    for name in COLOURS:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + each):
            (root / name / f"{number:03d}.png").write_bytes(blob(name, number))
    return root

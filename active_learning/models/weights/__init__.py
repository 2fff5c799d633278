"""Published weights: reads and writes the layouts in which models are shared.

Nothing here unpickles, and nothing imports what a file names.
"""

from active_learning.models.weights.files import (
    FORMATS,
    LAYOUTS,
    Weights,
    layout_for,
    load_into,
    open_weights,
    write_weights,
)
from active_learning.models.weights.layout import About, Layout

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "About",
    "Layout",
    "Weights",
    "layout_for",
    "load_into",
    "open_weights",
    "write_weights",
]

"""Where examples come from: one config value for each kind of source."""

from active_learning.data.sources.array_record import ArrayRecords
from active_learning.data.sources.arrays import Arrays
from active_learning.data.sources.image_folder import ImageFolder
from active_learning.data.sources.mixture import Mixture
from active_learning.data.sources.shapes import Shapes
from active_learning.data.sources.tfds import Tfds
from active_learning.data.sources.webdataset import WebDataset

__all__ = ["ArrayRecords", "Arrays", "ImageFolder", "Mixture", "Shapes", "Tfds", "WebDataset"]

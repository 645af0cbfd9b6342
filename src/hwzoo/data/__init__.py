"""Image data sets in memory, and where they come from."""

from .images import ImageBatches, ImageSet, binarize
from .sources import BINARIZATIONS, ImageSplits, load_images

__all__ = ["BINARIZATIONS", "ImageBatches", "ImageSet", "ImageSplits", "binarize", "load_images"]

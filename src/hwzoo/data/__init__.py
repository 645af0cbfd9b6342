"""Image data sets in memory, and where they come from."""

from .images import ImageBatches, ImageSet, binarize
from .sources import ImageSplits, load_images

__all__ = ["ImageBatches", "ImageSet", "ImageSplits", "binarize", "load_images"]

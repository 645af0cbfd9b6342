"""Image data sets in memory, and where they come from."""

from .images import ImageBatches, ImageSet, binarize
from .pictures import ImageOptions, image_files, read_picture, stacked
from .sources import BINARIZATIONS, ImageSplits, load_images

__all__ = [
    "BINARIZATIONS",
    "ImageBatches",
    "ImageOptions",
    "ImageSet",
    "ImageSplits",
    "binarize",
    "image_files",
    "load_images",
    "read_picture",
    "stacked",
]

"""Image data sets in memory, and where they come from."""

from .augmentations import NUM_NOISE, Augmentations, augment, two_views
from .images import ImageBatches, ImageSet, binarize
from .pictures import ImageOptions, image_files, read_picture, stacked
from .sources import BINARIZATIONS, ImageSplits, load_images

__all__ = [
    "BINARIZATIONS",
    "NUM_NOISE",
    "Augmentations",
    "ImageBatches",
    "ImageOptions",
    "ImageSet",
    "ImageSplits",
    "augment",
    "binarize",
    "image_files",
    "load_images",
    "read_picture",
    "stacked",
    "two_views",
]

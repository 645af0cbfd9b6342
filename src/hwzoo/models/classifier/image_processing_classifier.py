"""From pictures to the pixels that the classifiers take."""

import numpy as np
from PIL import Image
from transformers import BaseImageProcessor, BatchFeature

from .configuration_classifier import ClassifierConfig

# PIL's modes by number of channels: grey or colour, with or without transparency.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class ClassifierImageProcessor(BaseImageProcessor):
    """
    Turns pictures of any size and mode into `pixel_values`: converted to grey (ITU-R 601) or colour, resized
    (bilinear, without keeping the proportions), scaled to [0, 1]. The model normalises by itself.

    Args:
        image_size: height and width of the result, in pixels.
        num_channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA).
        kwargs: what transformers stores besides.

    Raises:
        ValueError: for an image size below 1 or another number of channels.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, image_size: int = 28, num_channels: int = 1, **kwargs):
        super().__init__(**kwargs)
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; it must be at least 1")
        if num_channels not in MODES:
            raise ValueError(f"num_channels is {num_channels}; it must be one of {list(MODES)}")
        self.image_size = image_size
        self.num_channels = num_channels
        # Every pipeline also looks for a video processor; without a name it takes one for part of this code, and asks
        # whether to run it, also where hwzoo is installed. A name that is none ends the search.
        self.video_processor_type = "none"

    @classmethod
    def from_config(cls, config: ClassifierConfig) -> "ClassifierImageProcessor":
        """The processor for a model's input."""
        return cls(image_size=config.image_size, num_channels=config.num_channels)

    def preprocess(self, images, return_tensors: str | None = None, **kwargs) -> BatchFeature:
        """
        Args:
            images: a picture or a list of pictures, each a PIL image or a uint8 array, (height, width) or (height,
                width, channels) with the channels of a PIL mode.
            return_tensors: `"pt"` or `"np"` for one tensor or array, None for a list of arrays.
            kwargs: ignored.

        Returns:
            BatchFeature with `pixel_values`: float32 in [0, 1], (batch, num_channels, image_size, image_size).

        Raises:
            TypeError: for a picture that is neither a PIL image nor a uint8 array.
        """
        pictures = images if isinstance(images, (list, tuple)) else [images]
        return BatchFeature({"pixel_values": [self._pixels(picture) for picture in pictures]}, return_tensors)

    def _pixels(self, picture: Image.Image | np.ndarray) -> np.ndarray:
        """One picture as float32 in [0, 1], (num_channels, image_size, image_size)."""
        if isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
            # PIL knows grey pictures without a channel dimension only.
            picture = Image.fromarray(picture[:, :, 0] if picture.shape[2:] == (1,) else picture)
        if not isinstance(picture, Image.Image):
            kind = getattr(picture, "dtype", type(picture).__name__)
            raise TypeError(f"a picture is {kind}; it must be a PIL image or a uint8 array")
        picture = picture.convert(MODES[self.num_channels])
        if picture.size != (self.image_size, self.image_size):
            picture = picture.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture).reshape(self.image_size, self.image_size, self.num_channels)
        return pixels.transpose(2, 0, 1).astype(np.float32) / 255


__all__ = ["ClassifierImageProcessor"]

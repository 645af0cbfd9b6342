"""From pictures to the pixels that the classifiers take."""

import numpy as np
from PIL import Image, ImageOps
from transformers import BaseImageProcessor, BatchFeature

from .configuration_classifier import ClassifierConfig

# PIL's modes by number of channels: grey or colour, with or without transparency.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def eight_bits(picture: Image.Image, background: str, num_channels: int) -> Image.Image:
    """
    A picture as its viewer shows it: turned as its EXIF data says, transparency over a background where the model has
    no channel for it.

    Args:
        picture: of any mode with 8 bits a channel.
        background: the name of a colour.
        num_channels: of the model's input.

    Returns:
        The picture, in the mode of so many channels.

    Raises:
        ValueError: for a mode with more than 8 bits a channel, or one that PIL does not convert.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode[0] in "IF":
        raise ValueError(f"it has the mode {picture.mode}; pixels must have 8 bits a channel")
    if num_channels in (2, 4):
        return picture.convert("RGBA").convert(MODES[num_channels])
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, background), picture.convert("RGBA"))
    if picture.mode not in ("1", "L"):
        picture = picture.convert("RGB")
    return picture.convert(MODES[num_channels])


class ClassifierImageProcessor(BaseImageProcessor):
    """
    Turns pictures of any size and mode into `pixel_values`: converted to grey (ITU-R 601) or colour, resized
    (bilinear, without keeping the proportions), scaled to [0, 1]. The model normalises by itself.

    Args:
        image_size: height and width of the result, in pixels.
        num_channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA).
        background: what transparent pixels show where no channel is left for them, `white` or `black`.
        kwargs: what transformers stores besides.

    Raises:
        ValueError: for an image size below 1, another number of channels or another background.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, image_size: int = 28, num_channels: int = 1, background: str = "white", **kwargs):
        super().__init__(**kwargs)
        if image_size < 1:
            raise ValueError(f"image_size is {image_size}; it must be at least 1")
        if num_channels not in MODES:
            raise ValueError(f"num_channels is {num_channels}; it must be one of {list(MODES)}")
        if background not in ("white", "black"):
            raise ValueError(f"background is {background!r}; it must be white or black")
        self.background = background
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
            ValueError: for one of more than 8 bits a channel.
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
        picture = eight_bits(picture, self.background, self.num_channels)
        if picture.size != (self.image_size, self.image_size):
            picture = picture.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR)
        pixels = np.asarray(picture).reshape(self.image_size, self.image_size, self.num_channels)
        return pixels.transpose(2, 0, 1).astype(np.float32) / 255


__all__ = ["ClassifierImageProcessor"]

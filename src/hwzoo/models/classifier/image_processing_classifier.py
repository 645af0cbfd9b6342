"""From pictures to the pixels that the classifiers take."""

import re
from numbers import Integral
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from transformers import BaseImageProcessor, BatchFeature

from .configuration_classifier import ClassifierConfig

# PIL's modes by number of channels: grey or colour, with or without transparency.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
RESIZES = ("stretch", "crop", "pad")
# What the class says itself, and what transformers writes or passes besides.
OURS = {"video_processor_type", "image_processor_type", "auto_map", "processor_class", "feature_extractor_type"}
FIRST, LAST = "channels_first", "channels_last"
# The orientation of EXIF data as a transposition. `ImageOps.exif_transpose` also writes the EXIF data anew, and fails
# where another of its tags has a type that is not the standard's.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    # PIL opens colours of 16 bits as their high bytes; what the file holds is told by its tiles, until loaded, and
    # by the bits of a TIFF, which may have a plane for each colour.
    stored = re.search(r"[ABCGLR]\w*;16[BLN]", str(getattr(picture, "tile", "")))
    mode = stored[0] if stored else picture.mode
    bits = np.max(getattr(picture, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, 8))
    if mode[0] in "ABCGLR" and not stored and bits > 8:
        mode = f"{mode}, {bits} bits"
    if stored or mode[0] in "IF" or bits > 8:
        raise ValueError(f"it has the mode {mode}; pixels must have 8 bits a channel")
    picture.load()  # which turns a TIFF
    turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    picture = picture if turn is None else picture.transpose(turn)
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
    (bilinear), scaled to [0, 1].

    Args:
        image_size: height and width of the result, in pixels; as `size` in the words of transformers.
        num_channels: 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA).
        background: what transparent pixels show where no channel is left for them, and what `pad` adds, `white` or
            `black`.
        resize: how other pictures become squares: `stretch` changes the proportions, `crop` cuts the longer side
            around its middle, `pad` fills the shorter one.
        size: `{"height": n, "width": n}` or n, in place of `image_size`.
        do_resize: False takes pictures of the right size only.
        do_rescale: whether integers are divided by 255; floats are in [0, 1] and stay.
        do_normalize: False, as the model normalises by itself; True takes `image_mean` and `image_std`.
        image_mean: of each channel, for `do_normalize`.
        image_std: of each channel, for `do_normalize`.
        kwargs: what transformers stores besides.

    Raises:
        ValueError: for an image size below 1 or not square, another number of channels, another background or way to
            resize, or a setting that it does not know.
    """

    model_input_names = ["pixel_values"]

    def __init__(
        self,
        image_size: int = 28,
        num_channels: int = 1,
        background: str = "white",
        resize: str = "stretch",
        size: dict[str, int] | int | None = None,
        do_resize: bool = True,
        do_rescale: bool = True,
        do_normalize: bool = False,
        image_mean: list[float] | float = 0.0,
        image_std: list[float] | float = 1.0,
        **kwargs: Any,
    ):
        _refuse(kwargs.keys() - OURS)
        super().__init__(**kwargs)
        self.image_size = image_size if size is None else _side(size)
        if num_channels not in MODES:
            raise ValueError(f"num_channels is {num_channels}; it must be one of {list(MODES)}")
        if background not in ("white", "black"):
            raise ValueError(f"background is {background!r}; it must be white or black")
        if resize not in RESIZES:
            raise ValueError(f"resize is {resize!r}; it must be one of {', '.join(RESIZES)}")
        self.background, self.resize = background, resize
        self.num_channels = num_channels
        self.do_resize, self.do_rescale, self.do_normalize = do_resize, do_rescale, do_normalize
        self.image_mean, self.image_std = image_mean, image_std
        # Every pipeline also looks for a video processor; without a name it takes one for part of this code, and asks
        # whether to run it, also where hwzoo is installed. A name that is none ends the search.
        self.video_processor_type = "none"

    @property
    def image_size(self) -> int:
        """Height and width of the result, in pixels: those of `size`, which alone is stored."""
        return _side(self.size)

    @image_size.setter
    def image_size(self, image_size: int):
        side = _side(image_size, "image_size")
        self.size = {"height": side, "width": side}

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        # transformers sets the keywords of `from_pretrained` that are ours alone afterwards, unchecked.
        own = {name: kwargs.pop(name) for name in ("num_channels", "background", "resize") if name in kwargs}
        if "image_size" in kwargs:
            kwargs = {"size": kwargs.pop("image_size")} | kwargs
        return super().from_dict(image_processor_dict | own, **kwargs)

    @classmethod
    def from_config(cls, config: ClassifierConfig, read: Any = None) -> "ClassifierImageProcessor":
        """
        The processor for a model's input.

        Args:
            config: of the model: `image_size` and `num_channels`.
            read: how the training read its pictures, as flags have it: `background`, and `resize` where it gave an
                `image_size`; white, and stretched, when not given.

        Returns:
            The processor.
        """
        own = {"image_size": config.image_size, "num_channels": config.num_channels}
        if read is not None:
            own |= {"background": read.background, "resize": read.resize if read.image_size else "stretch"}
        return cls(**own)

    def preprocess(
        self,
        images: Any,
        return_tensors: str | None = None,
        *,
        size: dict[str, int] | int | None = None,
        do_resize: bool | None = None,
        do_rescale: bool | None = None,
        do_normalize: bool | None = None,
        image_mean: list[float] | float | None = None,
        image_std: list[float] | float | None = None,
        input_data_format: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Args:
            images: a picture, a list of pictures, or a batch of 4 dimensions. A picture is a PIL image, or an array or
                tensor (height, width), or with the channels last or first, uint8 or floats in [0, 1].
            return_tensors: `"pt"` or `"np"` for one tensor or array, None for a list of arrays.
            size: as of the class, and so the next five.
            do_resize: False takes pictures of the right size only.
            do_rescale: False leaves uint8 as numbers from 0 to 255.
            do_normalize: whether `image_mean` is subtracted and the result divided by `image_std`.
            image_mean: of each channel.
            image_std: of each channel.
            input_data_format: `"channels_first"` or `"channels_last"` of arrays; told by their shape when not given.
            kwargs: none that is known.

        Returns:
            BatchFeature with `pixel_values`: float32 in [0, 1], (batch, num_channels, image_size, image_size).

        Raises:
            TypeError: for a picture of another type.
            ValueError: for a PIL image of more than 8 bits a channel, floats beyond [0, 1], a shape that is no
                picture's, or a setting that is not known.
        """
        _refuse(kwargs.keys())
        if input_data_format not in (None, FIRST, LAST):
            raise ValueError(f"input_data_format is {input_data_format!r}; it must be {FIRST} or {LAST}")
        side = self.image_size if size is None else _side(size)
        resize = self.do_resize if do_resize is None else do_resize
        batch = []
        for picture in _pictures(images):
            pixels = self._pixels(picture, side, resize, input_data_format)
            if _is_integer(picture) and not (self.do_rescale if do_rescale is None else do_rescale):
                pixels = pixels * np.float32(255)
            if self.do_normalize if do_normalize is None else do_normalize:
                mean, std = (
                    np.broadcast_to(np.asarray(own if given is None else given, np.float32), self.num_channels)
                    for own, given in ((self.image_mean, image_mean), (self.image_std, image_std))
                )
                pixels = (pixels - mean[:, None, None]) / std[:, None, None]
            batch.append(pixels.astype(np.float32))
        return BatchFeature({"pixel_values": batch}, return_tensors)

    def _pixels(self, picture: Any, side: int, resize: bool, layout: str | None) -> np.ndarray:
        """One picture as float32 in [0, 1], (num_channels, side, side)."""
        if not isinstance(picture, Image.Image):
            picture = _array(picture, layout)
            if picture.dtype != np.uint8:
                return self._floats(picture, side, resize)
            # PIL knows grey pictures without a channel dimension only.
            picture = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
        picture = eight_bits(picture, self.background, self.num_channels)
        if picture.size != (side, side):
            _check_resize(resize, picture.size[::-1], side)
            picture = self._squared(picture, side, self.background)
        pixels = np.asarray(picture).reshape(side, side, self.num_channels)
        return pixels.transpose(2, 0, 1).astype(np.float32) / 255

    def _floats(self, picture: np.ndarray, side: int, resize: bool) -> np.ndarray:
        """As `_pixels`, of floats in [0, 1] with the channels last, without rounding them to 8 bits."""
        channels = picture.shape[2]
        if channels == 3 and self.num_channels == 1:
            picture = picture @ np.array([[0.299], [0.587], [0.114]], np.float32)
        elif channels == 1 and self.num_channels == 3:
            picture = picture.repeat(3, axis=2)
        elif channels != self.num_channels:
            raise ValueError(f"a picture of floats has {channels} channels; {self.num_channels} are wanted")
        if picture.shape[:2] != (side, side):
            _check_resize(resize, picture.shape[:2], side)
            added = [float(self.background == "white")] * self.num_channels
            if self.num_channels in (2, 4):
                added[-1] = 1.0  # opaque
            layers = [Image.fromarray(np.ascontiguousarray(layer)) for layer in picture.transpose(2, 0, 1)]
            layers = [self._squared(each, side, value) for each, value in zip(layers, added, strict=True)]
            return np.stack([np.asarray(each, np.float32) for each in layers]).clip(0, 1)
        return np.ascontiguousarray(picture.transpose(2, 0, 1))

    def _squared(self, picture: Image.Image, side: int, added: str | float) -> Image.Image:
        """A picture of another size or shape, as `resize` says; `added` is the colour of what `pad` adds."""
        size, bilinear = (side, side), Image.Resampling.BILINEAR
        if self.resize == "crop":
            return ImageOps.fit(picture, size, bilinear)
        if self.resize == "pad":
            # At least a pixel of the shorter side: `ImageOps.pad` alone rounds that of a long picture to none.
            inner = [max(1, round(each / max(picture.size) * side)) for each in picture.size]
            return ImageOps.pad(picture.resize(inner, bilinear), size, color=added)
        return picture.resize(size, bilinear)


def _pictures(images: Any) -> list[Any]:
    if isinstance(images, (list, tuple)):
        return [picture for each in images for picture in _pictures(each)]
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]


def _is_integer(picture: Any) -> bool:
    return isinstance(picture, Image.Image) or picture.dtype in (np.uint8, torch.uint8)


def _array(picture: Any, layout: str | None) -> np.ndarray:
    """An array or tensor as uint8 or float32 in [0, 1], (height, width, channels)."""
    if isinstance(picture, torch.Tensor):
        picture = picture.detach().cpu()
        picture = (picture.float() if picture.is_floating_point() else picture).numpy()
    kind = getattr(picture, "dtype", type(picture).__name__)
    if not isinstance(picture, np.ndarray) or not (kind == np.uint8 or np.issubdtype(kind, np.floating)):
        raise TypeError(f"a picture is {kind}; it must be a PIL image, or an array or tensor of uint8 or floats")
    if kind != np.uint8:
        picture = picture.astype(np.float32)
        if not ((picture >= 0) & (picture <= 1)).all():
            raise ValueError(f"floats from {picture.min()} to {picture.max()} were given; they must be in [0, 1]")
    if picture.ndim == 2:
        return picture[:, :, None]
    if picture.ndim != 3:
        raise ValueError(f"a picture has the shape {picture.shape}; it must have 2 or 3 dimensions")
    if layout is None:  # of a shape that both could have, as (3, 3, 3), the channels are last
        layout = LAST if picture.shape[2] in MODES or picture.shape[0] not in MODES else FIRST
    picture = picture if layout == LAST else picture.transpose(1, 2, 0)
    if picture.shape[2] not in MODES:
        raise ValueError(f"a picture has {picture.shape[2]} channels; it must have one of {list(MODES)}")
    return np.ascontiguousarray(picture)


def _side(size: Any, name: str = "size") -> int:
    """Of a size as users give it, under the name that they give it by."""
    sides = [size.get(side) for side in ("height", "width")] if hasattr(size, "get") else [size, size]
    if any(isinstance(side, bool) or not isinstance(side, Integral) for side in sides) or sides[0] != sides[1]:
        raise ValueError(f'{name} is {size}; it must be one number or {{"height": n, "width": n}}')
    if sides[0] < 1:
        raise ValueError(f"{name} is {size}; it must be at least 1")
    return int(sides[0])


def _check_resize(resize: bool, size: Any, side: int):
    if not resize:
        raise ValueError(f"do_resize is False, but a picture is {size[0]} x {size[1]}; it must be {side} x {side}")


def _refuse(unknown: Any):
    if unknown:
        known = "background, resize, size, do_resize, do_rescale, do_normalize, image_mean, image_std"
        raise ValueError(f"{', '.join(sorted(unknown))} is not known; there are {known}")


__all__ = ["ClassifierImageProcessor"]

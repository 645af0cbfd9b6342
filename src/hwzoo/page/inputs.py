"""What a visitor can set: each input tells its bounds, and refuses what lies outside of them."""

import base64
import io
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data import ImageOptions, read_picture
from ..errors import UsageError

MOST_BYTES = 4 * 2**20  # of an uploaded picture
MOST_PIXELS = 4096 * 4096
PNG = "data:image/png;base64,"


@dataclass(frozen=True)
class Number:
    """
    A slider.

    Args:
        name: of the value.
        label: that the visitor reads.
        low: the lowest value.
        high: the highest value.
        value: at the start.
        step: between values; 1 makes whole numbers.
    """

    name: str
    label: str
    low: float
    high: float
    value: float
    step: float = 1

    def check(self, given: Any) -> float:
        """
        Args:
            given: by a visitor.

        Returns:
            The number.

        Raises:
            UsageError: for what is none, or out of bounds.
        """
        right = isinstance(given, int | float) and self.low <= given <= self.high
        if not right or self.step == 1 and given != int(given):
            kind = "a whole number" if self.step == 1 else "a number"
            raise UsageError(f"{self.label} must be {kind} from {self.low:.10g} to {self.high:.10g}")
        return int(given) if self.step == 1 else float(given)


@dataclass(frozen=True)
class Choice:
    """
    One or several of some words.

    Args:
        name: of the value.
        label: that the visitor reads.
        choices: the words.
        value: at the start; a tuple where several may be taken.
    """

    name: str
    label: str
    choices: tuple[str, ...]
    value: str | tuple[str, ...]

    @property
    def several(self) -> bool:
        """Whether more than one may be taken."""
        return isinstance(self.value, tuple)

    def check(self, given: Any) -> Any:
        """
        Args:
            given: by a visitor.

        Returns:
            The word; a list of words, in their order here, where several may be taken.

        Raises:
            UsageError: for others.
        """
        words = given if self.several and isinstance(given, list) else [given]
        if not words or any(not isinstance(word, str) or word not in self.choices for word in words):
            raise UsageError(f"{self.label} must be {'some' if self.several else 'one'} of {', '.join(self.choices)}")
        return [word for word in self.choices if word in words] if self.several else given


@dataclass(frozen=True)
class Words:
    """
    A text.

    Args:
        name: of the value.
        label: that the visitor reads.
        value: at the start.
        lines: shown at once.
        longest: in characters.
    """

    name: str
    label: str
    value: str = ""
    lines: int = 1
    longest: int = 2000

    def check(self, given: Any) -> str:
        """
        Args:
            given: by a visitor.

        Returns:
            The text.

        Raises:
            UsageError: for one that is too long, or that cannot be written down.
        """
        text = "" if given is None else given
        if not isinstance(text, str) or len(text) > self.longest:
            raise UsageError(f"{self.label} must be a text of at most {self.longest} characters")
        if any("\ud800" <= each <= "\udfff" or each == "\0" for each in text):
            raise UsageError(f"{self.label} holds characters that are none")
        return text


@dataclass(frozen=True)
class Picture:
    """
    A drawing board with as many pixels as a model's images; what is uploaded is fitted to it.

    Args:
        name: of the value.
        label: that the visitor reads.
        num_channels: 1 for grey, 3 for colours.
        size: height and width in pixels.
    """

    name: str
    label: str
    num_channels: int
    size: int

    def check(self, given: Any) -> Tensor:
        """
        Args:
            given: by a visitor's board, a PNG as data URI.

        Returns:
            (1, channels, size, size) in [0, 1].

        Raises:
            UsageError: for anything else.
        """
        data = None
        if isinstance(given, str) and given.startswith(PNG) and len(given) <= 2 * MOST_BYTES:
            with suppress(ValueError):
                data = base64.b64decode(given.removeprefix(PNG), validate=True)
        if data is None:
            raise UsageError(f"{self.label}: draw or upload something first")
        return self.decode(data, "black", exact=True)

    def decode(self, data: bytes, background: str = "white", exact: bool = False) -> Tensor:
        """
        A picture as the model takes it: converted as the pictures of data sets are, its middle cut out.

        Args:
            data: of a file in a format that PIL reads.
            background: of transparent pixels.
            exact: whether it has to have the size already.

        Returns:
            (1, channels, size, size) in [0, 1].

        Raises:
            UsageError: for more bytes or pixels than are allowed, another size where that must be right, or what is no
                picture.
        """
        if len(data) > MOST_BYTES:
            raise UsageError(f"{self.label}: a picture has at most {MOST_BYTES // 2**20} MB")
        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "GIF", "BMP", "WEBP")) as opened:
                width, height = opened.size  # of its head: nothing is decoded yet
        except Exception:  # whatever a decoder makes of a stranger's bytes
            raise UsageError(f"{self.label}: that is no PNG, JPEG, GIF, BMP or WebP picture") from None
        if width * height > MOST_PIXELS:
            raise UsageError(f"{self.label}: {width} x {height} pixels are too many; at most {MOST_PIXELS} are taken")
        if exact and (width, height) != (self.size, self.size):
            raise UsageError(f"{self.label}: the board has {self.size} x {self.size} pixels")
        try:
            array = read_picture(
                io.BytesIO(data), self.label, ImageOptions(background=background, image_size=self.size)
            )
        except UsageError:
            raise
        except Exception:
            raise UsageError(f"{self.label}: the picture is damaged") from None
        if len(array) != self.num_channels:
            array = np.repeat(array, 3, 0) if self.num_channels == 3 else _grey(array)
        return torch.from_numpy(array.astype(np.float32) / 255)[None]


def _grey(array: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(array.transpose(1, 2, 0)).convert("L"))[None]


Input = Number | Choice | Words | Picture

"""From a picture of any format to 8-bit pixels: one conversion for data sets, and for folders that are scored."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import HwzooError, UsageError, first_line

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
WAYS = {
    "crop": "cut to squares around their middle",
    "pad": "padded to squares",
    "stretch": "stretched to squares",
}
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


@dataclass(frozen=True)
class ImageOptions:
    """
    How a data set is read; the flags of the image recipes have the same names.

    Args:
        dataset_config: of a Hub data set that has several, or of EMNIST's sets in one folder; None for the only one.
        image_column: where there are several; None for the only one.
        label_column: where there are several; None for the only one, `none` for no classes.
        background: `white` or `black`, which transparent pixels show and `pad` fills with.
        image_size: height and width to which all images are resized (bilinear); None leaves them as they are.
        resize: how images that are not square are made so, `crop` (their middle), `pad` or `stretch`.
        test_share: of the images of a data set without a test split that become one.
        validation_share: of the training images that are held out for evaluations during training.
    """

    dataset_config: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    background: str = "white"
    image_size: int | None = None
    resize: str = "crop"
    test_share: float = 0.2
    validation_share: float = 0.0


def is_hidden(path: Path) -> bool:
    """Whether a path in a data set is nobody's data: `._x.png`, `.ipynb_checkpoints/x.png`, `__MACOSX/x.png`."""
    return any(part.startswith((".", "__")) for part in path.parts)


def image_files(folder: Path) -> list[Path]:
    """
    The image files of a folder and of the folders in it, sorted, without hidden ones.

    Raises:
        UsageError: for a link to a folder in it, which is not followed.
    """
    found = [path for path in sorted(folder.rglob("*")) if not is_hidden(path.relative_to(folder))]
    link = next((path for path in found if path.is_symlink() and path.is_dir()), None)
    if link is not None:
        raise UsageError(f"{link} is a link to a folder, which is not followed; put the images or links to them there")
    return [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]


def eight_bits(picture: Image.Image, background: str = "white") -> Image.Image:
    """
    A picture as its viewer shows it: turned as its EXIF data says, transparency over a background, the first of
    several frames.

    Args:
        picture: of any mode with 8 bits a channel.
        background: the name of a colour.

    Returns:
        Of mode L where all pixels are grey, whatever the mode of the picture, of mode RGB otherwise.

    Raises:
        ValueError: for a mode with more than 8 bits a channel, or one that PIL does not convert to RGB.
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
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, background)
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    elif picture.mode in ("1", "L"):
        return picture.convert("L")
    red, green, blue = picture.convert("RGB").split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else Image.merge("RGB", (red, green, blue))


def resized(picture: Image.Image, image_size: int | None, resize: str, background: str) -> Image.Image:
    """
    A picture of mode L or RGB made square, (image_size, image_size), by bilinear interpolation.

    Args:
        picture: of any size.
        image_size: height and width; None leaves the picture as it is, also one that is not square.
        resize: `crop` cuts the longer side around its middle, `pad` fills the shorter one, `stretch` changes the
            proportions.
        background: of `pad`.

    Returns:
        The picture; itself where nothing is asked.
    """
    size = (image_size, image_size)
    if image_size is None or picture.size == size:
        return picture
    if resize == "crop":
        return ImageOps.fit(picture, size, Image.Resampling.BILINEAR)
    if resize == "pad":
        # At least a pixel of the shorter side: `ImageOps.pad` alone rounds that of a long picture to none.
        inner = [max(1, round(side / max(picture.size) * image_size)) for side in picture.size]
        return ImageOps.pad(picture.resize(inner, Image.Resampling.BILINEAR), size, color=background)
    return picture.resize(size, Image.Resampling.BILINEAR)


def read_picture(source: Any, name: str, options: ImageOptions, notes: list[str] | None = None) -> np.ndarray:
    """
    Args:
        source: what PIL opens, a path or a file of bytes.
        name: of the picture, for errors.
        options: `background`, `image_size` and `resize`.
        notes: gets a sentence for protocols where there was transparency, once.

    Returns:
        uint8, (channels, height, width), with one channel where all pixels are grey.

    Raises:
        UsageError: for pixels of more than 8 bits a channel.
        HwzooError: for what cannot be read.
    """
    try:
        with Image.open(source) as opened:
            picture, over = eight_bits(opened, options.background), f"transparency over {options.background}"
            if notes is not None and over not in notes and opened.has_transparency_data:
                notes.append(over)
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:  # a broken PNG is a SyntaxError
        raise HwzooError(f"{name} cannot be read: {first_line(error)}") from error
    except ValueError as error:
        raise UsageError(f"{name}: {first_line(error)}") from error
    array = np.array(resized(picture, options.image_size, options.resize, options.background))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def stacked(arrays: list[np.ndarray], names, what: str) -> np.ndarray:
    """
    Images of one size as one array; grey ones among colours get three equal channels.

    Args:
        arrays: of `read_picture`.
        names: gives the name of the image at a place, for the error.
        what: of the data set, for the error.

    Returns:
        uint8, (num, channels, height, width).

    Raises:
        UsageError: naming the first image whose size is not that of the first one.
    """
    channels = max(len(array) for array in arrays)
    for place, array in enumerate(arrays):
        if array.shape[1:] != arrays[0].shape[1:]:
            sizes = [f"{height} x {width}" for _, height, width in (array.shape, arrays[0].shape)]
            raise UsageError(
                f"{what} holds images of different sizes: {names(place)} is {sizes[0]} (height x width), the first is "
                f"{sizes[1]}; --image_size N --resize {'|'.join(WAYS)} makes all N x N"
            )
    out = np.empty((len(arrays), channels, *arrays[0].shape[1:]), np.uint8)
    for place, array in enumerate(arrays):
        out[place] = array  # of one channel to all three
    return out

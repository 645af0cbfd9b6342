"""Image data sets in files of their own formats: idx (MNIST and its family), .npz, and Larochelle's binarised text."""

import gzip
import math
import mmap
import os
import re
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import HwzooError, UsageError, first_line
from .pictures import is_hidden

# Bytes of images that stay on disk and are mapped into memory: of what is read only what is in use has to fit.
MAPPED_FROM = 2**30
_MAPS: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()  # that are in use
# The third byte of an idx file's magic number.
_TYPES = {8: np.dtype("u1"), 9: np.dtype("i1"), 11: np.dtype(">i2"), 12: np.dtype(">i4"), 13: np.dtype(">f4")}
# `train-images-idx3-ubyte.gz` as LeCun's, `train-images.idx3-ubyte` as some unpack it, `emnist-letters-test-...`,
# `qmnist-train-labels-idx2-int`.
_IDX_NAME = re.compile(
    r"(?P<set>(?:emnist-\w+|qmnist)-)?(?P<split>train|t10k|test)-(?P<what>images|labels)"
    r"[-.]idx(?P<dimensions>\d)-(?:ubyte|int)(?:\.gz)?"
)
_FOLDERS = ("", "raw", "*/raw")  # of torchvision
_ARRAYS = {"images": {"images", "imgs", "x"}, "labels": {"labels", "y"}}  # words of their names
_AMAT_NAME = re.compile(r"(?P<set>.*?)_(?P<split>train|valid|test)\.amat")


@dataclass
class RawData:
    """
    Attributes:
        images: of each split (train, test, and validation where there is one) uint8, (num, channels, height, width).
        labels: of each split from 0, (num,), int64.
        class_names: of the labels.
        notes: what was done to the images, for protocols.
    """

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    class_names: tuple[str, ...]
    notes: list[str] = field(default_factory=list)


def idx_files(folder: Path) -> dict[str, dict[tuple[str, str], Path]]:
    """
    The idx files of a folder, or of the one in it where torchvision puts them.

    Returns:
        For each data set by name ("" where its files have none) the files by split, train or test, and `images` or
        `labels`; plain ones before compressed ones. All lie in one folder.

    Raises:
        UsageError: for several folders in it with such images.
    """
    for pattern in _FOLDERS:
        # By folder: files of two are of two data sets, whatever is missing in one of them.
        found: dict[Path, dict[str, dict[tuple[str, str], Path]]] = {}
        for sub in _seen(folder, pattern) if pattern else [folder]:
            sets: dict[str, dict[tuple[str, str], Path]] = {}
            for path in sorted(sub.glob("*")):
                match = _IDX_NAME.fullmatch(path.name)
                if match and path.is_file():
                    split = "train" if match["split"] == "train" else "test"
                    name = (match["set"] or "").rstrip("-").removeprefix("emnist-")
                    sets.setdefault(name, {}).setdefault((split, match["what"]), path)
            if any(what == "images" for files in sets.values() for _, what in files):
                found[sub] = sets
        if len(found) > 1:
            raise UsageError(
                f"{folder} holds idx files of several data sets: give one of {', '.join(map(str, found))}"
            )
        if found:
            return found.popitem()[1]
    return {}


def read_idx_set(folder: Path, what: str, config: str | None) -> RawData | None:
    """
    Reads a data set of idx files.

    Args:
        folder: of the files, or the one above.
        what: of the data set, for errors.
        config: which of several, as `letters` of EMNIST's.

    Returns:
        The data; None for a folder without such files.

    Raises:
        UsageError: for a file that is missing, several data sets of which none is said, or several folders of them.
        HwzooError: for a file that is damaged, images and labels of different number, a label that is no class.
    """
    sets = idx_files(folder)
    if not sets:
        return None
    if config is not None and set(sets) == {""}:
        raise UsageError(f"--dataset_config is {config}; {what} has no configurations, leave it out")
    if (config is None and len(sets) > 1) or (config is not None and config not in sets):
        raise UsageError(f"{what} has several configurations: give --dataset_config, one of {', '.join(sorted(sets))}")
    name = config if config is not None else next(iter(sets))
    files, images, labels = sets[name], {}, {}
    for split in ("train", "test"):
        for kind in ("images", "labels"):
            if (split, kind) not in files:
                at = next(iter(files.values())).parent
                start = "train" if split == "train" else "t10k"
                raise UsageError(
                    f"{at / start}-{kind}-idx{3 if kind == 'images' else 1}-ubyte.gz: there is no such file"
                )
        images[split] = read_idx(files[split, "images"], 3)
        labels[split] = read_idx(files[split, "labels"], 1)
        start = files[split, "images"].name.split("-images")[0]
        if len(images[split]) != len(labels[split]):
            raise HwzooError(
                f"{folder}: {start}-images holds {len(images[split])} images, "
                f"{start}-labels {len(labels[split])} labels"
            )
        if not len(images[split]):
            raise HwzooError(f"{files[split, 'images']} holds no images")
    path = files["train", "images"]
    notes = []
    if path.name.startswith("emnist-"):  # they are stored with rows and columns exchanged
        images = {split: array.transpose(0, 2, 1).copy() for split, array in images.items()}
        notes.append("EMNIST's images transposed, so that they are upright")
    mapping = path.parent / f"emnist-{name}-mapping.txt"
    names: Mapping[int, str] = {}
    if path.name.startswith("emnist-") and mapping.is_file():  # lines of a label and its letters' codes
        rows = [line.split() for line in mapping.read_text().splitlines() if line.strip()]
        names = {int(label): chr(int(code)) for label, code, *_ in rows}
    largest = max(0, *(int(each.max()) for each in labels.values()))  # QMNIST's may be negative
    used = sorted(names) or list(range(largest + 1))
    if name == "letters":  # labels from 1
        used = [label for label in used if label > 0]
    places = np.full(max(used[-1], largest) + 1, -1)
    places[used] = np.arange(len(used))
    data = {split: np.where(array < 0, -1, places[np.maximum(array, 0)]) for split, array in labels.items()}
    for split, array in data.items():
        if len(rows := np.flatnonzero(array < 0)):
            raise HwzooError(
                f"{files[split, 'labels']}: label {labels[split][rows[0]]} in row {rows[0]} is no class; "
                f"{mapping.name if names else name} has {used[0]} to {used[-1]}"
            )
    shaped = {split: array[:, None] for split, array in images.items()}
    return RawData(shaped, data, tuple(names.get(label, str(label)) for label in used), notes)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """
    Reads an idx file.

    Args:
        path: plain or compressed (.gz).
        dimensions: 3 for images, 1 for labels.

    Returns:
        uint8, an array of its own, or, of a plain file as large as MAPPED_FROM, its memory-mapped bytes; of labels in
        several columns, QMNIST's, the first.

    Raises:
        HwzooError: for a file that is damaged, or no idx file of so many dimensions.
    """
    try:
        mapped = path.suffix != ".gz" and path.stat().st_size >= MAPPED_FROM
        # Copy on write: the pages are the file's, and torch may write to what it is given.
        data = _mapped(path.open("rb"), mmap.ACCESS_COPY) if mapped else path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HwzooError(f"{path} is cut off or damaged: {error}") from None
    except OSError as error:
        raise HwzooError(f"{path} cannot be read: {error.strerror}") from None
    magic = bytes(data[:4])
    rows_of_eight = dimensions == 1 and magic == bytes([0, 0, 12, 2])
    if magic != bytes([0, 0, 8, dimensions]) and not rows_of_eight:
        raise HwzooError(
            f"{path} is no idx file of {dimensions} dimensions: its magic number is 0x{magic.hex()}, not "
            f"0x000008{dimensions:02x}"
        )
    dtype, start = _TYPES[magic[2]], 4 + 4 * magic[3]
    shape = [int.from_bytes(bytes(data[i : i + 4]), "big") for i in range(4, start, 4)]
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise HwzooError(f"{path} holds {len(data) - start} bytes for {' x '.join(map(str, shape))} values")
    # A copy: torch wants memory that it may write to.
    array = np.frombuffer(data, dtype, offset=start).reshape(shape)
    if rows_of_eight:
        return array[:, 0].astype(np.int64)
    return array if mapped else array.copy()


def pixel_array(shape: tuple[int, ...], folder: str | os.PathLike) -> np.ndarray:
    """
    An array for pixels that fits beside what is in memory: as large as MAPPED_FROM, it is a file without a name.

    Args:
        shape: of the array.
        folder: for that file, which goes with the process; it is made where it is missing.

    Returns:
        uint8, zeros.

    Raises:
        HwzooError: for a folder that has no room for it.
    """
    size = math.prod(shape)
    if size < MAPPED_FROM:
        return np.zeros(shape, np.uint8)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # Reserved, a full disk is an error here; else it would be a signal at some later page.
            reserve = getattr(os, "posix_fallocate", lambda descriptor, start, size: os.truncate(descriptor, size))
            reserve(file.fileno(), 0, size)
            return _mapped(file, mmap.ACCESS_WRITE).reshape(shape)
    except OSError as error:
        raise HwzooError(f"{folder}: no file of {size} bytes for the images: {error.strerror}") from error


def _mapped(file: IO[bytes], access: int) -> np.ndarray:
    """The bytes of a file, mapped into memory; the file is closed."""
    with file:
        mapped = mmap.mmap(file.fileno(), 0, access=access)
    _MAPS.add(mapped)
    return np.frombuffer(mapped, np.uint8)


def read_at_random():
    """
    From now on images of mapped files are taken here and there, as training does: what the system reads ahead around
    each, up to megabytes, is of no use, and where memory is short drives out what is.
    """
    for mapped in _MAPS if hasattr(mmap, "MADV_RANDOM") else ():
        mapped.madvise(mmap.MADV_RANDOM)


def _seen(folder: Path, pattern: str) -> list[Path]:
    """What matches a pattern, sorted, without what is hidden: `._x.npz` of macOS is no data."""
    return [path for path in sorted(folder.glob(pattern)) if not is_hidden(path.relative_to(folder))]


def read_npz_set(path: Path, what: str) -> RawData | None:
    """
    Reads a data set of .npz: a file as medmnist's (`train_images`, `train_labels`, ...) or Keras's (`x_train`,
    `y_train`, ...), or a folder with KMNIST's four.

    Args:
        path: of the file or the folder.
        what: of the data set, for errors.

    Returns:
        The data; None for a folder without such files.

    Raises:
        UsageError: for arrays that are no images with one label each, or files of several data sets.
        HwzooError: for a damaged file, or one that holds pickled objects.
    """
    files = [path] if path.is_file() else _seen(path, "*.npz")
    keys: set[str] = set()
    found: dict[tuple[str, str], np.ndarray] = {}
    of: dict[tuple[str, str], Path] = {}
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {file.stem if key == "arr_0" else key: stored[key] for key in stored.files}
        except TypeError as error:
            raise HwzooError(f"{file} is no .npz file: it holds one array, as np.save writes it") from error
        # zipfile's of a password or a compression that it does not know is a RuntimeError
        except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise HwzooError(f"{file} cannot be read: {first_line(error)}") from error
        keys.update(arrays)
        for key, array in arrays.items():
            words = re.split(r"[-_]", key.lower())
            kind = next((kind for kind, names in _ARRAYS.items() if names & {*words}), "")
            split = next((split for split in ("train", "test", "val", "valid", "validation") if split in words), "")
            if kind and split:
                part = ("validation" if split.startswith("val") else split, kind)
                if of.setdefault(part, file) != file:  # whatever the keys: kmnist-train-imgs and k49-train-imgs
                    raise UsageError(
                        f"{what}: {of[part].name} and {file.name} both hold {part[0]} {kind}, of two data sets; give "
                        "one file, or a folder with those of one"
                    )
                found[part] = array
    if not keys:
        return None
    images, labels = {}, {}
    for split in ("train", "test", "validation"):
        if (split, "images") not in found or (split, "labels") not in found:
            if split == "validation":
                continue
            raise UsageError(f"{what} has the arrays {sorted(keys)}; it must have images and labels of train and test")
        pixels, own = found[split, "images"], found[split, "labels"]
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (3, 4)
            or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3))
        ):
            raise UsageError(
                f"{what}: {split} images are {pixels.dtype} of shape {pixels.shape}; they must be uint8, (num, "
                "height, width) or (num, height, width, 1 or 3)"
            )
        own = own[:, 0] if own.ndim == 2 and own.shape[1] == 1 else own
        if own.ndim != 1 or own.dtype.kind not in "iu" or len(own) != len(pixels) or not len(own):
            raise UsageError(
                f"{what}: {split} labels are {own.dtype} of shape {own.shape}; each image needs one integer"
            )
        if (own.astype(np.int64) < 0).any():
            row = int((own.astype(np.int64) < 0).argmax())
            raise UsageError(f"{what} ({split}), row {row + 1}: the label is {own[row]}; each image needs a class")
        images[split] = pixels[:, None] if pixels.ndim == 3 else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        labels[split] = own
    values = np.unique(np.concatenate(list(labels.values())))
    places = {split: np.searchsorted(values, own) for split, own in labels.items()}
    return RawData(images, places, tuple(map(str, values.tolist())))


def read_amat_set(folder: Path, what: str) -> RawData | None:
    """
    Reads Larochelle's binarised MNIST (Larochelle and Murray, AISTATS 2011): text files `..._train.amat`,
    `..._valid.amat` and `..._test.amat`, an image of zeros and ones a line, without labels.

    Args:
        folder: of the files.
        what: of the data set, for errors.

    Returns:
        The data; None for a folder without such files.

    Raises:
        UsageError: for a file that is missing, or files of several data sets.
        HwzooError: for other text than zeros and ones, or lines that are no square images.
    """
    matches = [match for path in _seen(folder, "*.amat") if (match := _AMAT_NAME.fullmatch(path.name))]
    if not matches:
        return None
    sets = sorted({match["set"] for match in matches})
    if len(sets) > 1:
        raise UsageError(f"{what} has .amat files of {', '.join(sets)}; give a folder with those of one data set")
    files = {match["split"]: folder / match[0] for match in matches}
    images = {}
    for split in ("train", "test", "valid"):
        if split not in files:
            if split == "valid":
                continue
            raise UsageError(f"{what} has no ..._{split}.amat")
        lines = [line.translate(None, b" \r") for line in files[split].read_bytes().split(b"\n")]
        lines = [line for line in lines if line]
        digits, lengths = np.frombuffer(b"".join(lines), np.uint8), {len(line) for line in lines}
        size = math.isqrt(max(lengths, default=0))
        if not size or lengths != {size**2} or not ((digits == ord("0")) | (digits == ord("1"))).all():
            raise HwzooError(f"{files[split]} is no text of lines of zeros and ones, a square image each")
        images["validation" if split == "valid" else split] = (digits - ord("0")).reshape(-1, 1, size, size) * 255
    labels = {split: np.zeros(len(array), np.int64) for split, array in images.items()}
    return RawData({split: array.astype(np.uint8) for split, array in images.items()}, labels, ("all",))

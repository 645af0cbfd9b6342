"""Where an image data set comes from: scikit-learn's digits, idx files, the Hub, or a folder of images."""

import gzip
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import HwzooError, UsageError, first_line
from ..retry import retried
from .images import ImageSet

# Data sets known by a short name: the folder of their idx files in the data folder is that name.
HUB_IDS = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist"}
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
TEST_SPLITS = ("test", "validation", "valid", "val")
_IDX_UINT8 = 8  # the third byte of an idx file's magic number


@dataclass(frozen=True)
class ImageSplits:
    """
    Args:
        name: of the data set, for protocols and cards.
        train: the training images.
        test: the test images (the validation split of a data set that has no other).
    """

    name: str
    train: ImageSet
    test: ImageSet

    @property
    def source(self) -> str:
        """The data set's Hub id, or its name when it has none."""
        return HUB_IDS.get(self.name, self.name)


def load_images(dataset_name: str = "digits", data_dir: str | None = None) -> ImageSplits:
    """
    Loads a data set into memory.

    Args:
        dataset_name: `digits` (scikit-learn's 1,797 handwritten digits, bilinearly enlarged from 8 x 8 to 28 x 28; the
            last 297 are the test set); `mnist` or `fashion_mnist`; a folder with the four idx files (plain or .gz) or
            with images in `train/CLASS/` and `test/CLASS/`; any Hub id with an image and a label column.
        data_dir: where `mnist/` and `fashion_mnist/` hold their idx files; `HWZOO_DATA_DIR` when None. Without the
            files they come from the Hub.

    Raises:
        UsageError: for a name that is none of these, a folder that is missing or empty, a column that is not there.
        HwzooError: for a file that is cut off or no idx file, images and labels of different number, a Hub that fails.
    """
    if dataset_name == "digits":
        return _digits()
    if dataset_name in HUB_IDS:
        folder = data_dir or os.environ.get("HWZOO_DATA_DIR") or None
        if folder is not None:
            if not Path(folder).is_dir():
                flag = "--data_dir" if data_dir else "HWZOO_DATA_DIR"
                raise UsageError(f"{flag} {folder}: there is no such folder")
            if _idx_file(Path(folder) / dataset_name, "train-images"):
                classes = FASHION_CLASSES if dataset_name == "fashion_mnist" else None
                return _idx_folder(dataset_name, Path(folder) / dataset_name, classes)
        return _hub(dataset_name, HUB_IDS[dataset_name], hint="; --data_dir takes a folder with its idx files")
    path = Path(dataset_name)
    if dataset_name and path.is_dir():
        if _idx_file(path, "train-images"):
            return _idx_folder(path.name, path)
        return _image_folder(path)
    if path.exists() or path.is_absolute() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", dataset_name):
        raise UsageError(
            f"--dataset_name {dataset_name}: no such folder, and not one of digits, {', '.join(HUB_IDS)} or a Hub id "
            "(owner/name)"
        )
    return _hub(dataset_name, dataset_name)


def _digits() -> ImageSplits:
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float()[:, None] / 16  # (1797, 1, 8, 8) in [0, 1]
    images = F.interpolate(small, size=(28, 28), mode="bilinear").mul(255).round().to(torch.uint8)
    labels = torch.from_numpy(digits.target).long()
    names = tuple(str(name) for name in digits.target_names)
    return ImageSplits(
        "digits", ImageSet(images[:-297], labels[:-297], names), ImageSet(images[-297:], labels[-297:], names)
    )


def _idx_file(folder: Path, start: str) -> Path | None:
    return next(
        (path for end in (".gz", "") if (path := folder / f"{start}-idx{_dimensions(start)}-ubyte{end}").is_file()),
        None,
    )


def _dimensions(start: str) -> int:
    return 3 if start.endswith("images") else 1


def _idx_folder(name: str, folder: Path, class_names: tuple[str, ...] | None = None) -> ImageSplits:
    arrays = {}
    for start in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        path = _idx_file(folder, start)
        if path is None:
            raise UsageError(f"{folder / start}-idx{_dimensions(start)}-ubyte.gz: there is no such file")
        arrays[start] = _read_idx(path, _dimensions(start))
    for split in ("train", "t10k"):
        images, labels = arrays[f"{split}-images"], arrays[f"{split}-labels"]
        if len(images) != len(labels):
            raise HwzooError(
                f"{folder}: {split}-images holds {len(images)} images, {split}-labels {len(labels)} labels"
            )
        if not len(images):
            raise HwzooError(f"{_idx_file(folder, f'{split}-images')} holds no images")
    _same_size(str(folder), arrays["train-images"].shape[1:], arrays["t10k-images"].shape[1:])
    if class_names is None:
        largest = max(int(arrays[f"{split}-labels"].max()) for split in ("train", "t10k"))
        class_names = tuple(str(label) for label in range(largest + 1))
    train, test = (
        ImageSet(
            torch.from_numpy(arrays[f"{split}-images"])[:, None],
            torch.from_numpy(arrays[f"{split}-labels"]).long(),
            class_names,
        )
        for split in ("train", "t10k")
    )
    return ImageSplits(name, train, test)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise HwzooError(f"{path} is cut off or damaged: {error}") from None
    except OSError as error:
        raise HwzooError(f"{path} cannot be read: {error.strerror}") from None
    if data[:4] != bytes([0, 0, _IDX_UINT8, dimensions]):
        raise HwzooError(
            f"{path} is no idx file of {dimensions} dimensions: its magic number is 0x{data[:4].hex()}, not "
            f"0x0000{_IDX_UINT8:02x}{dimensions:02x}"
        )
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if len(data) - start != math.prod(shape):
        raise HwzooError(f"{path} holds {len(data) - start} bytes for {' x '.join(map(str, shape))} values")
    # A copy: torch wants memory that it may write to.
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()


def _image_folder(path: Path) -> ImageSplits:
    if not any(path.iterdir()):
        raise UsageError(f"--dataset_name {path}: the folder is empty")
    splits = _call_datasets(f"--dataset_name {path}", "imagefolder", data_dir=str(path))
    return _from_datasets(path.name, f"--dataset_name {path}", splits)


def _hub(name: str, repo_id: str, hint: str = "") -> ImageSplits:
    what = f"--dataset_name {name}"
    return _from_datasets(name, what, _call_datasets(what, repo_id, hint=hint))


def _call_datasets(what: str, *args, hint: str = "", **kwargs):
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    disable_progress_bars()
    try:
        return retried(lambda: load_dataset(*args, **kwargs), f"loading {args[0]}")
    except DatasetNotFoundError as error:
        raise UsageError(f"{what}: {first_line(error)}") from error
    except (DatasetsError, OSError, ValueError, EOFError, RuntimeError) as error:
        raise HwzooError(f"{what} cannot be loaded: {first_line(error)}{hint}") from error


def _from_datasets(name: str, what: str, splits) -> ImageSplits:
    from datasets import ClassLabel, Image

    test = next((split for split in TEST_SPLITS if split in splits), None)
    if "train" not in splits or test is None:
        raise UsageError(f"{what} has the splits {sorted(splits)}; it must have train and one of {list(TEST_SPLITS)}")
    features = splits["train"].features
    image_column = next((key for key, value in features.items() if isinstance(value, Image)), None)
    label_column = next((key for key, value in features.items() if isinstance(value, ClassLabel)), None)
    if image_column is None or label_column is None:
        raise UsageError(f"{what} has the columns {sorted(features)}; it must have an image and a class label column")
    class_names = tuple(features[label_column].names)
    train, held_out = (
        _decode(splits[split], f"{what} ({split})", image_column, label_column, class_names)
        for split in ("train", test)
    )
    _same_size(what, train.images.shape[1:], held_out.images.shape[1:])
    return ImageSplits(name, train, held_out)


def _decode(split, what: str, image_column: str, label_column: str, class_names: tuple[str, ...]) -> ImageSet:
    if not len(split):
        raise HwzooError(f"{what} holds no images")
    labels = list(split[label_column])
    if None in labels:
        raise UsageError(f"{what} holds images without a label; an image folder has them in {{train,test}}/CLASS/")
    images = []
    try:
        for image in split[image_column]:
            if image.mode[0] in "IF":  # more than 8 bits a pixel
                raise UsageError(f"{what} holds images of mode {image.mode}; pixels must have 8 bits a channel")
            image = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
            array = np.asarray(image)
            images.append(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
            _same_size(what, images[0].shape, images[-1].shape)
    except OSError as error:
        raise HwzooError(f"{what}: image {len(images)} cannot be read: {first_line(error)}") from error
    labels = torch.tensor(labels, dtype=torch.long)
    return ImageSet(torch.from_numpy(np.stack(images)), labels, class_names)


def _same_size(what: str, first: Sequence[int], other: Sequence[int]):
    if tuple(first) != tuple(other):
        raise UsageError(f"{what} holds images of different sizes: {tuple(first)} and {tuple(other)}")

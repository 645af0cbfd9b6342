"""Where an image data set comes from: scikit-learn's digits, idx files, the Hub, or a folder of images."""

import glob
import gzip
import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ..errors import HwzooError, UsageError, first_line
from ..retry import retried
from .images import ImageSet

# Data sets known by a short name: the folder of their idx files in the data folder is that name.
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
HUB_IDS = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist"}
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# Their digests, the classes by number: what a folder is called says nothing of what it holds.
DIGESTS = {
    "9551bb2981a54225d1858c088cd37db8aef3b7ebb154ba836e113ddf33d70057": "mnist",
    "fdd19c73b2302e336c71c280ef934698c4a7d1bcd42148a5e6686ec578ec4d80": "fashion_mnist",
}
_KNOWN_SHAPE, _KNOWN_CLASSES = (1, 28, 28), 10
TEST_SPLITS = ("test", "validation", "valid", "val")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
_IDX_UINT8 = 8  # the third byte of an idx file's magic number


# What becomes of grey pixels, and how a protocol says it; see `ImageSplits.binarized`.
BINARIZATIONS = {
    "dynamic": "binarisation dynamic (test images drawn once, seed {seed})",
    "static": "binarisation static (test images drawn once, seed {seed})",
    "threshold": "binarisation threshold (pixels above 127 are 1)",
    "none": "binarisation none (grey pixels)",
}


@dataclass(frozen=True)
class ImageSplits:
    """
    Args:
        name: of the data set, for protocols and cards.
        train: the training images.
        test: the test images (the validation split of a data set that has no other).
        known_as: `digits`, `mnist` or `fashion_mnist` where it is that data set, whatever its folder is called: as it
            came from scikit-learn or the Hub, or by its digest.
    """

    name: str
    train: ImageSet
    test: ImageSet
    known_as: str | None = None

    @property
    def source(self) -> str:
        """The data set's Hub id, or its name when it has none."""
        return HUB_IDS.get(self.known_as, self.name)

    @property
    def title(self) -> str:
        """Its name as one writes it: "MNIST"."""
        return TITLES.get(self.known_as, self.name.split("/")[-1])

    @property
    def image_shape(self) -> dict[str, int]:
        """`image_size` and `num_channels`, as the configurations of models take them."""
        return {"image_size": self.train.image_size, "num_channels": self.train.num_channels}

    def binarized(self, binarization: str, seed: int, test_seed: int) -> tuple[ImageSet, ImageSet]:
        """
        The training and the test images under a binarisation.

        Args:
            binarization: one of BINARIZATIONS: `dynamic`: training images stay grey, for `binarize` at every step;
                `static`: they are drawn once from their intensities, as the test images are under both; `threshold`:
                pixels above 127 are 1; `none`: grey.
            seed: of the training images that are drawn.
            test_seed: of the test images that are drawn.

        Returns:
            The training and the test images.
        """
        if binarization == "threshold":
            return self.train.thresholded(), self.test.thresholded()
        if binarization == "none":
            return self.train, self.test
        train = self.train.binarized(seed) if binarization == "static" else self.train
        return train, self.test.binarized(test_seed)

    def digest(self) -> str:
        """SHA-256 of the splits' sizes, class names, labels and pixels, in hexadecimal; computed once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        hashed = hashlib.sha256()
        for split, part in (("train", self.train), ("test", self.test)):
            hashed.update(json.dumps([split, list(part.images.shape), part.class_names]).encode())
            for tensor in (part.labels, part.images):
                hashed.update(tensor.cpu().contiguous().numpy())
        return hashed.hexdigest()

    def check_classes(self, wanted_by: str):
        """
        Checks that there are classes to tell apart.

        Args:
            wanted_by: the flag that needs them, for the error.

        Raises:
            UsageError: for a data set of one class.
        """
        if len(self.train.class_names) < 2:
            raise UsageError(
                f"{wanted_by}: {self.name} has one class, {self.train.class_names[0]}; two or more are needed"
            )


def load_images(dataset_name: str = "digits", data_dir: str | None = None) -> ImageSplits:
    """
    Loads a data set into memory.

    Args:
        dataset_name: `digits` (scikit-learn's 1,797 handwritten digits, bilinearly enlarged from 8 x 8 to 28 x 28; the
            last 297 are the test set); `mnist` or `fashion_mnist`; a folder with the four idx files (plain or .gz) or
            with images in `train/CLASS/` and `test/CLASS/`; any Hub id with an image and a label column.
        data_dir: where `mnist/` and `fashion_mnist/` hold their idx files; `HWZOO_DATA_DIR` when None. Without the
            files they come from the Hub.

    Returns:
        Training and test images, uint8 on the CPU, and the data set's name.

    Raises:
        UsageError: for a name that is none of these, a folder that is missing or empty, a column that is not there, an
            image without a label or with one that is no class.
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
            return _idx_folder(_name_of(path), path)
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
    train, test = (ImageSet(images[part], labels[part], names) for part in (slice(-297), slice(-297, None)))
    return ImageSplits("digits", train, test, known_as="digits")


def _name_of(folder: Path) -> str:
    """What a folder is called, also one that is given as `.`."""
    return folder.resolve().name or "data"  # the root has no name


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
    largest = max(int(arrays[f"{split}-labels"].max()) for split in ("train", "t10k"))
    numbers = tuple(str(label) for label in range(largest + 1))
    train, test = (
        ImageSet(
            torch.from_numpy(arrays[f"{split}-images"])[:, None],
            torch.from_numpy(arrays[f"{split}-labels"]).long(),
            numbers,
        )
        for split in ("train", "t10k")
    )
    splits = ImageSplits(name, train, test)
    if train.images.shape[1:] == _KNOWN_SHAPE and largest + 1 == _KNOWN_CLASSES:
        splits = replace(splits, known_as=DIGESTS.get(splits.digest()))
    if class_names is None:
        return splits
    for split in ("train", "t10k"):
        _check_labels(str(_idx_file(folder, f"{split}-labels")), "label", arrays[f"{split}-labels"], len(class_names))
    train, test = (replace(part, class_names=class_names) for part in (train, test))
    return replace(splits, train=train, test=test)


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
    what, given = f"--dataset_name {path}", {"data_dir": str(path)}
    splits = [split for split in ("train", *TEST_SPLITS) if (path / split).is_dir()]
    if "train" in splits:
        # By the names of the folders alone: a class may be called `test_tubes`, and may be the only one.
        given = {"data_files": {split: f"{glob.escape(str(path / split))}/**" for split in splits}}
        given["drop_labels"] = False
        for split in splits:
            loose = next((file for file in sorted((path / split).iterdir()) if _is_image(file)), None)
            if loose is not None:
                raise UsageError(f"{what}: {loose} is in no folder of a class; images are in {split}/CLASS/")
    return _from_datasets(_name_of(path), what, _call_datasets(what, "imagefolder", **given))


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES


def _hub(name: str, repo_id: str, hint: str = "") -> ImageSplits:
    what = f"--dataset_name {name}"
    splits = _from_datasets(name, what, _call_datasets(what, repo_id, hint=hint))
    known = next((known for known, each in HUB_IDS.items() if each == repo_id), None)
    train = splits.train
    same = train.images.shape[1:] == _KNOWN_SHAPE and len(train.class_names) == _KNOWN_CLASSES
    return replace(splits, known_as=known if same else None)


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
    _check_labels(what, label_column, labels, len(class_names))
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


def _check_labels(what: str, column: str, labels: Sequence[int | None], num_classes: int):
    for number, label in enumerate(labels, 1):
        if label is None or not 0 <= label < num_classes:
            raise UsageError(
                f"{what}, row {number}: {column} is {label}; each image needs a class, 0 to {num_classes - 1}"
            )


def _same_size(what: str, first: Sequence[int], other: Sequence[int]):
    if tuple(first) != tuple(other):
        raise UsageError(f"{what} holds images of different sizes: {tuple(first)} and {tuple(other)}")

"""Where an image data set comes from: scikit-learn's digits, idx files, the Hub, or a folder of images."""

import glob
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import HwzooError, UsageError, first_line
from ..files import NAMED_DATA
from ..retry import retried
from .images import ImageSet
from .pictures import IMAGE_SUFFIXES, WAYS, ImageOptions, image_files, is_hidden, read_picture, resized, stacked
from .raw import idx_files, pixel_array, read_amat_set, read_at_random, read_idx_set, read_npz_set

# Data sets known by a short name: the folder of their idx files in the data folder is that name.
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
HUB_IDS = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist"}
OF_COLUMNS = ("image_column", "label_column")  # options of data sets with columns
# Where torchvision puts their files.
TORCHVISION = {"mnist": ("MNIST/raw",), "fashion_mnist": ("FashionMNIST/raw",)}
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
# Their digests, the classes by number: what a folder is called says nothing of what it holds.
DIGESTS = {
    "9551bb2981a54225d1858c088cd37db8aef3b7ebb154ba836e113ddf33d70057": "mnist",
    "fdd19c73b2302e336c71c280ef934698c4a7d1bcd42148a5e6686ec578ec4d80": "fashion_mnist",
}
_KNOWN_SHAPE, _KNOWN_SIZES, _KNOWN_CLASSES = (1, 28, 28), (60_000, 10_000), 10
TEST_SPLITS = ("test", "validation", "valid", "val")
# Folders beside each other that are splits by other words, in whatever case.
OTHER_SPLITS = ("train(ing)?", "test(ing)?|val(id(ation)?)?")
NO_SPLITS = {"testing", "tests", "dev", "eval", "evaluation"}  # words of files that would be taken for training ones
logger = logging.getLogger(__name__)
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
MOST_TOLD = 3  # classes in a warning
_ROWS = 10_000  # of a column of arrays that are read at once
SPLIT_SEED = 0  # of splits that are not the data set's own: the same for every run, whatever its seed


# What becomes of grey pixels, and how a protocol says it; see `ImageSplits.binarized`.
BINARIZATIONS = {
    "dynamic": "binarisation dynamic (test images drawn once, seed {seed})",
    "static": "binarisation static (test images drawn once, seed {seed})",
    "threshold": "binarisation threshold (pixels above 127 are 1)",
    "none": "binarisation none (grey pixels)",
    "fixed": "binarisation fixed (pixels are 0 or 1 in the data)",
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
        validation: images for evaluations during training; None where none are held out.
        notes: what was done to the data, for protocols.
    """

    name: str
    train: ImageSet
    test: ImageSet
    known_as: str | None = None
    validation: ImageSet | None = None
    notes: tuple[str, ...] = ()

    @property
    def watched(self) -> ImageSet:
        """The images of evaluations during training: those held out for it, else the test images."""
        return self.test if self.validation is None else self.validation

    @property
    def described(self) -> str:
        """The name, and what was done to the data, for protocols."""
        return f"{self.name} ({', '.join(self.notes)})" if self.notes else self.name

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

    def compared_with(self, split: str) -> "ImageSplits":
        """
        What a model is compared with.

        Args:
            split: `test`, or `validation` for what settings are chosen by.

        Returns:
            The splits with these images in the place of the test images.

        Raises:
            UsageError: for validation images where none are held out.
        """
        if split == "validation" and self.validation is None:
            raise UsageError("--split validation: no images are held out; give --validation_share, as in the training")
        return replace(self, test=self.validation) if split == "validation" else self

    def digest(self) -> str:
        """SHA-256 of the splits' sizes, class names, labels and pixels, in hexadecimal; computed once."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        hashed = hashlib.sha256()
        parts = {"train": self.train, "test": self.test}
        parts |= {} if self.validation is None else {"validation": self.validation}
        for split, part in parts.items():
            hashed.update(json.dumps([split, list(part.images.shape), part.class_names]).encode())
            for tensor in (part.labels, part.images):
                hashed.update(tensor.cpu().contiguous().numpy())
        read_at_random()  # this was the last time that all is read in its order
        return hashed.hexdigest()

    def binarized(self, binarization: str, seed: int, test_seed: int) -> tuple[ImageSet, ImageSet, ImageSet]:
        """
        The training, test and watched images under a binarisation.

        Args:
            binarization: one of BINARIZATIONS: `dynamic`: training images stay grey, for `binarize` at every step;
                `static`: they are drawn once from their intensities, as the others are under both; `threshold`:
                pixels above 127 are 1; `none`: grey; `fixed`: all are binary already.
            seed: of the training images that are drawn.
            test_seed: of the others that are drawn.

        Returns:
            The training, the test and the watched images.

        Raises:
            UsageError: for pixels between black and white where they are said to be fixed.
        """
        given = self.train, self.test, self.watched
        if binarization == "fixed" and any(((part.images > 0) & (part.images < 255)).any() for part in given):
            raise UsageError(f"--binarization fixed: {self.name} has grey pixels; its images must be black and white")
        if binarization in ("none", "fixed"):
            return given
        if binarization == "threshold":
            return tuple(part.thresholded() for part in given)
        train = self.train.binarized(seed) if binarization == "static" else self.train
        test = self.test.binarized(test_seed)
        return train, test, test if self.validation is None else self.validation.binarized(test_seed)

    def test_versions(self, seen: ImageSet, indices: Tensor | slice) -> dict[str, Tensor]:
        """
        Some test images, float32 in [0, 1], (num, channels, height, width), as they came and as a model sees them.

        Args:
            seen: the test images of `binarized`, on any device.
            indices: which of them.

        Returns:
            On that device: `original`, and `binarised` where it differs.
        """
        versions = {"original": self.test.to(seen.images.device), "binarised": seen}
        versions = {name: images.pixel_values(indices) for name, images in versions.items()}
        if torch.equal(*versions.values()):
            del versions["binarised"]
        return versions

    def num_classes(self, conditional: bool) -> int:
        """
        The classes that a model is told of.

        Args:
            conditional: whether it is told of any.

        Returns:
            Their number, or 0.

        Raises:
            UsageError: for a conditional model of a data set of one class.
        """
        if not conditional:
            return 0
        self.check_classes("--conditional")
        return len(self.train.class_names)

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


def load_images(
    dataset: Any = "digits", data_dir: str | None = None, options: ImageOptions | None = None
) -> ImageSplits:
    """
    Loads a data set into memory.

    Args:
        dataset: `digits` (scikit-learn's 1,797 handwritten digits, bilinearly enlarged from 8 x 8 to 28 x 28; the
            last 297 are the test set); `mnist` or `fashion_mnist`; a folder with the four idx files (plain or .gz),
            with images in `train/CLASS/` and `test/CLASS/` or in `CLASS/`, of parquet files or of `save_to_disk`; any
            Hub id with an image column; or a `datasets.Dataset` or `DatasetDict`. A `Path` is a folder or a file.
        data_dir: where `mnist/` and `fashion_mnist/` hold their idx files; `HWZOO_DATA_DIR` when None. Without the
            files they come from the Hub.
        options: how it is read, `ImageOptions` or a run's flags, which have the same names; the defaults when None.

    Returns:
        Training and test images, uint8 on the CPU, and the data set's name.

    Raises:
        UsageError: for a name that is none of these, a folder that is missing or empty, or holds several data sets or
            images beside its splits, a column that is not there or not said, an image without a label or with one that
            is no class, images of different sizes.
        HwzooError: for a file that is cut off or no idx file, images and labels of different number, a Hub that fails.
    """
    options = options or ImageOptions()
    if isinstance(dataset, os.PathLike):
        dataset = os.path.join(os.curdir, dataset)  # ./digits is no name, and ./owner/name no Hub id
    if not isinstance(dataset, str):
        name = (next(iter(dataset.values())) if isinstance(dataset, dict) else dataset).info.dataset_name
        return _from_datasets(name or "data", "the data set", dataset, options)
    if data_dir and dataset not in HUB_IDS:
        _warn("--data_dir is not read for %s; images of your own are --dataset_name FOLDER", dataset)
    if dataset == "digits":
        _tell_unread(dataset, options, *OF_COLUMNS, "dataset_config", "test_share")
        return _finished(_digits(), "digits", options)
    if dataset in HUB_IDS:
        folder = data_dir or os.environ.get("HWZOO_DATA_DIR") or None
        if folder is not None:
            if not Path(folder).is_dir():
                flag = "--data_dir" if data_dir else "HWZOO_DATA_DIR"
                raise UsageError(f"{flag} {folder}: there is no such folder")
            for place in (dataset, *TORCHVISION[dataset]):
                if idx_files(Path(folder) / place):
                    classes = FASHION_CLASSES if dataset == "fashion_mnist" else None
                    return _raw(dataset, Path(folder) / place, options, classes)
        hint = f"; --data_dir takes the folder that holds {dataset}/ with its idx files"
        return _hub(dataset, HUB_IDS[dataset], options, hint=hint)
    if dataset in NAMED_DATA:
        raise UsageError(f"--dataset_name {dataset} is a data set of texts; a folder of that name is ./{dataset}")
    path = Path(dataset)
    if dataset and path.is_dir():
        found = _raw(_name_of(path), path, options) or _stored_folder(path, options)
        pictures = (each for each in path.rglob("*") if each.suffix.lower() in IMAGE_SUFFIXES)
        if found and (unread := next((each for each in pictures if not is_hidden(each.relative_to(path))), None)):
            _warn("--dataset_name %s: its pictures, as %s, are not read, but its other files", dataset, str(unread))
        return found or _image_folder(path, options)
    if path.is_file() and path.suffix == ".npz":
        return _raw(path.stem, path, options)
    if path.is_file() and path.suffix == ".parquet":
        _tell_unread(path.stem, options, "dataset_config")
        what, file = f"--dataset_name {path}", glob.escape(str(path))
        return _from_datasets(path.stem, what, _call_datasets(what, "parquet", data_files=file), options)
    if path.is_file():
        raise UsageError(f"--dataset_name {dataset}: a file must be .npz or .parquet; of pictures give their folder")
    if path.exists() or path.is_absolute() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", dataset):
        raise UsageError(
            f"--dataset_name {dataset}: no such folder, and not one of digits, {', '.join(HUB_IDS)} or a Hub id "
            "(owner/name)"
        )
    return _hub(dataset, dataset, options)


def _digits() -> ImageSplits:
    # What its load_digits reads. Importing it takes longer than all else that a recipe does before its first step.
    found = importlib.util.find_spec("sklearn")
    rows = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
    small = torch.from_numpy(rows[:, :-1]).float().view(-1, 1, 8, 8) / 16  # (1797, 1, 8, 8) in [0, 1]
    images = F.interpolate(small, size=(28, 28), mode="bilinear").mul(255).round().to(torch.uint8)
    labels = torch.from_numpy(rows[:, -1]).long()
    names = tuple(map(str, range(10)))
    train, test = (ImageSet(images[part], labels[part], names) for part in (slice(-297), slice(-297, None)))
    return ImageSplits("digits", train, test, known_as="digits")


def _tell_unread(what: str, options: Any, *names: str):
    """Warns of options that are given and that this kind of data set knows nothing of."""
    for name in names:
        if getattr(options, name) != getattr(ImageOptions(), name):
            _warn("--%s is not read for %s", name, what)


def _warn(message: str, *arguments: str):
    """Once, not in each process."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        logger.warning(message, *arguments)


def _name_of(folder: Path) -> str:
    """What a folder is called, also one that is given as `.`."""
    return folder.resolve().name or "data"  # the root has no name


def _raw(name: str, path: Path, options: ImageOptions, class_names: tuple[str, ...] | None = None):
    """A data set of idx, .npz or .amat files; None for another."""
    what = f"--dataset_name {path}"
    raw = path.is_dir() and read_idx_set(path, what, options.dataset_config)
    raw = raw or (path.is_dir() and read_amat_set(path, what)) or read_npz_set(path, what)
    if not raw:
        return None
    has_configs = path.is_dir() and bool(idx_files(path))
    _tell_unread(name, options, *OF_COLUMNS, "test_share", *([] if has_configs else ["dataset_config"]))
    wanted = {
        split: images for split, images in raw.images.items() if split != "validation" or options.validation_share
    }
    parts = {
        split: ImageSet(torch.from_numpy(images), torch.from_numpy(raw.labels[split]), raw.class_names)
        for split, images in _alike(what, wanted, options).items()
    }
    shape = parts["train"].images.shape[1:]
    splits = ImageSplits(name, parts["train"], parts["test"], notes=tuple(raw.notes))
    sizes = len(parts["train"]), len(parts["test"])
    if shape == _KNOWN_SHAPE and sizes == _KNOWN_SIZES and len(raw.class_names) == _KNOWN_CLASSES:
        splits = replace(splits, known_as=DIGESTS.get(splits.digest()))
    if class_names is not None:
        for split in ("train", "test"):
            file = idx_files(path)[""][split, "labels"]
            _check_labels(str(file), "label", raw.labels[split].tolist(), len(class_names))
        parts = {split: replace(part, class_names=class_names) for split, part in parts.items()}
        splits = replace(splits, train=parts["train"], test=parts["test"])
    if options.validation_share:
        splits = replace(splits, validation=parts.get("validation"))
    return _finished(splits, what, options)


def _image_folder(path: Path, options: ImageOptions) -> ImageSplits:
    """
    A folder of pictures: with train/ its first level alone says which file is of which split, whatever the classes are
    called, and images beside the splits are refused; without it all is of one split. The folder that an image lies in
    is its class.
    """
    what = f"--dataset_name {path}"
    if not any(path.iterdir()):
        raise UsageError(f"{what}: the folder is empty")
    # By the names as they are listed: `Train` is no `train/`, also where the file system would find it as that.
    names = sorted(each.name for each in path.iterdir() if each.is_dir())
    splits = [split for split in ("train", *TEST_SPLITS) if split in names]
    if "train" in splits:
        for each in sorted(path.iterdir()):
            if each.name in splits or is_hidden(Path(each.name)):
                continue
            if each.name in METADATA and each.is_file():
                raise UsageError(f"{what}: {each.name} is beside train/; each split has its own, as train/{each.name}")
            if image_files(each) if each.is_dir() else each.suffix.lower() in IMAGE_SUFFIXES:
                other = f"{each.name}/ holds images" if each.is_dir() else f"{each.name} is an image"
                raise UsageError(f"{what}: {other} beside train/; splits are called train, {', '.join(TEST_SPLITS)}")
    else:
        kinds = {kind: [name for name in names if re.fullmatch(kind, name, re.IGNORECASE)] for kind in OTHER_SPLITS}
        if all(kinds.values()):
            taken = " and ".join(f"{found[0]}/" for found in kinds.values())
            raise UsageError(f"{what}: {taken} would be classes; splits are called train/ and test/")
    folders = {split: path / split for split in splits} if "train" in splits else {"train": path}
    found = {split: image_files(folder) for split, folder in folders.items()}
    if not found["train"]:
        others = [str(file.relative_to(path)) for file in sorted(path.rglob("*")) if file.is_file()][:3]
        raise HwzooError(f"{what}: none of its files is an image" + (f": {', '.join(others)}" if others else ""))
    metadata = {
        split: next((folder / name for name in METADATA if (folder / name).is_file()), None)
        for split, folder in folders.items()
    }
    for folder in folders.values():
        for file in sorted(folder.rglob("metadata.*")):
            if file.name in METADATA and file.parent != folder and not is_hidden(file.relative_to(folder)):
                right = folder / file.name
                raise UsageError(f"{what}: {file} is below the folder of a split; each split has its own, as {right}")
    if bare := [split for split, file in metadata.items() if file is None]:
        if file := next(filter(None, metadata.values()), None):
            raise UsageError(f"{what}: {file} is of one split, {bare[0]}/ has none; all splits have metadata, or none")
        loose = {split: [file for file in files if file.parent == folders[split]] for split, files in found.items()}
        split = next((split for split, files in loose.items() if files), None)
        if split is not None and any(len(files) < len(found[each]) for each, files in loose.items()):
            shape = f"{split}/CLASS/" if "train" in splits else "CLASS/"
            raise UsageError(f"{what}: {loose[split][0]} is in no folder of a class; images are in {shape}")
        data = _rows(what, found, labelled=split is None)
    else:  # its columns are the labels, and its rows the images
        files = {split: glob.escape(str(file)) for split, file in metadata.items()}
        data = _call_datasets(what, "imagefolder", data_files=files, drop_labels=True)
    _tell_unread(_name_of(path), options, "dataset_config")
    return _from_datasets(_name_of(path), what, data, options)


def _rows(what: str, found: dict[str, list[Path]], labelled: bool) -> dict[str, Any]:
    """
    The image files of each split in the order of their names, and the folders that they lie in as classes where they
    are `labelled`. By itself `datasets` would read other files too, as `0.png.bak` and those in archives.
    """
    from datasets import ClassLabel, Dataset, Features, Image

    found = {split: sorted(files, key=Path.as_posix) for split, files in found.items()}
    features = Features(image=Image())
    if labelled:
        features["label"] = ClassLabel(names=sorted({file.parent.name for files in found.values() for file in files}))

    def rows(files: list[Path]) -> dict[str, list[str]]:
        columns = {"image": [str(file) for file in files], "label": [file.parent.name for file in files]}
        return {name: columns[name] for name in features}

    try:
        return {split: Dataset.from_dict(rows(files), features) for split, files in found.items()}
    except UnicodeEncodeError as error:
        raise HwzooError(f"{what}: {error.object!r} cannot be read: its name is not in UTF-8") from error


def _stored_folder(path: Path, options: ImageOptions) -> ImageSplits | None:
    """A folder of `save_to_disk`, or of parquet files; None for another."""
    what = f"--dataset_name {path}"
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        _tell_unread(_name_of(path), options, "dataset_config")
        return _from_datasets(_name_of(path), what, _call_datasets(what, str(path), load="load_from_disk"), options)
    files = [file for file in sorted(path.rglob("*.parquet")) if not is_hidden(file.relative_to(path))]
    files = [file for file in files if file.name not in METADATA]
    if not files:
        return None
    _tell_unread(_name_of(path), options, "dataset_config")
    given: dict[str, list[Path]] = {}
    for file in files:
        split = _split_of(what, file.relative_to(path)) if len(files) > 1 else "train"
        given.setdefault(split, []).append(file)
    for split, files in given.items():
        _check_shards(what, split, files, options.label_column)
    # Each by itself: in one call all would have the class names of the first.
    splits = {
        split: _call_datasets(what, "parquet", data_files={split: [glob.escape(str(file)) for file in files]})[split]
        for split, files in given.items()
    }
    return _from_datasets(_name_of(path), what, splits, options)


def _split_of(what: str, file: Path) -> str:
    """What its name says a parquet file, relative to the data set's folder, is of; else the nearest of its folders."""
    # Of `default/test/0000.parquet` and `mnist_Test-00000-of-00001.parquet` the words between other characters.
    parts = [re.findall("[a-z]+", part.lower()) for part in (file.stem, *(each.name for each in file.parents))]
    for words in parts:
        found = [split for split in ("train", *TEST_SPLITS) if split in words]
        if len(found) > 1:
            raise UsageError(f"{what}: {file} is said to be of the splits {' and '.join(found)}; it must be of one")
        if found:
            return found[0]
    if other := NO_SPLITS.intersection(word for words in parts for word in words):
        raise UsageError(
            f"{what}: {file.name} is of no split that is known, for all its {min(other)!r}; files are called "
            f"train and one of {', '.join(TEST_SPLITS)}"
        )
    return "train"


def _check_shards(what: str, split: str, files: Sequence[Path], label_column: str | None):
    """Refuses parquet files of one split that are not parts of one table."""
    import pyarrow.parquet
    from datasets import ClassLabel, Features

    first, *others = files
    for file in others:
        if file.parent != first.parent:
            raise UsageError(
                f"{what}: {first.parent} and {file.parent} both hold files of the split {split}; give one of several "
                "data sets, or put the files of a split into one folder"
            )

    def class_names(file: Path) -> dict[str, list[str]]:
        try:
            features = Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
        except (OSError, ValueError) as error:
            raise HwzooError(f"{what}: {file} cannot be read: {first_line(error)}") from error
        classes = {key: kind for key, kind in features.items() if isinstance(kind, ClassLabel)}
        return {key: kind.names for key, kind in classes.items() if label_column in (None, key)}

    # Read as one they would all have the names of the first, and the numbers of the others mean something else.
    expected = class_names(first) if others else {}
    for file in others:
        if (names := class_names(file)) != expected:
            raise UsageError(
                f"{what}: the class names of {first} are {reprlib.repr(expected)}, of {file} {reprlib.repr(names)}; "
                "files of one split must have the same in the same order"
            )


def _hub(name: str, repo_id: str, options: ImageOptions, hint: str = "") -> ImageSplits:
    what = f"--dataset_name {name}"
    config = {"name": options.dataset_config} if options.dataset_config else {}
    splits = _from_datasets(name, what, _call_datasets(what, repo_id, hint=hint, **config), options)
    known = next((known for known, each in HUB_IDS.items() if each == repo_id), None)
    train = splits.train
    same = train.images.shape[1:] == _KNOWN_SHAPE and len(train.class_names) == _KNOWN_CLASSES
    return replace(splits, known_as=known if same else None)


def _call_datasets(what: str, *args, hint: str = "", load: str = "load_dataset", **kwargs):
    import datasets
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError, DatasetsError

    datasets.disable_progress_bars()
    try:
        return retried(lambda: getattr(datasets, load)(*args, **kwargs), f"loading {args[0]}")
    except DatasetNotFoundError as error:
        raise UsageError(f"{what}: {first_line(error)}") from error
    except (DatasetsError, OSError, ValueError, EOFError, RuntimeError) as error:
        names = re.search(r"(?:available configs|Available): (\[.*?\])", str(error))
        if names:
            raise UsageError(f"{what} has several configurations: give --dataset_config, one of {names[1]}") from error
        if isinstance(error, DatasetGenerationError):  # which says nothing itself
            error = error.__cause__ or error
        raise HwzooError(f"{what} cannot be loaded: {first_line(error)}{hint}") from error


def _from_datasets(name: str, what: str, splits: Any, options: ImageOptions | None = None) -> ImageSplits:
    options = options or ImageOptions()
    if not isinstance(splits, dict):  # one Dataset
        splits = {"train": splits}
    if len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    test = next((split for split in TEST_SPLITS if split in splits), None)
    if "train" not in splits or (test is None and len(splits) > 1):
        raise UsageError(f"{what} has the splits {sorted(splits)}; it must have train and one of {list(TEST_SPLITS)}")
    wanted = {"train": "train"} | ({"test": test} if test else {})
    own = next((split for split in TEST_SPLITS[1:] if split in splits and split != test), None)
    if test:
        _tell_unread(f"{name}, which has test images", options, "test_share")
    if own and options.validation_share:
        wanted["validation"] = own
    # Without a format or transform, which make other things of its rows than these and may leave columns out.
    parts = {part: splits[split].with_format(None) for part, split in wanted.items()}
    whats = {part: f"{what} ({split})" for part, split in wanted.items()}
    features = parts["train"].features
    image_column = _image_column(what, features, options.image_column)
    label_column = _label_column(what, features, options.label_column, image_column)
    kinds = {}
    for part, data in parts.items():
        _image_column(whats[part], data.features, image_column)
        _label_column(whats[part], data.features, label_column or "none", image_column)
        kinds[part] = "pictures" if _array_shape(data.features[image_column]) is None else "arrays"
        if kinds[part] != kinds["train"]:
            raise UsageError(
                f"{whats[part]}: {image_column} holds {kinds[part]}, {kinds['train']} in the training split; it must "
                "hold one of the two in all splits"
            )
    labels, class_names = _labels(what, parts, whats, label_column)
    sets, notes = {}, []
    given = image_column, options, notes
    read = _decode if kinds["train"] == "pictures" else _pixels
    arrays = {part: read(parts[part], whats[part], *given) for part in parts}
    for part, array in _alike(what, arrays, options).items():
        sets[part] = ImageSet(torch.from_numpy(array), torch.tensor(labels[part], dtype=torch.long), class_names)
    return _finished(ImageSplits(name, sets["train"], sets.get("test"), None, sets.get("validation"), tuple(notes)),
                     what, options)  # fmt: skip


def _image_column(what: str, features: Any, asked: str | None) -> str:
    from datasets import Image, Value

    def holds_images(kind):
        stored = isinstance(kind, dict) and set(kind) == {"bytes", "path"}
        encoded = kind in (Value("binary"), Value("large_binary"))  # the latter is of polars
        return isinstance(kind, Image) or stored or encoded or _array_shape(kind) is not None

    found = [key for key, kind in features.items() if holds_images(kind)]
    if asked is not None and asked not in found:
        raise UsageError(f"--image_column {asked}: {what} has the image columns {found}, of {sorted(features)}")
    if not found:
        raise UsageError(f"{what} has the columns {sorted(features)}; none holds images")
    if asked is None and len(found) > 1:
        raise UsageError(f"{what} has several image columns: give --image_column, one of {', '.join(found)}")
    return asked or found[0]


def _label_column(what: str, features: Any, asked: str | None, image_column: str) -> str | None:
    """The column of the classes; None for no classes."""
    from datasets import ClassLabel, Value

    if asked == "none":
        return None
    if asked is not None:
        if asked not in features:
            raise UsageError(
                f"--label_column {asked}: {what} has the columns {sorted(features)}; give one of them, or "
                "--label_column none for no classes"
            )
        return asked
    classes = [key for key, kind in features.items() if isinstance(kind, ClassLabel)]
    if not classes:
        values = [key for key, kind in features.items() if isinstance(kind, Value) and key != image_column]
        classes = [key for key in values if key in ("label", "labels")] or values
        classes = [key for key in classes if features[key].dtype not in ("binary", "large_binary")]
    if len(classes) > 1 or (classes and not isinstance(features[classes[0]], ClassLabel) and
                            classes[0] not in ("label", "labels")):  # fmt: skip
        raise UsageError(
            f"{what}: which of its columns {', '.join(classes)} is the class is not said: give --label_column, "
            "its name or none"
        )
    return classes[0] if classes else None


def _labels(what: str, parts: dict[str, Any], whats: dict[str, str], column: str | None):
    """Numbers from 0 of each part, and the names of classes: of the ClassLabels, else the values in their order."""
    if column is None:
        return {part: [0] * len(data) for part, data in parts.items()}, ("all",)
    values = {part: data[column][:] for part, data in parts.items()}  # at once: one by one takes minutes for millions
    names = {part: getattr(data.features[column], "names", None) for part, data in parts.items()}
    for part, own in names.items():  # each split numbers the classes as it likes
        if own:
            _check_labels(whats[part], column, values[part], len(own))
    if all(own == names["train"] for own in names.values()) and names["train"]:
        return values, tuple(names["train"])
    values = {part: [names[part][each] for each in own] if names[part] else own for part, own in values.items()}
    if all(names.values()):
        every = list(dict.fromkeys(name for own in names.values() for name in own))
        places = {name: place for place, name in enumerate(every)}
        return {part: [places[name] for name in own] for part, own in values.items()}, tuple(every)
    for part, own in values.items():
        for row, value in enumerate(own, 1):
            if isinstance(value, float) and value.is_integer():
                value = own[row - 1] = int(value)  # what a CSV file's missing values make of integers
            if isinstance(value, str):
                value = own[row - 1] = value.strip()  # "cat " of a table is no other class than "cat"
            missing = value is None or value in (-1, "") or value != value
            if missing or not isinstance(value, str | int):
                raise UsageError(f"{whats[part]}, row {row}: {column} is {value!r}; each image needs a class")
    every = {value for own in values.values() for value in own}
    if len({type(value) for value in every}) > 1:
        raise UsageError(
            f"{what}: {column} holds numbers and names of classes; it must be one of the two in all splits"
        )
    every = sorted(every)
    places = {value: place for place, value in enumerate(every)}
    return {part: [places[value] for value in own] for part, own in values.items()}, tuple(map(str, every))


def _decode(split, what: str, image_column: str, options: ImageOptions, notes: list[str]) -> np.ndarray:
    from datasets import Image

    if not len(split):
        raise HwzooError(f"{what} holds no images")
    encoded = split.cast_column(image_column, Image(decode=False))[image_column]
    names: list[str] = []
    images = []
    transparent: list[str] = []
    for row, each in enumerate(encoded, 1):
        path = each and each["path"]
        names.append(path if path and Path(path).is_file() else f"{what}, row {row}{f' ({path})' if path else ''}")
        if each is None or not (each["bytes"] or path):
            given = each and each["bytes"]
            raise UsageError(f"{what}, row {row}: {image_column} is {given}; each row needs an image")
        source = io.BytesIO(each["bytes"]) if each["bytes"] else path
        images.append(read_picture(source, names[-1], options, transparent))
    notes += [each for each in transparent if each not in notes]
    array, ground = stacked(images, names.__getitem__, what), options.background
    if transparent and len(images) > 1 and (array == array[0, 0, 0, 0]).all():
        other = "white" if ground == "black" else "black"
        raise UsageError(f"--background {ground}: all images of {what} are of one colour over it; give {other}")
    return array


def _array_shape(kind: Any) -> tuple[int | None, ...] | None:
    """The shape of a column of arrays of 8 bits; None for another column."""
    from datasets import Array2D, Array3D

    return tuple(kind.shape) if isinstance(kind, Array2D | Array3D) and kind.dtype == "uint8" else None


def _pixels(split, what: str, image_column: str, options: ImageOptions, notes: list[str]) -> np.ndarray:
    """The images of a column of arrays, many at a time: whatever their number, no Python for each."""
    import datasets
    import pyarrow

    if not len(split):
        raise HwzooError(f"{what} holds no images")
    shape = _array_shape(split.features[image_column])
    last = len(shape) == 3 and shape[0] not in (1, 3)
    if None in shape or (last and shape[2] not in (1, 3)):
        raise UsageError(
            f"{what}: {image_column} is of arrays of the shape {shape}; it must be (height, width), (1 or 3, height, "
            "width) or (height, width, 1 or 3)"
        )
    channels_first = (1, *shape) if len(shape) == 2 else (shape[2], *shape[:2]) if last else shape
    out, done = pixel_array((len(split), *channels_first), datasets.config.HF_DATASETS_CACHE), 0
    for table in split.select_columns(image_column).with_format("arrow").iter(_ROWS):
        for values in table.column(image_column).chunks:
            values = getattr(values, "storage", values)  # of the extension type
            num = len(values)
            while pyarrow.types.is_nested(values.type) and not values.null_count:
                values = values.flatten()
            if values.null_count:
                raise UsageError(f"{what}: {image_column} has missing values; each row needs an image")
            pixels = values.to_numpy().reshape(num, *shape)
            out[done : done + num] = pixels.transpose(0, 3, 1, 2) if last else pixels.reshape(num, *channels_first)
            done += num
    return out


def _check_labels(what: str, column: str, labels: Sequence[int | None], num_classes: int):
    for number, label in enumerate(labels, 1):
        if label is None or not 0 <= label < num_classes:
            raise UsageError(
                f"{what}, row {number}: {column} is {label}; each image needs a class, 0 to {num_classes - 1}"
            )


def _same_size(what: str, first: Sequence[int], other: Sequence[int]):
    if tuple(first) != tuple(other):
        raise UsageError(
            f"{what} holds images of different sizes: {tuple(first)} and {tuple(other)} (channels, height, width); "
            "--image_size N makes all N x N"
        )


def _alike(what: str, arrays: dict[str, np.ndarray], options: ImageOptions) -> dict[str, np.ndarray]:
    """The pixels of all parts, grey ones with the channels of colour; of one size, or yet to become so."""
    channels = max(array.shape[1] for array in arrays.values())
    grey = {part: np.repeat(array, channels, 1) for part, array in arrays.items() if array.shape[1] < channels}
    arrays = arrays | grey
    for array in arrays.values() if options.image_size is None else ():
        _same_size(what, arrays["train"].shape[1:], array.shape[1:])
    return arrays


def _finished(splits: ImageSplits, what: str, options: ImageOptions) -> ImageSplits:
    """With the size that is asked for, and the splits that are wanted and not there."""
    notes, size = list(splits.notes), options.image_size
    parts = {name: getattr(splits, name) for name in ("train", "test", "validation")}
    if size is not None:
        if any(part is not None and part.images.shape[2:] != (size, size) for part in parts.values()):
            parts = {name: part and _resized(part, options) for name, part in parts.items()}
            splits = replace(splits, known_as=None)
        ground = f" with {options.background}" if options.resize == "pad" else ""
        notes.append(f"images of {size} x {size}, others {WAYS[options.resize]}{ground}")
    if parts["test"] is None:
        parts["train"], parts["test"] = _split(parts["train"], options.test_share, "--test_share", what)
        notes.append(f"{options.test_share:.4g} of its images, by class with seed {SPLIT_SEED}, are the test images")
    if options.validation_share and parts["validation"] is not None:
        notes.append("its own validation images in evaluations during training")
    elif options.validation_share:
        share = options.validation_share
        parts["train"], parts["validation"] = _split(parts["train"], share, "--validation_share", what)
        notes.append(f"{share:.4g} of its training images, by class with seed {SPLIT_SEED}, held out of the training")
    strange = set(parts["test"].labels.unique().tolist()) - set(parts["train"].labels.unique().tolist())
    if strange:
        names = ", ".join(parts["train"].class_names[label] for label in sorted(strange)[:MOST_TOLD])
        names += f" and {len(strange) - MOST_TOLD} other classes" if len(strange) > MOST_TOLD else ""
        _warn("%s: there are test images of %s, and none to train on", what, names)
    return replace(splits, **parts, notes=tuple(notes))


def _resized(part: ImageSet, options: ImageOptions) -> ImageSet:
    arrays = []
    for image in part.images.numpy():
        picture = PIL.Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        array = np.asarray(resized(picture, options.image_size, options.resize, options.background))
        arrays.append(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
    return replace(part, images=torch.from_numpy(np.stack(arrays)))


def _split(images: ImageSet, share: float, flag: str, what: str) -> tuple[ImageSet, ImageSet]:
    """All but a share of the images, and that share, with as much of each class."""
    from sklearn.model_selection import train_test_split

    places, labels = np.arange(len(images)), images.labels.numpy()
    counts = np.bincount(labels, minlength=len(images.class_names))
    if (counts == 1).any():
        name = images.class_names[int((counts == 1).argmax())]
        raise UsageError(f"{flag} {share}: of the class {name} {what} has one image; two can be split")
    try:
        parts = train_test_split(places, test_size=share, stratify=labels, random_state=SPLIT_SEED)
    except ValueError as error:
        raise UsageError(f"{flag} {share}: {what} has {len(images)} images: {first_line(error)}") from error
    return tuple(images.select(torch.from_numpy(np.sort(part))) for part in parts)

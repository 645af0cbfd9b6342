"""Where image data sets come from, and what is said of those that cannot be loaded."""

import errno
import gzip
import os
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from hwzoo.data import ImageBatches, ImageOptions, load_images, raw, sources
from hwzoo.data.sources import FASHION_CLASSES, _from_datasets
from hwzoo.errors import HwzooError, UsageError

FILES = {
    "train-images": "train-images-idx3-ubyte",
    "train-labels": "train-labels-idx1-ubyte",
    "t10k-images": "t10k-images-idx3-ubyte",
    "t10k-labels": "t10k-labels-idx1-ubyte",
}


def idx(array):
    """The bytes of an idx file: magic number, sizes, values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def some_arrays(num_train=7, num_test=4, height=3, width=3):
    generator = np.random.default_rng(0)
    return {
        "train-images": generator.integers(256, size=(num_train, height, width)),
        "train-labels": np.arange(num_train) % 5,
        "t10k-images": generator.integers(256, size=(num_test, height, width)),
        "t10k-labels": np.arange(num_test) % 3,
    }


def idx_folder(folder, arrays, compressed=True, **contents):
    """Writes the four files; `contents` gives one other bytes, by its name with _ for -, or None to leave it out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        data = contents.get(name.replace("-", "_"), idx(array))
        if data is not None:
            ending = ".gz" if compressed else ""
            (folder / (FILES[name] + ending)).write_bytes(gzip.compress(data) if compressed else data)
    return folder


def image_folder(folder, images):
    """Writes {"train/cat/1.png": array of (height, width) or (height, width, 3)}."""
    for name, array in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.astype(np.uint8)).save(folder / name)
    return folder


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(256, size=shape)


def message_of(error, kind, *names):
    """Checks that the message is one line that names the flag or file; gives it."""
    assert error.type is kind
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert all(str(name) in message for name in names)
    return message


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Nothing outside of the test's folder is read, or written by `datasets`."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv("HWZOO_DATA_DIR", raising=False)
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")


# Digits


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    data = load_images()
    assert data.name == "digits"
    assert data.train.images.shape == (1500, 1, 28, 28) and data.test.images.shape == (297, 1, 28, 28)
    assert data.train.class_names == data.test.class_names == tuple("0123456789")
    images, labels = (
        torch.cat([getattr(part, name) for part in (data.train, data.test)]) for name in ("images", "labels")
    )
    assert images.dtype == torch.uint8 and images.min() == 0 and images.max() == 255
    assert labels.dtype == torch.int64 and labels.tolist() == load_digits().target.tolist()
    small = torch.from_numpy(load_digits().images).float()[:, None] / 16
    assert torch.equal(images, F.interpolate(small, size=28, mode="bilinear").mul(255).round().to(torch.uint8))
    # Enlarged, not changed: the mean over the image stays what it was.
    torch.testing.assert_close(images.float().mean((1, 2, 3)) / 255, small.mean((1, 2, 3)), rtol=0, atol=0.02)
    assert torch.unique(images[:10].flatten(1), dim=0).shape[0] == 10


def test_digits_are_the_default():
    default, named = load_images(), load_images("digits")
    assert torch.equal(default.train.images, named.train.images)


def test_a_path_is_a_folder_whatever_it_is_called(tmp_path):
    """Not the data set of that name, and not on the Hub."""
    images = {f"{kind}/{index}.png": pixels(index, 4, 4) for kind in ("cat", "dog") for index in range(6)}
    for name in ("digits", "own/pets"):
        image_folder(Path(name), images)
        data = load_images(Path(name))
        assert data.name == Path(name).name and data.train.class_names == ("cat", "dog") and data.known_as is None
    for name in ("mnist", "own/cars", tmp_path / "none"):
        with pytest.raises(UsageError, match=f"^--dataset_name .*{name}: no such folder"):
            load_images(Path(name))


# idx files


@pytest.mark.parametrize("compressed", [True, False])
def test_the_values_of_idx_files_come_back(tmp_path, compressed):
    arrays = some_arrays()
    data = load_images(str(idx_folder(tmp_path / "mine", arrays, compressed)))
    assert data.name == "mine"
    for part, split in ((data.train, "train"), (data.test, "t10k")):
        assert part.images.dtype == torch.uint8 and part.labels.dtype == torch.int64
        assert torch.equal(part.images, torch.from_numpy(arrays[f"{split}-images"]).to(torch.uint8)[:, None])
        assert torch.equal(part.labels, torch.from_numpy(arrays[f"{split}-labels"]))
        assert part.class_names == tuple("01234")
    data.train.images.zero_()  # memory that may be written to
    assert next(ImageBatches(data.train, 7, seed=0))["pixel_values"].shape == (7, 1, 3, 3)


def test_large_idx_files_stay_on_disk(tmp_path, monkeypatch):
    folder = idx_folder(tmp_path / "mine", some_arrays(40), compressed=False)
    bytes_before = (folder / FILES["train-images"]).read_bytes()
    in_memory = load_images(str(folder))
    assert str(folder) not in mapped_files()
    monkeypatch.setattr(raw, "MAPPED_FROM", 16 + 40 * 9)  # that of the training images, no other
    data = load_images(str(folder))
    assert [name for name in FILES.values() if str(folder / name) in mapped_files()] == [FILES["train-images"]]
    assert read_ahead(str(folder / FILES["train-images"])) in (True, None)
    assert data.digest() == in_memory.digest()
    assert read_ahead(str(folder / FILES["train-images"])) in (False, None)
    batches = [next(ImageBatches(each.train, 40, seed=0))["pixel_values"] for each in (data, in_memory)]
    assert torch.equal(*batches)
    data.train.images.zero_()  # memory that may be written to; the file keeps its own
    assert (folder / FILES["train-images"]).read_bytes() == bytes_before
    (folder / FILES["train-images"]).write_bytes(bytes_before[:-1])
    with pytest.raises(HwzooError, match="train-images-idx3-ubyte holds 359 bytes for 40 x 3 x 3 values"):
        monkeypatch.setattr(raw, "MAPPED_FROM", 1)
        load_images(str(folder))


def mapped_files():
    return [each.path for each in psutil.Process().memory_maps()]


def read_ahead(path):
    """Whether the system reads ahead in a mapped file; None where it does not tell."""
    if not Path("/proc/self/smaps").exists():
        return None
    _, _, rest = Path("/proc/self/smaps").read_text().partition(path)
    flags = rest[: rest.index("\nVmFlags:") + 200].partition("VmFlags:")[2].split("\n")[0].split()
    return "rr" not in flags


@pytest.mark.parametrize("name, classes", [("mnist", tuple("01234")), ("fashion_mnist", FASHION_CLASSES)])
def test_known_names_are_read_from_the_data_folder(tmp_path, monkeypatch, name, classes):
    arrays = some_arrays()
    idx_folder(tmp_path / "data" / name, arrays)
    monkeypatch.setenv("HWZOO_DATA_DIR", str(tmp_path / "data"))
    from_environment = load_images(name)
    monkeypatch.setenv("HWZOO_DATA_DIR", str(tmp_path / "nowhere"))
    from_flag = load_images(name, str(tmp_path / "data"))  # the flag wins
    for data in (from_environment, from_flag):
        assert data.name == name
        assert data.train.class_names == classes
        assert torch.equal(data.test.images[:, 0], torch.from_numpy(arrays["t10k-images"]).to(torch.uint8))


def test_a_known_name_without_files_is_looked_for_on_the_hub(tmp_path):
    with pytest.raises(HwzooError) as error:
        load_images("mnist", str(tmp_path))
    message_of(error, HwzooError, "--dataset_name mnist", "ylecun/mnist")


IMAGES, LABELS = idx(some_arrays()["train-images"]), idx(some_arrays()["t10k-labels"])
# Which file, its bytes, and what the message says of them.
DAMAGES = {
    "one byte short": ("train_images", IMAGES[:-1], "62 bytes for 7 x 3 x 3"),
    "one byte long": ("train_images", IMAGES + b"\0", "64 bytes for 7 x 3 x 3"),
    "half a header": ("train_images", IMAGES[:9], "bytes for"),
    "labels in place of images": ("train_images", LABELS, "0x00000801, not 0x00000803"),
    "images in place of labels": ("t10k_labels", IMAGES, "0x00000803, not 0x00000801"),
    "floats": ("t10k_labels", b"\0\0\x0d\x01" + LABELS[4:], "0x00000d01"),
    "no idx file": ("train_labels", b"hello", "0x68656c6c"),
    "nothing": ("train_labels", b"", "magic number"),
}


@pytest.mark.parametrize("compressed", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("key, data, words", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_idx_file_is_named(tmp_path, key, data, words, compressed):
    folder = idx_folder(tmp_path / "mine", some_arrays(), compressed, **{key: data})
    with pytest.raises(HwzooError) as error:
        load_images(str(folder))
    path = folder / (FILES[key.replace("_", "-")] + (".gz" if compressed else ""))
    assert message_of(error, HwzooError, path, words).startswith(str(path))


CHANGES = {
    "cut off": lambda data: data[:-10],
    "cut in its header": lambda data: data[:5],
    "checksum": lambda data: data[:-8] + bytes(8),
    "stream": lambda data: data[:10] + b"\xff" * (len(data) - 10),
    "not compressed": lambda data: b"plain" + data,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_damaged_gz_file_is_named(tmp_path, change):
    path = idx_folder(tmp_path / "mine", some_arrays()) / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(HwzooError) as error:
        load_images(str(path.parent))
    message_of(error, HwzooError, path, "cut off or damaged")


@pytest.mark.parametrize("name", ["train-labels", "t10k-images", "t10k-labels"])
def test_a_missing_idx_file_is_named(tmp_path, name):
    folder = idx_folder(tmp_path / "mine", some_arrays(), **{name.replace("-", "_"): None})
    with pytest.raises(UsageError) as error:
        load_images(str(folder))
    message_of(error, UsageError, folder / FILES[name])


def test_images_and_labels_of_different_number_are_refused(tmp_path):
    arrays = some_arrays() | {"t10k-labels": np.arange(3)}
    with pytest.raises(HwzooError) as error:
        load_images(str(idx_folder(tmp_path / "mine", arrays)))
    message_of(error, HwzooError, tmp_path / "mine", "t10k-images holds 4 images", "t10k-labels 3 labels")


@pytest.mark.parametrize("split, sizes", [("train", {"num_train": 0}), ("t10k", {"num_test": 0})])
def test_an_empty_idx_file_is_refused(tmp_path, split, sizes):
    folder = idx_folder(tmp_path / "mine", some_arrays(**sizes))
    with pytest.raises(HwzooError) as error:
        load_images(str(folder))
    message_of(error, HwzooError, folder / f"{split}-images-idx3-ubyte.gz", "no images")


# Image folders


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)], ids=["grey", "RGB"])
@pytest.mark.parametrize("test_split", ["test", "validation"])
def test_the_images_of_a_folder_come_back(tmp_path, shape, test_split):
    names = [
        f"{split}/{kind}/{num}.png" for split in ("train", test_split) for kind in ("cat", "dog") for num in (1, 2)
    ]
    images = {name: pixels(seed, *shape) for seed, name in enumerate(names)}
    data = load_images(str(image_folder(tmp_path / "pets", images)))
    assert data.name == "pets"
    for part, split in ((data.train, "train"), (data.test, test_split)):
        assert part.class_names == ("cat", "dog")
        arrays = [array for name, array in images.items() if name.startswith(split)]
        expected = torch.from_numpy(np.stack(arrays)).to(torch.uint8).reshape(4, 4, 4, -1).permute(0, 3, 1, 2)
        assert torch.equal(part.images, expected)
        assert part.labels.tolist() == [0, 0, 1, 1]
    assert data.train.num_channels == (3 if len(shape) == 3 else 1)


def test_grey_images_among_colours_have_equal_channels(tmp_path):
    folder = image_folder(tmp_path / "pets", {f"{split}/dog/1.png": pixels(0, 4, 4, 3) for split in ("train", "test")})
    for split in ("train", "test"):
        image_folder(folder, {f"{split}/cat/1.png": pixels(1, 4, 4)})
    for split, kinds in {"train": ("cat",), "test": ("cat", "dog")}.items():  # only one split has colours
        image_folder(tmp_path / "few", {f"{split}/{kind}/1.png": pixels(1, 4, 4) for kind in kinds})
    image_folder(tmp_path / "few", {"train/dog/1.png": pixels(0, 4, 4, 3)})
    for name in ("pets", "few"):
        data = load_images(str(tmp_path / name))
        assert data.train.images.shape == data.test.images.shape == (2, 3, 4, 4)
        assert torch.equal(data.train.images[0], torch.from_numpy(pixels(1, 4, 4)).byte().expand(3, 4, 4))
        assert torch.equal(data.train.images[1].permute(1, 2, 0), torch.from_numpy(pixels(0, 4, 4, 3)).byte())


TWO_BY_TWO = {f"{split}/{kind}/1.png": pixels(0, 4, 4) for split in ("train", "test") for kind in ("cat", "dog")}


@pytest.mark.parametrize("name", ["train/dog/1.png", "test/dog/1.png"])
@pytest.mark.parametrize("shape, other", [((4, 4), (4, 5)), ((4, 5), (5, 4)), ((4, 4), (5, 5, 3))])
def test_images_of_different_sizes_are_refused(tmp_path, name, shape, other):
    folder = image_folder(
        tmp_path / "pets", {key: pixels(0, *shape) for key in TWO_BY_TWO} | {name: pixels(0, *other)}
    )
    with pytest.raises(UsageError) as error:
        load_images(str(folder))
    message_of(error, UsageError, f"--dataset_name {folder} ({name.split('/')[0]})", "different sizes")


@pytest.mark.parametrize("start", ["", "train/"])
def test_a_folder_without_test_images_is_split(tmp_path, start):
    """By class, the same at each call, and no image in both; whatever the classes are called."""
    kinds = {"test": 10, "a_train_b": 20, "eval": 5}
    names = [f"{start}{kind}/{index}.png" for kind, num in kinds.items() for index in range(num)]
    folder = image_folder(tmp_path / "pets", {name: np.full((4, 4), seed) for seed, name in enumerate(names)})
    data = load_images(str(folder))
    assert data.train.class_names == ("a_train_b", "eval", "test")
    assert data.train.labels.bincount().tolist() == [16, 4, 8] and data.test.labels.bincount().tolist() == [4, 1, 2]
    seen = torch.cat([data.train.images, data.test.images])[:, 0, 0, 0]
    assert sorted(seen.tolist()) == list(range(35))
    assert load_images(str(folder)).digest() == data.digest()
    assert data.described == "pets (0.2 of its images, by class with seed 0, are the test images)"
    half = load_images(str(folder), options=ImageOptions(test_share=0.4))
    assert half.test.labels.bincount().tolist() == [8, 2, 4] and "0.4 of its images" in half.described


def test_a_class_of_one_image_cannot_be_split(tmp_path):
    folder = image_folder(tmp_path / "pets", {name: array for name, array in TWO_BY_TWO.items() if "train" in name})
    with pytest.raises(UsageError) as error:
        load_images(str(folder))
    message_of(error, UsageError, "--test_share 0.2: of the class cat", f"--dataset_name {folder}", "one image")


SPLIT_NAMES = ("train", "training", "a_train_b", "test", "testing", "pre-test", "eval")


def test_no_image_of_one_split_is_in_another(tmp_path):
    images = {f"train/{kind}/{index}.png": np.full((4, 4), 1) for kind in SPLIT_NAMES for index in range(4)}
    images |= {f"test/{kind}/{index}.png": np.full((4, 4), 2) for kind in SPLIT_NAMES for index in range(2)}
    data = load_images(str(image_folder(tmp_path / "test" / "train", images)))
    assert data.train.images.flatten().bincount().tolist() == [0, 28 * 16]
    assert data.test.images.flatten().bincount().tolist() == [0, 0, 14 * 16]
    assert data.train.labels.bincount().tolist() == [4] * 7 and data.test.labels.bincount().tolist() == [2] * 7


def test_hidden_files_are_nobodys_images(tmp_path):
    folder = image_folder(tmp_path / ".data" / "pets", TWO_BY_TWO)
    for name in ("._1.png", ".ipynb_checkpoints/1.png", "__MACOSX/1.png"):
        image_folder(folder / "train" / "cat", {name: pixels(9, 4, 4)})
    (folder / "train" / "cat" / "._2.png").write_bytes(b"no image")
    data = load_images(str(folder))
    assert data.train.class_names == ("cat", "dog") and len(data.train) == len(data.test) == 2


def test_images_in_no_folder_are_of_one_class(tmp_path):
    images = {f"{index}.png": np.full((4, 4), index) for index in range(10)}
    data = load_images(str(image_folder(tmp_path / "flat", images)))
    assert (len(data.train), len(data.test), data.train.class_names) == (8, 2, ("all",))
    with pytest.raises(UsageError, match="^--conditional: flat has one class, all; two or more are needed$"):
        data.check_classes("--conditional")


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "testing"), ("TRAIN", "val")])
def test_splits_by_other_words_are_no_classes(train, test, tmp_path):
    image_folder(tmp_path, {f"{split}/{kind}/1.png": pixels(0, 4, 4) for split in (train, test) for kind in "ab"})
    with pytest.raises(UsageError, match=f"{train}/ and {test}/ would be classes; splits are called train/ and "):
        load_images(str(tmp_path))


@pytest.mark.parametrize("other", ["Test/", "testing/", "eval/", "bus/", "loose.png"])
def test_images_beside_the_splits_are_not_dropped(other, tmp_path):
    images = {f"train/{kind}/{index}.png": pixels(index, 4, 4) for kind in "ab" for index in range(5)}
    image_folder(tmp_path, images | {other.replace("/", "/a/1.png"): pixels(0, 4, 4)})
    with pytest.raises(UsageError) as error:
        load_images(str(tmp_path))
    message = message_of(error, UsageError, f"--dataset_name {tmp_path}: {other} ", "beside train/")
    assert message.endswith("splits are called train, test, validation, valid, val")


def test_what_holds_no_images_may_lie_beside_the_splits(tmp_path):
    folder = image_folder(tmp_path / "pets", TWO_BY_TWO)
    image_folder(folder, {name: pixels(9, 4, 4) for name in (".old/a/1.png", "__MACOSX/1.png", "docs/._1.png")})
    for name in ("docs/readme.txt", "readme.txt", "._1.png"):
        (folder / name).write_text("pets")
    data = load_images(str(folder))
    assert data.train.class_names == ("cat", "dog") and len(data.train) == len(data.test) == 2


def same_images(data, other):
    """Whether two data sets have the same class names, and in both splits the same images and labels."""
    return all(
        a.class_names == b.class_names and torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
        for a, b in ((data.train, other.train), (data.test, other.test))
    )


@pytest.mark.parametrize("place", ["", "train/", "cat/", "train/cat/"])
def test_what_is_no_image_by_its_name_is_skipped(place, tmp_path):
    """`datasets` takes `0.png.bak` for an image, as it does more formats, and looks into archives."""
    start = "train/" if "train" in place else ""
    images = {f"{start}{kind}/{index}.png": pixels(index, 4, 4, 3) for kind in ("cat", "dog") for index in range(6)}
    folder = image_folder(tmp_path / "pets", images)
    expected = load_images(str(folder))
    assert expected.train.class_names == ("cat", "dog") and len(expected.train) + len(expected.test) == 12
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        archive.write(folder / f"{start}cat/0.png", "cat/0.png")
    png = (folder / f"{start}dog/1.png").read_bytes()
    others = {"0.png.bak": png, "9.png.gz": gzip.compress(png), "0.png.json": b"{}", "0.png.txt": b"0 0.5 0.5 1 1"}
    others |= {"folder.ico": png} | dict.fromkeys(["pets.ZIP", "x.png.zip"], (tmp_path / "pets.zip").read_bytes())
    for name, data in others.items():
        (folder / place / name).write_bytes(data)
    Image.new("RGB", (4, 4), "red").save(folder / place / "x.ppm")
    assert same_images(load_images(str(folder)), expected)


def test_files_are_read_in_the_order_of_their_whole_names(tmp_path):
    """Which images a share of them is depends on it."""
    names = [f"{kind}/{name}.png" for kind in ("b-1", "b", "B", "a") for name in ("2", "10", "1")]
    images = {name: pixels(index, 4, 4) for index, name in enumerate(names)}
    for split in ("train", "test"):
        image_folder(tmp_path / "pets" / split, images)
    data = load_images(str(tmp_path / "pets"))
    expected = [images[name] for name in sorted(names)]
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(np.stack(expected)).to(torch.uint8))
    assert data.train.class_names == ("B", "a", "b", "b-1")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 3, 3, 3, 2, 2, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere take no such names")
def test_a_name_that_is_no_utf8_is_told(tmp_path):
    folder = image_folder(tmp_path / "pets", TWO_BY_TWO)
    os.rename(folder / "train/cat/1.png", os.fsencode(folder) + b"/train/cat/\xff.png")
    with pytest.raises(HwzooError) as error:
        load_images(str(folder))
    message_of(error, HwzooError, f"--dataset_name {folder}: ", r"train/cat/\udcff.png' cannot be read: its name")


def test_a_class_may_be_called_as_an_archive_is(tmp_path):
    names = {name.replace("cat", "cat.zip"): array for name, array in TWO_BY_TWO.items()}
    assert load_images(str(image_folder(tmp_path / "pets", names))).train.class_names == ("cat.zip", "dog")


def test_the_reason_why_a_folder_cannot_be_read_is_told(tmp_path, monkeypatch):
    import datasets

    def fails(*args, **kwargs):
        raise datasets.exceptions.DatasetGenerationError("An error occurred") from ValueError("the reason")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "train.parquet").write_bytes(b"")
    with pytest.raises(HwzooError) as error:
        load_images(str(tmp_path / "pets"))
    assert str(error.value) == f"--dataset_name {tmp_path / 'pets'} cannot be loaded: the reason"


@pytest.mark.parametrize("linked", ["dog", "train/dog"])
def test_a_link_to_a_folder_of_images_is_told(tmp_path, linked):
    data = tmp_path / "data"
    split = Path(linked).parent
    image_folder(data / split, {f"{kind}/{i}.png": pixels(i, 4, 4) for kind in ("bird", "cat") for i in range(5)})
    image_folder(tmp_path / "real", {f"dog/{index}.png": pixels(index, 4, 4) for index in range(5)})
    (data / linked).symlink_to(tmp_path / "real" / "dog")
    with pytest.raises(UsageError, match=f"{data / linked} is a link to a folder, which is not followed"):
        load_images(str(data))


def test_vehicles_may_be_classes(tmp_path):
    kinds = ("Train", "Bus")
    image_folder(tmp_path, {f"{kind}/{index}.png": pixels(index, 4, 4) for kind in kinds for index in range(5)})
    assert load_images(str(tmp_path)).train.class_names == ("Bus", "Train")


def test_a_data_folder_that_is_not_read_is_told(tmp_path, caplog):
    load_images("digits", str(tmp_path))
    assert [each.message for each in caplog.records] == [
        "--data_dir is not read for digits; images of your own are --dataset_name FOLDER"
    ]


@pytest.mark.parametrize("kind", ["digits", "idx", "npz", "folder", "own test", "parquet", "saved"])
def test_options_that_are_not_read_are_told(kind, tmp_path, caplog):
    name, unread = str(tmp_path / "data"), {"dataset_config", "image_column", "label_column", "test_share"}
    options = {"dataset_config": "q", "image_column": "x", "label_column": "none", "test_share": 0.5}
    if kind == "idx":
        idx_folder(tmp_path / "data", some_arrays())
        unread.discard("dataset_config")
        options.pop("dataset_config")
    elif kind == "npz":
        name = str(tmp_path / "data.npz")
        np.savez(name, **{f"{part}_{split}": np.zeros((2, 4, 4) if part == "x" else 2, np.uint8)
                          for part in "xy" for split in ("train", "test")})  # fmt: skip
    elif kind in ("parquet", "saved"):
        rows = {"image": [pixels(0, 4, 4).astype(np.uint8).tolist()] * 8, "label": [0, 1] * 4}
        import datasets

        kinds = {"image": datasets.Array2D((4, 4), "uint8"), "label": datasets.ClassLabel(names=["a", "b"])}
        stored, unread = datasets.Dataset.from_dict(rows, datasets.Features(kinds)), {"dataset_config"}
        (tmp_path / "data").mkdir()
        stored.to_parquet(tmp_path / "data" / "x.parquet") if kind == "parquet" else stored.save_to_disk(name)
        options |= {"image_column": "image"}
    elif kind in ("folder", "own test"):
        splits = ("train/", "test/") if kind == "own test" else ("",)
        files = {f"{split}a/{index}.png": pixels(index, 4, 4) for split in splits for index in range(8)}
        image_folder(tmp_path / "data", files)
        unread = {"dataset_config"} | ({"test_share"} if kind == "own test" else set())
        options |= {"image_column": "image"}
    else:
        name = "digits"
    load_images(name, options=ImageOptions(**options))
    assert {each.message.split(" is not read")[0] for each in caplog.records} == {f"--{name}" for name in unread}
    caplog.clear()
    load_images(name)
    assert not caplog.records


def test_a_configuration_of_files_without_any_is_refused(tmp_path):
    with pytest.raises(UsageError, match="--dataset_config is mnist; .* has no configurations, leave it out"):
        load_images(str(idx_folder(tmp_path, some_arrays())), options=ImageOptions(dataset_config="mnist"))


def test_a_loose_image_beside_class_folders_is_named(tmp_path):
    folder = image_folder(tmp_path / "pets", {"cat/1.png": pixels(0, 4, 4), "loose.png": pixels(0, 4, 4)})
    with pytest.raises(UsageError) as error:
        load_images(str(folder))
    message_of(error, UsageError, f"--dataset_name {folder}: {folder}/loose.png is in no folder", "in CLASS/")


def test_images_are_resized_on_request(tmp_path):
    left = np.repeat([[0, 0, 100, 100, 200, 200, 250, 250]], 4, 0)  # 4 x 8 pixels
    folder = image_folder(
        tmp_path / "pets", {f"{split}/cat/{i}.png": left for split in ("train", "test") for i in "12"}
    )
    with pytest.raises(UsageError, match="must be square: give --image_size N and --resize crop, pad or stretch"):
        assert load_images(str(folder)).train.image_size is None
    rows = {"crop": [100, 100, 200, 200], "stretch": [14, 100, 194, 243]}
    for resize, row in rows.items():
        data = load_images(str(folder), options=ImageOptions(image_size=4, resize=resize))
        assert data.train.image_size == data.test.image_size == 4
        assert data.train.images[0, 0, 1].tolist() == row, resize
        assert data.described.startswith("pets (images of 4 x 4, others ")
    padded = [load_images(str(folder), options=ImageOptions(image_size=8, resize="pad", background=each))
              for each in ("white", "black")]  # fmt: skip
    for data, value in zip(padded, (255, 0), strict=True):
        column = data.test.images[0, 0, :, 3]
        assert column.tolist() == [value] * 2 + [100] * 4 + [value] * 2
        assert f"padded to squares with {'white' if value else 'black'}" in data.described
    (folder / "train" / "cat" / "2.png").unlink()
    image_folder(folder, {"train/cat/2.png": pixels(0, 6, 6)})
    data = load_images(str(folder), options=ImageOptions(image_size=4))
    assert data.train.images.shape == (2, 1, 4, 4)
    with pytest.raises(
        UsageError, match=r"train/cat/2.png is 6 x 6 \(height x width\), the first is 4 x 8; --image_si"
    ):
        load_images(str(folder))
    digits = load_images("digits", options=ImageOptions(image_size=16))
    assert digits.train.images.shape == (1500, 1, 16, 16) and digits.known_as is None
    same = load_images("digits", options=ImageOptions(image_size=28))
    assert same.digest() == load_images().digest() and same.known_as == "digits"


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_validation_images_are_held_out_of_the_training_images(share):
    plain, data = load_images(), load_images("digits", options=ImageOptions(validation_share=share))
    assert plain.validation is None and plain.watched is plain.test and plain.described == "digits"
    assert torch.equal(data.test.images, plain.test.images) and data.watched is data.validation
    assert len(data.validation) == round(1500 * share) and len(data.train) == 1500 - len(data.validation)
    counts = data.validation.labels.bincount() / plain.train.labels.bincount()
    assert (counts - share).abs().max() < 0.01
    both = torch.cat([data.train.images, data.validation.images]).flatten(1)
    assert torch.equal(both.unique(dim=0), plain.train.images.flatten(1).unique(dim=0))
    assert data.digest() != plain.digest() and f"digits ({share} of its training images" in data.described


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_image_in_no_folder_of_a_class_is_named(tmp_path, split):
    folder = image_folder(tmp_path / "pets", TWO_BY_TWO | {f"{split}/loose.png": pixels(0, 4, 4)})
    with pytest.raises(UsageError) as error:
        load_images(str(folder))
    message_of(error, UsageError, f"--dataset_name {folder}", f"{folder}/{split}/loose.png is in no folder of a class")


def test_splits_of_images_in_no_folder_of_a_class_are_of_one_class(tmp_path):
    names = [f"{split}/{index}.png" for split, num in (("train", 8), ("test", 4)) for index in range(num)]
    folder = image_folder(tmp_path / "pets", {name: pixels(0, 4, 4) for name in names})
    data = load_images(str(folder))
    assert (len(data.train), len(data.test)) == (8, 4) and data.train.class_names == ("all",)
    image_folder(folder, {"test/cat/0.png": pixels(0, 4, 4)})  # beside the loose ones, or with loose ones in train/
    for _ in range(2):
        with pytest.raises(
            UsageError, match=r"pets/(train|test)/0.png is in no folder of a class; images are in \w+/C"
        ):
            load_images(str(folder))
        for loose in (folder / "test").glob("*.png"):
            loose.unlink()


def test_one_class_is_a_data_set_and_none_to_tell_apart(tmp_path):
    folder = image_folder(tmp_path / "pets", {name: array for name, array in TWO_BY_TWO.items() if "cat" in name})
    data = load_images(str(folder))
    assert data.train.class_names == ("cat",) and data.train.labels.tolist() == data.test.labels.tolist() == [0]
    with pytest.raises(UsageError, match="^--conditional: pets has one class, cat; two or more are needed$"):
        data.check_classes("--conditional")
    load_images().check_classes("--conditional")


def test_a_class_may_be_called_as_a_split(tmp_path):
    kinds = ("cat", "test_tubes", "train", "validation")
    names = [f"{split}/{kind}/1.png" for split in ("train", "test") for kind in kinds]
    data = load_images(str(image_folder(tmp_path / "[a]*", {name: pixels(0, 4, 4) for name in names})))
    assert data.train.class_names == kinds and data.name == "[a]*"
    assert data.train.labels.tolist() == data.test.labels.tolist() == [0, 1, 2, 3]


def test_test_images_of_a_class_without_training_images_are_told(tmp_path, caplog):
    """As where it is spelt otherwise there."""
    names = ["train/cat/1.png", "train/dog/1.png", "test/Cat/1.png", "test/dog/1.png", "test/cow/1.png"]
    folder = image_folder(tmp_path / "pets", {name: pixels(0, 4, 4) for name in names})
    assert load_images(str(folder)).train.class_names == ("Cat", "cat", "cow", "dog")
    assert [each.message for each in caplog.records] == [
        f"--dataset_name {folder}: there are test images of Cat, cow, and none to train on"
    ]
    caplog.clear()
    load_images()
    assert not caplog.records


# What it is


def test_the_digest_is_of_the_content(tmp_path):
    """The same wherever it lies and however it is packed; another for each change of a pixel, a label, a split."""
    arrays = some_arrays()
    first = load_images(str(idx_folder(tmp_path / "a", arrays)))
    assert load_images(str(idx_folder(tmp_path / "b", arrays, compressed=False))).digest() == first.digest()
    assert first.digest() == first.digest() and len(first.digest()) == 64
    changed = {"pixel": ("t10k-images", (0, 2, 2)), "label": ("t10k-labels", 0), "train label": ("train-labels", 6)}
    digests = {first.digest()}
    for name, (key, place) in changed.items():
        array = arrays[key].copy()
        array[place] ^= 1
        digests.add(load_images(str(idx_folder(tmp_path / name, arrays | {key: array}))).digest())
    swapped = {"train": "t10k", "t10k": "train"}
    swapped = {
        f"{swapped[split]}-{what}": array for name, array in arrays.items() for split, what in [name.split("-")]
    }
    digests.add(load_images(str(idx_folder(tmp_path / "swapped", swapped))).digest())
    turned = {name: array.reshape(len(array), 1, 9) if array.ndim == 3 else array for name, array in arrays.items()}
    digests.add(load_images(str(idx_folder(tmp_path / "turned", turned))).digest())
    names = tuple("abcde")
    named = replace(first, train=replace(first.train, class_names=names), test=replace(first.test, class_names=names))
    digests.add(named.digest())
    assert len(digests) == 7


def test_a_data_set_is_known_by_what_it_is(tmp_path):
    """Not by what its folder is called."""
    assert load_images().known_as == "digits"
    arrays = some_arrays(height=28, width=28) | {"train-labels": np.arange(7) + 3}
    for name in ("digits", "mnist", "fashion_mnist"):
        given = load_images(str(idx_folder(tmp_path / name, arrays)))
        assert (given.name, given.known_as, given.source) == (name, None, name)
    for name in ("mnist", "fashion_mnist"):
        named = load_images(name, str(tmp_path))
        assert (named.name, named.known_as, named.source) == (name, None, name)


@pytest.mark.parametrize("given", [".", "./", "../pets", "../pets/", "{folder}/"])
@pytest.mark.parametrize("kind", ["idx", "images"])
def test_a_data_set_has_the_name_of_its_folder(tmp_path, monkeypatch, given, kind):
    folder = tmp_path / "pets"
    if kind == "idx":
        idx_folder(folder, some_arrays())
    else:
        image_folder(folder, TWO_BY_TWO)
    monkeypatch.chdir(folder)
    assert load_images(given.format(folder=folder)).name == "pets"


@pytest.mark.parametrize("name", ["mnist", "ylecun/mnist"])
def test_what_comes_from_the_hub_is_known_by_its_repository(monkeypatch, name):
    asked = []
    given = dict(of_labels([0, 1], 28, "0123456789"))
    monkeypatch.setattr(sources, "_call_datasets", lambda what, repo_id, **kwargs: asked.append(repo_id) or given)
    data = load_images(name)
    assert (data.name, data.known_as, data.source) == (name, "mnist", "ylecun/mnist")
    other = load_images("owner/mnist")
    assert (data.title, other.title) == ("MNIST", "mnist")
    assert (other.name, other.known_as, other.source) == ("owner/mnist", None, "owner/mnist")
    assert asked == ["ylecun/mnist", "owner/mnist"]
    given = dict(of_labels([0, 1], 8, "0123456789"))  # what a mirror may serve
    assert load_images(name).known_as is None


# Labels


def of_labels(labels, size=4, names=("cat", "dog")):
    """A data set with a class label column as the Hub serves it."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageColumn

    for split in ("train", "test"):
        image = Image.fromarray(pixels(0, size, size).astype(np.uint8))
        rows = {"image": [image] * len(labels), "kind": labels}
        columns = {"image": ImageColumn(), "kind": Value("int64")}
        data = Dataset.from_dict(rows, features=Features(columns))
        data.info.features = Features(columns | {"kind": ClassLabel(names=list(names))})
        yield split, data


@pytest.mark.parametrize("wrong", [-1, None, 2])
def test_a_label_that_is_no_class_is_told_with_its_row(wrong):
    parts = dict(of_labels([0, 1, wrong, 1]))
    with pytest.raises(UsageError) as error:
        _from_datasets("pets", "--dataset_name pets", parts)
    told = message_of(error, UsageError, "--dataset_name pets (train), row 3: ")
    assert told.endswith(f"kind is {wrong}; each image needs a class, 0 to 1")
    data = _from_datasets("pets", "--dataset_name pets", dict(of_labels([0, 1, 1])))
    assert data.train.labels.tolist() == [0, 1, 1]


def test_a_label_beyond_the_known_classes_is_told_with_its_row(tmp_path):
    arrays = some_arrays() | {"t10k-labels": np.array([0, 1, 10, 2])}
    idx_folder(tmp_path / "fashion_mnist", arrays)
    with pytest.raises(UsageError) as error:
        load_images("fashion_mnist", str(tmp_path))
    path = tmp_path / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz"
    assert message_of(error, UsageError, path) == f"{path}, row 3: label is 10; each image needs a class, 0 to 9"


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError) as error:
        load_images(str(tmp_path / "empty"))
    message_of(error, UsageError, f"--dataset_name {tmp_path / 'empty'}", "empty")


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(HwzooError) as error:
        load_images(str(tmp_path / "empty"))
    message_of(error, HwzooError, f"--dataset_name {tmp_path / 'empty'}")


# Names


@pytest.mark.parametrize("name", ["nothing", "MNIST", "./nothing", "a/b/c", "../a/b"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(UsageError) as error:
        load_images(name)
    assert "digits, mnist, fashion_mnist" in message_of(error, UsageError, f"--dataset_name {name}: no such folder")


@pytest.mark.parametrize("name", ["words", "scitldr"])
def test_texts_are_no_images_whatever_folders_there_are(name):
    """As a preset means it, in which the name stays a name."""
    idx_folder(Path(name), some_arrays())
    assert len(load_images(f"./{name}").train) == 7
    words = f"--dataset_name {name} is a data set of texts; a folder of that name is ./{name}"
    with pytest.raises(UsageError, match=f"^{words}$"):
        load_images(name)


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "cat.png").write_text("")
    for name, words in (("cat.png", "a file must be .npz or .parquet; of pictures"), ("nowhere", "no such folder")):
        with pytest.raises(UsageError) as error:
            load_images(str(tmp_path / name))
        message_of(error, UsageError, f"--dataset_name {tmp_path / name}: {words}")


def test_a_data_folder_that_is_not_there_is_named_as_it_was_given(tmp_path, monkeypatch):
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(UsageError) as error:
        load_images("mnist", nowhere)
    message_of(error, UsageError, f"--data_dir {nowhere}")
    monkeypatch.setenv("HWZOO_DATA_DIR", nowhere)
    with pytest.raises(UsageError) as error:
        load_images("fashion_mnist")
    message_of(error, UsageError, f"HWZOO_DATA_DIR {nowhere}")


def test_a_hub_that_cannot_be_reached_is_one_line():
    with pytest.raises(HwzooError) as error:
        load_images("owner/name")
    message_of(error, HwzooError, "--dataset_name owner/name cannot be loaded", "reach")


# The real thing, where it is given

DATA_DIR = os.environ.get("HWZOO_DATA_DIR", "")

if DATA_DIR and (Path(DATA_DIR) / "mnist").is_dir():

    def test_mnist_has_its_well_known_moments():
        data = load_images("mnist", DATA_DIR)
        assert data.train.images.shape == (60_000, 1, 28, 28) and data.test.images.shape == (10_000, 1, 28, 28)
        intensities = torch.arange(256, dtype=torch.float64) / 255
        frequency = data.train.images.flatten().bincount(minlength=256) / data.train.images.numel()
        mean = (frequency * intensities).sum().item()
        assert mean == pytest.approx(0.1307, abs=5e-5)
        assert ((frequency * intensities**2).sum().item() - mean**2) ** 0.5 == pytest.approx(0.3081, abs=5e-5)
        assert data.train.class_names == tuple("0123456789")
        assert data.train.labels.bincount().tolist()[:3] == [5923, 6742, 5958]
        started = time.perf_counter()
        data.digest()
        assert time.perf_counter() - started < 0.5  # measured: 0.03

    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
    def test_the_real_ones_are_known_whatever_their_folder_is_called(name, tmp_path):
        (tmp_path / "mine").symlink_to(Path(DATA_DIR) / name)
        for data in (load_images(name, DATA_DIR), load_images(str(tmp_path / "mine"))):
            assert data.known_as == name and data.source.endswith(f"/{name}")


@pytest.mark.parametrize("name", ["", "x/", "/nothere", "./x/y", "a/b/c"])
def test_what_cannot_be_a_hub_id_is_told_as_a_wrong_name(name):
    with pytest.raises(UsageError, match=f"--dataset_name {name}: no such folder"):
        load_images(name)


def pictures_of(folder, make):
    for split, size in (("train", 5), ("test", 5)):
        for label in ("cat", "dog"):
            (folder / split / label).mkdir(parents=True)
            make(split, Image.new("L", (size, size))).save(folder / split / label / "1.png")
    return folder


def test_damaged_and_deep_pictures_are_told(tmp_path):
    good = pictures_of(tmp_path / "good", lambda split, image: image)
    (good / "test" / "dog" / "1.png").write_bytes((good / "test" / "dog" / "1.png").read_bytes()[:40])
    with pytest.raises(HwzooError, match="test/dog/1.png cannot be read"):
        load_images(str(good))
    with pytest.raises(UsageError, match=r"of different sizes: \(1, 5, 5\) and \(1, 6, 6\) .* --image_size"):
        load_images(str(pictures_of(tmp_path / "sizes", lambda s, i: i if s == "train" else i.resize((6, 6)))))
    with pytest.raises(UsageError, match="mode I;16; pixels must have 8 bits"):
        load_images(str(pictures_of(tmp_path / "deep", lambda split, image: image.convert("I;16"))))


def test_black_and_white_pictures_have_one_channel(tmp_path):
    data = load_images(str(pictures_of(tmp_path / "bits", lambda split, image: image.convert("1"))))
    assert data.train.num_channels == 1


# Columns


def table(size=12, **columns):
    from datasets import Dataset
    from datasets import Image as ImageColumn

    pictures = [Image.fromarray(np.full((4, 4), 20 * index % 256, np.uint8)) for index in range(size)]
    return Dataset.from_dict({"image": pictures, **columns}).cast_column("image", ImageColumn())


LABELS = {
    "strings": (["b", "a", "c"] * 4, ("a", "b", "c"), [1, 0, 2]),
    "strings with blanks": (["b ", "a", "b"] * 4, ("a", "b"), [1, 0, 1]),
    "integers with gaps": ([10, 2, 300] * 4, ("2", "10", "300"), [1, 0, 2]),
    "whole floats": ([1.0, 0.0, 2.0] * 4, ("0", "1", "2"), [1, 0, 2]),
}


@pytest.mark.parametrize("values, names, labels", LABELS.values(), ids=LABELS)
def test_labels_of_any_kind_become_classes(values, names, labels):
    data = load_images({"train": table(label=values), "test": table(label=values)})
    assert data.train.class_names == names and data.train.labels.tolist() == data.test.labels.tolist() == labels * 4
    assert data.train.images[:, 0, 0, 0].tolist() == [20 * index for index in range(12)]


@pytest.mark.parametrize(
    "wrong, values",
    [("-1", [0, -1]), ("None", ["a", None]), ("''", ["a", ""]), ("nan", [0.0, float("nan")])],
)
def test_a_missing_label_is_told_with_column_and_row(wrong, values):
    with pytest.raises(UsageError) as error:
        load_images(table(label=values * 6))
    assert message_of(error, UsageError, f"row 2: label is {wrong}; each image needs a class")


def test_a_data_set_from_python_is_split():
    data = load_images(table(label=["a", "b"] * 6), options=ImageOptions(test_share=0.5))
    assert len(data.train) == len(data.test) == 6 and data.test.labels.bincount().tolist() == [3, 3]


def test_several_columns_are_asked_for():
    two = table(fine=["a", "b"] * 6, coarse=[1, 2] * 6)
    with pytest.raises(UsageError, match="fine, coarse is the class is not said: give --label_column"):
        load_images(two)
    assert load_images(two, options=ImageOptions(label_column="coarse")).train.class_names == ("1", "2")
    assert load_images(two, options=ImageOptions(label_column="none")).train.class_names == ("all",)
    with pytest.raises(UsageError, match="--label_column kind: .* has the columns"):
        load_images(two, options=ImageOptions(label_column="kind"))
    with_mask = two.add_column("mask", [{"bytes": row["bytes"], "path": None} for row in encoded(two)])
    with pytest.raises(UsageError, match="give --image_column, one of image, mask"):
        load_images(with_mask, options=ImageOptions(label_column="fine"))
    chosen = load_images(with_mask, options=ImageOptions(label_column="fine", image_column="mask"))
    assert chosen.train.images.shape[1:] == (1, 4, 4)
    with pytest.raises(UsageError, match="none holds images"):
        load_images(two.remove_columns("image"))


def test_the_format_of_a_data_set_changes_nothing(tmp_path):
    data, options = table(label=[0, 1] * 6, other=list(range(12))), ImageOptions(label_column="label")
    formatted = [data.with_format(kind) for kind in ("torch", "numpy", "arrow")]
    formatted += [data.with_format("torch", columns=["label"]), data.with_transform(lambda rows: {"n": rows["other"]})]
    formatted[0].save_to_disk(tmp_path / "saved")
    expected = load_images(data, options=options).digest()
    for given in (*formatted, str(tmp_path / "saved")):
        assert load_images(given, options=options).digest() == expected


def test_all_splits_have_the_columns_of_the_training_split():
    data = table(label=["a", "b"] * 6)
    as_arrays = arrays(pixels(0, 12, 4, 4).astype(np.uint8), (4, 4)).rename_column("pixels", "image")
    unlabelled = {"train": data, "test": data.remove_columns("label")}
    in_training = "in the training split; it must hold one of the two in all splits"
    for splits, message in (
        (unlabelled, "--label_column label: the data set (test) has the columns ['image']; give one of them, or "
         "--label_column none for no classes"),
        ({"train": data, "test": data.rename_column("image", "img")},
         "--image_column image: the data set (test) has the image columns ['img'], of ['img', 'label']"),
        ({"train": data, "test": as_arrays},
         f"the data set (test): image holds arrays, pictures {in_training}"),
        ({"train": as_arrays, "test": data},
         f"the data set (test): image holds pictures, arrays {in_training}"),
    ):  # fmt: skip
        with pytest.raises(UsageError) as error:
            load_images(splits)
        assert str(error.value) == message
    loaded = load_images(unlabelled, options=ImageOptions(label_column="none"))
    assert (len(loaded.train), len(loaded.test)) == (12, 12)


def test_one_split_alone_is_divided():
    data = table(label=["a", "b"] * 6)
    assert len(load_images({"train": data}).test) == 3
    with pytest.raises(UsageError) as error:
        load_images({"train": data, "extra": data})
    message_of(error, UsageError, "the data set has the splits ['extra', 'train']; it must have train and one of")


@pytest.mark.parametrize("wrong", [None, {"bytes": b"", "path": None}, {"bytes": b"", "path": ""}])
def test_a_row_without_an_image_is_told(wrong):
    from datasets import Dataset, Features, Value

    kinds = Features(image={"bytes": Value("binary"), "path": Value("string")}, label=Value("int64"))
    rows = [encoded(table())[0], wrong] * 5
    with pytest.raises(UsageError) as error:
        load_images(Dataset.from_dict({"image": rows, "label": [0, 1] * 5}, features=kinds))
    given = "b''" if wrong else "None"
    message_of(error, UsageError, f"the data set (train), row 2: image is {given}; each row needs an image")


@pytest.mark.parametrize("kind", ["binary", "large_binary"])
def test_encoded_images_of_any_binary_column(kind, tmp_path):
    from datasets import Dataset, Features, Value

    data = table(label=[0, 1] * 6)
    rows = {"image": [row["bytes"] for row in encoded(data)], "label": data["label"][:]}
    bare = Dataset.from_dict(rows, features=Features(image=Value(kind), label=Value("int64")))
    bare.to_parquet(tmp_path / "pictures.parquet")
    for given in (bare, tmp_path / "pictures.parquet", str(tmp_path / "pictures.parquet"), tmp_path):
        assert load_images(given).digest() == load_images(data).digest()


def encoded(data):
    from datasets import Image as ImageColumn

    return list(data.cast_column("image", ImageColumn(decode=False))["image"])


def test_each_split_has_its_own_numbers_of_the_classes(tmp_path):
    from datasets import ClassLabel, DatasetDict

    def of(names, classes):
        return table(len(names), label=[classes.index(name) for name in names]).cast_column(
            "label", ClassLabel(names=classes)
        )

    train = of(["cat", "cow", "dog"] * 4, ["cat", "cow", "dog"])
    for classes, every in (
        (["cow", "dog"], ("cat", "cow", "dog")),
        (["dog", "cow", "cat"], ("cat", "cow", "dog")),
        (["cow", "dog", "eel"], ("cat", "cow", "dog", "eel")),
    ):
        both = DatasetDict(train=train, test=of(["cow", "dog", "cow", "dog"], classes))
        folder = tmp_path / "-".join(classes)
        folder.mkdir()
        for split in both:
            both[split].to_parquet(folder / f"{split}.parquet")
        for data in (load_images(both), load_images(str(folder))):
            assert data.train.class_names == data.test.class_names == every
            assert data.train.labels.tolist() == [0, 1, 2] * 4 and data.test.labels.tolist() == [1, 2, 1, 2]
    strings = table(4, label=["cow", "dog"] * 2)
    assert load_images(DatasetDict(train=train, test=strings)).test.labels.tolist() == [1, 2, 1, 2]
    assert load_images(DatasetDict(train=strings, test=train)).test.labels.tolist() == [0, 1, 2] * 4
    with pytest.raises(UsageError, match="label holds numbers and names of classes; it must be one of the two"):
        load_images(DatasetDict(train=train, test=table(4, label=[1, 2] * 2)))


@pytest.mark.parametrize("names", [("mnist_train", "mnist_test"), ("train", "Test"), ("data-train-0", "data-test-0")])
def test_parquet_files_say_their_split(tmp_path, names):
    for name, size in zip(names, (12, 6), strict=True):
        table(size, label=[0, 1] * (size // 2)).to_parquet(tmp_path / f"{name}.parquet")
    data = load_images(str(tmp_path))
    assert (len(data.train), len(data.test)) == (12, 6)


def shard(file, names, labels):
    """A parquet file whose class labels have these names."""
    from datasets import ClassLabel

    file.parent.mkdir(parents=True, exist_ok=True)
    table(len(labels), label=labels).cast_column("label", ClassLabel(names=names)).to_parquet(file)


def test_parquet_files_of_one_split_number_the_classes_alike(tmp_path):
    same, other = tmp_path / "same", tmp_path / "other"
    for index, labels in enumerate(([0, 1] * 3, [1, 0] * 3)):
        shard(same / f"train-{index}.parquet", ["cat", "dog"], labels)
    shard(same / "test.parquet", ["dog", "cat"], [0, 1])  # another split may number them as it likes
    data = load_images(str(same))
    assert data.train.class_names == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 1] * 3 + [1, 0] * 3 and data.test.labels.tolist() == [1, 0]
    for index, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        shard(other / f"train-{index}.parquet", names, [0, 1] * 3)
    with pytest.raises(UsageError) as error:
        load_images(str(other))
    first, second = (f"{other / f'train-{index}.parquet'}" for index in range(2))
    message_of(error, UsageError, f"{first} are {{'label': ['cat', 'dog']}}, of {second} {{'label': ['dog', 'cat']}}")
    assert len(load_images(str(other), options=ImageOptions(label_column="none")).train) == 9  # 3 of 12 are held out


def test_two_data_sets_of_parquet_files_are_never_joined(tmp_path):
    for folder in ("fine", "other"):
        for split in ("train", "test"):
            shard(tmp_path / folder / f"{split}.parquet", ["cat", "dog"], [0, 1] * 3)
    with pytest.raises(UsageError) as error:
        load_images(str(tmp_path))
    message_of(error, UsageError, f"{tmp_path / 'fine'} and {tmp_path / 'other'} both hold files of the split")
    assert len(load_images(str(tmp_path / "fine")).train) == 6


def test_pictures_beside_parquet_files_are_told_to_be_unread(tmp_path, caplog):
    for split in ("train", "test"):
        shard(tmp_path / f"{split}.parquet", ["cat", "dog"], [0, 1] * 3)
    image_folder(tmp_path, {"._x/a.png": pixels(0, 4, 4)})
    load_images(str(tmp_path))
    assert "not read" not in caplog.text
    image_folder(tmp_path, {"train/cat/1.png": pixels(0, 4, 4)})
    assert len(load_images(str(tmp_path)).train) == 6
    one = tmp_path / "train" / "cat" / "1.png"
    assert f"--dataset_name {tmp_path}: its pictures, as {one}, are not read, but its other files" in caplog.text


def test_a_damaged_parquet_file_is_named(tmp_path):
    shard(tmp_path / "train-0.parquet", ["cat", "dog"], [0, 1])
    (tmp_path / "train-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(HwzooError) as error:
        load_images(str(tmp_path))
    message_of(error, HwzooError, f"{tmp_path / 'train-1.parquet'} cannot be read")


@pytest.mark.parametrize("folder", ["train_test", "val_study", "Train/mnist"])
def test_the_name_of_a_parquet_file_goes_before_those_of_its_folders(tmp_path, folder):
    for split, size in (("train", 20), ("test", 10)):
        shard(tmp_path / "pq" / folder / f"{split}.parquet", ["cat", "dog"], [0, 1] * (size // 2))
    data = load_images(str(tmp_path / "pq"))
    assert (len(data.train), len(data.test)) == (20, 10)


def test_parquet_files_of_two_splits_at_once_are_refused(tmp_path):
    for index in range(2):
        shard(tmp_path / "train_test" / f"{index}.parquet", ["cat", "dog"], [0, 1])
    with pytest.raises(UsageError) as error:
        load_images(str(tmp_path))
    message_of(error, UsageError, "train_test/0.parquet is said to be of the splits train and test; it must be of one")


@pytest.mark.parametrize("name", ["testing", "dev-0"])
def test_parquet_files_of_an_unknown_split_are_no_training_images(tmp_path, name):
    for each, size in (("train", 12), (name, 6)):
        table(size, label=[0, 1] * (size // 2)).to_parquet(tmp_path / f"{each}.parquet")
    with pytest.raises(UsageError, match=rf"{name}.parquet is of no split that is known, for all its '{name[:3]}"):
        load_images(str(tmp_path))


def test_data_sets_on_the_disk(tmp_path):
    from datasets import DatasetDict

    both = DatasetDict(train=table(label=["a", "b"] * 6), test=table(4, label=["b", "a"] * 2))
    both.save_to_disk(tmp_path / "saved")
    both["train"].save_to_disk(tmp_path / "single")
    (tmp_path / "tables").mkdir()
    for split in both:
        both[split].to_parquet(tmp_path / "tables" / f"{split}-00000-of-00001.parquet")
    expected = load_images(both).digest()
    for name in ("saved", "tables"):
        assert load_images(str(tmp_path / name)).digest() == expected, name
    assert len(load_images(str(tmp_path / "single")).test) == 3  # 0.2 of 12, rounded up
    for split in both:  # as the Hub makes parquet of a data set
        (tmp_path / "converted" / "default" / split).mkdir(parents=True)
        both[split].to_parquet(tmp_path / "converted" / "default" / split / "0000.parquet")
    assert load_images(str(tmp_path / "converted")).digest() == expected
    file = tmp_path / "tables" / "train-00000-of-00001.parquet"
    assert load_images(str(file)).digest() == load_images(both["train"]).digest()


def arrays(pixel_values, shape):
    """A `datasets.Dataset` of arrays of a shape, and labels."""
    import datasets

    kind = (datasets.Array2D if len(shape) == 2 else datasets.Array3D)(shape, "uint8")
    features = datasets.Features(pixels=kind, label=datasets.ClassLabel(names=["a", "b"]))
    rows = {"pixels": list(pixel_values.reshape(-1, *shape)), "label": np.arange(len(pixel_values)) % 2}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("mapped", [True, False])
def test_a_column_of_arrays_holds_images(tmp_path, monkeypatch, mapped):
    from datasets import DatasetDict, load_from_disk

    monkeypatch.setattr(raw, "MAPPED_FROM", 1 if mapped else 10**9)
    monkeypatch.setattr(sources, "_ROWS", 5)
    grey, colours = pixels(0, 24, 1, 4, 5).astype(np.uint8), pixels(1, 24, 3, 4, 5).astype(np.uint8)
    for images, given, shape in (
        (grey, grey, (4, 5)),
        (grey, grey, (1, 4, 5)),
        (grey, grey.transpose(0, 2, 3, 1), (4, 5, 1)),
        (colours, colours, (3, 4, 5)),
        (colours, colours.transpose(0, 2, 3, 1), (4, 5, 3)),
    ):
        data = arrays(given, shape)
        both = DatasetDict(train=data.select(range(20)), test=data.select(range(20, 24)))
        folder = tmp_path / "x".join(map(str, shape))
        both.save_to_disk(folder)
        for loaded in (load_images(both), load_images(str(folder))):
            assert torch.equal(loaded.train.images, torch.from_numpy(images[:20])), shape
            assert torch.equal(loaded.test.images, torch.from_numpy(images[20:])), shape
            assert loaded.train.labels.tolist() == [0, 1] * 10 and loaded.train.class_names == ("a", "b")
            if mapped:
                loaded.digest()
                assert read_ahead(str(tmp_path / "cache")) in (False, None)
    # The order is the data set's, not its file's.
    shuffled = load_from_disk(folder)["train"].select([7, 0, 19])
    loaded = load_images(DatasetDict(train=shuffled, test=shuffled))
    assert torch.equal(loaded.train.images, torch.from_numpy(colours[[7, 0, 19]]))
    assert loaded.train.labels.tolist() == [1, 0, 1]
    small = load_images(both, options=ImageOptions(image_size=3))
    assert small.train.images.shape == (20, 3, 3, 3)


def test_no_room_for_a_column_of_arrays_is_told(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(raw, "MAPPED_FROM", 1)
    monkeypatch.setattr(raw.os, "posix_fallocate", full, raising=False)
    with pytest.raises(HwzooError) as error:
        load_images(arrays(pixels(0, 6, 4, 5).astype(np.uint8), (4, 5)))
    message_of(error, HwzooError, tmp_path / "cache", "no file of 120 bytes for the images: No space left on device")


def test_arrays_that_are_no_images_are_refused():
    import datasets

    with pytest.raises(UsageError, match=r"pixels is of arrays of the shape \(2, 4, 5\); it must be"):
        load_images(arrays(pixels(0, 6, 2, 4, 5).astype(np.uint8), (2, 4, 5)))
    floats = datasets.Features(pixels=datasets.Array2D((4, 5), "float32"))
    with pytest.raises(UsageError, match="none holds images"):
        load_images(datasets.Dataset.from_dict({"pixels": [np.zeros((4, 5), np.float32)] * 4}, features=floats))
    missing = arrays(pixels(0, 6, 4, 5).astype(np.uint8), (4, 5)).map(
        lambda row, index: {"pixels": None if index == 3 else row["pixels"]}, with_indices=True
    )
    with pytest.raises(UsageError, match="pixels has missing values"):
        load_images(missing)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_gives_the_labels(tmp_path, kind):
    names = [f"{split}/{index}.png" for split in ("train", "test") for index in range(2)]
    folder = image_folder(tmp_path / "pets", {name: pixels(0, 4, 4) for name in names})
    for split in ("train", "test"):
        rows = [("0.png", "dog"), ("1.png", "cat")]
        if kind == "csv":
            text = "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in rows)
        else:
            text = "".join(f'{{"file_name": "{name}", "label": "{label}"}}\n' for name, label in rows)
        (folder / split / f"metadata.{kind}").write_text(text)
    data = load_images(str(folder))
    assert data.train.class_names == ("cat", "dog") and data.train.labels.tolist() == data.test.labels.tolist() == [
        1,
        0,
    ]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_that_is_not_of_each_split_is_refused(tmp_path, name):
    """Beside the splits it would be passed over; of some of them alone datasets finds other columns."""
    folder = image_folder(tmp_path / "pets", TWO_BY_TWO)
    row = (
        "file_name,label\ncat/0.png,big\n" if name.endswith("csv") else '{"file_name": "cat/0.png", "label": "big"}\n'
    )
    for place, told in (
        ("", f"{name} is beside train/; each split has its own, as train/{name}"),
        ("train", f"{folder}/train/{name} is of one split, test/ has none; all splits have metadata, or none"),
        ("test", f"{folder}/test/{name} is of one split, train/ has none; all splits have metadata, or none"),
        (
            "train/cat",
            f"{folder}/train/cat/{name} is below the folder of a split; each split has its own, as "
            f"{folder}/train/{name}",
        ),
    ):
        (folder / place / name).write_text(row)
        with pytest.raises(UsageError) as error:
            load_images(str(folder))
        assert str(error.value) == f"--dataset_name {folder}: {told}"
        (folder / place / name).unlink()


def test_what_holds_no_images_is_told_by_its_name(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mnist.pkl.gz").write_bytes(b"pickled")
    with pytest.raises(HwzooError, match="mine: none of its files is an image: mnist.pkl.gz"):
        load_images(str(tmp_path / "mine"))


# The family of MNIST


def test_idx_files_have_many_names(tmp_path):
    arrays = some_arrays()
    expected = load_images(str(idx_folder(tmp_path / "a", arrays))).digest()
    idx_folder(tmp_path / "torchvision" / "MNIST" / "raw", arrays, compressed=False)
    idx_folder(tmp_path / "kmnist" / "KMNIST" / "raw", arrays)
    for path in idx_folder(tmp_path / "dots", arrays, compressed=False).iterdir():
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    for name in ("torchvision", "torchvision/MNIST/raw", "torchvision/MNIST", "kmnist", "dots"):
        assert load_images(str(tmp_path / name)).digest() == expected, name
    assert load_images("mnist", str(tmp_path / "torchvision")).digest() == expected


@pytest.mark.parametrize("missing", [None, "train_labels", "t10k_images"])
def test_idx_files_of_two_folders_are_never_joined(tmp_path, missing):
    """Nor is one of them taken unasked; by its name or its own folder each is read as it is."""
    second = some_arrays() | {"train-labels": (np.arange(7) + 1) % 5}
    parts = {"FashionMNIST": some_arrays(), "MNIST": second}
    for name, arrays in parts.items():
        left_out = {missing: None} if missing and name == "FashionMNIST" else {}
        idx_folder(tmp_path / name / "raw", arrays, **left_out)
    with pytest.raises(UsageError) as error:
        load_images(str(tmp_path))
    both = ", ".join(str(tmp_path / name / "raw") for name in parts)
    message = message_of(error, UsageError)
    assert message == f"{tmp_path} holds idx files of several data sets: give one of {both}"
    for data in (load_images("mnist", str(tmp_path)), load_images(str(tmp_path / "MNIST"))):
        assert data.train.labels.tolist() == second["train-labels"].tolist()
    if missing is None:
        data = load_images("fashion_mnist", str(tmp_path))
        assert data.train.labels.tolist() == parts["FashionMNIST"]["train-labels"].tolist()


def test_the_labels_of_qmnist_have_eight_columns(tmp_path):
    arrays = some_arrays()
    for split, theirs in (("train", "train"), ("t10k", "test")):
        rows = np.zeros((len(arrays[f"{split}-labels"]), 8), ">i4")
        rows[:, 0], rows[:, 2] = arrays[f"{split}-labels"], 1000
        header = bytes([0, 0, 12, 2]) + b"".join(size.to_bytes(4, "big") for size in rows.shape)
        (tmp_path / f"qmnist-{theirs}-labels-idx2-int").write_bytes(header + rows.tobytes())
        (tmp_path / f"qmnist-{theirs}-images-idx3-ubyte").write_bytes(idx(arrays[f"{split}-images"]))
    data = load_images(str(tmp_path))
    assert data.train.labels.tolist() == arrays["train-labels"].tolist()
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(arrays["t10k-images"]).byte())
    for rows[1:, 0] in (-1, -9):  # of the test images, which are no classes from the end
        (tmp_path / "qmnist-test-labels-idx2-int").write_bytes(header + rows.tobytes())
        with pytest.raises(
            HwzooError, match=f"test-labels-idx2-int: label {rows[1, 0]} in row 1 is no class; qmnist has"
        ):
            load_images(str(tmp_path))


def test_emnist_is_turned_upright_and_its_classes_named(tmp_path):
    arrays = some_arrays()
    for part in ("letters", "digits"):
        for split, theirs in (("train", "train"), ("t10k", "test")):
            start = tmp_path / f"emnist-{part}-{theirs}"
            Path(f"{start}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(arrays[f"{split}-images"])))
            labels = arrays[f"{split}-labels"] + (part == "letters")
            Path(f"{start}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    (tmp_path / "emnist-letters-mapping.txt").write_text("".join(f"{n} {64 + n} {96 + n}\n" for n in range(1, 6)))
    with pytest.raises(UsageError, match="several configurations: give --dataset_config, one of digits, letters"):
        load_images(str(tmp_path))
    data = load_images(str(tmp_path), options=ImageOptions(dataset_config="letters"))
    assert data.train.class_names == tuple("ABCDE") and data.train.labels.tolist() == arrays["train-labels"].tolist()
    upright = torch.from_numpy(arrays["train-images"]).byte().transpose(1, 2)
    assert torch.equal(data.train.images[:, 0], upright) and "transposed, so that they are upright" in data.described


@pytest.mark.parametrize("called", ["val", "valid", "validation"])
def test_validation_images_of_npz_files(tmp_path, called):
    arrays = {f"{kind}_{split}": np.zeros((num, *shape), np.uint8)
              for split, num in (("train", 20), ("test", 6), (called, 8))
              for kind, shape in (("x", (3, 3)), ("y", ()))}  # fmt: skip
    np.savez(tmp_path / "data.npz", **arrays)
    data = load_images(str(tmp_path / "data.npz"), options=ImageOptions(validation_share=0.2))
    assert [len(part) for part in (data.train, data.validation, data.test)] == [20, 8, 6]


@pytest.mark.parametrize("kind", ["idx", "npz", "columns"])
def test_images_of_two_sizes_become_of_one(kind, tmp_path):
    """As the line that refuses them says."""
    import datasets

    sizes, labels = {"train": 6, "test": 4, "val": 3}, np.zeros(2, np.uint8)
    images = {split: np.full((2, size, size), 9, np.uint8) for split, size in sizes.items()}
    name = str(tmp_path)
    if kind == "idx":
        for split, theirs in (("train", "train"), ("test", "t10k")):
            (tmp_path / f"{theirs}-images-idx3-ubyte").write_bytes(idx(images[split]))
            (tmp_path / f"{theirs}-labels-idx1-ubyte").write_bytes(idx(labels))
    elif kind == "npz":
        images["test"] = np.stack([images["test"]] * 3, -1)  # in colour, the others grey
        parts = {f"{what}_{split}": {"x": images[split], "y": labels}[what] for split in sizes for what in "xy"}
        np.savez(name := str(tmp_path / "data.npz"), **parts)
    else:
        name = datasets.DatasetDict({
            split: datasets.Dataset.from_dict(
                {"image": images[split], "label": labels},
                datasets.Features(image=datasets.Array2D((sizes[split],) * 2, "uint8"), label=datasets.ClassLabel(2)),
            )
            for split in ("train", "test")
        })  # fmt: skip
    with pytest.raises(UsageError, match="images of different sizes: .*; --image_size N makes all N x N$"):
        load_images(name)
    options = ImageOptions(image_size=5, validation_share=0.5 if kind == "npz" else None)
    data = load_images(name, options=options)
    parts = (data.train, data.test, *([data.validation] if kind == "npz" else []))
    assert all(
        part.images.shape == (2, 3 if kind == "npz" else 1, 5, 5) and (part.images == 9).all() for part in parts
    )


@pytest.mark.parametrize("kind", ["medmnist", "keras", "kmnist"])
def test_npz_files(tmp_path, kind):
    arrays = {name: array.astype(np.uint8) for name, array in some_arrays().items()}
    train, test = ([arrays[f"{split}-{what}"] for what in ("images", "labels")] for split in ("train", "t10k"))
    path = tmp_path / "data.npz"
    if kind == "medmnist":
        colours = [np.stack([part[0]] * 3, -1) + np.uint8([0, 1, 2]) for part in (train, test)]
        named = {"train_images": colours[0], "train_labels": train[1][:, None], "test_images": colours[1]}
        np.savez(path, **named, test_labels=test[1][:, None], val_images=colours[1], val_labels=test[1][:, None])
    elif kind == "keras":
        np.savez(path, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    else:
        path = tmp_path / "kmnist"
        path.mkdir()
        for split, part in (("train", train), ("test", test)):
            np.savez(path / f"kmnist-{split}-imgs.npz", part[0])
            np.savez(path / f"kmnist-{split}-labels.npz", part[1])
    data = load_images(str(path))
    assert data.train.labels.tolist() == train[1].tolist() and data.test.labels.tolist() == test[1].tolist()
    assert data.train.images.shape == (7, 3 if kind == "medmnist" else 1, 3, 3)
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(train[0]))
    if kind == "medmnist":
        assert torch.equal(data.train.images[:, 2], torch.from_numpy(train[0] + np.uint8(2)))
        assert len(load_images(str(path), options=ImageOptions(validation_share=0.5)).validation) == 4  # its own


@pytest.mark.parametrize("kind", ["medmnist", "kmnist"])
def test_npz_files_of_two_data_sets_are_never_mixed(tmp_path, kind):
    images, labels = np.zeros((3, 4, 4), np.uint8), np.arange(3)
    if kind == "medmnist":  # only the first has validation images
        names = ("bloodmnist.npz", "pathmnist.npz")
        for name, splits in zip(names, (("train", "test", "val"), ("train", "test")), strict=True):
            parts = {f"{split}_images": images for split in splits} | {f"{split}_labels": labels for split in splits}
            np.savez(tmp_path / name, **parts)
    else:  # an array each, of no name
        names = ("k49-train-imgs.npz", "kmnist-train-imgs.npz")
        for split in ("train", "test"):
            np.savez(tmp_path / f"kmnist-{split}-imgs.npz", images)
            np.savez(tmp_path / f"kmnist-{split}-labels.npz", labels)
        np.savez(tmp_path / names[0], images)
    with pytest.raises(UsageError) as error:
        load_images(str(tmp_path))
    message_of(error, UsageError, f"--dataset_name {tmp_path}: {names[0]} and {names[1]} both hold train images")


def test_npz_files_that_hold_something_else_are_refused(tmp_path):
    np.savez(tmp_path / "pickled.npz", train_images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(HwzooError, match="pickled.npz cannot be read: .*allow_pickle"):
        load_images(str(tmp_path / "pickled.npz"))
    with open(tmp_path / "one.npz", "wb") as file:
        np.save(file, np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(HwzooError, match="one.npz is no .npz file: it holds one array, as np.save writes it$"):
        load_images(str(tmp_path / "one.npz"))
    images = np.zeros((3, 4, 4), np.uint8)
    np.savez(tmp_path / "many.npz", train_images=images, train_labels=np.zeros((3, 14), int), test_images=images,
             test_labels=np.zeros((3, 14), int))  # fmt: skip
    with pytest.raises(UsageError, match=r"train labels are int64 of shape \(3, 14\); each image needs one integer"):
        load_images(str(tmp_path / "many.npz"))


# In zip files' two headers of each entry: where its flags (1: encrypted) and its compression stand.
@pytest.mark.parametrize(("places", "value", "words"), [((6, 8), 1, "encrypted"), ((8, 10), 99, "compression")])
def test_npz_files_that_zipfile_does_not_open_are_told(places, value, words, tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=np.zeros((3, 4, 4), np.uint8))
    data = bytearray(path.read_bytes())
    for start, place in zip((b"PK\3\4", b"PK\1\2"), places, strict=True):
        data[data.index(start) + place] = value
    path.write_bytes(data)
    with pytest.raises(HwzooError) as error:
        load_images(str(path))
    assert words in message_of(error, HwzooError, f"{path} cannot be read: ")


@pytest.mark.parametrize("kind", ["npz", "amat", "idx"])
def test_hidden_files_beside_files_of_data_are_not_read(kind, tmp_path):
    """macOS leaves `._x` beside `x` on other systems' disks and in archives."""
    if kind == "npz":
        images, labels = np.zeros((3, 4, 4), np.uint8), np.arange(3)
        np.savez(tmp_path / "m.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    elif kind == "amat":
        for split in ("train", "test"):
            (tmp_path / f"m_{split}.amat").write_text("0 1 1 0\n" * 3)
    else:
        for folder in ("MNIST", ".MNIST"):
            idx_folder(tmp_path / folder / "raw", some_arrays(3))
    for path in list(tmp_path.glob("m*")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert len(load_images(str(tmp_path)).train) == 3


def test_larochelles_text_files(tmp_path):
    sizes = {"train": 5, "valid": 3, "test": 4}
    arrays = {split: np.random.default_rng(num).integers(2, size=(num, 9)) for split, num in sizes.items()}
    for split, array in arrays.items():
        np.savetxt(tmp_path / f"binarized_mnist_{split}.amat", array, fmt="%d")
    data = load_images(str(tmp_path), options=ImageOptions(validation_share=0.1))
    for part, split in ((data.train, "train"), (data.validation, "valid"), (data.test, "test")):
        assert torch.equal(part.images.flatten(1), torch.from_numpy(arrays[split] * 255).byte()), split
    fixed = data.binarized("fixed", 0, 0)
    for part, given in zip(fixed, (data.train, data.test, data.validation), strict=True):
        assert torch.equal(part.images, given.images)
    with pytest.raises(UsageError, match="--binarization fixed: digits has grey pixels"):
        load_images().binarized("fixed", 0, 0)
    (tmp_path / "binarized_mnist_test.amat").write_text("0 1 2 0 1 0 0 1 0\n")
    with pytest.raises(HwzooError, match="binarized_mnist_test.amat is no text of lines of zeros and ones"):
        load_images(str(tmp_path))
    (tmp_path / "binarized_mnist_test.amat").write_text("0 1 0\n1 1 1 1 1\n")  # as many digits as two images have
    with pytest.raises(HwzooError, match="binarized_mnist_test.amat is no text of lines of zeros and ones"):
        load_images(str(tmp_path))
    (tmp_path / "binarized_mnist_test.amat").write_text("0 1 1 0 1 0 0 1 0\r\n\r\n")  # a line without an image
    assert len(load_images(str(tmp_path)).test) == 1


def test_text_files_of_two_data_sets_are_never_mixed(tmp_path):
    names = ("binarized_mnist_train", "binarized_mnist_valid", "binarized_mnist_test", "silhouettes_train")
    for name in names:
        (tmp_path / f"{name}.amat").write_text("0 1 1 0\n")
    with pytest.raises(UsageError) as error:
        load_images(str(tmp_path))
    message_of(error, UsageError, f"--dataset_name {tmp_path} has .amat files of binarized_mnist, silhouettes; give")


@pytest.mark.parametrize("known", [(1, 2), (2, 3)])
def test_a_label_that_the_mapping_does_not_know_is_no_class(known, tmp_path):
    """It became the first one."""
    labels = np.array([1, 2, 3, 1, 2, 3], np.uint8)
    for split in ("train", "test"):
        start = f"{tmp_path}/emnist-letters-{split}"
        Path(f"{start}-images-idx3-ubyte").write_bytes(idx(np.zeros((6, 3, 3), np.uint8)))
        Path(f"{start}-labels-idx1-ubyte").write_bytes(idx(labels))
    (tmp_path / "emnist-letters-mapping.txt").write_text("".join(f"{n} {64 + n}\n" for n in known))
    with pytest.raises(HwzooError) as error:
        load_images(str(tmp_path))
    (wrong,) = {1, 2, 3} - {*known}
    row = labels.tolist().index(wrong)
    message_of(error, HwzooError, f"label {wrong} in row {row} is no class; emnist-letters-mapping.txt has {known[0]}")

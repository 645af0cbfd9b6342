"""The table of modes and formats in docs/data.md: one pixel of each, by all that read pictures."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hwzoo.data import ImageOptions, load_images, pictures
from hwzoo.errors import UsageError
from hwzoo.generators import open_generator
from hwzoo.models.classifier import image_processing_classifier
from hwzoo.models.classifier.image_processing_classifier import ClassifierImageProcessor

SIZE = 4
INK = 20, 120, 220  # a colour; its grey is 20 * 0.299 + 120 * 0.587 + 220 * 0.114


def new(mode, colour):
    return Image.new(mode, (SIZE, SIZE), colour)


def palette(colours, **info):
    picture = Image.new("P", (SIZE, SIZE), 0)
    picture.putpalette([value for colour in colours for value in colour])
    picture.info.update(info)
    return picture


def turned():
    """Its first row is dark as stored; by its EXIF data the picture is upside down, and its last row is."""
    picture = new("L", 200)
    picture.paste(50, (0, 0, SIZE, 2))
    return picture


def oriented(path):
    exif = Image.Exif()
    exif[0x0112] = 3
    turned().save(path, exif=exif, quality=100)


def deep_png(colour_type, num_channels):
    """Pixels of 16 bits a channel, which PIL does not write."""
    row = b"\0" + struct.pack(">H", 40_000) * num_channels * SIZE
    header = struct.pack(">IIBBBBB", SIZE, SIZE, 16, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(row * SIZE)), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def deep_tiff(path):
    data = struct.pack("<H", 40_000) * 3 * SIZE**2
    tags = {256: SIZE, 257: SIZE, 259: 1, 262: 2, 273: 8, 277: 3, 278: SIZE, 279: len(data)}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries.insert(2, struct.pack("<HHII", 258, 3, 3, 8 + len(data)))  # bits of the channels, after the pixels
    after = struct.pack("<HHH", 16, 16, 16) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data) + 6) + data + after)


def deep_planes(path):
    """As `deep_tiff`, with a plane for each colour."""
    plane = struct.pack("<H", 40_000) * SIZE**2
    end = 8 + 3 * len(plane)
    tags = {256: SIZE, 257: SIZE, 259: 1, 262: 2, 277: 3, 278: SIZE, 284: 2}
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()}
    entries[258] = struct.pack("<HHII", 258, 3, 3, end)
    entries[273], entries[279] = (struct.pack("<HHII", tag, 4, 3, end + at) for tag, at in ((273, 6), (279, 18)))
    after = struct.pack("<HHH", 16, 16, 16) + struct.pack("<III", *(8 + each * len(plane) for each in range(3)))
    after += struct.pack("<III", *[len(plane)] * 3)
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", end + len(after)) + 3 * plane + after + directory)


def bitmap_of_16(path):
    """White of 5, 6 and 5 bits, 16 in all, which is not too much."""
    header = struct.pack("<IiiHHIIiiII", 40, SIZE, SIZE, 1, 16, 3, 2 * SIZE**2, 0, 0, 0, 0)
    body = header + struct.pack("<III", 0xF800, 0x07E0, 0x001F) + b"\xff" * 2 * SIZE**2
    path.write_bytes(b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 66) + body)


# What the table calls it: (suffix, how it is saved, over white, over black); a text is why it is refused.
KINDS = {
    "1": (".png", new("1", 1), 255, 255),
    "L": (".png", new("L", 77), 77, 77),
    "LA, alpha 128": (".png", new("LA", (100, 128)), 177, 50),
    "LA, black ink, alpha 0": (".png", new("LA", (0, 0)), 255, 0),
    "P": (".png", palette([INK]), INK, INK),
    "P, grey palette": (".png", palette([(77, 77, 77)]), 77, 77),
    "P, transparent": (".png", palette([INK], transparency=0), 255, 0),
    "RGB": (".png", new("RGB", INK), INK, INK),
    "RGB, all pixels grey": (".png", new("RGB", (77, 77, 77)), 77, 77),
    "RGBA, opaque": (".png", new("RGBA", (*INK, 255)), INK, INK),
    "RGBA, alpha 102": (".png", new("RGBA", (*INK, 102)), (161, 201, 241), (8, 48, 88)),
    "RGBA, black ink, alpha 255": (".png", new("RGBA", (0, 0, 0, 255)), 0, 0),
    "CMYK": (".tif", new("CMYK", (255, 0, 0, 0)), (0, 255, 255), (0, 255, 255)),
    "I;16": (".png", Image.fromarray(np.full((SIZE, SIZE), 300, np.uint16)), "8 bits", "8 bits"),
    "RGB;16B": (".png", deep_png(2, 3), "8 bits", "8 bits"),
    "LA;16B": (".png", deep_png(4, 2), "8 bits", "8 bits"),
    "RGBA;16B": (".png", deep_png(6, 4), "8 bits", "8 bits"),
    "RGB;16L": (".tif", deep_tiff, "8 bits", "8 bits"),
    "RGB, 16 bits": (".tif", deep_planes, "8 bits", "8 bits"),
    "F": (".tif", new("F", 0.5), "8 bits", "8 bits"),
    "JPEG, grey": (".jpg", new("L", 77), 77, 77),
    "JPEG, colour": (".jpg", new("RGB", (128, 0, 0)), (128, 0, 0), (128, 0, 0)),
    "JPEG, EXIF orientation 3": (".jpg", oriented, 200, 200),
    "WebP, grey (lossless)": (".webp", new("L", 77), 77, 77),
    "WebP, transparent": (".webp", new("RGBA", (*INK, 0)), 255, 0),
    "GIF, grey": (".gif", new("L", 77), 77, 77),
    "GIF, colour": (".gif", palette([INK]), INK, INK),
    "GIF, transparent": (".gif", palette([INK], transparency=0), 255, 0),
    "BMP": (".bmp", new("RGB", INK), INK, INK),
    "BMP, 16 bits a pixel": (".bmp", bitmap_of_16, 255, 255),
}  # fmt: skip
cases = pytest.mark.parametrize(
    ("name", "background", "expected"),
    [(name, each, kind[2 + number]) for name, kind in KINDS.items() for number, each in enumerate(("white", "black"))],
)


def saved(kind, path):
    if callable(kind[1]):
        kind[1](path)
    else:
        kind[1].save(path, **({"lossless": True} if kind[0] == ".webp" else {}), **kind[1].info)
    return path


def first_pixel(images):
    pixel = (images[0, :, 0, 0] * 255).round().int().tolist()
    return pixel[0] if len(pixel) == 1 else tuple(pixel)


def by_loader(path, background):
    data = load_images(str(path.parents[2]), options=ImageOptions(background=background))
    assert ("transparency over" in data.described) == (data.described == f"data (transparency over {background})")
    return first_pixel(data.train.pixel_values())


def by_evaluator(path, background):
    sample, described, num = open_generator(
        str(path.parent), torch.device("cpu"), output_dir=path.parents[3], options=ImageOptions(background=background)
    )
    assert num == 1 and f"1 images in {path.parent} (transparency, if any, over {background})" == described
    return first_pixel(sample(torch.arange(1), 1, None))


def by_processor(path, background, num_channels=3):
    processor = ClassifierImageProcessor(SIZE, num_channels, background)
    with Image.open(path) as picture:
        return first_pixel(processor(picture, return_tensors="pt")["pixel_values"])


def close(pixel, expected):
    return np.abs(np.subtract(pixel, expected)).max() <= 1  # of a JPEG; the others are exact


@pytest.fixture
def picture(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(kind):
        for split in ("train", "test"):
            path = tmp_path / "data" / split / "cat" / f"1{kind[0]}"
            path.parent.mkdir(parents=True)
            saved(kind, path)
        return tmp_path / "data" / "train" / "cat" / path.name

    return make


@cases
def test_a_picture_is_what_the_table_says(name, background, expected, picture):
    path = picture(KINDS[name])
    if isinstance(expected, str):
        for read, error in ((by_loader, UsageError), (by_evaluator, UsageError), (by_processor, ValueError)):
            with pytest.raises(error, match=f"it has the mode {name}; pixels must have {expected} a channel") as told:
                read(path, background)
            assert len(str(told.value).splitlines()) == 1
        return
    pixels = [by_loader(path, background), by_evaluator(path, background)]
    assert pixels[0] == pixels[1] and np.shape(pixels[0]) == np.shape(expected)  # grey has one channel
    assert close(pixels[0], expected)
    of_processor = by_processor(path, background)
    assert of_processor == (pixels[0] if np.shape(expected) else (pixels[0],) * 3)
    if not np.shape(expected):
        assert by_processor(path, background, 1) == pixels[0]


def test_the_table_of_the_documentation():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+?) +\| `(?:png|tif|jpg|webp|gif|bmp)` +\| (.+?) +\|$", text, re.M))

    def said(value):
        return "refused" if isinstance(value, str) else ", ".join(map(str, np.atleast_1d(value)))

    assert rows == {name: f"{said(kind[2])} | {said(kind[3])}" for name, kind in KINDS.items()}
    assert all(f"| `{kind[0][1:]}`" in text for kind in KINDS.values())


# Of other types than the standard's: text for ResolutionUnit, a fraction (8 / 1, at the end) for ImageWidth.
TAGS = {"text": (0x0128, 2, 3, b"in\0\0"), "fraction": (0x0100, 5, 1, struct.pack("<I", 38))}


@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS)
def test_a_picture_is_turned_whatever_its_other_tags_are(tag, picture):
    """`ImageOps.exif_transpose` writes them anew, and failed: one such photo stopped the data set."""
    tags = sorted([tag, (0x0112, 3, 1, struct.pack("<HH", 6, 0))])
    entries = b"".join(struct.pack("<HHI", *each[:3]) + each[3] for each in tags)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<III", 0, 8, 1)
    sideways = Image.new("L", (8, 4), 200)
    sideways.paste(50, (0, 0, 4, 4))
    path = picture((".jpg", lambda path: sideways.save(path, exif=exif)))
    with Image.open(path) as opened:
        expected = np.rot90(np.asarray(opened), -1).copy()
        of_processor = ClassifierImageProcessor(8)(opened)["pixel_values"]
    sample, _, _ = open_generator(str(path.parent), torch.device("cpu"), output_dir=path.parents[3], options=None)
    for images in (load_images(str(path.parents[2])).train.pixel_values(), sample(torch.arange(1), 1, None)):
        assert images.shape == (1, 1, 8, 4) and (images[0, 0] * 255).round().tolist() == expected.tolist()
    np.testing.assert_array_equal(of_processor, ClassifierImageProcessor(8)(expected)["pixel_values"])


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".jpg", {}), (".png", {}), (".webp", {}), (".tif", {}), (".tif", {"compression": "tiff_lzw"})],
)
def test_pictures_are_turned_as_by_pil(suffix, options, tmp_path):
    path, drawn, seen = tmp_path / f"1{suffix}", np.random.default_rng(0).integers(256, size=(6, 9, 3)), set()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(drawn.astype(np.uint8)).save(path, exif=exif, **options)
        with Image.open(path) as opened:
            expected = np.asarray(ImageOps.exif_transpose(opened))
        for read, given in ((pictures.eight_bits, ()), (image_processing_classifier.eight_bits, ("white", 3))):
            with Image.open(path) as opened:
                np.testing.assert_array_equal(np.asarray(read(opened, *given)), expected)
        seen.add((expected.shape, expected.tobytes()))
    assert len(seen) == 8


@pytest.mark.parametrize("size", [(600, 8), (8, 600)], ids=["wide", "high"])
def test_a_long_picture_is_padded(size, picture):
    """Its shorter side, 0.4 pixels, is one."""
    path, options = picture((".png", Image.new("L", size, 9))), ImageOptions(image_size=28, resize="pad")
    arrays = {f"{kind}_{split}": np.zeros(1, int) for kind in "xy" for split in ("train", "test")}
    arrays |= {f"x_{split}": np.full((1, *size[::-1]), 9, np.uint8) for split in ("train", "test")}
    np.savez(path.parents[3] / "arrays.npz", **arrays)
    sample, _, _ = open_generator(str(path.parent), torch.device("cpu"), output_dir=path.parents[3], options=options)
    processor = ClassifierImageProcessor(28, resize="pad")
    with Image.open(path) as opened:
        read = [np.array(processor(given)["pixel_values"]) for given in (opened, np.float32(opened) / 255)]
    read += [load_images(str(path.parents[at]) + end, options=options).train.pixel_values().numpy()
             for at, end in ((2, ""), (3, "/arrays.npz"))]  # fmt: skip
    for images in (*read, sample(torch.arange(1), 1, None).numpy()):
        rows = (images[0, 0] * 255).round()
        rows = rows if size[0] == 600 else rows.T
        assert images.shape == (1, 1, 28, 28) and rows[:, 0].tolist() == [255] * 14 + [9] + [255] * 13
        assert (rows == rows[:, :1]).all()


def test_ink_that_is_in_the_transparency_is_seen(tmp_path, monkeypatch):
    """Black everywhere, a different transparency each: what used to be read as black images."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for mode in ("LA", "RGBA"):
        for split in ("train", "test"):
            for number in range(2):
                alpha = Image.fromarray(np.full((SIZE, SIZE), 100 * number, np.uint8))
                path = tmp_path / mode / split / "cat" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.merge(mode, [new("L", 0)] * (len(mode) - 1) + [alpha]).save(path)
        data = load_images(str(tmp_path / mode))
        assert data.train.images[:, 0, 0, 0].tolist() == [255, 155] and data.train.num_channels == 1
        with pytest.raises(UsageError, match="black: all images .* are of one colour over it; give white"):
            load_images(str(tmp_path / mode), options=ImageOptions(background="black"))

"""The classifier's image processor takes what transformers' own take, and its features come out of a pipeline."""

import json

import numpy as np
import pytest
import torch
import warm
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline

from hwzoo import ClassifierConfig, ClassifierForImageClassification, ClassifierImageProcessor, ClassifierModel, hub
from hwzoo.data import ImageOptions, read_picture

PIXELS = torch.randint(256, (8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
EXPECTED = PIXELS.transpose(2, 0, 1).astype(np.float32) / 255
FLOATS = (PIXELS / 255).astype(np.float32)
FORMS = {
    "PIL": Image.fromarray(PIXELS),
    "array, channels last": PIXELS,
    "array, channels first": PIXELS.transpose(2, 0, 1),
    "tensor, channels first": torch.from_numpy(PIXELS).permute(2, 0, 1),
    "tensor, channels last": torch.from_numpy(PIXELS),
    "floats, channels last": FLOATS,
    "floats of 64 bits": FLOATS.astype(np.float64),
    "float tensor, channels first": torch.from_numpy(FLOATS).permute(2, 0, 1),
}


def processor(**changes):
    return ClassifierImageProcessor(image_size=8, num_channels=3, **changes)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_picture_gives_the_same_pixels(form):
    for given, num in ((FORMS[form], 1), ([FORMS[form]] * 2, 2)):
        pixel_values = processor()(given, return_tensors="pt")["pixel_values"]
        assert pixel_values.dtype == torch.float32 and pixel_values.shape == (num, 3, 8, 8)
        for pixels in pixel_values:
            np.testing.assert_allclose(pixels, EXPECTED, atol=1e-6)


@pytest.mark.parametrize("form", [name for name in FORMS if name != "PIL"])
def test_a_batch_is_an_array_of_four_dimensions(form):
    stack = torch.stack if isinstance(FORMS[form], torch.Tensor) else np.stack
    given = processor()(stack([FORMS[form]] * 3), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(given, np.stack([EXPECTED] * 3), atol=1e-6)


def test_a_shape_that_both_layouts_could_have_is_told():
    picture = np.random.default_rng(0).random((3, 3, 3), np.float32)
    small = ClassifierImageProcessor(image_size=3, num_channels=3)
    for layout, expected in (("channels_first", picture), ("channels_last", picture.transpose(2, 0, 1))):
        np.testing.assert_array_equal(small(picture, input_data_format=layout)["pixel_values"][0], expected)


def test_floats_are_resized_as_integers_are():
    by_integers = processor(size=5)(PIXELS, return_tensors="pt")["pixel_values"]
    by_floats = processor(size={"height": 5, "width": 5})(FLOATS, return_tensors="pt")["pixel_values"]
    assert by_floats.shape == (1, 3, 5, 5)
    torch.testing.assert_close(by_floats, by_integers, rtol=0, atol=1.5 / 255)


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (13, 13), (16, 13)])
def test_a_saved_processor_reads_pictures_as_the_training_did(resize, background, shape, tmp_path):
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(256, size=(*shape, 4), dtype=np.uint8), "RGBA")
    picture.save(tmp_path / "picture.png")
    options = ImageOptions(background=background, image_size=16, resize=resize)
    expected = read_picture(tmp_path / "picture.png", "picture", options)
    model = ClassifierForImageClassification(ClassifierConfig(image_size=16, num_channels=3))
    hub.save(model, tmp_path / "model", read=options)
    saved = AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert np.array_equal(np.rint(saved(picture)["pixel_values"][0] * 255), expected)
    # Floats, which it does not round on the way.
    flat = np.asarray(picture.convert("RGB"))
    by_integers, by_floats = (saved(each)["pixel_values"][0] for each in (flat, (flat / 255).astype(np.float32)))
    assert np.abs(by_integers - by_floats).max() < 1.5 / 255


@pytest.mark.parametrize("channels", [2, 4])
def test_what_is_added_to_a_picture_with_transparency_is_opaque(channels):
    flat = np.zeros((4, 16, channels), np.uint8)
    made = ClassifierImageProcessor(image_size=16, num_channels=channels, background="black", resize="pad")
    for picture in (flat, flat.astype(np.float32)):
        pixels = made(picture)["pixel_values"][0]
        assert pixels[-1, 0, 0] == pixels[-1, -1, -1] == 1 and pixels[:-1].max() == 0 and pixels[-1, 8, 8] == 0


def test_without_a_size_asked_for_other_pictures_are_stretched():
    """As before; a background counts all the same."""
    made = ClassifierImageProcessor.from_config(ClassifierConfig(), ImageOptions(background="black"))
    assert (made.resize, made.background) == ("stretch", "black")
    made = ClassifierImageProcessor.from_config(ClassifierConfig())
    assert (made.resize, made.background) == ("stretch", "white")


def test_floats_of_colour_become_grey_as_integers_do():
    grey = ClassifierImageProcessor(image_size=8)
    torch.testing.assert_close(
        grey(FLOATS, return_tensors="pt")["pixel_values"], grey(PIXELS, return_tensors="pt")["pixel_values"],
        rtol=0, atol=1 / 255,
    )  # fmt: skip


def test_pixels_are_normalised_when_asked_for():
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.4]}
    mean, std = (np.array(values, np.float32)[:, None, None] for values in settings.values())
    asked = processor(do_normalize=True, **settings)(PIXELS)["pixel_values"][0]
    np.testing.assert_allclose(asked, (EXPECTED - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(processor()(PIXELS, do_normalize=True, **settings)["pixel_values"][0], asked)
    np.testing.assert_allclose(processor(**settings)(PIXELS)["pixel_values"][0], EXPECTED, atol=1e-6)


def test_numbers_from_0_to_255_stay_without_rescaling():
    for given in (processor(do_rescale=False)(PIXELS), processor()(PIXELS, do_rescale=False)):
        np.testing.assert_allclose(given["pixel_values"][0], PIXELS.transpose(2, 0, 1), rtol=1e-6)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: processor(crop_size=4), "crop_size is not known"),
        (lambda: processor()(PIXELS, do_center_crop=True), "do_center_crop is not known"),
        (lambda: processor(size={"height": 8, "width": 9}), "size is .*; it must be one number"),
        (lambda: processor(size={"shortest_edge": 8}), "size is .*; it must be one number"),
        *(
            (lambda size=size, call=call: call(size), r"^size is .*; it must be one number")
            for size in ((20, 20), [20, 20], 20.0, True, {"height": 20.0, "width": 20.0})
            for call in (lambda size: processor(size=size), lambda size: processor()(PIXELS, size=size))
        ),
        (lambda: processor(size=0), "^size is 0; it must be at least 1"),
        (lambda: ClassifierImageProcessor(image_size=20.0), "^image_size is 20.0; it must be one number"),
        (lambda: processor()(FLOATS * 255), r"floats from .* they must be in \[0, 1\]"),
        (lambda: processor()(FLOATS - 0.5), r"floats from -0.5.* they must be in \[0, 1\]"),
        (lambda: processor()(np.full((8, 8), np.nan)), r"floats from nan .* they must be in \[0, 1\]"),
        (lambda: processor()(np.zeros((8, 8, 5), np.uint8)), "has 5 channels"),
        (lambda: processor()(np.zeros(8, np.uint8)), r"has the shape \(8,\)"),
        (lambda: processor(do_resize=False)(np.zeros((9, 8), np.uint8)), "do_resize is False, but a picture is 9 x 8"),
        (lambda: processor()(PIXELS, input_data_format="first"), "input_data_format is 'first'"),
    ],
)
def test_what_it_does_not_know_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_its_settings_come_back(tmp_path):
    own = processor(do_normalize=True, image_mean=[0.5, 0.4, 0.3], image_std=[0.1, 0.2, 0.4])
    own.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is ClassifierImageProcessor
    stored = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert stored["size"] == {"height": 8, "width": 8} and stored["do_rescale"] is True
    np.testing.assert_array_equal(loaded(PIXELS)["pixel_values"], own(PIXELS)["pixel_values"])


def test_its_size_is_kept_once(tmp_path):
    """However it was changed, the pictures are of it, before and after it is saved."""
    processor().save_pretrained(tmp_path / "old")
    assigned, assigned_too, of_numpy = processor(), processor(), processor()
    assigned.size = {"height": 5, "width": 5}
    assigned_too.image_size = 5
    of_numpy.image_size = np.int64(5)
    loaded = (
        kind.from_pretrained(tmp_path / "old", **{name: 5})
        for kind in (AutoImageProcessor, ClassifierImageProcessor)
        for name in ("image_size", "size")
    )
    for made in (assigned, assigned_too, of_numpy, *loaded):
        assert made.image_size == 5 and made(PIXELS, return_tensors="pt")["pixel_values"].shape == (1, 3, 5, 5)
        made.save_pretrained(tmp_path / "new")
        again = AutoImageProcessor.from_pretrained(tmp_path / "new")
        assert again(PIXELS, return_tensors="pt")["pixel_values"].shape == (1, 3, 5, 5)
        stored = json.loads((tmp_path / "new/preprocessor_config.json").read_text())
        assert stored["size"] == {"height": 5, "width": 5} and "image_size" not in stored


def test_a_file_of_before_has_its_size_twice_or_by_our_name_alone(tmp_path):
    processor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    stored = json.loads(path.read_text()) | {"image_size": 8}
    for each in (stored, {name: value for name, value in stored.items() if name != "size"}):
        path.write_text(json.dumps(each))
        assert AutoImageProcessor.from_pretrained(tmp_path).image_size == 8
        assert AutoImageProcessor.from_pretrained(tmp_path, image_size=5).size == {"height": 5, "width": 5}


@pytest.mark.parametrize(
    "given, message",
    [
        ({"resize": "bogus"}, "resize is 'bogus'; it must be one of stretch, crop, pad"),
        ({"background": "redd"}, "background is 'redd'; it must be white or black"),
        ({"num_channels": 5}, "num_channels is 5; it must be one of"),
        ({"image_size": 0}, "size is 0; it must be at least 1"),
        ({"crop_size": 4}, "crop_size is not known"),
    ],
)
def test_a_setting_that_is_given_while_loading_is_checked(given, message, tmp_path):
    processor().save_pretrained(tmp_path)
    for kind in (AutoImageProcessor, ClassifierImageProcessor):
        with pytest.raises(ValueError, match=message):
            kind.from_pretrained(tmp_path, **given)
        loaded = kind.from_pretrained(tmp_path, resize="pad", background="black", num_channels=1)
        assert (loaded.resize, loaded.background, loaded.num_channels) == ("pad", "black", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What transformers' own calls leave of a classifier."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("classifier")
    ClassifierForImageClassification(
        ClassifierConfig(image_size=16, backbone="mlp", hidden_sizes=[7])
    ).save_pretrained(path)
    ClassifierImageProcessor(image_size=16).save_pretrained(path)
    return path


REMOTE = """
import sys
sys.modules["hwzoo"] = None  # importing it fails
import numpy as np
from PIL import Image
from transformers import pipeline

features = pipeline("image-feature-extraction", model=sys.argv[1], trust_remote_code=True)
np.save("features.npy", features(Image.open("picture.png")))
"""


def test_the_pipeline_gives_features(folder, tmp_path):
    picture = Image.fromarray(PIXELS[:, :, 0])
    model = ClassifierForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model.features(
            AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt").pixel_values
        )
    assert expected.shape == (1, 7)
    features = pipeline("image-feature-extraction", model=str(folder))
    assert type(features.model) is ClassifierModel
    for pool in (False, True):
        torch.testing.assert_close(features(picture, return_tensors=True, pool=pool), expected)
    picture.save(tmp_path / "picture.png")
    warm.run(["-c", REMOTE, folder], cwd=tmp_path, check=True)  # without hwzoo
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), expected, rtol=1e-5, atol=1e-6)


def test_the_backbone_is_saved_alone_too(folder, tmp_path):
    backbone = AutoModel.from_pretrained(folder)
    backbone.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert set(loaded.state_dict()) == {"backbone.1.weight", "backbone.1.bias"}
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, backbone.state_dict()[name])

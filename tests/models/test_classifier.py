"""What the classifiers compute, and the way from a picture to a label."""

import json
import math
import os
import re
import shutil

import numpy as np
import pytest
import torch
import warm
from huggingface_hub.errors import StrictDataclassClassValidationError
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

import hwzoo
from hwzoo import hub, models
from hwzoo.data import ImageSet
from hwzoo.errors import UsageError
from hwzoo.models.classifier.configuration_classifier import ClassifierConfig
from hwzoo.models.classifier.image_processing_classifier import ClassifierImageProcessor
from hwzoo.models.classifier.modeling_classifier import ClassifierForImageClassification

# For the shared suite: a small unconditional model with its optional parts switched on, whose loss is of labels.
SUITE = {
    "config": dict(
        image_size=16,
        num_channels=3,
        backbone="cnn",
        hidden_sizes=[5],
        num_heads=2,
        dropout=0.25,
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.3, 0.4, 0.5],
    ),
    "labelled": True,
}
VARIANTS = {
    "cnn": dict(backbone="cnn", image_size=16),
    "mlp": dict(backbone="mlp", image_size=4, hidden_sizes=[7, 5]),
    "linear": dict(backbone="mlp", image_size=4, hidden_sizes=[]),
    "wide_cnn": dict(backbone="wide_cnn", image_size=8),
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
HEADS = dict(backbone="mlp", image_size=4, hidden_sizes=[6], num_labels=6, num_heads=3)


def tiny_model(**changes):
    torch.manual_seed(0)
    return ClassifierForImageClassification(ClassifierConfig(**changes)).eval()


def some_batch(config, num=6):
    generator = torch.Generator().manual_seed(1)
    shape = (num, config.num_channels, config.image_size, config.image_size)
    return torch.rand(shape, generator=generator), torch.arange(num) % config.num_labels


# Networks


@variants
@pytest.mark.parametrize("num_channels", [1, 3])
def test_shapes(variant, num_channels):
    model = tiny_model(**variant, num_channels=num_channels, num_labels=4)
    pixel_values, labels = some_batch(model.config)
    output = model(pixel_values, labels)
    assert output.logits.shape == (6, 4) and output.logits.dtype == torch.float32
    assert output.loss.shape == ()
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels))
    assert model(pixel_values).loss is None
    assert model.features(pixel_values).shape == (6, model.feature_size)


@pytest.mark.parametrize(
    "backbone, parameters, feature_size", [("cnn", 21_840, 50), ("mlp", 269_322, 256), ("wide_cnn", 130_890, 128)]
)
def test_parameters_on_mnist(backbone, parameters, feature_size):
    model = tiny_model(backbone=backbone)
    assert model.num_parameters() == parameters
    assert model.feature_size == feature_size
    assert {type(module) for module in model.modules() if list(module.parameters(recurse=False))} <= {
        nn.Linear,
        nn.Conv2d,
    }


@pytest.mark.parametrize("image_size", [16, 17, 23, 28, 32])
@pytest.mark.parametrize("backbone", ["cnn", "wide_cnn"])
def test_convolutions_take_every_image_size(backbone, image_size):
    model = tiny_model(backbone=backbone, image_size=image_size)
    assert model(some_batch(model.config, 2)[0]).logits.shape == (2, 10)


def test_the_cnn_is_that_of_the_homework():
    model = tiny_model()
    pixel_values, _ = some_batch(model.config)
    conv1, conv2, fc1, fc2 = (module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d)))
    hidden = F.relu(F.max_pool2d(conv1(pixel_values), 2))
    hidden = F.relu(F.max_pool2d(conv2(hidden), 2)).reshape(-1, 320)
    torch.testing.assert_close(model(pixel_values).logits, fc2(F.relu(fc1(hidden))))


@variants
def test_features_feed_the_classifier(variant):
    model = tiny_model(**variant)
    pixel_values, _ = some_batch(model.config)
    torch.testing.assert_close(model.classifier(model.features(pixel_values)), model(pixel_values).logits)


@pytest.mark.parametrize("mean, std", [([0.3], [0.2]), ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6]), ([0.1, 0.2, 0.3], [2.0])])
def test_pixels_are_normalised_inside(mean, std):
    shape = VARIANTS["mlp"] | dict(num_channels=3)
    model, plain = tiny_model(**shape, image_mean=mean, image_std=std), tiny_model(**shape)
    pixel_values, _ = some_batch(model.config)
    normalised = (pixel_values - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(model(pixel_values).logits, plain.classifier(plain.backbone(normalised)))
    assert not torch.allclose(model(pixel_values).logits, plain(pixel_values).logits)


@pytest.mark.parametrize("backbone, layers", [("cnn", 2), ("mlp", 0), ("wide_cnn", 2)])
def test_dropout_is_for_training_the_convolutional_networks(backbone, layers):
    model = tiny_model(backbone=backbone, dropout=0.3)
    dropouts = [module for module in model.modules() if isinstance(module, (nn.Dropout, nn.Dropout2d))]
    assert [dropout.p for dropout in dropouts] == [0.3] * layers
    pixel_values, _ = some_batch(model.config)
    assert torch.equal(model(pixel_values).logits, model(pixel_values).logits)
    model.train()
    assert torch.equal(model(pixel_values).logits, model(pixel_values).logits) == (layers == 0)


def test_the_wide_cnn_starts_with_the_initialisation_of_torch():
    for name, layer in tiny_model(backbone="wide_cnn").named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.weight.numel() >= 1_000:
            bound = layer.weight[0].numel() ** -0.5
            assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name
            assert 0 < layer.bias.abs().max() <= bound, name


@variants
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_works_in_the_precision_of_its_weights(variant, dtype):
    model = tiny_model(**variant, image_mean=[0.3], image_std=[0.4])
    pixel_values, labels = some_batch(model.config)
    expected = model(pixel_values, labels)
    model.to(dtype)
    tolerance = 0.03 if dtype == torch.bfloat16 else 1e-5
    for pixels in (pixel_values, pixel_values.to(dtype)):
        output = model(pixels, labels)
        assert output.logits.dtype == output.loss.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(output.logits, expected.logits, rtol=tolerance, atol=tolerance, check_dtype=False)
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@variants
def test_mixed_precision_gives_float32(variant):
    model = tiny_model(**variant)
    pixel_values, labels = some_batch(model.config)
    expected = model(pixel_values, labels)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(pixel_values, labels)
        assert model.features(pixel_values).dtype == torch.float32
    assert output.logits.dtype == output.loss.dtype == torch.float32
    assert not torch.equal(output.logits, expected.logits)
    torch.testing.assert_close(output.logits, expected.logits, rtol=0.03, atol=0.03)


# Heads


def test_each_example_is_classified_by_the_head_of_its_task():
    model = tiny_model(**HEADS)
    pixel_values, _ = some_batch(model.config)
    all_logits = model(pixel_values).logits
    task_ids = torch.tensor([2, 0, 1, 1, 0, 2])
    labels = torch.tensor([4, 1, 2, 3, 0, 5])
    output = model(pixel_values, labels, task_ids)
    own = all_logits.reshape(6, 3, 2)[torch.arange(6), task_ids]  # (batch, labels of a head)
    torch.testing.assert_close(output.logits.reshape(6, 3, 2)[torch.arange(6), task_ids], own)
    torch.testing.assert_close(output.loss, F.cross_entropy(own, labels % 2))
    probabilities = output.logits.softmax(-1)
    torch.testing.assert_close(probabilities.reshape(6, 3, 2)[torch.arange(6), task_ids], own.softmax(-1))
    assert (probabilities > 0).sum() == 6 * 2
    assert torch.equal(output.logits.argmax(-1) // 2, task_ids)


def test_the_other_heads_get_no_gradient():
    model = tiny_model(**HEADS)
    pixel_values, _ = some_batch(model.config, 4)
    output = model(pixel_values, torch.tensor([2, 3, 3, 2]), torch.ones(4, dtype=torch.long))
    output.loss.backward()
    others = [0, 1, 4, 5]
    for parameter in model.classifier.parameters():
        assert parameter.grad[2:4].abs().max() > 0
        assert torch.equal(parameter.grad[others], torch.zeros_like(parameter.grad[others]))


def test_log_probabilities_under_heads_have_finite_gradients():
    # As for a Fisher information: of a label's own log-probability, and of all, weighted by their probabilities.
    for weigh in (lambda log_prob: log_prob[:, 0], lambda log_prob: log_prob.exp() * log_prob):
        model = tiny_model(**HEADS)
        log_prob = model(some_batch(model.config)[0], task_ids=torch.zeros(6, dtype=torch.long)).logits.log_softmax(-1)
        assert log_prob.isfinite().all()
        weigh(log_prob).sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_without_tasks_all_heads_compete():
    model, single = tiny_model(**HEADS), tiny_model(**HEADS | {"num_heads": 1})
    pixel_values, labels = some_batch(model.config)
    expected = single(pixel_values, labels)
    for output in (model(pixel_values, labels), single(pixel_values, labels, torch.full((6,), 5))):
        assert torch.equal(output.logits, expected.logits) and torch.equal(output.loss, expected.loss)


@pytest.mark.parametrize(
    ("task_ids", "told"),
    [
        ([2, 0, 1, 1, 0, 3], "task_ids holds 3; it must be one of 0 to 2 for each of the 6 images"),
        ([2, 0, 1, 1, 0, -1], "task_ids holds -1; it must be one of 0 to 2"),
        ([2, 0], r"task_ids has shape \(2,\); it must be one of 0 to 2 for each of the 6 images"),
    ],
)
def test_tasks_that_are_none_of_the_models_are_refused(task_ids, told):
    """Without a head all classes would be as likely."""
    model = tiny_model(**HEADS)
    with pytest.raises(ValueError, match=told):
        model(*some_batch(model.config), torch.tensor(task_ids))


def test_the_last_layer_is_no_base_model():
    model = tiny_model(**HEADS)  # what `base_model_prefix` names, where the model has it, is what transformers saves
    assert model.base_model is model


# Labels


@pytest.mark.parametrize("labels", [{}, dict(num_labels=1), dict(num_labels=2), dict(num_labels=12)])
def test_the_number_of_labels_comes_back(labels, tmp_path):
    config = ClassifierConfig(**labels)
    assert config.num_labels == labels.get("num_labels", 10)
    config.save_pretrained(tmp_path)
    loaded = ClassifierConfig.from_pretrained(tmp_path)
    assert (loaded.id2label, loaded.label2id) == (config.id2label, config.label2id)
    assert loaded.num_labels == config.num_labels


@pytest.mark.parametrize("names", [["cat", "dog"], ["T-shirt", "Trouser", "Bag"]])
def test_the_names_of_the_labels_come_back(names, tmp_path):
    model = tiny_model(**VARIANTS["mlp"], id2label=dict(enumerate(names)))
    hub.save(model, tmp_path)
    loaded = hub.load(ClassifierForImageClassification, tmp_path)
    assert loaded.config.id2label == model.config.id2label == dict(enumerate(names))
    assert loaded.config.label2id == model.config.label2id == {name: label for label, name in enumerate(names)}
    assert loaded.classifier.out_features == len(names)


def test_a_stored_model_loads_with_another_number_of_labels(tmp_path):
    tiny_model(**VARIANTS["mlp"], num_labels=3).save_pretrained(tmp_path)
    loaded = ClassifierForImageClassification.from_pretrained(tmp_path, num_labels=4, ignore_mismatched_sizes=True)
    assert loaded.config.num_labels == loaded.classifier.out_features == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_statistics_survive_a_load(dtype, tmp_path):
    # They are no weights of the file: from_pretrained builds on the meta device, where they have no values.
    model = tiny_model(**VARIANTS["mlp"], image_mean=[0.3], image_std=[0.2])
    hub.save(model, tmp_path)
    loaded = hub.load(ClassifierForImageClassification, tmp_path, dtype=dtype)
    pixel_values, _ = some_batch(model.config)
    tolerance = 0.03 if dtype == torch.bfloat16 else 1e-5
    expected = model(pixel_values).logits
    given = loaded(pixel_values).logits
    torch.testing.assert_close(given, expected, rtol=tolerance, atol=tolerance, check_dtype=False)
    assert not any("normalization" in name for name in model.state_dict())


@pytest.mark.parametrize("changes", [dict(num_labels=4), dict(num_heads=2)])
def test_a_run_refuses_a_trained_model_of_other_outputs(changes, tmp_path):
    model = tiny_model(**VARIANTS["mlp"])
    hub.save(model, tmp_path)
    ((name, value),) = changes.items()
    with pytest.raises(UsageError, match=f"it has {name} {getattr(model.config, name)}, the data {value}"):
        hub.load_or_build(ClassifierForImageClassification, str(tmp_path), VARIANTS["mlp"] | changes)


# Pictures


def some_picture(size=28):
    return np.random.default_rng(0).integers(0, 256, (size, size), dtype=np.uint8)


def test_the_processor_gives_the_pixels_of_the_data_set():
    grey = some_picture()
    images = ImageSet(torch.from_numpy(grey)[None, None], torch.zeros(1, dtype=torch.long), ("0",))
    processor = ClassifierImageProcessor()
    for picture in (grey, grey[:, :, None], Image.fromarray(grey), Image.fromarray(grey).convert("RGB")):
        pixel_values = processor(picture, return_tensors="pt")["pixel_values"]
        assert pixel_values.dtype == torch.float32
        assert torch.equal(pixel_values, images.pixel_values())


def test_the_processor_keeps_the_colours_in_their_order():
    colours = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    pixel_values = ClassifierImageProcessor(num_channels=3)(colours, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixel_values[0], torch.from_numpy(colours).permute(2, 0, 1).float().div_(255))


def test_grey_is_that_of_itu_r_601():
    red, green, blue = (Image.new("RGB", (28, 28), colour) for colour in ("#ff0000", "#00ff00", "#0000ff"))
    pixel_values = ClassifierImageProcessor()([red, green, blue], return_tensors="pt")["pixel_values"]
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1).expand(3, 1, 28, 28)
    torch.testing.assert_close(pixel_values, weights, rtol=0, atol=0.5 / 255)


@pytest.mark.parametrize("num_channels, mode", [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_a_list_of_pictures_of_any_size_and_mode(num_channels, mode):
    processor = ClassifierImageProcessor(image_size=8, num_channels=num_channels)
    picture = Image.fromarray(some_picture(20))
    pictures = [picture.convert(each).crop((0, 0, 20, 15)) for each in ("1", "L", "P", "RGB", "RGBA", "CMYK", mode)]
    expected = np.asarray(pictures[-1].resize((8, 8), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    for tensors, kind in (("pt", torch.Tensor), ("np", np.ndarray)):
        pixel_values = processor(pictures, return_tensors=tensors)["pixel_values"]
        assert isinstance(pixel_values, kind) and pixel_values.shape == (7, num_channels, 8, 8)
        assert 0 <= pixel_values.min() < pixel_values.max() <= 1
        last = np.asarray(pixel_values[-1]).transpose(1, 2, 0)
        np.testing.assert_array_equal(last, expected.reshape(8, 8, num_channels))
    assert len(processor(pictures)["pixel_values"]) == 7


@pytest.mark.parametrize("picture", [torch.zeros(28, 28, dtype=torch.long), np.zeros((28, 28), bool), "zero.png"])
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(TypeError, match="a picture is .*; it must be a PIL image, or an array or tensor of uint8 or"):
        ClassifierImageProcessor()(picture)


@pytest.mark.parametrize("changes, message", [({"image_size": 0}, "image_size is 0"), ({"num_channels": 5}, "is 5")])
def test_a_processor_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ClassifierImageProcessor(**changes)


# From a picture to a label


PIPELINE = """
import sys
sys.modules["hwzoo"] = None  # importing it fails
import json
from transformers import AutoImageProcessor, pipeline

folders, pictures = sys.argv[1:3], sys.argv[3:]
for folder in folders:
    classifier = pipeline("image-classification", model=folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(processor) is type(classifier.image_processor)
    print(type(classifier.model).__name__, type(processor).__name__)
    print(json.dumps([classifier(picture, top_k=10) for picture in pictures]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with several heads, beside pictures that it has not the size of."""
    folder = tmp_path_factory.mktemp("classifier")
    names = dict(enumerate("zero one two three".split()))
    hub.save(tiny_model(image_size=16, id2label=names, num_heads=2, image_mean=[0.4], image_std=[0.3]), folder)
    grey = Image.fromarray(some_picture(40))
    grey.save(folder / "grey.png")
    Image.merge("RGB", [grey, grey.rotate(90), grey.rotate(180)]).crop((0, 0, 40, 30)).save(folder / "colour.png")
    return folder


@pytest.fixture(scope="module")
def former_folder(folder, tmp_path_factory):
    """The same as it was saved when the family was called `continual`: files, classes and model type named for it."""
    former = tmp_path_factory.mktemp("continual")
    shutil.copy(folder / "model.safetensors", former)
    for path in (*folder.glob("*.json"), *folder.glob("*.py")):
        text = re.sub(r"\bClassifier(?=Config|For|ImageP|PreT)", "Continual", path.read_text())
        text = re.sub(r"\b(hwzoo|configuration|image_processing|modeling)_classifier\b", r"\1_continual", text)
        (former / path.name.replace("_classifier", "_continual")).write_text(text)
    config = json.loads((former / "config.json").read_text())
    assert (config["architectures"], config["model_type"]) == (["ContinualForImageClassification"], "hwzoo_continual")
    assert config["auto_map"]["AutoConfig"] == "configuration_continual.ContinualConfig"
    return former


def expected_scores(folder, picture):
    model = hub.load(ClassifierForImageClassification, folder)
    small = picture.convert("L").resize((16, 16), Image.Resampling.BILINEAR)
    pixel_values = torch.from_numpy(np.array(small))[None, None] / 255
    with torch.no_grad():
        return dict(
            zip(model.config.id2label.values(), model(pixel_values).logits.softmax(-1)[0].tolist(), strict=True)
        )


def scores_of(answers):
    return {answer["label"]: answer["score"] for answer in answers}


def test_a_pipeline_names_what_is_in_a_picture(folder, monkeypatch):
    questions = []  # transformers asks, and waits, before it runs the code of a folder: here there is no need to
    monkeypatch.setattr("builtins.input", lambda *question: questions.append(question) or "n")
    classifier = pipeline("image-classification", model=str(folder))
    assert questions == []
    assert type(classifier.model) is ClassifierForImageClassification
    assert type(classifier.image_processor) is ClassifierImageProcessor
    assert type(AutoImageProcessor.from_pretrained(folder)) is ClassifierImageProcessor
    pictures = [Image.open(folder / "grey.png"), Image.open(folder / "colour.png")]
    assert [picture.mode for picture in pictures] == ["L", "RGB"]
    for picture, answers in zip(pictures, classifier(pictures, top_k=4), strict=True):
        assert scores_of(answers) == pytest.approx(expected_scores(folder, picture), abs=1e-5)
        assert scores_of(classifier(picture, top_k=4)) == pytest.approx(scores_of(answers), abs=1e-6)


def test_a_pipeline_works_without_hwzoo(folder, former_folder, tmp_path):
    pictures = [folder / "grey.png", folder / "colour.png"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = ["-c", PIPELINE, folder, former_folder, *pictures]
    output = warm.run(command, cwd=tmp_path, env=environment, check=True).stdout
    *_, names, answers_of_pictures, former_names, same_answers = output.splitlines()
    assert names == "ClassifierForImageClassification ClassifierImageProcessor"
    assert former_names == "ContinualForImageClassification ContinualImageProcessor"
    assert same_answers == answers_of_pictures
    for picture, answers in zip(pictures, json.loads(answers_of_pictures), strict=True):
        assert scores_of(answers) == pytest.approx(expected_scores(folder, Image.open(picture)), abs=1e-5)


# The former names


def test_the_former_names_give_the_classes_of_today():
    assert hwzoo.ContinualConfig is models.ContinualConfig is ClassifierConfig
    assert hwzoo.ContinualForImageClassification is models.ContinualForImageClassification
    assert hwzoo.ContinualForImageClassification is ClassifierForImageClassification
    assert hwzoo.ContinualImageProcessor is models.ContinualImageProcessor
    processor = hwzoo.ContinualImageProcessor(image_size=8, num_channels=3)
    assert type(processor) is ClassifierImageProcessor
    assert (processor.image_size, processor.num_channels) == (8, 3)


@pytest.mark.parametrize("trust_remote_code", [None, False, True])
def test_a_former_folder_loads(trust_remote_code, folder, former_folder):
    expected = hub.load(ClassifierForImageClassification, folder)
    trust = {"trust_remote_code": trust_remote_code}
    assert type(AutoConfig.from_pretrained(former_folder, **trust)) is ClassifierConfig
    assert type(AutoImageProcessor.from_pretrained(former_folder, **trust)) is ClassifierImageProcessor
    for model in (
        AutoModelForImageClassification.from_pretrained(former_folder, **trust),
        ClassifierForImageClassification.from_pretrained(former_folder, **trust),
        hub.load(AutoModelForImageClassification, former_folder, **trust),
        hub.load(ClassifierForImageClassification, former_folder, **trust),
        hub.load_or_build(ClassifierForImageClassification, str(former_folder), expected.config.to_dict()),
        pipeline("image-classification", model=str(former_folder), **trust).model,
    ):
        assert type(model) is ClassifierForImageClassification
        assert model.state_dict().keys() == expected.state_dict().keys()
        assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())
        assert model.config.id2label == expected.config.id2label


def test_a_former_folder_is_saved_under_the_new_name(folder, former_folder, monkeypatch, tmp_path):
    hub.save(hub.load(AutoModelForImageClassification, former_folder), tmp_path / "again")
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert again == {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".png"}
    # By transformers alone, in a process that has saved nothing by `hub.save`: without code.
    for kind in (ClassifierConfig, ClassifierForImageClassification, ClassifierImageProcessor):
        monkeypatch.setattr(kind, "_auto_class", None)
    pipeline("image-classification", model=str(former_folder)).save_pretrained(tmp_path / "plain")
    assert json.loads((tmp_path / "plain" / "config.json").read_text())["model_type"] == "hwzoo_classifier"
    assert type(hub.load(AutoModelForImageClassification, tmp_path / "plain")) is ClassifierForImageClassification
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "plain")) is ClassifierImageProcessor


def test_the_former_model_type_is_of_no_other_family(former_folder):
    with pytest.raises(UsageError, match="is a model of type hwzoo_continual; it must be of type hwzoo_vae"):
        hub.load(hwzoo.VAEModel, former_folder)


def test_code_of_a_stranger_under_the_former_model_type_is_not_passed_over(former_folder, tmp_path):
    shutil.copytree(former_folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"]["AutoModelForImageClassification"] = "modeling_strange.StrangeForImageClassification"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="brings code of its own, which is not run"):
        hub.load(AutoModelForImageClassification, tmp_path)


# What is refused


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_size": 0, "backbone": "mlp"}, "image_size is 0"),
        ({"image_size": 15}, "image_size is 15; for backbone cnn it must be at least 16"),
        ({"image_size": 7, "backbone": "wide_cnn"}, "image_size is 7; for backbone wide_cnn it must be at least 8"),
        ({"num_channels": 0}, "num_channels is 0"),
        ({"num_channels": 5}, "num_channels is 5"),
        ({"hidden_sizes": [8, 0]}, r"hidden_sizes is \[8, 0\]"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_heads": 3}, "num_heads is 3; it must divide num_labels, 10"),
        ({"num_labels": 0}, "num_labels is 0"),
        ({"id2label": {1: "one", 2: "two"}}, r"the labels are \[1, 2\]; they must be 0 to 1"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"image_mean": []}, r"image_mean is \[\]"),
        ({"image_mean": [0.1, 0.2]}, r"image_mean is \[0.1, 0.2\]"),
        ({"image_mean": [math.nan]}, r"image_mean is \[nan\]"),
        ({"image_std": [0.1, 0.2], "num_channels": 3}, r"image_std is \[0.1, 0.2\].*each of the 3"),
        ({"image_std": [0.0]}, r"image_std is \[0.0\]"),
        ({"image_std": [-1.0]}, r"image_std is \[-1.0\]"),
        ({"image_std": [math.inf]}, r"image_std is \[inf\]"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        ClassifierConfig(**changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_labels": 2.5}, "num_labels is 2.5; it must be an integer"),
        ({"num_labels": 3, "id2label": {0: "zero"}}, "num_labels is 3, but id2label has 1 names"),
        ({"num_labels": 3, "label2id": {"zero": 0}}, "num_labels is 3, but label2id has 1 names"),
    ],
)
def test_labels_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ClassifierConfig(**changes)

"""The classifiers that come with the package."""

import json
import os

import pytest
import torch
from huggingface_hub import ModelCard

from hwzoo import hub
from hwzoo.data import load_images
from hwzoo.errors import UsageError

TITLES = {"digits": "digits classifier", "mnist": "MNIST classifier", "fashion_mnist": "Fashion-MNIST classifier"}
FEATURES = {"digits": 50}
LOWEST = {"digits": 0.93, "mnist": 0.992, "fashion_mnist": 0.915}


@pytest.mark.parametrize("name", LOWEST)
def test_it_is_small_and_tells_its_accuracy(name):
    folder = hub.CLASSIFIERS / name
    accuracy = json.loads((folder / "all_results.json").read_text())["average_accuracy"]
    assert LOWEST[name] <= accuracy < 1
    assert (folder / "model.safetensors").stat().st_size < 1_000_000
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results[0].metric_value == accuracy
    assert card.data.model_name == TITLES[name] and f"\n# {TITLES[name]}\n" in card.text
    model = hub.load_classifier(name)
    assert not model.training and model.config.num_labels == 10
    assert model.features(torch.rand(2, 1, 28, 28)).shape == (2, FEATURES.get(name, 128))


@pytest.mark.parametrize(
    "name", [each if each == "digits" else pytest.param(each, marks=pytest.mark.slow) for each in LOWEST]
)
def test_its_accuracy_is_the_one_told(name):
    if name != "digits" and not os.environ.get("HWZOO_DATA_DIR"):
        pytest.skip("needs the real data, HWZOO_DATA_DIR")
    test, model = load_images(name).test, hub.load_classifier(name)
    with torch.inference_mode():
        right = sum(
            (model(test.pixel_values(indices)).logits.argmax(-1) == test.labels[indices]).sum().item()
            for indices in torch.arange(len(test)).split(500)
        )
    told = json.loads((hub.CLASSIFIERS / name / "all_results.json").read_text())["average_accuracy"]
    assert right / len(test) == pytest.approx(told, abs=0.0003)  # other kernels round otherwise


def test_another_name_is_refused():
    with pytest.raises(UsageError, match="no classifier for 'letters'; there are digits, fashion_mnist, mnist"):
        hub.load_classifier("letters")

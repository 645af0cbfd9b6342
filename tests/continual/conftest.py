"""Streams, models and strategies so small that a formula can follow them."""

from types import SimpleNamespace

import pytest
import torch

from hwzoo import ClassifierConfig, ClassifierForImageClassification, continual
from hwzoo.data import ImageSet
from hwzoo.training import GlobalNoise

# The settings of all strategies, by the recipe's names.
SETTINGS = {
    "ewc_lambda": 3.0,
    "ewc_penalty": "half",
    "ewc_online": False,
    "ewc_decay": 1.0,
    "fisher_estimator": "exact",
    "fisher_samples": None,
    "fisher_mode": "eval",
    "fisher_batch_size": 5,
    "si_lambda": 2.0,
    "si_damping": 0.1,
    "lwf_lambda": 0.7,
    "lwf_temperature": 2.0,
    "memory_size": 10,
    "memory_policy": "balanced",
    "replay_ratio": 1,
}


def images(num: int, num_classes: int, image_size: int = 4, num_channels: int = 1, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (num, num_channels, image_size, image_size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(num)[torch.randperm(num, generator=generator)] % num_classes
    return ImageSet(pixels, labels, tuple("abcdefghij"[:num_classes]))


@pytest.fixture
def image_set():
    return images


@pytest.fixture
def make_stream():
    def make(num_tasks=3, scenario="class", num=36, num_classes=6, image_size=4):
        train, test = images(num, num_classes, image_size), images(num // 2, num_classes, image_size, seed=1)
        return continual.split(train, test, num_tasks, scenario)

    return make


@pytest.fixture
def make_model():
    """A model for a stream; in double precision, so that a wrong formula is not taken for rounding."""

    def make(stream, backbone="mlp", hidden_sizes=(5,), dropout=0.5, seed=0):
        torch.manual_seed(seed)
        config = ClassifierConfig(
            image_size=stream.train.image_size,
            num_channels=stream.train.num_channels,
            backbone=backbone,
            hidden_sizes=list(hidden_sizes),
            dropout=dropout,
            num_heads=stream.num_heads,
            id2label=dict(enumerate(stream.train.class_names)),
        )
        return ClassifierForImageClassification(config).double().train()

    return make


@pytest.fixture
def make_strategy(make_model):
    def make(name, stream, model=None, seed=0, **settings):
        model = make_model(stream) if model is None else model
        settings = SimpleNamespace(**{**SETTINGS, **settings})
        return continual.STRATEGIES[name](model, stream, settings, GlobalNoise(seed))

    return make

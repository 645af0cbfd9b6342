"""torch.compile and torch.export of the families: one graph for every batch size, equal to eager."""

import pytest
import torch
import torch._inductor.config
from torch import nn

from hwzoo import ClassifierConfig, ClassifierForImageClassification, GANConfig, GANModel, VAEConfig, VAEModel

VAE = dict(image_size=8, latent_size=3, encoder_hidden_sizes=[16], decoder_hidden_sizes=[16])
GAN = dict(
    image_size=8, latent_size=3, generator_hidden_size=16, generator_channels=[8, 4], discriminator_channels=[3, 5],
    discriminator_hidden_size=16, spectral_norm=True,
)  # fmt: skip
MODELS = {
    "vae": lambda: VAEModel(VAEConfig(**VAE)),
    "vae-mixture": lambda: VAEModel(VAEConfig(**VAE, prior="mixture", num_mixture_components=4)),
    "vae-conditional": lambda: VAEModel(VAEConfig(**VAE, num_classes=3, train_importance_samples=2)),
    "gan": lambda: GANModel(GANConfig(**GAN)),
    "gan-conditional": lambda: GANModel(GANConfig(**GAN, num_classes=3)),
    "classifier": lambda: ClassifierForImageClassification(
        ClassifierConfig(image_size=8, backbone="mlp", hidden_sizes=[6], image_mean=[0.3], image_std=[0.4])
    ),
}
SIZES = (3, 5)
BATCH = torch.export.Dim("batch")
models = pytest.mark.parametrize("name", MODELS)


def build(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def inputs_of(model, num):
    """Images, and labels where the model takes them."""
    images = torch.rand(num, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round()
    takes_labels = isinstance(model, ClassifierForImageClassification) or getattr(model.config, "num_classes", 0)
    labels = {"labels": torch.arange(num) % 3} if takes_labels else {}
    return {"pixel_values": images, **labels}


def seeded(call, *args, **inputs):
    torch.manual_seed(7)
    with torch.no_grad():
        return call(*args, **inputs)


class Sample(nn.Module):
    """`sample` as a module whose batch size is that of its input, which `torch.export` can keep open."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, like):
        return self.model.sample(like.shape[0])


class Labelled(nn.Module):
    """A forward that takes labels as a further keyword; torch 2.13 opens no dimension of what comes by `**kwargs`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, labels):
        return self.model(pixel_values, labels=labels)


@models
@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "strict"])
def test_forward_exports_with_a_batch_of_any_size(name, strict):
    model = build(name)
    inputs = inputs_of(model, SIZES[0])
    shapes = {key: {0: BATCH} for key in inputs}
    exported = Labelled(model) if name == "vae-conditional" else model
    program = torch.export.export(exported, (), inputs, dynamic_shapes=shapes, strict=strict).module()
    for num in SIZES:
        inputs = inputs_of(model, num)
        torch.testing.assert_close(dict(seeded(program, **inputs)), dict(seeded(model, **inputs)))


@pytest.mark.parametrize(
    "name, training", [(name, False) for name in MODELS if name != "classifier"] + [("gan", True)]
)
def test_sample_exports_with_a_batch_of_any_size(name, training):
    """A GAN also in training mode, where its BatchNorm takes the running statistics all the same."""
    model = build(name)
    if training:
        model.train()(**inputs_of(model, 5))  # statistics of its own
    program = torch.export.export(Sample(model), (torch.zeros(3),), dynamic_shapes={"like": {0: BATCH}}).module()
    for num in SIZES:
        drawn = seeded(program, torch.zeros(num))
        assert drawn.shape == (num, 1, 8, 8) and drawn.std() > 0
        torch.testing.assert_close(drawn, seeded(model.sample, num_samples=num))


# Tracing takes up to 15 seconds a model, the compiler of inductor a minute and more.
QUICK = {("vae", "aot_eager"): pytest.mark.long, ("classifier", "aot_eager"): ()}
GRAPHS = [
    pytest.param(name, backend, marks=QUICK.get((name, backend), pytest.mark.slow))
    for backend in ("aot_eager", "inductor")
    for name in MODELS
]


@pytest.mark.parametrize("name, backend", GRAPHS)
def test_one_graph_serves_every_batch_size(name, backend):
    model = build(name)
    calls = [(model.forward, [inputs_of(model, num) for num in SIZES])]
    if hasattr(model, "sample"):
        calls.append((model.sample, [{"num_samples": num} for num in SIZES]))
    for call, batches in calls:
        torch._dynamo.reset()
        compiled = torch.compile(call, backend=backend, fullgraph=True, dynamic=True)
        for inputs in batches:
            with torch._inductor.config.patch(fallback_random=True):  # its own random numbers differ from eager's
                left = seeded(compiled, **inputs)
            right = seeded(call, **inputs)
            if not torch.is_tensor(right):
                left, right = dict(left), dict(right)
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # the compiler
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_the_loss_of_a_compiled_vae_trains_it_alike(backend):
    model, noise = build("vae"), torch.randn(5, 3)
    model(**inputs_of(model, 5), noise=noise).loss.backward()
    expected = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    torch._dynamo.reset()
    torch.compile(model, backend=backend, fullgraph=True)(**inputs_of(model, 5), noise=noise).loss.backward()
    torch.testing.assert_close(
        {key: parameter.grad for key, parameter in model.named_parameters()}, expected, rtol=1e-4, atol=1e-5
    )

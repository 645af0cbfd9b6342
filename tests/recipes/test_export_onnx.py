"""What export_onnx.py writes, run by onnxruntime, and what it refuses."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from recipe_runs import load_recipe

from hwzoo import (
    ClassifierConfig,
    ClassifierForImageClassification,
    GANConfig,
    GANModel,
    VAEConfig,
    VAEModel,
    diffusion,
    hub,
    onnx,
)
from hwzoo.errors import HwzooError, UsageError

GAN = dict(
    image_size=8, latent_size=3, generator_hidden_size=16, generator_channels=[8, 4], discriminator_channels=[3, 5],
    discriminator_hidden_size=16, spectral_norm=True,
)  # fmt: skip
VAE = dict(image_size=8, latent_size=3, encoder_hidden_sizes=[16], decoder_hidden_sizes=[16])
MODELS = {
    "vae": (lambda: VAEModel(VAEConfig(**VAE)), {"encoder", "decoder"}),
    "vae-conv": (
        lambda: VAEModel(VAEConfig(**VAE, network="conv", likelihood="gaussian", num_classes=3)),
        {"encoder", "decoder"},
    ),
    "gan": (lambda: GANModel(GANConfig(**GAN)), {"generator", "discriminator"}),
    "gan-conditional": (lambda: GANModel(GANConfig(**GAN, num_classes=3)), {"generator", "discriminator"}),
    "classifier": (
        lambda: ClassifierForImageClassification(ClassifierConfig(image_size=16, image_mean=[0.3], image_std=[0.4])),
        {"classifier"},
    ),
}
QUICK = dict.fromkeys(("vae", "gan", "classifier"), ())  # a family's second model is among the slow tests


def saved(name, folder):
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture
def recipe():
    return load_recipe("export_onnx")


def export(recipe, model, folder):
    return recipe.main(recipe.Settings(model_name_or_path=str(model), output_dir=str(folder)))


def run(path, **inputs):
    session = onnxruntime.InferenceSession(str(path))
    assert [each.name for each in session.get_inputs()] == list(inputs)
    return session.run(None, {key: value.numpy() for key, value in inputs.items()})


@torch.no_grad()
def inputs_and_outputs(model, part, num):
    size = model.config.image_size
    pixels, labels = torch.rand(num, 1, size, size), {}
    if getattr(model.config, "num_classes", 0):
        labels = {"labels": torch.arange(num) % 3}
    latents = torch.randn(num, getattr(model.config, "latent_size", 1))
    return {
        "encoder": lambda: ({"pixel_values": pixels, **labels}, model.encode(pixels, **labels)),
        "decoder": lambda: ({"latents": latents, **labels}, [model.decode(latents, **labels)]),
        "generator": lambda: ({"latents": latents, **labels}, [model.generator(latents, **labels).clamp(0, 1)]),
        "discriminator": lambda: ({"pixel_values": pixels, **labels}, [model.discriminate(pixels, **labels)]),
        "classifier": lambda: ({"pixel_values": pixels}, [model(pixels).logits]),
    }[part]()


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param(each, marks=QUICK.get(each, pytest.mark.slow)) for each in MODELS])
def test_each_part_gives_the_numbers_of_the_model(name, recipe, tmp_path):
    model, names = saved(name, tmp_path / "model"), MODELS[name][1]
    results = export(recipe, tmp_path / "model", tmp_path / "onnx")
    written = {path.name for path in (tmp_path / "onnx").iterdir() if not path.name.startswith(".")}
    assert written == {f"{part}.onnx" for part in names} | {"export.json"}
    assert results["largest_difference"].keys() == names
    for num in (1, 7):
        for part in names:
            inputs, expected = inputs_and_outputs(model, part, num)
            outputs = run(tmp_path / "onnx" / f"{part}.onnx", **inputs)
            assert len(outputs) == len(expected)
            for one, other in zip(outputs, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("differences", [(0.5, 1e-7), (1e-7, 0.5), (1e-7, math.nan), (math.nan, 1e-7)])
def test_a_part_with_other_numbers_is_told(recipe, tmp_path, monkeypatch, differences):
    saved("classifier", tmp_path / "model")
    told, found = max(differences, key=lambda each: -1 if each == 1e-7 else 1), iter(differences)
    monkeypatch.setattr(onnx, "_difference", lambda path, part: next(found))
    with pytest.raises(HwzooError, match=f"classifier.onnx gives other numbers than the model, by {told}"):
        export(recipe, tmp_path / "model", tmp_path / "onnx")
    assert not (tmp_path / "onnx" / "classifier.onnx").exists()


def test_a_missing_package_is_told(recipe, tmp_path, monkeypatch):
    saved("vae", tmp_path / "model")
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UsageError, match=r'ONNX needs onnxscript: pip install "hwzoo\[onnx\]"'):
        export(recipe, tmp_path / "model", tmp_path / "onnx")


def test_a_model_of_another_kind_is_refused(recipe, tmp_path):
    from transformers import T5Config, T5Model

    config = T5Config(vocab_size=8, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(UsageError, match="a T5ForConditionalGeneration has no part that is exported"):
        export(recipe, tmp_path / "t5", tmp_path / "onnx")
    unet = diffusion.build_unet(28, 1, block_out_channels=[8, 8], norm_num_groups=4)
    hub.save(diffusion.make_pipeline(unet, diffusion.train_scheduler(30)), tmp_path / "ddpm")
    with pytest.raises(UsageError, match="a ClassConditionalPipeline has no part that is exported; a VAE, a GAN or"):
        export(recipe, tmp_path / "ddpm", tmp_path / "onnx")
    with pytest.raises(UsageError, match="--model_name_or_path .*nothing: no such folder, and not a Hub id"):
        export(recipe, tmp_path / "nothing", tmp_path / "onnx")
    with pytest.raises(UsageError, match="vae holds a trained model or checkpoints, which stay"):
        saved("vae", tmp_path / "vae")
        recipe.main(
            recipe.Settings(model_name_or_path="x", output_dir=str(tmp_path / "vae"), overwrite_output_dir=True)
        )
    with pytest.raises(UsageError, match="--model_name_or_path is missing"):
        recipe.main(recipe.Settings())

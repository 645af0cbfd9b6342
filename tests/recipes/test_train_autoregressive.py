"""What a run of train_autoregressive.py leaves, that it learns, and that it goes on as if nothing had been."""

import json
import math
from pathlib import Path

import pytest
import torch
from forked import by_one_and_by_two
from PIL import Image
from recipe_runs import (
    captions_in,
    colour_pictures,
    evaluations,
    history,
    last_of_the_bar,
    results_but_times,
    results_of_its_own_architecture,
    run_with,
    same_run,
    scored_as_evaluate_generator_does,
    stopped_at,
    tiles_of,
)
from transformers import AutoModel

from hwzoo import AutoregressiveConfig, AutoregressiveModel, training
from hwzoo.data import load_images

# One block over 16 patches of 7 x 7 pixels: the smallest transformer of 28 x 28 images.
SMALL = {
    "hidden_size": 8,
    "num_layers": 1,
    "head_hidden_size": 49,
    "patch_size": 7,
    "num_attention_heads": 2,
    "train_batch_size": 20,
    "max_train_steps": 6,
    "logging_steps": 2,
    "num_test_samples": 8,
}
CONVOLUTIONS = {"hidden_size": 4, "head_hidden_size": 4, "num_layers": 1, "first_kernel_size": 3}
LOSS = "negative_log_prob"


def types_of(recipe) -> list[type]:
    return [recipe.Run, recipe.Model, recipe.Protocol]


def run(recipe, folder: Path, **settings) -> dict:
    """A small run."""
    return run_with(recipe, types_of(recipe), {**SMALL, "output_dir": str(folder), **settings})


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing them is most of a small run's time."""
    monkeypatch.setattr(training, "save_curves", lambda *args, **kwargs: None)
    monkeypatch.setattr(training, "save_receptive_fields", lambda *args: None)


def test_what_a_run_leaves(train_autoregressive, tmp_path, capsys):
    results = run(train_autoregressive, tmp_path, eval_steps=6)
    printed, (*_, logged, evaluated) = capsys.readouterr(), history(tmp_path)
    assert f", nats={logged[LOSS]:.4g}]" in last_of_the_bar(printed.err)
    told = f"negative log-likelihood {evaluated[f'eval_{LOSS}']:.4g} (nats an image)"
    assert evaluations(printed.out) == [f"6: {told}"]
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    for words in ("digits: all 297 test images", "binarisation dynamic (test images drawn once", "exact", "averaged"):
        assert words in results["protocol"]
    model = AutoModel.from_pretrained(tmp_path)
    test_set = load_images("digits").test.binarized(0)
    log_prob = model.log_prob(test_set.pixel_values()).double()
    assert results[f"test_{LOSS}"] == pytest.approx(-log_prob.mean().item(), rel=1e-5)
    error = log_prob.std().item() / 297**0.5
    assert results[f"test_{LOSS}_standard_error"] == pytest.approx(error, rel=1e-2)
    for suffix in ("", "_standard_error"):
        bits = results[f"test_{LOSS}{suffix}"] / math.log(2) / 784
        assert results[f"test_bits_per_dim{suffix}"] == pytest.approx(bits)
    assert [record["step"] for record in history(tmp_path)] == [2, 4, 6, 6]
    assert [record.keys() - {"step"} for record in history(tmp_path)] == [{LOSS}] * 3 + [{f"eval_{LOSS}"}]

    samples = tiles_of(tmp_path / "samples.png", columns=20)
    assert samples.shape == (200, 28, 28) and set(samples.unique().tolist()) == {0, 255}
    expected = model.sample(200, generator=torch.Generator().manual_seed(0))[:, 0]
    assert torch.equal(samples, (expected * 255).to(torch.uint8))
    grey, *rows = tiles_of(tmp_path / "completions.png", columns=20).view(7, 20, 28, 28)
    assert torch.equal(grey, load_images("digits").test.images[torch.arange(20) * 297 // 20, 0])
    rows = torch.stack(rows)
    assert torch.equal(rows[0], test_set.images[torch.arange(20) * 297 // 20, 0])
    assert all(torch.equal(row[:, :14], rows[0, :, :14]) for row in rows[1:])
    assert (rows[1, :, 14:] == 128).all() and set(rows[2:, :, 14:].unique().tolist()) == {0, 255}
    assert not torch.equal(rows[2], rows[3])
    assert captions_in(tmp_path) == {
        "samples": "200 samples at temperature 1; autoregressive on digits, seed 0",
        "completions": "Test images, and their lower rows by the model; autoregressive on digits, seed 0",
    }
    for name in ("curves.png", "receptive_fields.png"):
        assert Image.open(tmp_path / name).width > 300
    card = (tmp_path / "README.md").read_text()
    for words in ("exact", "patches of 7 x 7 pixels", "samples.png", "completions.png", "receptive_fields.png"):
        assert words in card
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.long
def test_its_samples_are_scored_as_evaluate_generator_does(train_autoregressive, no_pictures, tmp_path):
    run(train_autoregressive, tmp_path, num_test_samples=30, eval_batch_size=20, temperature=0.5, conditional=True)
    scored_as_evaluate_generator_does(tmp_path, 30)


def test_training_learns(train_autoregressive, no_pictures, tmp_path):
    flags = {"num_layers": 2, "hidden_size": 32, "head_hidden_size": 98, "lr_warmup_steps": 5, "learning_rate": 5e-3}
    before = run(train_autoregressive, tmp_path / "a", max_train_steps=1, **flags)[f"test_{LOSS}"]
    after = run(train_autoregressive, tmp_path / "b", max_train_steps=60, **flags)[f"test_{LOSS}"]
    assert before > 500 and after < 350


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param(
            {"network": "pixelcnn", **CONVOLUTIONS},
            ["a 3 x 3 convolution of type A", "blind spot"],
            marks=pytest.mark.slow,
        ),
        ({"network": "gated_pixelcnn", **CONVOLUTIONS, "binarization": "static"}, ["gated PixelCNN", "static"]),
        pytest.param(
            {"binarization": "threshold", "patch_context": "previous"},
            ["binarisation threshold (pixels above 127"],
            marks=pytest.mark.slow,
        ),
        (
            {"dataset_name": "digits", "image_size": 8, "patch_size": 1, "patch_context": "previous"},
            ["patches of 1 x 1 pixels in the order of reading, and a linear layer for the value of each"],
        ),
        ({"binarization": "none", "temperature": 0.5}, ["256 levels", "temperature 0.5", "1/255"]),
        ({"conditional": True, "mixed_precision": "bf16"}, ["given its class", "one of 10 classes", "labels="]),
    ],
    ids=["pixelcnn", "gated", "threshold", "patches of a pixel", "8 bits", "conditional"],
)
def test_every_kind_of_model_trains_and_loads(settings, words, train_autoregressive, tmp_path):
    results = run(train_autoregressive, tmp_path, **settings)
    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.num_levels == (256 if settings.get("binarization") == "none" else 2)
    assert model.config.num_classes == (10 if settings.get("conditional") else 0)
    assert math.isfinite(results[f"test_{LOSS}"])
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert all(each in card for each in words)
    assert ("masked network" in card) == (model.config.network == "patch_transformer" and model.config.patch_size > 1)


@pytest.mark.long
def test_pictures_of_a_conditional_model_show_each_class(train_autoregressive, no_pictures, tmp_path):
    run(train_autoregressive, tmp_path, conditional=True)
    model = AutoModel.from_pretrained(tmp_path)
    labels = torch.arange(10).repeat_interleave(20)
    expected = model.sample(200, labels=labels, generator=torch.Generator().manual_seed(0))[:, 0]
    assert torch.equal(tiles_of(tmp_path / "samples.png", columns=20), (expected * 255).to(torch.uint8))


@pytest.mark.long
def test_colour_images_train(train_autoregressive, tmp_path):
    flags = {"dataset_name": str(colour_pictures(tmp_path / "pictures")), "binarization": "none", "patch_size": 2}
    for name, network in (
        ("t", {}),
        ("p", {"network": "pixelcnn", **CONVOLUTIONS, "hidden_size": 6, "head_hidden_size": 6}),
    ):
        results = run(train_autoregressive, tmp_path / name, **flags, **network)
        assert results["test_bits_per_dim"] == pytest.approx(8, abs=0.5)  # noise
        assert tiles_of(tmp_path / name / "completions.png", 8).shape == (6 * 8, 8, 8, 3)


@pytest.mark.long
def test_stopped_and_resumed_equals_uninterrupted(train_autoregressive, no_pictures, tmp_path):
    everything = {"gradient_accumulation_steps": 2, "max_grad_norm": 50.0, "conditional": True, "lr_warmup_steps": 3}
    everything |= {"checkpointing_steps": 3, "checkpoints_total_limit": 4, "max_train_steps": 12}
    run(train_autoregressive, tmp_path / "straight", **everything)
    folder = stopped_at(tmp_path / "straight", 6, tmp_path / "resumed")
    run(train_autoregressive, folder, resume_from_checkpoint="latest", **everything)
    same_run(tmp_path / "straight", folder, 12)


@pytest.mark.slow
def test_two_processes_equal_one(train_autoregressive, no_pictures, tmp_path):
    settings = SMALL | {"max_train_steps": 20, "logging_steps": 1, "eval_batch_size": 40, "conditional": True}
    one, two = by_one_and_by_two(train_autoregressive, types_of(train_autoregressive), tmp_path, settings)
    for first, second in zip(history(one), history(two), strict=True):
        assert first[LOSS] == pytest.approx(second[LOSS], rel=1e-4)
    first, second = results_but_times(one), results_but_times(two)
    for name in (f"test_{LOSS}", f"test_{LOSS}_standard_error", "train_steps"):
        assert first[name] == pytest.approx(second[name], rel=1e-3), name


def test_a_trained_model_may_be_of_images_that_the_defaults_do_not_fit(train_autoregressive, no_pictures, tmp_path):
    model = AutoregressiveModel(
        AutoregressiveConfig(image_size=14, patch_size=7, hidden_size=8, num_layers=1, num_attention_heads=2)
    )
    results = results_of_its_own_architecture(
        train_autoregressive, types_of(train_autoregressive), model, "patch_size is 4", tmp_path
    )
    assert results["protocol"].startswith("digits") and math.isfinite(results[f"test_{LOSS}"])


@pytest.mark.parametrize("image_size", [1, 2, 3])
def test_the_smallest_images_have_receptive_fields_too(image_size, train_autoregressive):
    """They are drawn after the training, which would be lost."""
    config = AutoregressiveConfig(image_size=image_size, network="pixelcnn", num_layers=1, hidden_size=4)
    fields = train_autoregressive.receptive_fields(AutoregressiveModel(config))
    middle = min((image_size - 1) // 2 + 1, image_size - 1)
    seen, before, place = fields[f"from row {middle}, column {middle}"]
    assert place == (middle, middle) and seen.shape == before.shape == (image_size, image_size)
    assert before.sum() == middle * image_size + middle and not (seen & ~before).any()


def test_completions_are_given_the_classes_of_their_images(train_autoregressive, tmp_path):
    config = AutoregressiveConfig(image_size=8, num_classes=3, network="pixelcnn", num_layers=1, hidden_size=6)
    torch.manual_seed(0)
    model, images, labels = (
        AutoregressiveModel(config).eval(),
        torch.rand(4, 1, 8, 8).round(),
        torch.tensor([2, 0, 1, 2]),
    )
    rows = train_autoregressive.completions(model, images, labels, {"generator": torch.Generator().manual_seed(5)})
    generator, known = torch.Generator().manual_seed(5), torch.arange(8)[:, None].expand(8, 8) < 4
    assert (
        torch.equal(rows["what is given"][:, :, :4], images[:, :, :4])
        and (rows["what is given"][:, :, 4:] == 0.5).all()
    )
    for i in range(1, 5):
        expected = model.complete(images, known, labels=labels, generator=generator)
        assert torch.equal(rows[f"completion {i}"], expected)


@pytest.mark.long
def test_a_trained_model_is_tested_without_training(train_autoregressive, no_pictures, tmp_path):
    before = run(train_autoregressive, tmp_path / "a")
    flags = {"max_train_steps": 0, "model_name_or_path": str(tmp_path / "a"), "num_attention_heads": 4}
    after = run(train_autoregressive, tmp_path / "b", **flags)
    assert after[f"test_{LOSS}"] == before[f"test_{LOSS}"]
    assert "without further training" in " ".join((tmp_path / "b" / "README.md").read_text().split())

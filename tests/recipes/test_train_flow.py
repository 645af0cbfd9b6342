"""What a run of train_flow.py leaves, that it learns, and that it goes on as if nothing had been."""

import json
import math
from pathlib import Path

import pytest
import torch
from forked import by_one_and_by_two
from PIL import Image
from recipe_runs import (
    captions_in,
    checkpoint,
    colour_pictures,
    history,
    last_of_the_bar,
    results_but_times,
    results_of_its_own_architecture,
    run_with,
    same_run,
    same_weights,
    scored_as_evaluate_generator_does,
    stopped_at,
    tiles_of,
)
from safetensors.torch import load_file
from transformers import AutoModel

from hwzoo import FlowConfig, FlowModel, hub, training
from hwzoo.data import load_images
from hwzoo.errors import HwzooError, UsageError

SMALL = {
    "hidden_size": 4,
    "num_steps": 1,
    "num_hidden_layers": 1,
    "train_batch_size": 20,
    "max_train_steps": 6,
    "logging_steps": 2,
    "num_importance_samples": 3,
    "num_test_samples": 8,
}
LOSS = "negative_log_prob"


def types_of(recipe) -> list[type]:
    return [recipe.Run, recipe.Model, recipe.Protocol]


def run(recipe, folder: Path, **settings) -> dict:
    """A small run."""
    return run_with(recipe, types_of(recipe), {**SMALL, "output_dir": str(folder), **settings})


@pytest.fixture
def no_curves(monkeypatch):
    """Drawing them is most of a small run's time."""
    monkeypatch.setattr(training, "save_curves", lambda *args, **kwargs: None)


def test_what_a_run_leaves(train_flow, tmp_path, capsys):
    results = run(train_flow, tmp_path, eval_batch_size=100)
    assert f", nats={history(tmp_path)[-1][LOSS]:.4g}]" in last_of_the_bar(capsys.readouterr().err)
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    for words in (
        "digits: all 297 test images of 8 bits",
        "upper bound",
        "one draw (and 3 for test_..._3)",
        "averaged",
    ):
        assert words in results["protocol"]
    model = AutoModel.from_pretrained(tmp_path)
    images = load_images("digits").test.pixel_values()
    for suffix, num in (("", 1), ("_3", 3)):
        log_prob = torch.cat([
            model.log_prob(part, num_importance_samples=num, generator=torch.Generator().manual_seed(seed)).double()
            for seed, part in enumerate(images.split(100))
        ])  # fmt: skip
        assert results[f"test_{LOSS}{suffix}"] == pytest.approx(-log_prob.mean().item(), rel=1e-5)
        if num == 1:
            error = log_prob.std().item() / 297**0.5
            assert results[f"test_{LOSS}_standard_error"] == pytest.approx(error, rel=1e-2)
    assert results[f"test_{LOSS}_3"] < results[f"test_{LOSS}"]
    for suffix in ("", "_standard_error", "_3"):
        bits = results[f"test_{LOSS}{suffix}"] / math.log(2) / 784
        assert results[f"test_bits_per_dim{suffix}"] == pytest.approx(bits)
    assert [record["step"] for record in history(tmp_path)] == [2, 4, 6]
    assert all(record.keys() == {LOSS, "step"} for record in history(tmp_path))

    samples = tiles_of(tmp_path / "samples.png", columns=20)
    expected = model.sample(200, generator=torch.Generator().manual_seed(0), temperature=0.7)[:, 0]
    assert torch.equal(samples, (expected * 255).round().to(torch.uint8))
    lines = tiles_of(tmp_path / "interpolations.png", columns=10).view(10, 10, 28, 28)
    test_set = load_images("digits").test
    for label in range(10):  # from each class to the one before it
        assert torch.equal(lines[label, 0], test_set.images[test_set.labels == label][0, 0])
        assert torch.equal(lines[label, -1], test_set.images[test_set.labels == (label - 1) % 10][-1, 0])
    assert Image.open(tmp_path / "curves.png").width > 300
    assert captions_in(tmp_path) == {
        "samples": "200 samples at temperature 0.7; flow on digits, seed 0",
        "interpolations": "Paths between the latents of two test images each; flow on digits, seed 0",
    }
    card = " ".join((tmp_path / "README.md").read_text().split())
    for words in (
        "Glow (",
        "2 scales of 1 steps",
        "affine couplings",
        "alpha 1e-05",
        "temperature 0.7",
        "samples.png",
    ):
        assert words in card
    assert "curves.png" in card and "interpolations.png" in card and "not a density" in card
    assert not list(tmp_path.glob(".unfinished*"))


def test_its_samples_are_scored_as_evaluate_generator_does(train_flow, no_curves, tmp_path):
    run(train_flow, tmp_path, num_test_samples=30, eval_batch_size=20, temperature=0.5, conditional=True)
    scored_as_evaluate_generator_does(tmp_path, 30)
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert "30 samples of this model, seed 0, classes drawn uniformly, against" in results["protocol"]


@pytest.mark.long
def test_training_learns(train_flow, no_curves, tmp_path):
    flags = {"hidden_size": 16, "num_steps": 3, "lr_warmup_steps": 5, "learning_rate": 5e-3, "ema_decay": 0.9}
    before = run(train_flow, tmp_path / "a", max_train_steps=1, **flags)["test_bits_per_dim"]
    after = run(train_flow, tmp_path / "b", max_train_steps=80, **flags)["test_bits_per_dim"]
    assert before > 5.5 and after < before - 1.2


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"network": "realnvp", "coupling": "additive"}, ["RealNVP (", "additive couplings"]),
        (
            {"network": "nice", "coupling": "additive", "prior": "logistic", "logit_alpha": 0.0, "num_steps": 4},
            ["NICE (", "logistic latents", "of plain pixels"],
        ),
        ({"conditional": True, "mixed_precision": "bf16"}, ["given its class", "one of 10 classes", "labels="]),
        ({"num_importance_samples": 1, "temperature": 1.0}, ["temperature 1:"]),
    ],
    ids=["realnvp", "nice", "conditional", "one draw"],
)
def test_every_kind_of_model_trains_and_loads(settings, words, train_flow, no_curves, tmp_path):
    results = run(train_flow, tmp_path, **settings)
    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.network == settings.get("network", "glow")
    assert model.config.num_classes == (10 if settings.get("conditional") else 0)
    assert all(math.isfinite(value) for value in results.values() if isinstance(value, float))
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert all(each in card for each in words)


def test_pictures_of_a_conditional_model_show_each_class(train_flow, no_curves, tmp_path):
    run(train_flow, tmp_path, conditional=True)
    model = AutoModel.from_pretrained(tmp_path)
    labels = torch.arange(10).repeat_interleave(20)
    expected = model.sample(200, labels=labels, generator=torch.Generator().manual_seed(0), temperature=0.7)[:, 0]
    assert torch.equal(tiles_of(tmp_path / "samples.png", columns=20), (expected * 255).round().to(torch.uint8))
    lines = tiles_of(tmp_path / "interpolations.png", columns=10).view(10, 10, 28, 28)
    test_set = load_images("digits").test
    for label in range(10):  # both ends of one class
        own = test_set.images[test_set.labels == label][:, 0]
        assert torch.equal(lines[label, 0], own[0]) and torch.equal(lines[label, -1], own[-1])


@pytest.mark.long
def test_colour_images_train(train_flow, no_curves, tmp_path):
    flags = {"dataset_name": str(colour_pictures(tmp_path / "pictures")), "prior": "logistic"}
    for network in ("glow", "realnvp", "nice"):
        results = run(train_flow, tmp_path / network, network=network, **flags)
        assert results["test_bits_per_dim"] == pytest.approx(8, abs=1)  # noise
        assert tiles_of(tmp_path / network / "interpolations.png", 10).shape == (2 * 10, 8, 8, 3)
        assert tiles_of(tmp_path / network / "samples.png", 20).shape == (200, 8, 8, 3)


def test_actnorm_is_set_once_and_stays_through_a_resume(train_flow, no_curves, tmp_path):
    everything = {"gradient_accumulation_steps": 2, "max_grad_norm": 1000.0, "conditional": True, "lr_warmup_steps": 3}
    everything |= {"checkpointing_steps": 3, "checkpoints_total_limit": 4, "max_train_steps": 12, "eval_steps": 3}
    run(train_flow, tmp_path / "straight", **everything)
    name = "network.scales.0.1.log_scale"
    values = []
    for step in (3, 6):
        for file, prefix in (("model", ""), ("ema", "module.")):
            state = load_file(checkpoint(tmp_path / "straight", step) / f"{file}.safetensors")
            assert state[f"{prefix}initialized"]
            values.append(state[prefix + name])
    assert values[0].abs().min() > 0.1  # set by the data: the logit's spread is far from 1
    assert (values[2] - values[0]).abs().max() < 0.1
    assert (values[1] - values[0]).abs().max() < 0.1
    folder = stopped_at(tmp_path / "straight", 6, tmp_path / "resumed")
    run(train_flow, folder, resume_from_checkpoint="latest", **everything)
    same_run(tmp_path / "straight", folder, 12)


@pytest.mark.long
def test_two_processes_equal_one(train_flow, no_curves, tmp_path):
    settings = SMALL | {"max_train_steps": 20, "logging_steps": 1, "eval_batch_size": 40, "conditional": True}
    one, two = by_one_and_by_two(train_flow, types_of(train_flow), tmp_path, settings)
    for first, second in zip(history(one), history(two), strict=True):
        assert first[LOSS] == pytest.approx(second[LOSS], rel=1e-4)
    first, second = results_but_times(one), results_but_times(two)
    for name in (f"test_{LOSS}", f"test_{LOSS}_3", f"test_{LOSS}_standard_error", "train_steps"):
        assert first[name] == pytest.approx(second[name], rel=1e-3), name
    states = [load_file(checkpoint(each, 20) / "model.safetensors") for each in (one, two)]
    for name in (name for name in states[0] if "log_scale" in name or name == "initialized"):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_a_trained_model_is_tested_without_training_and_goes_on(train_flow, no_curves, tmp_path):
    before = run(train_flow, tmp_path / "a")
    flags = {"model_name_or_path": str(tmp_path / "a"), "hidden_size": 6}
    after = run(train_flow, tmp_path / "b", max_train_steps=0, **flags)
    assert after[f"test_{LOSS}"] == before[f"test_{LOSS}"]
    assert "without further training" in " ".join((tmp_path / "b" / "README.md").read_text().split())
    same_weights(tmp_path / "a", tmp_path / "b")  # ActNorm too: not set again
    on = run(train_flow, tmp_path / "c", max_train_steps=3, learning_rate=1e-5, **flags)
    assert on[f"test_{LOSS}"] == pytest.approx(before[f"test_{LOSS}"], rel=1e-2)


def test_a_trained_model_may_be_of_images_that_the_defaults_do_not_fit(train_flow, no_curves, tmp_path):
    model = FlowModel(FlowConfig(image_size=14, num_scales=1, num_steps=1, hidden_size=4))
    model.initialize(torch.rand(8, 1, 14, 14).mul(255).round() / 255)
    results = results_of_its_own_architecture(
        train_flow, types_of(train_flow), model, "num_scales is 2 with image_size 14", tmp_path
    )
    assert results["protocol"].startswith("digits") and math.isfinite(results[f"test_{LOSS}"])


def test_a_flow_of_one_image_is_refused(train_flow, no_curves, tmp_path):
    for split, num in (("train", 1), ("test", 2)):
        (tmp_path / "data" / split / "cat").mkdir(parents=True)
        for index in range(num):
            path = tmp_path / "data" / split / "cat" / f"{index}.png"
            Image.new("L", (8, 8), 40 * index).save(path)
    settings = {"dataset_name": str(tmp_path / "data"), "train_batch_size": 1, "network": "nice"}
    with pytest.raises(UsageError, match=f"^--dataset_name {tmp_path}/data: of 1 images a standard deviation is 0; "):
        run(train_flow, tmp_path / "run", **settings)


def test_samples_that_are_nan_lose_neither_the_model_nor_its_likelihoods(train_flow, no_curves, tmp_path, monkeypatch):
    monkeypatch.setattr(FlowModel, "sample", lambda self, num, **call: torch.full((num, 1, 28, 28), math.nan))
    with pytest.raises(HwzooError, match="^test_fid is not finite; model, card and pictures are in"):
        run(train_flow, tmp_path)
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert math.isfinite(results["test_bits_per_dim"]) and results["test_fid"] == "nan"
    assert "samples not scored: 8 of 8 of this model, seed 0 hold pixels that are NaN" in results["protocol"]
    assert (
        AutoModel.from_pretrained(tmp_path).state_dict().keys()
        == FlowModel.from_pretrained(tmp_path).state_dict().keys()
    )


def test_pixels_that_are_not_on_the_levels_end_a_test(train_flow, tmp_path):
    run(train_flow, tmp_path)
    model = hub.load(FlowModel, tmp_path)
    with pytest.raises(ValueError, match="pixel_values holds 0.5; this model takes the levels 0, 1/255, 2/255 ... 1"):
        model.bits_per_dim(torch.full((2, 1, 28, 28), 0.5))

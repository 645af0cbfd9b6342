"""What a run of train_vqvae.py leaves, that it learns, and that it goes on as if nothing had been."""

import functools
import json
import math
from pathlib import Path

import pytest
import recipe_runs
import torch
from forked import by_one_and_by_two
from PIL import Image
from recipe_runs import (
    checkpoint,
    history,
    results_but_times,
    run_with,
    same_run,
    state_of,
    stopped_at,
    tiles_of,
)
from safetensors.torch import load_file
from transformers import AutoModel

from hwzoo import training
from hwzoo.data import load_images
from hwzoo.models.vqvae.networks_vqvae import Autoencoder, Prior

RECIPE = Path(__file__).parents[2] / "recipes" / "train_vqvae.py"
launch = functools.partial(recipe_runs.launch, RECIPE)
SMALL = {
    "hidden_sizes": [4, 6, 8],
    "num_residual_layers": 1,
    "codebook_size": 12,
    "code_size": 3,
    "prior_hidden_size": 8,
    "prior_num_layers": 1,
    "prior_num_heads": 2,
    "train_batch_size": 20,
    "max_train_steps": 8,
    "logging_steps": 2,
    "num_continuous_steps": 2,
    "restart_steps": 2,
    "num_test_samples": 8,
    "num_search_images": 3,
}
BOUNDS = ("negative_bound", "rate", "distortion")


def types_of(recipe) -> list[type]:
    return [recipe.Run, recipe.Model, recipe.Protocol]


def run(recipe, folder: Path, **settings) -> dict:
    """A small run."""
    return run_with(recipe, types_of(recipe), {**SMALL, "output_dir": str(folder), **settings})


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing them is most of a small run's time."""
    monkeypatch.setattr(training, "save_curves", lambda *args, **kwargs: None)
    monkeypatch.setattr(training, "save_functions", lambda *args: None)


def test_what_a_run_leaves(train_vqvae, tmp_path):
    results = run(train_vqvae, tmp_path)
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    for words in ("digits: all 297 test images", "binarisation dynamic (test images drawn once", "exact", "averaged"):
        assert words in results["protocol"]
    model = AutoModel.from_pretrained(tmp_path)
    test_set = load_images("digits").test.binarized(0)
    images = test_set.pixel_values()
    with torch.no_grad():
        bounds = [each.double() for each in model.negative_bound(images)]
    for name, values in zip(BOUNDS, bounds, strict=True):
        assert results[f"test_{name}"] == pytest.approx(values.mean().item(), rel=1e-5)
        error = values.std().item() / 297**0.5
        assert results[f"test_{name}_standard_error"] == pytest.approx(error, rel=1e-2, abs=1e-3)
    found = model.search(images[[0, 99, 198]])[1]
    assert results["test_searched_bound"] == pytest.approx(found.mean().item(), rel=1e-5)
    assert "searched bound: 3 of the images, evenly spaced" in results["protocol"]
    codes = model.encode(images)
    shares = codes.flatten().bincount(minlength=12) / codes.numel()
    assert results["test_codes_used"] == (shares > 0).sum()
    entropy = -sum(share * math.log(share) for share in shares.tolist() if share)
    assert results["test_perplexity"] == pytest.approx(math.exp(entropy), rel=1e-4)
    assert results["test_fid"] > 0 and results["test_classes_covered"] >= 1

    names = {"loss", "distortion", "commitment_loss", "codebook_loss", "perplexity", "restarted", "step"}
    assert [record["step"] for record in history(tmp_path)] == [2, 4, 6, 8]
    assert [record.keys() for record in history(tmp_path)] == [names, names, {"rate", "step"}, {"rate", "step"}]

    samples = tiles_of(tmp_path / "samples.png", columns=20)
    assert samples.shape == (200, 28, 28)
    expected = model.sample(200, generator=torch.Generator().manual_seed(0))[:, 0]
    torch.testing.assert_close(samples / 255, expected, atol=1 / 254, rtol=0)
    uniform = tiles_of(tmp_path / "uniform_samples.png", columns=20)
    assert uniform.shape == (200, 28, 28) and not torch.equal(uniform, samples)
    pairs = tiles_of(tmp_path / "reconstructions.png", columns=20).unflatten(0, (5, 3, 20))
    assert torch.equal(pairs[:, 0].flatten(0, 1), load_images("digits").test.images[:100, 0])
    assert torch.equal(pairs[:, 1].flatten(0, 1), test_set.images[:100, 0])
    reconstructed = model.reconstruct(images[:100])[:, 0].detach()
    torch.testing.assert_close(pairs[:, 2].flatten(0, 1) / 255, reconstructed, atol=1 / 254, rtol=0)
    for name in ("curves.png", "code_use.png"):
        assert Image.open(tmp_path / name).width > 300
    card = " ".join((tmp_path / "README.md").read_text().split())
    for words in (
        "4 x 4 codes of 12",
        "moving averages",
        "uniform_samples.png",
        "code_use.png",
        "negative_bound(images",
    ):
        assert words in card
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.long
def test_training_learns_and_uses_its_codes(train_vqvae, no_pictures, tmp_path):
    flags = {"codebook_size": 16, "hidden_sizes": [8, 16, 32], "code_size": 8, "learning_rate": 5e-3}
    flags |= {"lr_warmup_steps": 5, "num_continuous_steps": 30, "restart_steps": 10}
    before = run(train_vqvae, tmp_path / "a", max_train_steps=1, **flags)
    after = run(train_vqvae, tmp_path / "b", max_train_steps=400, **flags)
    assert before["test_negative_bound"] > 500 and after["test_negative_bound"] < 335
    assert before["test_codes_used"] < 6 and after["test_codes_used"] > 11 and after["test_perplexity"] > 9
    assert before["test_rate"] > 16 * math.log(16) and after["test_rate"] < 30


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"codebook_update": "loss", "binarization": "static"}, ["learned by the loss", "static"]),
        ({"prior": "uniform", "binarization": "threshold"}, ["a uniform prior over the codes", "threshold"]),
        ({"conditional": True, "mixed_precision": "bf16", "temperature": 0.5},
         ["given the class", "one of 10 classes", "labels=", "temperature 0.5"]),
        ({"prior_share": 0.0, "hidden_sizes": [4, 6]}, ["7 x 7 codes of 12", "the prior is untrained"]),
    ],
    ids=["loss", "uniform", "conditional", "codes"],
)  # fmt: skip
def test_every_kind_of_model_trains_and_loads(settings, words, train_vqvae, tmp_path):
    results = run(train_vqvae, tmp_path, **settings)
    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.num_classes == (10 if settings.get("conditional") else 0)
    assert all(math.isfinite(results[f"test_{name}"]) for name in BOUNDS)
    if settings.get("prior") == "uniform":
        assert results["test_rate"] == pytest.approx(16 * math.log(12), rel=1e-5)
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert all(each in card for each in words)


def test_codes_that_are_drawn_alike_have_no_temperature(train_vqvae, no_pictures, tmp_path):
    run(train_vqvae, tmp_path, prior="uniform", temperature=0.1)
    caption = Image.open(tmp_path / "samples.png").text["Description"]
    assert caption.startswith("200 samples; vqvae on digits")
    assert "temperature" not in caption + (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("use_ema", [False, pytest.param(True, marks=pytest.mark.long)])
def test_dropout_is_of_the_training_alone(train_vqvae, no_pictures, tmp_path, use_ema, monkeypatch):
    modes, log_prob = [], Prior.log_prob

    def noted(prior, *args):
        modes.append((torch.is_grad_enabled(), prior.training))
        return log_prob(prior, *args)

    monkeypatch.setattr(Prior, "log_prob", noted)
    settings = {"prior_dropout": 0.9, "codebook_size": 2, "use_ema": use_ema, "eval_steps": 1}
    results = run(train_vqvae, tmp_path, **settings)
    assert set(modes) == {(True, True), (False, False)} and modes.count((True, True)) == 4
    _, test_set, _ = load_images().binarized("dynamic", 0, 0)
    model = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        bound = model.negative_bound(**test_set.batch(torch.arange(len(test_set))))[0].mean().item()
    assert results["test_negative_bound"] == pytest.approx(bound, rel=1e-5)


def test_some_steps_are_of_codes(train_vqvae, no_pictures, tmp_path, monkeypatch):
    """Also where the run is shorter than the steps before them."""
    quantized, forward = [], Autoencoder.forward

    def noted(model, pixel_values, quantize=True):
        quantized.append(quantize)
        return forward(model, pixel_values, quantize)

    monkeypatch.setattr(Autoencoder, "forward", noted)
    run(train_vqvae, tmp_path, num_continuous_steps=150, prior="uniform")
    assert quantized == [False] * 4 + [True] * 4


@pytest.mark.long
def test_samples_of_a_conditional_model_show_each_class(train_vqvae, no_pictures, tmp_path):
    run(train_vqvae, tmp_path, conditional=True)
    model, labels = AutoModel.from_pretrained(tmp_path), torch.arange(10).repeat_interleave(20)
    expected = model.sample(200, labels=labels, generator=torch.Generator().manual_seed(0))[:, 0]
    samples = tiles_of(tmp_path / "samples.png", columns=20) / 255
    torch.testing.assert_close(samples, expected, atol=1 / 254, rtol=0)


@pytest.mark.long
@pytest.mark.parametrize("use_ema", [False, True], ids=["", "averaged"])
def test_the_prior_is_trained_on_codes_that_stay(train_vqvae, no_pictures, tmp_path, use_ema):
    run(train_vqvae, tmp_path / "codes", prior_share=0.0, use_ema=use_ema, max_train_steps=10)
    flags = {"model_name_or_path": str(tmp_path / "codes"), "learning_rate": 1e-2, "lr_warmup_steps": 0}
    flags |= {"use_ema": use_ema, "ema_decay": 0.9, "max_train_steps": 30}
    results = run(train_vqvae, tmp_path / "prior", seed=1, prior_share=1.0, **flags)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("codes", "prior"))
    changed = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"prior"}
    earlier = json.loads((tmp_path / "codes" / "all_results.json").read_text())
    assert results["test_distortion"] == earlier["test_distortion"]
    assert results["test_rate"] < earlier["test_rate"] - 1
    assert all(record.keys() == {"rate", "step"} for record in history(tmp_path / "prior"))


@pytest.mark.long
def test_stopped_and_resumed_equals_uninterrupted(train_vqvae, no_pictures, tmp_path):
    everything = {"gradient_accumulation_steps": 2, "max_grad_norm": 50.0, "conditional": True, "lr_warmup_steps": 3}
    everything |= {
        "prior_share": 0.3,
        "prior_dropout": 0.3,
        "checkpointing_steps": 3,
        "checkpoints_total_limit": 4,
        "max_train_steps": 12,
    }
    run(train_vqvae, tmp_path / "straight", **everything)
    assert sum(record.get("restarted", 0) for record in history(tmp_path / "straight")) > 0
    folder = stopped_at(tmp_path / "straight", 6, tmp_path / "resumed")
    for path in folder.iterdir():
        if path.name not in ("checkpoints", "history.jsonl", ".made.jsonl"):
            path.unlink() if path.is_file() else None
    run(train_vqvae, folder, resume_from_checkpoint="latest", **everything)
    same_run(tmp_path / "straight", folder, 12)


@pytest.mark.long
def test_two_processes_equal_one(train_vqvae, no_pictures, tmp_path):
    """Also the counts of uses, the averaged codes and those that begin anew are of the images of both."""
    settings = SMALL | {"max_train_steps": 12, "logging_steps": 1, "eval_batch_size": 40, "conditional": True}
    settings |= {"gradient_accumulation_steps": 2}
    by_one_and_by_two(train_vqvae, types_of(train_vqvae), tmp_path, settings)
    assert sum(record.get("restarted", 0) for record in history(tmp_path / "one")) > 0
    for first, second in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert first.keys() == second.keys()
        for name in first.keys() - {"perplexity"}:  # that of a batch is the mean over its parts
            assert first[name] == pytest.approx(second[name], rel=1e-3), name
    weights = [load_file(checkpoint(tmp_path / name, 12) / "model.safetensors") for name in ("one", "two")]
    for name in (f"autoencoder.codebook.{each}" for each in ("counts", "sums", "embeddings")):
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-4)
    first, second = results_but_times(tmp_path / "one"), results_but_times(tmp_path / "two")
    for name in (*(f"test_{each}" for each in BOUNDS), "test_codes_used", "test_perplexity", "train_steps"):
        assert first[name] == pytest.approx(second[name], rel=1e-3), name


@pytest.mark.long
def test_a_trained_model_is_tested_without_training(train_vqvae, no_pictures, tmp_path):
    before = run(train_vqvae, tmp_path / "a")
    after = run(train_vqvae, tmp_path / "b", max_train_steps=0, model_name_or_path=str(tmp_path / "a"))
    assert after["test_negative_bound"] == before["test_negative_bound"]
    assert "without further training" in " ".join((tmp_path / "b" / "README.md").read_text().split())


def test_each_part_ends_its_own_schedule(train_vqvae, no_pictures, tmp_path):
    run(train_vqvae, tmp_path, lr_scheduler="linear", lr_warmup_steps=0)
    for part in ("autoencoder", "prior"):
        (group,) = state_of(tmp_path, 8)["objects"][f"{part}_optimizer"]["param_groups"]
        assert group["lr"] == pytest.approx(0)

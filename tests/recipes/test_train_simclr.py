"""What a run of train_simclr.py leaves, that it learns, and that it goes on as if nothing had been."""

import functools
import json
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
    standardisation_is_compared,
    stopped_at,
    tiles_of,
)
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForImageClassification

from hwzoo import metrics, training
from hwzoo.data import NUM_NOISE, augment, load_images
from hwzoo.metrics import representation

RECIPE = Path(__file__).parents[2] / "recipes" / "train_simclr.py"
launch = functools.partial(recipe_runs.launch, RECIPE)
SMALL = {
    "hidden_sizes": [4, 6, 8],
    "projection_hidden_size": 8,
    "projection_size": 6,
    "predictor_hidden_size": 4,
    "train_batch_size": 20,
    "max_train_steps": 8,
    "lr_warmup_steps": 2,
    "logging_steps": 2,
    "eval_steps": 4,
    "supervised_steps": 3,
    "num_draws": 3,
}
NAMES = ["this model", "untrained encoder", "encoder trained with all labels", "raw pixels", "principal components"]


def types_of(recipe) -> list[type]:
    return [recipe.Run, recipe.Model, recipe.Views, recipe.Protocol]


def run(recipe, folder: Path, **settings) -> dict:
    """A small run."""
    return run_with(recipe, types_of(recipe), {**SMALL, "output_dir": str(folder), **settings})


@pytest.fixture
def quick(monkeypatch):
    """Pictures and probes are most of a small run's time."""
    for name in ("save_panels", "save_rows", "save_bar_panels"):
        monkeypatch.setattr(training, name, lambda *args, **kwargs: None)
    monkeypatch.setattr(representation, "MAX_ITERATIONS", 3)
    monkeypatch.setattr(representation, "NUM_TO_CHOOSE", 20)  # too few of a class to choose


def test_what_a_run_leaves(train_simclr, tmp_path, monkeypatch):
    monkeypatch.setattr(representation, "MAX_ITERATIONS", 20)
    draws = []
    original = metrics.compare_features
    monkeypatch.setattr(metrics, "compare_features", lambda *a, **k: draws.append(k["num_draws"]) or original(*a, **k))
    results = run(train_simclr, tmp_path)
    assert draws == [2, 3]  # of the rehearsal, and as said
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    for words in ("digits: all 297 test images", "1500 others", "standard error of 3 draws", "cosine similarity"):
        assert words in results["protocol"]
    data = load_images("digits")
    images, labels = data.test.pixel_values(), data.test.labels
    model, encoder = AutoModelForImageClassification.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        accuracy = (model(images).logits.argmax(1) == labels).double().mean().item()
        features, train = encoder(images).pooler_output, encoder(data.train.pixel_values()).pooler_output
    assert results["test_linear_accuracy"] == pytest.approx(accuracy)
    neighbours = metrics.neighbor_accuracy((train, data.train.labels), (features, labels))
    assert results["test_knn_accuracy"] == pytest.approx(neighbours)
    assert results["test_effective_rank"] == pytest.approx(metrics.effective_rank(features), rel=1e-3)
    noise = torch.rand(297, 2, NUM_NOISE, generator=torch.Generator().manual_seed(0))
    views = [augment(images, noise[:, each], train_simclr.Views()) for each in (0, 1)]
    with torch.no_grad():
        expected = metrics.sphere_scores(*(encoder(each).projections for each in views))
    assert {name: results[f"test_{name}"] for name in expected} == pytest.approx(expected, rel=1e-3)

    assert list(results["accuracies"]) == NAMES and results["supervised_steps"] == 3
    own = results["accuracies"]["this model"]
    assert {f"test_{name}": value for name, value in own.items()}.items() <= results.items()
    assert results["remark"].splitlines()[1].startswith("this model") and len(results["remark"].splitlines()) == 6
    assert results["accuracies"]["raw pixels"]["knn_accuracy"] == pytest.approx(0.936, abs=0.03)

    records = history(tmp_path)
    assert [each["step"] for each in records] == [2, 4, 4, 6, 8, 8]
    assert records[2].keys() == {"step", "eval_knn_accuracy"}
    assert records[0].keys() == {"step", "loss", "projection_std"}

    shown = tiles_of(tmp_path / "views.png", columns=20)
    assert shown.shape == (60, 28, 28)
    some = data.test.spread(20)
    assert torch.equal(shown[:20], some.images[:, 0])
    noise = torch.rand(20, 2, NUM_NOISE, generator=torch.Generator().manual_seed(0))
    first = augment(some.pixel_values(), noise[:, 0], train_simclr.Views())[:, 0]
    torch.testing.assert_close(shown[20:40] / 255, first, atol=1 / 254, rtol=0)
    nearest = tiles_of(tmp_path / "neighbors.png", columns=20)
    by_pixels = F.normalize(some.pixel_values().flatten(1)) @ F.normalize(data.train.pixel_values().flatten(1)).T
    assert torch.equal(nearest[40:], data.train.images[by_pixels.argmax(1), 0])
    for name in ("curves.png", "probes.png"):
        assert Image.open(tmp_path / name).width > 300
    card = " ".join((tmp_path / "README.md").read_text().split())
    for words in ("SimCLR (Chen et al.", "temperature 0.2", "32 features", "| raw pixels |", "views.png"):
        assert words in card
    assert card.endswith("a subject of study; the table above has an encoder trained with the labels beside it.")
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.long
def test_training_learns(train_simclr, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(representation, "MAX_ITERATIONS", 50)
    sizes = {
        "hidden_sizes": [8, 16, 32],
        "pool_size": 1,
        "projection_hidden_size": 32,
        "projection_size": 16,
        "supervised_steps": 0,
    }
    results = run(train_simclr, tmp_path, **sizes, max_train_steps=150, train_batch_size=64, learning_rate=5e-3)
    assert list(results["accuracies"]) == [name for name in NAMES if name != "encoder trained with all labels"]
    assert "supervised_steps" not in results
    trained, untrained = (results["accuracies"][name] for name in ("this model", "untrained encoder"))
    assert trained["linear_accuracy"] > untrained["linear_accuracy"] + 0.02
    assert trained["few_labels_accuracy"] > untrained["few_labels_accuracy"] + 0.05
    losses = [record["loss"] for record in history(tmp_path) if "loss" in record]
    assert losses[0] > 4.4 and losses[-1] < 3.6
    assert results["test_projection_std"] > 0.7


@pytest.mark.long
@pytest.mark.parametrize("stop_gradient", [True, False], ids=["", "collapses"])
def test_simsiam_collapses_without_its_stop_gradient(train_simclr, quick, tmp_path, stop_gradient):
    flags = {"loss": "simsiam", "stop_gradient": stop_gradient, "supervised_steps": 0, "mixed_precision": "bf16"}
    results = run(train_simclr, tmp_path, **flags, max_train_steps=80, learning_rate=3e-2, projection_size=16)
    assert (results["test_projection_std"] < 0.1) != stop_gradient
    assert (results["test_projection_std"] > 0.4) == stop_gradient
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert card.endswith("It is a subject of study.")  # no encoder was trained with labels
    assert ("SimSiam" in card) and (f"{'with' if stop_gradient else 'without'} its stop-gradient" in card)


def test_tests_are_in_float32_after_training_in_bfloat16(train_simclr, quick, tmp_path):
    trained = run(train_simclr, tmp_path / "a", mixed_precision="bf16", supervised_steps=0)
    given = {"model_name_or_path": str(tmp_path / "a"), "max_train_steps": 0, "supervised_steps": 0}
    tested = run(train_simclr, tmp_path / "b", **given)
    for name in ("test_alignment", "test_uniformity", "test_projection_std", "test_effective_rank"):
        assert trained[name] == pytest.approx(tested[name], rel=1e-5), name


@pytest.mark.long
@pytest.mark.parametrize("loss", ["nt_xent", "simsiam"])
def test_stopped_and_resumed_equals_uninterrupted(train_simclr, quick, tmp_path, loss):
    everything = {"gradient_accumulation_steps": 2, "max_grad_norm": 5.0, "use_ema": True, "lr_scheduler": "cosine"}
    everything |= {"checkpointing_steps": 3, "checkpoints_total_limit": 4, "max_train_steps": 12, "mirror": True}
    everything |= {"loss": loss, "predictor": "fixed", "train_batch_size": 10}
    run(train_simclr, tmp_path / "straight", **everything)
    folder = stopped_at(tmp_path / "straight", 6, tmp_path / "resumed")
    run(train_simclr, folder, resume_from_checkpoint="latest", **everything)
    same_run(tmp_path / "straight", folder, 12)


@pytest.mark.long
def test_two_processes_equal_one(train_simclr, quick, tmp_path):
    """Also the normalisation and the comparison of views are of the images of both."""
    small = SMALL | {"max_train_steps": 6, "logging_steps": 1, "eval_batch_size": 300}
    settings = {**small, "learning_rate": 1e-3, "lr_scheduler": "constant", "lr_warmup_steps": 0}
    settings |= {"checkpointing_steps": 1, "checkpoints_total_limit": 6}
    by_one_and_by_two(train_simclr, types_of(train_simclr), tmp_path, settings)
    for first, second in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert first.keys() == second.keys()
        for name in first.keys() - {"projection_std", "eval_knn_accuracy"}:  # a spread is that of each part
            assert first[name] == pytest.approx(second[name], rel=1e-3), name
    # After a step but for rounding; how far that has grown after six is a matter of the processor.
    for step, tolerance in ((1, {"rtol": 1e-4, "atol": 1e-5}), (6, {"rtol": 1e-2, "atol": 5e-3})):
        weights = [load_file(checkpoint(tmp_path / name, step) / "model.safetensors") for name in ("one", "two")]
        for name, value in weights[0].items():
            if "running" in name:
                torch.testing.assert_close(value, weights[1][name], **tolerance)
    first, second = results_but_times(tmp_path / "one"), results_but_times(tmp_path / "two")
    for name in ("test_alignment", "test_uniformity", "test_projection_std", "test_effective_rank"):
        assert first[name] == pytest.approx(second[name], rel=0.1), name


@pytest.mark.long
def test_a_trained_model_is_tested_without_training(train_simclr, quick, tmp_path):
    before = run(train_simclr, tmp_path / "a")
    after = run(train_simclr, tmp_path / "b", max_train_steps=0, model_name_or_path=str(tmp_path / "a"))
    for name in ("test_knn_accuracy", "test_linear_accuracy", "test_alignment", "test_effective_rank"):
        assert after[name] == pytest.approx(before[name], rel=1e-5)
    assert "without further training" in " ".join((tmp_path / "b" / "README.md").read_text().split())


def test_a_run_from_a_trained_model_is_not_resumed_under_another_standardisation(train_simclr, quick, tmp_path):
    standardisation_is_compared(functools.partial(run, train_simclr), tmp_path)

"""What compare_checkpoints.py leaves of a run of train_gan.py, and what it refuses."""

import json
import shutil

import pytest
import torch
from PIL import Image
from recipe_runs import load_recipe, run_with, save_classifier
from safetensors.torch import load_file

from hwzoo import hub, metrics
from hwzoo.data import load_images
from hwzoo.models import GANModel

TINY = {"max_train_steps": 6, "checkpointing_steps": 2, "checkpoints_total_limit": 5, "logging_steps": 1}
TINY |= {"train_batch_size": 10, "latent_size": 4, "generator_hidden_size": 12, "generator_channels": [8, 4]}
TINY |= {"discriminator_channels": [4, 6], "discriminator_hidden_size": 10, "num_test_samples": 8, "use_ema": True}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "gan"
    recipe = load_recipe("train_gan")
    types = [each for each in recipe.main.__annotations__.values() if each is not dict]
    run_with(recipe, types, TINY | {"output_dir": str(folder), "conditional": True, "grid_steps": None})
    return folder


@pytest.fixture
def recipe():
    return load_recipe("compare_checkpoints")


def test_losses_are_drawn_from_the_first_checkpoint_that_has_them(recipe):
    rows = [{"step": step, "fid": None, "separation": {"noise": {"auroc": 1.0}}} for step in (20, 60, 80)]
    for row, loss in zip(rows[1:], (1.0, 3.0), strict=True):
        row |= {"discriminator_loss": loss, "generator_loss": loss + 1}
    panels = recipe.panels(rows)
    assert list(panels) == ["loss", "told apart (AUROC)"]
    assert panels["loss"] == {
        "discriminator loss": ([60, 80], [1.0, 3.0], ".-"),
        "generator loss": ([60, 80], [2.0, 4.0], ".-"),
    }
    assert list(recipe.panels(rows[:1])) == ["told apart (AUROC)"]


def test_what_a_run_leaves(recipe, trained, tmp_path, capsys):
    out = tmp_path / "out"
    results = recipe.main(recipe.Settings(model_name_or_path=str(trained), num_samples=40, output_dir=str(out)))
    assert json.loads((out / "all_results.json").read_text()) == results
    rows = results["checkpoints"]
    assert [row["step"] for row in rows] == [2, 4, 6]
    history = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    for row in rows:
        (logged,) = (each for each in history if each["step"] == row["step"] and "generator_loss" in each)
        assert row["generator_loss"] == logged["generator_loss"] and row["fid"] > 0
        assert list(row["separation"]) == ["own samples", "training images", "black and white exchanged", "noise"]
    # by hand, with the weights of the second checkpoint, not those that were saved
    model = GANModel.from_pretrained(trained).eval()
    model.load_state_dict(load_file(trained / "checkpoints" / "step-00000004" / "model.safetensors"))
    test = load_images("digits", None).test
    chosen = torch.arange(40) * len(test) // 40
    real, labels = test.pixel_values(chosen), test.labels[chosen]
    with torch.no_grad():
        logits = model.discriminator(real, labels), model.discriminator(1 - real, labels)
    expected = (logits[0][:, None] > logits[1]).double().mean().item()
    assert rows[1]["separation"]["black and white exchanged"]["auroc"] == pytest.approx(expected, abs=1e-3)
    with Image.open(out / "checkpoints.png") as image:
        assert len(image.convert("RGB").getcolors(1_000_000)) > 20
    assert "step 4: FID " in capsys.readouterr().out and "40 test images" in results["protocol"]


def test_other_data_and_another_classifier(recipe, trained, tmp_path):
    given = {"others": ["digits"], "classifier": save_classifier(tmp_path / "classifier"), "num_samples": 20}
    results = recipe.main(recipe.Settings(model_name_or_path=str(trained), output_dir=str(tmp_path / "out"), **given))
    # the same test images: half of the pairs, ties counted half
    assert results["checkpoints"][0]["separation"]["digits"]["auroc"] == pytest.approx(0.5)


def test_the_protocol_counts_what_is_compared(recipe, trained, tmp_path):
    given = {"classifier": save_classifier(tmp_path / "classifier"), "output_dir": str(tmp_path / "out")}
    protocol = recipe.main(recipe.Settings(model_name_or_path=str(trained), **given))["protocol"]
    counts = "own samples: 297, training images: 1500, black and white exchanged: 297, noise: 297"
    assert f"297 test images above the others ({counts})" in protocol


def test_mistakes_are_one_line(recipe, trained, tmp_path, command_line):
    colour = tmp_path / "colour"
    for split in ("train", "test"):
        for label in "01":
            (colour / split / label).mkdir(parents=True)
            Image.new("L", (30, 30)).save(colour / split / label / "a.png")
    alone = tmp_path / "alone"
    shutil.copytree(trained, alone, ignore=shutil.ignore_patterns("checkpoints"))
    stopped = tmp_path / "stopped"
    shutil.copytree(trained / "checkpoints", stopped / "checkpoints")
    for flags, words in (
        ([str(stopped)], f"--model_name_or_path {stopped}: a run that was stopped has no model yet; "),
        ([], "--model_name_or_path is missing"),
        ([str(alone)], f"--model_name_or_path {alone} has no checkpoints/step-"),
        ([str(trained), "--others", str(colour)], f"--others {colour}: "),
        ([str(trained), "--num_samples=2"], "--num_samples is 2; it must be in [4, inf)"),
    ):
        status, error = command_line(recipe, *flags, f"--output_dir={tmp_path / 'out'}")
        assert status == 2 and words in error and error.count("\n") == 1, error
    step = trained.parent / "torn"
    shutil.copytree(trained, step)
    (step / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"no")
    status, error = command_line(recipe, str(step), f"--output_dir={tmp_path / 'torn'}", "--num_samples=8")
    assert status == 1 and "step-00000004" in error and error.count("\n") == 1, error


def test_a_vae_has_no_discriminator(recipe, tmp_path, command_line):
    from hwzoo import VAEConfig, VAEModel

    hub.save(VAEModel(VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8])), tmp_path / "vae")
    (tmp_path / "vae" / "checkpoints" / "step-00000001").mkdir(parents=True)
    status, error = command_line(recipe, str(tmp_path / "vae"), f"--output_dir={tmp_path / 'out'}")
    assert status in (1, 2) and str(tmp_path / "vae") in error and error.count("\n") == 1, error


def test_separation_counts_pairs_and_its_error_is_their_spread():
    generator = torch.Generator().manual_seed(0)
    higher, lower = torch.randn(300, generator=generator) + 1, torch.randn(200, generator=generator)
    found = metrics.separation(higher, lower)
    assert found["auroc"] == pytest.approx((higher[:, None] > lower).double().mean().item())
    assert found["auroc"] == pytest.approx(0.7602, abs=3 * found["standard_error"])  # Phi(1 / sqrt 2)
    areas = []
    for _ in range(200):
        pair = torch.randn(300, generator=generator) + 1, torch.randn(200, generator=generator)
        areas.append(metrics.separation(*pair)["auroc"])
    assert torch.tensor(areas).std().item() == pytest.approx(found["standard_error"], rel=0.2)
    assert metrics.separation(torch.ones(4), torch.ones(3))["auroc"] == 0.5
    far = metrics.separation(torch.tensor([40.0, 41]), torch.tensor([30.0, 31]))  # a sigmoid is 1 of all of them
    assert far == {"auroc": 1, "standard_error": 0}

"""What estimate_divergence.py leaves, and that its estimates are those that closed forms give."""

import json
import math
from pathlib import Path

import pytest
import torch
import warm
from PIL import Image
from recipe_runs import load_recipe, results_but_times

from hwzoo import metrics, training
from hwzoo.errors import HwzooError
from hwzoo.models.gan.losses_gan import LOSSES
from hwzoo.training import parse_arguments

SMALL = {"max_train_steps": 3, "train_batch_size": 8, "num_eval_samples": 50}
KEYS = {
    "jsd", "wasserstein", "jsd_max_error", "wasserstein_max_error", "density_jsd", "density_jsd_truth",
    "density_total_variation", "value_trained", "value_optimal", "value_from_jsd", "generator_gradient",
    "generator_gradient_max_error", "train_runtime", "protocol",
}  # fmt: skip
PICTURES = {"jsd.png": 600, "wasserstein.png": 600, "density_ratio.png": 1200, "vanishing_gradient.png": 600}
JSD_OF_DENSITIES = 0.0874573  # nats; tests/metrics/test_divergence.py finds it in two ways


@pytest.fixture
def recipe():
    return load_recipe("estimate_divergence")


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing them is most of a small run's time."""
    monkeypatch.setattr(training, "save_functions", lambda *args, **kwargs: None)


def run(recipe, folder: Path, **settings) -> dict:
    return recipe.main(recipe.Settings(output_dir=str(folder), **SMALL | settings))


def numbers_in(results) -> list[float]:
    """All of them, however nested."""
    if isinstance(results, dict):
        return [number for value in results.values() for number in numbers_in(value)]
    return [results] if isinstance(results, float) else []


def within_the_bands(results: dict, truth_at: list[float]):
    """Those that the README promises."""
    for phi in truth_at:
        assert results["jsd"][str(phi)] == pytest.approx(math.log(2) if phi else 0, abs=0.01), phi
        assert results["wasserstein"][str(phi)] == pytest.approx(abs(phi), abs=0.05), phi
    assert 0 <= results["jsd_max_error"] < 0.01 and 0 <= results["wasserstein_max_error"] < 0.05
    assert results["density_jsd"] == pytest.approx(JSD_OF_DENSITIES, abs=0.01)


# What a run leaves


def test_what_a_run_leaves(recipe, tmp_path, capsys):
    results = run(recipe, tmp_path, seed=3)
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    assert results.keys() == KEYS
    phis = [f"{phi:.1f}" for phi in torch.linspace(-1, 1, 21).tolist()]
    assert [phi.replace("-0.0", "0.0") for phi in phis] == list(results["jsd"]) == list(results["wasserstein"])
    numbers = numbers_in(results)
    assert len(numbers) == 21 + 21 + 2 + 10 and all(map(math.isfinite, numbers))
    for words in (
        "on 50 fresh samples of each of the two distributions (400 for density_jsd", "after 3 steps of 8 samples",
        "(64), seed 3", "penalty of weight 50", "quadrature on 3201 points",
    ):  # fmt: skip
        assert words in results["protocol"], words
    for name, width in PICTURES.items():
        with Image.open(tmp_path / name) as image:
            assert image.width == width and len(image.convert("RGB").getcolors(100_000)) > 20, name
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"all_results.json", "preset.yaml", *PICTURES}
    (again,) = parse_arguments([recipe.Settings], [f"--config={tmp_path / 'preset.yaml'}"])
    assert {name: getattr(again, name) for name in SMALL} == SMALL and again.seed == 3
    printed = capsys.readouterr().out
    assert f"phi -0.7: JSD {results['jsd']['-0.7']:.4f} nats" in printed and f"are in {tmp_path}" in printed


def test_the_errors_are_the_largest_ones(recipe, no_pictures, tmp_path):
    results = run(recipe, tmp_path)
    jsd = [abs(value - math.log(2) * (phi != "0.0")) for phi, value in results["jsd"].items()]
    wasserstein = [abs(value - abs(float(phi))) for phi, value in results["wasserstein"].items()]
    assert results["jsd_max_error"] == pytest.approx(max(jsd)) and max(jsd) > 0.5  # hardly trained
    assert results["wasserstein_max_error"] == pytest.approx(max(wasserstein)) and max(wasserstein) > 0.5
    assert results["value_trained"] == pytest.approx(2 * results["density_jsd"] - math.log(4))


def test_the_seed_decides(recipe, no_pictures, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(recipe, tmp_path / name, seed=seed)
    first, second, other = (results_but_times(tmp_path / name) for name in "abc")
    assert first == second
    assert all(first[name] != other[name] for name in ("jsd", "wasserstein", "density_jsd", "value_optimal"))


def test_the_densities_have_eight_times_the_samples(recipe, no_pictures, monkeypatch, tmp_path):
    asked, train = [], metrics.train_discriminators

    def watched(*args, name, batch_size, **kwargs):
        asked.append((name, batch_size))
        return train(*args, name=name, batch_size=batch_size, **kwargs)

    monkeypatch.setattr(metrics, "train_discriminators", watched)
    run(recipe, tmp_path)
    assert asked == [("minimax", 8), ("wasserstein_gp", 8), ("minimax", 64)]


@pytest.mark.long
def test_a_few_seconds_reach_the_truth(recipe, no_pictures, monkeypatch, tmp_path):
    """Three phi in place of 21, and smaller batches; the bands are those of the full run."""
    monkeypatch.setattr(recipe, "PHIS", [-0.5, 0.0, 1.0])
    results = run(recipe, tmp_path, max_train_steps=400, train_batch_size=64, num_eval_samples=10_000)
    within_the_bands(results, [-0.5, 0.0, 1.0])
    # The sampled slope of the best critic is above 1 by |phi| / (2 weight).
    assert results["wasserstein"]["1.0"] == pytest.approx(metrics.penalised_wasserstein(1, 50), abs=0.005)
    assert results["value_trained"] < results["value_optimal"] < results["value_trained"] + 0.02
    assert results["value_optimal"] == pytest.approx(results["value_from_jsd"], abs=0.01)
    assert results["density_total_variation"] < 0.06
    gradient = results["generator_gradient"]
    assert gradient["minimax"] < 0.02 and 0.98 < gradient["non_saturating"] < 1
    assert results["generator_gradient_max_error"] < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_defaults_reach_the_bands(seed, recipe, tmp_path):
    results = recipe.main(recipe.Settings(output_dir=str(tmp_path), seed=seed))
    assert len(recipe.PHIS) == 21
    within_the_bands(results, recipe.PHIS)
    assert results["value_optimal"] == pytest.approx(results["value_from_jsd"], abs=0.005)
    assert results["value_trained"] == pytest.approx(results["value_optimal"], abs=0.005)
    assert results["density_total_variation"] < 0.02


@pytest.mark.parametrize("loss", ["minimax", "non_saturating"])
def test_the_gradients_that_it_draws_are_those_of_the_losses(loss, recipe):
    logits = torch.tensor([-30.0, -4.0, 0.0, 2.0], dtype=torch.float64)
    measured = metrics.logit_gradient(LOSSES[loss].generator, logits)
    assert torch.allclose(recipe.GRADIENTS[loss](logits.sigmoid()), measured, rtol=1e-9)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max_train_steps", "-1"], "--max_train_steps is -1; it must be in [1, inf)"),
        (["--max_train_steps=0"], "--max_train_steps is 0; it must be in [1, inf)"),
        (["--train_batch_size=0"], "--train_batch_size is 0; it must be in [1, inf)"),
        (["--num_eval_samples=0"], "--num_eval_samples is 0; it must be in [1, inf)"),
        (["--gradient_penalty_weight=0"], "--gradient_penalty_weight is 0.0; it must be in (0, inf)"),
        (["--gradient_penalty_weight=nan"], "--gradient_penalty_weight is nan; it must be in (0, inf)"),
        (["--learning_rate", "nan"], "--learning_rate is nan; it must be in (0, inf)"),
        (["--learning_rate", "-1e-3"], "--learning_rate is -0.001; it must be in (0, inf)"),
        (["--seed=-1"], "--seed is -1; it must be in [0, 4294967295]"),
        (["--max_train_steps", "ten"], "--max_train_steps: invalid int value: 'ten'"),
        (["--penalty=3"], "--penalty is not a flag of this recipe"),
        (["--config=nothere.yaml"], "--config nothere.yaml"),
    ],
)
def test_one_line_and_status_two(arguments, words, recipe, command_line, tmp_path):
    status, error = command_line(recipe, f"--output_dir={tmp_path / 'run'}", *arguments)
    assert status == 2
    assert len(error.splitlines()) == 1 and error.startswith("error: ") and words in error
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_overwritten_unasked(recipe, no_pictures, command_line, tmp_path):
    flags = [f"--output_dir={tmp_path}", *(f"--{name}={value}" for name, value in SMALL.items())]
    assert command_line(recipe, *flags)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    status, error = command_line(recipe, *flags)
    assert status == 2 and len(error.splitlines()) == 1
    assert f"error: --output_dir {tmp_path} is not empty; give --overwrite_output_dir or another folder" in error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert command_line(recipe, *flags, "--overwrite_output_dir", "--seed=1")[0] == 0
    assert (tmp_path / "all_results.json").read_bytes() != before["all_results.json"]


def test_a_folder_that_cannot_be_made_is_named(recipe, command_line, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, error = command_line(recipe, f"--output_dir={tmp_path / 'file' / 'run'}")
    assert status == 1 and len(error.splitlines()) == 1
    assert f"--output_dir {tmp_path / 'file' / 'run'} cannot be written" in error


def test_a_loss_that_is_not_finite_stops_the_run(recipe, no_pictures, tmp_path):
    with pytest.raises(HwzooError, match=r"the loss of minimax is (nan|inf) at step \d+; a smaller --learning_rate"):
        run(recipe, tmp_path, learning_rate=1e30, max_train_steps=20)
    assert not list(tmp_path.iterdir())
    with pytest.raises(HwzooError, match=r"the weights of minimax are not finite after step 1; a smaller --learning_"):
        run(recipe, tmp_path, learning_rate=1e39, max_train_steps=1)


@pytest.mark.long
def test_help_as_from_the_command_line(recipe):
    done = warm.run([recipe.__file__, "--help"])
    assert done.returncode == 0, done.stderr
    assert "python recipes/estimate_divergence.py --seed 1" in done.stdout
    assert "--gradient_penalty_weight (0, inf)" in done.stdout

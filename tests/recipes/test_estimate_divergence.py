"""What estimate_divergence.py leaves, and that its estimates are those that closed forms give."""

import json
import math
import sys
from pathlib import Path

import pytest
import recipe_runs
import torch
from PIL import Image
from recipe_runs import load_recipe, results_but_times

from hwzoo import metrics, training
from hwzoo.models.gan.losses_gan import LOSSES, gradient_penalty
from hwzoo.training import NonFiniteLoss, parse_arguments

SMALL = {"max_train_steps": 3, "train_batch_size": 8, "num_eval_samples": 50}
KEYS = {
    "jsd", "wasserstein", "jsd_max_error", "wasserstein_max_error", "density_jsd", "density_jsd_truth",
    "density_total_variation", "value_trained", "value_optimal", "value_from_jsd", "generator_gradient",
    "generator_gradient_max_error", "train_runtime", "protocol",
}  # fmt: skip
PICTURES = {"jsd.png": 480, "wasserstein.png": 480, "density_ratio.png": 960, "vanishing_gradient.png": 480}
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


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


# Its parts


def test_the_pairs_of_distributions(recipe):
    still, shifted = recipe.segments(1000, seeded())
    assert still.shape == shifted.shape == (21, 1000, 2)
    assert (still[..., 0] == 0).all()
    assert torch.equal(shifted[..., 0], torch.tensor(recipe.PHIS)[:, None].expand(-1, 1000))
    heights = torch.stack([still[..., 1], shifted[..., 1]]).flatten(0, 1)
    assert heights.min() >= 0 and heights.max() < 1
    assert (heights.mean(1) - 0.5).abs().max() < 0.05 and (heights.var(1) - 1 / 12).abs().max() < 0.01
    assert torch.corrcoef(heights).fill_diagonal_(0).abs().max() < 0.15  # each drawn anew
    warped, normal = recipe.warped_and_normal(100_000, seeded())
    assert warped.shape == normal.shape == (1, 100_000, 1)
    assert normal.mean().abs() < 0.02 and (normal.std() - 1).abs() < 0.02
    assert metrics.unwarp(warped).mean().abs() < 0.02 and (metrics.unwarp(warped).std() - 1).abs() < 0.02
    assert torch.corrcoef(torch.cat([metrics.unwarp(warped)[0].T, normal[0].T.double()]))[0, 1].abs() < 0.02


def test_the_best_discriminator_on_fresh_samples_has_the_divergence(recipe):
    (value,), logits = recipe.evaluate("minimax", recipe.optimal_logits, *recipe.warped_and_normal(400_000, seeded()))
    assert logits.shape == (1, 400_000)
    assert math.log(2) + value / 2 == pytest.approx(JSD_OF_DENSITIES, abs=0.002)
    assert value == pytest.approx(-math.log(4) + 2 * JSD_OF_DENSITIES, abs=0.004)


def test_estimates_of_discriminators_that_are_known(recipe, monkeypatch):
    monkeypatch.setattr(recipe, "CHUNK", 300)  # the samples do not fill the last
    real, fake = recipe.segments(1000, seeded())
    shifts = torch.tensor(recipe.PHIS)[:, None]
    undecided, logits = recipe.evaluate("minimax", lambda points: 0 * points[..., 0], real, fake)
    assert undecided == pytest.approx([-2 * math.log(2)] * 21) and (logits == 0).all() and logits.shape == (21, 1000)
    # 1-Lipschitz, and as steep as it may be in the direction of the shift.
    distances, _ = recipe.evaluate("wasserstein_gp", lambda points: -points[..., 0] * shifts.sign(), real, fake)
    assert distances == pytest.approx([abs(phi) for phi in recipe.PHIS])


def test_the_network_is_that_of_the_course(recipe):
    shapes = [tuple(parameter.shape) for parameter in recipe.mlp(2).parameters()]
    assert shapes == [(64, 2), (64,), (64, 64), (64,), (64, 64), (64,), (1, 64), (1,)]


@pytest.mark.parametrize("loss", ["minimax", "wasserstein_gp"])
def test_stacked_discriminators_learn_as_each_would_alone(loss, recipe):
    """Against the plain loop of one network at a time, on the same samples and from the same weights."""
    shifts, steps, batch_size = [-0.4, 0.1, 0.9], 6, 16

    def draw(num_samples, generator):
        real, fake = torch.rand(2, 3, num_samples, 2, generator=generator)
        return real, fake + torch.tensor(shifts)[:, None, None]

    settings = recipe.Settings(max_train_steps=steps, gradient_penalty_weight=7.0, learning_rate=3e-3)
    torch.manual_seed(0)
    logits, trace = recipe.train(loss, draw, batch_size, settings, seeded(1))
    torch.manual_seed(0)
    networks = [recipe.mlp(2) for _ in shifts]
    optimizers = [torch.optim.Adam(network.parameters()) for network in networks]
    generator = seeded(1)
    draw(1, generator)  # `train` looks at the shapes
    for step in range(1, steps + 1):
        real, fake = draw(batch_size, generator)
        mixing = torch.rand(3 * batch_size, generator=generator) if loss == "wasserstein_gp" else None
        for pair, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - (step - 1) / steps)
            scores = network(real[pair]), network(fake[pair])
            objective = LOSSES[loss].discriminator(*scores)
            if mixing is not None:
                own = mixing[pair * batch_size : (pair + 1) * batch_size]
                penalty = gradient_penalty(lambda x, f=network: f(x).squeeze(-1), real[pair], fake[pair], own)
                objective = objective + 7.0 * min(1, step / (steps / 2)) * penalty
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
            assert trace[step - 1, pair].item() == pytest.approx(scores[1][0].item(), abs=1e-4)
    points, _ = draw(50, generator)
    expected = torch.stack([network(each).squeeze(-1) for network, each in zip(networks, points, strict=True)])
    assert torch.allclose(logits(points), expected, atol=1e-4)
    assert (expected - expected.mean()).abs().max() > 1e-2  # the tolerance tells them apart


@pytest.mark.parametrize("loss", ["minimax", "non_saturating"])
def test_the_gradient_of_a_sample_vanishes_or_does_not(loss, recipe):
    logits = torch.tensor([-30.0, -4.0, 0.0, 2.0], dtype=torch.float64)
    probabilities = 1 / (1 + torch.exp(-logits))
    measured = recipe.generator_gradient(loss, logits)
    expected = {"minimax": probabilities, "non_saturating": 1 - probabilities}[loss]
    assert torch.allclose(measured, expected, rtol=1e-9)
    assert torch.allclose(recipe.GRADIENTS[loss](probabilities), expected)
    assert (measured[0] < 1e-12) == (loss == "minimax")


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
    with pytest.raises(
        NonFiniteLoss, match=r"the loss of minimax is (nan|inf) at step \d+; a smaller --learning_rate"
    ):
        run(recipe, tmp_path, learning_rate=1e30, max_train_steps=20)
    assert not list(tmp_path.iterdir())


def test_help_as_from_the_command_line(recipe):
    process = recipe_runs.start([sys.executable, recipe.__file__, "--help"])
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "python recipes/estimate_divergence.py --seed 1" in out and "--gradient_penalty_weight (0, inf)" in out

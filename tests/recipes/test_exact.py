"""What exact.py leaves."""

import json
import math

import pytest
from PIL import Image
from recipe_runs import load_recipe, results_but_times

from hwzoo.exact import bigram
from hwzoo.training import parse_arguments

SMALL = {"num_eval_samples": 2_000, "num_repeats": 20, "num_rings": 50, "num_languages": 2, "max_train_steps": 3}


@pytest.fixture
def recipe():
    return load_recipe("exact")


def run(recipe, folder, system, **settings) -> dict:
    return recipe.main(recipe.Settings(system=system, output_dir=str(folder), **SMALL | settings))


def test_the_ring(recipe, tmp_path, capsys):
    results = run(recipe, tmp_path, "ring", seed=3)
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    assert list(results["table"]) == ["3", "5", "8", "10"]
    assert results["table"]["10"]["partition"] == pytest.approx(633_555, rel=1e-6)
    assert results["table"]["8"]["negative_log_pseudo_likelihood"][0] == pytest.approx(8 * math.log(3))
    variations = list(results["gibbs_total_variation"].values())
    assert variations[0] > 0.5 and variations[-1] < 2 * results["total_variation_by_chance"]
    estimates = results["coupling_estimates"]
    for each in estimates.values():
        assert each["mean"] == pytest.approx(1, abs=0.06)
    assert estimates["likelihood"]["std"] == pytest.approx(results["likelihood_std"], rel=0.5)
    printed = capsys.readouterr().out
    assert "| 5 | 864.457 | 6.7621 | 1.7621 | 5.4931 | 0.7147 | 3.9578 |" in printed
    assert "J by maximum pseudo-likelihood: " in printed and "seed 3" in results["protocol"]
    assert {path.name for path in tmp_path.iterdir()} == {"all_results.json", "preset.yaml"}
    (again,) = parse_arguments([recipe.Settings], [f"--config={tmp_path / 'preset.yaml'}"])
    assert (again.system, again.seed, again.num_repeats) == ("ring", 3, 20)


def test_the_bigram(recipe, tmp_path, capsys):
    results = run(recipe, tmp_path, "bigram")
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    assert 0.5 < results["sampler_total_variation"] / results["total_variation_by_chance"] < 1.5
    assert list(results["strings_changed"]) == ["1.0", "0.1", "0.01", "0.001"]
    assert list(results["gradients"]) == list(bigram.ESTIMATORS)
    assert results["gradients"]["reinforce"]["bias"] < 3 * results["gradients"]["reinforce"]["bias_error"]
    assert list(results["learned_total_variation"]) == ["counting", "exact", *bigram.ESTIMATORS]
    assert results["learned_total_variation"]["counting"]["mean"] < 0.02
    printed = capsys.readouterr().out
    assert "inverse CDF: total variation" in printed and "learned by counting: total variation 0.0" in printed
    with Image.open(tmp_path / "learned.png") as image:
        assert image.width > 300 and len(image.convert("RGB").getcolors(1_000_000)) > 20
    assert {path.name for path in tmp_path.iterdir()} == {"all_results.json", "preset.yaml", "learned.png"}


@pytest.mark.parametrize("system", ["ring", "bigram"])
def test_the_seed_decides(recipe, system, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(recipe, tmp_path / name, system, seed=seed)
    first, second, other = (results_but_times(tmp_path / name) for name in "abc")
    assert first == second and first != other


def test_what_has_no_finite_number_is_told(recipe, command_line, tmp_path):
    results = run(recipe, tmp_path / "ring", "ring", coupling=5.0, num_rings=200)  # in most sets all are constant
    for each in results["coupling_estimates"].values():
        assert 0 < each["num_finite"] < 10 and 3 < each["mean"] < 5
    results = run(recipe, tmp_path / "none", "ring", coupling=5.0, num_rings=1)
    found = results["coupling_estimates"]["likelihood"]
    assert found["num_finite"] > 0 or found["mean"] == "nan"
    flags = ["--num_eval_samples=2000", "--num_languages=1", "--max_train_steps=3", "--learning_rate=1e300"]
    status, error = command_line(recipe, "bigram", f"--output_dir={tmp_path / 'bigram'}", *flags)
    assert status == 1 and "error: the language learned by exact is not finite; a smaller rate may help" in error


@pytest.mark.slow
def test_the_defaults_reach_their_bands(recipe, tmp_path):
    ring = recipe.main(recipe.Settings(output_dir=str(tmp_path / "ring")))
    assert ring["gibbs_total_variation"]["20"] < 0.01
    assert 1.5 < ring["variance_ratio"] < 2.1
    results = recipe.main(recipe.Settings(system="bigram", output_dir=str(tmp_path / "bigram")))
    learned = {name: number["mean"] for name, number in results["learned_total_variation"].items()}
    assert min(learned, key=learned.get) == "counting" and max(learned, key=learned.get) == "expected one-hot"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["circle"], "--system: invalid choice: 'circle' (choose from"),
        (["ring", "--num_labels", "3", "13"], "--num_labels is 13; it must be in [3, 12]"),
        (["ring", "--coupling=nan"], "--coupling is nan; it must be in [-5, 5]"),
        (["bigram", "--length=6", "--num_symbols=20"], "num_symbols is 20 and length is 6; both are 2 or more"),
        (["bigram", "--num_eval_samples=10"], "--num_eval_samples is 10; it must be in [2000, inf)"),
        (["ring", "--system=ring"], "--system is given twice, as ring and by its name"),
        (["ring", "--num_label=3"], "--num_label is not a flag of this recipe (did you mean --num_labels?)"),
    ],
)
def test_one_line_and_status_two(arguments, words, recipe, command_line, tmp_path):
    first, *others = arguments
    status, error = command_line(recipe, first, f"--output_dir={tmp_path / 'run'}", *others)
    assert status == 2
    assert len(error.splitlines()) == 1 and error.startswith("error: ") and words in error
    assert not (tmp_path / "run").exists()

"""What train_policy_gradient.py leaves, and what its estimators reach."""

import json

import pytest
from PIL import Image
from recipe_runs import load_recipe, results_but_times

from hwzoo.training import parse_arguments

SMALL = {"max_train_steps": 20, "eval_steps": 10, "seeds": [73, 0]}


@pytest.fixture
def recipe():
    return load_recipe("train_policy_gradient")


def run(recipe, folder, **settings) -> dict:
    return recipe.main(recipe.Settings(output_dir=str(folder), **SMALL | settings))


def test_what_a_run_leaves(recipe, tmp_path, capsys):
    results = run(recipe, tmp_path)
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    names = ["argmax", "reinforce", "reinforce_baseline", "exact", "evolution"]
    assert list(results["rows"]) == ["supervised", *(f"{name} 3/-1" for name in names), "argmax 1/0", "reinforce 1/0"]
    for name, row in results["rows"].items():
        assert row["steps"] == [10, 20] and len(row["test_accuracy_by_seed"]) == 2, name
        for part in ("train_accuracy", "test_accuracy"):
            assert all(0 <= mean <= 1 and error >= 0 for mean, error in zip(*row[part].values(), strict=True)), name
        assert row["test_accuracy"]["mean"][-1] == pytest.approx(sum(row["test_accuracy_by_seed"]) / 2)
        assert bool(row["gradient_noise"]) == name.startswith("reinforce "), name
    assert results["test_accuracy_exact"] == results["rows"]["exact 3/-1"]["test_accuracy"]["mean"][-1]
    assert {name.removeprefix("test_accuracy_") for name in results if "accuracy" in name} == {"supervised", *names}
    noise = results["rows"]["reinforce 3/-1"]["gradient_noise"]["20"]
    assert noise["reinforce"]["mean"] > 0 and noise["reinforce_baseline"]["mean"] > 0
    assert "cs182: 1000 training and 1000 test points; networks 8-32-4" in results["protocol"]
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 900 and len(image.convert("RGB").getcolors(1_000_000)) > 20
    assert {path.name for path in tmp_path.iterdir()} == {"all_results.json", "preset.yaml", "curves.png"}
    (again,) = parse_arguments([recipe.Settings], [f"--config={tmp_path / 'preset.yaml'}"])
    assert (again.seeds, again.max_train_steps, again.rewards) == ([73, 0], 20, ["3/-1", "1/0"])
    printed = capsys.readouterr().out
    assert "| estimator, rewards | 20 steps | training, at the end |" in printed and "| argmax 1/0 | " in printed


def test_bandit_feedback_on_images_and_a_seed_of_its_own(recipe, tmp_path):
    settings = {"dataset_name": "digits", "image_size": 8, "train_batch_size": 50, "rewards": ["3/-1"]}
    settings |= {"estimators": ["supervised", "reinforce"], "learning_rate": 1e-2}
    first, second = (run(recipe, tmp_path / name, **settings, seeds=[4, 5]) for name in "ab")
    assert results_but_times(tmp_path / "a") == results_but_times(tmp_path / "b")
    assert first["protocol"].startswith("digits (images of 8 x 8")
    assert ": 1500 training and 297 test points; networks 64-32-10" in first["protocol"]
    assert "50 points drawn with replacement" in first["protocol"]
    assert second["rows"]["supervised"]["test_accuracy"]["mean"][-1] > 0.2
    alone = run(recipe, tmp_path / "c", **settings, seeds=[5])["rows"]["supervised"]
    assert alone["test_accuracy"]["standard_error"] == [None, None]
    expected = first["rows"]["supervised"]["test_accuracy_by_seed"][1]
    assert alone["test_accuracy_by_seed"][0] == pytest.approx(expected, abs=0.01)


def test_images_held_out_are_what_is_tested(recipe, tmp_path):
    settings = {"dataset_name": "digits", "image_size": 8, "validation_share": 0.5, "rewards": ["3/-1"]}
    results = run(recipe, tmp_path, **settings, estimators=["supervised"], learning_rate=1e-2, seeds=[4])
    told = ", tested on the images held out: 750 training and 750 test points; networks 64-32-10"
    assert results["protocol"].startswith("digits (") and told in results["protocol"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--estimators=reinforced"], "--estimators has reinforced; it must be some of supervised, argmax, reinforce"),
        (["--rewards=1/2"], "--rewards has 1/2; it must be right/wrong, two numbers, the first the larger: 3/-1"),
        (["--rewards", "3/-1", "3/-1"], "--rewards is 3/-1 3/-1; each may be given once"),
        (["--seeds", "1", "1"], "--seeds is 1 1; each may be given once"),
        (["--train_batch_size=1"], "--train_batch_size is 1; it must be in [2, inf)"),
        (["--learning_rate=0"], "--learning_rate is 0.0; it must be in (0, inf)"),
        (["--image_size=8"], "--image_size is of images; --dataset_name is cs182, which are points"),
        (["--validation_share=0.5"], "--validation_share is of images; --dataset_name is cs182"),
        (["--seed=1"], "--seed is not a flag of this recipe (did you mean --seeds?)"),
    ],
)
def test_one_line_and_status_two(arguments, words, recipe, command_line, tmp_path):
    status, error = command_line(recipe, f"--output_dir={tmp_path / 'run'}", *arguments)
    assert status == 2
    assert len(error.splitlines()) == 1 and error.startswith("error: ") and words in error
    assert not (tmp_path / "run").exists()


def test_a_rate_that_is_too_large_is_one_line(recipe, command_line, tmp_path):
    flags = ["--learning_rate=1e30", "--max_train_steps=4", "--estimators=exact", "--rewards=3/-1"]
    status, error = command_line(recipe, f"--output_dir={tmp_path / 'run'}", *flags)
    assert status == 1 and "error: the weights by exact are not finite at step 4; a smaller rate may help" in error


def test_a_policy_without_a_gradient_costs_no_results(recipe, tmp_path):
    """Where it is sure of its answers, the noise beside the gradient is 0 / 0."""
    settings = {"learning_rate": 1.0, "max_train_steps": 300, "estimators": ["reinforce"], "rewards": ["3/-1"]}
    recipe.main(recipe.Settings(output_dir=str(tmp_path), seeds=[73, 0], **settings))
    (row,) = json.loads((tmp_path / "all_results.json").read_text())["rows"].values()
    noise = row["gradient_noise"]["300"]["reinforce"]
    assert noise == {"mean": "nan", "standard_error": None} and len(row["test_accuracy_by_seed"]) == 2

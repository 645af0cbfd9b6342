"""Sweeping train_vae: the files, the columns of the table, and that a second call trains nothing."""

import json
import re

import pytest
import yaml
from recipe_runs import load_recipe, results_but_times, same_weights

import hwzoo_cli
from hwzoo import packaged
from hwzoo.errors import UsageError
from hwzoo.training import parse_arguments

FLAGS = {
    "max_train_steps": 2, "encoder_hidden_sizes": 8, "decoder_hidden_sizes": 8, "train_batch_size": 10,
    "num_importance_samples": 2, "num_iwae_images": 10, "num_test_samples": 8,
}  # fmt: skip
TINY = " ".join(f"{name}={value}" for name, value in FLAGS.items())


@pytest.fixture
def recipe():
    return load_recipe("sweep")


@pytest.fixture
def started(monkeypatch) -> list:
    """The runs of train_vae, in their order; the courses' score, which is slow, and pictures are left out."""
    vae, runs = packaged.load_recipe("train_vae"), []
    train = vae.main

    def main(run: vae.Run, architecture: vae.Model, protocol: vae.Protocol) -> dict:
        runs.append((architecture.beta, run.seed))
        return train(run, architecture, protocol)

    monkeypatch.setattr(vae, "main", main)
    monkeypatch.setattr(vae.metrics, "course100", lambda *args, **kwargs: {"course100_negative_elbo": 1.0})
    for name in ("save_image_grid", "save_rows", "save_curves"):
        monkeypatch.setattr(vae.training, name, lambda *args, **kwargs: None)
    return runs


@pytest.mark.long
def test_two_values_and_two_seeds(recipe, started, tmp_path, capsys):
    settings = {"recipe": "vae", "runs": [f"{TINY} beta=1,4"], "seeds": [0, 1], "output_dir": str(tmp_path)}
    rows = recipe.main(recipe.Sweep(**settings))
    assert started == [(1.0, 0), (1.0, 1), (4.0, 0), (4.0, 1)]
    assert recipe.main(recipe.Sweep(**settings)) == rows and len(started) == 4
    assert json.loads((tmp_path / "comparison.json").read_text()) == rows
    assert [row["label"] for row in rows] == ["beta=1", "beta=4"]
    for row in rows:
        folders = [tmp_path / "runs" / row["run"].replace(" ", ",") / f"seed={seed}" for seed in (0, 1)]
        first, second = (json.loads((folder / "all_results.json").read_text()) for folder in folders)
        for name in ("test_negative_elbo", "test_iwae_2", "active_units", "train_runtime"):
            assert row[name]["mean"] == pytest.approx((first[name] + second[name]) / 2)
            assert row[name]["standard_error"] == pytest.approx(abs(first[name] - second[name]) / 2)
        assert all((folder / "model.safetensors").is_file() for folder in folders)
    # A run is what it is alone, whatever ran before it in the process.
    vae, alone = packaged.load_recipe("train_vae"), tmp_path / "alone"
    argv = [f"--{name}={value}" for name, value in FLAGS.items()]
    argv += ["--beta=4", "--seed=1", f"--output_dir={alone}"]
    vae.main(*parse_arguments([vae.Run, vae.Model, vae.Protocol], argv))
    assert results_but_times(alone) == results_but_times(folders[1])
    same_weights(alone, folders[1])

    lines = (tmp_path / "comparison.md").read_text().splitlines()
    columns = "test_negative_elbo | test_reconstruction_loss | test_kl_divergence | test_iwae_2 | test_fid"
    columns += " | test_fid_floor | test_precision | test_recall | test_label_entropy | test_classes_covered"
    assert lines[0] == f"| run | {columns} |" and lines[2].startswith("| beta=1 | ")
    assert "Mean ± standard error over the seeds 0, 1." in lines
    assert lines[-1].startswith("digits: all 297 test images")
    assert (tmp_path / "comparison.png").stat().st_size > 1000
    assert f"{TINY} beta=4 seed=1: test negative elbo " in capsys.readouterr().out


def test_columns_are_what_the_preset_says_to_expect(recipe, started, tmp_path, monkeypatch):
    preset = tmp_path / "mine.yaml"
    preset.write_text(yaml.safe_dump(FLAGS | {"expected": {"test_kl_divergence": [0, 1], "test_nothing": [0, 1]}}))
    monkeypatch.chdir(tmp_path)
    (row,) = recipe.main(recipe.Sweep(recipe="train_vae", preset=str(preset), seeds=[3]))
    assert row["label"] == "vae-mine" and row["flags"] == {}
    out = tmp_path / "outputs" / "sweep-vae-mine"
    assert (out / "comparison.md").read_text().startswith("| run | test_kl_divergence |\n")
    # With the presets as runs, each says what to expect of it.
    again = {"recipe": "vae", "runs": [f"config={preset}"], "seeds": [3], "output_dir": "again"}
    recipe.main(recipe.Sweep(**again))
    assert (tmp_path / "again" / "comparison.md").read_text().startswith("| run | test_kl_divergence |\n")
    # What is asked for comes first; a wrong name is told after the first run.
    recipe.main(recipe.Sweep(**again, metrics=["active_units"]))
    assert (tmp_path / "again" / "comparison.md").read_text().startswith("| run | active_units |\n")
    recipe.main(recipe.Sweep(**again, metrics=["active_units"], axes=["test_kl_divergence", "test_negative_elbo"]))
    assert (tmp_path / "again" / "curve.png").stat().st_size > 1000
    recipe.main(recipe.Sweep(**again, metrics=["active_units"]))
    assert not (tmp_path / "again" / "curve.png").exists()  # it would be of other runs
    with pytest.raises(UsageError, match="--axes loss is not among its numbers: train_steps, "):
        recipe.main(recipe.Sweep(**again, axes=["active_units", "loss"]))
    with pytest.raises(UsageError, match="--metrics loss is not among its numbers: train_steps, "):
        recipe.main(recipe.Sweep(**again, metrics=["active_units", "loss"]))
    assert started == [(1.0, 3)] * 2


@pytest.mark.parametrize(
    ("preset", "name"),
    [("cs236", "cs236"), ("mine/best.yaml", "best"), ("outputs/a/preset.yaml", "a"), ("preset.yaml", "here")],
)
def test_each_preset_has_a_folder_of_its_own(preset, name, recipe, tmp_path, monkeypatch):
    """Also those that runs left, which are all called preset.yaml."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    asked = recipe.Sweep(recipe="train_vae", preset=preset)
    assert (asked.output_dir, asked.title) == (f"outputs/sweep-vae-{name}", f"vae-{name}")


NAMES = sorted(path.stem.removeprefix("train_") for path in hwzoo_cli.RECIPES.glob("train_*.py"))
NAMES = ", ".join(name for name in NAMES if name != "policy_gradient")  # it takes seeds itself


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            [],
            f"no recipe is given; the first argument must be one of {NAMES}, or the file of",
        ),
        (["vea"], "--recipe vea: it must be one of autoregressive, continual, "),
        (["policy_gradient"], "--recipe policy_gradient: it must be one of autoregressive, continual, "),
        (["nowhere/train_vae.py"], "--recipe nowhere/train_vae.py: it must be one of "),
        (["vae", "--preset=cs237"], "--preset cs237: no such file, and no preset has this name (did you mean cs236"),
        (["vae", "--axes", "test_rate"], "--axes is test_rate; it must be two numbers"),
        (["vae", "--runs", "beta=1", "beta=-1"], "--runs 'beta=-1': --beta is -1.0; it must be in "),
    ],
)
def test_what_is_wrong_is_told_before_the_first_run(argv, message, recipe, started, tmp_path):
    (asked,) = parse_arguments([recipe.Sweep], [*argv, f"--output_dir={tmp_path / 'out'}"])
    with pytest.raises(UsageError) as told:
        recipe.main(asked)
    assert message in str(told.value) and started == [] and not (tmp_path / "out").exists()


def test_a_copied_recipe_is_swept(recipe, started, tmp_path):
    """By the path of its file."""
    source = packaged.folder("recipes") / "train_vae.py"
    copy = tmp_path / "train_mine.py"
    copy.write_text(source.read_text().replace('results = {f"test_', 'results = {"test_mine": 5.0} | {f"test_'))
    asked = {"seeds": [0, 1], "runs": [TINY], "metrics": ["test_mine"], "output_dir": str(tmp_path / "out")}
    (row,) = recipe.main(recipe.Sweep(recipe=str(copy), **asked))
    assert row["test_mine"] == {"mean": 5.0, "standard_error": 0.0}


BARE = """
import json
from pathlib import Path
from hwzoo.training import RunArguments, save_settings

def main(run: RunArguments):
    folder, results = Path(run.output_dir), {"score": SCORE}
    folder.mkdir(parents=True)
    (folder / "all_results.json").write_text(json.dumps(results))
    save_settings(folder / "preset.yaml", run)
    return results
"""


def test_each_version_of_a_recipe_of_ones_own_has_its_numbers(recipe, tmp_path, capsys):
    """Though the settings are the same, and the output folder too."""
    scores = []
    for place, score in (("mine", 1.0), ("his", 2.0), ("mine", 1.0), ("again", 2.0)):
        file = tmp_path / place / "train_vae.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(BARE.replace("SCORE", str(score)))
        (row,) = recipe.main(recipe.Sweep(recipe=str(file), seeds=[0], output_dir=str(tmp_path / "out")))
        scores.append(row["score"]["mean"])
    assert scores == [1.0, 2.0, 1.0, 2.0]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("seed=0: ")]
    assert [line.endswith("done before") for line in lines] == [False, False, True, True]
    assert len(list((tmp_path / "out").glob("train_vae-*/runs"))) == 2
    assert (tmp_path / "out" / "comparison.md").is_file()


def test_without_scores_all_numbers_are_in_the_table(recipe, tmp_path):
    (tmp_path / "train_bare.py").write_text(
        "from hwzoo.training import RunArguments\n\ndef main(run: RunArguments):\n    return {'steps': run.seed}\n"
    )
    asked = {"recipe": str(tmp_path / "train_bare.py"), "seeds": [0, 2], "output_dir": str(tmp_path / "out")}
    recipe.main(recipe.Sweep(**asked))
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert text.startswith("| run | steps |\n| --- | --- |\n| bare | 1.0 ± 1.0 |\n")


def test_the_package_has_the_command():
    known = hwzoo_cli.commands()
    assert known["sweep"] == hwzoo_cli.RECIPES / "sweep.py"
    described = hwzoo_cli.help_of(known)
    assert re.search(r"\n  sweep RECIPE +Runs a training recipe", described)
    assert "\n  sample MODEL " in described and "\n  train vae  " in described
    # A comparison has the data of the preset that its runs start from.
    rows = {line.split()[0]: line.split() for line in hwzoo_cli.list_presets(known).splitlines()}
    assert rows["continual/compare_hsu"][1:4] == ["compare", "continual", "mnist"]

"""The last lines of a run: words, units, what is normal, the next commands."""

import json
import math
import shlex
from dataclasses import asdict
from pathlib import Path

import pytest
from recipe_runs import load_recipe

import hwzoo_cli
from hwzoo import VAEConfig, VAEModel, hub
from hwzoo.training import parse_arguments, print_results
from hwzoo.training.arguments import DEFAULT_RUNS
from hwzoo.training.numbers import lines_of, next_commands

CONFIGS = Path(__file__).parents[2] / "recipes" / "configs"
BAND = {"test_negative_elbo": (268.0, 276.0)}


@pytest.mark.parametrize(
    ("value", "said"), [(272.0, "; normal: such"), (280.0, "; high: such"), (260.0, "; low: such")]
)
def test_a_line_says_what_is_normal(value, said):
    (line,) = lines_of({"test_negative_elbo": value, "protocol": "words", "list": [1]}, BAND)
    assert line.split() == [
        "test_negative_elbo", f"{value:.4f}", *"negative evidence lower bound (nats an image);".split(),
        *f"{said[2:]} a run gives 268 to 276".split(),
    ]  # fmt: skip


def test_without_a_band_nothing_is_called_normal():
    assert lines_of({"test_fid": 3.0, "own": 2}, {}) == [
        f"{'test_fid':>32} 3.0000       Fréchet distance of the samples (lower is better)", f"{'own':>32} 2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], True),
        (["--seed=3", "--output_dir=outputs/x"], True),
        (["--config=vae/digits"], True),
        (["--latent_size=3"], False),
        (["--dataset_name=mnist"], False),
        (["--config=vae/digits", "--max_train_steps=9"], False),
    ],
)
def test_the_band_is_of_these_settings_alone(flags, told):
    recipe = load_recipe("train_vae")
    run, *_ = parse_arguments([recipe.Run, recipe.Model, recipe.Protocol], flags)
    assert (run.expected.get("test_negative_elbo") == (268.0, 276.0)) is told and bool(run.expected) is told


@pytest.mark.parametrize(
    "preset",
    sorted(f"{each.parent.name}/{each.stem}" for name in DEFAULT_RUNS for each in CONFIGS.glob(f"*/{name}.yaml")),
)
def test_the_preset_named_digits_or_words_is_the_run_without_flags(preset):
    recipe = load_recipe(f"train_{preset.split('/')[0]}")
    types = [kind for kind in recipe.main.__annotations__.values() if kind is not dict]
    plain, preset = (parse_arguments(types, flags) for flags in ([], [f"--config={preset}"]))
    assert plain[0].expected and plain[0].expected == preset[0].expected
    own = {"output_dir": None, "config": None}
    assert [asdict(each) | own for each in plain] == [asdict(each) | own for each in preset]


@pytest.mark.parametrize("name", ["out", "my über 'folder' & $more"])
def test_the_next_commands_are_ones_that_work(name, tmp_path, capsys):
    tmp_path /= name
    hub.save(VAEModel(VAEConfig(encoder_hidden_sizes=[4], decoder_hidden_sizes=[4], latent_size=2)), tmp_path)
    assert len(next_commands(tmp_path)) == 1  # a model that makes no pictures
    (tmp_path / "samples.png").touch()
    print_results({"test_negative_elbo": 270.0}, tmp_path, BAND)
    first, place, sample, evaluate, load = capsys.readouterr().out.splitlines()
    assert "normal" in first and place == f"model, results and pictures are in {tmp_path}; next:"
    for command, arguments in ((sample, ["Settings"]), (evaluate, ["Settings"])):
        program, verb, folder = shlex.split(command)
        assert program == "hwzoo"
        recipe = load_recipe(hwzoo_cli.commands()[verb].stem)
        (settings,) = parse_arguments([getattr(recipe, name) for name in arguments], [folder])
        assert settings.model_name_or_path == str(tmp_path)
    scope = {}
    exec(shlex.split(load)[2], scope)
    assert isinstance(scope["model"], VAEModel)


def test_the_readme_shows_the_first_of_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("outputs/vae")
    folder.mkdir(parents=True)
    (folder / "samples.png").touch()
    readme = (CONFIGS.parents[1] / "README.md").read_text(encoding="utf-8")
    shown = readme.partition(f"model, results and pictures are in {folder}; next:\n")[2].partition("```")[0]
    *first, _ = next_commands(folder)
    assert shown.splitlines() == [*(f"  {command}" for command in first), "..."]


@pytest.mark.parametrize(("results", "told"), [({}, " --classifier CLASSIFIER"), ({"test_fid": 3.0}, "")])
def test_images_of_ones_own_are_scored_by_a_classifier_of_ones_own(results, told, tmp_path):
    (tmp_path / "samples.png").touch()
    (tmp_path / "preset.yaml").write_text(f"dataset_name: {tmp_path}\n")
    (tmp_path / "all_results.json").write_text(json.dumps(results))
    assert next_commands(tmp_path)[1] == f"hwzoo evaluate {tmp_path}{told}"
    (tmp_path / "preset.yaml").write_text(f"dataset_name: ../{tmp_path.name}\n")  # from the preset on
    assert next_commands(tmp_path)[1] == f"hwzoo evaluate {tmp_path}{told}"
    (tmp_path / "preset.yaml").write_text("dataset_name: mnist\n")
    assert next_commands(tmp_path)[1] == f"hwzoo evaluate {tmp_path}"
    (tmp_path / "preset.yaml").write_text(f"dataset_name: {tmp_path}\nclassifier: ../own\n")
    assert next_commands(tmp_path)[1] == f"hwzoo evaluate {tmp_path} --classifier {tmp_path.parent / 'own'}"


@pytest.mark.parametrize(
    "told, expected",
    [
        ("", ("sde_dpm_solver", 25, 1.0)),
        ("scheduler: ddim\nnum_inference_steps: 10\nguidance_scale: 1.0\n", ("ddim", 10, 1.0)),
        ("scheduler: unipc\nnum_inference_steps: 20\nguidance_scale: 1.3\n", ("unipc", 20, 1.3)),
    ],
)
def test_a_pipeline_is_sampled_as_the_run_did(told, expected, tmp_path):
    """In few steps: its own sampler takes every step of its training."""
    for name in ("model_index.json", "samples.png"):
        (tmp_path / name).touch()
    if told:
        (tmp_path / "preset.yaml").write_text(told)
    for command in next_commands(tmp_path)[:2]:
        _, verb, *flags = command.split()
        (settings,) = parse_arguments([load_recipe(hwzoo_cli.commands()[verb].stem).Settings], flags)
        assert settings.model_name_or_path == str(tmp_path)
        assert (settings.scheduler, settings.num_inference_steps, settings.guidance_scale) == expected


def test_a_number_that_is_not_finite_is_neither_low_nor_high():
    for value in (math.nan, math.inf):
        (line,) = lines_of({"test_x": value}, {"test_x": (1.0, 2.0)})
        assert "; not finite: such a run gives 1 to 2" in line

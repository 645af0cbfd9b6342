"""Every preset: its header holds the command, it parses, and under `-m reproduce` it gives the numbers it promises."""

import inspect
import re
from pathlib import Path

import pytest
import yaml
from recipe_runs import load_recipe

from hwzoo.training import parse_arguments

RECIPES = Path(__file__).parents[2] / "recipes"
PRESETS = sorted((RECIPES / "configs").glob("*/*.yaml"))
COMMAND = re.compile(r"(accelerate launch|python) recipes/(\w+)\.py --config (recipes/configs/\w+/\w+\.yaml)")
presets = pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")


def recipe_of(path: Path):
    """The recipe that the command in a preset's header runs."""
    header = path.read_text().replace("\n#", " ")
    (command,) = {match[2] for match in COMMAND.finditer(header) if RECIPES.parent / match[3] == path}
    return load_recipe(command)


def arguments_of(recipe, path: Path, **others) -> list:
    types = [parameter.annotation for parameter in inspect.signature(recipe.main).parameters.values()]
    return parse_arguments(types, [f"--config={path}", *(f"--{name}={value}" for name, value in others.items())])


def test_there_are_presets_of_each_family():
    trained = {path.stem.removeprefix("train_") for path in RECIPES.glob("train_*.py")}
    assert {path.parent.name for path in PRESETS} == trained


@presets
def test_a_preset_parses_and_writes_where_no_other_does(path):
    run, *_ = arguments_of(recipe_of(path), path)
    name = path.stem.removeprefix("compare_") if path.stem.startswith("compare_") else path.stem
    assert run.output_dir.startswith("outputs/") and run.output_dir.endswith(name.replace("_", "-"))


@presets
def test_a_preset_says_what_to_expect_or_that_it_was_not_run(path):
    text = path.read_text()
    expected = yaml.safe_load(text).get("expected", {})
    assert all(low <= high for low, high in expected.values())
    assert expected or "Not run" in text or path.stem.startswith("compare_")
    assert not expected or "minute" in text


@pytest.mark.reproduce
@presets
def test_a_preset_gives_the_numbers_it_promises(path, tmp_path):
    settings = yaml.safe_load(path.read_text())
    expected, base = settings.get("expected"), settings.get("model_name_or_path")
    if not expected:
        pytest.skip("it promises none")
    if base and not Path(base).exists():
        pytest.skip(f"it needs {base}, which another preset leaves")
    recipe = recipe_of(path)
    results = recipe.main(*arguments_of(recipe, path, output_dir=tmp_path))
    outside = {name: results[name] for name, (low, high) in expected.items() if not low <= results[name] <= high}
    assert not outside

"""What `hwzoo page` refuses, in one line; what it shows and sends is in tests/page."""

import pytest
from recipe_runs import load_recipe

from hwzoo.training import parse_arguments

CASES = {
    "no models": (2, "--models is missing", []),
    "no port": (2, "--port is 0; it must be in [1, 65535]", ["x", "--port=0"]),
    "no seconds": (2, "--max_seconds is 0.0; it must be in (0, 600]", ["x", "--max_seconds=0"]),
    "seconds for ever": (2, "--max_seconds is inf", ["x", "--max_seconds=inf"]),
    "an id that is none": (2, "--push is space; it must be owner/name", ["x", "--push=space"]),
    "an id that is a path": (2, "--push is ../a/b; it must be owner/name", ["x", "--push=../a/b"]),
    "a Space of what no Hub has": (2, "--models has x: no such folder, and not a Hub id", ["x", "--push=me/space"]),
    "nothing to show": (1, "there is nothing to show: nowhere/at-all cannot be loaded", ["nowhere/at-all"]),
    "a broken folder": (1, "config.json is not valid JSON", ["{broken}"]),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_status(name, command_line, tmp_path):
    status, told, arguments = CASES[name]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    arguments = [each.format(broken=tmp_path / "broken") for each in arguments]
    arguments += [f"--output_dir={tmp_path / 'out'}"] if status == 2 else []
    given, error = command_line(load_recipe("page"), *arguments)
    assert (given, error.count("\n")) == (status, 1) and error.startswith("error: ") and told in error, error
    assert not (tmp_path / "out").exists()


def test_several_models_come_first():
    recipe = load_recipe("page")
    (settings,) = parse_arguments([recipe.Settings], ["a", "b/c", "--port", "8000"])
    assert (settings.models, settings.port) == (["a", "b/c"], 8000)

"""One uninterrupted run of each recipe, which the others are compared with."""

from pathlib import Path

import every_recipe
import pytest


@pytest.fixture(params=every_recipe.FLAGS)
def recipe(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def straight_runs(tmp_path_factory) -> dict[str, tuple[Path, int]]:
    return {}


@pytest.fixture
def straight(recipe, straight_runs, tmp_path_factory) -> tuple[Path, int]:
    """Its folder and how many events it had."""
    if recipe not in straight_runs:
        folder = tmp_path_factory.mktemp(recipe) / "run"
        ended = every_recipe.run(recipe, folder)
        assert ended.status == 0, ended.error
        straight_runs[recipe] = folder, ended.events
    return straight_runs[recipe]

"""One uninterrupted run of each recipe, which the others are compared with."""

import os
import shutil
from pathlib import Path

import every_recipe
import pytest
from filelock import FileLock


@pytest.fixture(params=every_recipe.ALL)
def recipe(request) -> str:
    return request.param


@pytest.fixture
def straight(recipe, tmp_path_factory) -> tuple[Path, int]:
    """Its folder and how many events it had; one run for all processes of pytest-xdist."""
    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / f"straight-{recipe}"
    with FileLock(f"{shared}.lock"):
        if not (events := shared / "events").exists():
            shutil.rmtree(shared, ignore_errors=True)  # one that failed fails alike for each test
            ended = every_recipe.run(recipe, shared / "run")
            assert ended.status == 0, ended.error
            events.write_text(str(ended.events))
    return shared / "run", int(events.read_text())

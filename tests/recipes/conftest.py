"""Recipes are scripts: they are run here in this process, through their `main` or as from the command line."""

import importlib.util
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).parents[2]


def load_recipe(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, REPOSITORY / "recipes" / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def train_vae() -> ModuleType:
    return load_recipe("train_vae")


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Runs a recipe as from the command line; gives (status, standard error)."""

    def run(recipe: ModuleType, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [recipe.__file__, *arguments])
        types = [kind for kind in recipe.main.__annotations__.values() if kind is not dict]
        handler = signal.getsignal(signal.SIGTERM)
        capsys.readouterr()
        try:
            recipe.training.launch(recipe.main, *types)
            status = 0
        except SystemExit as exit:
            status = exit.code
        finally:
            signal.signal(signal.SIGTERM, handler)
            recipe.training.launch.__globals__["logger"].handlers.clear()
        return status, capsys.readouterr().err

    return run

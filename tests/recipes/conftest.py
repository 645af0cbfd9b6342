"""Recipes are scripts: they are run here in this process, through their `main` or as from the command line."""

import signal
import sys
from types import ModuleType

import pytest
import recipe_runs
from recipe_runs import load_recipe, shorten_scores


@pytest.fixture
def train_vae() -> ModuleType:
    return load_recipe("train_vae")


@pytest.fixture
def train_flow() -> ModuleType:
    return load_recipe("train_flow")


@pytest.fixture
def train_autoregressive() -> ModuleType:
    return load_recipe("train_autoregressive")


@pytest.fixture
def train_vqvae() -> ModuleType:
    return load_recipe("train_vqvae")


@pytest.fixture
def train_simclr() -> ModuleType:
    return load_recipe("train_simclr")


@pytest.fixture
def train_textvae() -> ModuleType:
    return load_recipe("train_textvae")


@pytest.fixture
def train_continual() -> ModuleType:
    return load_recipe("train_continual")


@pytest.fixture
def train_gan() -> ModuleType:
    return load_recipe("train_gan")


@pytest.fixture
def train_ddpm() -> ModuleType:
    return load_recipe("train_ddpm")


@pytest.fixture
def train_t5() -> ModuleType:
    return load_recipe("train_t5")


@pytest.fixture(scope="module", autouse=True)
def short_scores():
    """metrics/ tests their values."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_scores(patch.setattr)
        yield


@pytest.fixture(autouse=True)
def nothing_runs_on():
    yield
    recipe_runs.end_all()


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

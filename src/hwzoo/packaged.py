"""
Where the files beside the code are: recipes, presets, templates of cards. A wheel has them in the package, a checkout
at its top. The `hwzoo` command reads this file without the package, so it imports nothing of it.
"""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parent


class Preset(NamedTuple):
    """
    Attributes:
        name: family and file name, `vae/cs236`.
        path: of its YAML file.
        recipe: that the command in its header runs, `train_vae`; "" where there is none.
    """

    name: str
    path: Path
    recipe: str


def folder(name: str) -> Path:
    """
    Args:
        name: `recipes` or `model_cards`.

    Returns:
        Where this folder is, whether hwzoo was installed from a wheel or is a checkout.
    """
    packaged = PACKAGE / name
    return packaged if packaged.is_dir() else PACKAGE.parents[1] / name


def preset_of(run: Any) -> str | None:
    """
    Args:
        run: the flags of a run, with `config`.

    Returns:
        What captions and cards call its preset, "changed" where flags or processes made another run of it; None
        without one, and for the settings of a finished run.
    """
    if run.config is None or Path(run.config).stem == "preset":
        return None
    return Path(run.config).stem + (", changed" if run.changed else "")


def runs_the_loop(path: Path) -> bool:
    """Whether a recipe is one run of the loop: of one seed, and in several processes if wanted."""
    return ".start(run" in path.read_text(encoding="utf-8")


def load_recipe(name: str | Path) -> ModuleType:
    """
    A recipe as a module. Recipes are scripts in no package, and a copy of one may lie alone: none can import another.

    Args:
        name: of a file beside the presets, `train_vae`, or the path of any recipe's file.

    Returns:
        The module, the same at each call.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    path = Path(name) if str(name).endswith(".py") else folder("recipes") / f"{name}.py"
    path = path.resolve(strict=True)
    module = f"{__name__}.{path.stem}"  # no other's, whatever its file is called
    if module not in sys.modules or sys.modules[module].__file__ != str(path):
        spec = importlib.util.spec_from_file_location(module, path)
        sys.modules[module] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[module])
    return sys.modules[module]


def presets(recipes: Path | None = None) -> list[Preset]:
    """The presets in `configs/` of a folder of recipes, the zoo's when not given, sorted by name."""
    found = []
    for path in sorted((recipes or folder("recipes")).glob("configs/*/*.yaml")):
        name = f"{path.parent.name}/{path.stem}"
        header = path.read_text(encoding="utf-8").replace("\n#", " ")
        command = re.search(rf"recipes/(\w+)\.py +--config +recipes/configs/{name}\.yaml", header)
        found.append(Preset(name, path, command[1] if command else ""))
    return found

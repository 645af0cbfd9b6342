"""
Where the files beside the code are: recipes, presets, templates of cards. A wheel has them in the package, a checkout
at its top. The `hwzoo` command reads this file without the package, so it imports nothing of it.
"""

import re
from pathlib import Path
from typing import NamedTuple

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


def presets() -> list[Preset]:
    """The presets of all recipes, sorted by name."""
    found = []
    for path in sorted(folder("recipes").glob("configs/*/*.yaml")):
        name = f"{path.parent.name}/{path.stem}"
        header = path.read_text(encoding="utf-8").replace("\n#", " ")
        command = re.search(rf"recipes/(\w+)\.py +--config +recipes/configs/{name}\.yaml", header)
        found.append(Preset(name, path, command[1] if command else ""))
    return found

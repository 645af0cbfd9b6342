"""A recipe is read in one sitting: so long may it be."""

import ast
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
LINES = {"train_vae": 130, "train_t5": 190}
LINES |= dict.fromkeys(["evaluate_generator", "sample", "compare_samplers", "compare_continual"], 120)
OTHERS = 170
MAIN = 90


@pytest.mark.parametrize("path", sorted(RECIPES.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_a_recipe_is_read_in_one_sitting(path):
    text = path.read_text()
    (main,) = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert len(text.splitlines()) <= LINES.get(path.stem, OTHERS)
    assert main.end_lineno - main.lineno + 1 <= MAIN

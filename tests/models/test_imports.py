"""Who may import whom: the house is read, not run."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from transformers.dynamic_module_utils import get_relative_imports

REPOSITORY = Path(__file__).parents[2]
FILES = sorted(
    path.relative_to(REPOSITORY)
    for folder in ("src", "recipes", "tests", "benchmarks")
    for path in (REPOSITORY / folder).rglob("*.py")
)

SHARED = {"errors", "files", "loading", "packaged", "retry"}
# What modules at the top of the package may import of it; everything beside them is a leaf.
TOP = {
    "__init__": {"models"},
    "errors": set(),
    "files": {"errors"},
    "onnx": {"errors"},
    "packaged": set(),
    "retry": {"errors", "files"},
    "loading": {"errors", "files"},
    "hub": SHARED | {"models", "cards"},
    "generators": SHARED | {"data", "diffusion", "hub", "models", "training"},
    "scoring": SHARED | {"data", "generators", "hub", "metrics", "models", "training"},
    "comparison": SHARED | {"data", "generators", "models", "packaged", "scoring", "training"},
}
APPLICATIONS = {"page"}  # made of all of it
FOR_PIPELINES = {"torch", "diffusers"} | sys.stdlib_module_names
FOR_MODELS = {"torch", "transformers", "huggingface_hub", "numpy", "PIL"} | sys.stdlib_module_names
# The table knows whatever library holds a family: it imports the packages of these where a row needs them.
TABLE, FOR_TABLE = PurePosixPath("src/hwzoo/models/__init__.py"), {"diffusion", "text"}
# Each costs a second or more: imported where it is used.
SLOW = {"sklearn", "datasets", "diffusers", "matplotlib", "torchmetrics", "peft", "evaluate", "inflect"}
# Of the command line, which answers at once: they load nothing but the standard library.
LIGHT = {"hwzoo_cli.py", "packaged.py"}
# Copied and run by `evaluate`, never imported here.
SCRIPTS = {"src/hwzoo/metrics/rouge/rouge.py"}
# It must match torch's build exactly, so that nothing may need it.
FORBIDDEN = "torchvision"


def violations(path: Path, source: str) -> list[str]:
    """The rules that a file breaks; `path` is relative to the repository."""
    path, tree = PurePosixPath(path.as_posix()), ast.parse(source)
    found = [f"imports {FORBIDDEN}" for name in imported(tree, path) if name.split(".")[0] == FORBIDDEN]
    if path.parts[:2] == ("src", "hwzoo"):
        found += in_package(path, tree)
    if path.parts[0] == "src" and path.name in LIGHT:
        names = {root(name) for name in imported(tree, path, at_import)} - sys.stdlib_module_names
        found += [f"imports {name} at its own import" for name in sorted(names)]
    if path.parts[:3] == ("src", "hwzoo", "models") and len(path.parts) == 5:
        found += in_model_folder(path, tree, FOR_MODELS)
    if is_pipeline(path):
        found += in_model_folder(path, tree, FOR_PIPELINES)
    if path.parts[0] == "recipes":
        found += in_recipe(tree)
        others = {each.stem for each in FILES if each.parts[0] == "recipes"}
        found += [f"imports the recipe {name}" for name in imported(tree, path) if root(name) in others]
    return [f"{path}: {violation}" for violation in found]


def imported(tree: ast.AST, path: PurePosixPath, walk=ast.walk) -> list[str]:
    """Full names of the modules that a file imports and of the names that it takes out of them."""
    names = []
    for node in walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # The package of src/hwzoo/data/images.py at level 1 is hwzoo.data, at level 2 hwzoo.
            package = [".".join(path.parts[1 : len(path.parts) - node.level])] if node.level else []
            module = ".".join([*package, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def in_package(path: PurePosixPath, tree: ast.AST) -> list[str]:
    own = path.parts[2].removesuffix(".py")
    allowed = {own} | (TOP.get(own, SHARED) if len(path.parts) == 3 else SHARED)
    allowed |= {each.stem for each in (REPOSITORY / "src" / "hwzoo").iterdir()} if own in APPLICATIONS else set()
    at_once, later = allowed, allowed | (FOR_TABLE if path == TABLE else set())
    found = ["asserts" for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    first = set(imported(tree, path, at_import))
    for name in imported(tree, path):
        parts = name.split(".")
        if parts[0] == "hwzoo" and (len(parts) == 1 or parts[1] not in (at_once if name in first else later)):
            found.append(f"imports {name}")
    slow = SLOW - FOR_PIPELINES if is_pipeline(path) else SLOW
    if path.as_posix() in SCRIPTS:
        slow = set()
    found += [f"imports {name} at its own import" for name in imported(tree, path, at_import) if root(name) in slow]
    return found


def is_pipeline(path: PurePosixPath) -> bool:
    """Copied to the Hub too, and imported only where a pipeline is made: it may start with diffusers."""
    return path.parts[:3] == ("src", "hwzoo", "diffusion") and path.name.startswith("pipeline_")


def in_model_folder(path: PurePosixPath, tree: ast.AST, allowed: set[str]) -> list[str]:
    """These files are copied to the Hub as they stand, by a program that knows `from .sibling import x` only."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level > 1 or not node.module or "." in node.module:
                found.append(f"imports no sibling: {ast.unparse(node)}")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found += [f"imports {name}" for name in imported(node, path) if root(name) not in allowed]
    return found


def in_recipe(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Module") for base in node.bases):
            found.append(f"defines the network {node.name}")
        elif isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            found.append(f"touches {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [f"touches os.{alias.name}" for alias in node.names if alias.name in ("environ", "getenv")]
    return found


def root(name: str) -> str:
    return name.split(".")[0]


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: all but the bodies of functions."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from at_import(node)


def test_the_house_keeps_its_rules():
    assert {path.parts[0] for path in FILES} >= {"src", "recipes", "tests"}
    assert [found for path in FILES for found in violations(path, (REPOSITORY / path).read_text())] == []


@pytest.mark.parametrize(
    "path, source, expected",
    [
        ("src/hwzoo/data/x.py", "from ..models import FAMILIES", "imports hwzoo.models.FAMILIES"),
        ("src/hwzoo/data/x.py", "from .. import hub", "imports hwzoo.hub"),
        ("src/hwzoo/data/x.py", "import hwzoo", "imports hwzoo"),
        ("src/hwzoo/data/x.py", "def f():\n    import hwzoo.training.loop", "imports hwzoo.training.loop"),
        ("src/hwzoo/models/__init__.py", "from ..hub import save", "imports hwzoo.hub.save"),
        ("src/hwzoo/models/__init__.py", "from .. import text", "imports hwzoo.text"),
        ("src/hwzoo/hub.py", "from .training import fit", "imports hwzoo.training.fit"),
        ("src/hwzoo/cards.py", "from .models import FAMILIES", "imports hwzoo.models.FAMILIES"),
        ("src/hwzoo/errors.py", "from .files import sha256", "imports hwzoo.files.sha256"),
        ("src/hwzoo/__init__.py", "from . import training", "imports hwzoo.training"),
        ("src/hwzoo_cli.py", "import re\nimport hwzoo", "imports hwzoo at its own import"),
        ("src/hwzoo/packaged.py", "import yaml", "imports yaml at its own import"),
        ("src/hwzoo/data/x.py", "assert True", "asserts"),
        ("src/hwzoo/data/x.py", "import datasets", "imports datasets at its own import"),
        ("src/hwzoo/metrics/x.py", "import evaluate", "imports evaluate at its own import"),
        ("src/hwzoo/diffusion/pipelines.py", "import diffusers", "imports diffusers at its own import"),
        ("src/hwzoo/diffusion/pipeline_x.py", "import transformers", "imports transformers"),
        ("src/hwzoo/diffusion/pipeline_x.py", "from . import y", "imports no sibling: from . import y"),
        ("src/hwzoo/data/x.py", "class A:\n    from sklearn import svm", "imports sklearn.svm at its own import"),
        ("src/hwzoo/data/x.py", "try:\n    import peft\nexcept ImportError: pass", "imports peft at its own import"),
        ("src/hwzoo/models/vae/x.py", "from . import y", "imports no sibling: from . import y"),
        ("src/hwzoo/models/vae/x.py", "from .y.z import a", "imports no sibling: from .y.z import a"),
        ("src/hwzoo/models/vae/x.py", "from ..gan import a", "imports no sibling: from ..gan import a"),
        ("src/hwzoo/models/vae/x.py", "import scipy as sp", "imports scipy"),
        ("src/hwzoo/models/vae/x.py", "from hwzoo.models.vae.y import a", "imports hwzoo.models.vae.y.a"),
        ("src/hwzoo/data/x.py", "def f():\n    from torchvision import io", "imports torchvision"),
        ("recipes/x.py", "import torchvision.datasets", "imports torchvision"),
        ("tests/data/x.py", "import torchvision", "imports torchvision"),
        ("benchmarks/x.py", "import torchvision", "imports torchvision"),
        ("recipes/x.py", "class Net(nn.Module): pass", "defines the network Net"),
        ("recipes/x.py", "def f():\n    class Net(torch.nn.Module): pass", "defines the network Net"),
        ("recipes/x.py", "import os\nos.environ['A'] = '1'", "touches os.environ"),
        ("recipes/x.py", "from os import getenv", "touches os.getenv"),
    ],
)
def test_a_broken_rule_is_found(path, source, expected):
    assert violations(Path(path), source) == [f"{path}: {expected}"]


@pytest.mark.parametrize(
    "path, source",
    [
        ("src/hwzoo/data/x.py", "from ..errors import UsageError\nfrom ..files import sha256\nfrom .y import z"),
        ("src/hwzoo/data/x.py", "def f():\n    import datasets"),
        ("src/hwzoo_cli.py", "import re\ndef f():\n    import torch\n    from hwzoo import hub"),
        ("src/hwzoo/hub.py", "from .models import FAMILIES\nfrom .cards import card\nfrom .errors import HwzooError"),
        ("src/hwzoo/models/__init__.py", "from .vae.modeling_vae import VAEModel"),
        ("src/hwzoo/models/__init__.py", "def f():\n    from .. import diffusion"),
        ("src/hwzoo/models/vae/x.py", "import math\nimport torch.nn as nn\nfrom .y import z"),
        ("src/hwzoo/models/vae/x.py", "import numpy as np\nfrom PIL import Image"),
        ("src/hwzoo/metrics/rouge/rouge.py", "import datasets\nimport evaluate\nfrom .y import z"),
        ("recipes/x.py", "import datasets\nfrom hwzoo import hub, training\nassert True"),
    ],
)
def test_what_the_rules_allow_is_not_found(path, source):
    assert violations(Path(path), source) == []


def test_the_code_copier_of_transformers_sees_the_siblings_that_python_sees():
    files = list((REPOSITORY / "src/hwzoo/models").glob("*/*.py"))
    assert files
    for file in files:
        # It reads lines, also those of a docstring.
        nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        siblings = {node.module for node in nodes if node.level}
        assert set(get_relative_imports(file)) == siblings, file
        assert all((file.parent / f"{sibling}.py").is_file() for sibling in siblings), file


def test_importing_the_package_loads_nothing_slow():
    program = (
        "import sys, transformers.modeling_utils, transformers.generation.utils\n"
        "roots = lambda: {name.split('.')[0] for name in sys.modules}\n"
        "before = roots() - {'torch', 'transformers'}\n"  # transformers 5.20 loads scikit-learn itself
        "import hwzoo, hwzoo.data, hwzoo.hub, hwzoo.metrics, hwzoo.text, hwzoo.training\n"
        "print(*sorted(roots() - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"hwzoo", "torch", "transformers"} <= set(loaded)
    assert set(loaded).isdisjoint(SLOW | {FORBIDDEN})

"""Each public name of the package says what it takes, gives and refuses: rule 10 of CONTRIBUTING.md."""

import ast
import importlib
import re
from pathlib import Path

import pytest

import hwzoo

ROOT = Path(hwzoo.__file__).parent
STATE = {"state_dict", "load_state_dict"}  # torch's pair
ERRORS = {"UsageError", "HwzooError", "ValueError"}
SECTION = r"^ *{}:\n(.*?)(?=^ *(?:Args|Attributes|Returns|Yields|Raises|Source):\n|\Z)"


def section(docstring: str, *titles: str) -> str:
    """The text of the sections with one of some titles."""
    return "\n".join(re.findall(SECTION.format(f"(?:{'|'.join(titles)})"), docstring + "\n", re.M | re.S))


def own_nodes(function: ast.AST):
    """The nodes of a function without those of the functions in it."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            yield node
            yield from own_nodes(node)


def parameters(function: ast.FunctionDef) -> list[str]:
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return [each.arg for each in every if each and each.arg not in ("self", "cls") and each.arg[0] != "_"]


def returns(function: ast.FunctionDef) -> bool:
    if isinstance(function.returns, ast.Constant) and function.returns.value is None:
        return False
    return any(
        isinstance(node, ast.Yield | ast.YieldFrom) or isinstance(node, ast.Return) and node.value is not None
        for node in own_nodes(function)
    )


def raised(function: ast.FunctionDef) -> set[str]:
    calls = [node.exc for node in own_nodes(function) if isinstance(node, ast.Raise)]
    names = {getattr(call.func if isinstance(call, ast.Call) else call, "id", None) for call in calls}
    return names & ERRORS


def missing(function: ast.FunctionDef, overrides: bool = False) -> list[str]:
    """What the docstring of a function lacks; an override has that of its base."""
    docstring = ast.get_docstring(function) or ""
    if not docstring and not overrides and function.name not in STATE:
        return ["a docstring"]
    taken, lacks = parameters(function), []
    short = overrides or len(taken) < 2  # the summary tells what goes in and comes out
    if not short:
        named = re.findall(r"^ *([\w, `*]+)(?: \(.*?\))?:", section(docstring, "Args"), re.M)
        named = set(re.findall(r"\w+", " ".join(named)))
        lacks += [f"{name} in Args" for name in taken if name not in named]
        if returns(function) and not section(docstring, "Returns", "Yields").strip():
            lacks.append("Returns")
    told = section(docstring, "Raises")
    return lacks + [f"{name} in Raises" for name in sorted(raised(function)) if name not in told]


def is_plain(function: ast.FunctionDef) -> bool:
    """Neither a property nor an overload, whose docstring is a line about what it is."""
    names = {getattr(each, "attr", getattr(each, "id", None)) for each in function.decorator_list}
    return not names & {"property", "cached_property", "setter", "overload"}


def gaps(path: Path) -> list[str]:
    """A line for each thing that a public name of a module lacks."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), []
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    for node in tree.body:
        if getattr(node, "name", "_").startswith("_"):
            continue
        if isinstance(node, ast.FunctionDef):
            found += [f"{path.name}:{node.lineno} {node.name}: {each}" for each in missing(node)]
        if isinstance(node, ast.ClassDef):
            if not ast.get_docstring(node):
                found.append(f"{path.name}:{node.lineno} {node.name}: a docstring")
            bases = getattr(importlib.import_module(name), node.name).__mro__[1:]
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name[0] != "_" and is_plain(method):
                    overrides = any(hasattr(base, method.name) for base in bases)
                    found += [f"{path.name}:{method.lineno} {node.name}.{method.name}: {each}"
                              for each in missing(method, overrides)]  # fmt: skip
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_public_names_say_what_they_take_give_and_refuse(path):
    assert gaps(path) == []


FUNCTION = '''
def scaled(images, factor):
    """
    Images, brighter.

    {}
    """
    if factor < 0:
        raise ValueError(factor)
    return images * factor
'''
ARGS = "Args:\n        images: (num, height, width).\n        factor: at least 0.\n"
RETURNS = "    Returns:\n        As images.\n"
RAISES = "    Raises:\n        ValueError: for a negative factor.\n"


@pytest.mark.parametrize(
    "docstring, lacks",
    [
        (ARGS + RETURNS + RAISES, []),
        (ARGS.replace("factor", "other") + RETURNS + RAISES, ["factor in Args"]),
        (ARGS + RAISES, ["Returns"]),
        (ARGS + RETURNS, ["ValueError in Raises"]),
        ("", ["images in Args", "factor in Args", "Returns", "ValueError in Raises"]),
    ],
    ids=["whole", "without an argument", "without Returns", "without Raises", "without all"],
)
def test_what_a_docstring_lacks_is_found(docstring, lacks):
    assert missing(ast.parse(FUNCTION.format(docstring)).body[0]) == lacks


def test_without_a_docstring_and_of_overrides():
    whole, bare = (ast.parse(text).body[0] for text in (FUNCTION.format(RAISES), "def scaled(images): pass"))
    assert missing(bare) == ["a docstring"]
    assert missing(whole, overrides=True) == []

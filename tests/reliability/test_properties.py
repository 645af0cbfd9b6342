"""Any configuration and any command line: a clear error, or something that works."""

import inspect
import re
import tempfile
import typing
from pathlib import Path

import every_recipe
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_runs import load_recipe

from hwzoo import hub
from hwzoo.errors import UsageError
from hwzoo.models import FAMILIES
from hwzoo.training import parse_arguments

# The same examples in every run: one that fails is found again, and no run fails by chance.
repeatable = settings(
    max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
thorough = settings(repeatable, max_examples=1000)
families = pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.model_class], ids=lambda family: family.name
)
# What users and their programs write where a value is wanted.
VALUES = [
    "", " ", "0", "-1", "1", "7", "3.5", "-0.0", "1e-3", "1e400", "nan", "inf", "-inf", "99999999999999999999", "null",
    "None", "true", "False", "[1]", "a b", "ü", "--", "-", "=", "/", "latest", "mnist", "../x", "%s", "{x}", "\t",
    "1,2", "owner/name", "none", "adam", "0x10", "١", "1_000",
]  # fmt: skip


def values_of(annotation) -> st.SearchStrategy:
    """Values for a field of this type: mostly small and fitting, some not."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return st.sampled_from([*args, *args, "nonsense"])
    if annotation is bool:
        return st.booleans()
    if annotation is int:
        return st.integers(1, 32) | st.sampled_from([-1, 0, 4, 8, 16])
    if annotation is float:
        return st.floats(0.0, 1.0) | st.floats()
    if origin is list:
        return st.lists(values_of(args[0]), max_size=3)
    if origin is tuple:
        return st.nothing()
    return st.one_of(*map(values_of, args))  # a union


@st.composite
def fields(draw, family) -> dict:
    types = family.config_class.__annotations__
    names = list(types)
    chosen = draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names)))
    changes = {name: draw(values_of(types[name])) for name in chosen}
    if draw(st.integers(0, 9)) == 0:
        changes[draw(st.sampled_from([*names, "no_such_field"]))] = draw(st.sampled_from([None, "x", 1.5, [], {}]))
    return changes


def check_config(family, data):
    changes = data.draw(fields(family))
    try:
        config = family.config_class(**changes)
    except (ValueError, StrictDataclassError) as error:
        message = f"{error} {error.__cause__ or ''}"
        assert any(name in message for name in [*family.config_class.__annotations__, "no_such_field"]), message
        return
    torch.manual_seed(0)
    model = family.model_class(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        hub.save(model, Path(folder))
        loaded = hub.load(family.model_class, folder)
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    if model.main_input_name == "input_ids":
        first = torch.full((3, min(4, config.max_tokens)), config.unk_token_id)
        first[:, -1] = config.eos_token_id
    else:
        first = torch.rand(3, config.num_channels, config.image_size, config.image_size).round()  # levels of all
    labels = torch.arange(3) % (getattr(config, "num_classes", 0) or config.num_labels)
    inputs = {"labels": labels} if family.name == "classifier" or getattr(config, "num_classes", 0) else {}
    outputs = []
    for each in (model, loaded):
        torch.manual_seed(1)
        outputs.append(dict(each(first, **inputs)))
    assert outputs[0].keys() == outputs[1].keys()
    for name, tensor in outputs[0].items():
        torch.testing.assert_close(
            tensor, outputs[1][name], equal_nan=True, msg=lambda text, name=name: f"{name} {text}"
        )


@families
@repeatable
@given(data=st.data())
def test_a_config_says_what_is_wrong_or_its_model_works(family, data):
    check_config(family, data)


@pytest.mark.slow
@families
@thorough
@given(data=st.data())
def test_a_thousand_configs(family, data):
    check_config(family, data)


def check_command_line(recipe: str, data):
    types = [each.annotation for each in inspect.signature(load_recipe(recipe).main).parameters.values()]
    names = [name for kind in types for name in kind.__dataclass_fields__]
    argv, given = [], data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    for name in given:
        value = data.draw(st.sampled_from(VALUES))
        argv += data.draw(st.sampled_from([[f"--{name}", value], [f"--{name}={value}"], [f"--{name}"]]))
    try:
        parse_arguments(types, argv)
    except UsageError as error:
        assert len(str(error).splitlines()) <= 1, (argv, str(error))
        named = set(re.findall(r"--(\w+)", str(error))) & set(given)
        assert named or str(error).startswith("-- is not a flag"), (argv, str(error))


@pytest.mark.parametrize("recipe", every_recipe.FLAGS)
@repeatable
@given(data=st.data())
def test_a_command_line_says_in_a_line_what_is_wrong_or_is_taken(recipe, data):
    check_command_line(recipe, data)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", every_recipe.FLAGS)
@thorough
@given(data=st.data())
def test_a_thousand_command_lines(recipe, data):
    check_command_line(recipe, data)


def test_the_page_says_how_many_are_drawn(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "reliability.md").read_text(encoding="utf-8")
    counted = re.findall(r"(\d+) (random command lines a recipe|a family), slow: ([\d,]+)", page)
    drawn = str(repeatable.max_examples), f"{thorough.max_examples:,}"
    assert {what: numbers for few, what, many in counted for numbers in [(few, many)]} == {
        "random command lines a recipe": drawn,
        "a family": drawn,
    }

"""Flags from the fields of a model's configuration, so that neither has a second list of the other's."""

import inspect
import re
from collections.abc import Collection
from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any, get_args, get_origin

from transformers import PreTrainedConfig

from .arguments import Flags, flag


def config_flags(
    config_class: type, without: Collection[str] = (), *, class_name: str = "Model", **defaults: Any
) -> type[Flags]:
    """
    A dataclass of flags: one for each field that a configuration adds to its base, with its name, type and
    default, the text of its docstring, and of the field's `metadata` its `range`, `only` and `empty` as `flag` has
    them.

    Args:
        config_class: a dataclass whose docstring has a section `Args:`.
        without: fields that the data decides.
        class_name: of the dataclass, which tells the flags' group in `--help`.
        defaults: by name, in place of the configuration's own.

    Returns:
        A dataclass for `parse_arguments`, derived from `Flags`.

    Raises:
        ValueError: for a name that is no field, or a field without a text.
    """
    inherited = {each.name for base in config_class.__mro__[1:] if hasattr(base, "__dataclass_fields__")
                 for each in fields(base)}  # fmt: skip
    own = {each.name: each for each in fields(config_class) if each.name not in inherited}
    if unknown := sorted({*without, *defaults} - own.keys()):
        raise ValueError(f"{config_class.__name__} has no field {', '.join(unknown)}")
    texts, flags = _texts(config_class), []
    for name, each in own.items():
        if name in without:
            continue
        if name not in texts:
            raise ValueError(f"{config_class.__name__}.{name} has no text in the docstring")
        default = each.default if each.default is not MISSING else each.default_factory()
        default = defaults.get(name, default)
        default = list(default) if isinstance(default, tuple) else default
        told = {"allowed": each.metadata.get("range"), "only": each.metadata.get("only")}
        told |= {"empty": each.metadata.get("empty", False)}
        flags.append((name, _type(each.type), flag(default, texts[name], **told)))
    of_model = issubclass(config_class, PreTrainedConfig)
    return make_dataclass(class_name, flags, bases=(Flags,), namespace={"OF_TRAINED": of_model})


def with_defaults(flags: type[Flags], **defaults: Any) -> type[Flags]:
    """
    A base for a recipe's dataclass: the flags of another with defaults of its own, their texts and ranges as they are.

    Args:
        flags: the dataclass of flags.
        defaults: of its flags, by name.

    Returns:
        A dataclass derived from `flags`, of the same name.

    Raises:
        ValueError: for a name that is no flag.
    """
    known = {each.name: each for each in fields(flags)}
    if unknown := sorted(defaults.keys() - known.keys()):
        raise ValueError(f"{flags.__name__} has no flag {', '.join(unknown)}")
    own = [(name, known[name].type, field(default=value, metadata=known[name].metadata))
           for name, value in defaults.items()]  # fmt: skip
    return make_dataclass(flags.__name__, own, bases=(flags,))


def _texts(config_class: type) -> dict[str, str]:
    """What the docstring says of each argument, without markup, on one line."""
    section = re.split(r"^(?:Args|Raises):$", inspect.getdoc(config_class), flags=re.M)[1]
    texts = {}
    for name, text in re.findall(r"^    (\w+) \([^\n]*?\): (.+?)(?=^    \w|\Z)", section, re.M | re.S):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(text.split())).replace("`", "")
        texts[name] = plain.rstrip(".").replace("%", "%%")
    return texts


def _type(annotation: Any) -> Any:
    """A configuration takes tuples for lists and whole numbers for floats; a command line gives lists and floats."""
    if set(get_args(annotation)) == {float, int}:
        return float
    lists = (each for each in get_args(annotation) if get_origin(each) is list)
    return next((list[_type(*get_args(each))] for each in lists), annotation)

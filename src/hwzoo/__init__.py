"""hwzoo: the classic deep-learning systems as Hub-compatible, trained and measured models."""

from importlib import import_module
from importlib.metadata import version

from . import models
from .models import *  # noqa: F403

__version__ = version("hwzoo")

# Imported when first asked for, as `hwzoo.data`: each costs what `import hwzoo` alone need not.
_LAZY = ("continual", "data", "diffusion", "generators", "hub", "metrics", "page", "scoring", "text", "training")

__all__ = ["__version__", *models.__all__]


def __getattr__(name: str):
    if name in _LAZY:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})

"""hwzoo: the classic deep-learning systems as Hub-compatible, trained and measured models."""

from importlib.metadata import version

from . import models
from .models import *  # noqa: F403

__version__ = version("hwzoo")

__all__ = ["__version__", *models.__all__]

"""A page to play with models: what each of them offers as controls, and nothing of the host to be had."""

from . import texts  # registers its controls
from .app import SECONDS, build, serve
from .controls import CONTROLS, Control, register
from .entries import Entry, load_entries
from .space import HUB_ID, hub_ids, make_space, push_space

__all__ = ["CONTROLS", "HUB_ID", "SECONDS", "Control", "Entry", "build", "hub_ids", "load_entries", "make_space"]
__all__ += ["push_space", "register", "serve", "texts"]

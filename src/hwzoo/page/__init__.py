"""A page to play with models: what each of them offers as controls, and nothing of the host to be had."""

from . import texts  # registers its controls
from .app import SECONDS, build, check_port, gradio, serve
from .controls import CONTROLS, Control, register
from .entries import Entry, load_entries
from .space import hub_ids, make_space, push_space

__all__ = [
    "CONTROLS",
    "SECONDS",
    "Control",
    "Entry",
    "build",
    "check_port",
    "gradio",
    "hub_ids",
    "load_entries",
    "make_space",
]
__all__ += ["push_space", "register", "serve", "texts"]

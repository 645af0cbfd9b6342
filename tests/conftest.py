"""What holds for every test."""

import functools
import gc
import logging
import os
import sys
import warnings

import no_power_cut  # noqa: F401
import pytest

# No test waits for a network. The libraries read it once, at their import; `-m reproduce` with data sets from the Hub
# needs HF_HUB_OFFLINE=0.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tiny networks are slower on many threads than on one, above all when something else runs beside the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore = ["new_family"]  # what models/test_new_family.py puts outside the repository
LIBRARIES = {"accelerate", "datasets", "diffusers", "huggingface_hub", "peft", "transformers"}
# What these libraries deprecate, and who uses it nevertheless, as it is not the zoo.
NOT_OURS = {
    "`is_gradient_checkpointing` is deprecated": "PEFT 0.21 asks it of every base that it wraps",
}
deprecations: list[str] = []


def note(library: str, message: object, deprecated: bool):
    deprecated = deprecated or "deprecat" in str(message).lower()
    if deprecated and library.split(".")[0] in LIBRARIES and not any(each in str(message) for each in NOT_OURS):
        deprecations.append(f"{library}: {message}")


# Where they are made, as a filter sees a warning once, and the name of whoever called; and some libraries log theirs.
def watched_warn(message, category=None, stacklevel=1, *args, original=warnings.warn, **kwargs):
    kind = category or (type(message) if isinstance(message, Warning) else UserWarning)
    library = sys._getframe(1).f_globals.get("__name__", "")
    note(library, message, issubclass(kind, (DeprecationWarning, FutureWarning, PendingDeprecationWarning)))
    return original(message, category, stacklevel + 1, *args, **kwargs)


@functools.wraps(logging.Logger.warning)
def watched_warning(self, message, *args, original=logging.Logger.warning, **kwargs):
    note(self.name, message, False)
    return original(self, message, *args, **kwargs | {"stacklevel": kwargs.get("stacklevel", 1) + 1})


warnings.warn, logging.Logger.warning = watched_warn, watched_warning


def pytest_collection_finish():
    """What the tests have imported stays: no collection of garbage, as trainers ask for, looks through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def unfrozen():
    """The collector of garbage as a program finds it."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        result = yield
    finally:
        found = list(dict.fromkeys(deprecations))
        deprecations.clear()
    if found:
        pytest.fail("deprecated, and not in NOT_OURS of tests/conftest.py:\n" + "\n".join(found), pytrace=False)
    return result

"""A deprecation of one of the libraries fails the test in which it is used."""

import subprocess
import sys
from pathlib import Path

USES = """
import logging, warnings
import pytest
from transformers.utils import logging as of_transformers
from transformers.utils.deprecation import deprecate_kwarg

@deprecate_kwarg("old", version="99.0", new_name="new")
def renamed(new):
    return new

def test_a_warning():
    assert renamed(old=3) == 3

def test_a_line_of_a_log_even_a_quiet_one():
    of_transformers.set_verbosity_error()
    of_transformers.get_logger("transformers.x").warning_once("`old` is deprecated")

def test_what_is_neither():
    warnings.warn("ours", FutureWarning)
    assert renamed(new=3) == 3
    logging.getLogger("mine").warning("deprecated")
"""


def test_a_deprecation_fails_the_test_that_uses_it(tmp_path):
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_uses.py").write_text(USES)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert "2 failed, 1 passed" in done.stdout, done.stdout
    assert "transformers.utils.deprecation: `old` is deprecated and will be removed in version 99.0" in done.stdout
    assert "transformers.x: `old` is deprecated" in done.stdout

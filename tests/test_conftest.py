"""A deprecation of one of the libraries fails the test in which it is used."""

import signal
import sys
import time
from pathlib import Path

import pytest
import warm
from recipe_runs import finish, start

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
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", tmp_path]
    done = warm.run(command, cwd=tmp_path)
    assert "2 failed, 1 passed" in done.stdout, done.stdout
    assert "transformers.utils.deprecation: `old` is deprecated and will be removed in version 99.0" in done.stdout
    assert "transformers.x: `old` is deprecated" in done.stdout


def test_what_does_not_end_tells_where_it_stands(tmp_path):
    """Itself, and what it started in groups of their own, as torchrun does; all of it is ended."""
    (tmp_path / "inner.py").write_text(
        "import pathlib, sys, time\ndef waits_inside():\n"
        "  pathlib.Path(sys.argv[1]).touch()\n  time.sleep(600)\nwaits_inside()"
    )
    (tmp_path / "outer.py").write_text(
        "import subprocess, sys\ndef waits_outside():\n"
        "  subprocess.run([sys.executable, *sys.argv[1:]], start_new_session=True)\nwaits_outside()"
    )
    process = start([sys.executable, *(str(tmp_path / name) for name in ("outer.py", "inner.py", "ready"))])
    while not (tmp_path / "ready").exists():
        time.sleep(0.05)
    with pytest.raises(AssertionError, match="not ended after 0.1 s") as told:
        finish(process, timeout=0.1)
    assert all(f" in {name}\n" in str(told.value) for name in ("waits_inside", "waits_outside"))
    assert process.returncode == -signal.SIGABRT

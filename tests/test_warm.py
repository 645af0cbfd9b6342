"""A command of `warm` is the command that a new interpreter runs."""

import os
import subprocess
import sys

import pytest
import warm

PROGRAM = """
import json, os, sys, huggingface_hub.constants as hub
told = [__name__, sys.argv, sys.path[0], os.getcwd(), sys.stdin.read(), hub.ENDPOINT, os.environ.get("ONE")]
print(json.dumps(told))
print("é", file=sys.stderr)
if sys.argv[1] == "raises":
    raise ValueError("no")
sys.exit({"7": 7, "words": "words"}.get(sys.argv[1]))
"""


@pytest.mark.parametrize("kind, argument", [("-c", "0"), ("-m", "7"), ("file", "words"), ("-c", "raises")])
def test_it_gives_what_a_new_interpreter_gives(kind, argument, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "program.py").write_text(PROGRAM)
    command = {"-c": ["-c", PROGRAM], "-m": ["-m", "program"], "file": [str(tmp_path / "program.py")]}[kind]
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:1/{argument}",
        "ONE": "1",
        "PYTHONPATH": str(tmp_path),
    }
    given = {"env": environment, "cwd": tmp_path / "a", "input": "given"}
    done = warm.run([*command, argument], **given)
    expected = subprocess.run([sys.executable, *command, argument], capture_output=True, text=True, **given)
    assert (done.returncode, done.stdout) == (expected.returncode, expected.stdout)
    last = (done.stderr.splitlines() or [""])[-1]
    assert last == expected.stderr.splitlines()[-1] and done.returncode == {"0": 0, "7": 7}.get(argument, 1)


def test_commands_share_nothing_and_one_that_hangs_tells_where():
    assert warm.run(["-c", "import os, sys; sys.here = 1; os.environ['HERE'] = '1'"], check=True).stdout == ""
    assert (
        warm.run(["-c", "import os, sys; print(hasattr(sys, 'here'), 'HERE' in os.environ)"]).stdout == "False False\n"
    )
    done = warm.run(["-c", "import time\ntime.sleep(60)"], timeout=0.5)
    assert done.returncode == -6 and "line 2" in done.stderr
    with pytest.raises(subprocess.CalledProcessError):
        warm.run(["-c", "import os; os.kill(os.getpid(), 9)"], check=True)

"""docs/reliability.md counts the tests that are there."""

import re
from collections import Counter

import pytest
import warm

# By the beginning of a row: the tests of each number in its last column.
TESTS = {
    "SIGTERM, SIGINT and SIGHUP save": (
        "a_signal_saves_and_tells_how_to_go_on a_hangup_saves_and_leaves a_hangup_under_nohup_is_nothing "
        "a_second_signal_leaves_at_once",
        "a_signal_after_the_last_step_tells_how_to_go_on",
    ),
    "The console is not the run": ("the_console_is_not_the_run",),
    "A full disk costs nothing that was saved": ("a_full_disk_costs_nothing_that_was_saved",),
    "A folder belongs to one run": ("a_run_keeps_its_folder_for_itself",),
}
RECIPES = {"for each loop": ("train_vae", "train_t5"), "for `train_vae.py`": ("train_vae",)}


@pytest.mark.long
def test_its_column_counts_what_is_collected(pytestconfig):
    root = pytestconfig.rootpath
    (marks,) = re.findall(r'pytest -q -m "(.+)"', (root / ".ci" / "run").read_text(encoding="utf-8"))
    command = ["-m", "pytest", "--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", marks]
    files = [f"tests/reliability/test_{name}.py" for name in ("folder", "kill")]
    listed = warm.run([*command, *files], cwd=root, timeout=900, check=True).stdout
    collected = Counter(re.findall(r"::test_(\w+)\[(?:\w+-)?(train_\w+)\]", listed))
    page = (root / "docs" / "reliability.md").read_text(encoding="utf-8")
    for begin, groups in TESTS.items():
        (cell,) = re.findall(rf"^\| \*\*{begin}.* \| (.+) \|$", page, re.MULTILINE)
        numbers, recipes = re.match(r"(\d+(?: and \d+)*) (for each loop|for `train_vae\.py`)", cell).groups()
        for number, tests in zip(numbers.split(" and "), groups, strict=True):
            found = Counter(recipe for test, recipe in collected.elements() if test in tests.split())
            assert found == dict.fromkeys(RECIPES[recipes], int(number)), begin

"""The lowest versions are those that .ci/oldest runs, but for those of the documentation, which it does not build."""

import re
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parents[1]


def test_the_constraints_are_the_lower_bounds():
    allowed = re.findall(r'"([\w-]+)>=([\d.]+)', (ROOT / "pyproject.toml").read_text().split("[project]")[1])
    run = re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / ".ci/oldest.txt").read_text(), re.M)
    assert len(run) > 20 and {name: Version(version) for name, version in run} == {
        name: Version(version) for name, version in allowed if name not in ("requires-python", "mkdocs-material")
    }


def test_every_dependency_has_both_bounds():
    text = (ROOT / "pyproject.toml").read_text()
    dependencies = re.findall(r'^    "(.*)",$', text.split("\ndependencies = [")[1].split("\n]")[0], re.M)
    assert len(dependencies) > 15
    assert not [each for each in dependencies if not re.fullmatch(r"[\w-]+>=[\d.]+,<[\d.]+", each)]

"""The packages of hwzoo as its attributes, imported when first asked for."""

import subprocess
import sys

import pytest

import hwzoo

CODE = """
import sys
import hwzoo
later = {"hwzoo.data", "hwzoo.metrics", "hwzoo.scoring", "hwzoo.training", "hwzoo.generators"}
assert not later & set(sys.modules), later & set(sys.modules)
assert set(hwzoo._LAZY) <= set(dir(hwzoo))
assert len(hwzoo.data.load_images("digits").test) == 297
assert callable(hwzoo.hub.load) and callable(hwzoo.metrics.frechet_distance)
assert "ddpm" in hwzoo.diffusion.SCHEDULERS
"""


@pytest.mark.long
def test_they_are_there_and_not_before_they_are_asked_for():
    ended = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'hwzoo' has no attribute 'nothing'"):
        getattr(hwzoo, "nothing")  # noqa: B009

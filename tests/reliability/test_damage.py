"""Checkpoints whose files were damaged or exchanged are skipped by name or refused; nothing of them is executed."""

import json
import logging
import pickle
import shutil
from pathlib import Path

import every_recipe
import pytest

from hwzoo.files import sha256
from hwzoo.training import Checkpoints
from hwzoo.training.checkpoint import _digest

RESUME = "--resume_from_checkpoint=latest"


class Payload:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


DAMAGES = {
    "missing": None,
    "emptied": lambda data: b"",
    "truncated": lambda data: data[:-7],
    "flipped": flipped,
    "lengthened": lambda data: data + b"\0",
}


def damaged(path: Path, damage):
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))


@every_recipe.ONE_OF_EACH_LOOP
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_taken(recipe, straight, tmp_path, caplog):
    """Every file of a checkpoint in every way."""
    before, last = Checkpoints(straight[0] / "checkpoints").paths()[-2:]
    folder = tmp_path / "checkpoints"
    shutil.copytree(straight[0] / "checkpoints", folder)
    names = [path.name for path in last.iterdir()]
    assert len(names) >= 3
    for name in names:
        for damage in DAMAGES.values():
            damaged(folder / last.name / name, damage)
            caplog.clear()
            with caplog.at_level(logging.WARNING, "hwzoo"):
                found = Checkpoints(folder).read_latest()
            assert found.path.name == before.name, (name, damage)
            assert last.name in caplog.text and name in caplog.text
            shutil.copyfile(last / name, folder / last.name / name)
            assert Checkpoints(folder).read_latest().path.name == last.name


@every_recipe.ONE_OF_EACH_LOOP
def test_a_run_goes_on_from_the_checkpoint_before_the_damaged_one(recipe, straight, tmp_path):
    shutil.copytree(straight[0], tmp_path / "run")
    before, last = Checkpoints(tmp_path / "run" / "checkpoints").paths()[-2:]
    name = max((path for path in last.iterdir()), key=lambda path: path.stat().st_size).name
    damaged(last / name, flipped)
    ended = every_recipe.run(recipe, tmp_path / "run", RESUME)
    assert ended.status == 0, ended.error
    assert "WARNING" in ended.error and name in ended.error and last.name in ended.error
    assert Checkpoints(tmp_path / "run" / "checkpoints").read_latest().path.name == last.name  # written anew


@every_recipe.ONE_OF_EACH_LOOP
@pytest.mark.parametrize("of_torch", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_pickle_in_place_of_any_file_is_not_executed(of_torch, recipe, straight, tmp_path):
    """Even where somebody has made the digests fit."""
    last = Checkpoints(straight[0] / "checkpoints").paths()[-2]  # the training goes on from it
    marker = tmp_path / "executed"
    payload = pickle.dumps(Payload(marker))
    pickle.loads(payload)
    assert marker.exists()
    marker.unlink()
    names = sorted(path.name for path in last.iterdir() if path.name != "manifest.json")
    names = [name for name in names if name.endswith((".pt", ".pth")) == of_torch]  # torch's could hold one
    assert names
    for name in names:
        folder = tmp_path / name
        shutil.copytree(straight[0], folder)
        path = folder / "checkpoints" / last.name
        (path / name).write_bytes(payload)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"][name] = {"size": len(payload), "sha256": sha256(payload)}
        del manifest["sha256"]
        manifest["sha256"] = _digest(manifest)
        (path / "manifest.json").write_text(json.dumps(manifest))
        ended = every_recipe.run(recipe, folder, f"--resume_from_checkpoint={path}")
        assert not marker.exists(), name
        if ended.status == 0:  # a file that nothing of a resumed run is read from
            assert not name.endswith((".pt", ".pth", ".safetensors"))
        else:
            assert ended.status in (1, 2) and "Traceback" not in ended.error, ended.error
            assert ended.error.splitlines()[-1].startswith("error: ")

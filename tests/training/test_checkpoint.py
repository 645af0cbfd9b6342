import errno
import hashlib
import json
import logging
import os
import pickle
import random
import shutil

import numpy as np
import pytest
import torch

from hwzoo.errors import HwzooError, UsageError
from hwzoo.training import Checkpoint, Checkpoints, CorruptCheckpoint
from hwzoo.training import checkpoint as checkpoint_module
from hwzoo.training.checkpoint import random_state, set_random_state


def new_state(seed: int = 0) -> dict:
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for _ in range(3):
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
    return {"model": model, "optimizer": optimizer, "lr_scheduler": scheduler}


def saved(folder, *steps: int, limit: int | None = None) -> Checkpoints:
    checkpoints = Checkpoints(folder, limit)
    for step in steps:
        checkpoints.save(step, new_state(step), {"runtime": float(step)}, {"recipe": "x"}, [random_state()])
    return checkpoints


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def test_everything_comes_back(tmp_path):
    checkpoint = saved(tmp_path, 5).read_latest()
    state = new_state(99)
    progress, rng = checkpoint.load(state)
    assert (checkpoint.step, checkpoint.identity, progress, len(rng)) == (5, {"recipe": "x"}, {"runtime": 5.0}, 1)
    for name, item in new_state(5).items():
        assert same(item.state_dict(), state[name].state_dict()), name


def test_random_states_come_back(tmp_path):
    def draw():
        return random.random(), np.random.normal(size=3).tolist(), torch.randn(3).tolist()

    draw()
    saved(tmp_path, 1)
    first = draw()
    _, rng = Checkpoint(tmp_path / "step-00000001").load(new_state())
    set_random_state(rng[0])
    assert draw() == first


def test_the_newest_are_kept(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 9, 10, limit=2)
    assert [path.name for path in checkpoints.paths()] == ["step-00000009", "step-00000010"]


def test_an_old_one_that_cannot_be_removed_ends_no_training(tmp_path, monkeypatch, caplog):
    def rmtree(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    monkeypatch.setattr("hwzoo.training.checkpoint.shutil.rmtree", rmtree)
    checkpoints = saved(tmp_path, 1, 2, limit=1)
    assert checkpoints.read_latest().step == 2
    assert f"{tmp_path / 'step-00000001'} cannot be removed: {os.strerror(errno.EBUSY)}" in caplog.text
    with pytest.raises(HwzooError, match="cannot write .*step-00000002: "):  # which a resume would take for the latest
        saved(tmp_path, 1, limit=1)


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HwzooError, match=f"^cannot write {tmp_path / 'file' / 'checkpoints'}: "):
        saved(tmp_path / "file" / "checkpoints", 1)


FILES = ["model.safetensors", "state.pt", "manifest.json"]
DAMAGE = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "a bit flipped": lambda path: path.write_bytes(flip(path.read_bytes())),
    "removed": lambda path: path.unlink(),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Payload())),
}


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


class Payload:
    executed = False

    def __reduce__(self):
        return setattr, (Payload, "executed", True)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_with_a_warning_that_names_the_file(name, damage, tmp_path, caplog):
    checkpoints = saved(tmp_path, 1, 2)
    DAMAGE[damage](tmp_path / "step-00000002" / name)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.read_latest().step == 1
    assert str(tmp_path / "step-00000002" / name) in caplog.text and len(caplog.records) == 1
    with pytest.raises(CorruptCheckpoint, match=name):
        Checkpoint(tmp_path / "step-00000002")
    assert not Payload.executed


def test_every_bit_of_the_manifest_counts(tmp_path):
    saved(tmp_path, 1)
    path = tmp_path / "step-00000001" / "manifest.json"
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        for bit in (1, 2, 4):
            changed = data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :]
            path.write_bytes(changed)
            try:
                checkpoint = Checkpoint(path.parent)
            except CorruptCheckpoint:
                continue
            # White space may differ: then the content is the same.
            assert checkpoint.step == 1 and checkpoint.identity == {"recipe": "x"}


def test_a_foreign_pickle_with_a_fitting_manifest_is_not_executed(tmp_path, monkeypatch):
    real = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: real({**content, "objects": Payload()}, file))
    saved(tmp_path, 1)
    with pytest.raises(CorruptCheckpoint, match="not a checkpoint of this library"):
        Checkpoint(tmp_path / "step-00000001").load(new_state())
    assert not Payload.executed


def test_another_architecture_or_set_of_objects_is_refused(tmp_path):
    checkpoint = saved(tmp_path, 1).read_latest()
    with pytest.raises(UsageError, match="model does not fit this run"):
        checkpoint.load({**new_state(), "model": torch.nn.Linear(3, 3)})
    with pytest.raises(UsageError, match="this run needs model$"):
        checkpoint.load({"model": new_state()["model"]})


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    state = new_state()
    with torch.no_grad():
        state["model"][0].weight[0, 0] = torch.nan
    with pytest.raises(HwzooError, match="model.0.weight is not finite after step 7"):
        Checkpoints(tmp_path / "c").save(7, state, {}, {}, [])
    assert not (tmp_path / "c").exists()


def test_none_and_unrelated_folders(tmp_path):
    assert Checkpoints(tmp_path / "nothing").read_latest() is None
    (tmp_path / "step-final").mkdir()
    (tmp_path / ".unfinished-step-00000003").mkdir()
    checkpoints = saved(tmp_path, 1)
    assert [path.name for path in checkpoints.paths()] == ["step-00000001"]
    checkpoints.clear()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-final"]


def test_after_going_back_the_new_checkpoint_stays_and_the_future_goes(tmp_path, caplog):
    checkpoints = saved(tmp_path, 2, 4, 6, limit=2)
    saved(tmp_path, 3, limit=2)
    assert checkpoints.read_latest().step == 3
    assert "step-00000006 is removed" in caplog.text


def test_a_whole_checkpoint_is_replaced_only_by_a_whole_one(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)
    before = (tmp_path / "step-00000001" / "manifest.json").read_bytes()
    monkeypatch.setattr("hwzoo.training.checkpoint.json.dumps", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        saved(tmp_path, 1)
    monkeypatch.undo()
    assert (tmp_path / "step-00000001" / "manifest.json").read_bytes() == before
    saved(tmp_path, 1)
    assert checkpoints.read_latest().step == 1 and len(list(tmp_path.iterdir())) == 1


def with_manifest(folder, **changes):
    """A checkpoint whose manifest says something else, with a fitting digest."""
    path = folder / "step-00000001" / "manifest.json"
    manifest = {**json.loads(path.read_bytes()), **changes}
    del manifest["sha256"]
    manifest["sha256"] = checkpoint_module._digest(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("content", ["[]", "1", "null", '"a"', '{"sha256": 3}'])
def test_a_manifest_of_another_kind_is_no_checkpoint(content, tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "step-00000001" / "manifest.json").write_text(content)
    with pytest.raises(CorruptCheckpoint, match="manifest.json is cut off or altered"):
        Checkpoint(tmp_path / "step-00000001")


@pytest.mark.parametrize(
    "changes",
    [{"step": "x"}, {"files": []}, {"identity": None}, {"files": {"state.pt": 3}}, {"files": {"state.pt": {}}}],
)
def test_a_manifest_that_makes_no_sense_is_no_checkpoint(changes, tmp_path):
    saved(tmp_path, 1)
    with_manifest(tmp_path, **changes)
    with pytest.raises(CorruptCheckpoint):
        Checkpoint(tmp_path / "step-00000001")


def test_nothing_outside_of_the_folder_is_read(tmp_path):
    saved(tmp_path, 1)
    secret = b"secret"
    (tmp_path / "secret").write_bytes(secret)
    entry = {"size": len(secret), "sha256": hashlib.sha256(secret).hexdigest()}
    for name in ("../secret", str(tmp_path / "secret")):
        with_manifest(tmp_path, files={name: entry})
        with pytest.raises(CorruptCheckpoint, match="secret"):
            Checkpoint(tmp_path / "step-00000001")


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    (tmp_path / ".unfinished-step-00000003").mkdir()
    saved(tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004"]


def test_a_damaged_newer_checkpoint_is_written_over(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "state.pt").write_bytes(b"")
    saved(tmp_path, 2)
    assert checkpoints.read_latest().step == 2
    shutil.rmtree(tmp_path / "step-00000002")

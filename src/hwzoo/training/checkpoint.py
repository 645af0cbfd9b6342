"""Checkpoints that check themselves: each a folder that is whole or absent, with the digest of every file in it."""

import io
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from ..errors import HwzooError, UsageError, first_line
from ..files import UNFINISHED, remove_unfinished, replacing, sha256, writing

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class CorruptCheckpoint(HwzooError):
    """A checkpoint that is cut off, altered or none at all; the message names the file."""


class Checkpoints:
    """
    The checkpoints of a run, `step-00000500` and so on in one folder.

    A checkpoint holds the weights of each `torch.nn.Module` in `state` as safetensors, what the other objects'
    `state_dict` gives, the random state of Python, NumPy and torch in `state.pt` (read with `weights_only=True`), and
    a manifest with the SHA-256 digest of each file and its own.

    Args:
        folder: where they are.
        limit: how many are kept, the newest; all when None.
    """

    def __init__(self, folder: Path, limit: int | None = None):
        self.folder = Path(folder)
        self.limit = limit

    def save(self, step: int, state: dict[str, Any], progress: dict[str, Any], identity: dict[str, Any], rng: list):
        """
        Writes the checkpoint of a step, then removes the oldest ones beyond the limit.

        Args:
            step: optimiser steps done; the folder's name.
            state: by name, modules (saved as safetensors) and what else has a `state_dict` (saved by torch).
            progress: what the loop itself needs to go on, values that `torch.load` reads with weights_only.
            identity: what a resumed run must share with this one, JSON values by name.
            rng: the state of the random generators of each process.

        Raises:
            HwzooError: when it cannot be written, or a weight is not finite; the earlier ones stay.
        """
        files, rest = {}, {}
        for name, item in state.items():
            if isinstance(item, torch.nn.Module):
                weights = {key: tensor.detach().cpu().contiguous() for key, tensor in item.state_dict().items()}
                for key, tensor in weights.items():
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        raise HwzooError(
                            f"{name}.{key} is not finite after step {step}; the checkpoint is not written"
                        )
                files[f"{name}.safetensors"] = safetensors.torch.save(weights)
            else:
                rest[name] = item.state_dict()
        buffer = io.BytesIO()
        torch.save({"objects": rest, "progress": progress, "rng": rng}, buffer)
        files["state.pt"] = buffer.getvalue()
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(self.folder)  # of a run that was killed while it wrote one
        with self._at(step) as staging:
            staging.mkdir()
            for name, data in files.items():
                (staging / name).write_bytes(data)
            _write_manifest(staging, files.items(), step, identity)

    def adopt(
        self, written: Path, step: int, progress: dict[str, Any], identity: dict[str, Any], keep: Collection[int] = ()
    ):
        """
        Makes a folder of files that something else wrote (transformers' Trainer) the checkpoint of a step, by a
        manifest and a rename, then removes the oldest ones beyond the limit.

        Args:
            written: the folder, beside the checkpoints.
            step: optimiser steps done; the folder's name.
            progress: JSON values that the manifest holds; a checkpoint's `progress`.
            identity: what a resumed run must share with this one, JSON values by name.
            keep: steps whose checkpoints stay, beyond the limit.

        Raises:
            HwzooError: when it cannot be written; the earlier ones stay.
        """
        remove_unfinished(self.folder)
        with self._at(step, keep) as staging:
            os.replace(written, staging)
            paths = sorted(staging.iterdir())
            _write_manifest(staging, ((path.name, path.read_bytes()) for path in paths), step, identity, progress)

    @contextmanager
    def _at(self, step: int, keep: Collection[int] = ()) -> Iterator[Path]:
        """Yields where to write the folder of a step; then it replaces an old one, and those in excess are removed."""
        path = self.folder / f"step-{step:08d}"
        with replacing(path) as staging:
            yield staging
            if path.exists():  # after going back: a folder that holds something cannot be replaced in one step
                os.replace(path, path.with_name(f"{UNFINISHED}old-{path.name}"))
        remove_unfinished(self.folder)
        for newer in self.paths():
            if _step_of(newer) > step:
                logger.warning("%s is removed: the run went back and is now at step %d", newer, step)
                with writing(newer):  # left, it would be taken for the latest
                    shutil.rmtree(newer)
        if self.limit is not None:
            for old in self.paths()[: -self.limit]:
                if _step_of(old) not in keep:
                    try:
                        shutil.rmtree(old)
                    except OSError as error:  # of a file in use on a network's disk: no reason to end a training
                        logger.warning("%s cannot be removed: %s", old, error.strerror)

    def paths(self) -> list[Path]:
        """The checkpoint folders, oldest first."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else []
        return sorted((path for path in found if re.fullmatch(r"step-\d+", path.name)), key=_step_of)

    def clear(self):
        """Removes all checkpoints, those of an earlier run."""
        remove_unfinished(self.folder)
        for path in self.paths():
            shutil.rmtree(path)

    def read_latest(self) -> "Checkpoint | None":
        """The newest whole checkpoint; warns of each newer one that is not; None when there is none."""
        for path in reversed(self.paths()):
            try:
                return Checkpoint(path)
            except CorruptCheckpoint as error:
                logger.warning("%s; the checkpoint before it is used", error)
        return None


class Checkpoint:
    """
    One checkpoint, read into memory and verified against its manifest.

    Raises:
        CorruptCheckpoint: naming the file that is missing, cut off or altered.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        manifest = self._manifest()
        self.step: int = manifest["step"]
        self.identity: dict[str, Any] = manifest["identity"]
        self.progress: dict[str, Any] = manifest.get("progress", {})
        # The bytes that were verified are the bytes that are loaded: the files are read once.
        self._files = {name: self._verified(name, entry) for name, entry in manifest["files"].items()}

    def load(self, state: dict[str, Any]) -> tuple[dict[str, Any], list]:
        """
        Gives each object of `state` what it had when the checkpoint was taken.

        Returns:
            The loop's own progress, and the random state of each process.

        Raises:
            CorruptCheckpoint: when a file holds something other than tensors and plain values; nothing in it is run.
            UsageError: when the checkpoint does not hold what `state` asks for (another architecture, say).
        """
        try:
            saved = torch.load(io.BytesIO(self._files["state.pt"]), map_location="cpu", weights_only=True)
            objects, progress, rng = saved["objects"], saved["progress"], saved["rng"]
            weights = {
                name.removesuffix(".safetensors"): safetensors.torch.load(data)
                for name, data in self._files.items()
                if name.endswith(".safetensors")
            }
        except Exception as error:  # whatever a foreign file makes the two readers raise
            reason = first_line(error)
            raise CorruptCheckpoint(f"{self.path}: not a checkpoint of this library ({reason})") from error
        names = {*objects, *weights}
        if names != set(state):
            raise UsageError(
                f"{self.path} holds {', '.join(sorted(names))}; this run needs {', '.join(sorted(state))}"
            )
        for name, item in state.items():
            try:
                item.load_state_dict(weights[name] if isinstance(item, torch.nn.Module) else objects[name])
            except (RuntimeError, ValueError, KeyError) as error:
                reason = " ".join(str(error).split())[:300]
                raise UsageError(f"{self.path}: {name} does not fit this run: {reason}") from error
        return progress, rng

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        """
        The weights of one of its modules.

        Args:
            name: of it in the run's `state`.

        Raises:
            UsageError: when it holds no such module.
            CorruptCheckpoint: when they cannot be read.
        """
        data = self._files.get(f"{name}.safetensors")
        if data is None:
            raise UsageError(f"{self.path} holds no weights of {name}")
        try:
            return safetensors.torch.load(data)
        except Exception as error:  # whatever a foreign file makes the reader raise
            raise CorruptCheckpoint(f"{self.path}: not a checkpoint of this library ({first_line(error)})") from error

    def unnamed_files(self) -> list[str]:
        """Files of its folder that its manifest does not name."""
        return sorted({path.name for path in self.path.iterdir()} - {*self._files, MANIFEST})

    def _manifest(self) -> dict[str, Any]:
        path = self.path / MANIFEST
        try:
            manifest = json.loads(path.read_bytes())
            whole = manifest.pop("sha256") == _digest(manifest)
            kinds = {"step": int, "identity": dict, "files": dict}
            if whole and all(isinstance(manifest[name], kind) for name, kind in kinds.items()):
                return manifest
        except OSError as error:
            raise CorruptCheckpoint(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, AttributeError, TypeError):
            pass  # cut off or altered, told below
        raise CorruptCheckpoint(f"{path} is cut off or altered")

    def _verified(self, name: str, entry: dict[str, Any]) -> bytes:
        path = self.path / name
        try:
            # Nothing outside of the folder, no device and nothing larger than it says is read.
            if name == Path(name).name and path.is_file() and path.stat().st_size == entry["size"]:
                data = path.read_bytes()
                if sha256(data) == entry["sha256"]:
                    return data
        except OSError as error:
            raise CorruptCheckpoint(f"{path}: {error.strerror}") from None
        except (KeyError, TypeError):
            pass  # an entry that is none, told below
        raise CorruptCheckpoint(f"{path} is {'cut off or altered' if path.exists() else 'missing'}")


def random_state() -> dict[str, Any]:
    """The state of the global generators of Python, NumPy and torch (each device), as tensors and plain values."""
    kind, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_state(state: dict[str, Any]):
    """Restores what `random_state` gave."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"][: torch.cuda.device_count()])  # there may be fewer now


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _write_manifest(
    folder: Path,
    files: Iterable[tuple[str, bytes]],
    step: int,
    identity: dict[str, Any],
    progress: dict[str, Any] | None = None,
):
    digests = {name: {"size": len(data), "sha256": sha256(data)} for name, data in files}
    manifest = {"step": step, "identity": identity, "progress": progress or {}, "files": digests}
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_bytes(json.dumps(manifest, indent=2).encode())


def _digest(manifest: dict[str, Any]) -> str:
    return sha256(json.dumps(manifest, sort_keys=True).encode())

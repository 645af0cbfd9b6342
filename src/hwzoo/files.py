"""Files and folders that are whole or absent: written beside their final name, flushed to the disk, then renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import HwzooError

# What an interrupted write leaves behind starts with this; nothing reads it, and `remove_unfinished` deletes it.
UNFINISHED = ".unfinished-"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    Yields a path to write a file or a new folder at; it appears as `path`, whole, when the block ends without an
    error.

    Raises:
        HwzooError: when the operating system refuses (disk full, no permission); what `path` held stays.
    """
    with _beside(path) as beside:
        yield beside
        _sync_all(beside)
        os.replace(beside, path)
        _sync(path.parent)


@contextmanager
def adding_to(folder: Path) -> Iterator[Path]:
    """
    Yields an empty folder to write files and folders into; each file is moved into `folder`, over a file of the same
    name, when the block ends without an error.

    Raises:
        HwzooError: when the operating system refuses (disk full, no permission); the files that `folder` held stay.
    """
    with _beside(folder / "files") as beside:
        beside.mkdir(parents=True)
        yield beside
        _sync_all(beside)
        for file in sorted(path for path in beside.rglob("*") if path.is_file()):
            target = folder / file.relative_to(beside)
            target.parent.mkdir(parents=True, exist_ok=True)
            # safetensors writes for the owner alone; who may read the folder may read its files.
            file.chmod(folder.stat().st_mode & 0o666)
            os.replace(file, target)
        _remove(beside)
        _sync(folder)


def write_bytes(path: Path, data: bytes):
    """Writes a file, whole or not at all; raises HwzooError when it cannot."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def write_json(path: Path, content: Any):
    """Writes JSON, whole or not at all; numbers must be finite (ValueError)."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_jsonl(path: Path, rows: Iterable[Any]):
    """Writes JSON Lines, one for each row, whole or not at all; numbers must be finite (ValueError)."""
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    write_bytes(path, "".join(lines).encode())


def remove_unfinished(folder: Path):
    """Deletes what interrupted writes left in a folder."""
    for path in folder.glob(UNFINISHED + "*"):
        _remove(path)


def sha256(data: bytes) -> str:
    """SHA-256 digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """
    Raises:
        HwzooError: naming `path`, where the operating system refuses (disk full, no permission).
    """
    try:
        yield
    except Exception as error:
        # safetensors tells the operating system's errors as its own, "... (os error 28)", torch as no system's.
        if isinstance(error, OSError) or "os error" in str(error) or "PytorchStreamWriter" in str(error):
            raise HwzooError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
        raise


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    beside = path.with_name(UNFINISHED + path.name)
    try:
        with writing(path):
            _remove(beside)
            yield beside
    except BaseException:
        _remove(beside)
        raise


def _remove(path: Path):
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_all(path: Path):
    for inside in path.rglob("*") if path.is_dir() else []:
        _sync(inside)
    _sync(path)


def _sync(path: Path):
    # Not every system lets a folder be opened (Windows); there the rename alone must do.
    if path.is_file() or os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""
Files and folders that are whole or absent: staged beside their final name, flushed to the disk, then renamed; and the
record of which files of an output folder a run made.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import HwzooError

logger = logging.getLogger("hwzoo")

# Names of data sets that come with the package or a library, whatever folders there are.
NAMED_DATA = {"digits", "mnist", "fashion_mnist", "words", "inflections", "scitldr"}
# What an interrupted write leaves behind starts with this; nothing reads it, and `remove_unfinished` deletes it.
UNFINISHED = ".unfinished-"
# The final files of a run, from when all are written until all are in their places.
FINAL = ".final"
# What a run makes on its way, a line for each file with its digest; a line without a file where a run begins anew.
MADE = ".made.jsonl"
# The digests of the final files of the last run that ended, and, by a name that no file has, those of what it had made
# on its way.
ENDED = ".ended.json"
ON_ITS_WAY = ""
# The folder of a run's checkpoints, in its own.
CHECKPOINTS = "checkpoints"
# The repositories that its card named, a line each, and, {"pushed": ...}, those that a folder was pushed to.
PUSHED = ".pushed.jsonl"
# What is not for others, as `hf upload` and git read it: the Hub leaves out what a folder's .gitignore names.
IGNORE = ".gitignore"
IGNORED = ("checkpoints/", "logs/", ".lock", MADE, ENDED, PUSHED, f"{FINAL}/", f"{UNFINISHED}*", IGNORE)
# By one of these a model is loaded; a folder without them holds none.
ENTRIES = ("config.json", "model_index.json", "adapter_config.json")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """
    Yields a path to write a file or a new folder at; it appears as `path`, whole, when the block ends without an
    error.

    Raises:
        HwzooError: when the operating system refuses (disk full, no permission); what `path` held stays.
    """
    with _staging(path) as staging:
        yield staging
        _sync_all(staging)
        os.replace(staging, path)
        _sync(path.parent)


@contextmanager
def adding_to(folder: Path) -> Iterator[Path]:
    """
    Yields an empty folder to write files and folders into; each file is moved into `folder`, over a file of the same
    name, when the block ends without an error.

    Raises:
        HwzooError: when the operating system refuses (disk full, no permission); the files that `folder` held stay.
    """
    with _staging(folder / "files") as staging:
        staging.mkdir(parents=True)
        yield staging
        _sync_all(staging)
        for file in _files(staging):
            target = folder / file.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            # safetensors writes for the owner alone; who may read the folder may read its files.
            file.chmod(folder.stat().st_mode & 0o666)
            os.replace(file, target)
        _remove(staging)
        _sync(folder)


@contextmanager
def renewing(folder: Path) -> Iterator[Path]:
    """
    Yields an empty folder to write the final files of a run into. When the block ends without an error they become
    `folder`'s together: whatever ends the process, `settled(folder)` has all the old ones or all the new ones, and
    `finish` completes what was begun. What an earlier run is recorded to have made, and this one has not, is removed;
    what was changed since keeps a copy, `README.yours.md` of `README.md`.

    Raises:
        HwzooError: when the operating system refuses (disk full, no permission); `folder` stays as it was.
    """
    with _staging(folder / FINAL) as staging:
        staging.mkdir(parents=True)
        yield staging
        for file in _files(staging):
            # safetensors writes for the owner alone; who may read the folder may read its files.
            file.chmod(folder.stat().st_mode & 0o666)
        _keep_changed(folder, staging)
        _sync_all(staging)
        os.replace(staging, folder / FINAL)
        _sync(folder)
    finish(folder)


def _keep_changed(folder: Path, staging: Path):
    """Copies what the user has changed of an earlier run's final files, and new ones would replace."""
    for name, digest in _ended(folder).items():
        path, new = folder / name, staging / name
        if not (path.is_file() and new.is_file()):
            continue
        if sha256(content := path.read_bytes()) not in (digest, sha256(new.read_bytes())):
            copies = (path.with_name(f"{path.stem}.yours{num}{path.suffix}") for num in ("", *range(2, 1000)))
            copy = next(each for each in copies if not each.exists() or each.read_bytes() == content)
            write_bytes(copy, content)
            logger.warning("%s was changed since its run; as it was it is now %s", path, copy.name)


def finish(folder: Path):
    """
    Brings the final files of a run that was interrupted while they took their places to the end; where there are none
    it does nothing.

    Raises:
        HwzooError: when the operating system refuses; another call goes on from there.
    """
    final = folder / FINAL
    if not final.is_dir():
        return
    _write_ignore(folder)
    with writing(folder):
        names = [file.relative_to(final).as_posix() for file in _files(final)]
        *earlier, last = _recorded(folder)
        stale = {name: digest for run in (*earlier, _ended(folder)) for name, digest in run.items()}
        # Without its entry no model is loaded here: never a configuration with the weights of another.
        if not set(names).isdisjoint(ENTRIES):
            for name in ENTRIES:
                (folder / name).unlink(missing_ok=True)
        remove_made(folder, {name: digest for name, digest in stale.items() if name not in last and name not in names})
        grown = [name for name in last if (folder / name).is_file()]
        on_its_way = {name: sha256((folder / name).read_bytes()) for name in grown}
        digests = {name: sha256((final / name).read_bytes()) for name in names}
        write_json(folder / ENDED, digests | {ON_ITS_WAY: on_its_way})
        for name in sorted(names, key=lambda name: name in ENTRIES):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with _staging(folder / name) as staging:
                try:
                    os.link(final / name, staging)  # not moved: `final` stays whole to the end
                except OSError:  # a file system without links
                    shutil.copy2(final / name, staging)
                os.replace(staging, folder / name)
        for changed in {(folder / name).parent for name in names}:
            _sync(changed)
        done = folder / (UNFINISHED + FINAL)
        _remove(done)
        os.replace(final, done)
        _remove(done)


def settled(folder: str | Path) -> str:
    """Where a model of one run is whole: the folder itself, but while its final files take their places."""
    final = Path(folder) / FINAL
    return str(final if final.is_dir() else folder)


def public_name(model: str) -> str:
    """What protocols and cards call a model: a Hub id as it is, a folder by its last part, as its place is private."""
    # No name is no folder, which Path takes for the working directory.
    return Path(model).resolve().name if model and Path(model).is_dir() else model


def is_repo_id(name: str) -> bool:
    """Whether it is owner/name as the Hub takes it: letters, digits, -, _ and ., of at most 96."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    with suppress(HFValidationError):
        validate_repo_id(name)
        return name.count("/") == 1
    return False


def begin_record(folder: Path):
    """
    Notes that a run begins anew. What an earlier one made on its way is removed, now where it never ended, else with
    its final files.
    """
    _write_ignore(folder)
    if _ended(folder):
        append_jsonl(folder / MADE, [{}])
    else:
        remove_made(folder, made(folder))
        (folder / MADE).unlink(missing_ok=True)


def _write_ignore(folder: Path):
    if not (folder / IGNORE).exists():
        write_bytes(folder / IGNORE, "".join(f"{name}\n" for name in IGNORED).encode())


def record_made(folder: Path, digests: Mapping[str, str | None]):
    """
    Notes files that a run makes on its way, before they appear: only these may be deleted, or sent to the Hub.

    Args:
        folder: of the run.
        digests: SHA-256 by name relative to `folder`, with slashes; None for a file that grows.
    """
    append_jsonl(folder / MADE, [{"file": name, "sha256": digest} for name, digest in digests.items()])


def made(folder: Path) -> dict[str, str | None]:
    """What the run of a folder is recorded to have made: digests by relative name; empty without a record."""
    return _recorded(folder)[-1] | _ended(folder)


def of_model(folder: Path) -> set[str]:
    """
    What goes with the model of a folder, by relative name: of the last run that ended the final files, and what it
    made on its way that still is as it was then, not what a later run has made anew or gone on with; all of `made`
    without such a record.
    """
    ended = _read_ended(folder)
    if ON_ITS_WAY not in ended:  # of an earlier version, or of no run
        return set(made(folder))
    on_its_way = ended.pop(ON_ITS_WAY)
    return {*ended, *(name for name, digest in on_its_way.items() if is_still(folder / name, digest))}


def has_ended(folder: Path) -> bool:
    """Whether a run of a folder has written its final files."""
    return (folder / ENDED).is_file() or any((folder / name).exists() for name in ENTRIES)


def remove_made(folder: Path, digests: Mapping[str, str | None]):
    """
    Deletes files that still are what was recorded; what somebody changed stays, and so does what grows.

    Args:
        folder: of the run.
        digests: SHA-256 by the file's name, as it was recorded; None for what grows.
    """
    for name, digest in digests.items():
        if is_still(folder / name, digest):
            (folder / name).unlink()


def is_still(path: Path, digest: str | None) -> bool:
    """
    Args:
        path: of a file that a run made.
        digest: its SHA-256, as recorded.

    Returns:
        Whether it is there as the run left it, and no link.
    """
    return path.is_file() and not path.is_symlink() and sha256(path.read_bytes()) == digest


def _recorded(folder: Path) -> list[dict[str, str | None]]:
    """What each run of a folder made on its way, the last run's last."""
    runs: list[dict[str, str | None]] = [{}]
    for entry in read_jsonl(folder / MADE):
        if "file" in entry:
            runs[-1][entry["file"]] = entry["sha256"]
        else:
            runs.append({})
    return runs


def record_changed(folder: Path, name: str, content: bytes):
    """
    Writes a final file of a run anew, and notes that it is not the user who changed it.

    Args:
        folder: of the run.
        name: of the file, relative to it.
        content: of the file.
    """
    write_bytes(folder / name, content)
    if name in (ended := _read_ended(folder)):
        write_json(folder / ENDED, ended | {name: sha256(content)})


def _ended(folder: Path) -> dict[str, str]:
    """The final files of the last run that ended."""
    return {name: digest for name, digest in _read_ended(folder).items() if name != ON_ITS_WAY}


def _read_ended(folder: Path) -> dict[str, Any]:
    path = folder / ENDED
    return json.loads(path.read_bytes()) if path.is_file() else {}


def append_jsonl(path: Path, records: Iterable[Any]):
    """
    Appends JSON Lines to a file that grows, after the end of a line that a kill cut off; HwzooError when it cannot.

    Args:
        path: made if it is not there.
        records: JSON values; of numbers that are not finite their words are written.
    """
    lines = "".join(json.dumps(with_words(record), allow_nan=False) + "\n" for record in records)
    with writing(path), open(path, "a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            lines = lines if file.read(1) == b"\n" else "\n" + lines
        file.write(lines.encode())


def read_jsonl(path: Path) -> list[Any]:
    """The lines of a file that grows, none where there is no such file; one that a kill cut off is left out."""
    return _parsed(path.read_bytes()) if path.is_file() else []


def _parsed(data: bytes) -> list[Any]:
    records = []
    for line in data.splitlines():
        with suppress(ValueError):
            records.append(json.loads(line))
    return records


def cut_back(path: Path, length: int) -> list[Any]:
    """
    Cuts a file of JSON Lines back to its first `length` bytes, and gives the lines that it had after them.

    Args:
        path: it need not be there.
        length: in bytes.

    Returns:
        The values of the lines that were cut off.
    """
    if not path.is_file():
        return []
    with writing(path), open(path, "r+b") as file:
        file.seek(length)
        rest = file.read()
        file.truncate(min(length, path.stat().st_size))
        os.fsync(file.fileno())
    return _parsed(rest)


def size_of(path: Path) -> int:
    """Bytes of a file that grows; 0 where there is none."""
    return path.stat().st_size if path.is_file() else 0


def write_bytes(path: Path, data: bytes):
    """
    Writes a file, whole or not at all; raises HwzooError when it cannot.

    Args:
        path: in a folder that is there.
        data: all of the file.
    """
    with replacing(path) as staging:
        staging.write_bytes(data)


def write_json(path: Path, content: Any):
    """
    Writes JSON, whole or not at all; numbers must be finite (ValueError).

    Args:
        path: in a folder that is there.
        content: JSON values.
    """
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


NOT_FINITE = ("inf", "-inf", "nan")


def with_words(content: Any) -> Any:
    """JSON values with words for the numbers that `write_json` refuses, those of `NOT_FINITE`."""
    if isinstance(content, dict):
        return {key: with_words(each) for key, each in content.items()}
    if isinstance(content, list | tuple):
        return [with_words(each) for each in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def with_numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that `with_words` gave words for, of one record whose values are numbers."""
    return {name: float(each) if each in NOT_FINITE else each for name, each in record.items()}


def write_jsonl(path: Path, rows: Iterable[Any]):
    """
    Writes JSON Lines, one for each row, whole or not at all; numbers must be finite (ValueError).

    Args:
        path: in a folder that is there.
        rows: JSON values.
    """
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
def _staging(path: Path) -> Iterator[Path]:
    staging = path.with_name(UNFINISHED + path.name)
    try:
        with writing(path):
            _remove(staging)
            yield staging
    except BaseException:
        _remove(staging)
        raise


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


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
    # Windows flushes only what is open for writing, and opens no folder: there the rename alone must do.
    if path.is_file():
        mode = path.stat().st_mode
        if not mode & stat.S_IWUSR:
            path.chmod(mode | stat.S_IWUSR)
        with open(path, "r+b") as file:
            os.fsync(file.fileno())
        if not mode & stat.S_IWUSR:
            path.chmod(mode)
    elif os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

"""What a run goes on from: which folder and checkpoint may be resumed, and the files that grow beside checkpoints."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from ..errors import UsageError
from ..files import (
    CHECKPOINTS,
    ENDED,
    FINAL,
    IGNORE,
    MADE,
    PUSHED,
    UNFINISHED,
    begin_record,
    cut_back,
    has_ended,
    is_still,
    made,
    public_name,
    remove_made,
    size_of,
)
from .checkpoint import Checkpoint, Checkpoints, CorruptCheckpoint

logger = logging.getLogger(__name__)

HISTORY = "history.jsonl"
LOCK = ".lock"
MODELS = ("model_name_or_path", "tokenizer_name")  # compared by their public names, however a folder is spelled
# In an output folder, what is neither a user's nor a sign of a run that got somewhere.
OURS = (LOCK, MADE, ENDED, PUSHED, IGNORE, "logs")


def check_output_dir(folder: Path, overwrite: bool, resume: str | None):
    """
    Whether a run may use an output folder; nothing is changed.

    Args:
        folder: need not exist.
        overwrite: of `--overwrite_output_dir`.
        resume: of `--resume_from_checkpoint`.

    Raises:
        UsageError: when it holds what the run would write over without having been asked to.
    """
    if overwrite and resume:
        raise UsageError("--overwrite_output_dir and --resume_from_checkpoint are given; give one of them")
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    kept = [name for name in found if name not in (*OURS, FINAL) and not name.startswith(UNFINISHED)]
    if overwrite or not kept:
        return
    anew = f"--output_dir {folder} is not empty; give --overwrite_output_dir to start anew or "
    if resume is None:
        raise UsageError(f"{anew}--resume_from_checkpoint latest to go on")
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    if resume == "latest" and checkpoints.paths():
        if checkpoints.read_latest() is None:
            raise UsageError(
                f"--resume_from_checkpoint latest: no checkpoint in {checkpoints.folder} is whole; they are kept, "
                "give another --output_dir to start anew"
            )
        return
    if resume != "latest" and Path(resume).resolve().parent == checkpoints.folder.resolve():
        return
    what = f"--resume_from_checkpoint {resume}: "
    if checkpoints.paths() and Path(resume).resolve() in (folder.resolve(), checkpoints.folder.resolve()):
        raise UsageError(f"{what}it must be one of the checkpoints in {checkpoints.folder}, or latest")
    if resume != "latest" and checkpoints.paths():
        raise UsageError(f"{what}--output_dir {folder} holds checkpoints of another run; give an empty one")
    if has_ended(folder):
        lacks = "no checkpoint" if resume == "latest" else "not this checkpoint"
        raise UsageError(
            f"{what}--output_dir {folder} holds a finished model, and {lacks}; give another, or --overwrite_output_dir"
        )
    strangers = [name for name in kept if name != CHECKPOINTS and name not in made(folder)]
    if strangers:
        raise UsageError(f"{what}--output_dir {folder} holds {strangers[0]}, which no run has made; give another")


def checkpoint_to_resume(run: Any, checkpoints: Checkpoints, identity: dict[str, Any]) -> Checkpoint | None:
    """
    The checkpoint that `run.resume_from_checkpoint` asks for; None to begin at step 0.

    Args:
        run: its flags, with `resume_from_checkpoint`: None, "latest" or a path.
        checkpoints: of the run's own folder, for "latest".
        identity: what the checkpoint's must equal, JSON values by name; what the checkpoint lacks is not compared.

    Returns:
        The checkpoint, read and found whole, or None.

    Raises:
        UsageError: when it is none, all are damaged, it is of another run, or the processes find different ones.
    """
    checkpoint = _found(run, checkpoints, identity)
    if run.resume_from_checkpoint is not None:
        steps = gather_object([0 if checkpoint is None else checkpoint.step])
        if len(set(steps)) > 1:
            told = (
                f"the processes find the steps {', '.join(map(str, steps))}: every machine needs the same checkpoints"
            )
            raise UsageError(
                f"--resume_from_checkpoint {run.resume_from_checkpoint}: {told}, by a shared folder or copies"
            )
    return checkpoint


def _found(run: Any, checkpoints: Checkpoints, identity: dict[str, Any]) -> Checkpoint | None:
    where = run.resume_from_checkpoint
    if where is None:
        return None
    if where == "latest":
        checkpoint = checkpoints.read_latest()
        if checkpoint is None:
            return None
    else:
        try:
            checkpoint = Checkpoint(Path(where))
        except CorruptCheckpoint as error:
            raise UsageError(f"--resume_from_checkpoint {where} is not a whole checkpoint: {error}") from None
    # A checkpoint of an earlier version may lack a name that is compared today, or have a model's as it was spelled.
    for name, saved in checkpoint.identity.items():
        given = identity.get(name)
        if saved != given and not (name in MODELS and saved and public_name(saved) == given):
            raise UsageError(
                f"--resume_from_checkpoint {checkpoint.path}: it is of a run with {name} {saved!r}, this one has "
                f"{given!r}"
            )
    return checkpoint


def begin_anew(folder: Path, checkpoints: Checkpoints):
    """
    Forgets the checkpoints of an earlier run: a later resume would take them for this one's.

    Args:
        folder: of the run; its history is deleted too.
        checkpoints: those in it.
    """
    checkpoints.clear()
    begin_record(folder)
    (folder / HISTORY).unlink(missing_ok=True)


def cut_back_to(progress: Mapping[str, Any], checkpoint: Path, folder: Path):
    """
    Cuts history and record back to what they were at a checkpoint, and removes what was made after it.

    Args:
        progress: of the checkpoint: the length of both files in bytes.
        checkpoint: its folder; what `folder` lacks is copied from that of the run that took it, unless the checkpoint
            is a copy elsewhere: what lies beside that may be another run's.
        folder: of this run.
    """
    among = checkpoint.resolve().parent
    before = among.parent if among.name == CHECKPOINTS else None
    other = before is not None and before != folder.resolve()
    if other:
        for name in (HISTORY, MADE):
            if (before / name).is_file():
                shutil.copyfile(before / name, folder / name)
    for name in (HISTORY, MADE):
        if size_of(folder / name) < progress[name]:
            logger.warning("%s is shorter than at the checkpoint: curves and animations will lack it", folder / name)
    cut_back(folder / HISTORY, progress[HISTORY])
    later = [entry for entry in cut_back(folder / MADE, progress[MADE]) if "file" in entry]
    if not other:
        remove_made(folder, {entry["file"]: entry["sha256"] for entry in later})
        return
    for name, digest in made(folder).items():
        if is_still(before / name, digest):
            shutil.copyfile(before / name, folder / name)

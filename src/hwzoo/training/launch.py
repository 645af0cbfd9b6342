"""Into a recipe and out of it: threads, signals, errors of one line, the lock of the output folder."""

import contextlib
import ctypes
import errno
import functools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs, broadcast_object_list, set_seed
from huggingface_hub.errors import StrictDataclassError
from transformers.utils.logging import disable_progress_bar

from ..errors import HwzooError, UsageError
from ..files import ENTRIES, NAMED_DATA, finish, remove_unfinished, settled, with_words, write_json, write_jsonl
from .arguments import Flags, RunArguments, parse_arguments, record_of, save_settings
from .launcher import given_to_launcher, launcher_settings
from .loop import HANGUP, LAUNCHER_ENDED, signal_of
from .numbers import lines_of, next_commands
from .resume import CHECKPOINTS, LOCK, check_output_dir

logger = logging.getLogger("hwzoo")

LONGEST_WAIT = timedelta(days=7)  # of a process for another
TIDYING_UP = 0.5  # seconds that torch gets for its last exchange
_PR_SET_PDEATHSIG = 1  # prctl(2)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # of some network file systems


def launch(main: Callable[..., Any], *types: type, description: str | None = None):
    """
    Runs a recipe's `main` on the dataclasses parsed from the command line, and exits with its status: 0, 1 for a
    failure, 2 for wrong usage, 128 + n after signal n. Errors are one line; `HWZOO_DEBUG=1` shows their traceback.
    A console that cannot be written to costs nothing but what is said there. Several processes share a training, which
    has the flag `resume_from_checkpoint`; any other recipe refuses to be started in several: each would do all of it,
    into one folder.

    Args:
        main: takes one instance of each of `types`.
        types: the dataclasses of flags, as in `parse_arguments`.
        description: text above the flags in `--help`.
    """
    with _lasting_console():
        _launch(main, types, description)


def check_one_process():
    """
    Raises:
        UsageError: where a launcher started several processes.
    """
    if (processes := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise UsageError(
            f"{processes} processes were started; all of it is done in one: python RECIPE ..., without a launcher of "
            "several"
        )


def _launch(main: Callable[..., Any], types: Sequence[type], description: str | None):
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.handlers[0].setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    disable_progress_bar()  # of transformers' saving: one file is written
    # Outside the loop, which saves first, a signal ends the run where it is, with the status that shells give.
    for number in (signal.SIGTERM, HANGUP, LAUNCHER_ENDED):
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` leaves SIGHUP
            signal.signal(number, _leave)
    try:
        _follow_launcher()
        if not any(each.name == "resume_from_checkpoint" for kind in types for each in fields(kind)):
            check_one_process()
        launcher = {} if {"-h", "--help"} & set(sys.argv) else launcher_settings(os.environ)
        main(*parse_arguments(list(types), description=description, launcher=launcher))
    except (KeyboardInterrupt, SystemExit) as error:
        if not (number := signal_of(error)):
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: stopped by {signal.Signals(number).name}", file=sys.stderr)
        sys.exit(128 + number)
    except Exception as error:
        if os.environ.get("HWZOO_DEBUG") == "1":
            raise
        if isinstance(error, HwzooError):
            cause = str(error)
        elif isinstance(error, StrictDataclassError):
            cause = str(error.__cause__ or error)  # the config names its wrong field; the rest is the library's
        else:
            cause = f"{type(error).__name__}: {str(error)[:300]} (HWZOO_DEBUG=1 shows where)"
        # What is wrong with the command line every process finds; what fails in one alone, that one tells.
        if os.environ.get("LOCAL_RANK", "0") == "0" or not isinstance(error, UsageError):
            print("error: " + " ".join(cause.split()), file=sys.stderr)
        else:
            time.sleep(10)  # the launcher ends all as soon as one has ended: let that be the one that tells
        sys.exit(getattr(error, "status", 2 if isinstance(error, StrictDataclassError) else 1))


def _leave(number: int, frame: Any):
    sys.exit(128 + (signal.SIGTERM if number == LAUNCHER_ENDED else number))


class _Console:
    """A text stream that drops what cannot be written: the terminal is gone, the disk behind it is full."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with self._lasting():
            self._stream.write(text)
        return len(text)

    def flush(self):
        with self._lasting():
            self._stream.flush()

    @contextlib.contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: it was closed
            with contextlib.suppress(OSError, ValueError):
                # What is still in its buffer must not fail at the interpreter's end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _lasting_console() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    for name in ("stdout", "stderr"):
        # None where the process was started with it closed.
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows only ASCII
        setattr(sys, name, _Console(stream))
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def start(run: RunArguments) -> Iterator[Accelerator]:
    """
    Seeds all generators, takes the output folder for this run alone, and gives the accelerator; ends the trackers,
    frees the folder and gives back the number of threads at the end.

    Raises:
        UsageError: for a folder that holds what the run was not asked to write over (`check_output_dir`) or that lies
            in the folder of its data, a tracker that is not installed, or a launch in which the processes would not
            know of each other.
        HwzooError: for a folder that cannot be written or that another run is using.
    """
    folder, data = Path(run.output_dir), getattr(run, "dataset_name", None)  # of T5 it is no flag of the run's
    own = data and data not in NAMED_DATA and Path(data).is_dir()
    if own and folder.resolve().is_relative_to(Path(data).resolve()):
        raise UsageError(f"--output_dir {folder} is in --dataset_name {data}, and would become data: give another")
    trackers = [name for name in run.report_to if name != "none"]
    missing = set(trackers) - {str(tracker) for tracker in get_available_trackers()}
    if missing:
        raise UsageError(f"--report_to {' '.join(sorted(missing))}: not installed; pip install 'hwzoo[trackers]'")
    # accelerate keeps the first precision for the whole process; a second run in a notebook may want another.
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != run.mixed_precision:
        AcceleratorState._reset_state()
    _forget_peak_memory()
    accelerator = Accelerator(
        mixed_precision=run.mixed_precision,
        # While the first process draws and scores, the others wait: for longer than torch's half an hour.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
        # Recipes accumulate by themselves; for a number in its environment accelerate would divide their losses again.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        log_with=trackers or None,
        project_dir=folder / "logs",
    )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and accelerator.num_processes == 1:
        if torch.distributed.is_initialized():  # the first to leave would take away what the others still wait for
            torch.distributed.barrier()
        raise UsageError(
            f"{os.environ['WORLD_SIZE']} processes were started that do not know of each other; on a machine without "
            "GPU: ACCELERATE_USE_CPU=1 torchrun --nproc_per_node 2 RECIPE ..."
        )
    threads = torch.get_num_threads()
    _set_threads(run.num_threads, accelerator)
    # The same weights on every process.
    set_seed(run.seed)
    with contextlib.ExitStack() as stack:
        stack.callback(_give_threads_back, threads)
        try:
            problem = None
            if accelerator.is_main_process:
                try:
                    asked = folder, run.overwrite_output_dir, run.resume_from_checkpoint
                    check_output_dir(*asked)
                    stack.enter_context(locked(folder))
                    check_output_dir(*asked)  # once more: another run may have used it meanwhile
                    remove_unfinished(folder)
                    finish(folder)
                    _tell_of_other_data(run)
                except HwzooError as error:
                    problem = error
            # Whatever keeps one process from starting keeps all from it, with the same line.
            (problem,) = broadcast_object_list([problem])
            if problem is not None:
                raise problem
            if trackers and accelerator.is_main_process:
                _start_trackers(accelerator, run)
            yield accelerator
            # Together out of it: torch may hang where a group of processes is taken down while its last exchange is
            # still being tidied up, as it can be in a process that has nothing to save.
            accelerator.wait_for_everyone()
        finally:
            if accelerator.num_processes > 1:
                # Of that too: its thread needs Python's lock, which whoever ends the group holds while waiting for it.
                time.sleep(TIDYING_UP)
            accelerator.end_training()


def _forget_peak_memory():
    """From now on the system counts `peak_memory` anew, where it can: a sweep does its runs in one process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _tell_of_other_data(run: RunArguments):
    """Warns where a trained model is only tested, on other data than it was trained on."""
    if not getattr(run, "model_name_or_path", None) or getattr(run, "max_train_steps", None) != 0:
        return
    own = None
    with contextlib.suppress(HwzooError):  # a record that cannot be read costs no run
        own = record_of(run.model_name_or_path).get("dataset_name")
    if own is None or own == (given := run.dataset_name):
        return
    if {own, given} & NAMED_DATA or not Path(own).exists() or os.path.realpath(own) != os.path.realpath(given):
        logger.warning("%s was trained on %s; it is tested on %s, --dataset_name", run.model_name_or_path, own, given)


def check_free(name: str | Path, overwrite: bool):
    """
    Before what takes long: whether a folder may be written into; nothing is changed.

    Args:
        name: of the folder, `--output_dir`; it need not be there.
        overwrite: whether its files may be written over. Names that begin with a dot do not count.

    Raises:
        UsageError: when it holds files, unless they may be written over; a trained model, or checkpoints, never may.
    """
    folder = Path(name)
    if (folder / CHECKPOINTS).is_dir() or any((Path(settled(folder)) / entry).is_file() for entry in ENTRIES):
        raise UsageError(
            f"--output_dir {folder} holds a trained model or checkpoints, which stay; give another folder"
        )
    if not overwrite and folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UsageError(f"--output_dir {folder} is not empty; give --overwrite_output_dir or another folder")


def folder_for(parent: str, model: str | None) -> str:
    """
    The default output folder of what is made with a model, so that two models do not meet in one.

    Args:
        parent: of all such folders.
        model: folder or Hub id; None where none is given.

    Returns:
        A folder in `parent` with the last name of a folder, or with a Hub id, its slash as `--`.
    """
    if model is None:
        return parent
    return str(Path(parent) / (Path(model).resolve().name if Path(model).exists() else model.replace("/", "--")))


def make_output_dir(name: str | Path, overwrite: bool = True) -> Path:
    """
    The folder that a recipe without checkpoints writes into, made if it is not there.

    Args:
        name: of the folder, `--output_dir`.
        overwrite: whether it may hold files.

    Returns:
        The folder.

    Raises:
        UsageError: when it holds files and must not, or a trained model.
        HwzooError: when it cannot be made.
    """
    folder = Path(name)
    with _named(folder):
        check_free(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _named(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HwzooError(f"--output_dir {folder} cannot be written: {error.strerror}") from error


def save_results(folder: Path, results: dict[str, Any], failures: list[dict[str, Any]], *arguments: Flags):
    """
    Writes all_results.json, failures.jsonl, a line each, and preset.yaml, and says where they are.

    Args:
        folder: that is there.
        results: numbers, texts and lists of them, by name; of those that are not finite their words.
        failures: rows of JSON values.
        arguments: the dataclasses of flags of the run.
    """
    write_json(folder / "all_results.json", with_words(results))
    write_jsonl(folder / "failures.jsonl", failures)
    save_settings(folder / "preset.yaml", *arguments)
    print(f"results, failures and pictures are in {folder}")


def print_results(
    results: dict[str, Any],
    folder: Path,
    expected: dict[str, tuple[float, float]] | None = None,
    words: Mapping[str, tuple[str, str]] | None = None,
):
    """
    Prints the numbers of a run, a line each with what it means, where everything is, and the next commands.

    Args:
        results: by name; texts (but for a `remark`), lists and mappings are left out.
        folder: that holds model, results and pictures.
        expected: lowest and highest normal value by name, as a preset tells; none when not given.
        words: as of `lines_of`.
    """
    print("\n".join(lines_of(results, expected or {}, words)))
    if "remark" in results:
        print(results["remark"])
    print(f"model, results and pictures are in {folder}; next:")
    print("\n".join(f"  {command}" for command in next_commands(folder)))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    Takes an output folder, which is made where there is none, for this process.

    Raises:
        HwzooError: where another process has it, or it cannot be made.
    """
    # The system frees the lock with the process, however that ends; the file stays and means nothing.
    with _named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "ab")
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows: no lock
            pass
        except BlockingIOError as error:
            raise HwzooError(f"--output_dir {folder} is in use by another run; give each run its own") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logger.warning("--output_dir %s: its file system has no locks; give each run its own folder", folder)
        yield


def _start_trackers(accelerator: Accelerator, run: RunArguments):
    logs = Path(run.output_dir) / "logs"
    logs.mkdir(exist_ok=True)
    if "trackio" in run.report_to:  # it knows no folder argument, and takes the first of a process
        os.environ.setdefault("TRACKIO_DIR", str(logs.resolve()))
    settings = {name: value for name, value in vars(run).items() if isinstance(value, int | float | str)}
    own = {"config": settings, "init_kwargs": {"wandb": {"dir": str(logs)}}}
    accelerator.init_trackers(Path(run.output_dir).resolve().name, **own)


def _set_threads(num_threads: int | None, accelerator: Accelerator):
    # The launchers give a CPU process one thread, whatever the machine, where the user says nothing.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if num_threads is None and launched and accelerator.device.type == "cpu" and not _threads_given():
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_threads = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    several = f"{accelerator.num_processes} processes with " if accelerator.num_processes > 1 else ""
    threads = torch.get_num_threads()
    accelerator.print(f"on {accelerator.device}: {several}{threads} thread{'s' if threads > 1 else ''}")


def on_one_thread(main: Callable[..., Any]) -> Callable[..., Any]:
    """
    A recipe whose matrices are too small for a second thread.

    Args:
        main: of the recipe.

    Returns:
        The same, on one thread; afterwards the process has as many as before.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> Any:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return main(*args, **kwargs)
        finally:
            _give_threads_back(num_threads)

    return run


def _give_threads_back(num_threads: int):
    """A sweep does its runs in one process: a number that one of them asked for is not the next one's."""
    if torch.get_num_threads() != num_threads:  # to set a number also changes how MKL takes it
        torch.set_num_threads(num_threads)


def _threads_given() -> bool:
    """Whether OMP_NUM_THREADS is the user's own and not the launcher's, whose flags and environment tell."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        return "OMP_NUM_THREADS" in os.environ
    if given_to_launcher("num_cpu_threads_per_process") is not None:
        return True
    try:
        return b"OMP_NUM_THREADS=" in Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:  # not Linux: 1 is what launchers set
        return False


def _follow_launcher():
    # `accelerate launch` passes no signal on: when it ends, the system shall tell this process, which then saves.
    if sys.platform == "linux" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, LAUNCHER_ENDED)
        # It may have ended before it could be followed, while this process was importing.
        if os.getppid() != parent or (parent == 1 and b"accelerate" not in Path("/proc/1/cmdline").read_bytes()):
            sys.exit(128 + signal.SIGTERM)


def earlier_results(path: Path, identity: dict[str, Any], anew: bool) -> dict[str, Any]:
    """
    The results of an interrupted comparison, which goes on with the same.

    Args:
        path: of all_results.json.
        identity: what must be the same, by name.
        anew: whether results of another are passed over.

    Returns:
        What the file holds; the identity alone where there is none.

    Raises:
        UsageError: for results with another value of a name; one that an earlier build did not write down is passed.
    """
    if anew or not path.exists():
        return identity
    earlier = json.loads(path.read_text())
    for key, value in identity.items():
        if key in earlier and earlier[key] != value:
            raise UsageError(
                f"--output_dir {path.parent} holds results with {key} {earlier[key]}, these have {value}; give "
                "another folder or --overwrite_output_dir"
            )
    return earlier

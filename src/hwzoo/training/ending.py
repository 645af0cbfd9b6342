"""The last stages of a run, test and save, which are shown to work before the first step."""

import contextlib
import math
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..errors import HwzooError
from ..files import UNFINISHED, renewing, writing
from .checkpoint import random_state, set_random_state
from .journal import log_ending
from .launch import print_results
from .loop import FitResult, Stopped, signal_of

REHEARSAL = UNFINISHED + "rehearsal"
CURVES = "curves.png"  # trackers draw their own
FEW = 4  # examples of each kind in the rehearsal


class Ending:
    """
    Tests a model and writes all that a run leaves, its files together.

    Args:
        test: called as `test(limit)` on all processes, gives results by name; `limit` is how many examples of each
            kind it may take, None for all.
        save: called as `save(folder, results, history, limit)` by the main process: writes the files of the run into
            an empty folder.
        models: whose modes, of training or not, a rehearsal leaves as they are.
        publish: called with the flags of the run by the main process when all is saved.
        words: as of `lines_of`.
    """

    def __init__(
        self,
        test: Callable[[int | None], dict[str, Any]],
        save: Callable[[Path, dict[str, Any], list[dict[str, float]], int | None], None],
        models: Sequence[torch.nn.Module],
        publish: Callable[[Any], None],
        words: Mapping[str, tuple[str, str]] | None = None,
    ):
        self.test, self.save, self.models, self.publish, self.words = test, save, models, publish, words

    def rehearse(self, run: Any, accelerator: Accelerator):
        """
        Tests and saves with a few examples, into a folder that is removed: what would fail after hours fails now.
        Random states are as before.

        Args:
            run: the flags of the run.
            accelerator: of `start`.
        """
        modes = [(module, module.training) for model in self.models for module in model.modules()]
        before = random_state()
        # A model that has not been trained may well have scores that are not finite.
        results = {name: 0.0 if is_not_finite(value) else value for name, value in self.test(FEW).items()}
        if accelerator.is_main_process:
            folder = Path(run.output_dir) / REHEARSAL
            try:
                with writing(folder):
                    folder.mkdir(parents=True)
                self.save(folder, results, [], FEW)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        set_random_state(before)
        for module, training in modes:
            module.training = training

    def conclude(self, run: Any, accelerator: Accelerator, fitted: FitResult) -> FitResult:
        """
        Tests and saves the trained model, tells its results to the trackers, prints them and publishes it.

        Args:
            run: the flags of the run.
            accelerator: its processes; the first of them saves.
            fitted: what the training gave.

        Returns:
            The results of training and test, as in all_results.json, and the history.

        Raises:
            HwzooError: when a file cannot be written (those of an earlier run stay), publishing fails, or a result is
                not finite: all is saved then, and not published.
            Stopped: after SIGINT, SIGTERM or SIGHUP before the files stand; the last checkpoint does.
        """
        folder, pictures = Path(run.output_dir), []
        with _stopped_in_a_line():
            results = fitted.results | self.test(None) | peak_memory()
            if accelerator.is_main_process:
                with renewing(folder) as staging:
                    self.save(staging, results, fitted.history, None)
                    pictures = [path.name for path in sorted(staging.glob("*.png")) if path.name != CURVES]
        if accelerator.is_main_process:
            log_ending(accelerator, results, [folder / name for name in pictures])
            print_results(results, folder, run.expected, self.words)
            if bad := [name for name, value in results.items() if is_not_finite(value)]:
                raise HwzooError(f"{', '.join(bad)} is not finite; model, card and pictures are in {folder}")
            self.publish(run)
        return FitResult(results, fitted.history)


@contextlib.contextmanager
def _stopped_in_a_line() -> Iterator[None]:
    """A signal's exception, outside the loop, as one that says how to go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if not (number := signal_of(error)):
            raise
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after the last step, before the results stood", number
        ) from error


def peak_memory() -> dict[str, float]:
    """`peak_memory`, the most that this process has held, in MB; nothing where the system does not tell it."""
    try:
        # Not by getrusage, which tells that of the process before it was this program.
        told = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        told = None
    return {} if told is None else {"peak_memory": round(int(told[1]) * 1.024e-3, 1)}


def is_not_finite(value: Any) -> bool:
    """Whether a result is a number that JSON cannot hold."""
    return isinstance(value, float) and not math.isfinite(value)

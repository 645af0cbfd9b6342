"""The last stages of a run, test and save, which are shown to work before the first step."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..files import UNFINISHED, renewing, writing
from .checkpoint import random_state, set_random_state
from .launch import print_results
from .loop import FitResult

REHEARSAL = UNFINISHED + "rehearsal"
FEW = 4  # examples of each kind in the rehearsal


class Ending:
    """
    Tests a model and writes all that a run leaves, its files together.

    Args:
        run: the flags of the run.
        accelerator: of `start`.
        test: called as `test(limit)` on all processes, gives results by name; `limit` is how many examples of each
            kind it may take, None for all.
        save: called as `save(folder, results, history, limit)` by the main process: writes the files of the run into
            an empty folder.
    """

    def __init__(
        self,
        run: Any,
        accelerator: Accelerator,
        test: Callable[[int | None], dict[str, Any]],
        save: Callable[[Path, dict[str, Any], list[dict[str, float]], int | None], None],
    ):
        self.run, self.accelerator, self.test, self.save = run, accelerator, test, save

    def rehearse(self, *models: torch.nn.Module):
        """
        Tests and saves with a few examples, into a folder that is removed: what would fail after hours fails now.
        Random states, and which modules of `models` are in training mode, are as before.
        """
        modes = [(module, module.training) for model in models for module in model.modules()]
        before = random_state()
        # A model that has not been trained may well have scores that are not finite.
        results = {name: 0.0 if is_not_finite(value) else value for name, value in self.test(FEW).items()}
        if self.accelerator.is_main_process:
            folder = Path(self.run.output_dir) / REHEARSAL
            try:
                with writing(folder):
                    folder.mkdir()
                self.save(folder, results, [], FEW)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        set_random_state(before)
        for module, training in modes:
            module.training = training

    def conclude(self, fitted: FitResult) -> dict[str, Any]:
        """
        Tests and saves the trained model, and prints its results.

        Returns:
            The results of training and test, as in all_results.json.

        Raises:
            HwzooError: when a file cannot be written; those of an earlier run stay.
        """
        results = fitted.results | self.test(None)
        if self.accelerator.is_main_process:
            folder = Path(self.run.output_dir)
            with renewing(folder) as staging:
                self.save(staging, results, fitted.history, None)
            print_results(results, folder)
        return results


def is_not_finite(value: Any) -> bool:
    """Whether a result is a number that JSON cannot hold."""
    return isinstance(value, float) and not math.isfinite(value)

"""What a run tells on its way: the bar, evaluations in words, `history.jsonl` and the trackers."""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..errors import HwzooError
from ..files import MADE, append_jsonl, read_jsonl, size_of, with_numbers
from .numbers import evaluation_line
from .resume import HISTORY

GROUPS = ("train_", "eval_", "test_")  # before the names of numbers; those of the training have mostly none
# All of them share one line of a terminal with the bar.
SHORT = {
    "reconstruction_loss": "recon",
    "kl_divergence": "KL",
    "discriminator_loss": "loss_D",
    "generator_loss": "loss_G",
    "negative_log_prob": "nats",
    "eval_rougeL": "ROUGE-L",
}
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{remaining} left, {rate_fmt}{postfix}]"


class Journal:
    """
    Keeps what a run logs. The first process writes and shows it, and its trackers are told, in groups: `train/loss`,
    `eval/negative_elbo`.

    Args:
        folder: of the run.
        accelerator: of `start`.
        shown: names of the numbers on the bar, evaluations' with `eval_`; the first three of a log line when None.
        words: what evaluations are called, and their unit, where `numbers.WORDS` does not say.
        place: where training is besides the step, "task 2 of 5", for the bar.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        *,
        shown: Sequence[str] | None = None,
        words: Mapping[str, tuple[str, str]] | None = None,
        place: Callable[[], str] | None = None,
    ):
        self.folder, self.accelerator = folder, accelerator
        self.shown, self.words, self.place = shown, words or {}, place
        self.latest: dict[str, float] = {}
        self.bar = None
        self.made = 0, 0  # bytes and entries of the record of what was made that were looked at for pictures

    def begin(self, step: int, total: int) -> "Journal":
        """
        Opens the bar. For TensorBoard a new run removes what an earlier one logged in the folder, with its settings,
        and a resumed one marks what it logged after these steps as past: TensorBoard hides it, its faster reader as
        soon as a number of that name and step is logged again.

        Args:
            step: steps done.
            total: of the run.

        Returns:
            Itself; `close` closes the bar.
        """
        where = {"initial": min(step, total), "total": total, "desc": self.place() if self.place else None}
        self.bar = tqdm(**where, unit="step", bar_format=BAR, disable=not self.accelerator.is_main_process)
        for tracker in self.accelerator.trackers if self.accelerator.is_main_process else []:
            if tracker.name == "tensorboard":
                tracker.writer.close()  # its next file begins with the step from which on nothing counts
                tracker.writer.purge_step = step + 1
                if not step:
                    _remove_earlier(Path(tracker.writer.log_dir))
        self._newly_made()
        return self

    def close(self):
        """Closes the bar."""
        if self.bar is not None:
            self.bar.close()

    def record(self, step: int, values: Mapping[str, float]):
        """
        Adds a line to the history, shows it and tells the trackers; nothing where there are no values.

        Args:
            step: steps done.
            values: numbers by name, those of an evaluation under `eval_` names: they are told in words.
        """
        if not values:
            return
        if self.accelerator.is_main_process:
            append_jsonl(self.folder / HISTORY, [{"step": step, **values}])
            evaluated = {name.removeprefix("eval_"): each for name, each in values.items() if name.startswith("eval_")}
            if evaluated:
                tqdm.write(evaluation_line(step, evaluated, self.words))
            self._show(values)
        self.accelerator.log(grouped(values, "train"), step=step)

    def show_pictures(self):
        """Gives the trackers the pictures, `fake_0050.png` and so on, that the run has made since the last call."""
        for name in self._newly_made():
            if match := re.fullmatch(r"(.+)_(\d+)\.png", name):
                log_pictures(self.accelerator, {f"eval/{match[1]}": self.folder / name}, int(match[2]))

    def _newly_made(self) -> list[str]:
        """Names of files recorded since the last call; none without trackers."""
        if not self.accelerator.trackers or not self.accelerator.is_main_process:
            return []
        path, (size, number) = self.folder / MADE, self.made
        if size_of(path) == size:
            return []
        entries = read_jsonl(path)
        self.made = size_of(path), len(entries)
        return [entry["file"] for entry in entries[number:] if "file" in entry]

    def _show(self, values: Mapping[str, float]):
        self.latest |= values
        if self.shown is None and not any(name.startswith("eval_") for name in values):
            self.shown = list(values)[:3]
        found = {name: self.latest[name] for name in self.shown or () if name in self.latest}
        if self.place is not None:
            self.bar.set_description(self.place(), refresh=False)
        self.bar.set_postfix({SHORT.get(name, name): f"{each:.4g}" for name, each in found.items()}, refresh=False)


def _remove_earlier(folder: Path):
    """Removes what earlier runs gave to TensorBoard: all events, and of the settings all but the last."""
    for path in folder.glob("events.out.tfevents.*"):
        path.unlink(missing_ok=True)
    # accelerate writes the settings at the start, as events and as YAML, each into a folder that the time names.
    for kind in ("events.out.tfevents.*", "hparams.yml"):
        times = [path.parent for path in folder.glob(f"*/{kind}") if re.fullmatch(r"\d+\.\d+", path.parent.name)]
        for path in sorted(times, key=lambda path: float(path.name))[:-1]:
            shutil.rmtree(path, ignore_errors=True)


def read_history(folder: str | Path) -> list[dict[str, float]]:
    """
    What a run has logged so far, from which its curves are drawn: `save_curves(read_history(folder), path, ...)`.

    Args:
        folder: output folder of a run.

    Returns:
        A record a log line or evaluation, in their order: {"step": ..., name: value}, evaluations under `eval_` names.

    Raises:
        HwzooError: where the folder holds no history.
    """
    path = Path(folder) / HISTORY
    if not path.is_file():
        raise HwzooError(f"{path} is not there: no run has logged in this folder")
    return logged_in(folder)


def logged_in(folder: str | Path) -> list[dict[str, float]]:
    """`read_history`, nothing of a folder without one."""
    return [with_numbers(record) for record in read_jsonl(Path(folder) / HISTORY)]


def grouped(values: Mapping[str, Any], group: str) -> dict[str, float]:
    """
    Numbers as trackers are told them.

    Args:
        values: by name; what is no number is left out.
        group: of names that tell none by `train_`, `eval_` or `test_`.

    Returns:
        The numbers by `<group>/<name>`.
    """
    numbers = {}
    for name, value in values.items():
        if isinstance(value, int | float):
            prefix = next((each for each in GROUPS if name.startswith(each)), "")
            numbers[f"{prefix[:-1] or group}/{name[len(prefix) :]}"] = value
    return numbers


def log_ending(accelerator: Accelerator, results: Mapping[str, Any], pictures: Iterable[Path]):
    """
    Tells the trackers how a run ended.

    Args:
        accelerator: of `start`.
        results: of training and test, by name.
        pictures: PNG files of the model: samples, reconstructions.
    """
    step = results.get("train_steps", 0)
    accelerator.log(grouped(results, "test"), step=step)
    log_pictures(accelerator, {f"test/{path.stem}": path for path in pictures}, step)


def log_pictures(accelerator: Accelerator, pictures: Mapping[str, Path], step: int):
    """
    Gives pictures to those trackers that take any.

    Args:
        accelerator: of `start`.
        pictures: PNG files by name.
        step: steps done.
    """
    for tracker in accelerator.trackers:
        for name, path in pictures.items():
            if tracker.name == "trackio":  # accelerate gives it numbers only
                from trackio import Image

                tracker.log({name: Image(path)}, step=step)
            elif hasattr(tracker, "log_images"):
                shape = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({name: _pixels(path)}, step=step, **shape)


def _pixels(path: Path) -> np.ndarray:
    """(1, height, width, 3), uint8."""
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image.convert("RGB"))[None]

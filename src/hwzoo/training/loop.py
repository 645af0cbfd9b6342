"""The training loop of all image recipes: it owns time (steps, logs, checkpoints, signals), the recipe owns
learning."""

import contextlib
import gc
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor

from ..errors import HwzooError, UsageError
from ..files import MADE, append_jsonl, public_name, record_made, size_of
from .arguments import RunArguments, deciding
from .checkpoint import Checkpoints, random_state, set_random_state
from .journal import Journal, logged_in
from .resume import CHECKPOINTS, HISTORY, begin_anew, checkpoint_to_resume, cut_back_to

logger = logging.getLogger("hwzoo")

# What the system sends when the launcher ends; never taken for the second, impatient signal of a user. Not on Windows.
LAUNCHER_ENDED = getattr(signal, "SIGUSR2", signal.SIGTERM)
HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)  # of the terminal; not on Windows
FIXED_RATES = ("constant", "constant_with_warmup")  # schedules that do not depend on the length of the run
READ_EVERY = 100  # steps of which metrics are held on the device at most


class NonFiniteLoss(HwzooError):
    """A metric of a training step was NaN or infinite."""


class Stopped(HwzooError):
    """
    The run was ended by a signal, after a checkpoint; its status is 128 + the signal's number.

    Args:
        what: was stopped, when, and what of it is saved where.
        number: of the signal.
        how: it goes on.
    """

    def __init__(self, what: str, number: int, how: str = "go on with --resume_from_checkpoint latest"):
        super().__init__(f"{what}: {how}")
        self.what, self.number, self.status = what, number, 128 + number


def signal_of(error: BaseException) -> int:
    """The number of the signal that raised a KeyboardInterrupt or, by `launch`, a SystemExit; else 0."""
    status = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else getattr(error, "code", 0)
    return status - 128 if isinstance(status, int) and status - 128 in {*signal.Signals} else 0


@dataclass
class FitResult:
    """
    Args:
        results: `train_steps`, `train_runtime` (seconds in the loop, evaluations and checkpoints included, summed over
            resumes), `train_cpu_seconds` (the same of the processor, all threads of the main process) and
            `train_samples_per_second`.
        history: one record a log line, {"step": ..., name: value}; evaluations under `eval_` names. As in
            `history.jsonl` of the output folder.
    """

    results: dict[str, float]
    history: list[dict[str, float]]


def fit(
    run: RunArguments,
    accelerator: Accelerator,
    batches: Iterator[dict[str, Tensor]],
    train_step: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    *,
    state: dict[str, Any],
    identity: dict[str, Any],
    evaluate: Callable[[], dict[str, float]] | None = None,
    after_step: Callable[[int], Callable[[], dict[str, float] | None] | None] | None = None,
    total_steps: int | None = None,
    ending: Any = None,
    shown: Sequence[str] | None = None,
    words: Mapping[str, tuple[str, str]] | None = None,
    place: Callable[[], str] | None = None,
) -> FitResult:
    """
    Trains until `run.total_steps`, exactly resumable: N steps straight equal k steps, a kill, a resume and N - k
    steps, bit for bit on a CPU.

    Args:
        run: the flags of the run.
        accelerator: of `start`.
        batches: endless; `len` is the steps of an epoch, `global_batch_size` the examples of a step over all
            processes, `state_dict` the place in the epoch.
        train_step: does one step of every optimiser on a batch and gives what to log, scalar tensors. The loop does
            not wait for them: they are read once a log line.
        state: everything else that the run's future depends on: models (not wrapped for several processes),
            optimisers, schedules, averages, noise; a `torch.nn.Module` or anything with `state_dict` and
            `load_state_dict`.
        identity: what a resumed run must share with its checkpoint besides the flags of `run` that decide and the size
            of a step; JSON values by name.
        evaluate: gives numbers to log each `run.eval_steps`; must leave the global random state alone.
        after_step: called with the number of steps done, after each step and before its checkpoint: gives what is to
            be done after some steps only (at the end of a task, say), None after the others. That is called when all
            metrics up to the step are known to be finite, for which all processes have to give it at the same steps.
            What it changes belongs into `state`; what it gives is logged, as an evaluation what has a name in `eval_`.
        total_steps: of the run; `run.total_steps` of an epoch's when not given.
        ending: an `Ending`, rehearsed before the first step; its results are among those given.
        shown, words, place: on the bar and in the lines of evaluations, as in `Journal`.

    Returns:
        The results by name, of the training and, with an `ending`, of the test, and the history: what was logged.

    Raises:
        NonFiniteLoss: with the first step at which a metric was not finite; later checkpoints are not written.
        Stopped: after SIGINT, SIGTERM or SIGHUP and the checkpoint that follows.
        UsageError: when the checkpoint to resume from is none, of another run, or of more steps than are asked for.
    """
    total_steps = run.total_steps(len(batches)) if total_steps is None else total_steps
    if ending is not None:
        ending.rehearse(run, accelerator)
    journal = Journal(Path(run.output_dir), accelerator, shown=shown, words=words, place=place)
    loop = _Loop(run, accelerator, batches, train_step, state, identity, evaluate, after_step, total_steps, journal)
    with imports_frozen():
        fitted = loop.run_all()
    return fitted if ending is None else ending.conclude(run, accelerator, fitted)


@contextlib.contextmanager
def imports_frozen() -> Iterator[None]:
    """
    Keeps the garbage collector from what is there already: it would look through a million objects of imported
    libraries again and again, a twentieth of the time of a small model's steps.
    """
    mine = not gc.get_freeze_count()  # else another's, who ends it
    if mine:
        gc.freeze()
    try:
        yield
    finally:
        if mine:
            gc.unfreeze()


class _Loop:
    def __init__(
        self, run, accelerator, batches, train_step, state, identity, evaluate, after_step, total_steps, journal
    ):
        self.run = run
        self.accelerator = accelerator
        self.batches = batches
        self.train_step = train_step
        self.state = {**state, "batches": batches}
        self.identity = {**identity, **deciding(run), "examples_per_step": batches.global_batch_size}
        base = getattr(run, "model_name_or_path", None)  # protocol and card tell it, and the preset begins from it
        self.identity["model_name_or_path"] = None if base is None else public_name(base)
        if run.lr_scheduler not in FIXED_RATES:
            self.identity["total_steps"] = total_steps
        self.evaluate = evaluate
        self.after_step = after_step
        self.folder = Path(run.output_dir)
        self.checkpoints = Checkpoints(self.folder / CHECKPOINTS, run.checkpoints_total_limit)
        self.total = total_steps
        self.journal = journal
        self.step = 0
        self.checkpointed_step = None
        self.runtime = self.cpu = 0.0  # seconds, and the processor's, of the parts of this run before the last resume
        self.unread: list[dict[str, Tensor]] = []  # metrics of the last steps, still on the device
        self.window: dict[str, tuple[float, int]] = {}  # since the last log line: sum and count by name

    def run_all(self) -> FitResult:
        self.folder.mkdir(parents=True, exist_ok=True)
        (usual,) = (each.default for each in fields(self.run) if each.name == "eval_steps")
        unread = self.evaluate is None and self.run.eval_steps not in (None, usual)
        if unread and self.accelerator.is_main_process:
            logger.warning("--eval_steps is not read: this recipe has no evaluations during training")
        # From here on each process has its own dropout.
        set_seed((self.run.seed + self.accelerator.process_index) % 2**32)
        self._resume()
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        with contextlib.closing(self.journal.begin(self.step, self.total)), _Signals(self.accelerator) as signals:
            while self.step < self.total:
                self.unread.append(self.train_step(next(self.batches)))
                self.step += 1
                self.journal.bar.update()
                if len(self.unread) == READ_EVERY:
                    self._read()
                record = None
                if self.after_step is not None and (due := self.after_step(self.step)) is not None:
                    if not callable(due):
                        raise TypeError(f"after_step gave a {type(due).__name__}; it must give a function or None")
                    self._read()  # nothing is done after a step that is not finite
                    record = due()
                if self.step % self.run.logging_steps == 0 or self.step == self.total:
                    self._log()
                self.journal.record(self.step, record or {})
                if self._due(self.run.eval_steps) and self.evaluate is not None:
                    self._read()  # no step that is not finite is evaluated
                    evaluated = {f"eval_{name}": value for name, value in self.evaluate().items()}
                    self.journal.record(self.step, evaluated)
                self.journal.show_pictures()
                if self._due(self.run.checkpointing_steps) or self.step == self.total:
                    self._save()
                if number := signals.received():
                    self._stop(number)
        runtime, cpu = self._elapsed()
        samples = self.step * self.batches.global_batch_size
        results = {
            "train_steps": self.step,
            "train_runtime": round(runtime, 2),
            "train_cpu_seconds": round(cpu, 2),
            "train_samples_per_second": round(samples / runtime, 1) if runtime > 0 else 0.0,
        }
        return FitResult(results, logged_in(self.folder))

    def _due(self, interval: int | None) -> bool:
        return interval is not None and self.step % interval == 0

    def _elapsed(self) -> tuple[float, float]:
        clocks = time.perf_counter() - self.started, time.process_time() - self.cpu_started
        return self.runtime + clocks[0], self.cpu + clocks[1]

    def _log(self):
        self._read()
        record = {name: total / count for name, (total, count) in self.window.items()}
        self.window.clear()
        self.journal.record(self.step, record)

    def _read(self):
        """Adds the metrics of the last steps, means of the processes, to the window; the one wait for the device."""
        entries = [(offset, name) for offset, metrics in enumerate(self.unread) for name in metrics]
        if not entries:
            return
        values = torch.stack([self.unread[offset][name].detach().float() for offset, name in entries])
        first = self.step - len(self.unread) + 1
        self.unread = []
        for (offset, name), value in zip(entries, self.accelerator.reduce(values, "mean").tolist(), strict=True):
            if not math.isfinite(value):
                raise NonFiniteLoss(
                    f"{name} is {value} at step {first + offset}; the run stops (a smaller --learning_rate or a "
                    "--max_grad_norm may help)"
                )
            total, count = self.window.get(name, (0, 0))
            self.window[name] = (total + value, count + 1)

    def _save(self):
        self._read()  # no step that is not finite enters a checkpoint
        rng = gather_object([random_state()])
        problem = None
        if self.accelerator.is_main_process:
            runtime, cpu = self._elapsed()
            progress = {"runtime": runtime, "cpu": cpu, "window": dict(self.window)}
            try:
                # Files that grow with the run stay outside: a checkpoint knows how long they were. To flush them to
                # the disk would take longer than all else here: a power cut may cost a piece of a curve.
                progress |= {name: size_of(self.folder / name) for name in (HISTORY, MADE)}
                self.checkpoints.save(self.step, self.state, progress, self.identity, rng)
            except HwzooError as error:
                problem = error
        (problem,) = broadcast_object_list([problem])
        if problem is not None:
            raise problem
        self.checkpointed_step = self.step

    def _stop(self, number: int):
        if self.checkpointed_step != self.step:
            self._save()
        when = f"after step {self.step}; saved in {self.checkpoints.folder}"
        raise Stopped(f"stopped by {signal.Signals(number).name} {when}", number)

    def _resume(self):
        checkpoint = checkpoint_to_resume(self.run, self.checkpoints, self.identity)
        if checkpoint is None:
            if self.accelerator.is_main_process:
                begin_anew(self.folder, self.checkpoints)
                record_made(self.folder, {HISTORY: None})
            if self.run.resume_from_checkpoint is not None:
                self.accelerator.print(f"no checkpoint in {self.checkpoints.folder}: starting from step 0")
            return
        if checkpoint.step > self.total:
            raise UsageError(
                f"--max_train_steps: the run would end after step {self.total}, {checkpoint.path} is at step "
                f"{checkpoint.step}; give at least as many steps, or a new --output_dir"
            )
        progress, rng = checkpoint.load(self.state)
        self.step = checkpoint.step
        self.runtime, self.cpu = progress["runtime"], progress.get("cpu", 0.0)  # which older checkpoints lack
        if "history" in progress:
            self._adopt_old(progress)
        else:
            self.window = progress["window"]
            if self.accelerator.is_main_process:
                cut_back_to(progress, checkpoint.path, self.folder)
        # As many processes as before go on with their own dropout; others start theirs anew.
        if self.accelerator.process_index < len(rng):
            set_random_state(rng[self.accelerator.process_index])
        self.accelerator.print(f"resumed from {checkpoint.path} at step {self.step}")

    def _adopt_old(self, progress: dict[str, Any]):
        """Of a checkpoint of the first version, which held the whole history, and the metrics of each step."""
        for metrics in progress["window"]:
            for name, value in metrics.items():
                total, count = self.window.get(name, (0, 0))
                self.window[name] = (total + value, count + 1)
        if self.accelerator.is_main_process:
            record_made(self.folder, {HISTORY: None})
            (self.folder / HISTORY).unlink(missing_ok=True)
            append_jsonl(self.folder / HISTORY, progress["history"])


class _Signals:
    """Notes the first SIGINT, SIGTERM or SIGHUP for the loop to act on between two steps; a second leaves at once."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.number = 0

    def __enter__(self):
        self.previous = {}
        # Python delivers signals to the main thread only; elsewhere (a notebook's worker) the loop goes without.
        with contextlib.suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM, HANGUP, LAUNCHER_ENDED):
                if number != HANGUP or signal.getsignal(HANGUP) != signal.SIG_IGN:  # `nohup` stays what it is
                    self.previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def received(self) -> int:
        """The number of the signal that any process received, 0 for none: all leave after the same step."""
        if self.accelerator.num_processes == 1:
            return self.number
        number = torch.tensor(self.number, device=self.accelerator.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        return int(number)

    def _note(self, number, frame):
        if number == LAUNCHER_ENDED:
            self.number = self.number or signal.SIGTERM
            return
        if self.number:
            os._exit(128 + number)
        self.number = number
        print(f"\n{signal.Signals(number).name}: saving after this step; once more leaves at once", file=sys.stderr)

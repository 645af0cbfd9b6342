"""The training loop of all image recipes: it owns time (steps, logs, checkpoints, signals), the recipe owns
learning."""

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import HwzooError, UsageError
from .arguments import RunArguments
from .checkpoint import Checkpoint, Checkpoints, CorruptCheckpoint, random_state, set_random_state

# What the system sends when the launcher ends; never taken for the second, impatient signal of a user. Not on Windows.
LAUNCHER_ENDED = getattr(signal, "SIGUSR2", signal.SIGTERM)
# Flags besides the seed that a resumed run must share with its checkpoint: the saved state, not the flag, decides.
SHARED_FLAGS = (
    "seed",
    "learning_rate",
    "lr_scheduler",
    "lr_warmup_steps",
    "max_grad_norm",
    "mixed_precision",
    "ema_decay",
)


class NonFiniteLoss(HwzooError):
    """A metric of a training step was NaN or infinite."""


class Stopped(HwzooError):
    """The run was ended by a signal, after a checkpoint; its status is 128 + the signal's number."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


@dataclass
class FitResult:
    """
    Args:
        results: `train_steps`, `train_runtime` (seconds in the loop, evaluations and checkpoints included, summed over
            resumes) and `train_samples_per_second`.
        history: one record a log line, {"step": ..., name: value}; evaluations under `eval_` names.
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
    after_step: Callable[[int], dict[str, float] | None] | None = None,
    total_steps: int | None = None,
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
        identity: what a resumed run must share with its checkpoint besides SHARED_FLAGS and the size of a step; JSON
            values by name.
        evaluate: gives numbers to log each `run.eval_steps`; must leave the global random state alone.
        after_step: called with the number of steps done, after each step and before its checkpoint: for what happens
            at some steps only (the end of a task, say). What it changes belongs into `state`; what it gives is logged.
        total_steps: of the run; `run.total_steps` of an epoch's when not given.

    Raises:
        NonFiniteLoss: with the first step at which a metric was not finite; later checkpoints are not written.
        Stopped: after SIGINT or SIGTERM and the checkpoint that follows.
        UsageError: when the checkpoint to resume from is none, or of another run.
    """
    total_steps = run.total_steps(len(batches)) if total_steps is None else total_steps
    return _Loop(run, accelerator, batches, train_step, state, identity, evaluate, after_step, total_steps).run_all()


def micro_batches(accelerator: Accelerator, model: torch.nn.Module, num: int, *tensors: Tensor) -> Iterator[Any]:
    """
    Splits the rows of a step's tensors into `num` equal parts for gradient accumulation; several processes exchange
    gradients at the last part only. The loss of each part is to be divided by `num`.
    """
    if num == 1:  # the usual case, without its overhead
        yield tensors
        return
    for index, parts in enumerate(zip(*(tensor.chunk(num) for tensor in tensors), strict=True)):
        with contextlib.nullcontext() if index == num - 1 else accelerator.no_sync(model):
            yield parts


def average(outputs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The scalars of the parts of a step, averaged and cut from their graphs: what a `train_step` gives."""
    if len(outputs) == 1:
        return {name: value.detach() for name, value in outputs[0].items()}
    return {name: sum(output[name].detach() for output in outputs) / len(outputs) for name in outputs[0]}


class _Loop:
    def __init__(self, run, accelerator, batches, train_step, state, identity, evaluate, after_step, total_steps):
        self.run = run
        self.accelerator = accelerator
        self.batches = batches
        self.train_step = train_step
        self.state = {**state, "batches": batches}
        self.identity = {**identity, **{name: getattr(run, name) for name in SHARED_FLAGS}}
        self.identity["examples_per_step"] = batches.global_batch_size
        self.evaluate = evaluate
        self.after_step = after_step
        self.checkpoints = Checkpoints(Path(run.output_dir) / "checkpoints", run.checkpoints_total_limit)
        self.total = total_steps
        self.step = 0
        self.checkpointed_step = None
        self.runtime = 0.0  # seconds of the parts of this run before the last resume
        self.window: list[dict[str, Tensor]] = []  # metrics of the steps since the last log line
        self.num_checked = 0  # of these, how many were found finite
        self.history: list[dict[str, float]] = []

    def run_all(self) -> FitResult:
        set_seed(self.run.seed, device_specific=True)  # from here on each process has its own dropout
        self._resume()
        self.started = time.perf_counter()
        bar = tqdm(
            total=self.total,
            initial=min(self.step, self.total),
            desc="training",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        with bar, _Signals(self.accelerator) as signals:
            while self.step < self.total:
                self.window.append(self.train_step(next(self.batches)))
                self.step += 1
                bar.update()
                record = self.after_step(self.step) if self.after_step is not None else None
                if self.step % self.run.logging_steps == 0 or self.step == self.total:
                    self._log(bar)
                self._record(record or {})
                if self._due(self.run.eval_steps) and self.evaluate is not None:
                    self._record({f"eval_{name}": value for name, value in self.evaluate().items()})
                if self._due(self.run.checkpointing_steps) or self.step == self.total:
                    self._save()
                if number := signals.received():
                    self._stop(number)
        runtime = self._elapsed()
        samples = self.step * self.batches.global_batch_size
        results = {
            "train_steps": self.step,
            "train_runtime": round(runtime, 2),
            "train_samples_per_second": round(samples / runtime, 1) if runtime > 0 else 0.0,
        }
        return FitResult(results, self.history)

    def _due(self, interval: int | None) -> bool:
        return interval is not None and self.step % interval == 0

    def _elapsed(self) -> float:
        return self.runtime + time.perf_counter() - self.started

    def _log(self, bar):
        by_name: dict[str, list[float]] = {}
        for metrics in self._read_window():
            for name, value in metrics.items():
                by_name.setdefault(name, []).append(value)
        self.window.clear()
        self.num_checked = 0
        record = {name: sum(values) / len(values) for name, values in by_name.items()}
        bar.set_postfix({name: f"{value:.4g}" for name, value in list(record.items())[:3]}, refresh=False)
        self._record(record)

    def _record(self, record: dict[str, float]):
        if not record:
            return
        self.history.append({"step": self.step, **record})
        self.accelerator.log(record, step=self.step)

    def _read_window(self) -> list[dict[str, float]]:
        """The metrics since the last log line, averaged over the processes; the one wait for the device."""
        entries = [(offset, name) for offset, metrics in enumerate(self.window) for name in metrics]
        values = torch.stack([self.window[offset][name].detach().float() for offset, name in entries])
        read: list[dict[str, float]] = [{} for _ in self.window]
        for (offset, name), value in zip(entries, self.accelerator.reduce(values, "mean").tolist(), strict=True):
            read[offset][name] = value
            if offset >= self.num_checked and not math.isfinite(value):
                raise NonFiniteLoss(
                    f"{name} is {value} at step {self.step - len(read) + offset + 1}; the run stops (a smaller "
                    "--learning_rate or a --max_grad_norm may help)"
                )
        self.num_checked = len(read)
        return read

    def _save(self):
        window = self._read_window() if self.window else []  # no step that is not finite enters a checkpoint
        rng = gather_object([random_state()])
        problem = None
        if self.accelerator.is_main_process:
            progress = {"runtime": self._elapsed(), "history": self.history, "window": window}
            try:
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
        raise Stopped(
            f"stopped by {signal.Signals(number).name} after step {self.step}; saved in {self.checkpoints.folder}: "
            "go on with --resume_from_checkpoint latest",
            number,
        )

    def _resume(self):
        where = self.run.resume_from_checkpoint
        if where is None:
            if self.accelerator.is_main_process:
                self.checkpoints.clear()  # of an earlier run: a later resume would take them for this one's
            return
        if where == "latest":
            checkpoint = self.checkpoints.read_latest()
            if checkpoint is None:
                self.accelerator.print(f"no whole checkpoint in {self.checkpoints.folder}: starting from step 0")
                return
        else:
            try:
                checkpoint = Checkpoint(Path(where))
            except CorruptCheckpoint as error:
                raise UsageError(f"--resume_from_checkpoint {where} is not a whole checkpoint: {error}") from None
        # A checkpoint of an earlier version may lack a name that is compared today.
        for name, saved in checkpoint.identity.items():
            given = self.identity.get(name)
            if saved != given:
                raise UsageError(
                    f"--resume_from_checkpoint {checkpoint.path}: it is of a run with {name} {saved!r}, this one has "
                    f"{given!r}"
                )
        progress, rng = checkpoint.load(self.state)
        self.step = checkpoint.step
        self.runtime = progress["runtime"]
        self.history = progress["history"]
        self.window = [
            {name: torch.tensor(value, device=self.accelerator.device) for name, value in metrics.items()}
            for metrics in progress["window"]
        ]
        # As many processes as before go on with their own dropout; others start theirs anew.
        if self.accelerator.process_index < len(rng):
            set_random_state(rng[self.accelerator.process_index])
        self.accelerator.print(f"resumed from {checkpoint.path} at step {self.step}")


class _Signals:
    """Notes the first SIGINT or SIGTERM for the loop to act on between two steps; a second one leaves at once."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.number = 0

    def __enter__(self):
        self.previous = {}
        # Python delivers signals to the main thread only; elsewhere (a notebook's worker) the loop goes without.
        with contextlib.suppress(ValueError):
            for number in (signal.SIGINT, signal.SIGTERM, LAUNCHER_ENDED):
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

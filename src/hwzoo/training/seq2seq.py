"""
transformers' `Seq2SeqTrainer` in the frame of the zoo: its checkpoints check themselves, a signal saves and ends it, a
loss that is not finite stops it. Imported by name, as transformers' trainer loads much that image recipes never need.
"""

import contextlib
import logging
import math
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
import transformers
from accelerate import Accelerator
from torch.utils.data import Dataset, Sampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerState,
)

from ..errors import HwzooError, UsageError
from ..files import MADE, append_jsonl, public_name, record_made, replacing, sha256, size_of, writing
from .arguments import OF_ONE_TRY, Flags, check_destinations, deciding, flag, one_length
from .checkpoint import Checkpoint, Checkpoints, CorruptCheckpoint
from .journal import Journal, logged_in
from .loop import FitResult, NonFiniteLoss, Stopped, _Signals, imports_frozen
from .resume import CHECKPOINTS, HISTORY, MODELS, begin_anew, checkpoint_to_resume, cut_back_to

logger = logging.getLogger(__name__)

# What the Trainer writes, in whole or in part, before its folder becomes a checkpoint of ours.
WRITTEN = "checkpoint-"
# Of an adapter, all that is trained: PEFT's own file lacks the network that makes a prompt of p-tuning.
TRAINED = "trained.safetensors"
# What the Trainer logs besides, and image recipes do not.
NOT_LOGGED = {"epoch", "step", "total_flos"} | {
    f"eval_{name}" for name in ("runtime", "samples_per_second", "steps_per_second")
}


@dataclass
class Seq2SeqRunArguments(Flags):
    """The flags of a run of the Trainer, with the names of transformers' `run_summarization.py`."""

    FREE = OF_ONE_TRY | {"save_steps", "save_total_limit", "logging_steps", "per_device_eval_batch_size"}

    config: str | None = flag(None, "a preset by name, or a YAML file with flags as keys; the command line wins")
    output_dir: str = flag("outputs", "folder for the model, results, pictures and checkpoints")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")
    seed: int = flag(0, "seed of new weights, the order of the data and dropout", "[0, 4294967295]")
    per_device_train_batch_size: int = flag(32, "pairs a step, for each process and accumulated batch", "[1, inf)")
    per_device_eval_batch_size: int = flag(128, "pairs a batch when evaluating", "[1, inf)")
    num_train_epochs: float | None = flag(None, "passes over the training set; in place of --max_steps", "(0, inf)")
    max_steps: int | None = flag(None, "optimiser steps, 0 to test only; in place of --num_train_epochs", "[0, inf)")
    optim: Literal["adamw_torch_fused", "adafactor"] = flag(
        "adamw_torch_fused", "optimiser: AdamW without weight decay, or Adafactor (Shazeer and Stern, 1804.04235)"
    )
    learning_rate: float = flag(1e-3, "peak learning rate; Adafactor's in absolute terms", "(0, inf)")
    lr_scheduler_type: Literal["constant", "linear", "cosine", "inverse_sqrt"] = flag(
        "constant", "constant (with adafactor and 1e-3: fine-tuning of the T5 paper); linear or cosine down to 0; "
        "inverse_sqrt: the rate times sqrt(w / max(step, w)), w = --warmup_steps (0.01 and 10000: the paper's "
        "pre-training)",
    )  # fmt: skip
    warmup_steps: int = flag(
        0,
        "steps over which linear and cosine rise from 0",
        "[0, inf)",
        only={"lr_scheduler_type": ("linear", "cosine", "inverse_sqrt")},
    )
    group_by_length: bool = flag(False, "pairs of similar length in a batch: less padding, faster")
    max_grad_norm: float | None = flag(1.0, "gradients are scaled down to this norm; no limit when 0", "[0, inf)")
    gradient_accumulation_steps: int = flag(1, "batches whose gradients are averaged into one step", "[1, inf)")
    num_threads: int | None = flag(
        None, "threads of a process; OMP_NUM_THREADS, or else its share of the cores, when not given", "[1, 1024]"
    )
    bf16: bool = flag(False, "matrix products in bfloat16")
    fp16: bool = flag(False, "refused: T5 overflows in float16")
    logging_steps: int = flag(50, "steps between log lines, each the average over them", "[1, inf)")
    eval_steps: int | None = flag(
        None, "steps between evaluations on the validation set; the best by ROUGE-L is kept", "[1, inf)"
    )
    save_steps: int = flag(500, "steps between checkpoints; one is always taken at the end", "[1, inf)")
    save_total_limit: int | None = flag(2, "checkpoints kept, the newest; the best one besides", "[1, inf)")
    resume_from_checkpoint: str | None = flag(
        None, "'latest' for the newest whole checkpoint in the output folder, or the path of a checkpoint"
    )
    push_to_hub: bool = flag(False, "send the results to the Hub, with the token of HF_TOKEN or the login")
    hub_model_id: str | None = flag(None, "repository to push to, owner/name")
    hub_private_repo: bool = flag(False, "push to a private repository", only={"push_to_hub": (True,)})
    report_to: list[str] = flag(["none"], "experiment trackers: tensorboard, trackio, wandb, or none")

    def __post_init__(self):
        super().__post_init__()
        one_length(self)
        check_destinations(self)
        if self.fp16:
            raise UsageError(
                "--fp16 is refused: activations of T5 overflow in float16 and the loss becomes NaN (transformers "
                "#10956); give --bf16, or neither"
            )
        if self.lr_scheduler_type == "inverse_sqrt" and self.warmup_steps == 0:
            raise UsageError("--warmup_steps is 0; --lr_scheduler_type inverse_sqrt needs at least 1")

    @property
    def mixed_precision(self) -> str:
        """As `start` reads it."""
        return "bf16" if self.bf16 else "no"

    def training_arguments(self, device: torch.device) -> Seq2SeqTrainingArguments:
        """transformers' own arguments for a run on a device; nothing that a push would need is among them."""
        same = ("seed", "per_device_train_batch_size", "per_device_eval_batch_size", "optim", "learning_rate")
        same += ("warmup_steps", "gradient_accumulation_steps", "bf16", "logging_steps", "save_steps")
        evaluated = self.eval_steps is not None
        scheduler = "constant" if self.lr_scheduler_type == "inverse_sqrt" else self.lr_scheduler_type
        arguments = Seq2SeqTrainingArguments(
            output_dir=str(Path(self.output_dir) / CHECKPOINTS),
            use_cpu=device.type == "cpu",  # else it refuses bf16 there
            max_steps=self.max_steps or -1,
            num_train_epochs=self.num_train_epochs or 1.0,
            lr_scheduler_type=scheduler,
            max_grad_norm=self.max_grad_norm or 0.0,
            eval_strategy="steps" if evaluated else "no",
            eval_steps=self.eval_steps,
            metric_for_best_model="rougeL" if evaluated else None,
            greater_is_better=True if evaluated else None,
            save_strategy="steps",
            save_total_limit=None,  # ours are counted by `Checkpoints`
            predict_with_generate=True,
            logging_nan_inf_filter=False,  # it would hide what has to stop the run
            remove_unused_columns=False,
            label_names=["labels"],
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",  # the accelerator of `start` logs
            disable_tqdm=True,  # the journal has a bar
            **{name: getattr(self, name) for name in same},
        )
        # A process has one device: without a launcher the Trainer would spread a batch of each over all GPUs.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        return arguments


class ZooSeq2SeqTrainer(Seq2SeqTrainer):
    """
    Trains exactly resumably: N steps straight equal k steps, a kill, a resume and N - k steps, bit for bit on a CPU.

    Args:
        run: the flags of the run.
        accelerator: of `start`; its trackers get what is logged.
        identity: what a resumed run must share with its checkpoint besides the flags of the run; JSON values by name.
        kwargs: further ones of `Seq2SeqTrainer`: model, data, collator, metrics.
    """

    def __init__(self, run: Seq2SeqRunArguments, accelerator: Accelerator, identity: dict[str, Any], **kwargs):
        super().__init__(args=run.training_arguments(accelerator.device), **kwargs)
        self.run = run
        self.trackers = accelerator
        words = {"loss": ("loss", "nats a token")}
        self.journal = Journal(Path(run.output_dir), accelerator, shown=("loss", "eval_rougeL"), words=words)
        self.identity = identity | deciding(run) | {"processes": self.args.world_size}
        self.identity |= {name: public_name(self.identity[name]) for name in MODELS if self.identity.get(name)}
        if frozen := _digest_of_frozen(self.model):
            self.identity["frozen weights"] = frozen
        self.checkpoints = Checkpoints(Path(run.output_dir) / CHECKPOINTS, run.save_total_limit)
        self.resumed_from: Path | None = None
        self.best: int | None = None  # the step of the best weights, once the model has them
        self.runtime = 0.0  # seconds of the parts of this run before the last resume
        self.started = time.perf_counter()
        self.losses: list[tuple[int, torch.Tensor]] = []  # not yet looked at
        self.window = (0.0, 0)  # since the last log line: sum of the losses, and steps
        self.remove_callback(PrinterCallback)
        self.add_callback(_Frame(self))

    def fit(self) -> FitResult:
        """
        Trains to the end; then the model has the best weights by ROUGE-L on the validation set where `eval_steps` is
        given, else the last. With 0 steps the model stays as it is; the output folder is begun anew all the same.

        Returns:
            The results of the training by name, none of 0 steps, and the history: what was logged.

        Raises:
            NonFiniteLoss: with the first step whose loss was not finite; later checkpoints are not written.
            Stopped: after SIGINT, SIGTERM or SIGHUP and the checkpoint that follows.
            UsageError: when the checkpoint to resume from is none, or of another run.
        """
        checkpoint = self._checkpoint()
        if self.is_world_process_zero():
            for unfinished in self.checkpoints.folder.glob(WRITTEN + "*"):
                shutil.rmtree(unfinished)
            self._begin_history(checkpoint)
        self.accelerator.wait_for_everyone()
        if self.run.max_steps == 0:
            self.journal.begin(0, 0).close()
            return FitResult({}, [])
        if checkpoint is not None:
            self.resumed_from, self.runtime = checkpoint.path, checkpoint.progress["runtime"]
            self.window = tuple(checkpoint.progress.get("window", self.window))
        self.started, stopped_by = time.perf_counter(), 0
        if checkpoint is not None and checkpoint.progress["finished"]:
            self.state = self.state.load_from_json(str(checkpoint.path / "trainer_state.json"))
            load_trained(self.model, checkpoint.path)
        else:
            with (
                _Signals(self.accelerator) as self.signals,
                _quiet(),
                contextlib.closing(self.journal),
                imports_frozen(),
            ):
                self.train(resume_from_checkpoint=checkpoint and str(checkpoint.path))
                stopped_by = self.signals.received()  # also in the last step, or in what follows it
            self.runtime += time.perf_counter() - self.started
        if stopped_by:
            raise Stopped(
                f"stopped by {signal.Signals(stopped_by).name} after step {self.state.global_step}; "
                f"saved in {self.checkpoints.folder}",
                stopped_by,
            )
        self.best = self._load_best()
        samples = self.state.global_step * self.get_total_train_batch_size(self.args)
        results = {
            "train_steps": self.state.global_step,
            "train_runtime": round(self.runtime, 2),
            "train_samples_per_second": round(samples / self.runtime, 1),
        }
        if self.best:
            results["best_step"] = self.best
        return FitResult(results, logged_in(self.run.output_dir))

    def weights(self) -> str:
        """Which weights the model has after `fit`, in words for a protocol."""
        if self.run.max_steps == 0:
            return "the weights as they are"
        if self.best is None:
            return "the last weights"
        every = f"the best of the evaluations every {self.run.eval_steps} steps"
        return f"{every}, by ROUGE-L on {len(self.eval_dataset)} validation pairs"

    def generate_for(self, dataset: Dataset) -> np.ndarray:
        """
        Generated ids for a data set, (num, length), padded with the pad token or -100; the same on all ranks. In
        float32 whatever the training had, as for whoever loads the model.
        """
        self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)  # `forward` ran in bfloat16 in training
        before = self.compute_metrics, self.accelerator.native_amp
        prepared = vars(self.model).get("_is_accelerate_prepared", False)
        self.compute_metrics, self.accelerator.native_amp = None, False  # the metrics are the validation set's
        try:
            with _quiet():
                return self.predict(dataset).predictions
        finally:
            self.compute_metrics, self.accelerator.native_amp = before
            # accelerate marks a model that is only evaluated too, and would then train it on several processes without
            # exchanging gradients.
            self.model._is_accelerate_prepared = prepared

    def evaluation_loop(self, dataloader, *args, **kwargs):
        # Seq2SeqTrainer also gathers the examples with which several processes fill up the last batch.
        self.gather_function = self.accelerator.gather_for_metrics
        # The Trainer makes a loss for each place of a batch, also for those that no example fills.
        asked = self.args.per_device_eval_batch_size
        self.args.per_device_eval_batch_size = min(asked, max(1, len(dataloader.dataset)))
        try:
            return super().evaluation_loop(dataloader, *args, **kwargs)
        finally:
            self.args.per_device_eval_batch_size = asked

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """The schedule; `inverse_sqrt` is the T5 paper's, flat before it falls: transformers' own rises or falls."""
        if self.lr_scheduler is None and self.run.lr_scheduler_type == "inverse_sqrt":
            flat = self.run.warmup_steps
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer if optimizer is None else optimizer, lambda step: math.sqrt(flat / max(step, flat))
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        batch_size = self.args.train_batch_size * self.args.world_size
        lengths = [len(ids) for ids in dataset.input_ids] if self.run.group_by_length else None
        # accelerate would fill what several processes have no equal shares of with the first pairs of the epoch.
        step = self.get_total_train_batch_size(self.args) if self.args.world_size > 1 else 1
        return EpochSampler(len(dataset), self.run.seed, lengths, batch_size, step)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        The loss of a batch, weighed so that those of a step, accumulated and of all processes, add up to the mean over
        the step's label tokens. The Trainer believes that a model whose `forward` takes any argument does so itself;
        a T5 does not: two processes, or two accumulated batches, would double its gradients.
        """
        outputs = model(**inputs)
        loss = outputs["loss"]
        if num_items_in_batch is not None:
            tokens = (inputs["labels"] >= 0).sum()  # -100 pads
            loss = loss * (tokens * self.accelerator.num_processes / num_items_in_batch)  # processes are averaged
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.losses.append((self.state.global_step + 1, loss))
        return loss

    def _save_checkpoint(self, *args, **kwargs):
        with writing(self.checkpoints.folder / f"{WRITTEN}{self.state.global_step}"):
            super()._save_checkpoint(*args, **kwargs)

    def _begin_history(self, checkpoint: Checkpoint | None):
        folder = Path(self.run.output_dir)
        if checkpoint is None:
            begin_anew(folder, self.checkpoints)
            record_made(folder, {HISTORY: None})
        elif HISTORY in checkpoint.progress:
            cut_back_to(checkpoint.progress, checkpoint.path, folder)
        else:  # of the first version, whose history the Trainer alone held
            record_made(folder, {HISTORY: None})
            (folder / HISTORY).unlink(missing_ok=True)
            logged = TrainerState.load_from_json(str(checkpoint.path / "trainer_state.json")).log_history
            append_jsonl(
                folder / HISTORY, [{"step": each["step"], **_logged(each)} for each in logged if _logged(each)]
            )

    def check_losses(self):
        """Looks at the losses since the last look; the one wait for the device."""
        if not self.losses:
            return
        steps, losses = [step for step, _ in self.losses], torch.stack([loss for _, loss in self.losses])
        self.losses = []
        total, count = self.window
        for step, loss in zip(steps, self.accelerator.reduce(losses, "mean").tolist(), strict=True):
            total += loss  # the parts of a step that were accumulated add up to its loss
            if not math.isfinite(loss):
                raise NonFiniteLoss(
                    f"the loss is {loss} at step {step}; the run stops (a smaller --learning_rate may help)"
                )
        self.window = total, count + len(set(steps))

    def log_line(self, logs: dict[str, float]):
        """
        Tells the journal what the Trainer logs. Its loss is our own mean over the steps since the last line: after a
        resume the Trainer's lacks those before.

        Args:
            logs: of the Trainer, by name.
        """
        values = _logged(logs)
        if "loss" in values:
            total, count = self.window
            self.window = (0.0, 0)
            values["loss"] = total / count
        self.journal.record(self.state.global_step, values)

    def adopt_checkpoint(self):
        """
        Turns what the Trainer has just written into a checkpoint of ours.

        Raises:
            HwzooError: when a weight that is trained is not finite: what was written is deleted.
        """
        step = self.state.global_step
        written = self.checkpoints.folder / f"{WRITTEN}{step}"
        self.accelerator.wait_for_everyone()  # each process has written its random state
        if self.is_world_process_zero():
            # A pickle of all arguments; nothing of ours reads it.
            (written / "training_args.bin").unlink(missing_ok=True)
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad and not parameter.isfinite().all():
                    shutil.rmtree(written)
                    raise HwzooError(f"{name} is not finite after step {step}; the checkpoint is not written")
            if not isinstance(self.model, PreTrainedModel):
                safetensors.torch.save_file(
                    {name: each.detach().cpu().contiguous() for name, each in _trained(self.model).items()},
                    written / TRAINED,
                )
            runtime = self.runtime + time.perf_counter() - self.started
            progress = {"runtime": runtime, "finished": step >= self.state.max_steps, "window": self.window}
            progress |= {name: size_of(Path(self.run.output_dir) / name) for name in (HISTORY, MADE)}
            keep = {self.state.best_global_step} if self.state.best_global_step else set()
            self.checkpoints.adopt(written, step, progress, self.identity, keep)
            for best in keep:
                self._bring_along(f"step-{best:08d}")
        self.accelerator.wait_for_everyone()

    def _bring_along(self, name: str):
        """The checkpoint of the best weights, when the run goes on in another folder than it began in."""
        there = self.resumed_from.parent / name if self.resumed_from else None
        if there and there.is_dir() and not (self.checkpoints.folder / name).exists():
            with replacing(self.checkpoints.folder / name) as staging:
                shutil.copytree(there, staging)

    def _load_best(self) -> int | None:
        """The step of the best weights, which the model then has; None without evaluations, or where they are lost."""
        best = self.state.best_global_step
        if not best or best == self.state.global_step:
            return best
        folders = {self.checkpoints.folder, *([self.resumed_from.parent] if self.resumed_from else [])}
        for path in (folder / f"step-{best:08d}" for folder in folders):
            try:
                load_trained(self.model, Checkpoint(path).path)
                return best
            except CorruptCheckpoint as error:
                problem = error
        logger.warning("%s; it has the best weights, the last ones are taken", problem)
        return None

    def _checkpoint(self) -> Checkpoint | None:
        checkpoint = checkpoint_to_resume(self.run, self.checkpoints, self.identity)
        if checkpoint is None:
            if self.run.resume_from_checkpoint is not None:
                self.accelerator.print(f"no checkpoint in {self.checkpoints.folder}: starting from step 0")
            return None
        # The Trainer loads whatever file of a known name is there; all of them must be those that were verified.
        if strange := checkpoint.unnamed_files():
            raise UsageError(f"--resume_from_checkpoint {checkpoint.path}: {strange[0]} is not in its manifest")
        self.accelerator.print(f"resumed from {checkpoint.path} at step {checkpoint.step}")
        return checkpoint


class EpochSampler(Sampler):
    """
    Indices in an order that seed and epoch alone decide, so that a resumed run finds it again.

    Args:
        num: of the examples.
        seed: of the run.
        lengths: of the examples, to put those of similar length into one batch: within 50 batches drawn at random the
            examples are sorted, and the batches then drawn in random order. None leaves the order random.
        batch_size: over the processes.
        whole: examples of a step, over the processes and accumulated batches: what fills none at the end of an epoch
            is left out, drawn at random whatever its length. 1 leaves none out.

    Raises:
        UsageError: when there are fewer examples than a step takes.
    """

    def __init__(self, num: int, seed: int, lengths: Sequence[int] | None, batch_size: int, whole: int = 1):
        self.num, self.seed, self.lengths, self.batch_size = num, seed, lengths, batch_size
        self.kept = num - num % whole
        self.epoch = 0
        if num < whole:
            raise UsageError(
                f"--per_device_train_batch_size: a step takes {whole} pairs (over all processes and accumulated "
                f"batches), the training set has {num}"
            )

    def set_epoch(self, epoch: int):
        """The epoch whose order is given next, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.kept

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num, generator=generator).tolist()[: self.kept]
        if self.lengths is None:
            return iter(order)
        pool = 50 * self.batch_size
        pools = [sorted(order[i : i + pool], key=self.lengths.__getitem__) for i in range(0, self.kept, pool)]
        ordered = [index for each in pools for index in each]
        batches = [ordered[i : i + self.batch_size] for i in range(0, self.kept, self.batch_size)]
        short = batches[self.kept // self.batch_size :]  # none or one; it stays last
        places = torch.randperm(len(batches) - len(short), generator=generator).tolist()
        return iter([index for batch in [*(batches[place] for place in places), *short] for index in batch])


class _Frame(ProgressCallback):
    """What has to happen at the Trainer's own events; of its progress it keeps the bars of long evaluations."""

    def __init__(self, trainer: ZooSeq2SeqTrainer):
        super().__init__()
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.training_bar = self.trainer.journal.begin(state.global_step, state.max_steps).bar
        self.current_step = state.global_step
        # A resumed state has those of the run before; no step depends on them.
        state.logging_steps, state.save_steps = args.logging_steps, args.save_steps
        if self.trainer.resumed_from is not None and (self.trainer.resumed_from / TRAINED).exists():
            load_trained(self.trainer.model, self.trainer.resumed_from)

    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        if control.should_log or control.should_evaluate or control.should_save:
            self.trainer.check_losses()
        if self.trainer.signals.received():
            control.should_training_stop = control.should_save = True

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        if state.best_metric is None or metrics["eval_rougeL"] > state.best_metric:
            control.should_save = True  # the best weights are those of a checkpoint

    def on_log(self, args, state, control, logs, **kwargs):
        if self.trainer.is_in_train:
            self.trainer.log_line(logs)

    def on_save(self, args, state, control, **kwargs):
        self.trainer.check_losses()
        self.trainer.adopt_checkpoint()


def _logged(logs: dict[str, float]) -> dict[str, float]:
    """Of a log line of the Trainer, what is logged; nothing of its last one, which sums up."""
    if "train_runtime" in logs:
        return {}
    return {name: value for name, value in logs.items() if name not in NOT_LOGGED}


@contextlib.contextmanager
def _quiet():
    """Without transformers' warnings of what the Trainer does itself: lengths given twice, tied weights not saved."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def load_trained(model: torch.nn.Module, folder: Path):
    """
    Gives a model, or an adapter, the weights of a checkpoint.

    Args:
        model: of the same architecture; changed in place.
        folder: a checkpoint that the trainer has adopted.
    """
    if isinstance(model, PreTrainedModel):
        safetensors.torch.load_model(model, folder / "model.safetensors")
        return
    weights = safetensors.torch.load_file(folder / TRAINED)
    for name, parameter in _trained(model).items():
        parameter.data.copy_(weights[name])


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _digest_of_frozen(model: torch.nn.Module) -> str:
    """Of the weights that no checkpoint holds; empty when all are trained."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    parts = [sha256(each.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()) for each in frozen]
    return sha256("".join(parts).encode()) if parts else ""

"""One network in training: what comes after the loss of a step."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from .arguments import RunArguments
from .ema import averaged_model


class TrainState:
    """
    A network with its optimiser, its schedule of the learning rate and, with `run.use_ema`, its averaged weights.

    Args:
        run: the flags of the run.
        accelerator: of `start`.
        model: on its device.
        optimizer: of its parameters.
        total_steps: of the schedule.
        average: whether weights are averaged, where the run asks for it.
        autocast: whether losses run in the run's precision as a whole; else only the wrapped model does.
        norm_name: under which the norm of the gradient is logged; not at all when None.
        compile: whether losses call it by `torch.compile`.

    Attributes:
        wrapped: the model as the losses call it, for several processes.
        eval_model: what is tested and saved: the average, else the model itself.
    """

    def __init__(
        self,
        run: RunArguments,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        *,
        average: bool = True,
        autocast: bool = False,
        norm_name: str | None = None,
        compile: bool = False,
    ):
        from transformers import get_scheduler  # loads PEFT

        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.max_grad_norm, self.num_parts = run.max_grad_norm, run.gradient_accumulation_steps
        self.autocast, self.norm_name = autocast, norm_name
        self.ema = averaged_model(model, run.ema_decay) if run.use_ema and average else None
        self.eval_model = self.ema.module if self.ema else model
        self.wrapped = accelerator.prepare(model)
        if autocast:
            # accelerate would run it in bfloat16 wherever it is called, also for penalties and tests.
            accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        if compile:  # at last: accelerate would give a compiled module's forward back to the module in it
            self.wrapped = torch.compile(self.wrapped)
        self.parameters = list(model.parameters())
        settings = {"num_warmup_steps": run.lr_warmup_steps, "num_training_steps": total_steps}
        if run.lr_scheduler == "polynomial":
            # transformers divides by the steps after the warm-up, and refuses a rate below the last one.
            settings["num_training_steps"] = max(total_steps, run.lr_warmup_steps + 1)
            settings["scheduler_specific_kwargs"] = {"lr_end": min(1e-7, optimizer.defaults["lr"] / 10)}
        self.lr_scheduler = get_scheduler(run.lr_scheduler, optimizer, **settings)

    @property
    def steps_done(self) -> int:
        return self.lr_scheduler.last_epoch  # torch's name for it

    def step(
        self,
        loss_of: Callable[..., Mapping[str, Tensor]],
        *tensors: Tensor,
        loss: str = "loss",
        after_update: Callable[[Tensor | None], None] | None = None,
        advance: bool = True,
    ) -> dict[str, Tensor]:
        """
        One step of the optimiser, the schedule and the average.

        Args:
            loss_of: gives scalars by name from rows of `tensors`: the loss, and what else is to be logged; called for
                each of the parts in which gradients are accumulated.
            tensors: of this process's batch, alike in their first dimension.
            loss: name of the one that is minimised.
            after_update: called after the optimiser's step, with the gradients still there, as `after_update(clip)`:
                what they were multiplied by, at most 1; None without `max_grad_norm`.
            advance: whether schedule and average move on too.

        Returns:
            The scalars, averaged over the parts and cut from their graphs.
        """
        outputs = []
        for part in self._parts(tensors):
            with self.accelerator.autocast() if self.autocast else contextlib.nullcontext():
                outputs.append(loss_of(*part))
            own = outputs[-1][loss]
            self.accelerator.backward(own / self.num_parts if self.num_parts > 1 else own)
        logged = average(outputs)
        if self.max_grad_norm is not None or self.norm_name is not None:
            norm = torch.nn.utils.get_total_norm([each.grad for each in self.parameters if each.grad is not None])
            if self.max_grad_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, norm)
            if self.norm_name is not None:
                logged[self.norm_name] = norm
        self.optimizer.step()
        if after_update is not None:
            clips = self.max_grad_norm is not None
            after_update((self.max_grad_norm / (norm + 1e-6)).clamp(max=1) if clips else None)  # as torch does
        for parameter in self.parameters:  # quicker than the optimiser's own
            parameter.grad = None
        if advance:
            self.lr_scheduler.step()
            if self.ema:
                self.ema.update_parameters(self.model)
        return logged

    @contextlib.contextmanager
    def testing(self) -> Iterator[torch.nn.Module]:
        """`eval_model` in eval mode and, whatever the training has, in float32 as for whoever loads it; then training
        goes on as before."""
        forward = vars(self.eval_model).pop("forward", None)  # accelerate's, in the run's precision
        try:
            yield self.eval_model.eval()
        finally:
            self.eval_model.train()
            if forward is not None:
                self.eval_model.forward = forward

    def entries(self, prefix: str = "") -> dict[str, Any]:
        """What belongs into the state of `fit` besides the model, by name."""
        own = {f"{prefix}optimizer": self.optimizer, f"{prefix}lr_scheduler": self.lr_scheduler}
        return own | ({"ema": self.ema} if self.ema else {})

    def _parts(self, tensors: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
        """The rows in equal parts; several processes exchange gradients at the last one only."""
        if self.num_parts == 1:  # the usual case, without its overhead
            yield tensors
            return
        parts = list(zip(*(tensor.chunk(self.num_parts) for tensor in tensors), strict=True))
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                yield part


def make_optimizer(
    name: str, model: torch.nn.Module, learning_rate: float, momentum: float = 0.9
) -> torch.optim.Optimizer:
    """
    Adam (fused), or SGD with momentum, of a model's parameters: `name` is adam or sgd.

    Args:
        name: `adam` or `sgd`.
        model: all its parameters are trained.
        learning_rate: constant, above 0; a schedule may scale it.
        momentum: of SGD, in [0, 1).

    Returns:
        The optimiser; other settings are torch's defaults.

    Raises:
        ValueError: for another name.
    """
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=momentum)
    raise ValueError(f"name is {name!r}; it must be adam or sgd")


def average(outputs: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Scalars by name, averaged over several outputs and cut from their graphs: what a `train_step` gives."""
    if len(outputs) == 1:
        return {name: value.detach() for name, value in outputs[0].items()}
    return {name: sum(output[name].detach() for output in outputs) / len(outputs) for name in outputs[0]}

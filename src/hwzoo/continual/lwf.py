"""Learning without forgetting (Li and Hoiem, arXiv:1606.09282)."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .strategy import Strategy


class LwF(Strategy):
    """
    On the images of the new task the network is to answer for the old tasks as it did before: the loss gets
    lambda T^2 KL(old || new), both softmaxes at temperature T (equation 3), over each old head, averaged (task
    scenario), over all outputs (domain), or (class) old over the outputs seen before and new over all seen, so that
    the new classes may not take all probability from the old ones.

    Settings: `lwf_lambda`, `lwf_temperature`.
    """

    strength = "lwf_lambda"

    def __init__(self, *args):
        super().__init__(*args)
        self.teacher = copy.deepcopy(self.model).eval().requires_grad_(False)

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.task == 0:
            return super().losses(model, batch)
        logits = model(batch["pixel_values"]).logits  # of all heads
        head = slice(0, self.stream.num_labels)
        if self.stream.scenario == "task":
            head = self._head(self.task)
        terms = self.cross_entropy(logits[:, head], batch["labels"] - head.start)
        with torch.no_grad():
            old = self.teacher(batch["pixel_values"]).logits
        if self.stream.scenario == "task":
            pairs = [(logits[:, self._head(task)], old[:, self._head(task)]) for task in range(self.task)]
        else:
            pairs = [(self.seen(logits), old[:, : self.stream.num_active(self.task - 1)])]
        terms["distillation"] = sum(self._distillation(*pair) for pair in pairs) / len(pairs)
        terms["loss"] = terms["loss"] + self.settings.lwf_lambda * terms["distillation"]
        return terms

    def _head(self, task: int) -> slice:
        size = self.stream.num_labels // self.stream.num_tasks
        return slice(size * task, size * (task + 1))

    def _distillation(self, new: Tensor, old: Tensor) -> Tensor:
        """T^2 KL(old || new); outputs that only `new` has are improbable to `old`."""
        temperature = self.settings.lwf_temperature
        new, old = (new / temperature).log_softmax(-1), (old / temperature).log_softmax(-1)
        return temperature**2 * F.kl_div(new[:, : old.shape[1]], old, log_target=True, reduction="batchmean")

    def end_task(self):
        self.teacher.load_state_dict(self.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: dict[str, Any]):
        super().load_state_dict(state)
        self.teacher.load_state_dict(state["teacher"])

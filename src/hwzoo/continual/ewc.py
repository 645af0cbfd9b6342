"""Elastic weight consolidation (Kirkpatrick et al., arXiv:1612.00796) and its online form (arXiv:1805.06370)."""

from typing import Any

import torch

from ..errors import HwzooError, UsageError
from .fisher import fisher_diagonal
from .quadratic import QuadraticPenalty
from .strategy import Strategy


class EWC(Strategy):
    """
    The weights that mattered to past tasks are held by sum_k lambda / 2 F_k (theta - theta*_k)^2, F_k the diagonal
    Fisher information of task k at its end.

    Settings:

    - `ewc_lambda`; it means nothing without the Fisher estimator and the convention beside it;
    - `ewc_penalty`: "half" as above, or "full" without the 1/2 (the course's);
    - `ewc_online`: one anchor, the last weights, with F = `ewc_decay` F + F_k, in place of one a task;
    - `fisher_estimator`, `fisher_samples` (images a task; all when None), `fisher_mode` ("eval" or "train"), and
      `fisher_batch_size`.

    The step on the penalty is `QuadraticPenalty.step`: implicit, inside the momentum, stable at any lambda.
    """

    strength = "ewc_lambda"

    def __init__(self, *args):
        super().__init__(*args)
        if self.stream.num_active(0) == 1 and self.stream.num_tasks > 1:
            raise UsageError(
                "--strategy ewc: the first task has one class, whose probability is always 1; the Fisher information "
                "is zero for every weight and nothing would be held: give --num_tasks with two classes or more a task"
            )
        self.parameters = dict(self.model.named_parameters())
        self.penalty = QuadraticPenalty(self.parameters)

    def after_step(self, optimizer: torch.optim.Optimizer, clip: torch.Tensor | None = None):
        if self.task > 0:
            self.penalty.step(optimizer)

    def end_task(self):
        if self.task + 1 == self.stream.num_tasks:
            return  # nothing comes that could make the network forget
        strength = self.settings.ewc_lambda * {"half": 1.0, "full": 2.0}[self.settings.ewc_penalty]
        curvature = {name: strength * values for name, values in self._fisher().items()}
        anchor = {name: p.detach().clone() for name, p in self.parameters.items()}
        if self.settings.ewc_online:
            past = zip(self.parameters, self.penalty.curvature, strict=True)
            curvature = {name: curvature[name] + self.settings.ewc_decay * values for name, values in past}
            self.penalty.clear()
        self.penalty.add(curvature, anchor)

    def _fisher(self) -> dict[str, torch.Tensor]:
        train_mode, generator = self.settings.fisher_mode == "train", self.noise.generator
        examples = self.stream.train.select(self.stream.train_indices(self.task, self.task))
        num = min(self.settings.fisher_samples or len(examples), len(examples))
        # The squared gradient of a batch is what the batch is of: images may lie class by class.
        if num < len(examples) or self.settings.fisher_estimator == "minibatch":
            chosen = torch.randperm(len(examples), generator=generator, device=generator.device)
            examples = examples.select(chosen[:num].to(examples.labels.device))

        def log_probs(batch):
            logits = self.model(batch["pixel_values"], task_ids=batch["task_ids"]).logits
            return self.seen(logits).log_softmax(-1)

        device = examples.labels.device
        with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=train_mode):
            if train_mode:  # the same dropout on all processes, or their weights would part
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
            fisher = fisher_diagonal(
                self.model,
                log_probs,
                examples,
                estimator=self.settings.fisher_estimator,
                batch_size=self.settings.fisher_batch_size,
                train_mode=train_mode,
                generator=generator,
            )
        if not any(values.any() for values in fisher.values()):
            raise HwzooError(
                f"the Fisher information of task {self.task + 1} is zero for every weight, EWC would hold nothing: "
                "the model is certain of every label (a smaller --learning_rate or fewer steps may help)"
            )
        return fisher

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "penalty": self.penalty.state_dict()}

    def load_state_dict(self, state: dict[str, Any]):
        super().load_state_dict(state)
        self.penalty.load_state_dict(state["penalty"])

"""Synaptic intelligence (Zenke, Poole and Ganguli, arXiv:1703.04200)."""

from typing import Any

import torch

from .quadratic import QuadraticPenalty
from .strategy import Strategy


class SI(Strategy):
    """
    Weights are held by c sum_k Omega_k (theta_k - theta*_k)^2 (equation 4), their importance Omega by how much the
    loss fell as they moved: over a task, omega = sum of -gradient x move of each step (equation 3), and at its end
    Omega += max(omega, 0) / (total move^2 + damping) (equation 5).

    The gradient is that of the loss without the penalty, before it is clipped; the move that of the whole step.
    Settings: `si_lambda`, the paper's c, and `si_damping`, its xi.
    """

    strength = "si_lambda"

    def __init__(self, *args):
        super().__init__(*args)
        self.parameters = dict(self.model.named_parameters())
        self.penalty = QuadraticPenalty(self.parameters)
        self.importance = [torch.zeros_like(p, requires_grad=False) for p in self.parameters.values()]
        self.path_integral = [torch.zeros_like(importance) for importance in self.importance]
        self.previous = self._weights()
        self.anchor = self._weights()

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, clip: torch.Tensor | None = None):
        if self.task > 0:
            self.penalty.step(optimizer)
        # previous - theta, in place
        torch._foreach_sub_(self.previous, list(self.parameters.values()))
        gradients = [p.grad for p in self.parameters.values()]
        gradients = gradients if clip is None else torch._foreach_div(gradients, clip)
        torch._foreach_addcmul_(self.path_integral, self.previous, gradients)
        torch._foreach_copy_(self.previous, list(self.parameters.values()))

    @torch.no_grad()
    def end_task(self):
        weights = self._weights()
        for importance, integral, new, old in zip(
            self.importance, self.path_integral, weights, self.anchor, strict=True
        ):
            importance += integral.clamp(min=0) / ((new - old).square() + self.settings.si_damping)
            integral.zero_()
        self.anchor = weights
        self.penalty.clear()
        curvature = [2 * self.settings.si_lambda * importance for importance in self.importance]
        names = list(self.parameters)
        self.penalty.add(dict(zip(names, curvature, strict=True)), dict(zip(names, self.anchor, strict=True)))

    def _weights(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.parameters.values()]

    def state_dict(self) -> dict[str, Any]:
        lists = {name: getattr(self, name) for name in ("importance", "path_integral", "previous", "anchor")}
        return {**super().state_dict(), **lists, "penalty": self.penalty.state_dict()}

    def load_state_dict(self, state: dict[str, Any]):
        super().load_state_dict(state)
        self.penalty.load_state_dict(state["penalty"])
        for name in ("importance", "path_integral", "previous", "anchor"):
            for mine, saved in zip(getattr(self, name), state[name], strict=True):
                mine.copy_(saved)

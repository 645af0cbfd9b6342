"""The quadratic penalty of EWC and SI on moves away from past weights, and a step on it that is stable."""

from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError


class QuadraticPenalty:
    """
    P(theta) = sum_k 1/2 sum_i a_ki (theta_i - theta*_ki)^2, for anchors theta*_k and curvatures a_k >= 0.

    The sum over k is again one quadratic: whatever the number of tasks, two tensors a parameter are held, sum_k a_k
    and sum_k a_k theta*_k, and a constant.

    Args:
        parameters: what it holds back, by name.
    """

    def __init__(self, parameters: dict[str, torch.nn.Parameter]):
        self.names = list(parameters)
        self.parameters = list(parameters.values())
        self.clear()

    def clear(self):
        """Forgets all anchors: the penalty is 0 everywhere."""
        self.curvature = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.pull = [torch.zeros_like(p, requires_grad=False) for p in self.parameters]
        self.constant = 0.0

    @torch.no_grad()
    def add(self, curvature: dict[str, Tensor], anchor: dict[str, Tensor]):
        """
        Adds 1/2 curvature (theta - anchor)^2.

        Args:
            curvature: at least 0, of the parameter's shape, by the parameter's name.
            anchor: theta*, of the same shape, by the parameter's name.
        """
        for index, name in enumerate(self.names):
            pull = curvature[name] * anchor[name]
            self.curvature[index] += curvature[name]
            self.pull[index] += pull
            self.constant += 0.5 * (pull * anchor[name]).sum().item()

    def __call__(self) -> Tensor:
        """P(theta), a scalar with its gradient; the steps below do not need it."""
        terms = zip(self.parameters, self.curvature, self.pull, strict=True)
        return self.constant + sum((0.5 * a * p.square() - b * p).sum() for p, a, b in terms)

    @torch.no_grad()
    def step(self, optimizer: torch.optim.Optimizer):
        """
        The penalty's share of an optimiser step, taken after `optimizer.step()` on the other gradients.

        An explicit step, the penalty's gradient added to the others, diverges under SGD once rate x curvature exceeds
        2. This one is implicit: the penalty's gradient is taken at the weights that the step arrives at,

            theta_new = theta' - s a (theta_new - theta*)    =>    theta_new = (theta' + s a theta*) / (1 + s a)

        with theta' the weights after `optimizer.step()` and s the step size that one unit of gradient gets: the
        learning rate under SGD, lr (1 - beta1) / ((1 - beta1^t) (sqrt(v) + eps)) under Adam, whose second moment v
        sees the other gradients alone. It stands inside the momentum: the momentum buffer (Adam's first moment) gets
        the same implicit gradient, so that a strength means what it means in the loss, at small s a the step is the
        explicit one up to second order in s, and heavy-ball momentum below 1 is stable at any curvature. (A step
        outside the buffer is 1 / (1 - momentum) times weaker.)

        Raises:
            UsageError: for an optimiser other than SGD (without Nesterov momentum and dampening) and Adam or AdamW
                (without AMSGrad), or one that maximises.
        """
        for group in optimizer.param_groups:
            known = {id(p): index for index, p in enumerate(self.parameters)}
            moved = [p for p in group["params"] if p.grad is not None and id(p) in known]
            curvature = [self.curvature[known[id(p)]] for p in moved]
            pull = [self.pull[known[id(p)]] for p in moved]
            states = [optimizer.state[p] for p in moved]
            sgd = isinstance(optimizer, torch.optim.SGD) and not (group["nesterov"] or group["dampening"])
            adam = isinstance(optimizer, torch.optim.Adam) and not group["amsgrad"]
            if not (sgd or adam) or group["maximize"]:
                raise UsageError("a penalty on the weights needs SGD without Nesterov momentum and dampening, or Adam")
            if sgd:
                step_sizes, share = [group["lr"]] * len(moved), 1.0
                buffers = [state["momentum_buffer"] for state in states] if group["momentum"] else None
            else:
                beta1, beta2 = group["betas"]
                share = 1 - beta1  # of a gradient that enters the first moment
                count = states[0]["step"]  # a tensor: no waiting for the device
                step_sizes = torch._foreach_sqrt([state["exp_avg_sq"] for state in states])
                torch._foreach_mul_(step_sizes, (1 - beta2**count) ** -0.5)
                torch._foreach_add_(step_sizes, group["eps"])
                torch._foreach_reciprocal_(step_sizes)
                torch._foreach_mul_(step_sizes, share * group["lr"] / (1 - beta1**count))
                buffers = [state["exp_avg"] for state in states]
            # The force of the penalty at theta_new is a (theta* - theta') / (1 + s a).
            strength = torch._foreach_mul(curvature, step_sizes)
            torch._foreach_add_(strength, 1.0)
            force = torch._foreach_mul(curvature, moved)
            torch._foreach_sub_(force, pull)
            torch._foreach_div_(force, strength)  # its negative
            if buffers is not None:
                torch._foreach_add_(buffers, force, alpha=share)
            torch._foreach_mul_(force, step_sizes)
            torch._foreach_sub_(moved, force)

    def state_dict(self) -> dict[str, Any]:
        return {"curvature": self.curvature, "pull": self.pull, "constant": self.constant}

    def load_state_dict(self, state: dict[str, Any]):
        for mine, saved in ((self.curvature, state["curvature"]), (self.pull, state["pull"])):
            for tensor, value in zip(mine, saved, strict=True):
                tensor.copy_(value)
        self.constant = state["constant"]

"""The diagonal of the Fisher information, by five estimators that go by the same name and differ by magnitudes."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ESTIMATORS = ("exact", "sampled", "empirical", "minibatch", "batch_sum")


def fisher_diagonal(
    model: nn.Module,
    log_probs: Callable[[dict[str, Tensor]], Tensor],
    examples: Any,
    *,
    estimator: str = "exact",
    batch_size: int = 256,
    train_mode: bool = False,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """
    An estimate of E_x E_{y ~ p(y|x)} [(d log p(y|x) / d theta)^2] for every weight of a classifier (Kirkpatrick et
    al., arXiv:1612.00796; on the estimators: van de Ven, arXiv:2502.11756).

    Args:
        model: whose parameters all belong to Linear and Conv2d layers.
        log_probs: gives log p(y|x) for all labels y of a batch, (batch, num_labels).
        examples: an image set.
        estimator:
            "exact": the expectation over y is taken in full, one backward pass a label that is possible;
            "sampled": one label an example, drawn from p(y|x);
            "empirical": the label of the data; these three average squared gradients of single examples;
            "minibatch": the square of a mini-batch's mean gradient for the labels of the data, averaged over the
            mini-batches: smaller by about the batch size;
            "batch_sum": the square of the sum of all mini-batches' mean gradients, as in the course: it grows with the
            square of their number, and where training ends, the sum of gradients near zero, much of it is noise.
        batch_size: examples at a time; "minibatch" and "batch_sum" depend on it.
        train_mode: with the model's dropout, as in the course; else in eval mode.
        generator: for the sampled labels.

    Returns:
        Name of the parameter -> estimate of its shape.

    Raises:
        ValueError: for an unknown estimator, or a model with parameters in other layers.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; it must be one of {', '.join(ESTIMATORS)}")
    was_training = model.training
    model.train(train_mode)
    try:
        estimate = _of_batches if estimator in ("minibatch", "batch_sum") else _of_examples
        return estimate(model, log_probs, examples, estimator, batch_size, generator)
    finally:
        model.train(was_training)


def _batches(examples: Any, batch_size: int) -> Iterator[dict[str, Tensor]]:
    for indices in torch.arange(len(examples), device=examples.labels.device).split(batch_size):
        yield examples.batch(indices)


def _of_batches(model, log_probs, examples, estimator, batch_size, generator) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    total, num = [torch.zeros_like(p, requires_grad=False) for p in parameters], 0
    for batch in _batches(examples, batch_size):
        gradients = torch.autograd.grad(F.nll_loss(log_probs(batch), batch["labels"]), parameters)
        for mine, gradient in zip(total, gradients, strict=True):
            mine += gradient.square() if estimator == "minibatch" else gradient
        num += 1
    total = [mine / num if estimator == "minibatch" else mine.square() for mine in total]
    return dict(zip(names, total, strict=True))


def _of_examples(model, log_probs, examples, estimator, batch_size, generator) -> dict[str, Tensor]:
    with _squared_gradients(model) as (total, weights):
        for batch in _batches(examples, batch_size):
            log_p = log_probs(batch)
            if estimator == "exact":
                # The square of a gradient scaled by sqrt(p) is p times the square of the gradient.
                roots = log_p.detach().div(2).exp()
                scaled = log_p * roots
                labels = roots.any(0).nonzero()[:, 0].tolist()  # those of other tasks' heads would add 0
                for label in labels:
                    torch.autograd.grad(scaled[:, label].sum(), weights, retain_graph=label != labels[-1])
                continue
            labels = batch["labels"]
            if estimator == "sampled":
                probabilities = log_p.detach().exp()
                if generator is not None:
                    probabilities = probabilities.to(generator.device)
                labels = torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(labels.device)
            torch.autograd.grad(F.nll_loss(log_p, labels, reduction="sum"), weights)
    return {name: squares / len(examples) for name, squares in total.items()}


@contextlib.contextmanager
def _squared_gradients(model: nn.Module):
    """
    Yields (sums, weights): while it is open, each gradient taken of the weights adds the squared gradients of the
    single examples of the batch to `sums`, provided that the loss is a sum over the examples.

    The gradient of one example is the outer product of a layer's input and the gradient at its output (summed over
    the positions of a convolution): of a linear layer no gradient of a single example is ever formed.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    covered = {id(p) for layer in layers for p in layer.parameters()}
    if set(names) - covered or any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in layers):
        raise ValueError("gradients of single examples are known for Linear and ungrouped Conv2d layers only")
    sums = {name: torch.zeros_like(p, requires_grad=False) for name, p in model.named_parameters()}

    def add(layer, inputs, gradient):
        # Under autocast a layer's input and the gradient at its output differ in precision.
        inputs, gradient = inputs.detach().to(layer.weight.dtype), gradient.to(layer.weight.dtype)
        if isinstance(layer, nn.Linear):
            sums[names[id(layer.weight)]] += gradient.square().T @ inputs.square()
            of_bias = gradient
        else:
            patches = F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            each = gradient.flatten(2) @ patches.transpose(1, 2)  # (batch, out, in * kernel)
            sums[names[id(layer.weight)]] += each.square().sum(0).view_as(layer.weight)
            of_bias = gradient.sum((2, 3))
        if layer.bias is not None:
            sums[names[id(layer.bias)]] += of_bias.square().sum(0)

    def watch(layer, args, output):
        output.register_hook(lambda gradient: add(layer, args[0], gradient))

    hooks = [layer.register_forward_hook(watch) for layer in layers]
    try:
        yield sums, [layer.weight for layer in layers]
    finally:
        for hook in hooks:
            hook.remove()

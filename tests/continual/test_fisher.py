"""The five estimators of the Fisher information against closed forms and loops over single examples."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hwzoo.continual import ESTIMATORS, fisher_diagonal

close = torch.testing.assert_close


def log_probs_of(model):
    return lambda batch: model(batch["pixel_values"], task_ids=batch.get("task_ids")).logits.log_softmax(-1)


def fisher_of(model, examples, **settings):
    return fisher_diagonal(model, log_probs_of(model), examples, **settings)


def sampled_labels(model, examples, batch_size, seed):
    """The labels that the estimator draws in batches of this size from a generator of this seed."""
    generator, labels = torch.Generator().manual_seed(seed), []
    with torch.no_grad():
        for indices in torch.arange(len(examples)).split(batch_size):
            p = log_probs_of(model)(examples.batch(indices)).exp()
            labels.append(torch.multinomial(p, 1, generator=generator)[:, 0])
    return torch.cat(labels)


# The linear softmax model: d log p_y / d W_kj = (1[y = k] - p_k) x_j


@pytest.fixture
def linear(make_stream, make_model):
    stream = make_stream(num_tasks=1, num=23, num_classes=4)
    model = make_model(stream, hidden_sizes=()).eval()
    x = stream.train.pixel_values().flatten(1).double()
    p = (x @ model.classifier.weight.T + model.classifier.bias).softmax(-1).detach()
    return model, stream.train, x, p


def check_linear(fisher, by_output, x):
    """`by_output`: (num, outputs), the squared derivatives by the outputs of each example."""
    close(fisher["classifier.weight"], by_output.T @ x.square() / len(x))
    close(fisher["classifier.bias"], by_output.mean(0))


def test_exact_on_a_linear_model(linear):
    model, examples, x, p = linear
    fisher = fisher_of(model, examples, estimator="exact", batch_size=7)
    assert set(fisher) == {"classifier.weight", "classifier.bias"}
    check_linear(fisher, p * (1 - p), x)


def test_empirical_on_a_linear_model(linear):
    model, examples, x, p = linear
    residual = F.one_hot(examples.labels, 4) - p
    check_linear(fisher_of(model, examples, estimator="empirical", batch_size=7), residual.square(), x)


def test_sampled_on_a_linear_model(linear):
    model, examples, x, p = linear
    generator = torch.Generator().manual_seed(5)
    fisher = fisher_of(model, examples, estimator="sampled", batch_size=7, generator=generator)
    residual = F.one_hot(sampled_labels(model, examples, 7, seed=5), 4) - p
    check_linear(fisher, residual.square(), x)


def test_sampled_is_exact_on_average(linear):
    model, examples, _, p = linear
    many = examples.select(torch.arange(len(examples)).repeat(400))
    generator = torch.Generator().manual_seed(0)
    sampled = fisher_of(model, many, estimator="sampled", batch_size=5000, generator=generator)["classifier.bias"]
    close(sampled, (p * (1 - p)).mean(0), rtol=0.05, atol=0)


@pytest.mark.parametrize("estimator", ["minibatch", "batch_sum"])
def test_of_mini_batches_on_a_linear_model(estimator, linear):
    model, examples, x, p = linear
    residual = p - F.one_hot(examples.labels, 4)
    parts = [torch.arange(start, min(start + 7, 23)) for start in range(0, 23, 7)]
    gradients = torch.stack([residual[part].T @ x[part] / len(part) for part in parts])
    of_bias = torch.stack([residual[part].mean(0) for part in parts])
    fisher = fisher_of(model, examples, estimator=estimator, batch_size=7)
    if estimator == "minibatch":
        expected = gradients.square().mean(0), of_bias.square().mean(0)
    else:
        expected = gradients.sum(0).square(), of_bias.sum(0).square()
    close(fisher["classifier.weight"], expected[0])
    close(fisher["classifier.bias"], expected[1])


# Deeper models, against autograd of one example after the other


def looped(model, examples, weights):
    """Mean over the examples of sum_y weight_y (d log p(y|x) / d theta)^2; `weights`: (num, labels)."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for index in range(len(examples)):
        log_p = log_probs_of(model)(examples.batch(torch.tensor([index])))[0]
        for label in weights[index].nonzero()[:, 0]:
            gradients = torch.autograd.grad(log_p[label], list(model.parameters()), retain_graph=True)
            for mine, gradient in zip(total.values(), gradients, strict=True):
                mine += weights[index, label] * gradient.square()
    return {name: values.detach() / len(examples) for name, values in total.items()}


@pytest.mark.parametrize("estimator", ["exact", "sampled", "empirical"])
@pytest.mark.parametrize(("backbone", "image_size"), [("mlp", 4), ("cnn", 16), ("wide_cnn", 8)])
def test_equals_a_loop_over_single_examples(backbone, image_size, estimator, make_stream, make_model):
    stream = make_stream(num_tasks=1, num=6, num_classes=3, image_size=image_size)
    model, examples = make_model(stream, backbone, hidden_sizes=(5, 4)).eval(), stream.train
    generator = torch.Generator().manual_seed(2)
    fisher = fisher_of(model, examples, estimator=estimator, batch_size=4, generator=generator)
    with torch.no_grad():
        weights = {
            "exact": log_probs_of(model)(examples.batch(torch.arange(6))).exp(),
            "sampled": F.one_hot(sampled_labels(model, examples, 4, seed=2), 3).double(),
            "empirical": F.one_hot(examples.labels, 3).double(),
        }[estimator]
    expected = looped(model, examples, weights)
    assert fisher.keys() == expected.keys()
    for name, values in expected.items():
        assert values.any(), name
        close(fisher[name], values, msg=name)


@pytest.mark.parametrize("estimator", ["exact", "empirical"])
def test_the_batch_size_is_not_seen(estimator, make_stream, make_model):
    stream = make_stream(num_tasks=1)
    model = make_model(stream)
    whole, parts = (fisher_of(model, stream.train, estimator=estimator, batch_size=size) for size in (100, 5))
    for name in whole:
        close(whole[name], parts[name])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("train_mode", [True, False])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_mode_is_that_asked_for_and_then_the_one_before(estimator, train_mode, training, make_stream, make_model):
    stream = make_stream(num_tasks=1, num=12, image_size=16)
    model, modes = make_model(stream, "cnn").train(training), []

    def log_probs(batch):
        modes.append({layer.training for layer in model.modules()})
        return log_probs_of(model)(batch)

    fisher_diagonal(model, log_probs, stream.train, estimator=estimator, train_mode=train_mode)
    assert modes and all(mode == {train_mode} for mode in modes)
    assert {layer.training for layer in model.modules()} == {training}
    with pytest.raises(ZeroDivisionError):
        fisher_diagonal(model, lambda batch: 1 / 0, stream.train, estimator=estimator, train_mode=not training)
    assert {layer.training for layer in model.modules()} == {training}
    # Nothing is left that would watch the next forward pass.
    assert not any(layer._forward_hooks for layer in model.modules())


def test_dropout_enters_in_train_mode(make_stream, make_model):
    stream = make_stream(num_tasks=1, num=6, num_classes=3, image_size=16)
    model = make_model(stream, "cnn")
    torch.manual_seed(4)
    fisher = fisher_of(model, stream.train, estimator="minibatch", batch_size=6, train_mode=True)
    torch.manual_seed(4)
    batch = stream.train.batch(torch.arange(6))
    loss = F.nll_loss(log_probs_of(model.train())(batch), batch["labels"])
    for name, gradient in zip(fisher, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        close(fisher[name], gradient.square())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_of_several_heads_only_the_tasks_own_is_measured(estimator, make_stream, make_model):
    stream = make_stream(num_tasks=3, scenario="task")
    model = make_model(stream).float()  # where the logits of the others are nearest to infinity
    examples = stream.train.select(stream.train_indices(1, 1))
    generator = torch.Generator().manual_seed(0)
    fisher = fisher_of(model, examples, estimator=estimator, batch_size=5, generator=generator)
    assert all(values.isfinite().all() and (values >= 0).all() for values in fisher.values())
    for name in ("classifier.weight", "classifier.bias"):
        assert not fisher[name][:2].any() and not fisher[name][4:].any()
        assert fisher[name][2:4].any(-1).all()


@pytest.fixture
def passes(monkeypatch) -> list:
    """One entry for each backward pass of the estimators."""
    taken, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: taken.append(1) or grad(*args, **kwargs))
    return taken


@pytest.mark.parametrize("tasks", [(1, 1), (0, 2)])
def test_labels_that_are_not_possible_need_no_pass(tasks, make_stream, make_model, passes):
    """Which are possible differs from batch to batch where the images are of several tasks."""
    stream = make_stream(num_tasks=3, scenario="task")
    model, examples = make_model(stream).eval(), stream.train.select(stream.train_indices(*tasks))
    fisher = fisher_of(model, examples, estimator="exact", batch_size=5)
    here = [len(part.unique()) for part in examples.task_ids.split(5)]
    assert set(here) == ({1} if tasks == (1, 1) else {1, 2})
    assert len(passes) == 2 * sum(here)
    with torch.no_grad():
        weights = log_probs_of(model)(examples.batch(torch.arange(len(examples)))).exp()
    for name, values in looped(model, examples, weights).items():
        close(fisher[name], values)


def test_without_a_possible_label_nothing_is_measured(linear, passes):
    model, examples, *_ = linear
    fisher = fisher_diagonal(model, lambda batch: log_probs_of(model)(batch) - torch.inf, examples)
    assert passes == [] and not any(values.any() for values in fisher.values())


def test_no_gradient_is_left_behind(make_stream, make_model):
    stream = make_stream(num_tasks=1)
    model = make_model(stream)
    for estimator in ESTIMATORS:
        fisher = fisher_of(model, stream.train, estimator=estimator)
        assert all(p.grad is None for p in model.parameters())
        assert not any(values.requires_grad for values in fisher.values())


def test_bfloat16_changes_little(make_stream, make_model):
    stream = make_stream(num_tasks=1, num=12, image_size=16)
    model = make_model(stream, "cnn").float().eval()
    expected = fisher_of(model, stream.train)

    def log_probs(batch):
        with torch.autocast("cpu", torch.bfloat16):
            return log_probs_of(model)(batch)

    for name, values in fisher_diagonal(model, log_probs, stream.train).items():
        assert values.dtype == torch.float32
        close(values.sum(), expected[name].sum(), rtol=0.05, atol=0)


def test_an_unknown_estimator_is_refused(linear):
    with pytest.raises(ValueError, match="estimator is 'diagonal'; it must be one of exact, sampled, empirical"):
        fisher_of(linear[0], linear[1], estimator="diagonal")


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1, groups=2)])
def test_layers_whose_single_gradients_are_not_known_are_refused(layer, make_stream):
    examples = make_stream(num_tasks=1).train
    model = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 2, 2)), layer, nn.Flatten(), nn.Linear(16, 6))

    def fisher(estimator):
        log_probs = lambda batch: model(batch["pixel_values"]).log_softmax(-1)  # noqa: E731 (short)
        return fisher_diagonal(model, log_probs, examples, estimator=estimator)

    with pytest.raises(ValueError, match="Linear and ungrouped Conv2d layers only"):
        fisher("exact")
    assert all(values.any() for values in fisher("minibatch").values())  # needs no single gradients

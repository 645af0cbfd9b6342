"""Learning without forgetting: its loss against the formula, and its teacher."""

import pytest
import torch
from torch.nn import functional as F

close = torch.testing.assert_close


def perturb(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)


def kullback_leibler(old, new, temperature):
    """T^2 sum_y old_y (log old_y - log new_y), averaged over the batch; `new` may have outputs that `old` lacks."""
    p, q = (logits / temperature for logits in (old, new))
    p, q = p.exp() / p.exp().sum(1, keepdim=True), q.exp() / q.exp().sum(1, keepdim=True)
    q = q[:, : p.shape[1]]
    return temperature**2 * (p * (p.log() - q.log())).sum(1).mean()


@pytest.fixture
def learned(make_stream, make_strategy):
    """At the third task of three: a strategy, a batch, and the logits of the teacher and of the model."""

    def make(scenario, **settings):
        strategy = make_strategy("lwf", make_stream(scenario=scenario), **settings)
        for task in range(2):
            perturb(strategy.model, seed=task)
            strategy.task = task
            strategy.end_task()
        batch = strategy.stream.train.batch(torch.arange(24, 31))
        old = strategy.model(batch["pixel_values"]).logits.detach()
        strategy.task = 2
        perturb(strategy.model, seed=2)
        return strategy, batch, old, strategy.model(batch["pixel_values"]).logits

    return make


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_task_scenario_distils_each_old_head(temperature, learned):
    strategy, batch, old, new = learned("task", lwf_lambda=0.7, lwf_temperature=temperature)
    terms = strategy.losses(strategy.model, batch)
    distillation = sum(kullback_leibler(old[:, head], new[:, head], temperature) for head in HEADS[:2]) / 2
    own = F.cross_entropy(new[:, HEADS[2]], batch["labels"] - 4)
    check(terms, own, distillation, 0.7)


HEADS = [slice(0, 2), slice(2, 4), slice(4, 6)]


def check(terms, cross_entropy, distillation, strength):
    assert distillation > 1e-3
    close(terms["distillation"], distillation)
    close(terms["loss"], cross_entropy + strength * distillation)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_domain_scenario_distils_all_outputs(temperature, learned):
    strategy, batch, old, new = learned("domain", lwf_lambda=0.7, lwf_temperature=temperature)
    terms = strategy.losses(strategy.model, batch)
    check(terms, F.cross_entropy(new, batch["labels"]), kullback_leibler(old, new, temperature), 0.7)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_class_scenario_distils_the_outputs_seen_before_among_all_seen(temperature, learned):
    strategy, batch, old, new = learned("class", lwf_lambda=0.7, lwf_temperature=temperature)
    terms = strategy.losses(strategy.model, batch)
    check(terms, F.cross_entropy(new, batch["labels"]), kullback_leibler(old[:, :4], new, temperature), 0.7)
    strategy.task = 1  # the outputs of the third task do not compete yet
    batch["labels"] = batch["labels"] - 2
    terms = strategy.losses(strategy.model, batch)
    distillation = kullback_leibler(old[:, :2], new[:, :4], temperature)
    check(terms, F.cross_entropy(new[:, :4], batch["labels"]), distillation, 0.7)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_first_task_is_learned_alone(scenario, make_stream, make_strategy):
    strategy = make_strategy("lwf", make_stream(scenario=scenario))
    batch = strategy.stream.train.batch(torch.arange(5))
    terms = strategy.losses(strategy.model, batch)
    naive = make_strategy("naive", strategy.stream, strategy.model).losses(strategy.model, batch)
    assert set(terms) == {"loss", "accuracy"} and terms["loss"] == naive["loss"]


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_without_its_strength_it_is_naive(scenario, learned, make_strategy):
    strategy, batch, _, _ = learned(scenario, lwf_lambda=0.0)
    naive = make_strategy("naive", strategy.stream, strategy.model)
    naive.task = 2
    terms, expected = strategy.losses(strategy.model, batch), naive.losses(strategy.model, batch)
    close(terms["loss"], expected["loss"])
    assert terms["accuracy"] == expected["accuracy"]


def test_the_teacher_is_the_network_of_the_last_task_and_is_not_trained(make_stream, make_model, make_strategy):
    stream = make_stream(image_size=16)
    strategy = make_strategy("lwf", stream, make_model(stream, "cnn"))  # with dropout, in training mode
    strategy.end_task()
    strategy.task = 1
    learned = {name: values.clone() for name, values in strategy.model.state_dict().items()}
    optimizer = torch.optim.SGD(strategy.model.parameters(), lr=1.0)
    for _ in range(2):
        strategy.losses(strategy.model, stream.train.batch(torch.arange(12, 18)))["loss"].backward()
        optimizer.step()
    assert not any(layer.training for layer in strategy.teacher.modules()) and strategy.model.training
    assert all(p.grad is None for p in strategy.teacher.parameters())
    for name, values in strategy.teacher.state_dict().items():
        assert torch.equal(values, learned[name])
        assert not torch.equal(values, strategy.model.state_dict()[name])
    strategy.end_task()
    for name, values in strategy.teacher.state_dict().items():
        assert torch.equal(values, strategy.model.state_dict()[name])

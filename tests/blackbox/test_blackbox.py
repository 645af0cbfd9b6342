"""Estimates of a gradient that must be asked for, against the one that enumeration and closed forms give."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hwzoo import blackbox
from hwzoo.errors import HwzooError, UsageError

SIZES = (3, 4, 3)
UNBIASED = ("reinforce", "reinforce_baseline")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def toy():
    """200 copies of one network of 3 inputs, on 8 points, 60 times each: points, labels, parameters."""
    points, labels = torch.randn(8, 3, generator=seeded(1)), torch.randint(3, (8,), generator=seeded(2))
    parameters = [each.detach().double() for each in blackbox.stacked_mlps(SIZES, [seeded(3)])]
    parameters = [(2 * each).expand(200, *each.shape[1:]).clone().requires_grad_() for each in parameters]
    return points.double().repeat(60, 1).expand(200, -1, -1), labels.repeat(60), parameters


def gradients(name, toy, rewards=(3.0, -1.0), seed=0, **kwargs):
    """Of each copy, (200, weights)."""
    points, labels, parameters = toy
    generators = [seeded(1000 * seed + each) for each in range(len(points))]
    found = blackbox.ESTIMATORS[name](
        lambda each: blackbox.logits_of(each, points), parameters, blackbox.reward_of(labels, *rewards), generators,
        **kwargs,
    )  # fmt: skip
    return torch.cat([each.flatten(1) for each in found], dim=1)


def test_the_enumerated_gradient_is_that_of_the_expected_reward(toy):
    points, labels, parameters = toy
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for layer, weight, bias in ((0, *parameters[:2]), (2, *parameters[2:])):
            network[layer].weight.copy_(weight[0].T)
            network[layer].bias.copy_(bias[0, 0])
    right = network(points[0]).softmax(-1).gather(1, labels[:, None])
    (3 * right - (1 - right)).mean().backward()
    found = [each.grad for each in network.parameters()]
    expected = torch.cat([each.T.flatten() if each.dim() == 2 else each for each in found])
    torch.testing.assert_close(gradients("exact", toy)[7], expected)


@pytest.mark.parametrize("rewards", [(3.0, -1.0), (1.0, 0.0)])
@pytest.mark.parametrize("name", UNBIASED)
def test_the_mean_of_reinforce_is_the_enumerated_gradient(name, rewards, toy):
    """Within three standard errors in every weight: 200 times 480 answers, and a check that it could have failed."""
    exact, found = gradients("exact", toy, rewards)[0], gradients(name, toy, rewards)
    errors = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - exact).abs() <= 3 * errors + 1e-12).all()
    assert errors.norm() < 0.05 * exact.norm()


def test_the_feedback_of_argmax_is_another_gradient(toy):
    exact, found = gradients("exact", toy)[0], gradients("argmax", toy)
    assert torch.equal(found[0], found[1])  # nothing is drawn
    assert (found[0] - exact).norm() > 0.2 * exact.norm()
    errors = gradients("reinforce", toy).std(0) / 200**0.5
    assert ((found[0] - exact).abs() > 10 * errors).any()


def test_argmax_with_no_negative_reward_only_confirms(toy):
    points, labels, parameters = toy
    answers = blackbox.logits_of(parameters, points)[0].argmax(-1)
    assert 0 < (answers == labels).float().mean() < 1
    # Of the points that are answered wrongly there is no gradient, whatever the labels are.
    wrong = points[:, answers != labels], labels[answers != labels], parameters
    assert gradients("argmax", wrong, (1.0, 0.0)).abs().max() == 0
    assert gradients("exact", wrong, (1.0, 0.0)).norm() > 0.01
    # A step makes what is said more probable, right or wrong, with any rewards that are not negative.
    found = gradients("argmax", toy, (4.0, 1.0))[0]
    network = [each[:1] for each in parameters]
    log_probs = blackbox.logits_of(network, points[:1]).log_softmax(-1).gather(-1, answers[None, :, None]).mean()
    said = torch.cat([each.flatten() for each in torch.autograd.grad(log_probs, network)])
    assert found @ said > 0


def test_where_zero_lies_matters_to_argmax_and_reinforce_alone(toy):
    for name in blackbox.ESTIMATORS:
        first, second = gradients(name, toy, (3.0, -1.0)), gradients(name, toy, (1.0, 0.0))
        scale = 1 if name == "supervised" else 4
        same = torch.allclose(first, scale * second, atol=1e-5)
        assert same == (name not in ("argmax", "reinforce")), name


def test_supervised_is_the_cross_entropy(toy):
    points, labels, parameters = toy
    network = [each[:1] for each in parameters]
    loss = F.cross_entropy(blackbox.logits_of(network, points[:1])[0], labels)
    expected = torch.cat([each.flatten() for each in torch.autograd.grad(-loss, network)])
    torch.testing.assert_close(gradients("supervised", toy)[0], expected)


def test_evolution_strategies_estimate_the_smoothed_reward():
    """A network that says its weight and 0: right where w + std e > 0, so the mean is Phi(w / std)."""
    weight, std = 0.3, 0.5
    parameters = [torch.full((400, 1), weight).double()]

    def network(each):
        return torch.stack([each[0], torch.zeros_like(each[0])], dim=-1)

    reward = blackbox.reward_of(torch.zeros(400, 1, dtype=torch.int64), 3.0, -1.0)
    generators = [seeded(each) for each in range(400)]
    (found,) = blackbox.evolution_strategies(network, parameters, reward, generators, std=std, num_pairs=200)
    expected = 4 * math.exp(-((weight / std) ** 2) / 2) / math.sqrt(2 * math.pi) / std
    error = found.std().item() / 20
    assert abs(found.mean().item() - expected) < 3 * error and error < 0.03 * expected


def test_noise_beside_its_closed_form(toy):
    points, labels, parameters = toy
    points, few = points[:3, :8], [each[:3] for each in parameters]
    reward = blackbox.reward_of(labels[:8], 3.0, -1.0)

    def network(each):
        return blackbox.logits_of(each, points)

    noise = blackbox.gradient_noise(blackbox.reinforce, network, few, reward, [seeded(s) for s in range(3)], 1000)
    # Independent points: sum_i (sum_y p |R grad log p|^2 - |grad J_i|^2) / N^2, of the first network.
    one, total = [each[:1] for each in few], 0.0
    for index in range(8):
        log_probs = blackbox.logits_of(one, points[:1, index : index + 1])[0, 0].log_softmax(-1)
        mean = 0.0
        for answer in range(3):
            score = torch.autograd.grad(log_probs[answer], one, retain_graph=True)
            score = torch.cat([each.flatten() for each in score]) * (3 if answer == labels[index] else -1)
            probability = log_probs[answer].exp().item()
            total, mean = total + probability * score.square().sum().item(), mean + probability * score
        total -= mean.square().sum().item()
    exact = blackbox.enumerated(network, few, reward, [])
    size = sum(each[0].square().sum().item() for each in exact)
    assert noise[0].item() == pytest.approx((total / 64 / size) ** 0.5, rel=0.05)
    nothing = blackbox.gradient_noise(blackbox.enumerated, network, few, reward, [seeded()] * 3, 2)
    assert nothing.tolist() == [0, 0, 0]


# The networks and the task


def test_stacked_networks_are_those_of_torch():
    found = blackbox.stacked_mlps((8, 32, 4), [seeded(73), seeded(5)])
    points = torch.randn(10, 8, generator=seeded())
    logits = blackbox.logits_of(found, points.expand(2, -1, -1))
    for index, seed in enumerate((73, 5)):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        assert torch.equal(found[0][index], network[0].weight.T) and torch.equal(found[3][index, 0], network[2].bias)
        torch.testing.assert_close(logits[index], network(points))
    assert torch.equal(blackbox.answers_of(found, points), logits.argmax(-1))


def test_the_task_of_the_course():
    task = blackbox.course_task()
    torch.manual_seed(73)
    assert torch.equal(task.train, torch.rand(1000, 8) * 4.4 - 2.2)
    assert torch.equal(task.test, torch.rand(1000, 8) * 4.4 - 2.2)
    assert task.train_labels.bincount().tolist() == [139, 327, 331, 203] and task.num_classes == 4
    for point, label in zip(task.test[:50], task.test_labels[:50].tolist(), strict=True):
        near = [sum((x - sign) ** 2 for x in point.tolist()) <= 20 for sign in (1, -1)]
        assert label == {(True, True): 0, (True, False): 1, (False, True): 2, (False, False): 3}[tuple(near)]


def test_images_are_flat_and_about_zero():
    images, labels = torch.rand(5, 1, 4, 4, generator=seeded()), torch.tensor([0, 1, 2, 1, 0])
    task = blackbox.image_task((images, labels), (images[:2], labels[:2]), 3)
    assert torch.equal(task.train, images.flatten(1) - 0.5) and task.test.shape == (2, 16)
    assert torch.equal(task.test_labels, labels[:2]) and task.num_classes == 3


# Learning


def learned(name="reinforce", seeds=(0, 1), steps=30, rewards=(3.0, -1.0), **kwargs):
    settings = {"hidden_sizes": [16], "learning_rate": 1e-2, "batch_size": None, "eval_at": {1, steps}}
    return blackbox.learn(name, blackbox.course_task(), rewards, seeds, steps=steps, **settings | kwargs)


def test_seeds_are_independent_and_decide():
    both, other, again = learned(), learned(seeds=(1,)), learned(noise_at={10, 30})
    assert both.steps == [1, 30] and both.test_accuracy.shape == (2, 2)
    torch.testing.assert_close(both.test_accuracy[:, 1], other.test_accuracy[:, 0], atol=0.01, rtol=0)
    assert not torch.equal(both.test_accuracy[:, 0], both.test_accuracy[:, 1])
    # Measuring the noise changes nothing.
    assert torch.equal(both.test_accuracy, again.test_accuracy) and torch.equal(
        both.train_accuracy, again.train_accuracy
    )
    assert both.noise == {} and list(again.noise) == [10, 30]
    assert again.noise[30].keys() == set(UNBIASED) and all(each.min() > 0 for each in again.noise[30].values())


def test_batches_are_drawn_and_the_same_for_all_estimators():
    whole, few = learned("supervised"), learned("supervised", batch_size=20)
    assert not torch.equal(whole.train_accuracy, few.train_accuracy)
    assert torch.equal(few.train_accuracy, learned("supervised", batch_size=20).train_accuracy)


def test_what_each_learns_in_a_few_steps():
    """Supervision is fastest, argmax without a negative reward ends with fewer classes than there are."""
    settings = {"steps": 100, "seeds": (0, 1, 2), "hidden_sizes": [32]}
    accuracy = {name: learned(name, **settings).test_accuracy[-1].mean().item() for name in blackbox.ESTIMATORS}
    best = accuracy.pop("supervised")
    assert best > 0.75 and best > max(accuracy.values()) + 0.02 and min(accuracy.values()) > 0.4
    assert accuracy["exact"] > 0.65
    silent = learned("argmax", rewards=(1.0, 0.0), **settings)
    assert silent.classes_answered.tolist() != [4, 4, 4] and silent.test_accuracy[-1].mean() < 0.6
    assert learned("supervised", **settings).classes_answered.tolist() == [4, 4, 4]


def test_weights_that_are_not_finite_are_one_line():
    with pytest.raises(HwzooError, match="the weights by exact are not finite at step 30; a smaller rate may help"):
        learned("exact", learning_rate=1e30)
    with pytest.raises(
        HwzooError, match=r"the logits by reinforce are not finite at step \d+; a smaller rate may help"
    ):
        learned("reinforce", learning_rate=1e30)  # which can draw no answer then


def test_rewards_are_two_numbers():
    assert blackbox.pair_of("3/-1") == (3, -1) and blackbox.pair_of("0.5/0") == (0.5, 0)
    for words in ("3", "1/1", "-1/3", "3/-1/0", "a/b", "nan/0", "inf/0", "3/"):
        with pytest.raises(UsageError, match=f"--rewards has {words}; it must be right/wrong"):
            blackbox.pair_of(words)


def test_accuracies_are_of_their_own_points():
    course = blackbox.course_task()
    task = blackbox.Task(course.train, course.train_labels, course.train, (course.train_labels + 1) % 4, 4)
    asked = {"hidden_sizes": [32], "steps": 100, "learning_rate": 1e-2, "batch_size": None, "eval_at": {100}}
    found = blackbox.learn("supervised", task, (3.0, -1.0), (0,), **asked)
    assert found.train_accuracy.item() > 0.75 and found.test_accuracy.item() < 0.25


def test_batches_do_not_depend_on_what_an_estimator_draws(monkeypatch):
    task, seen = blackbox.course_task(), {}

    def estimator(name, draws):
        def estimate(network, parameters, reward, generators):
            points = network.keywords["points"]
            rewards = torch.stack([reward(torch.full(points.shape[:2], each)) for each in range(4)])
            seen.setdefault(name, []).append((points, rewards.argmax(0)))
            for each in generators if draws else ():
                torch.rand((), generator=each)
            return tuple(torch.zeros_like(each) for each in parameters)

        return estimate

    asked = {"hidden_sizes": [4], "steps": 3, "learning_rate": 0.1, "batch_size": 20, "eval_at": {3}}
    for name, draws in (("still", False), ("drawing", True)):
        monkeypatch.setitem(blackbox.ESTIMATORS, name, estimator(name, draws))
        blackbox.learn(name, task, (1.0, 0.0), (3, 4), **asked)
    labels = dict(zip(map(tuple, task.train.tolist()), task.train_labels.tolist(), strict=True))
    for (points, right), (others, _) in zip(seen["still"], seen["drawing"], strict=True):
        assert torch.equal(points, others) and not torch.equal(points[0], points[1])
        assert right.flatten().tolist() == [labels[tuple(each)] for each in points.flatten(0, 1).tolist()]


def test_answers_to_many_points_come_in_their_order():
    """In parts of 5,000."""
    parameters = blackbox.stacked_mlps((3, 4, 3), [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    points = torch.randn(5_001, 3, generator=torch.Generator().manual_seed(2))
    expected = blackbox.logits_of(parameters, points.expand(2, -1, -1)).argmax(-1)
    assert torch.equal(blackbox.answers_of(parameters, points), expected)

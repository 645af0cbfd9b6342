"""EWC and SI: penalties, gradients and importances against formulas, the step on a penalty against explicit ones."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hwzoo import training
from hwzoo.continual import ESTIMATORS, QuadraticPenalty, fisher_diagonal
from hwzoo.errors import HwzooError, UsageError

close = torch.testing.assert_close


def move_at_random(model, seed, std=0.1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += std * torch.randn(p.shape, generator=generator, dtype=p.dtype)


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# EWC


def learn(strategy):
    """Ends of all tasks at random weights; gives the Fisher information and the weights at each but the last."""
    model, stream, history = strategy.model, strategy.stream, []
    for task in range(stream.num_tasks):
        move_at_random(model, seed=task)
        strategy.task = task
        examples, num_active = stream.train.select(stream.train_indices(task, task)), stream.num_active(task)

        def log_probs(batch, num_active=num_active):
            logits = model(batch["pixel_values"], task_ids=batch["task_ids"]).logits
            return logits[:, :num_active].log_softmax(-1)

        history.append((fisher_diagonal(model, log_probs, examples), weights_of(model)))
        strategy.end_task()
    move_at_random(model, seed=99)
    return history[:-1]  # after the last task nothing is to be held


@pytest.fixture
def four_tasks(make_stream):
    def make(scenario="class"):
        return make_stream(num_tasks=4, scenario=scenario, num=48, num_classes=8)

    return make


def check_penalty(strategy, strength, anchors):
    """Against sum_k strength / 2 F_k (theta - theta*_k)^2 and its derivative."""
    parameters = dict(strategy.model.named_parameters())
    penalty = strategy.penalty()
    expected = sum(
        strength / 2 * (fisher[name] * (p - anchor[name]).square()).sum()
        for fisher, anchor in anchors
        for name, p in parameters.items()
    )
    assert expected > 1e-3
    close(penalty, expected)
    for (name, p), gradient in zip(
        parameters.items(), torch.autograd.grad(penalty, list(parameters.values())), strict=True
    ):
        close(gradient, sum(strength * fisher[name] * (p - anchor[name]) for fisher, anchor in anchors))


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_ewc_with_an_anchor_for_each_task(scenario, four_tasks, make_strategy):
    strategy = make_strategy("ewc", four_tasks(scenario), ewc_lambda=3.0)
    check_penalty(strategy, 3.0, learn(strategy))


def test_full_is_twice_half(four_tasks, make_strategy):
    strategy = make_strategy("ewc", four_tasks(), ewc_lambda=3.0, ewc_penalty="full")
    check_penalty(strategy, 6.0, learn(strategy))


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_online_ewc_has_the_last_anchor_and_a_decaying_fisher(decay, four_tasks, make_strategy):
    strategy = make_strategy("ewc", four_tasks(), ewc_lambda=3.0, ewc_online=True, ewc_decay=decay)
    history = learn(strategy)
    names = history[0][0]
    running = {name: sum(decay ** (2 - k) * history[k][0][name] for k in range(3)) for name in names}
    check_penalty(strategy, 3.0, [(running, history[-1][1])])


def test_fisher_samples_are_of_the_task_and_by_the_seed(make_stream, make_model, make_strategy):
    stream = make_stream()

    def penalty(seed, num):
        strategy = make_strategy("ewc", stream, seed=seed, fisher_samples=num, fisher_estimator="empirical")
        strategy.task = 1
        strategy.end_task()
        return strategy.penalty.curvature[0]

    assert torch.equal(penalty(0, 5), penalty(0, 5))
    assert not torch.equal(penalty(0, 5), penalty(1, 5))
    assert torch.equal(penalty(0, None), penalty(1, 12))  # all twelve images of the task


@pytest.mark.parametrize("num", [None, 11])
def test_the_batches_of_a_fisher_are_of_all_classes(num, make_stream, make_model, make_strategy):
    """Images that lie class by class, as in folders, would else make batches of one class: larger gradients."""
    stream = make_stream(num_tasks=2, num=24, num_classes=4)
    model = make_model(stream)
    order = stream.train.labels.argsort(stable=True)  # by task too: the first has the first two classes

    def total(examples):
        of = {"fisher_estimator": "minibatch", "fisher_samples": num, "fisher_batch_size": 6}
        strategy = make_strategy("ewc", replace(stream, train=examples), model, **of)
        strategy.end_task()
        return strategy.penalty.curvature[0].sum().item()

    assert 0 < total(stream.train.select(order)) < 4 * total(stream.train)  # unshuffled at least 4.9 times


def test_a_fisher_in_train_mode_has_the_dropout_of_the_seed(make_stream, make_model, make_strategy):
    """Processes have their own dropout in training; that of the Fisher information must be common to them."""
    stream = make_stream(num_tasks=2, num=12, num_classes=4, image_size=16)

    def curvature(seed, global_seed, mode):
        model = make_model(stream, "cnn")
        strategy = make_strategy("ewc", stream, model, seed=seed, fisher_mode=mode)
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        strategy.end_task()
        assert torch.equal(torch.get_rng_state(), before)
        return strategy.penalty.curvature[0]

    train, evaluated = curvature(0, 0, "train"), curvature(0, 0, "eval")
    assert torch.equal(train, curvature(0, 1, "train")) and not torch.equal(train, curvature(1, 0, "train"))
    assert torch.equal(evaluated, curvature(1, 1, "eval")) and not torch.equal(train, evaluated)


def test_a_fisher_that_is_all_zero_is_an_error(make_stream, make_model, make_strategy):
    stream = make_stream()
    model = make_model(stream)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([1e4, 0, 0, 0, 0, 0]))
    strategy = make_strategy("ewc", stream, model)
    with pytest.raises(HwzooError, match="^the Fisher information of task 1 is zero for every weight") as error:
        strategy.end_task()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ewc", "si"])
def test_the_penalty_holds_from_the_second_task_on(name, make_stream, make_strategy):
    strategy = make_strategy(name, make_stream(scenario="domain"), ewc_lambda=1e6, si_lambda=1e6)
    model = strategy.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    moves = []
    for task in range(2):
        strategy.task = task
        before, batch = weights_of(model), strategy.stream.train.batch(torch.arange(12) + 12 * task)
        for _ in range(5):
            optimizer.zero_grad()
            strategy.losses(model, batch)["loss"].backward()
            optimizer.step()
            strategy.after_step(optimizer)
        moves.append({name: (p - before[name]).abs().max() for name, p in weights_of(model).items()})
        strategy.end_task()
    assert moves[0]["classifier.bias"] > 0.01
    assert moves[1]["classifier.bias"] < 1e-4


# The quadratic penalty and its step


def several_anchors(p, num=3):
    """A penalty on one weight tensor, and its curvatures and anchors."""
    generator = torch.Generator().manual_seed(1)
    penalty = QuadraticPenalty({"p": p})
    anchors = []
    for _ in range(num):
        a = torch.rand(p.shape, generator=generator, dtype=p.dtype)
        anchors.append((a, torch.randn(p.shape, generator=generator, dtype=p.dtype)))
        penalty.add({"p": a}, {"p": anchors[-1][1]})
    return penalty, anchors


def force(theta, anchors, strength=1.0):
    """Derivative of the penalty."""
    return strength * sum(a * (theta - anchor) for a, anchor in anchors)


def test_several_anchors_are_one_quadratic_that_comes_back():
    p = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.double))
    penalty, anchors = several_anchors(p)
    expected = sum(0.5 * (a * (p - anchor).square()).sum() for a, anchor in anchors)
    close(penalty(), expected)
    close(torch.autograd.grad(penalty(), p)[0], force(p, anchors).detach())
    other = QuadraticPenalty({"p": p})
    other.load_state_dict(penalty.state_dict())
    assert torch.equal(other(), penalty())
    penalty.clear()
    assert penalty() == 0 and other() > 0  # a copy


# Explicit steps, written by hand: `g` of the task, `f` of the penalty at the weights before the step.


def explicit_sgd(theta, state, g, f, lr, momentum):
    state["m"] = momentum * state.get("m", 0) + g + f
    return theta - lr * state["m"]


def adam_rate(state, g, lr, beta1=0.9, beta2=0.999):
    """What the first moment is multiplied with; the second moment sees the task's gradient alone."""
    state["t"] = state.get("t", 0) + 1
    state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g.square()
    return lr / (1 - beta1 ** state["t"]) / ((state["v"] / (1 - beta2 ** state["t"])).sqrt() + 1e-8)


def explicit_adam(theta, state, g, f, lr, decay=0.0):
    rate = adam_rate(state, g, lr)
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * (g + f)
    return theta * (1 - lr * decay) - rate * state["m"]


OPTIMISERS = {
    "SGD": (lambda p, lr: torch.optim.SGD([p], lr), lambda *step, lr: explicit_sgd(*step, lr, 0.0)),
    "momentum": (
        lambda p, lr: torch.optim.SGD([p], lr, momentum=0.9),
        lambda *step, lr: explicit_sgd(*step, lr, 0.9),
    ),
    "Adam": (lambda p, lr: torch.optim.Adam([p], lr, fused=True), lambda *step, lr: explicit_adam(*step, lr)),
    "AdamW": (
        lambda p, lr: torch.optim.AdamW([p], lr, weight_decay=0.1),
        lambda *step, lr: explicit_adam(*step, lr, decay=0.1),
    ),
}
optimisers = pytest.mark.parametrize("name", OPTIMISERS)


def buffer_of(optimizer, p):
    return next((optimizer.state[p][key] for key in ("momentum_buffer", "exp_avg") if key in optimizer.state[p]), None)


def task_gradients(num, size=7):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, generator=generator, dtype=torch.double) for _ in range(num)]


def both_steps(name, lr, num_steps=8):
    """Weights and momentum after some steps with given gradients: ours, and explicit ones."""
    p = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.double))
    penalty, anchors = several_anchors(p)
    make, explicit = OPTIMISERS[name]
    optimizer, theta, state = make(p, lr), p.detach().clone(), {}
    for g in task_gradients(num_steps):
        p.grad = g.clone()
        optimizer.step()
        penalty.step(optimizer)
        theta = explicit(theta, state, g, force(theta, anchors), lr=lr)
    return (p.detach(), buffer_of(optimizer, p)), (theta, state["m"])


@optimisers
def test_small_steps_are_the_explicit_ones_to_second_order(name):
    def error(lr):
        ours, explicit = both_steps(name, lr)
        in_buffer = (ours[1] - explicit[1]).abs().max() if ours[1] is not None else None
        return (ours[0] - explicit[0]).abs().max(), in_buffer

    # A tenth of the step: a hundredth of the error in the weights, a tenth in the momentum, which is no step.
    (large, in_large), (small, in_small) = error(1e-4), error(1e-5)
    assert 1e-13 < small < 1e-6
    assert large / small == pytest.approx(100, rel=0.05)
    if name == "SGD":
        assert in_large is None
    else:
        assert in_small < 1e-2 and in_large / in_small == pytest.approx(10, rel=0.05)
    # The penalty is seen at all: its share is hundreds of times the error.
    p = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.double))
    optimizer = OPTIMISERS[name][0](p, 1e-5)
    for g in task_gradients(8):
        p.grad = g
        optimizer.step()
    assert (both_steps(name, 1e-5)[0][0] - p.detach()).abs().max() > 100 * small


@optimisers
@pytest.mark.parametrize("exponent", range(-6, 10, 3))
def test_the_step_solves_the_implicit_equation(name, exponent):
    """theta_new is the explicit step whose penalty gradient is taken at theta_new."""
    p = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.double))
    base, anchors = several_anchors(p)
    anchors = [(10.0**exponent * a, anchor) for a, anchor in anchors]
    penalty = QuadraticPenalty({"p": p})
    for a, anchor in anchors:
        penalty.add({"p": a}, {"p": anchor})
    make, explicit = OPTIMISERS[name]
    optimizer, state = make(p, 0.01), {}
    for g in task_gradients(5):
        before = p.detach().clone()
        p.grad = g.clone()
        optimizer.step()
        penalty.step(optimizer)
        new = p.detach().clone()
        # Rounding of the weights, times the curvature, is what the equation can hold to.
        f = force(new, anchors)
        noise = 1e-15 * (1 + 10.0**exponent)
        theta = explicit(before, state, g, f, lr=0.01)
        rtol = 1e-4 if "Adam" in name else 1e-9  # Adam counts its steps, and corrects for them, in float32
        close(new, theta, rtol=rtol, atol=100 * noise)
        if name != "SGD":
            close(buffer_of(optimizer, p), state["m"], rtol=rtol, atol=100 * noise)
            state["m"] = buffer_of(optimizer, p).clone()


@optimisers
@pytest.mark.parametrize("exponent", range(-4, 13, 4))
def test_any_strength_is_stable(name, exponent):
    """Noisy gradients and one anchor: finite at every strength, and at the anchor where the penalty rules."""
    p = nn.Parameter(torch.zeros(7))  # float32, as in training
    penalty = QuadraticPenalty({"p": p})
    anchor = torch.linspace(-1, 1, 7) + 3
    penalty.add({"p": torch.full((7,), 10.0**exponent)}, {"p": anchor})
    optimizer = OPTIMISERS[name][0](p, 0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        p.grad = torch.randn(7, generator=generator)
        optimizer.step()
        penalty.step(optimizer)
        assert p.abs().max() < 10
    if exponent >= 4:
        close(p.detach(), anchor, atol=1e-2, rtol=0)
        assert buffer_of(optimizer, p) is None or buffer_of(optimizer, p).isfinite().all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_explicit_step_is_not(momentum):
    p = torch.zeros(7)
    state, anchors = {}, [(torch.full((7,), 1e4), torch.ones(7))]
    for _ in range(500):
        p = explicit_sgd(p, state, torch.zeros(7), force(p, anchors), 0.01, momentum)
    assert not p.isfinite().all()


@optimisers
def test_a_rate_of_zero_moves_nothing(name):
    """As in the first step of a warm-up."""
    p = nn.Parameter(torch.ones(7, dtype=torch.double))
    penalty, _ = several_anchors(p)
    optimizer = OPTIMISERS[name][0](p, 0.0)
    p.grad = torch.ones_like(p)
    optimizer.step()
    penalty.step(optimizer)
    assert torch.equal(p.detach(), torch.ones(7, dtype=torch.double))
    assert buffer_of(optimizer, p) is None or buffer_of(optimizer, p).isfinite().all()


def test_weights_outside_of_the_penalty_and_without_gradient_stay():
    held, free, idle = (nn.Parameter(torch.ones(2)) for _ in range(3))
    penalty = QuadraticPenalty({"held": held, "idle": idle})
    ones = {"held": torch.ones(2), "idle": torch.ones(2)}
    penalty.add(ones, {name: torch.zeros(2) for name in ones})
    optimizer = torch.optim.SGD([held, free, idle], lr=0.5)
    held.grad, free.grad = torch.zeros(2), torch.zeros(2)
    optimizer.step()
    penalty.step(optimizer)
    close(held.detach(), torch.full((2,), 1 / 1.5))
    assert torch.equal(free.detach(), torch.ones(2)) and torch.equal(idle.detach(), torch.ones(2))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, dampening=0.1),
        lambda p: torch.optim.SGD([p], lr=0.1, maximize=True),
        lambda p: torch.optim.Adam([p], lr=0.1, amsgrad=True),
        lambda p: torch.optim.Adam([p], lr=0.1, maximize=True),
        lambda p: torch.optim.NAdam([p], lr=0.1),
        lambda p: torch.optim.RMSprop([p], lr=0.1),
        lambda p: torch.optim.Adagrad([p], lr=0.1),
    ],
)
def test_other_optimisers_are_refused(make):
    p = nn.Parameter(torch.ones(2))
    penalty, optimizer = QuadraticPenalty({"p": p}), make(p)
    p.grad = torch.ones(2)
    optimizer.step()
    after = p.detach().clone()
    with pytest.raises(UsageError, match="^a penalty on the weights needs SGD without Nesterov .*, or Adam$"):
        penalty.step(optimizer)
    assert torch.equal(p.detach(), after)


# SI


@pytest.mark.parametrize("damping", [0.1, 1e-3])
def test_si_follows_its_equations(damping, make_stream, make_model, make_strategy):
    """Two tasks of some steps, against the same by hand: path integral, importance, penalty and step."""
    stream, lr, momentum, c = make_stream(num_tasks=2), 0.3, 0.9, 2.0
    strategy = make_strategy("si", stream, make_model(stream), si_lambda=c, si_damping=damping)
    optimizer = torch.optim.SGD(strategy.model.parameters(), lr=lr, momentum=momentum)
    twin = make_model(stream)
    theta = list(twin.parameters())
    big_omega = [torch.zeros_like(p) for p in theta]
    anchor = [p.detach().clone() for p in theta]
    velocity = [torch.zeros_like(p) for p in theta]
    for task in range(2):
        strategy.task = task
        start, omega = [p.detach().clone() for p in theta], [torch.zeros_like(p) for p in theta]
        for step in range(4):
            batch = stream.train.batch(torch.arange(6) + 18 * task + 3 * step)
            optimizer.zero_grad()
            strategy.losses(strategy.model, batch)["loss"].backward()
            optimizer.step()
            strategy.after_step(optimizer)

            logits = twin(batch["pixel_values"]).logits[:, : 3 * (task + 1)]
            loss = nn.functional.cross_entropy(logits, batch["labels"])
            gradients = torch.autograd.grad(loss, theta)
            lists = (theta, gradients, omega, big_omega, anchor, velocity)
            for p, g, w, importance, old, v in zip(*lists, strict=True):
                before, a = p.detach().clone(), 2 * c * importance
                with torch.no_grad():
                    # theta_new = theta - lr (momentum v + g + a (theta_new - theta*)), solved for theta_new
                    p.copy_((before - lr * (momentum * v + g - a * old)) / (1 + lr * a))
                v.copy_((before - p.detach()) / lr)
                w -= g * (p.detach() - before)  # equation 3
            for mine, expected in zip(strategy.path_integral, omega, strict=True):
                close(mine, expected)
        strategy.end_task()
        for index, p in enumerate(theta):
            move = p.detach() - start[index]
            big_omega[index] += omega[index].clamp(min=0) / (move.square() + damping)  # equation 5
            close(strategy.importance[index], big_omega[index])
            assert big_omega[index].any() and not strategy.path_integral[index].any()
        anchor = [p.detach().clone() for p in theta]
        close(dict(strategy.model.named_parameters()), dict(twin.named_parameters()))
    assert any((w < 0).any() for w in omega)  # so that the cut at zero is seen
    move_at_random(strategy.model, seed=5)
    expected = sum(
        c * (importance * (p - old).square()).sum()
        for importance, p, old in zip(big_omega, strategy.model.parameters(), anchor, strict=True)
    )
    assert expected > 1e-3
    close(strategy.penalty(), expected)  # equation 4


def test_si_measures_by_the_gradients_before_they_are_clipped(make_stream, make_strategy):
    strategy = make_strategy("si", make_stream())
    model = strategy.model
    run = training.RunArguments(max_grad_norm=0.01, learning_rate=0.1, use_ema=False, lr_scheduler="constant")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = training.TrainState(run, Accelerator(cpu=True), model, optimizer, 3)
    weights = torch.linspace(-1, 1, sum(p.numel() for p in model.parameters()))

    def loss_of(_):  # its gradient is `weights`, of a norm far above 0.01
        return {"loss": (weights * torch.cat([p.flatten() for p in model.parameters()])).sum()}

    for _ in range(3):
        state.step(loss_of, torch.zeros(1), after_update=lambda clip: strategy.after_step(optimizer, clip))
    # Each step moves by 0.1 x 0.01 along the gradient.
    expected = (3 * weights.square() * 0.1 * 0.01 / weights.norm()).double()
    found = torch.cat([each.flatten() for each in strategy.path_integral])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-9)


def test_si_measures_a_task_from_the_end_of_the_last(make_stream, make_strategy):
    """What moves the weights between two tasks is in no path."""
    strategy = make_strategy("si", make_stream())
    optimizer = torch.optim.SGD(strategy.model.parameters(), lr=0.1)
    for p in strategy.model.parameters():
        p.grad = torch.ones_like(p)
    for _ in range(3):
        optimizer.step()
        strategy.after_step(optimizer)
    # Gradient 1, three moves of -0.1: omega = 0.3, and the total move is -0.3.
    close(strategy.path_integral[0], torch.full_like(strategy.path_integral[0], 0.3))
    strategy.end_task()
    close(strategy.importance[0], torch.full_like(strategy.importance[0], 0.3 / (0.09 + 0.1)))


@pytest.mark.parametrize("estimator", [each for each in ESTIMATORS if each != "sampled"])
def test_ewc_asks_for_the_estimator_that_is_set(estimator, make_stream, make_strategy):
    stream = make_stream()
    strategy = make_strategy("ewc", stream, ewc_lambda=3.0, fisher_estimator=estimator, fisher_batch_size=5)
    strategy.end_task()

    def log_probs(batch):
        return strategy.model(batch["pixel_values"]).logits[:, :2].log_softmax(-1)

    examples = stream.train.select(stream.train_indices(0, 0))
    if estimator == "minibatch":  # of shuffled images
        generator = make_strategy("ewc", stream).noise.generator
        examples = examples.select(torch.randperm(len(examples), generator=generator))
    expected = fisher_diagonal(strategy.model, log_probs, examples, estimator=estimator, batch_size=5)
    close(strategy.penalty.curvature, [3.0 * each for each in expected.values()])

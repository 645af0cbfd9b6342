"""Strings of a bigram language: sampling and gradients against enumeration by hand."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from hwzoo import exact
from hwzoo.errors import UsageError
from hwzoo.exact import adversarial, bigram

I, T = 5, 3  # noqa: E741


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def language():
    return bigram.random_language(I, seeded(1))


@pytest.fixture(scope="module")
def loss():
    return adversarial.random_discriminator(I, seeded(2)).generator_loss


def gradient(value, language):
    return torch.cat([each.flatten() for each in torch.autograd.grad(value, language.tables)])


def test_the_expected_loss_is_the_enumerated_one(language, loss):
    start, transition = (table.detach().softmax(-1).tolist() for table in language.tables)
    total, mass = 0.0, 0.0
    for a, b, c in itertools.product(range(I), repeat=T):
        probability = start[a] * transition[a][b] * transition[b][c]
        mass += probability
        total += probability * loss(bigram.one_hot(torch.tensor([[a, b, c]]), I)).item()
    assert mass == pytest.approx(1) and bigram.expected_loss(language, loss, T).item() == pytest.approx(total)
    codes = bigram.strings(I, T)
    assert torch.equal(bigram.index_of(codes, I), torch.arange(I**T))
    # Its gradient is that of finite differences.
    found, step = gradient(bigram.expected_loss(language, loss, T), language), 1e-5
    for index in (0, 7, 21):
        flat = torch.cat([table.detach().flatten() for table in language.tables])
        values = []
        for sign in (1, -1):
            moved = flat.clone()
            moved[index] += sign * step
            values.append(bigram.expected_loss(bigram.Language(moved[:I], moved[I:].view(I, I)), loss, T).item())
        assert found[index].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-9)


def test_the_discriminator_is_bilinear():
    discriminator = adversarial.random_discriminator(I, seeded())
    codes = torch.tensor([[3, 0, 4]])
    first, pair = discriminator.first, discriminator.pair
    expected = first[3] + pair[3, 0] + pair[0, 4]
    torch.testing.assert_close(discriminator(bigram.one_hot(codes, I))[0], expected)
    loss = discriminator.generator_loss(bigram.one_hot(codes, I))
    torch.testing.assert_close(loss[0], -expected.sigmoid().log())


def test_inverse_cdf_by_its_definition():
    probabilities = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).double().expand(6, 4)
    noise = torch.tensor([0.0, 0.19, 0.2, 0.69, 0.71, 1 - 2**-53]).double()
    assert bigram.inverse_cdf(probabilities, noise).tolist() == [0, 0, 2, 2, 3, 3]


def test_rounding_leads_to_no_index_too_many():
    probabilities = torch.full((10,), 0.1)  # in float32 they add up to less than 1 or more, as the order has it
    probabilities = torch.cat([probabilities[:9], torch.tensor([0.1 - 2e-7])])
    noise = torch.tensor(1 - 2**-24)
    assert probabilities.cumsum(0)[-1] <= noise  # no cumulative probability is above the noise
    assert bigram.inverse_cdf(probabilities, noise).item() == 9


def test_the_sampler_draws_from_the_language(language):
    truth = bigram.probabilities(language, T)
    chance = exact.variation_by_chance(truth, 200_000)
    shares = bigram.shares_of(bigram.draw(language, 200_000, T, seeded()), I)
    assert 0.004 < chance < 0.009 and 0.7 * chance < exact.total_variation(shares, truth) < 1.3 * chance


def test_nothing_flows_through_the_sampler(language, loss):
    codes = bigram.draw(language, 100, T, seeded())
    with pytest.raises(RuntimeError, match="have been used in the graph"):
        gradient(loss(bigram.one_hot(codes, I)).mean(), language)
    # The strings are steps of the logits: the share that changes falls with the change, to none.
    shares = [bigram.flipped_share(language, 100_000, T, step, seeded()) for step in (0.1, 0.01, 1e-9)]
    assert shares[0] > 0.01 and shares[1] == pytest.approx(shares[0] / 10, rel=0.2) and shares[2] == 0
    # So the derivative of a mean over given noise is 0 almost everywhere, and that of the expectation is not.
    assert gradient(bigram.expected_loss(language, loss, T), language).norm() > 0.1


def test_reinforce_is_unbiased_and_a_baseline_makes_it_less_noisy(language, loss):
    plain = bigram.quality("reinforce", language, loss, T, 1000, 100, seeded())
    baseline = bigram.quality("reinforce, mean baseline", language, loss, T, 1000, 100, seeded())
    for each in (plain, baseline):
        assert each.bias < 3 * each.bias_error and each.cosine > 0.999
        assert each.bias_error == pytest.approx(each.std / 1e5**0.5)
    assert baseline.std < plain.std
    # The variance by enumeration: sum P |loss grad log P|^2 - |G|^2.
    each = language.expand(I**T)
    codes = bigram.strings(I, T)
    scores = torch.autograd.grad(bigram.log_prob(each, codes).sum(), each.tables)
    norms = sum(table.flatten(1).square().sum(1) for table in scores)
    exactly = gradient(bigram.expected_loss(language, loss, T), language).square().sum().item()
    losses = loss(bigram.one_hot(codes, I)).detach()
    total = (bigram.probabilities(language, T) * losses.square() * norms).sum().item()
    assert plain.std == pytest.approx(((total - exactly) / exactly) ** 0.5, rel=0.02)


def test_bias_falls_and_variance_grows_as_the_temperature_falls(language, loss):
    for kind in ("straight-through", "softmax"):
        found = [
            bigram.quality(f"Gumbel {kind}, {temperature}", language, loss, T, 1000, 30, seeded())
            for temperature in ("1", "0.5", "0.1")
        ]
        biases, stds = [each.bias for each in found], [each.std for each in found]
        assert biases == sorted(biases, reverse=True) and biases[0] > 0.1 and stds == sorted(stds)


@pytest.mark.parametrize("hard", [False, True])
def test_gumbel_softmax_is_that_of_torch(language, hard):
    found = []
    bigram.gumbel_softmax(
        language, lambda each: found.append(each) or each.sum((-2, -1)), 4, T, seeded(3), temperature=0.7, hard=hard
    )
    start, transition = (table.log_softmax(-1) for table in language.tables)
    torch.manual_seed(3)
    symbols = [F.gumbel_softmax(start.expand(4, -1), tau=0.7, hard=hard)]
    for _ in range(T - 1):
        symbols.append(F.gumbel_softmax(symbols[-1] @ transition, tau=0.7, hard=hard))
    expected = torch.stack(symbols, dim=1)
    torch.testing.assert_close(found[0], expected)
    weights = torch.randn(expected.shape, generator=seeded(), dtype=torch.float64)
    both = [gradient((each * weights).sum(), language) for each in (found[0], expected)]
    torch.testing.assert_close(*both)
    assert hard == torch.allclose(found[0], found[0].round())


def test_straight_through_shows_hard_strings_with_the_gradient_of_probabilities(language):
    found = []
    bigram.straight_through(language, lambda each: found.append(each) or each.sum((-2, -1)), 6, T, seeded(4))
    codes = found[0].argmax(-1)
    torch.testing.assert_close(found[0], bigram.one_hot(codes, I))
    noise = torch.rand(T, 6, generator=seeded(4), dtype=torch.float64).T  # it is drawn symbol by symbol
    assert torch.equal(codes, bigram.sample(language, noise))
    # Of the first symbol's place: d softmax / d logits, whatever was drawn.
    (jacobian,) = torch.autograd.grad(found[0][:, 0, 2].sum(), language.start, retain_graph=True)
    probabilities = language.start.detach().softmax(-1)
    expected = 6 * probabilities[2] * (F.one_hot(torch.tensor(2), I) - probabilities)
    torch.testing.assert_close(jacobian, expected)


def test_the_expected_string_holds_the_marginals(language):
    found = []
    bigram.expected_one_hot(language, lambda each: found.append(each) or each.sum((-2, -1)), 2, T, seeded())
    probabilities = bigram.probabilities(language, T).view(I, I, I)
    for place in range(T):
        marginal = probabilities.sum([each for each in range(T) if each != place])
        torch.testing.assert_close(found[0][0, place], marginal)
    quality = bigram.quality("expected one-hot", language, lambda each: each[:, 2, 1], T, 10, 2, seeded())
    assert quality.bias < 1e-9 and quality.std < 1e-5  # exact for a loss that is linear


def test_counting_is_maximum_likelihood():
    codes = torch.tensor([[0, 1, 1], [0, 1, 2], [2, 1, 1], [0, 0, 1]])
    counted = bigram.counted(codes, 4)
    start, transition = (table.softmax(-1) for table in counted.tables)
    assert start.tolist() == pytest.approx([0.75, 0, 0.25, 0])
    assert transition.tolist() == [
        pytest.approx(row) for row in ([1 / 4, 3 / 4, 0, 0], [0, 2 / 3, 1 / 3, 0], [0, 1, 0, 0], [1 / 4] * 4)
    ]
    best = bigram.log_prob(counted, codes).mean()
    for seed in range(5):
        other = bigram.random_language(4, seeded(seed))
        nearby = bigram.Language(start.log().clamp(min=-9) + 0.1 * other.start, transition.log().clamp(min=-9))
        assert bigram.log_prob(nearby, codes).mean() < best
    assert math.isclose(bigram.probabilities(counted, 3).sum().item(), 1)


@pytest.mark.long
def test_languages_are_learned_and_counting_is_best():
    settings = {"num_train_samples": 50_000, "steps": 150, "batch_size": 64, "learning_rate": 0.03}
    found = adversarial.learn_a_language(0, 3, 3, **settings)
    assert list(found) == ["counting", "exact", *bigram.ESTIMATORS] and len(bigram.ESTIMATORS) == 10
    truth = bigram.probabilities(bigram.random_language(3, seeded(0)), 3)
    uniform = torch.full_like(truth, 1 / len(truth))
    start = exact.total_variation(uniform, truth)
    assert found["counting"] < 0.03 and min(found, key=found.get) == "counting"
    for name in ("exact", "reinforce, mean baseline", "Gumbel softmax, 0.1"):
        assert found[name] < start / 3, name


@pytest.mark.parametrize(("symbols", "length"), [(1, 3), (5, 1), (20, 5)])
def test_strings_that_cannot_be_listed_are_refused(symbols, length):
    with pytest.raises(UsageError, match=f"num_symbols is {symbols} and length is {length}; both are 2 or more, and"):
        bigram.strings(symbols, length)

"""The ring against tables, enumeration and the Fisher information."""

import itertools
import math

import pytest
import torch

from hwzoo import exact
from hwzoo.errors import UsageError
from hwzoo.exact import ring


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Labels -> Z, -ln P(0), -ln PL(0), -ln P(1), -ln PL(1), entropy, at J = 1.
TABLE = {
    3: (67.8953, 4.2180, 3.2958, 1.2180, 0.4288, 2.2678),
    5: (864.457, 6.7621, 5.4931, 1.7621, 0.7147, 3.9578),
    8: (44_441.9, 10.7019, 8.7889, 2.7019, 1.1435, 6.6221),
    10: (633_555, 13.3591, 10.9861, 3.3591, 1.4293, 8.3646),
}


@pytest.mark.parametrize("num_labels", TABLE)
def test_the_table(num_labels):
    numbers = ring.numbers_of(num_labels)
    partition, *others = TABLE[num_labels]
    assert numbers.partition == pytest.approx(partition, rel=1e-6)
    assert numbers.log_partition_error < 1e-12
    (zeros, ones), (pl_zeros, pl_ones) = numbers.negative_log_prob, numbers.negative_log_pseudo_likelihood
    assert [zeros, pl_zeros, ones, pl_ones, numbers.entropy] == pytest.approx(others, abs=6e-5)
    assert pl_zeros == pytest.approx(num_labels * math.log(3), abs=1e-12)
    assert pl_ones == pytest.approx(num_labels * math.log(1 + math.exp(-2) + math.exp(-4)), abs=1e-12)
    assert zeros == pytest.approx(math.log(partition), abs=1e-5) and zeros - ones == pytest.approx(num_labels)
    # No bound: it is above the likelihood here.
    assert pl_zeros < zeros and pl_ones < ones


def test_the_eigenvalues_of_the_transfer_matrix():
    values = torch.tensor(ring.VALUES, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh((values[:, None] * values).exp())
    assert eigenvalues.tolist() == pytest.approx([0.28581, 2 * math.sinh(1), 3.80036], abs=5e-6)
    assert 2 * math.sinh(1) == pytest.approx(2.35040, abs=5e-6)
    for num_labels in (3, 7, 60):
        expected = (eigenvalues**num_labels).sum().log().item()
        assert ring.log_partition(num_labels).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("coupling", [-2.0, -0.5, 0.0, 0.3, 3.0])
@pytest.mark.parametrize("num_labels", [3, 4, 7])
def test_the_law_is_the_enumerated_one(num_labels, coupling):
    weights = {}
    for labels in itertools.product((-1, 0, 1), repeat=num_labels):
        pairs = sum(labels[n] * labels[(n + 1) % num_labels] for n in range(num_labels))
        weights[labels] = math.exp(coupling * pairs)
    total = sum(weights.values())
    every = ring.rings(num_labels)
    assert [tuple(row) for row in every.tolist()] == list(weights)
    assert torch.equal(ring.index_of(every), torch.arange(len(every)))
    assert ring.log_partition(num_labels, coupling).item() == pytest.approx(math.log(total), rel=1e-12)
    probabilities = ring.log_prob(every, coupling).exp()
    assert probabilities.tolist() == pytest.approx([weight / total for weight in weights.values()], rel=1e-9)
    entropy = -(probabilities * probabilities.log()).sum().item()
    assert ring.entropy(num_labels, coupling) == pytest.approx(entropy, abs=1e-9)
    # A conditional is a ratio of joint probabilities.
    conditionals = ring.conditional(every, coupling)
    for row, place in ((0, 0), (5, 1), (len(every) // 2, num_labels - 1)):
        changed = every[row].repeat(3, 1)
        changed[:, place] = torch.tensor(ring.VALUES)
        joint = ring.log_prob(changed, coupling).softmax(0)
        torch.testing.assert_close(conditionals[row, place], joint)
    logs = conditionals.gather(-1, every[..., None] + 1).log().sum((-2, -1))
    torch.testing.assert_close(ring.log_pseudo_likelihood(every, coupling), logs)
    # Not normalised: it is no distribution.
    if coupling:
        assert abs(logs.exp().sum().item() - 1) > 1e-4


def test_the_slope_of_log_partition_is_the_mean_score():
    couplings = torch.tensor([-1.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(ring.log_partition(6, couplings).sum(), couplings)
    every = ring.rings(6)
    for coupling, slope in zip(couplings.tolist(), slopes.tolist(), strict=True):
        mean = (ring.log_prob(every, coupling).exp() * ring.score(every)).sum().item()
        assert slope == pytest.approx(mean, rel=1e-9)


def test_long_rings_do_not_overflow():
    assert ring.log_partition(100_000, 3.0).item() == pytest.approx(300_762.5172, abs=1e-3)


def test_the_variation_by_chance_is_the_mean_of_binomial_deviations():
    even = torch.full((125,), 1 / 125)
    assert exact.variation_by_chance(even, 1) == pytest.approx(124 / 125)
    assert exact.variation_by_chance(torch.tensor([0.5, 0.5]), 1) == pytest.approx(0.5)
    probabilities = torch.tensor([0.05, 0.25, 0.7, 0.0], dtype=torch.double)
    counts = torch.arange(8.0, dtype=torch.double)
    ways = torch.tensor([math.comb(7, each) for each in range(8)])
    p = probabilities[:, None]
    deviations = ways * p**counts * (1 - p) ** (7 - counts) * (counts / 7 - p).abs()
    assert exact.variation_by_chance(probabilities, 7) == pytest.approx(deviations.sum().item() / 2)
    assert exact.variation_by_chance(torch.tensor([0.0, 1.0]), 3) == 0


def test_rings_of_which_no_finite_coupling_is_the_likeliest():
    zeros, ones = torch.zeros(10, 8, dtype=torch.long), torch.ones(10, 8, dtype=torch.long)
    assert [ring.maximum_likelihood(each).item() for each in (zeros, ones)] == [0, math.inf]
    both = torch.cat([zeros, ones])
    assert [ring.maximum_pseudo_likelihood(each).item() for each in (zeros, both)] == [0, math.inf]


@pytest.mark.long
def test_gibbs_sampling_reaches_the_law():
    truth = ring.log_prob(ring.rings(5)).exp()
    chance = exact.variation_by_chance(truth, 100_000)
    found = [
        exact.total_variation(ring.shares_of(ring.gibbs(100_000, 5, 1.0, sweeps, seeded())), truth)
        for sweeps in (0, 1, 20)
    ]
    assert chance == pytest.approx(0.0137, abs=1e-4)
    assert found[0] > 0.5 and 0.1 < found[1] < 0.3 and found[2] < 1.2 * chance
    exactly = exact.total_variation(ring.shares_of(ring.samples(100_000, 5, 1.0, seeded())), truth)
    assert 0.8 * chance < exactly < 1.2 * chance
    # Three labels have few states: under 0.01 with this many samples.
    few = ring.log_prob(ring.rings(3), -1.0).exp()
    chains = ring.gibbs(100_000, 3, -1.0, 20, seeded())
    assert exact.total_variation(ring.shares_of(chains), few) < 0.01


def test_a_coupling_that_is_infinite_is_told():
    """Where all labels agree, or all differ as far as they can; beside sets with a finite one."""
    agree, differ = torch.ones(8, dtype=torch.int64), torch.tensor([1, -1] * 4)
    some, one = ring.samples(20, 8, 1.0, seeded()), torch.tensor([[0] + [1] * 7])
    sets = torch.stack([agree.expand(20, 8), differ.expand(20, 8), some, torch.cat([agree.expand(19, 8), one])])
    for estimate in (ring.maximum_likelihood, ring.maximum_pseudo_likelihood):
        found = estimate(sets).tolist()
        assert found[:2] == [torch.inf, -torch.inf] and abs(found[2]) < 3 and 1 < found[3] < 6


def test_both_estimates_of_the_coupling():
    drawn = ring.samples(400 * 200, 8, 1.0, seeded()).view(400, 200, 8)
    likelihood, pseudo = ring.maximum_likelihood(drawn), ring.maximum_pseudo_likelihood(drawn)
    # Where they are is where their objectives are flat.
    for estimate, objective in ((likelihood, ring.log_prob), (pseudo, ring.log_pseudo_likelihood)):
        for index in (0, 1):
            point = estimate[index].clone().requires_grad_()
            if objective is ring.log_prob:
                value = point * ring.score(drawn[index]).mean() - ring.log_partition(8, point)
            else:
                value = objective(drawn[index], point).mean()
            assert abs(torch.autograd.grad(value, point)[0].item()) < 1e-9
    information = ring.likelihood_std(8, 1.0, 200)
    assert information == pytest.approx(0.0317, abs=1e-4)
    assert likelihood.std().item() == pytest.approx(information, rel=0.1)
    for estimate in (likelihood, pseudo):
        assert abs(estimate.mean().item() - 1) < 4 * estimate.std().item() / 20 + 0.003  # consistent, hardly biased
    assert 1.4 < (pseudo.std() / likelihood.std()).item() ** 2 < 2.2


def test_rings_that_cannot_be_are_refused():
    for num_labels in (2, 13):
        with pytest.raises(UsageError, match=f"num_labels is {num_labels}; rings are listed for 3 to 12"):
            ring.rings(num_labels)
    with pytest.raises(UsageError, match="num_labels is 2; it must be in"):
        ring.log_partition(2)

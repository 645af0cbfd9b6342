"""Discriminators against closed forms, and against the plain loop of one network at a time."""

import math

import pytest
import torch

from hwzoo.metrics import (
    discriminator_mlp,
    discriminator_values,
    discriminators,
    logit_gradient,
    segments,
    train_discriminators,
    unwarp,
    warped_and_normal,
    warped_normal_log_ratio,
)
from hwzoo.models.gan.losses_gan import LOSSES, gradient_penalty

PHIS = [step / 10 for step in range(-10, 11)]
MINIMAX, WASSERSTEIN = LOSSES["minimax"].discriminator, LOSSES["wasserstein_gp"].discriminator
JSD_OF_DENSITIES = 0.0874573  # nats; test_divergence.py finds it in two ways


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_pairs_of_distributions():
    still, shifted = segments(PHIS, 1000, seeded())
    assert still.shape == shifted.shape == (21, 1000, 2)
    assert (still[..., 0] == 0).all()
    assert torch.equal(shifted[..., 0], torch.tensor(PHIS)[:, None].expand(-1, 1000))
    heights = torch.stack([still[..., 1], shifted[..., 1]]).flatten(0, 1)
    assert heights.min() >= 0 and heights.max() < 1
    assert (heights.mean(1) - 0.5).abs().max() < 0.05 and (heights.var(1) - 1 / 12).abs().max() < 0.01
    assert torch.corrcoef(heights).fill_diagonal_(0).abs().max() < 0.15  # each drawn anew
    warped, normal = warped_and_normal(100_000, seeded())
    assert warped.shape == normal.shape == (1, 100_000, 1)
    assert normal.mean().abs() < 0.02 and (normal.std() - 1).abs() < 0.02
    assert unwarp(warped).mean().abs() < 0.02 and (unwarp(warped).std() - 1).abs() < 0.02
    assert torch.corrcoef(torch.cat([unwarp(warped)[0].T, normal[0].T.double()]))[0, 1].abs() < 0.02


def test_the_best_discriminator_on_fresh_samples_has_the_divergence():
    (value,), logits = discriminator_values(
        LOSSES["minimax"].discriminator, warped_normal_log_ratio, *warped_and_normal(400_000, seeded())
    )
    assert logits.shape == (1, 400_000)
    assert math.log(2) + value / 2 == pytest.approx(JSD_OF_DENSITIES, abs=0.002)
    assert value == pytest.approx(-math.log(4) + 2 * JSD_OF_DENSITIES, abs=0.004)


def test_estimates_of_discriminators_that_are_known(monkeypatch):
    monkeypatch.setattr(discriminators, "CHUNK", 300)  # the samples do not fill the last
    real, fake = segments(PHIS, 1000, seeded())
    shifts = torch.tensor(PHIS)[:, None]
    undecided, logits = discriminator_values(
        LOSSES["minimax"].discriminator, lambda points: 0 * points[..., 0], real, fake
    )
    assert undecided == pytest.approx([-2 * math.log(2)] * 21) and (logits == 0).all() and logits.shape == (21, 1000)
    # 1-Lipschitz, and as steep as it may be in the direction of the shift.
    distances, _ = discriminator_values(
        LOSSES["wasserstein_gp"].discriminator, lambda points: -points[..., 0] * shifts.sign(), real, fake
    )
    assert distances == pytest.approx([abs(phi) for phi in PHIS])


def test_the_network_is_that_of_the_course():
    shapes = [tuple(parameter.shape) for parameter in discriminator_mlp(2).parameters()]
    assert shapes == [(64, 2), (64,), (64, 64), (64,), (64, 64), (64,), (1, 64), (1,)]


@pytest.mark.parametrize("loss", ["minimax", "wasserstein_gp"])
def test_stacked_discriminators_learn_as_each_would_alone(loss):
    """Against the plain loop of one network at a time, on the same samples and from the same weights."""
    shifts, steps, batch_size = [-0.4, 0.1, 0.9], 6, 16

    def draw(num_samples, generator):
        real, fake = torch.rand(2, 3, num_samples, 2, generator=generator)
        return real, fake + torch.tensor(shifts)[:, None, None]

    penalty = LOSSES[loss].penalty
    torch.manual_seed(0)
    logits, trace = train_discriminators(
        LOSSES[loss].discriminator, draw, batch_size=batch_size, steps=steps, learning_rate=3e-3, generator=seeded(1),
        name=loss, penalty=penalty, penalty_weight=7.0,
    )  # fmt: skip
    torch.manual_seed(0)
    networks = [discriminator_mlp(2) for _ in shifts]
    optimizers = [torch.optim.Adam(network.parameters()) for network in networks]
    generator = seeded(1)
    draw(1, generator)  # `train_discriminators` looks at the shapes
    for step in range(1, steps + 1):
        real, fake = draw(batch_size, generator)
        mixing = torch.rand(3 * batch_size, generator=generator) if loss == "wasserstein_gp" else None
        for pair, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
            optimizer.param_groups[0]["lr"] = 3e-3 * (1 - (step - 1) / steps)
            scores = network(real[pair]), network(fake[pair])
            objective = LOSSES[loss].discriminator(*scores)
            if mixing is not None:
                own = mixing[pair * batch_size : (pair + 1) * batch_size]
                penalty = gradient_penalty(lambda x, f=network: f(x).squeeze(-1), real[pair], fake[pair], own)
                objective = objective + 7.0 * min(1, step / (steps / 2)) * penalty
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
            assert trace[step - 1, pair].item() == pytest.approx(scores[1][0].item(), abs=1e-4)
    points, _ = draw(50, generator)
    expected = torch.stack([network(each).squeeze(-1) for network, each in zip(networks, points, strict=True)])
    assert torch.allclose(logits(points), expected, atol=1e-4)
    assert (expected - expected.mean()).abs().max() > 1e-2  # the tolerance tells them apart


@pytest.mark.parametrize("loss", ["minimax", "non_saturating"])
def test_the_gradient_of_a_sample_vanishes_or_does_not(loss):
    logits = torch.tensor([-30.0, -4.0, 0.0, 2.0], dtype=torch.float64)
    probabilities = 1 / (1 + torch.exp(-logits))
    measured = logit_gradient(LOSSES[loss].generator, logits)
    expected = {"minimax": probabilities, "non_saturating": 1 - probabilities}[loss]
    assert torch.allclose(measured, expected, rtol=1e-9)
    assert (measured[0] < 1e-12) == (loss == "minimax")

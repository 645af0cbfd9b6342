"""The training loss: each kind of prediction and weight, by hand."""

import pytest
import torch

from hwzoo import diffusion

ABAR = diffusion.alphas_cumprod(diffusion.train_scheduler(1000))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(6, 1, 4, 4, generator=generator) * 2 - 1
    return clean, torch.randn(6, 1, 4, 4, generator=generator), torch.tensor([0, 5, 100, 400, 700, 999])


class Network:
    """Predicts a constant, and remembers what it was asked."""

    def __init__(self, constant=0.25):
        self.constant = constant

    def __call__(self, noisy, timesteps, class_labels=None, return_dict=True):
        self.noisy, self.timesteps, self.labels = noisy, timesteps, class_labels
        return (torch.full_like(noisy, self.constant),)


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_uniform_is_the_mean_squared_error(prediction_type, batch):
    network, labels = Network(), torch.arange(6)
    loss = diffusion.diffusion_loss(network, *batch, ABAR, prediction_type=prediction_type, labels=labels)
    clean, noise, timesteps = batch
    signal, level = (each.view(-1, 1, 1, 1).float() for each in (ABAR[timesteps].sqrt(), (1 - ABAR[timesteps]).sqrt()))
    target = {"epsilon": noise, "sample": clean, "v_prediction": signal * noise - level * clean}[prediction_type]
    assert loss.item() == pytest.approx((0.25 - target).square().mean().item(), rel=1e-5)
    assert torch.allclose(network.noisy, signal * clean + level * noise, atol=1e-6)
    assert torch.equal(network.labels, labels) and torch.equal(network.timesteps, timesteps)


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_min_snr_weights_the_error_of_the_clean_image(prediction_type, batch):
    """Whatever is predicted, the loss is min(SNR, gamma) times the squared error of the x_0 it stands for."""
    loss = diffusion.diffusion_loss(
        network := Network(), *batch, ABAR, prediction_type=prediction_type, weighting="min_snr", snr_gamma=2.0
    )
    clean, _, timesteps = batch
    prediction = torch.full_like(clean, 0.25).double()
    guess = diffusion.predicted_clean(prediction, network.noisy.double(), timesteps, ABAR, prediction_type)
    snr = ABAR[timesteps] / (1 - ABAR[timesteps])
    expected = (snr.clamp(max=2.0) * (guess - clean).square().flatten(1).mean(1)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_min_snr_of_noise_alone_is_the_error_of_the_noise(batch):
    clean, noise, _ = batch
    last, abar = torch.ones(6, dtype=torch.long), torch.tensor([0.5, 0.0], dtype=torch.float64)
    given = {"prediction_type": "epsilon", "weighting": "min_snr", "snr_gamma": 5.0}
    loss = diffusion.diffusion_loss(Network(), clean, noise, last, abar, **given)
    assert loss.item() == pytest.approx((0.25 - noise).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", diffusion.BETA_SCHEDULES)
def test_flow_matching_weights_the_error_of_the_velocity(schedule, prediction_type, batch):
    """Noise - x_0, as the straight line through x_s and the predicted x_0 has it."""
    abar = diffusion.alphas_cumprod(diffusion.train_scheduler(1000, schedule))
    given = {"prediction_type": prediction_type, "weighting": "flow_matching"}
    loss = diffusion.diffusion_loss(network := Network(), *batch, abar, **given)
    clean, noise, timesteps = (each.double() if each.is_floating_point() else each for each in batch)
    signal, level = (each.sqrt().view(-1, 1, 1, 1) for each in (abar[timesteps], 1 - abar[timesteps]))
    s = level / (signal + level)
    noisy = signal * clean + level * noise
    prediction = torch.full_like(clean, network.constant)
    guess = diffusion.predicted_clean(prediction, noisy, timesteps, abar, prediction_type)
    on_path = (1 - s) * clean + s * noise
    velocity = (on_path - guess) / s  # the path is straight: x_s = x_0 + s velocity
    assert loss.item() == pytest.approx((velocity - (noise - clean)).square().mean().item(), rel=1e-4)


def test_gradients_reach_a_network(tiny_unet, batch):
    unet = tiny_unet(sample_size=4, num_classes=3)
    for weighting in diffusion.WEIGHTINGS:
        loss = diffusion.diffusion_loss(
            unet, *batch, ABAR, labels=torch.tensor([0, 1, 2, 3, 3, 0]), weighting=weighting
        )
        loss.backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())


def test_unknown_weightings_are_refused(batch):
    with pytest.raises(ValueError, match="weighting is 'snr'; it must be one of uniform, min_snr, flow_matching"):
        diffusion.diffusion_loss(Network(), *batch, ABAR, weighting="snr")

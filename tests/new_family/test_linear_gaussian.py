"""The mathematics of the linear-Gaussian model, and the tiny one that the shared suite takes."""

import torch
from linear_gaussian import LinearGaussianConfig, LinearGaussianModel
from torch.distributions import MultivariateNormal

SUITE = {"config": dict(image_size=4, num_channels=2, latent_size=3)}


def tiny():
    torch.manual_seed(0)
    model = LinearGaussianModel(LinearGaussianConfig(**SUITE["config"])).double().eval()
    torch.nn.init.constant_(model.log_std, -0.7)
    return model


def dense(model):
    weight, std = model.decoder.weight, model.log_std.exp()
    return MultivariateNormal(
        model.decoder.bias, weight @ weight.T + std**2 * torch.eye(len(weight), dtype=weight.dtype)
    )


def test_the_likelihood_is_that_of_the_dense_gaussian():
    model, images = tiny(), torch.rand(5, 2, 4, 4, dtype=torch.float64)
    expected = dense(model).log_prob(images.flatten(1))
    torch.testing.assert_close(model.log_prob(images), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model(images).loss, -expected.mean(), rtol=1e-10, atol=1e-10)


def test_draws_have_its_mean_and_covariance():
    model = tiny().float()
    with torch.no_grad():  # small enough for the clamp never to act
        model.decoder.weight.mul_(0.05), model.decoder.bias.fill_(0.5), model.log_std.fill_(-3.5)
    draws = model.sample(100_000, generator=torch.Generator().manual_seed(0)).flatten(1)
    assert 0 < draws.min() and draws.max() < 1
    torch.testing.assert_close(draws.mean(0), model.decoder.bias, rtol=0, atol=5e-4)
    torch.testing.assert_close(draws.T.cov(), dense(model).covariance_matrix, rtol=0, atol=8e-5)

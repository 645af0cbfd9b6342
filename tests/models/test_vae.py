"""The mathematics of VAEModel, against torch.distributions and against models whose likelihood is known exactly."""

import copy
import math
import re

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)
from torch.nn import functional as F

from hwzoo.models.vae import modeling_vae
from hwzoo.models.vae.configuration_vae import VAEConfig
from hwzoo.models.vae.modeling_vae import (
    ACTIVATIONS,
    VAEModel,
    gaussian_kl,
    gaussian_log_density,
    sample_gaussian,
)

# For the shared suite: a small unconditional model with its optional parts switched on.
SUITE = {
    "config": dict(
        image_size=8,
        num_channels=2,
        encoder_hidden_sizes=[16],
        decoder_hidden_sizes=[12, 16],
        latent_size=3,
        activation="tanh",
        likelihood="gaussian",
        variance_parametrization="exp",
        prior="mixture",
        prior_std=1.5,
        num_mixture_components=4,
        beta=0.5,
    )
}
PIXELS = 16  # of an image of the tiny models
TINY = dict(image_size=4, encoder_hidden_sizes=[8], decoder_hidden_sizes=[8], latent_size=4, activation="tanh")
VARIANTS = {
    "normal": {},
    "wide": {"prior_std": 1.7, "variance_parametrization": "exp"},
    "mixture": {"prior": "mixture", "num_mixture_components": 5, "prior_std": 2.0},
    "gaussian": {"likelihood": "gaussian"},
    "gaussian mixture": {"likelihood": "gaussian", "prior": "mixture", "num_mixture_components": 3},
    "conv": {"network": "conv", "image_size": 8, "encoder_hidden_sizes": [3, 4], "decoder_hidden_sizes": [5]},
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def tiny_model(**changes):
    """Away from its initialisation: no weight is zero, no two components are alike."""
    torch.manual_seed(0)
    model = VAEModel(VAEConfig(**TINY | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def some_images(config, num=4, seed=1):
    shape = (num, config.num_channels, config.image_size, config.image_size)
    return torch.rand(shape, generator=seeded(seed)).round()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def prior_of(model):
    """p(z) as a distribution of torch."""
    config = model.config
    if model.mixture_prior is None:
        return Independent(Normal(torch.zeros(config.latent_size), config.prior_std), 1)
    return mixture(model.mixture_prior)


def mixture(prior):
    components = Independent(Normal(prior.mean, prior.variance().sqrt()), 1)
    return MixtureSameFamily(Categorical(torch.ones_like(prior.mean[:, 0])), components)


def naive_terms(model, pixel_values, noise):
    """(log p(x|z), log p(z), log q(z|x)) with z from each row of the noise, (samples, batch, latent_size)."""
    mean, variance = model.encode(pixel_values)
    posterior = Independent(Normal(mean, variance.sqrt()), 1)
    latents = mean + variance.sqrt() * noise
    output = torch.stack([model.decoder(row) for row in latents])
    if model.config.likelihood == "bernoulli":
        likelihood = Bernoulli(logits=output)
    else:
        likelihood = Normal(output, model.log_std.exp())
    log_likelihood = likelihood.log_prob(pixel_values).sum((-3, -2, -1))
    return log_likelihood, prior_of(model).log_prob(latents), posterior.log_prob(latents)


def naive_iwae(model, pixel_values, noise):
    """Arithmetic mean of the weights in float64: the magnitudes of a tiny model allow it."""
    log_likelihood, log_prior, log_posterior = naive_terms(model, pixel_values, noise)
    return -(log_likelihood + log_prior - log_posterior).double().exp().mean(0).log()


# Gaussians


@pytest.mark.parametrize("prior_std", [1.0, 0.3, 2.5])
def test_gaussian_kl_is_the_divergence_of_torch(prior_std):
    mean, std = torch.randn(7, 5, generator=seeded()) * 3, torch.rand(7, 5, generator=seeded(1)) * 3 + 0.01
    expected = kl_divergence(Normal(mean, std), Normal(torch.zeros(5), prior_std)).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean, std.square(), prior_std**2), expected)


@pytest.mark.parametrize("prior_std", [1.0, 2.5])
def test_gaussian_kl_is_what_samples_say(prior_std):
    mean, variance = torch.tensor([0.5, -1.0]), torch.tensor([0.4, 1.5])
    samples = sample_gaussian(mean.expand(100_000, -1), variance, seeded())
    log_ratio = gaussian_log_density(samples, mean, variance) - gaussian_log_density(
        samples, torch.zeros(2), torch.full((2,), prior_std**2)
    )
    error = log_ratio.std() / len(samples) ** 0.5
    assert error < 0.01
    assert abs(log_ratio.mean() - gaussian_kl(mean, variance, prior_std**2)) < 4 * error


def test_the_divergence_of_equal_gaussians_is_zero():
    assert gaussian_kl(torch.zeros(3), torch.full((3,), 4.0), 4.0) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_log_density_is_that_of_torch(dtype):
    value, mean = torch.randn(2, 6, 5, generator=seeded(), dtype=dtype)
    std = torch.rand(6, 5, generator=seeded(1), dtype=dtype) + 0.1
    density = gaussian_log_density(value, mean, std.square())
    assert density.dtype == dtype
    torch.testing.assert_close(density, Normal(mean, std).log_prob(value).sum(-1))


def test_gaussian_samples_have_the_mean_and_the_variance():
    mean, variance = torch.tensor([1.0, -2.0]), torch.tensor([0.25, 9.0])
    samples = sample_gaussian(mean.expand(100_000, -1), variance, seeded())
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.04)
    torch.testing.assert_close(samples.var(0), variance, rtol=0.03, atol=0)


# Priors


@variants
def test_the_prior_density_is_that_of_torch(variant):
    model = tiny_model(**variant)
    latents = torch.randn(3, 6, model.config.latent_size, generator=seeded()) * 2
    torch.testing.assert_close(model.prior_log_prob(latents), prior_of(model).log_prob(latents))


def test_the_mixture_density_is_that_of_torch_in_double_precision():
    prior = tiny_model(**VARIANTS["mixture"]).mixture_prior.double()
    latents = torch.randn(200, 4, generator=seeded(), dtype=torch.float64) * 10
    density = prior.log_prob(latents)
    assert density.dtype == torch.float64
    torch.testing.assert_close(density, mixture(prior).log_prob(latents), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prior_std", [1.0, 30.0, 1e3, 1e6])
def test_the_mixture_density_in_single_precision(prior_std):
    """Also of narrow components at means far from 0, whose terms nearly cancel."""
    torch.manual_seed(0)
    prior = VAEModel(VAEConfig(prior="mixture", prior_std=prior_std)).mixture_prior
    latents = prior.sample(50, seeded())
    expected = copy.deepcopy(prior).double().log_prob(latents.double())
    density = prior.log_prob(latents)
    assert density.dtype == torch.float32
    torch.testing.assert_close(density.double(), expected, rtol=1e-4, atol=1e-2)


def test_mixture_samples_have_the_moments_of_the_mixture():
    prior = tiny_model(**VARIANTS["mixture"]).mixture_prior
    samples = prior.sample(200_000, seeded())
    expected = mixture(prior)
    torch.testing.assert_close(samples.mean(0), expected.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(samples.var(0), expected.variance, rtol=0.02, atol=0)
    # One Gaussian of these moments would have another entropy.
    torch.manual_seed(1)
    log_density, reference = expected.log_prob(samples), expected.log_prob(expected.sample((200_000,)))
    assert log_density.mean().item() == pytest.approx(reference.mean().item(), abs=0.02)


def test_a_mixture_starts_as_wide_as_its_config_says():
    torch.manual_seed(0)
    prior = VAEModel(VAEConfig(prior="mixture", prior_std=3.0)).mixture_prior
    assert prior.mean.shape == (500, 10)
    assert prior.mean.std().item() == pytest.approx(3.0, rel=0.05)
    torch.testing.assert_close(prior.variance(), torch.full((500, 10), math.log(2)))


# Posterior and decoder


@pytest.mark.parametrize(
    "parametrization, variance_of", [("exp", torch.exp), ("softplus", lambda hidden: F.softplus(hidden) + 1e-8)]
)
def test_the_variance_is_what_the_parametrization_says(parametrization, variance_of):
    model = tiny_model(variance_parametrization=parametrization)
    mean, hidden = torch.tensor([0.5, -1.0, 2.0, 0.0]), torch.tensor([-30.0, -1.0, 0.0, 3.0])
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.copy_(torch.cat([mean, hidden]))
    given_mean, given_variance = model.encode(some_images(model.config))
    torch.testing.assert_close(given_mean, mean.expand(4, -1))
    torch.testing.assert_close(given_variance, variance_of(hidden).expand(4, -1), rtol=1e-6, atol=0)


def test_a_bernoulli_decoder_gives_probabilities():
    model = tiny_model(decoder_hidden_sizes=[])
    latents = torch.randn(5, 4, generator=seeded())
    torch.testing.assert_close(model.decode(latents), Bernoulli(logits=model.decoder(latents)).mean)
    extreme = model.decode(latents * 1e6)
    assert extreme.min() == 0 and extreme.max() == 1


def test_a_gaussian_decoder_gives_means_within_the_range_of_pixels():
    model = tiny_model(likelihood="gaussian")
    latents = torch.randn(50, 4, generator=seeded())
    output = model.decoder(latents)
    inside = (output > 0) & (output < 1)
    assert inside.any() and not inside.all()
    images = model.decode(latents)
    assert torch.equal(images[inside], output[inside])
    assert torch.equal(images[~inside], (output[~inside] > 0.5).float())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_stands_between_all_layers(name):
    model = VAEModel(VAEConfig(**TINY | {"activation": name, "encoder_hidden_sizes": [8, 6, 4]}))
    linear, active = nn.Linear, ACTIVATIONS[name]
    assert [type(layer) for layer in model.encoder] == [nn.Flatten, *[linear, active] * 3, linear]
    assert [type(layer) for layer in model.decoder] == [linear, active, linear, nn.Unflatten]
    assert [layer.out_features for layer in model.encoder if type(layer) is linear] == [8, 6, 4, 8]


@pytest.mark.parametrize(
    "num_channels, image_size, encoder, decoder", [(3, 16, [4, 8], [8, 6, 4]), (1, 28, [5, 6], [7])]
)
def test_the_convolutional_network_takes_any_size_that_it_can_halve(num_channels, image_size, encoder, decoder):
    config = VAEConfig(
        network="conv",
        num_channels=num_channels,
        image_size=image_size,
        encoder_hidden_sizes=encoder,
        decoder_hidden_sizes=decoder,
        latent_size=3,
    )
    model, pixel_values = VAEModel(config), some_images(config)
    mean, variance = model.encode(pixel_values)
    assert mean.shape == variance.shape == (4, 3)
    assert model.decode(mean).shape == pixel_values.shape
    assert model.sample(5).shape == (5, *pixel_values.shape[1:])
    assert model.negative_iwae_bound(pixel_values, 3, reduction="none").shape == (4,)
    convolutions = [layer for layer in model.encoder if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == encoder
    assert sum(isinstance(layer, nn.ConvTranspose2d) for layer in model.decoder) == len(decoder)


def test_convolutions_start_with_the_initialisation_of_torch():
    torch.manual_seed(0)
    model = VAEModel(VAEConfig(network="conv", encoder_hidden_sizes=[32, 64], decoder_hidden_sizes=[64, 32]))
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(layers) == 4
    for layer in layers:
        fan_in = layer.weight[0].numel()  # as torch counts it, also for the transposed
        assert layer.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)


# The loss and its terms


@variants
def test_the_terms_are_those_of_torch(variant):
    model = tiny_model(**variant)
    pixel_values = some_images(model.config)
    noise = torch.randn(4, 4, generator=seeded())
    log_likelihood, log_prior, log_posterior = (term[0] for term in naive_terms(model, pixel_values, noise[None]))
    if model.mixture_prior is None:
        mean, variance = model.encode(pixel_values)
        divergence = kl_divergence(Independent(Normal(mean, variance.sqrt()), 1), prior_of(model))
    else:
        divergence = log_posterior - log_prior
    output = model(pixel_values, noise=noise)
    torch.testing.assert_close(output.reconstruction_loss, -log_likelihood.mean())
    torch.testing.assert_close(output.kl_divergence, divergence.mean())
    torch.testing.assert_close(output.negative_elbo, (divergence - log_likelihood).mean())
    assert all(value.shape == () and value.dtype == torch.float32 for value in output.values())


def test_the_weights_of_the_divergence_enter_the_loss_only():
    plain, weighted = tiny_model(), tiny_model(beta=3.0)
    pixel_values, noise = some_images(plain.config), torch.randn(4, 4, generator=seeded())
    expected, output = plain(pixel_values, noise=noise), weighted(pixel_values, noise=noise, kl_weight=0.5)
    assert torch.equal(expected.loss, expected.negative_elbo)
    for name in ("negative_elbo", "reconstruction_loss", "kl_divergence"):
        assert torch.equal(output[name], expected[name])
    torch.testing.assert_close(output.loss, output.reconstruction_loss + 1.5 * output.kl_divergence)
    assert torch.equal(
        weighted.negative_iwae_bound(pixel_values, 8, generator=seeded()),
        plain.negative_iwae_bound(pixel_values, 8, generator=seeded()),
    )


def test_the_noise_alone_decides_the_loss():
    model = tiny_model()
    pixel_values, noise = some_images(model.config), torch.randn(4, 4, generator=seeded())
    state = torch.get_rng_state()
    loss = model(pixel_values, noise=noise).loss
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(pixel_values, noise=noise).loss, loss)
    assert not torch.equal(model(pixel_values, noise=-noise).loss, loss)
    assert not torch.equal(model(pixel_values).loss, model(pixel_values).loss)


def test_a_generator_gives_the_noise_that_it_draws():
    model = tiny_model()
    pixel_values = some_images(model.config)
    drawn = model.negative_elbo_bound(pixel_values, generator=seeded(3))
    given = model.negative_elbo_bound(pixel_values, noise=torch.randn(4, 4, generator=seeded(3)))
    assert torch.equal(torch.stack(drawn), torch.stack(given))


def test_labels_change_nothing():
    model = tiny_model()
    pixel_values, noise = some_images(model.config), torch.randn(4, 4, generator=seeded())
    labels = torch.arange(4)
    assert torch.equal(model(pixel_values, labels=labels, noise=noise).loss, model(pixel_values, noise=noise).loss)


# The importance-weighted loss (arXiv:1509.00519)


@variants
def test_the_loss_of_several_samples_is_the_importance_weighted_bound(variant):
    model = tiny_model(**variant, train_importance_samples=6)
    assert model.noise_shape == (6, 4) and tiny_model(**variant).noise_shape == (4,)
    pixel_values, noise = some_images(model.config), torch.randn(4, 6, 4, generator=seeded())
    output = model(pixel_values, noise=noise)
    terms = naive_terms(model, pixel_values, noise.transpose(0, 1))
    expected = naive_iwae(model, pixel_values, noise.transpose(0, 1)).mean()
    torch.testing.assert_close(output.loss, expected.float())  # the loss is of float32
    torch.testing.assert_close(output.reconstruction_loss, -terms[0].mean())
    torch.testing.assert_close(output.kl_divergence, (terms[2] - terms[1]).mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.negative_elbo, (terms[2] - terms[1] - terms[0]).mean())
    assert output.loss < output.negative_elbo and model(pixel_values, noise=noise, return_loss=False).loss is None


def test_its_noise_is_one_for_each_sample():
    model = tiny_model(train_importance_samples=5)
    pixel_values = some_images(model.config)
    for shape in ((4, 3, 4), (4, 1, 4), (1, 5, 4), (4, 5, 1), (4, 4)):
        with pytest.raises(ValueError, match=re.escape(f"noise has shape {shape}; it must be (4, 5, 4)")):
            model(pixel_values, noise=torch.zeros(shape))


def test_its_gradient_is_the_naive_one():
    model = tiny_model(train_importance_samples=6)
    pixel_values, noise = some_images(model.config), torch.randn(4, 6, 4, generator=seeded())
    naive = naive_iwae(model, pixel_values, noise.transpose(0, 1)).mean()
    expected = torch.autograd.grad(naive, list(model.parameters()))
    gradients = torch.autograd.grad(model(pixel_values, noise=noise).loss, list(model.parameters()))
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)


def test_its_weights_are_those_of_the_divergence_in_each_sample():
    model = tiny_model(train_importance_samples=3, beta=2.0)
    pixel_values, noise = some_images(model.config), torch.randn(4, 3, 4, generator=seeded())
    log_likelihood, log_prior, log_posterior = naive_terms(model, pixel_values, noise.transpose(0, 1))
    expected = -(log_likelihood + 0.5 * (log_prior - log_posterior)).double().exp().mean(0).log().mean()
    output = model(pixel_values, noise=noise, kl_weight=0.25)
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(output.negative_elbo, model(pixel_values, noise=noise).negative_elbo)


def test_several_samples_are_drawn_where_none_are_given():
    model = tiny_model(train_importance_samples=3)
    pixel_values = some_images(model.config)
    torch.manual_seed(5)
    noise = torch.randn(4, 3, 4)
    torch.manual_seed(5)
    assert torch.equal(model(pixel_values).loss, model(pixel_values, noise=noise).loss)


# Classes

CLASSES = torch.tensor([0, 2, 1, 2])


@pytest.mark.parametrize("variant", ["normal", "mixture", "gaussian"])
def test_a_class_is_a_bias_of_the_first_layers(variant):
    """A fully connected network with a one-hot vector beside its input is one with a bias for each class."""
    model = tiny_model(**VARIANTS[variant], num_classes=3)
    pixel_values, noise = some_images(model.config), torch.randn(4, 4, generator=seeded())
    output = model(pixel_values, labels=CLASSES, noise=noise)
    plain, parts = tiny_model(**VARIANTS[variant]), []
    for image, label, own in zip(pixel_values, CLASSES, noise, strict=True):
        weights = model.state_dict()
        for layer, size in (("encoder.1", PIXELS), ("decoder.0", 4)):
            weight = weights[f"{layer}.weight"]
            weights[f"{layer}.weight"] = weight[:, :size]
            weights[f"{layer}.bias"] = weights[f"{layer}.bias"] + weight[:, size + label]
        plain.load_state_dict(weights)
        parts.append(plain(image[None], noise=own[None]))
        torch.testing.assert_close(
            model.negative_iwae_bound(image[None], 3, label[None], generator=seeded()),
            plain.negative_iwae_bound(image[None], 3, generator=seeded()),
        )
        torch.testing.assert_close(model.reconstruct(image[None], label[None]), plain.reconstruct(image[None]))
        torch.testing.assert_close(model.decode(own[None], label[None]), plain.decode(own[None]))
    for name in ("loss", "reconstruction_loss", "kl_divergence"):
        torch.testing.assert_close(output[name], torch.stack([part[name] for part in parts]).mean())


def test_classes_are_channels_of_the_convolutional_encoder():
    model = tiny_model(**VARIANTS["conv"], num_classes=3)
    pixel_values = some_images(model.config)
    planes = F.one_hot(CLASSES, 3)[:, :, None, None].expand(-1, -1, 8, 8)
    mean = model.encoder(torch.cat([pixel_values, planes], 1)).chunk(2, 1)[0]
    assert torch.equal(model.encode(pixel_values, CLASSES)[0], mean)
    latents = torch.randn(4, 4, generator=seeded())
    output = model.decoder(torch.cat([latents, F.one_hot(CLASSES, 3)], 1)).sigmoid()
    assert torch.equal(model.decode(latents, CLASSES), output)
    states = model(pixel_values, labels=CLASSES, output_hidden_states=True).hidden_states
    assert torch.equal(states[0], pixel_values) and torch.equal(states[-1].chunk(2, 1)[0], mean)


def test_classes_that_are_not_given_are_drawn_for_samples_alone():
    model = tiny_model(num_classes=3)
    latents = torch.randn(50, 4, generator=seeded())
    drawn = model.sample(50, latents=latents, generator=seeded(2))
    assert torch.equal(drawn, model.decode(latents, torch.randint(3, (50,), generator=seeded(2))))
    generator = seeded(3)
    latents = model.sample_latents(4, generator=generator)
    assert torch.equal(model.sample(4, labels=CLASSES, generator=seeded(3)), model.decode(latents, CLASSES))
    pixel_values = some_images(model.config)
    calls = [model, model.encode, model.negative_elbo_bound, model.reconstruct, lambda x: model.interpolate(x, x, 2)]
    for call in (*calls, lambda x: model.negative_iwae_bound(x, 2), lambda _: model.decode(torch.zeros(2, 4))):
        with pytest.raises(ValueError, match="labels is None, but this model is conditional"):
            call(pixel_values)
    for wrong, told in ((CLASSES + 1, "labels holds 3; it must be one of 0 to 2"), (CLASSES[:2], r"shape \(2,\)")):
        with pytest.raises(ValueError, match=told):
            model.negative_elbo_bound(pixel_values, wrong)
        with pytest.raises(ValueError, match=told):
            model.sample(4, labels=wrong)


def test_a_path_is_of_one_class():
    model = tiny_model(num_classes=3)
    start, end = some_images(model.config), some_images(model.config, seed=2)
    images = model.interpolate(start, end, 3, labels=CLASSES)
    torch.testing.assert_close(images[:, 0], model.reconstruct(start, CLASSES))
    means = model.encode(start, CLASSES)[0], model.encode(end, CLASSES)[0]
    assert torch.equal(model.interpolate(*means, 3, labels=CLASSES), images)


# Gradients


def test_the_reconstruction_alone_trains_the_encoder():
    model = tiny_model()
    model(some_images(model.config)).reconstruction_loss.backward()
    mean_gradient, variance_gradient = model.encoder[-1].weight.grad.chunk(2)
    assert mean_gradient.abs().min() > 0 and variance_gradient.abs().min() > 0


@variants
def test_gradients_are_finite_differences(variant):
    model = tiny_model(**variant)
    pixel_values, noise = some_images(model.config), torch.randn(4, 4, generator=seeded())
    model(pixel_values, noise=noise).loss.backward()
    step = 1e-2
    for name, parameter in model.named_parameters():
        slope = parameter.grad.norm()
        direction = parameter.grad / slope
        losses = []
        with torch.no_grad():
            for distance in (step, -2 * step):
                parameter.add_(direction, alpha=distance)
                losses.append(model(pixel_values, noise=noise).loss.double())
            parameter.add_(direction, alpha=step)
        assert slope > 1e-3, name
        assert ((losses[0] - losses[1]) / (2 * step)).item() == pytest.approx(slope.item(), rel=0.01, abs=1e-3), name


def test_the_gradient_of_the_importance_weighted_bound_is_the_naive_one(monkeypatch):
    monkeypatch.setattr(modeling_vae, "IWAE_CHUNK", 8 * PIXELS)
    model = tiny_model()
    pixel_values = some_images(model.config)
    naive = naive_iwae(model, pixel_values, torch.randn(6, 4, 4, generator=seeded())).mean()
    expected = torch.autograd.grad(naive, list(model.parameters()))
    bound = model.negative_iwae_bound(pixel_values, 6, generator=seeded())
    gradients = torch.autograd.grad(bound, list(model.parameters()))
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)


# The importance-weighted bound


@variants
def test_the_bound_averages_the_weights_of_each_image(variant):
    model = tiny_model(**variant)
    # Very different images: an average over the wrong axis would mix them.
    pixel_values = some_images(model.config)
    pixel_values[0], pixel_values[1] = 0, 1
    bound = model.negative_iwae_bound(pixel_values, 32, generator=seeded(), reduction="none")
    expected = naive_iwae(model, pixel_values, torch.randn(32, 4, 4, generator=seeded()))
    assert expected.std() > 0.5
    torch.testing.assert_close(bound.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model.negative_iwae_bound(pixel_values, 32, generator=seeded()), bound.mean())


def test_the_bound_of_improbable_images_is_finite():
    config = VAEConfig(**TINY | {"image_size": 28})
    model = VAEModel(config)
    with torch.no_grad():
        model.decoder[2].bias.fill_(10.0)  # e^-10 for each black pixel: a likelihood that no float holds
    bound = model.negative_iwae_bound(torch.zeros(3, 1, 28, 28), 4, reduction="none")
    assert bound.isfinite().all() and (bound > 7_000).all()


@pytest.mark.parametrize("chunk", [1, 4, 12, 27])
def test_chunks_do_not_change_the_bound(monkeypatch, chunk):
    model = tiny_model()
    pixel_values = some_images(model.config)
    # 16 numbers a sample: torch draws normal noise in blocks of 16, so that the chunks see the same stream.
    whole = model.negative_iwae_bound(pixel_values, 50, generator=seeded(), reduction="none")
    monkeypatch.setattr(modeling_vae, "IWAE_CHUNK", chunk * PIXELS)
    in_chunks = model.negative_iwae_bound(pixel_values, 50, generator=seeded(), reduction="none")
    torch.testing.assert_close(in_chunks, whole)


@pytest.mark.parametrize("chunk, largest", [(32, 32), (11, 8), (3, 4)])
def test_more_samples_take_no_more_memory(monkeypatch, chunk, largest):
    monkeypatch.setattr(modeling_vae, "IWAE_CHUNK", chunk * PIXELS)
    model = tiny_model()
    decoded = []
    model.decoder.register_forward_pre_hook(lambda module, args: decoded.append(len(args[0])))
    for num_samples in (100, 1_001):
        decoded.clear()
        model.negative_iwae_bound(some_images(model.config), num_samples)
        assert max(decoded) == largest
        assert sum(decoded) == 4 * num_samples


# The linear Gaussian model, whose likelihood is known: p(x) = N(b, prior_std^2 W W^T + sigma^2 I)


class LinearGaussian:
    """Four pixels, two latents; the columns of W are orthogonal: given an image, the true latents are independent."""

    sigma, prior_std = 0.3, 1.5
    weight = torch.tensor([[0.4, 0.3], [0.4, -0.3], [-0.2, 0.3], [0.2, 0.3]], dtype=torch.float64)
    bias = torch.tensor([0.5, 0.3, 0.6, 0.4], dtype=torch.float64)

    def __init__(self, exact_encoder):
        config = VAEConfig(
            image_size=2,
            encoder_hidden_sizes=[],
            decoder_hidden_sizes=[],
            latent_size=2,
            likelihood="gaussian",
            variance_parametrization="exp",
            prior_std=self.prior_std,
        )
        self.model = VAEModel(config)
        precision = torch.eye(2, dtype=torch.float64) / self.prior_std**2 + self.weight.T @ self.weight / self.sigma**2
        self.covariance = precision.inverse()
        gain = self.covariance @ self.weight.T / self.sigma**2
        self.gain, offset = gain, -gain @ self.bias
        variance = self.covariance.diagonal().clone()
        if not exact_encoder:
            gain, offset, variance = 0.8 * gain, offset + 0.1, variance * torch.tensor([2.0, 0.5])
        with torch.no_grad():
            self.model.log_std.fill_(math.log(self.sigma))
            self.model.decoder[0].weight.copy_(self.weight)
            self.model.decoder[0].bias.copy_(self.bias)
            self.model.encoder[1].weight.copy_(torch.cat([gain, torch.zeros(2, 4)]))
            self.model.encoder[1].bias.copy_(torch.cat([offset, variance.log()]))

    def log_prob(self, pixel_values):
        covariance = self.prior_std**2 * self.weight @ self.weight.T + self.sigma**2 * torch.eye(
            4, dtype=torch.float64
        )
        return MultivariateNormal(self.bias, covariance).log_prob(pixel_values.flatten(1).double())

    def divergence_from_true_posterior(self, pixel_values):
        mean, variance = (part.double() for part in self.model.encode(pixel_values))
        true_mean = (pixel_values.flatten(1).double() - self.bias) @ self.gain.T
        return kl_divergence(
            MultivariateNormal(mean, variance.diag_embed()), MultivariateNormal(true_mean, self.covariance)
        )


ONE_IMAGE = torch.tensor([[[[0.9, 0.1], [0.2, 0.7]]]])


def test_the_elbo_falls_short_of_the_likelihood_by_the_divergence_from_the_true_posterior():
    known = LinearGaussian(exact_encoder=False)
    # The loss is quadratic in the noise: four points with mean 0 and covariance I give its expectation exactly.
    noise = torch.cat([torch.eye(2), -torch.eye(2)]) * 2**0.5
    for pixel_values in torch.rand(5, 1, 1, 2, 2, generator=seeded()):
        negative_elbo, *_ = known.model.negative_elbo_bound(pixel_values.expand(4, -1, -1, -1), noise=noise)
        gap = known.divergence_from_true_posterior(pixel_values)
        assert gap > 0.1
        assert negative_elbo.item() == pytest.approx((gap - known.log_prob(pixel_values)).item(), rel=1e-5)


def test_every_bound_is_the_likelihood_when_the_posterior_is_exact():
    known = LinearGaussian(exact_encoder=True)
    pixel_values = torch.rand(6, 1, 2, 2, generator=seeded())
    expected = -known.log_prob(pixel_values).float()
    torch.testing.assert_close(known.divergence_from_true_posterior(pixel_values).max().item(), 0.0, rtol=0, atol=1e-6)
    for num_samples in (1, 1, 7):
        bound = known.model.negative_iwae_bound(pixel_values, num_samples, reduction="none")
        torch.testing.assert_close(bound, expected, rtol=1e-5, atol=1e-5)


def estimates(model, num_samples, repeats):
    """Mean and its standard error of the bound of one image over independent repeats."""
    with torch.no_grad():
        bound = model.negative_iwae_bound(
            ONE_IMAGE.expand(repeats, -1, -1, -1), num_samples, generator=seeded(num_samples), reduction="none"
        )
    return bound.mean().item(), bound.std().item() / repeats**0.5


def test_the_bound_with_one_sample_is_the_negative_elbo_on_average():
    known = LinearGaussian(exact_encoder=False)
    expected = (known.divergence_from_true_posterior(ONE_IMAGE) - known.log_prob(ONE_IMAGE)).item()
    mean, error = estimates(known.model, 1, 30_000)
    assert error < 0.02
    assert abs(mean - expected) < 4 * error


def test_more_samples_tighten_the_bound_down_to_the_likelihood():
    known = LinearGaussian(exact_encoder=False)
    likelihood = -known.log_prob(ONE_IMAGE).item()
    runs = [estimates(known.model, num_samples, 5_000) for num_samples in (1, 2, 8, 32)]
    for (looser, error), (tighter, other_error) in zip(runs[:-1], runs[1:], strict=True):
        assert looser - tighter > 4 * (error + other_error)
    assert runs[-1][0] > likelihood
    mean, error = estimates(known.model, 20_000, 20)
    assert error < 0.01
    assert abs(mean - likelihood) < 4 * error + 1e-3


# Pictures


def test_samples_are_means_at_latents_of_the_prior():
    model = VAEModel(
        VAEConfig(image_size=1, latent_size=1, decoder_hidden_sizes=[], likelihood="gaussian", prior_std=2.0)
    )
    with torch.no_grad():
        model.decoder[0].weight.fill_(0.05)
        model.decoder[0].bias.fill_(0.5)
    samples = model.sample(100_000, generator=seeded())
    assert samples.mean().item() == pytest.approx(0.5, abs=0.002)
    assert samples.std().item() == pytest.approx(0.1, rel=0.02)


def test_a_mixture_decodes_its_own_samples():
    model = tiny_model(**VARIANTS["mixture"])
    latents = model.mixture_prior.sample(7, seeded(2))
    assert torch.equal(model.sample(7, generator=seeded(2)), model.decode(latents))


def test_a_reconstruction_is_at_the_posterior_mean_or_at_a_sample():
    model = tiny_model()
    pixel_values = some_images(model.config)
    mean, variance = model.encode(pixel_values)
    assert torch.equal(model.reconstruct(pixel_values), model.decode(mean))
    latents = mean + variance.sqrt() * torch.randn(4, 4, generator=seeded(5))
    assert torch.equal(model.reconstruct(pixel_values, generator=seeded(5)), model.decode(latents))


@pytest.mark.parametrize("name, mode", [("normal", "linear"), ("mixture", None)])
def test_an_interpolation_goes_straight_from_one_reconstruction_to_the_other(name, mode):
    model = tiny_model(**VARIANTS[name])
    start, end = some_images(model.config), some_images(model.config, seed=2)
    images = model.interpolate(start, end, 5, mode=mode)
    assert images.shape == (4, 5, 1, 4, 4)
    torch.testing.assert_close(images[:, 0], model.reconstruct(start))
    torch.testing.assert_close(images[:, -1], model.reconstruct(end))
    middle = (model.encode(start)[0] + model.encode(end)[0]) / 2
    torch.testing.assert_close(images[:, 2], model.decode(middle))


def test_latents_that_are_given_are_decoded():
    model = tiny_model(**VARIANTS["wide"])
    latents = torch.randn(3, 4, generator=seeded())
    assert torch.equal(model.sample(3, latents=latents), model.decode(latents))
    start, end = some_images(model.config), some_images(model.config, seed=2)
    means = model.encode(start)[0], model.encode(end)[0]
    expected = model.interpolate(start, end, 3)
    for ends in (means, (start, means[1]), (means[0], end)):  # images or their latents
        assert torch.equal(model.interpolate(*ends, 3), expected)
    with pytest.raises(ValueError, match="labels were given, but this model is unconditional"):
        model.interpolate(start, end, 3, labels=torch.arange(4))


def test_a_beta_that_is_given_while_loading_is_checked(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert VAEModel.from_pretrained(tmp_path, beta=0.5).config.beta == 0.5
    with pytest.raises(StrictDataclassClassValidationError, match="beta is -1.0; it must be finite and at least 0"):
        VAEModel.from_pretrained(tmp_path, beta=-1.0)


def test_pictures_carry_no_gradient():
    model = tiny_model()
    pixel_values = some_images(model.config)
    pictures = (model.sample(2), model.reconstruct(pixel_values), model.interpolate(pixel_values, pixel_values, 2))
    assert not any(picture.requires_grad for picture in pictures)


# Mixed precision


@variants
def test_bfloat16_gives_float32_close_to_float32(variant):
    model = tiny_model(**variant)
    pixel_values, noise = some_images(model.config), torch.randn(4, 4, generator=seeded())

    def numbers():
        return {
            **model(pixel_values, noise=noise),
            "iwae": model.negative_iwae_bound(pixel_values, 4, generator=seeded()),
            "sample": model.sample(3, generator=seeded()),
            "reconstruction": model.reconstruct(pixel_values),
        }

    expected = numbers()
    with torch.autocast("cpu", torch.bfloat16):
        given = numbers()
    assert all(value.dtype == torch.float32 for value in given.values())
    assert not torch.equal(given["reconstruction_loss"], expected["reconstruction_loss"])
    torch.testing.assert_close(given, expected, rtol=0.03, atol=0.03)


def test_the_mixture_prior_stays_in_float32():
    model = tiny_model(**VARIANTS["mixture"])
    latents = torch.randn(50, 4, generator=seeded()) * 10
    expected = model.prior_log_prob(latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.prior_log_prob(latents), expected)


# What a change of the code must not change


@pytest.mark.parametrize(
    "variant, bounds, sample_mean",
    [
        ("normal", (14.33847, 12.26911, 2.06936), 0.496850),
        ("gaussian mixture", (31.00240, 24.61061, 6.39179), 0.214072),
        ("conv", (52.47014, 51.49566, 0.97448), 0.417269),
    ],
)
def test_seeded_numbers_stay(variant, bounds, sample_mean):
    model = tiny_model(**VARIANTS[variant])
    given = model.negative_elbo_bound(some_images(model.config), generator=seeded(2))
    assert [value.item() for value in given] == pytest.approx(bounds, rel=1e-4)
    assert model.sample(100, generator=seeded(3)).mean().item() == pytest.approx(sample_mean, rel=1e-4)


# What is refused


@pytest.mark.parametrize("num_samples", [0, -1])
def test_a_bound_needs_a_sample(num_samples):
    model = tiny_model()
    with pytest.raises(ValueError, match=f"num_importance_samples is {num_samples}"):
        model.negative_iwae_bound(some_images(model.config), num_samples)


def test_an_unknown_reduction_is_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="reduction is 'sum'"):
        model.negative_iwae_bound(some_images(model.config), 1, reduction="sum")


def test_an_interpolation_has_two_ends():
    model = tiny_model()
    pixel_values = some_images(model.config)
    with pytest.raises(ValueError, match="num_steps is 1"):
        model.interpolate(pixel_values, pixel_values, 1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"num_channels": 0}, "num_channels is 0"),
        ({"latent_size": -2}, "latent_size is -2"),
        ({"num_classes": -1}, "num_classes is -1; it must be at least 0"),
        ({"train_importance_samples": 0}, "train_importance_samples is 0; it must be at least 1"),
        ({"num_mixture_components": 0}, "num_mixture_components is 0"),
        ({"prior_std": 0.0}, "prior_std is 0.0"),
        ({"prior_std": math.nan}, "prior_std is nan"),
        ({"prior_std": math.inf}, "prior_std is inf"),
        ({"beta": -0.5}, "beta is -0.5"),
        ({"beta": math.nan}, "beta is nan"),
        ({"encoder_hidden_sizes": [8, 0]}, r"encoder_hidden_sizes is \[8, 0\]"),
        ({"decoder_hidden_sizes": [-1]}, r"decoder_hidden_sizes is \[-1\]"),
        ({"network": "conv", "image_size": 28, "encoder_hidden_sizes": [4, 4, 4]}, "image_size 28.*divisible by 8"),
        ({"network": "conv", "image_size": 28, "decoder_hidden_sizes": [4, 4, 4]}, "image_size 28.*divisible by 8"),
        ({"network": "conv", "encoder_hidden_sizes": []}, r"encoder_hidden_sizes is \[\].*at least one layer"),
        ({"network": "conv", "decoder_hidden_sizes": []}, r"decoder_hidden_sizes is \[\].*at least one layer"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        VAEConfig(**TINY | changes)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_works_in_the_precision_of_its_weights(variant, dtype):
    model = tiny_model(**variant)
    pixel_values, noise = some_images(model.config), torch.randn(4, 4, generator=seeded())
    expected = model(pixel_values, noise=noise).loss
    model.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    for images in (pixel_values, pixel_values.to(dtype)):
        loss = model(images, noise=noise.to(wide)).loss
        assert loss.dtype == wide
        tolerance = 0.03 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(loss, expected, rtol=tolerance, atol=0, check_dtype=False)
    pictures = [model.sample(3), model.reconstruct(pixel_values), model.interpolate(pixel_values, pixel_values, 3)]
    assert all(picture.isfinite().all() and picture.dtype == wide for picture in pictures)
    assert model.negative_iwae_bound(pixel_values, 3).isfinite()


def test_several_samples_stay_with_their_image_and_class():
    model = tiny_model(num_classes=3, train_importance_samples=5)
    images, noise = some_images(model.config), torch.randn(4, 5, 4, generator=seeded())
    alone = [
        model(images[i : i + 1], labels=CLASSES[i : i + 1], noise=noise[i : i + 1]).loss for i in range(len(CLASSES))
    ]
    torch.testing.assert_close(model(images, labels=CLASSES, noise=noise).loss, torch.stack(alone).mean())


def test_all_pictures_of_a_path_are_of_its_class():
    model = tiny_model(num_classes=3)
    start, end = some_images(model.config), some_images(model.config, seed=2)
    images = model.interpolate(start, end, 4, labels=CLASSES)
    torch.testing.assert_close(images[:, 0], model.reconstruct(start, CLASSES))
    torch.testing.assert_close(images[:, -1], model.reconstruct(end, CLASSES))


def test_paths_are_spherical_when_not_asked():
    model = tiny_model()
    ends = [torch.randn(2, 4, generator=seeded(each)) for each in (0, 1)]
    spherical, linear = (model.interpolate(*ends, 3, mode=mode) for mode in ("spherical", "linear"))
    assert torch.equal(model.interpolate(*ends, 3), spherical) and not torch.allclose(spherical, linear)

"""The adversarial losses against closed forms; labels, BatchNorm, spectral norm and the pixel range of GANModel."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import save_file
from torch import nn

from hwzoo import hub
from hwzoo.models.gan.configuration_gan import GANConfig
from hwzoo.models.gan.losses_gan import LOSSES, gradient_penalty, judged_right, ordered_right, zero_centred_penalty
from hwzoo.models.gan.modeling_gan import GANModel

# For the shared suite: a small unconditional model with its optional parts switched on, and a loss for each of its
# parts: {loss: the part that it trains}.
SUITE = {
    "config": dict(
        image_size=8,
        num_channels=2,
        latent_size=3,
        generator_hidden_size=10,
        generator_channels=[8, 4],
        discriminator_channels=[3, 5],
        discriminator_hidden_size=7,
        discriminator_activation="relu",
        spectral_norm=True,
        num_classes=0,
        pixel_range="unit",
    ),
    "losses": {"discriminator_loss": "discriminator", "generator_loss": "generator"},
}
TINY = dict(
    image_size=8,
    latent_size=4,
    generator_hidden_size=12,
    generator_channels=[8, 4],
    discriminator_channels=[4, 6],
    discriminator_hidden_size=10,
)
VARIANTS = {
    "unconditional": {},
    "colour": {"num_channels": 3, "pixel_range": "unit", "discriminator_activation": "relu"},
    "conditional": {"num_classes": 3},
    "spectral": {"spectral_norm": True},
    "conditional spectral": {"num_classes": 3, "spectral_norm": True, "pixel_range": "unit"},
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
conditional = pytest.mark.parametrize("spectral_norm", [False, True], ids=["plain", "spectral"])


def tiny_model(**changes):
    torch.manual_seed(0)
    return GANModel(GANConfig(**TINY | changes))


def some_batch(config, num=6):
    shape = (num, config.num_channels, config.image_size, config.image_size)
    labels = torch.arange(num) % config.num_classes if config.num_classes else None
    return torch.rand(shape, generator=seeded(1)), labels


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def spectral_layers(model):
    """The layers whose weight is normalised, with their largest singular values."""
    layers = [layer for layer in model.modules() if hasattr(layer, "parametrizations")]
    return {layer: torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in layers}


# Losses

LOGITS = torch.tensor([-3.0, -0.4, 0.0, 0.7, 2.5], dtype=torch.float64)


def test_the_losses_are_those_of_the_papers():
    real, fake = LOGITS, LOGITS.flip(0) * 1.3
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    cross_entropy = -d_real.log().mean() - (1 - d_fake).log().mean()
    expected = {
        "minimax": (cross_entropy, (1 - d_fake).log().mean()),
        "non_saturating": (cross_entropy, -d_fake.log().mean()),
        "wasserstein_gp": (fake.mean() - real.mean(), -fake.mean()),
        "relativistic": (-(real - fake).sigmoid().log().mean(), -(fake - real).sigmoid().log().mean()),
    }
    assert expected.keys() == LOSSES.keys()
    for name, losses in LOSSES.items():
        given = losses.discriminator(real, fake), losses.generator(*[fake, real][: 1 + losses.paired])
        torch.testing.assert_close(given, expected[name])
        assert (losses.penalty is None) == (losses.told is judged_right) == (name in ("minimax", "non_saturating"))


def test_a_discriminator_that_cannot_tell_costs_2_ln_2():
    zero = torch.zeros(7)
    for name in ("minimax", "non_saturating"):
        assert LOSSES[name].discriminator(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert LOSSES["non_saturating"].generator(zero).item() == pytest.approx(math.log(2))
    assert LOSSES["minimax"].generator(zero).item() == pytest.approx(-math.log(2))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_finite_at_sure_logits(name):
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    losses = LOSSES[name]
    for loss in (losses.discriminator(logits, -logits), losses.generator(*[logits, -logits][: 1 + losses.paired])):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite() and gradient.isfinite().all()


def test_only_the_minimax_gradient_vanishes_where_the_discriminator_is_sure():
    logits = torch.linspace(-30, 5, 36, dtype=torch.float64, requires_grad=True)
    probability = logits.detach().sigmoid()

    def gradient(name):
        return torch.autograd.grad(LOSSES[name].generator(logits) * len(logits), logits)[0]

    torch.testing.assert_close(gradient("minimax"), -probability)
    torch.testing.assert_close(gradient("non_saturating"), probability - 1)
    assert gradient("minimax")[0].abs() < 1e-12 < 0.999 < gradient("non_saturating")[0].abs()
    assert (gradient("wasserstein_gp") == -1).all()


# The gradient penalty


def mixed(real, fake, mixing):
    return mixing.view(-1, 1, 1, 1) * real + (1 - mixing).view(-1, 1, 1, 1) * fake


@pytest.mark.parametrize("shape", [(6,), (6, 1, 1, 1)])
@pytest.mark.parametrize("lipschitz_constant", [1.0, 2.0])
def test_the_penalty_is_what_finite_differences_say(shape, lipschitz_constant):
    model = tiny_model().double()
    real, fake = (torch.rand(6, 1, 8, 8, generator=seeded(seed), dtype=torch.float64) for seed in (1, 2))
    mixing = torch.rand(6, generator=seeded(3), dtype=torch.float64)
    points, step = mixed(real, fake, mixing), 1e-6
    differences = []
    for pixel in torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8):
        with torch.no_grad():
            up, down = model.discriminate(points + step * pixel), model.discriminate(points - step * pixel)
        differences.append((up - down) / (2 * step))
    norm = torch.stack(differences).norm(dim=0)  # (6,)
    penalty = gradient_penalty(model.discriminator, real, fake, mixing.view(shape), lipschitz_constant)
    torch.testing.assert_close(penalty, (norm / lipschitz_constant - 1).square().mean(), rtol=1e-6, atol=0)


def test_the_penalty_of_a_linear_critic_is_known():
    weight = torch.randn(2, 4, 4, generator=seeded())
    real, fake = torch.rand(5, 2, 4, 4), torch.rand(5, 2, 4, 4)
    penalty = gradient_penalty(lambda x: (x * weight).sum((1, 2, 3)), real, fake, torch.rand(5))
    assert penalty.item() == pytest.approx((weight.norm().item() - 1) ** 2, rel=1e-5)


def test_the_zero_centred_penalty_of_a_quadratic_critic_is_known():
    """f(x) = |x|^2 / 2 has the gradient x; in the networks' own units it is x / K."""
    real, fake = (torch.rand(5, 2, 4, 4, generator=seeded(seed)) for seed in (0, 1))
    penalty = zero_centred_penalty(lambda x: x.square().sum((1, 2, 3)) / 2, real, fake, torch.rand(5), 2.0)
    expected = (real.square().sum() + fake.square().sum()) / 5 / 2 / 4
    torch.testing.assert_close(penalty, expected)
    model = tiny_model()
    real, _ = some_batch(model.config)
    made = model.generator(torch.randn(6, 4))
    zero_centred_penalty(model.discriminator, real, made, torch.rand(6)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in gradients} == {"discriminator"}
    with torch.autocast("cpu", torch.bfloat16):
        assert zero_centred_penalty(model.discriminator, real, made, torch.rand(6)).dtype == torch.float32


def test_pairs_are_judged_by_their_difference_alone():
    real, fake = LOGITS, LOGITS.flip(0)
    losses = LOSSES["relativistic"]
    torch.testing.assert_close(losses.discriminator(real + 7, fake + 7), losses.discriminator(real, fake))
    assert losses.discriminator(real, real).item() == pytest.approx(math.log(2))
    assert ordered_right(torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.0, 3, 2, 5]))["accuracy_pairs"] == 0.5


def test_labels_may_be_of_any_integers():
    model = tiny_model(num_classes=3).eval()
    labels = torch.tensor([0, 2, 1], dtype=torch.int32)
    samples = [model.sample(3, labels=each, generator=seeded()) for each in (labels, labels.long())]
    assert torch.equal(*samples)


def test_a_generator_without_norms_makes_an_image_of_its_own_latents_alone():
    model = tiny_model(generator_norm="none").train()
    latents = torch.randn(6, 4, generator=seeded())
    torch.testing.assert_close(model.generator(latents)[:1], model.generator(latents[:1]))
    assert not [name for name, _ in model.named_buffers()]


def test_the_penalty_is_taken_between_the_images_of_each_pair():
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square().sum((1, 2, 3))

    real, fake, mixing = torch.rand(4, 1, 2, 2), torch.rand(4, 1, 2, 2), torch.tensor([0.0, 0.25, 0.5, 1.0])
    gradient_penalty(critic, real, fake, mixing)
    torch.testing.assert_close(seen[0], mixed(real, fake, mixing))
    with pytest.raises(ValueError, match="one weight for each of 4 pairs"):
        gradient_penalty(critic, real, fake, torch.rand(4, 1, 2, 2))


def test_the_penalty_trains_the_critic_alone():
    model = tiny_model()
    real, _ = some_batch(model.config)
    fake = model.generator(torch.randn(6, 4))
    gradient_penalty(model.discriminator, real, fake, torch.rand(6)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    # The biases of the last layer do not change a slope.
    assert {name.split(".")[0] for name in gradients} == {"discriminator"} and len(gradients) >= 6
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_a_critic_without_slope_has_a_finite_gradient():
    model = tiny_model()
    with torch.no_grad():
        model.discriminator.output.weight.zero_()
    real, _ = some_batch(model.config)
    penalty = gradient_penalty(model.discriminator, real, real, torch.rand(6))
    penalty.backward()
    assert penalty == 1 and model.discriminator.output.weight.grad.isfinite().all()


def test_the_penalty_is_float32_also_under_autocast():
    model = tiny_model()
    (real, _), fake, mixing = some_batch(model.config), torch.rand(6, 1, 8, 8), torch.rand(6)
    expected = gradient_penalty(model.discriminator, real, fake, mixing)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.discriminator.network(real).dtype == torch.bfloat16
        assert torch.equal(gradient_penalty(model.discriminator, real, fake, mixing), expected)
        half = gradient_penalty(model.discriminator, real.bfloat16(), fake.bfloat16(), mixing)
    assert half.dtype == torch.float32


# The networks


def test_the_networks_of_the_course():
    model = GANModel(GANConfig())
    shapes = [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    assert shapes == [
        (512, 64), (3136, 512), (32, 16, 3, 3), (1, 8, 3, 3),
        (32, 1, 4, 4), (64, 32, 4, 4), (512, 3136), (1, 512),
    ]  # fmt: skip
    kinds = [type(layer) for layer in model.modules()]
    assert (kinds.count(nn.BatchNorm1d), kinds.count(nn.BatchNorm2d), kinds.count(nn.PixelShuffle)) == (2, 1, 2)
    assert {layer.negative_slope for layer in model.modules() if isinstance(layer, nn.LeakyReLU)} == {0.1}
    assert all(isinstance(layer, nn.Conv2d) for layer in (model.generator.network[-1], model.discriminator.network[0]))


@pytest.mark.parametrize("changes", [{}, {"num_classes": 10}, {"pixel_range": "unit"}, {"spectral_norm": True}])
def test_untrained_the_losses_are_2_ln_2_and_ln_2(changes):
    torch.manual_seed(0)
    model = GANModel(GANConfig(**changes))
    pixel_values, labels = some_batch(model.config, 64)
    output = model(pixel_values, labels)
    assert output.discriminator_loss.item() == pytest.approx(2 * math.log(2), abs=0.05)
    assert output.generator_loss.item() == pytest.approx(math.log(2), abs=0.05)


@variants
def test_shapes(variant):
    model = tiny_model(**variant)
    pixel_values, labels = some_batch(model.config)
    output = model(pixel_values, labels)
    assert output.discriminator_loss.shape == output.generator_loss.shape == ()
    assert (
        output.logits_real.shape == output.logits_fake.shape == model.discriminate(pixel_values, labels).shape == (6,)
    )
    assert "loss" not in output
    assert model.generator(torch.randn(6, 4), labels).shape == pixel_values.shape


@pytest.mark.parametrize("image_size", [4, 12, 32])
def test_image_sizes(image_size):
    model = tiny_model(image_size=image_size)
    images = model.sample(2)
    assert images.shape == (2, 1, image_size, image_size) and model.discriminate(images).shape == (2,)


@variants
def test_the_losses_are_of_the_given_images_and_of_generated_ones(variant):
    model = tiny_model(**variant).eval()
    pixel_values, labels = some_batch(model.config)
    noise = torch.randn(6, 4, generator=seeded())
    output = model(pixel_values, labels, noise=noise)
    real = model.discriminate(pixel_values, labels)
    fake = model.discriminator(model.generator(noise, labels), labels)  # not clamped to [0, 1]
    torch.testing.assert_close(output.logits_real, real)
    torch.testing.assert_close(output.logits_fake, fake)
    torch.testing.assert_close(output.discriminator_loss, LOSSES["non_saturating"].discriminator(real, fake))
    torch.testing.assert_close(output.generator_loss, LOSSES["non_saturating"].generator(fake))


def test_the_discriminators_loss_leaves_the_generator_alone():
    model = tiny_model()
    model(*some_batch(model.config)).discriminator_loss.backward()
    assert all(parameter.grad is None for parameter in model.generator.parameters())
    assert all(parameter.grad is not None for parameter in model.discriminator.parameters())
    model.zero_grad()
    model(*some_batch(model.config)).generator_loss.backward()
    assert all(parameter.grad is not None for parameter in model.generator.parameters())


def test_both_ranges_of_pixels_see_the_same_images():
    unit, symmetric = tiny_model(pixel_range="unit").eval(), tiny_model(pixel_range="symmetric").eval()
    pixel_values, _ = some_batch(unit.config)
    inside = {}
    for name, model in (("unit", unit), ("symmetric", symmetric)):
        model.discriminator.network[0].register_forward_pre_hook(
            lambda module, inputs, name=name: inside.__setitem__(name, inputs[0])
        )
        model.discriminate(pixel_values)
    torch.testing.assert_close(inside["unit"], pixel_values)
    torch.testing.assert_close(inside["symmetric"], 2 * pixel_values - 1)
    latents = torch.randn(6, 4, generator=seeded())
    output = unit.generator.network(latents)
    torch.testing.assert_close(unit.generator(latents), output)
    torch.testing.assert_close(symmetric.generator(latents), (output + 1) / 2)


def test_samples_are_the_generators_images_clamped():
    model = tiny_model(pixel_range="unit").eval()
    with torch.no_grad():
        model.generator.network[-1].weight.mul_(20)
    latents = torch.randn(50, 4, generator=seeded())
    images = model.generator(latents)
    assert images.min() < 0 and images.max() > 1
    torch.testing.assert_close(model.sample(50, generator=seeded()), images.clamp(0, 1))


def test_latents_that_are_given_are_the_generators_own():
    model = tiny_model(num_classes=3).eval()
    latents, labels = torch.randn(6, 4, generator=seeded(4)), torch.arange(6) % 3
    assert torch.equal(model.sample(6, labels=labels, latents=latents), model.generator(latents, labels).clamp(0, 1))
    drawn = torch.randint(3, (6,), generator=seeded(5))
    images = model.sample(6, latents=latents, generator=seeded(5))  # the classes are drawn
    assert torch.equal(images, model.generator(latents, drawn).clamp(0, 1))


def test_each_path_has_the_class_of_its_label():
    model = tiny_model(num_classes=3)
    with torch.no_grad():
        model.generator.network[0].weight *= 20  # the default start is all but grey
    start, end, labels = torch.randn(2, 4), torch.randn(2, 4), torch.tensor([2, 0])
    paths = model.interpolate(start, end, 3, labels=labels, mode="linear")
    for index, latents in enumerate((start, (start + end) / 2, end)):
        torch.testing.assert_close(paths[:, index], model.sample(2, labels=labels, latents=latents))
    assert not torch.allclose(paths, model.interpolate(start, end, 3, labels=labels.flip(0), mode="linear"))
    for wrong, told in ((None, "labels is None, but this model is conditional"), (labels + 1, "labels holds 3")):
        with pytest.raises(ValueError, match=told):
            model.interpolate(start, end, 3, labels=wrong)
    images = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"latents has shape \(2, 1, 8, 8\); it must be \(2, 4\)"):
        model.interpolate(images, images, 3, labels=labels)


def test_a_sample_depends_on_its_own_latents_alone_in_both_modes():
    model = tiny_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = model.sample(8, generator=seeded())
    assert model.training and model.generator.training and model.generator.network[1].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model.eval().sample(8, generator=seeded()), whole)
    assert not model.generator.training
    torch.testing.assert_close(model.generator(torch.randn(8, 4, generator=seeded())[:3]).clamp(0, 1), whole[:3])


def test_running_statistics_follow_training_and_are_saved(tmp_path):
    model = tiny_model()
    start = model.sample(4, generator=seeded())
    for _ in range(5):
        model(*some_batch(model.config))
    norm = model.generator.network[1]
    assert norm.num_batches_tracked == 5 and (norm.running_mean != 0).all() and (norm.running_var != 1).all()
    hub.save(model, tmp_path)
    loaded = hub.load(GANModel, tmp_path)
    for name, buffer in model.named_buffers():
        assert torch.equal(loaded.get_buffer(name), buffer), name
    samples = loaded.sample(4, generator=seeded())
    assert torch.equal(samples, model.sample(4, generator=seeded())) and not torch.equal(samples, start)


# Labels


@conditional
def test_labels_reach_the_samples(spectral_norm):
    model = tiny_model(num_classes=3, spectral_norm=spectral_norm)
    by_class = [model.sample(4, labels=torch.full((4,), label), generator=seeded()) for label in range(3)]
    assert not torch.equal(by_class[0], by_class[1]) and not torch.equal(by_class[1], by_class[2])
    mixed_labels = model.sample(4, labels=torch.tensor([0, 1, 2, 1]), generator=seeded())
    for place, label in enumerate([0, 1, 2, 1]):
        torch.testing.assert_close(mixed_labels[place], by_class[label][place])


@conditional
def test_labels_reach_the_logits_by_projection(spectral_norm):
    model = tiny_model(num_classes=3, spectral_norm=spectral_norm).eval()
    pixel_values, _ = some_batch(model.config)
    logits = torch.stack([model.discriminate(pixel_values, torch.full((6,), label)) for label in range(3)], 1)
    features = model.discriminator.network(2 * pixel_values - 1)
    expected = model.discriminator.output(features) + features @ model.discriminator.projection.weight.T
    torch.testing.assert_close(logits, expected)
    assert logits.std(1).min() > 0


def test_classes_are_drawn_alike_when_not_asked_for():
    model = tiny_model(num_classes=3)
    seen = []
    model.generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    samples = model.sample(3_000, generator=seeded())
    counts = torch.bincount(seen[0], minlength=3)
    assert counts.sum() == 3_000 and (counts - 1_000).abs().max() < 100
    assert torch.equal(model.sample(3_000, labels=seen[0], generator=seeded()), samples)


WRONG_LABELS = {
    "too large": (torch.tensor([0, 3, 1]), "labels holds 3; it must be one of 0 to 2 for each of the 3 images"),
    "negative": (torch.tensor([0, -1, 1]), "labels holds -1; it must be one of 0 to 2"),
    "too few": (torch.tensor([0, 1]), r"labels has shape \(2,\); it must be one of 0 to 2 for each of the 3 images"),
    "one hot": (torch.eye(3).long(), r"labels has shape \(3, 3\)"),
}


@pytest.mark.parametrize("labels, message", WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_wrong_labels_are_refused(labels, message):
    model = tiny_model(num_classes=3)
    pixel_values, _ = some_batch(model.config, 3)
    calls = (lambda: model.discriminate(pixel_values, labels), lambda: model(pixel_values, labels))
    for call in (lambda: model.sample(3, labels=labels), *calls):
        with pytest.raises(ValueError, match=message):
            call()


def test_labels_are_given_to_conditional_models_and_to_no_others():
    pixel_values, labels = torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.long)
    model = tiny_model()
    calls = (lambda: model.discriminate(pixel_values, labels), lambda: model(pixel_values, labels))
    for call in (lambda: model.sample(3, labels=labels), *calls):
        with pytest.raises(ValueError, match="this model is unconditional: leave labels at None"):
            call()
    model = tiny_model(num_classes=3)
    for call in (lambda: model.discriminate(pixel_values), lambda: model(pixel_values)):
        with pytest.raises(ValueError, match="this model is conditional: give one of 0 to 2 for each of the 3 images"):
            call()


# Weights


@variants
def test_every_variant_comes_back(variant, tmp_path):
    model = tiny_model(**variant)
    pixel_values, labels = some_batch(model.config)
    model(pixel_values, labels)
    model.eval()
    hub.save(model, tmp_path)
    loaded = hub.load(GANModel, tmp_path)
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert torch.equal(loaded.discriminate(pixel_values, labels), model.discriminate(pixel_values, labels))
    assert torch.equal(loaded.sample(4, generator=seeded()), model.sample(4, generator=seeded()))
    assert list(spectral_layers(loaded).values()) == list(spectral_layers(model).values())


@conditional
def test_layers_start_uniform_within_the_root_of_their_fan_in(spectral_norm):
    torch.manual_seed(0)
    model = GANModel(GANConfig(num_classes=10, spectral_norm=spectral_norm))
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.dim() > 1}
    assert len(weights) == 9
    for name, weight in weights.items():
        bound = weight[0].numel() ** -0.5
        assert weight.abs().max() <= bound, name
        if weight.numel() > 2_000:
            assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name


def test_a_spectral_norm_bounds_every_layer_of_the_discriminator():
    model = tiny_model(spectral_norm=True, num_classes=3)
    assert all(not name.startswith("generator") for name, _ in model.named_modules() if "parametrizations" in name)
    with torch.no_grad():
        model.discriminator.network[0].parametrizations.weight.original.mul_(50)
    norms = spectral_layers(model)
    assert len(norms) == 5
    assert all(norm == pytest.approx(1, abs=0.05) for norm in norms.values())


def test_new_weights_have_their_own_singular_vectors():
    """At the initialisation too, not only after some steps: a model that is not in training mode takes none."""
    model = tiny_model(spectral_norm=True).eval()
    assert all(norm == pytest.approx(1, abs=0.05) for norm in spectral_layers(model).values())


def test_a_weight_that_a_file_lacks_is_drawn_like_a_new_one(tmp_path):
    model = tiny_model(spectral_norm=True, num_classes=3)
    hub.save(model, tmp_path)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "projection" not in name}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = GANModel.from_pretrained(tmp_path)
    weight = loaded.discriminator.projection.parametrizations.weight.original
    assert 0 < weight.abs().max() <= weight.shape[1] ** -0.5
    assert all(norm == pytest.approx(1, abs=0.05) for norm in spectral_layers(loaded).values())


@variants
def test_bfloat16_gives_float32_close_to_float32(variant):
    model = tiny_model(**variant).eval()
    pixel_values, labels = some_batch(model.config)
    noise = torch.randn(6, 4, generator=seeded())

    def numbers():
        return {**model(pixel_values, labels, noise=noise), "sample": model.sample(3, generator=seeded())}

    expected = numbers()
    with torch.autocast("cpu", torch.bfloat16):
        given = numbers()
    assert all(value.dtype == torch.float32 for value in given.values())
    torch.testing.assert_close(given, expected, rtol=0.03, atol=0.03)


@variants
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_works_in_the_precision_of_its_weights(variant, dtype):
    model = tiny_model(**variant).eval()
    pixel_values, labels = some_batch(model.config)
    noise = torch.randn(6, 4, generator=seeded())
    expected = dict(model(pixel_values, labels, noise=noise))
    model.to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    given = dict(model(pixel_values.to(dtype), labels, noise=noise))
    assert all(value.dtype == wide for value in given.values())
    torch.testing.assert_close(given, expected, rtol=0.05, atol=0.05, check_dtype=False)
    assert model.sample(3).dtype == wide


def test_training_pulls_the_generator_to_the_data():
    """Data of one grey level: the generator finds it."""
    model = tiny_model(pixel_range="unit")
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=5e-3, betas=(0.5, 0.999))
        for network in (model.discriminator, model.generator)
    ]
    before = model.sample(20).mean().item()
    pixel_values = torch.full((32, 1, 8, 8), 0.8)
    for _ in range(150):
        for optimizer, loss in zip(optimizers, ("discriminator_loss", "generator_loss"), strict=True):
            optimizer.zero_grad()
            model(pixel_values)[loss].backward()
            optimizer.step()
    after = model.sample(20).mean().item()
    assert abs(before - 0.8) > 0.3 > 0.15 > abs(after - 0.8)


# What is refused


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_size": 30}, "image_size is 30; it must be divisible by 4"),
        ({"image_size": 0}, "image_size is 0"),
        ({"num_channels": 0}, "num_channels is 0"),
        ({"latent_size": 0}, "latent_size is 0"),
        ({"generator_hidden_size": -1}, "generator_hidden_size is -1"),
        ({"discriminator_hidden_size": 0}, "discriminator_hidden_size is 0"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"generator_channels": [64, 30]}, r"generator_channels is \[64, 30\]; it must be two numbers divisible by 4"),
        ({"generator_channels": [64]}, r"generator_channels is \[64\]"),
        ({"discriminator_channels": [32, 0]}, r"discriminator_channels is \[32, 0\]; it must be two numbers of at"),
        ({"discriminator_channels": [32, 32, 32]}, r"discriminator_channels is \[32, 32, 32\]"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        GANConfig(**TINY | changes)


# What a change of the code must not change


def test_seeded_numbers_stay():
    model = tiny_model(num_classes=3, spectral_norm=True).eval()
    pixel_values, labels = some_batch(model.config)
    output = model(pixel_values, labels, noise=torch.randn(6, 4, generator=seeded()))
    numbers = [
        output.discriminator_loss.item(),
        output.generator_loss.item(),
        model.sample(50, generator=seeded()).mean().item(),
    ]
    assert numbers == pytest.approx([1.387621, 0.643464, 0.478799], rel=1e-4)


def test_paths_are_spherical_when_not_asked():
    model = tiny_model()
    with torch.no_grad():
        model.generator.network[0].weight *= 20
    ends = [torch.randn(2, 4, generator=seeded(each)) for each in (0, 1)]
    spherical, linear = (model.interpolate(*ends, 3, mode=mode) for mode in ("spherical", "linear"))
    assert torch.equal(model.interpolate(*ends, 3), spherical) and not torch.allclose(spherical, linear)

"""The mathematics of FlowModel: every log-determinant against autograd, and densities that are known exactly."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from torch.distributions import Normal, SigmoidTransform, TransformedDistribution, Uniform

from hwzoo import hub
from hwzoo.models.flow import modeling_flow
from hwzoo.models.flow.configuration_flow import FlowConfig
from hwzoo.models.flow.layers_flow import (
    ActNorm,
    CheckerboardCoupling,
    HalfCoupling,
    InvertibleConv1x1,
    Split,
    Squeeze,
)
from hwzoo.models.flow.modeling_flow import FlowModel
from hwzoo.training import averaged_model

# For the shared suite: a small unconditional model with its optional parts switched on.
SUITE = {
    "config": dict(
        image_size=8,
        num_channels=2,
        num_classes=0,
        network="glow",
        coupling="affine",
        prior="logistic",
        num_scales=2,
        num_steps=2,
        hidden_size=5,
        num_hidden_layers=1,
        logit_alpha=0.05,
    ),
}
TINY = dict(image_size=4, hidden_size=6, num_hidden_layers=2, num_steps=2)
VARIANTS = {
    "glow": {},
    "glow additive, one scale": {"coupling": "additive", "num_scales": 1},
    "glow, no logit": {"logit_alpha": 0.0},
    "glow, logistic, colour": {"prior": "logistic", "num_channels": 3},
    "realnvp": {"network": "realnvp"},
    "realnvp additive, three scales": {"network": "realnvp", "coupling": "additive", "num_scales": 3},
    "nice": {"network": "nice", "coupling": "additive", "prior": "logistic", "logit_alpha": 0.0},
    "nice affine": {"network": "nice", "num_steps": 3, "logit_alpha": 0.05},
    "classes": {"num_classes": 3},
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def moved(module, seed=0, by=0.2):
    """Away from its initialisation: no layer is the identity, none is special."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=by)
    return module


def tiny_model(by=0.2, **changes):
    torch.manual_seed(0)
    return moved(FlowModel(FlowConfig(**TINY | changes)), by=by)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_images(config, num=4, seed=1):
    """On the levels, black and white among them, as most pixels of digits are."""
    shape = (num, config.num_channels, config.image_size, config.image_size)
    levels = torch.randint(-60, 316, shape, generator=seeded(seed)).clamp(0, 255)
    return levels / 255


def some_labels(model, num=4):
    return torch.arange(num) % model.config.num_classes if model.config.num_classes else None


def log_det_by_autograd(function, inputs):
    """log |det| of the Jacobian of a function of one example, (1, ...)."""
    jacobian = torch.autograd.functional.jacobian(
        lambda flat: function(flat.view_as(inputs)).flatten(), inputs.flatten()
    )
    return torch.linalg.slogdet(jacobian).logabsdet


# Log-determinants and inverses


CONFIG = FlowConfig(**TINY)
ADDITIVE = FlowConfig(**TINY | {"coupling": "additive"})
LAYERS = {
    "ActNorm": (lambda: ActNorm(1), (1, 4, 4)),
    "ActNorm of four channels": (lambda: ActNorm(4), (4, 2, 2)),
    "1 x 1 convolution": (lambda: InvertibleConv1x1(1), (1, 4, 4)),
    "1 x 1 convolution of four channels": (lambda: InvertibleConv1x1(4), (4, 2, 2)),
    "checkerboard": (lambda: CheckerboardCoupling(CONFIG, 1), (1, 4, 4)),
    "checkerboard, swapped": (lambda: CheckerboardCoupling(CONFIG, 1, swap=True), (1, 4, 4)),
    "additive checkerboard": (lambda: CheckerboardCoupling(ADDITIVE, 1), (1, 4, 4)),
    "channels": (lambda: HalfCoupling(CONFIG, 4), (4, 2, 2)),
    "channels, swapped": (lambda: HalfCoupling(CONFIG, 4, swap=True), (4, 2, 2)),
    "additive channels": (lambda: HalfCoupling(ADDITIVE, 4), (4, 2, 2)),
    "units": (lambda: HalfCoupling(CONFIG, 16, vectors=True), (16,)),
    "units of odd number, swapped": (lambda: HalfCoupling(CONFIG, 15, vectors=True, swap=True), (15,)),
    "additive units": (lambda: HalfCoupling(ADDITIVE, 16, vectors=True), (16,)),
    "squeeze": (Squeeze, (1, 4, 4)),
}


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_each_layer_has_the_log_determinant_of_autograd_and_an_inverse(make, shape):
    torch.manual_seed(0)
    layer = moved(make().double(), by=0.4)
    inputs = torch.randn(3, *shape, generator=seeded(1), dtype=torch.float64)
    outputs, log_det = layer(inputs)
    assert log_det.shape == (3,)
    for index in range(3):
        one = inputs[index : index + 1]
        expected = log_det_by_autograd(lambda each: layer(each)[0], one)
        torch.testing.assert_close(log_det[index], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.inverse(outputs), inputs, rtol=1e-10, atol=1e-10)
    if not isinstance(layer, Squeeze):
        assert not torch.allclose(outputs, inputs, atol=0.05)


def test_a_split_has_the_log_determinant_of_autograd_and_an_inverse():
    split = moved(Split(4).double(), by=0.4)
    inputs = torch.randn(1, 4, 2, 2, generator=seeded(1), dtype=torch.float64)
    rest, latents, log_det = split(inputs)
    expected = log_det_by_autograd(lambda each: torch.cat(split(each)[:2], dim=1), inputs)
    torch.testing.assert_close(log_det[0], expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(split.inverse(rest, latents), inputs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("make", [CheckerboardCoupling, HalfCoupling])
@pytest.mark.parametrize("swap", [False, True])
def test_a_coupling_changes_one_half_given_the_other(make, swap):
    coupling = moved(make(CONFIG, 4, swap=swap).double(), by=0.4)
    inputs = torch.randn(1, 4, 4, 4, generator=seeded(1), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda each: coupling(each)[0].flatten(), inputs).flatten(1)
    if make is CheckerboardCoupling:
        rows = torch.arange(4)
        changed = ((rows[:, None] + rows) % 2 == (1 if swap else 0)).expand(4, 4, 4).flatten()
        assert changed[0] != swap  # the corner
    else:
        changed = (torch.arange(4) < 2 if swap else torch.arange(4) >= 2)[:, None].expand(4, 16).flatten()
    assert changed.sum() == 32
    assert torch.equal(coupling(inputs)[0].flatten()[~changed], inputs.flatten()[~changed])
    among_changed = jacobian[changed][:, changed]
    assert torch.equal(among_changed, among_changed.diag().diag())  # exactly: none sees another of its own half
    assert (jacobian[changed][:, ~changed] != 0).float().mean() > 0.2


def dequantized_to_latents(model, labels=None):
    """y in [0, 1] to latents, as far as autograd sees: by the noise, with the levels fixed."""

    def function(dequantized):
        levels = (dequantized.detach() * 256).floor()
        return model.to_latents(levels / 255, labels, noise=dequantized * 256 - levels)[0]

    return function


@variants
def test_the_whole_has_the_log_determinant_of_autograd(variant):
    model = tiny_model(**variant).double()
    images, noise = some_images(model.config).double(), torch.rand(4, 1, 1, 1, generator=seeded()).double()
    noise = noise.expand_as(images).contiguous()
    labels = some_labels(model)
    _, log_det = model.to_latents(images, labels, noise=noise)
    for index in range(2):
        one = slice(index, index + 1)
        label = None if labels is None else labels[one]
        dequantized = ((images * 255).round() + noise)[one] / 256
        expected = log_det_by_autograd(dequantized_to_latents(model, label), dequantized)
        torch.testing.assert_close(log_det[index], expected, rtol=1e-8, atol=1e-8)


@variants
def test_pixels_to_latents_and_back_in_float32(variant):
    # Not so far moved as elsewhere: a random matrix is nearly singular sooner than a trained one.
    model = tiny_model(by=0.05, **variant)
    images, labels = some_images(model.config, num=50), some_labels(model, 50)
    noise = torch.rand(images.shape, generator=seeded())
    latents, _ = model.to_latents(images, labels, noise=noise)
    assert latents.shape == (50, images[0].numel())
    back = model.to_pixels(latents, labels, quantize=False)
    assert (back - ((images * 255).round() + noise) / 256).abs().max() < 1e-4
    middle = model.to_pixels(model.to_latents(images, labels)[0], labels)
    assert torch.equal(middle, (images * 255).round() / 255)


def test_a_model_of_the_size_of_mnist_round_trips():
    torch.manual_seed(0)
    for network in ("glow", "realnvp"):
        model = FlowModel(FlowConfig(network=network, hidden_size=16))
        images = some_images(model.config, num=8)
        model.initialize(images)
        moved(model, by=0.02)
        noise = torch.rand(images.shape, generator=seeded())
        back = model.to_pixels(model.to_latents(images, noise=noise)[0], quantize=False)
        assert (back - ((images * 255).round() + noise) / 256).abs().max() < 1e-4


# Densities that are known


def test_a_uniform_density_gives_eight_bits_for_each_value():
    # Logistic latents and the identity: the logit of a uniform number is logistic.
    config = {"network": "realnvp", "prior": "logistic", "num_scales": 1, "logit_alpha": 1e-7}
    model = FlowModel(FlowConfig(**TINY | config)).double()
    images = some_images(model.config, num=20).double()
    for num_samples in (1, 5):
        bits = model.bits_per_dim(images, num_importance_samples=num_samples, generator=seeded())
        expected = 8 - math.log2(1 - 2e-7)  # of [alpha, 1 - alpha] only
        torch.testing.assert_close(bits, torch.full((20,), expected, dtype=torch.float64), rtol=0, atol=1e-12)
    assert expected == pytest.approx(8, abs=1e-6)
    log_prob = model.log_prob(images, generator=seeded())
    torch.testing.assert_close(
        log_prob, torch.full((20,), -16 * math.log(256), dtype=torch.float64), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("logit_alpha", [0.0, 1e-5, 0.05])
@pytest.mark.parametrize("prior", ["normal", "logistic"])
def test_the_bins_of_one_pixel_sum_to_one(prior, logit_alpha):
    config = {"image_size": 1, "network": "realnvp", "num_scales": 1, "prior": prior, "logit_alpha": logit_alpha}
    model = tiny_model(**config).double()
    if not logit_alpha:  # the density of plain pixels goes on beyond 0 and 1: put it between them
        with torch.no_grad():
            model.mean.fill_(model.network(torch.full((1, 1, 1, 1), 0.5).double())[0].item())
            model.log_std.fill_(math.log(0.02))
    images = torch.arange(256).view(-1, 1, 1, 1) / 255
    middles = ((torch.arange(200) + 0.5) / 200).double()  # of each bin: its probability by the midpoint rule
    noise = middles.view(-1, 1, 1, 1, 1).expand(-1, 256, 1, 1, 1)
    log_prob = model.log_prob(images.double(), num_importance_samples=200, noise=noise)
    probability = log_prob.exp()
    # One pixel's map is an increasing or a decreasing one: the probability of a bin is a difference of the prior's
    # distribution function, and what lies beyond the first and the last is no pixel.
    edges = torch.cat([model.to_latents(images.double(), noise=torch.zeros(256, 1, 1, 1))[0][:, 0],
                       model.to_latents(images[-1:].double(), noise=torch.ones(1, 1, 1, 1))[0][:, 0]])  # fmt: skip
    distribution = torch.special.ndtr(edges) if prior == "normal" else edges.sigmoid()
    torch.testing.assert_close(probability, distribution.diff(), rtol=2e-3, atol=1e-9)
    assert probability.sum().item() == pytest.approx(1, abs=0.05 if logit_alpha == 0.05 else 1e-3)
    assert probability.max() > 1.2 / 256  # not uniform


def test_more_draws_tighten_the_bound():
    # Of one pixel and a narrow density within a bin: Jensen's gap is large.
    model = tiny_model(image_size=2, num_scales=1, by=0.4).double()
    images = some_images(model.config, num=1).double().expand(4000, -1, -1, -1)
    means = []
    with torch.no_grad():
        for num in (1, 4, 16):
            bound = model.log_prob(images, num_importance_samples=num, generator=seeded(num))
            means.append((bound.mean().item(), bound.std().item() / 4000**0.5))
    for (looser, error), (tighter, other) in zip(means[:-1], means[1:], strict=True):
        assert tighter - looser > 4 * (error + other)


def test_draws_are_averaged_within_each_image(monkeypatch):
    model = tiny_model(by=0.05)
    images = some_images(model.config)
    images[0], images[1] = 0, 1  # very different ones: an average over the wrong axis would mix them
    noise = torch.rand(6, *images.shape, generator=seeded())
    single = torch.stack([model.log_prob(images, noise=each[None]) for each in noise]).double()
    expected = (single - single.max()).exp().mean(0).log() + single.max()
    assert expected.std() > 5
    bound = model.log_prob(images, num_importance_samples=6, noise=noise)
    torch.testing.assert_close(bound.double(), expected, rtol=1e-5, atol=1e-4)
    drawn = model.log_prob(images, num_importance_samples=6, generator=seeded(3))
    for chunk in (1, 2 * images.numel(), 5 * images.numel()):
        monkeypatch.setattr(modeling_flow, "CHUNK", chunk)
        again = model.log_prob(images, num_importance_samples=6, generator=seeded(3))
        torch.testing.assert_close(again, drawn, rtol=1e-5, atol=1e-4)


@variants
def test_the_loss_is_the_bound_of_one_draw(variant):
    model = tiny_model(by=0.05, **variant)
    images, labels = some_images(model.config), some_labels(model)
    noise = torch.rand(images.shape, generator=seeded())
    output = model(images, labels, noise=noise)
    latents, log_det = model.to_latents(images, labels, noise=noise)
    if model.config.prior == "normal":
        prior = Normal(0.0, 1.0)
        log_prior = prior.log_prob(latents).sum(1)
    else:
        uniform = Uniform(torch.zeros(()), torch.ones(()), validate_args=False)
        prior = TransformedDistribution(uniform, SigmoidTransform().inv)
        log_prior = prior.log_prob(latents).sum(1)
    expected = log_prior + log_det - images[0].numel() * math.log(256)
    torch.testing.assert_close(output.log_prob, expected)
    torch.testing.assert_close(output.loss, -expected.mean())
    assert torch.equal(model.log_prob(images, labels, noise=noise[None]), output.log_prob)
    bits = model.bits_per_dim(images, labels, noise=noise[None])
    torch.testing.assert_close(bits, -expected / math.log(2) / images[0].numel())
    torch.manual_seed(5)
    drawn = model(images, labels).loss
    assert torch.equal(drawn, -model.log_prob(images, labels, generator=seeded(5)).mean())


def test_the_divergence_of_the_pixels_is_that_of_the_latents():
    """
    KL(P_X || P_F(U)) = KL(P_F^-1(X) || P_U) of any P_X: log p_X(x) - log p_F(U)(x) = log p_F^-1(X)(u) - log p_U(u) at
    each x, not only on average. P_X is here of another flow, whose density is known.
    """
    model, other = tiny_model(by=0.05).double(), tiny_model(by=0.03, prior="logistic", network="realnvp").double()
    with torch.no_grad():
        latents = torch.randn(40, 16, generator=seeded()).double()
        # Values y of [0, 1) as an image and its noise: exactly, as both are in float64.
        y = other.to_pixels(0.5 * latents, quantize=False).clamp(1e-6, 1 - 1e-6)
        levels = (256 * y).floor()
        images, noise = levels / 255, 256 * y - levels
        z_other, change_other = other.to_latents(images, noise=noise)
        log_p = other.prior_log_prob(z_other) + change_other
        z, change = model.to_latents(images, noise=noise)
        log_model = model.prior_log_prob(z) + change
    left = log_p - log_model
    # The density of F^-1(X) at u = z, by the change of variables with the Jacobian of F, the way from latents, that
    # autograd finds there.
    for index in range(5):
        one = z[index : index + 1]
        log_det = log_det_by_autograd(lambda each: model.to_pixels(each, quantize=False), one)
        right = log_p[index] + log_det - model.prior_log_prob(one)[0]
        torch.testing.assert_close(right, left[index], rtol=1e-6, atol=1e-6)
    assert left.std() > 1


# ActNorm


def test_actnorm_makes_its_first_outputs_standard():
    layer = ActNorm(3)
    inputs = torch.randn(50, 3, 4, 4, generator=seeded()) * torch.tensor([0.1, 1, 30]).view(3, 1, 1) + 5
    layer.initialize(inputs)
    outputs, log_det = layer(inputs)
    torch.testing.assert_close(outputs.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(outputs.std((0, 2, 3), correction=0), torch.ones(3), rtol=1e-4, atol=0)
    assert log_det[0].item() == pytest.approx(-16 * inputs.std((0, 2, 3)).log().sum().item(), rel=1e-2)


@pytest.mark.parametrize("network", ["glow", "realnvp"])
def test_initialize_sets_every_actnorm_once(network):
    model = tiny_model(network=network)
    images, noise = some_images(model.config, 60), torch.rand(60, 1, 4, 4, generator=seeded())
    assert not model.initialized
    model.initialize(images, noise=noise)
    assert model.initialized
    outputs = []
    layers = [layer for layer in model.modules() if isinstance(layer, ActNorm)]
    hooks = [layer.register_forward_hook(lambda layer, args, output: outputs.append(output[0])) for layer in layers]
    model.to_latents(images, noise=noise)
    for hook in hooks:
        hook.remove()
    assert len(outputs) == len(layers) >= 4
    for each in outputs:  # each with those before it as they are
        torch.testing.assert_close(each.mean((0, 2, 3)), torch.zeros(each.shape[1]), rtol=0, atol=1e-4)
        torch.testing.assert_close(each.std((0, 2, 3), correction=0), torch.ones(each.shape[1]), rtol=1e-3, atol=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.initialize(1 - images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("prior, std", [("normal", 1), ("logistic", math.pi / math.sqrt(3))])
def test_initialize_sets_the_latents_of_nice(prior, std, num_classes):
    model = tiny_model(network="nice", coupling="additive", prior=prior, logit_alpha=0.0, num_classes=num_classes)
    images, noise = some_images(model.config, 60), torch.rand(60, 1, 4, 4, generator=seeded())
    model.initialize(images, noise=noise)
    latents, _ = model.to_latents(images, some_labels(model, 60), noise=noise)
    torch.testing.assert_close(latents.mean(0), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std(0, correction=0), torch.full((16,), float(std)), rtol=1e-3, atol=0)
    before = model.log_std.clone()
    model.initialize(1 - images)
    assert torch.equal(model.log_std, before)


@pytest.mark.parametrize("network", ["nice", "realnvp", "glow"])
def test_images_without_a_variance_to_initialize_by_leave_it_to_the_next(network):
    model = tiny_model(network=network, by=0)
    images, before = some_images(model.config, 60), {name: each.clone() for name, each in model.state_dict().items()}
    black = torch.zeros(3, 1, 4, 4)
    for given, std in ((black[:0], "nan"), (black[:1], "0"), (black, "0")):
        with pytest.raises(ValueError, match=f"^of {len(given)} images a standard deviation is {std}; "):
            model.initialize(given, noise=torch.full_like(given, 0.5))
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    model.initialize(images)
    assert model.initialized and model.log_prob(images).isfinite().all()


@pytest.mark.parametrize("network", ["realnvp", "glow"])
def test_a_later_layer_without_a_variance_leaves_those_before_it_alone(network):
    model = tiny_model(network=network, image_size=4)
    last = [layer for layer in model.modules() if isinstance(layer, ActNorm)][-1]
    images, before = some_images(model.config, 60), {name: each.clone() for name, each in model.state_dict().items()}
    hook = last.register_forward_pre_hook(lambda layer, args: (torch.full_like(args[0], math.inf),))
    with pytest.raises(ValueError, match="a standard deviation is nan"):
        model.initialize(images)
    hook.remove()
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


def test_one_image_initializes_what_has_a_variance_over_its_pixels():
    images = some_images(FlowConfig(**TINY), 2)
    noise = torch.rand(1, 1, 4, 4, generator=seeded())
    one, two, nice = tiny_model(network="realnvp"), tiny_model(network="realnvp"), tiny_model(network="nice")
    one.initialize(images[:1], noise=noise)
    two.initialize(images[:1].repeat(2, 1, 1, 1), noise=noise.repeat(2, 1, 1, 1))
    assert one.initialized and one.to_latents(images)[0].abs().max() < 100
    for name, tensor in one.state_dict().items():  # twice the same image tells no more
        torch.testing.assert_close(tensor, two.state_dict()[name], rtol=1e-4, atol=1e-5)
    for num in (1, 2):  # nice has a deviation for each pixel, over the images
        with pytest.raises(ValueError, match=f"^of {num} images a standard deviation is 0; "):
            nice.initialize(images[:1].repeat(num, 1, 1, 1), noise=noise.repeat(num, 1, 1, 1))
    nice.initialize(images, noise=noise.repeat(2, 1, 1, 1))


def test_latents_of_another_size_are_refused():
    for model in (tiny_model(network="nice"), tiny_model(network="glow", num_scales=1)):
        for size in (1, 15, 17):
            with pytest.raises(ValueError, match=rf"latents has shape \(2, {size}\); it must be \(2, 16\)"):
                model.to_pixels(torch.zeros(2, size))


def test_a_saved_model_is_not_initialized_again(tmp_path):
    model = tiny_model()
    model.initialize(some_images(model.config, 30))
    hub.save(model, tmp_path)
    loaded = hub.load(FlowModel, tmp_path)
    assert loaded.initialized
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    loaded.train().initialize(some_images(model.config, 30, seed=9))
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_neither_training_nor_its_average_initializes_again():
    model = tiny_model().train()
    images = some_images(model.config, 30)
    model.initialize(images)
    average = averaged_model(model, 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    start = model.network.scales[0][1].shift.detach().clone()
    values = []
    for _ in range(3):
        model(images).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
        values.append(model.network.scales[0][1].shift.detach().clone())
    assert not torch.equal(values[-1], start)
    expected = values[0]  # decays of the second and third update: 2/11 and 3/12
    for value, decay in zip(values[1:], (2 / 11, 3 / 12), strict=True):
        expected = decay * expected + (1 - decay) * value
    averaged = average.module
    assert averaged.initialized
    torch.testing.assert_close(averaged.network.scales[0][1].shift.detach(), expected)
    averaged.train()(1 - images)
    averaged.initialize(1 - images)
    torch.testing.assert_close(averaged.network.scales[0][1].shift.detach(), expected)


# Samples


@variants
def test_samples_are_images_of_latents_of_the_prior(variant):
    model = tiny_model(by=0.05, **variant)
    labels = some_labels(model, 2000)
    samples = model.sample(2000, labels=labels, generator=seeded(), temperature=0.5)
    levels = samples * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    if model.config.logit_alpha:  # all of the latents' images are inside
        latents, _ = model.to_latents(samples, labels, noise=torch.rand(samples.shape, generator=seeded(1)))
        assert torch.isfinite(latents).all()
    if model.config.prior == "normal":
        drawn = torch.randn(2000, model.config.num_channels * 16, generator=seeded())
    else:
        drawn = torch.rand(2000, model.config.num_channels * 16, generator=seeded()).logit(eps=1e-7)
        assert drawn.std().item() == pytest.approx(math.pi / 3**0.5, rel=0.02)
    assert torch.equal(samples, model.to_pixels(0.5 * drawn, labels))


def test_samples_have_the_density_of_the_model():
    # One pixel: the shares of levels against the probabilities, which the test of the bins holds.
    model = tiny_model(image_size=1, network="realnvp", num_scales=1, logit_alpha=0.05, by=0.5)
    samples = model.sample(200_000, generator=seeded())
    counts = torch.bincount((samples.flatten() * 255).round().long(), minlength=256).double()
    images = torch.arange(256).view(-1, 1, 1, 1) / 255
    edges = torch.cat([model.to_latents(images, noise=torch.zeros(256, 1, 1, 1))[0][:, 0],
                       model.to_latents(images[-1:], noise=torch.ones(1, 1, 1, 1))[0][:, 0]])  # fmt: skip
    distribution = torch.special.ndtr(edges.detach().double())
    expected = 200_000 * distribution.diff()
    expected[0] += 200_000 * distribution[0]  # what lies beyond them, with alpha of 0.05, goes to the ends
    expected[-1] += 200_000 * (1 - distribution[-1])
    kept = expected > 5
    chi_square = ((counts - expected).square() / expected)[kept].sum().item()
    freedom = kept.sum().item() - 1
    assert freedom > 100 and abs(chi_square - freedom) < 5 * (2 * freedom) ** 0.5


def test_classes_have_latents_of_their_own():
    model = tiny_model(num_classes=3, by=0.05)
    with torch.no_grad():
        model.mean[1], model.mean[2] = 2.0, -2.0
    images, noise = some_images(model.config, 3), torch.rand(3, 1, 4, 4, generator=seeded())
    labels = torch.arange(3)
    latents, _ = model.to_latents(images, labels, noise=noise)
    for index in range(3):
        one = slice(index, index + 1)
        alone = model.to_latents(images[one], labels[one], noise=noise[one])[0]
        torch.testing.assert_close(alone, latents[one])
    others, _ = model.to_latents(images, (labels + 1) % 3, noise=noise)
    size = model.mean.shape[1]
    assert size == 8 and torch.equal(others[:, :-size], latents[:, :-size])  # the last scale's alone
    model.log_std.data.zero_()
    moved_by = model.mean[(labels + 1) % 3] - model.mean[labels]
    latents, others = (model.to_latents(images, each, noise=noise)[0] for each in (labels, (labels + 1) % 3))
    torch.testing.assert_close((latents - others)[:, -size:], moved_by, rtol=1e-4, atol=1e-4)
    generator = seeded(2)
    drawn_labels = torch.randint(3, (4,), generator=generator)
    expected = model.sample(4, labels=drawn_labels, generator=generator)
    assert torch.equal(model.sample(4, generator=seeded(2)), expected)


def test_interpolations_begin_and_end_with_the_images():
    model = tiny_model(by=0.05, num_classes=2)
    start, end = some_images(model.config, 3), some_images(model.config, 3, seed=2)
    labels = torch.tensor([0, 1, 1])
    lines = model.interpolate(start, end, 5, labels=labels, mode="linear")
    assert lines.shape == (3, 5, 1, 4, 4)
    torch.testing.assert_close(lines[:, 0], (start * 255).round() / 255)
    torch.testing.assert_close(lines[:, -1], (end * 255).round() / 255)
    middle = (model.to_latents(start, labels)[0] + model.to_latents(end, labels)[0]) / 2
    assert torch.equal(lines[:, 2], model.to_pixels(middle, labels))
    latents = model.to_latents(start, labels)[0], model.to_latents(end, labels)[0]
    assert torch.equal(model.interpolate(*latents, 5, labels=labels, mode="linear"), lines)


def test_latents_that_are_given_are_those_of_the_images():
    model = tiny_model(by=0.05, num_classes=2)
    images, labels = some_images(model.config, 3), torch.tensor([0, 1, 1])
    latents, _ = model.to_latents(images, labels)
    torch.testing.assert_close(model.sample(3, labels=labels, latents=latents), (images * 255).round() / 255)
    cooled = model.sample(3, labels=labels, latents=latents, temperature=0.5)
    assert torch.equal(cooled, model.to_pixels(latents / 2, labels))


def test_latents_of_a_logistic_prior_are_joined_by_straight_lines():
    model = tiny_model(by=0.05, network="nice", coupling="additive", prior="logistic", logit_alpha=0.0)
    start, end = torch.randn(2, 16, generator=seeded(3)), torch.randn(2, 16, generator=seeded(4))
    straight = model.interpolate(start, end, 3, mode="linear")
    assert torch.equal(model.interpolate(start, end, 3), straight)
    assert not torch.equal(model.interpolate(start, end, 3, mode="spherical"), straight)


def test_latents_of_a_normal_prior_are_joined_on_the_sphere():
    model = tiny_model(by=0.05)
    start, end = torch.randn(2, 16, generator=seeded(3)), torch.randn(2, 16, generator=seeded(4))
    curved = model.interpolate(start, end, 3, mode="spherical")
    assert torch.equal(model.interpolate(start, end, 3), curved)
    assert not torch.equal(model.interpolate(start, end, 3, mode="linear"), curved)


# What is asked of it


def test_bad_input_is_told():
    model, conditional = tiny_model(), tiny_model(num_classes=3)
    images = some_images(model.config)
    for wrong, told in ((images + 0.3 / 255, "0, 1/255, 2/255 ... 1"), (images * 2, "this model takes the levels")):
        for call in (model, model.log_prob, model.to_latents, model.initialize):
            with pytest.raises(ValueError, match=told):
                call(wrong)
    with pytest.raises(ValueError, match=r"shape \(4, 1, 4, 5\); this model takes \(batch, 1, 4, 4\)"):
        model(torch.zeros(4, 1, 4, 5))
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"temperature is {temperature}; it must be above 0 and finite"):
            model.sample(2, temperature=temperature)
    with pytest.raises(ValueError, match="num_importance_samples is 0; it must be at least 1"):
        model.log_prob(images, num_importance_samples=0)
    with pytest.raises(ValueError, match="noise has shape"):
        model.log_prob(images, noise=torch.rand(images.shape))
    with pytest.raises(ValueError, match="num_steps is 1; it must be at least 2"):
        model.interpolate(images, images, 1)
    with pytest.raises(ValueError, match="for each of the 2 images"):
        conditional.interpolate(images[:3], images[:2], 3, labels=torch.tensor([0, 1, 1]))
    for call in (conditional, conditional.log_prob, conditional.to_latents):
        with pytest.raises(ValueError, match="labels is None, but this model is conditional"):
            call(images)
    with pytest.raises(ValueError, match="labels were given, but this model is unconditional"):
        model.sample(2, labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels holds 3; it must be one of 0 to 2 for each of the 2 images"):
        conditional.sample(2, labels=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
        conditional.sample(2, labels=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_scales": 3}, "num_scales is 3 with image_size 28; glow halves the image size 3 times"),
        ({"num_scales": 4, "network": "realnvp"}, "realnvp halves the image size 3 times"),
        ({"num_scales": 10**9}, "num_scales is 1000000000"),
        ({"logit_alpha": 0.5}, "logit_alpha is 0.5; it must be in"),
        ({"logit_alpha": math.nan}, "logit_alpha is nan"),
        ({"num_steps": 0}, "num_steps is 0; it must be at least 1"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"network": "nice", "image_size": 1}, "it needs two"),
    ],
)
def test_a_config_that_cannot_be_is_told(changes, told):
    with pytest.raises(StrictDataclassClassValidationError, match=told):
        FlowConfig(**changes)


# Numbers of less precision


def test_weights_in_bfloat16_and_mixed_precision_give_latents_in_float32():
    model = tiny_model(by=0.05)
    images = some_images(model.config)
    expected = model.log_prob(images, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(images, noise=torch.rand(images.shape, generator=seeded()))
    assert mixed.loss.dtype == torch.float32
    torch.testing.assert_close(mixed.log_prob, expected, rtol=0.02, atol=0.5)
    halved = tiny_model(by=0.05).to(torch.bfloat16)
    log_prob = halved.log_prob(images, generator=seeded())
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, expected, rtol=0.02, atol=0.5)
    assert halved.sample(3).dtype == torch.float32


def test_nice_is_the_network_of_its_paper():
    model = FlowModel(FlowConfig(network="nice", coupling="additive", prior="logistic", logit_alpha=0.0, num_steps=4,
                                 hidden_size=20, num_hidden_layers=5))  # fmt: skip
    assert len(model.network.couplings) == 4
    for coupling in model.network.couplings:
        sizes = [(each.in_features, each.out_features) for each in coupling.network if isinstance(each, nn.Linear)]
        assert sizes == [(392, 20), (20, 20), (20, 20), (20, 20), (20, 20), (20, 392)]
        assert coupling.log_bound is None
    _, log_det = model.to_latents(some_images(model.config))
    assert torch.equal(log_det, torch.zeros(4))  # volume is kept but for the diagonal, which begins at 1
    with torch.no_grad():
        model.log_std.fill_(-0.5)
    torch.testing.assert_close(model.to_latents(some_images(model.config))[1], torch.full((4,), 0.5 * 784))


def test_draws_stay_with_their_image_and_class():
    model = tiny_model(num_classes=3, by=0.05)
    images, labels = some_images(model.config), torch.tensor([0, 2, 1, 2])
    noise = torch.rand(5, *images.shape, generator=seeded())

    def log_prob(part):
        return model.log_prob(images[part], labels[part], num_importance_samples=5, noise=noise[:, part])

    alone = [log_prob(slice(i, i + 1)) for i in range(len(labels))]
    torch.testing.assert_close(log_prob(slice(None)), torch.cat(alone))


@pytest.mark.parametrize(
    ("network", "num_scales", "kind"),
    [
        ("nice", 2, HalfCoupling),
        ("realnvp", 2, HalfCoupling),
        ("realnvp", 1, CheckerboardCoupling),
        ("glow", 2, HalfCoupling),
    ],
)
def test_no_value_passes_the_couplings_unchanged(network, num_scales, kind):
    torch.manual_seed(0)
    model = FlowModel(FlowConfig(**TINY | {"network": network, "num_scales": num_scales})).double()
    for layer in model.modules():  # only these move: all others begin as what they are
        if isinstance(layer, kind):
            moved(layer, by=0.4)
        if isinstance(layer, InvertibleConv1x1):
            one = torch.eye(len(layer.weight), dtype=torch.double)
            torch.testing.assert_close(layer.weight @ layer.weight.T, one, rtol=0, atol=1e-5)
    inputs = torch.randn(1, 1, 4, 4, generator=seeded(1), dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(lambda each: model.network(each)[0].flatten(), inputs)
    assert ((jacobian.view(16, 16) != 0).sum(1) > 1).all()


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_noise_that_leaves_the_cell_of_a_level_is_refused(value):
    """It would give the bound of another level, or, beyond black, NaN."""
    model = tiny_model()
    images = some_images(model.config)
    noise = torch.full_like(images, value)
    for call in (model, model.to_latents, model.initialize, lambda x, noise: model.log_prob(x, noise=noise[None])):
        with pytest.raises(ValueError, match=r"noise goes from .* it must be in \[0, 1\)$"):
            call(images, noise=noise)

"""The mathematics of AutoregressiveModel: who sees whom, probabilities that sum to 1, draws that follow them."""

import itertools
import math
import re
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional as F
from transformers import AutoModel

from hwzoo.models.autoregressive.configuration_autoregressive import AutoregressiveConfig
from hwzoo.models.autoregressive.modeling_autoregressive import AutoregressiveModel, _one_thread
from hwzoo.models.autoregressive.networks_autoregressive import CausalConv2d, MaskedLinear, receptive_field

# For the shared suite: a small unconditional model with its optional parts switched on.
SUITE = {
    "config": dict(
        image_size=8,
        num_channels=2,
        num_levels=3,
        num_classes=0,
        network="gated_pixelcnn",
        hidden_size=6,
        num_layers=2,
        head_hidden_size=8,
        first_kernel_size=5,
        kernel_size=5,
        dilations=[1, 2],
        residual=False,
        patch_size=2,
        patch_context="previous",
        num_attention_heads=2,
    ),
}


def test_threads_come_back_after_calls_that_overlap():
    """Of two threads of Python: the first begins and ends first."""
    before, seen = torch.get_num_threads(), {}
    begun, ended = threading.Event(), threading.Event()

    def call(name: str, may_begin: threading.Event | None, may_end: threading.Event, done: threading.Event | None):
        if may_begin:
            may_begin.wait(60)
        with _one_thread():
            seen[f"{name} inside"] = torch.get_num_threads()
            (begun if name == "first" else second_in).set()
            may_end.wait(60)
        seen[name] = torch.get_num_threads()
        if done:
            done.set()

    second_in = threading.Event()
    torch.set_num_threads(3)
    try:
        calls = ("first", None, second_in, ended), ("second", begun, ended, None)
        threads = [threading.Thread(target=call, args=each) for each in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        later = threading.Thread(target=lambda: seen.update(later=torch.get_num_threads()))
        later.start()
        later.join(60)
        assert seen == {"first inside": 1, "second inside": 1, "first": 3, "second": 3, "later": 3}
    finally:
        torch.set_num_threads(before)


SMALL = dict(image_size=6, hidden_size=24, num_layers=2, head_hidden_size=108, first_kernel_size=3, patch_size=2)
NETWORKS = {
    "pixelcnn": dict(network="pixelcnn"),
    "plain pixelcnn": dict(network="pixelcnn", residual=False, first_kernel_size=5),
    "gated_pixelcnn": dict(network="gated_pixelcnn"),
    "dilated gated_pixelcnn": dict(network="gated_pixelcnn", dilations=[1, 2], kernel_size=5),
    "patch_transformer": dict(network="patch_transformer"),
    "patches of 3": dict(network="patch_transformer", patch_size=3, patch_context="previous", head_hidden_size=216),
    "patches of 1": dict(network="patch_transformer", patch_size=1, patch_context="previous"),
}
IMAGES = {
    "binary": {},
    "three channels": dict(num_channels=3),
    "8 bits": dict(num_levels=256),
    "colour of 5 levels, classes": dict(num_channels=3, num_levels=5, num_classes=4),
}
networks = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
images = pytest.mark.parametrize("kind", IMAGES.values(), ids=IMAGES)
FEW = {name: IMAGES[name] for name in ("binary", "colour of 5 levels, classes")}
few_images = pytest.mark.parametrize("kind", FEW.values(), ids=FEW)


def small_model(spread=0.15, **changes):
    """In double precision and away from its initialisation: no weight is zero, no two are alike."""
    torch.manual_seed(0)
    model = AutoregressiveModel(AutoregressiveConfig(**SMALL | changes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=spread)
    return model


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def shape_of(model):
    return model.config.num_channels, model.config.image_size, model.config.image_size


def some_images(model, num=3, seed=1):
    levels = torch.randint(model.config.num_levels, (num, *shape_of(model)), generator=seeded(seed))
    return levels.double() / (model.config.num_levels - 1)


def some_labels(model, num=3):
    return torch.arange(num) % model.config.num_classes if model.config.num_classes else None


def dependence(model, promised):
    """
    Which values the logits of each value depend on, by the Jacobian at two images, and at more, ten at most, while
    some that are `promised` are not among them: bool, (values, values), row i for logit i, values flattened over
    channels, rows and columns.
    """
    values = math.prod(shape_of(model))
    depends = torch.zeros(values, values, dtype=torch.bool)
    labels = torch.zeros(values, dtype=torch.long)
    for seed in range(10):
        if seed >= 2 and not (promised & ~depends).any():
            break
        image = torch.rand(1, *shape_of(model), generator=seeded(seed), dtype=torch.double)
        copies = image.repeat(values, 1, 1, 1).requires_grad_()
        logits = model.logits(
            copies, labels
        )  # a copy for each logit; weighted, so that those of a value do not cancel
        weights = torch.rand(logits.shape[-1], generator=seeded(9), dtype=torch.double)
        (logits @ weights).flatten(1).diagonal().sum().backward()
        depends |= copies.grad.flatten(1) != 0
    return depends


def order_of(model):
    """The place of each value in the order, written down anew: (channels, height, width)."""
    channels, size, _ = shape_of(model)
    side = model.config.patch_size if model.config.network == "patch_transformer" else 1
    places = itertools.product(range(size // side), range(size // side), range(side), range(side), range(channels))
    order = torch.zeros(channels, size, size, dtype=torch.long)
    for place, (i, j, row, column, channel) in enumerate(places):
        order[channel, i * side + row, j * side + column] = place
    return order


# Who may see whom


@networks
@images
def test_a_value_depends_on_those_before_it_that_the_receptive_field_promises(network, kind):
    model = small_model(**network, **kind)
    places = itertools.product(*map(range, shape_of(model)))
    promised = [model.receptive_field(row, column, channel).flatten() for channel, row, column in places]
    depends, order = dependence(model, torch.stack(promised)), order_of(model)
    assert not depends[order.flatten()[:, None] <= order.flatten()].any()
    assert torch.equal(depends, torch.stack(promised))


@networks
@images
def test_each_logit_is_of_its_own_value(network, kind):
    """Another value at one place changes its own term by the difference of its two logits."""
    model = small_model(**network, **kind)
    shape, last = shape_of(model), model.config.num_levels - 1
    place = shape[0] - 1, 3, 2
    image, labels = some_images(model, 1), some_labels(model, 1)
    before = model.log_prob(image, labels)
    changed = image.clone()
    changed[0][place] = (changed[0][place] * last + 1) % (last + 1) / last
    logits = model.logits(image, labels)[0][place]
    if last == 1:
        logits = torch.stack([torch.zeros(()), logits[0]])
    levels = [round(each[0][place].item() * last) for each in (image, changed)]
    factor = logits[levels[1]] - logits[levels[0]]
    later = order_of(model) > order_of(model)[place]  # these see the change; those before do not
    terms = [terms_of(model, each, labels)[later].sum() for each in (image, changed)]
    torch.testing.assert_close(model.log_prob(changed, labels)[0] - before[0], factor + terms[1] - terms[0])


def terms_of(model, image, labels):
    """log p of each value of one image, (channels, height, width)."""
    logits = model.logits(image, labels)[0]
    if model.config.num_levels == 2:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    levels = (image[0] * (model.config.num_levels - 1)).round().long()
    return logits.log_softmax(-1).gather(-1, levels[..., None])[..., 0]


A_B_CASES = {
    # Question 1 of IFT 6135's homework 3: two 3 x 3 layers on 5 x 5 pixels, what the output at row 3, column 3 sees.
    "AA": {11, 12, 13, 14, 15, 21, 22, 23, 31},
    "AB": {11, 12, 13, 14, 15, 21, 22, 23, 24, 31, 32},
    "BA": {11, 12, 13, 14, 15, 21, 22, 23, 24, 31, 32},
    "BB": {11, 12, 13, 14, 15, 21, 22, 23, 24, 31, 32, 33},
}


@pytest.mark.parametrize("types, expected", A_B_CASES.items(), ids=A_B_CASES)
def test_two_masked_layers_see_what_the_course_says(types, expected):
    layers = [CausalConv2d(1, 1, 3, mask_type).double() for mask_type in types]
    seen = receptive_field(layers, 2, 2, image_size=5)
    assert {10 * (row + 1) + column + 1 for row, column in seen.nonzero().tolist()} == expected
    assert len(expected) == {"AA": 9, "AB": 11, "BA": 11, "BB": 12}[types]
    image = torch.rand(1, 1, 5, 5, generator=seeded(), dtype=torch.double, requires_grad=True)
    torch.nn.Sequential(*layers)(image)[0, 0, 2, 2].backward()
    assert torch.equal(image.grad[0, 0] != 0, seen)


@pytest.mark.parametrize("name", ["cs294_pixelcnn", "pixelcnn", "gated", "cs294_igpt"])
def test_what_a_preset_sees_stands_in_its_page(name):
    root = Path(__file__).parents[2]
    page = (root / "docs" / "results" / "autoregressive.md").read_text(encoding="utf-8")
    told = re.search(rf"^\| `{name}`[^|]*\| (\d+)(?:, all)? \|$", page, re.MULTILINE)[1]
    preset = yaml.safe_load((root / "recipes" / "configs" / "autoregressive" / f"{name}.yaml").read_text())
    sizes = {"hidden_size": 4, "head_hidden_size": 2, "image_size": 28}
    fields = AutoregressiveConfig.__dataclass_fields__.keys() & preset.keys()
    config = AutoregressiveConfig(**{each: preset[each] for each in fields} | sizes)
    assert AutoregressiveModel(config).receptive_field(14, 14).sum() == int(told)


def test_the_blind_spot_is_counted():
    """Of the 406 pixels before (14, 14) of 28 x 28, a plain stack never sees 214, far right in the rows above."""
    config = dict(image_size=28, hidden_size=2, head_hidden_size=2)
    before = torch.arange(784).view(28, 28) < 14 * 28 + 14
    assert before.sum() == 406
    # Seven 3 x 3 layers after one of 7 x 7, and seven of 3 x 3 in all: u rows up, that many columns right at most.
    for first, others, unseen, right in ((7, 7, 214, lambda up: min(up + 2, 10)), (3, 6, 315, lambda up: up)):
        config |= dict(first_kernel_size=first, num_layers=others)
        plain = AutoregressiveModel(AutoregressiveConfig(network="pixelcnn", residual=False, **config))
        seen, reach = plain.receptive_field(14, 14)[0], first // 2 + others
        expected = torch.zeros(28, 28, dtype=torch.bool)
        expected[14, 14 - reach : 14] = True
        for up in range(1, reach + 1):
            expected[14 - up, 14 - reach : 14 + right(up) + 1] = True
        assert torch.equal(seen, expected)
        assert (before & ~seen).sum() == unseen and not (seen & ~before).any()
        # The gated network sees a rectangle: no blind spot; its vertical stack starts a row up.
        gated = AutoregressiveModel(AutoregressiveConfig(network="gated_pixelcnn", **config)).receptive_field(14, 14)[
            0
        ]
        rectangle = torch.zeros(28, 28, dtype=torch.bool)
        rectangle[14 - reach - 1 : 14, 14 - reach : 14 + reach + 1], rectangle[14, 14 - reach : 14] = True, True
        assert torch.equal(gated, rectangle)


@networks
def test_the_transformer_sees_all_and_no_network_more_than_all_before(network):
    model = small_model(**network)
    seen = model.receptive_field(5, 5)
    if model.config.network == "patch_transformer":
        assert seen.sum() == 35
    assert not model.receptive_field(0, 0).any() and not seen[0, 5, 5]


@pytest.mark.parametrize(("network", "first"), [("pixelcnn", 0), ("gated_pixelcnn", 1)])
def test_a_layer_that_finds_nothing_passes_on_what_it_was_given(network, first):
    """But for the first of all, which would pass on the value itself."""
    model = small_model(network=network)
    images, layers = some_images(model), model.network.layers
    for layer in layers[first:]:
        for parameter in list(layer.children())[-1].parameters():
            torch.nn.init.zeros_(parameter)
    whole = model.logits(images)
    model.network.layers = layers[:first]
    torch.testing.assert_close(whole, model.logits(images))
    assert len(layers) == first + 2 and not torch.allclose(whole[0], whole[1])


# Probabilities


@networks
@pytest.mark.parametrize("num_classes", [0, 2])
def test_the_probabilities_of_all_binary_images_sum_to_1(network, num_classes):
    network = network | {"patch_size": 1 if network.get("patch_size") == 1 else 2}
    model = small_model(spread=0.5, image_size=2, num_classes=num_classes, **{k: v for k, v in network.items()})
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.double).view(16, 1, 2, 2)
    for label in range(max(1, num_classes)):
        probabilities = model.log_prob(every, torch.full((16,), label)).exp()
        assert probabilities.sum().item() == pytest.approx(1, abs=1e-12)
        assert probabilities.std() > 1e-3


@pytest.mark.parametrize("name", ["pixelcnn", "gated_pixelcnn", "patch_transformer"])
def test_the_probabilities_of_all_colour_images_sum_to_1(name):
    model = small_model(spread=0.5, image_size=1, num_channels=3, num_levels=5, patch_size=1, network=name)
    every = torch.tensor(list(itertools.product(range(5), repeat=3)), dtype=torch.double).view(125, 3, 1, 1) / 4
    assert model.log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-12)


@networks
@images
def test_the_log_probability_is_the_sum_of_the_logits_terms(network, kind):
    model = small_model(**network, **kind)
    pixel_values, labels = some_images(model), some_labels(model)
    levels = (pixel_values * (model.config.num_levels - 1)).round().long()
    logits = model.logits(pixel_values, labels)
    if model.config.num_levels == 2:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    expected = -F.cross_entropy(logits.flatten(0, 3), levels.flatten(), reduction="none").view(3, -1).sum(1)
    output = model(pixel_values, labels)
    torch.testing.assert_close(model.log_prob(pixel_values, labels), expected)
    torch.testing.assert_close(output.log_prob, expected)
    torch.testing.assert_close(output.loss, -expected.mean())
    dimensions = math.prod(shape_of(model))
    bits = model.bits_per_dim(pixel_values, labels)
    assert bits.shape == (3,)
    torch.testing.assert_close(bits, -expected / math.log(2) / dimensions)


def test_a_model_that_knows_nothing_takes_a_bit_a_pixel_or_8():
    for num_levels, bits in ((2, 1.0), (256, 8.0)):
        model = small_model(num_levels=num_levels)
        torch.nn.init.zeros_(model.network.patch.output.weight)
        torch.nn.init.zeros_(model.network.patch.output.bias)
        torch.testing.assert_close(model.bits_per_dim(some_images(model)), torch.full((3,), bits, dtype=torch.double))


@networks
def test_a_class_changes_the_probabilities_and_gets_a_gradient(network):
    model = small_model(num_classes=3, **network)
    image = some_images(model, 1).repeat(3, 1, 1, 1)
    log_prob = model.log_prob(image, torch.arange(3))
    assert len(set(log_prob.tolist())) == 3
    model(image, torch.tensor([0, 0, 1])).loss.backward()
    embeddings = [each.weight.grad for each in model.modules() if isinstance(each, torch.nn.Embedding)]
    classes = [grad for grad in embeddings if len(grad) == 3]
    assert classes and all(grad[0].any() and grad[1].any() and not grad[2].any() for grad in classes)


# Samples


@networks
@images
def test_cached_samples_are_those_without_a_cache(network, kind):
    model = small_model(**network, **kind).float()
    cached, plain = (model.sample(4, generator=seeded(3), temperature=0.7, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)
    levels = cached * (model.config.num_levels - 1)
    assert torch.equal(levels, levels.round()) and len(levels.unique()) > 1


@pytest.fixture
def one_thread():
    """Threads that wait for each other would count as work."""
    num = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num)


# Of fewer images most of what the transformer takes with the cache is Python.
@pytest.mark.parametrize(
    "name, least, num", [("pixelcnn", 20, 16), ("gated_pixelcnn", 20, 16), ("patch_transformer", 50, 64)]
)
def test_the_cache_is_worth_it(name, least, num, one_thread):
    torch.manual_seed(0)
    model = AutoregressiveModel(AutoregressiveConfig(network=name, hidden_size=64, num_layers=4)).eval()
    start = time.process_time()
    model.sample(num, generator=seeded())
    cached = time.process_time() - start
    images = torch.zeros(num, 1, 28, 28)
    start = time.process_time()
    with torch.no_grad():
        for _ in range(8):  # of the 784 that a sample without the cache takes
            model.logits(images)
    assert (time.process_time() - start) * 98 > least * cached


@networks
def test_samples_have_the_frequencies_of_the_probabilities(network):
    network = network | {"patch_size": min(2, network.get("patch_size", 2)), "hidden_size": 8, "head_hidden_size": 12}
    model = small_model(spread=0.5, image_size=2, **network)
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.double).view(16, 1, 2, 2)
    probabilities = model.log_prob(every).exp()
    samples = model.float().sample(20_000, generator=seeded())
    codes = (samples.flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    counts = torch.bincount(codes, minlength=16).double()
    chi_square = ((counts - 20_000 * probabilities) ** 2 / (20_000 * probabilities)).sum()
    assert chi_square < 37.7  # 15 degrees of freedom: one in a thousand is above


def test_frequencies_of_levels_follow_the_temperature():
    model = small_model(spread=0.5, image_size=1, num_levels=4, patch_size=1)
    logits = model.logits(torch.zeros(1, 1, 1, 1, dtype=torch.double))[0, 0, 0, 0]
    for temperature in (0.5, 1.0, 3.0):
        samples = model.sample(20_000, generator=seeded(), temperature=temperature)
        counts = torch.bincount((samples.flatten() * 3).round().long(), minlength=4).double()
        expected = 20_000 * (logits / temperature).softmax(0)
        assert ((counts - expected) ** 2 / expected).sum() < 16.3  # 3 degrees of freedom, one in a thousand


@pytest.mark.parametrize("temperature", [1e-6, 1e-300])
def test_a_low_temperature_gives_the_likeliest_values(temperature):
    model = small_model(spread=0.5, num_levels=5)
    samples = model.sample(3, generator=seeded(), temperature=temperature)
    assert torch.equal(samples[0], samples[1])
    assert torch.equal((samples.double() * 4).round().long(), model.logits(samples.double()).argmax(-1))
    samples = model.float().sample(3, generator=seeded(), temperature=temperature)  # where 1e-300 is 0
    assert torch.equal((samples * 4).round().long(), model.logits(samples).argmax(-1))


@networks
def test_samples_of_a_class_are_drawn_given_it(network):
    model = small_model(num_levels=256, num_classes=3, **network)
    labels = torch.tensor([0, 1, 2, 1])
    samples = model.sample(4, labels=labels, generator=seeded())
    assert torch.equal(samples, model.sample(4, labels=labels, generator=seeded(), use_cache=False))
    others = model.sample(4, labels=torch.tensor([0, 2, 2, 1]), generator=seeded())
    assert [torch.equal(*pair) for pair in zip(samples, others, strict=True)] == [True, False, True, True]
    # Labels are drawn, from the generator, when they are not given.
    drawn = torch.randint(3, (4,), generator=(generator := seeded(5)))
    assert torch.equal(model.sample(4, generator=seeded(5)), model.sample(4, labels=drawn, generator=generator))


@networks
@few_images
def test_known_pixels_stay_and_the_others_are_drawn_given_them(network, kind):
    model = small_model(**network, **kind).float()
    pixel_values, labels = some_images(model).float(), some_labels(model)
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[:3] = True
    cached, plain = (
        model.complete(pixel_values, mask, labels=labels, generator=seeded(4), use_cache=use) for use in (True, False)
    )
    assert torch.equal(cached, plain)
    assert torch.equal(cached[:, :, :3], pixel_values[:, :, :3])
    assert not torch.equal(cached[:, :, 3:], pixel_values[:, :, 3:])
    assert torch.equal(model.complete(pixel_values, mask | True, labels=labels), pixel_values)
    # With nothing known it is a sample, whatever the pixels hold.
    nothing = model.complete(torch.full_like(pixel_values, 0.123), mask & False, labels=labels, generator=seeded(4))
    assert torch.equal(nothing, model.sample(3, labels=labels, generator=seeded(4)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_completions_of_pixels_of_any_precision_are_on_the_levels(dtype):
    model = small_model(num_levels=256)
    pixel_values = model.sample(2, generator=seeded(1))
    mask = torch.arange(pixel_values.shape[-2])[:, None].expand(pixel_values.shape[-2:]) < 2
    expected = model.complete(pixel_values, mask, generator=seeded())
    given = model.complete(pixel_values.to(dtype), mask, generator=seeded())
    assert given.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(given.float(), expected, rtol=0, atol=1e-6)
    drawn = given[..., 2:, :]
    assert (drawn == (drawn * 255).round() / 255).all()  # each as near to its level as the type allows
    assert model.log_prob(given).isfinite().all()


def test_completions_have_the_frequencies_of_the_conditional():
    model = small_model(spread=0.5, image_size=2, network="pixelcnn", first_kernel_size=5)
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.double).view(16, 1, 2, 2)
    top = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True], [False, False]])
    given = (every[:, 0, 0] == top[0, 0]).all(-1)
    conditional = model.log_prob(every[given]).softmax(0)
    drawn = model.complete(top.expand(20_000, 1, 2, 2), mask, generator=seeded())
    assert (drawn[:, 0, 0] == top[0, 0]).all()
    counts = torch.bincount((drawn[:, 0, 1] @ torch.tensor([2.0, 1.0])).long(), minlength=4).double()
    expected = 20_000 * conditional
    assert ((counts - expected) ** 2 / expected).sum() < 16.3


@networks
def test_draws_depend_neither_on_the_batch_nor_on_the_mode(network):
    model = small_model(**network)
    samples = model.sample(4, generator=seeded())
    assert torch.equal(model.sample(2, generator=seeded()), samples[:2])
    assert torch.equal(model.train().sample(4, generator=seeded()), samples)
    assert not samples.requires_grad


def test_a_model_in_bfloat16_draws_levels_and_gives_float32():
    for name in ("pixelcnn", "gated_pixelcnn", "patch_transformer"):
        model = small_model(num_levels=256, network=name).to(torch.bfloat16)
        samples = model.sample(2, generator=seeded())
        assert samples.dtype == torch.float32
        levels = samples * 255
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
        log_prob = model.log_prob(samples)
        assert log_prob.dtype == torch.float32 and log_prob.isfinite().all()


@pytest.mark.parametrize("name", ["pixelcnn", "gated_pixelcnn", "patch_transformer"])
def test_the_loss_compiles_and_exports_whole(name):
    model = small_model(network=name, num_classes=3).float()
    inputs = some_images(model).float(), some_labels(model)
    expected = model(*inputs).log_prob
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs).log_prob, expected)
    torch.testing.assert_close(torch.export.export(model, inputs).module()(*inputs).log_prob, expected)


# What is refused


def test_pixels_that_are_not_on_the_levels_are_refused():
    binary, grey = small_model(), small_model(num_levels=256)
    for model, value, allowed in (
        (binary, 0.5, "0 and 1"),
        (grey, 0.5, "1/255"),
        (grey, -1 / 255, ""),
        (binary, 2, ""),
    ):
        image = some_images(model, 2)
        image[1, 0, 3, 4] = value
        for call in (model, model.log_prob, model.bits_per_dim):
            with pytest.raises(ValueError, match=f"pixel_values holds {value:.4g}; this model.*{allowed}"):
                call(image)
        known = torch.zeros(6, 6, dtype=torch.bool)
        assert model.complete(image, known).shape == image.shape
        known[3, 4] = True
        with pytest.raises(ValueError, match="pixel_values holds"):
            model.complete(image, known)


def test_other_sizes_labels_and_temperatures_are_refused_by_name():
    model, conditional = small_model(), small_model(num_classes=3)
    for shape in ((2, 1, 8, 8), (2, 3, 6, 6), (2, 1, 6, 4)):
        with pytest.raises(ValueError, match=r"pixel_values has shape .*positions for \(batch, 1, 6, 6\)"):
            model.log_prob(torch.zeros(shape))
        with pytest.raises(ValueError, match="pixel_values has shape"):
            model.complete(torch.zeros(shape), torch.ones(shape[2:], dtype=torch.bool))
    for temperature in (0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"temperature is {temperature}; it must be above 0"):
            model.sample(1, temperature=temperature)
    with pytest.raises(ValueError, match="labels is None, but this model is conditional"):
        conditional.log_prob(some_images(conditional))
    with pytest.raises(ValueError, match="labels holds 3; it must be one of 0 to 2"):
        conditional.sample(2, labels=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
        conditional.sample(2, labels=torch.arange(3))
    for place in ((6, 0), (0, -1), (0, 0, 1)):
        with pytest.raises(ValueError, match="row, column and channel are"):
            model.receptive_field(*place)
    images = some_images(model, 2)
    for mask, told in (
        (torch.ones(6, 6), r"mask is float32 of shape \(6, 6\); it must be bool"),
        (torch.ones(5, 5).bool(), r"mask is bool of shape \(5, 5\); .* broadcasts to \(2, 1, 6, 6\)"),
        (torch.ones(3, 1, 6, 6).bool(), r"mask is bool of shape \(3, 1, 6, 6\)"),
    ):
        with pytest.raises(ValueError, match=told):
            model.complete(images, mask)


def test_the_receptive_field_needs_no_gradients_outside():
    model = small_model()
    expected = model.receptive_field(4, 3)
    with torch.inference_mode():
        assert torch.equal(model.receptive_field(4, 3), expected)


WRONG = {
    "patches that do not divide": (dict(patch_size=4), "patch_size is 4; it must divide the image size, which is 6"),
    "heads": (
        dict(num_attention_heads=5),
        "hidden_size is 24; it must be divisible by num_attention_heads, which is 5",
    ),
    "units": (dict(head_hidden_size=3), "head_hidden_size is 3; it must be at least 4"),
    "even kernel": (dict(kernel_size=4), "kernel_size is 4; it must be odd"),
    "no neighbours": (dict(first_kernel_size=1), "first_kernel_size is 1"),
    "groups": (
        dict(network="pixelcnn", num_channels=3, hidden_size=16),
        "hidden_size is 16; it must be divisible by 6",
    ),
    "levels": (dict(num_levels=257), "num_levels is 257"),
    "one level": (dict(num_levels=1), "num_levels is 1"),
    "dilation": (dict(dilations=[1, 0]), "dilations is"),
    "no dilation": (dict(dilations=[]), "dilations is"),
    "classes": (dict(num_classes=-1), "num_classes is -1"),
    "layers": (dict(num_layers=0), "num_layers is 0"),
}


@pytest.mark.parametrize("changes, message", WRONG.values(), ids=WRONG)
def test_sizes_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(StrictDataclassClassValidationError) as error:
        AutoregressiveConfig(**SMALL | changes)
    assert message in str(error.value)


@networks
@few_images
def test_each_kind_comes_back_from_its_folder(network, kind, tmp_path):
    model = small_model(**network, **kind).float()
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.sample(2, generator=seeded()), model.sample(2, generator=seeded()))
    image, labels = some_images(model).float(), some_labels(model)
    torch.testing.assert_close(loaded.log_prob(image, labels), model.log_prob(image, labels))


def test_masked_layers_start_as_linear_ones_of_the_same_seed():
    layers = []
    for kind in (MaskedLinear, torch.nn.Linear):
        torch.manual_seed(0)
        layers.append(kind(3, 5))
    assert torch.equal(layers[0].weight, layers[1].weight) and torch.equal(layers[0].bias, layers[1].bias)
    model = AutoregressiveModel(AutoregressiveConfig(**SMALL))
    masked = [layer for layer in model.modules() if isinstance(layer, MaskedLinear)]
    assert [tuple(layer.weight.shape) for layer in masked] == [(108, 4), (108, 108), (4, 108)]
    for layer in masked:
        with torch.no_grad():
            layer.weight.zero_()
        model._init_weights(layer)  # as transformers does, of all that a file lacks
        assert 0 < layer.weight.abs().max() <= layer.weight.shape[1] ** -0.5


def test_a_low_temperature_completes_by_the_likeliest_values():
    model = small_model(spread=0.5, num_levels=5).float()
    images, mask = some_images(model).float(), torch.zeros(6, 6, dtype=torch.bool)
    mask[:3] = True
    drawn = model.complete(images, mask, generator=seeded(), temperature=1e-6)
    assert torch.equal((drawn * 4).round().long()[:, :, 3:], model.logits(drawn).argmax(-1)[:, :, 3:])

"""The mathematics of VQVAEModel: nearest codes, who learns from which gradient, bounds that are bounds, draws."""

import itertools
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from hwzoo.models.vqvae import modeling_vqvae
from hwzoo.models.vqvae.configuration_vqvae import VQVAEConfig
from hwzoo.models.vqvae.modeling_vqvae import VQVAEModel
from hwzoo.models.vqvae.networks_vqvae import Codebook, Residual, perplexity

# For the shared suite: a small unconditional model with its optional parts switched on.
SUITE = {
    "config": dict(
        image_size=6,
        num_channels=2,
        num_classes=0,
        hidden_sizes=[6, 5],
        num_residual_layers=1,
        codebook_size=7,
        code_size=3,
        codebook_update="loss",
        codebook_decay=0.9,
        commitment_weight=0.5,
        prior="transformer",
        prior_hidden_size=12,
        prior_num_layers=1,
        prior_num_heads=2,
        prior_dropout=0.1,
    ),
}
SMALL = dict(
    image_size=6, hidden_sizes=[8, 8], codebook_size=5, code_size=3, prior_hidden_size=8, prior_num_layers=1,
    prior_num_heads=2,
)  # fmt: skip
updates = pytest.mark.parametrize("update", ["ema", "loss"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_model(spread=0.3, **changes):
    """In double precision and away from its initialisation: no two logits are alike."""
    torch.manual_seed(0)
    model = VQVAEModel(VQVAEConfig(**SMALL | changes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=spread)
        # Codes where the encoder's outputs are: a model of which some code is never used tests little.
        images = some_images(model, 40)
        outputs = model.autoencoder.encoder(2 * images - 1).permute(0, 2, 3, 1).flatten(0, 2)
        chosen = torch.randperm(len(outputs), generator=seeded())[: model.config.codebook_size]
        model.autoencoder.codebook.embeddings.copy_(outputs[chosen])
    return model


def some_images(model, num=3, seed=1):
    shape = (num, model.config.num_channels, model.config.image_size, model.config.image_size)
    return torch.randint(2, shape, generator=seeded(seed)).double()


def all_images(size):
    """Each binary image of some pixels once, (2^(size * size), 1, size, size)."""
    values = torch.arange(2 ** (size * size))[:, None] >> torch.arange(size * size) & 1
    return values.view(-1, 1, size, size).double()


def outputs_of(model, images):
    """The encoder's outputs, (num, code_size), in the order of reading of each image."""
    return model.autoencoder.encoder(2 * images - 1).permute(0, 2, 3, 1).flatten(0, 2)


def log_prob_by_hand(probabilities, images):
    """(batch,), by the Bernoulli formula."""
    p = torch.where(images == 1, probabilities, 1 - probabilities)
    return p.log().sum((1, 2, 3))


# Codes


@pytest.mark.parametrize(
    ("image_size", "num_halvings", "grids"), [(28, 3, [28, 14, 7, 4]), (28, 2, [28, 14, 7]), (9, 4, [9, 5, 3, 2, 1])]
)
def test_each_convolution_halves_rounding_up(image_size, num_halvings, grids):
    model = VQVAEModel(VQVAEConfig(**SMALL | dict(image_size=image_size, hidden_sizes=[4] * num_halvings))).double()
    assert model.config.grid_sizes == grids
    images = some_images(model)
    codes = model.encode(images)
    assert codes.shape == (3, grids[-1], grids[-1]) and codes.dtype == torch.int64
    assert model.decode(codes).shape == images.shape


def test_codes_are_the_nearest_embeddings():
    model = small_model()
    images = some_images(model, 50)
    latents = outputs_of(model, images)
    distances = (latents[:, None] - model.autoencoder.codebook.embeddings).square().sum(-1)
    codes = model.encode(images)
    assert torch.equal(codes.flatten(), distances.argmin(1))
    assert len(codes.unique()) == 5


def test_a_decoded_code_is_its_embedding_decoded():
    model = small_model()
    codes = torch.randint(5, (4, 2, 2), generator=seeded())
    embedded = torch.stack([model.autoencoder.codebook.embeddings[each] for each in codes.flatten()]).view(4, 2, 2, 3)
    expected = model.autoencoder.decoder(embedded.permute(0, 3, 1, 2)).sigmoid()
    torch.testing.assert_close(model.decode(codes), expected)
    images = some_images(model)
    assert torch.equal(model.reconstruct(images), model.decode(model.encode(images)))


def test_a_codebook_under_mixed_precision_finds_the_same_codes():
    """Far from 0, where bfloat16 cannot tell the codes apart."""
    codebook = Codebook(VQVAEConfig(codebook_size=64, code_size=8))
    codebook.embeddings.copy_(100 + torch.randn(64, 8, generator=seeded()))
    latents = 100 + torch.randn(500, 8, generator=seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        codes = codebook.nearest(latents)
    exact = (latents[:, None] - codebook.embeddings).double().square().sum(-1)
    chosen = exact.gather(1, codes[:, None])[:, 0]
    torch.testing.assert_close(chosen, exact.amin(1), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("counts", "expected"), [([3, 3, 3, 3], 4.0), ([5, 0, 0, 0], 1.0), ([2, 2, 0, 0], 2.0), ([1, 3, 0, 0], 1.7548)]
)
def test_perplexity_is_the_number_of_codes_that_would_be_as_spread(counts, expected):
    assert perplexity(torch.tensor(counts).float()).item() == pytest.approx(expected, abs=1e-4)


# Gradients


@updates
@pytest.mark.parametrize("accumulate", [False, True], ids=["eval", "train"])
def test_the_encoder_gets_the_decoders_gradient_unchanged(update, accumulate):
    model = small_model(codebook_update=update, commitment_weight=0.0).train(accumulate)
    images = some_images(model)
    seen = {}
    model.autoencoder.encoder.register_forward_hook(lambda *each: seen.update(latents=each[-1]))
    model.autoencoder.decoder.register_forward_hook(lambda *each: seen.update(quantized=each[1][0]))
    codes = model.encode(images)
    embedded = model.autoencoder.codebook.embeddings[codes].permute(0, 3, 1, 2).clone()
    distortion = model(images).distortion
    assert torch.equal(seen["quantized"], embedded)  # not only up to rounding: what is trained is what is tested
    gradients = torch.autograd.grad(distortion, [seen["latents"], seen["quantized"]])
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


def test_averaged_codes_have_no_gradient_and_no_optimiser_moves_them():
    model = small_model(codebook_update="ema")
    assert all("codebook" not in name for name, _ in model.named_parameters())
    before = model.autoencoder.codebook.embeddings.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    output = model(some_images(model))  # in eval mode: no averages either
    output.loss.backward()
    optimizer.step()
    assert output.codebook_loss == 0
    assert (
        torch.equal(model.autoencoder.codebook.embeddings, before)
        and not model.autoencoder.codebook.embeddings.requires_grad
    )


def test_commitment_moves_the_encoder_and_the_codebook_term_the_codes():
    model = small_model(codebook_update="loss", commitment_weight=0.25)
    images = some_images(model)
    latents = outputs_of(model, images)
    codes = model.encode(images).flatten()
    distance = (latents - model.autoencoder.codebook.embeddings[codes]).square().sum() / len(images)
    output = model(images)
    torch.testing.assert_close(output.commitment_loss, distance)
    torch.testing.assert_close(output.codebook_loss, distance)
    expected = output.distortion + output.rate + distance + 0.25 * distance
    torch.testing.assert_close(output.loss, expected)
    encoder, embeddings = list(model.autoencoder.encoder.parameters()), model.autoencoder.codebook.embeddings
    given = [torch.autograd.grad(each, [*encoder, embeddings], retain_graph=True, allow_unused=True)
             for each in (output.commitment_loss, output.codebook_loss)]  # fmt: skip
    assert given[0][-1] is None and all(each is not None for each in given[0][:-1])
    assert all(each is None for each in given[1][:-1])
    # Of all the loss only its own term reaches a code: twice the sum of its distances, over the images.
    wanted = torch.zeros_like(embeddings).index_add_(0, codes, 2 * (embeddings[codes] - latents)) / len(images)
    torch.testing.assert_close(given[1][-1], wanted)
    torch.testing.assert_close(torch.autograd.grad(output.loss, embeddings)[0], wanted)


def test_the_rate_trains_the_prior_alone():
    model = small_model(codebook_update="loss")
    rate = model(some_images(model)).rate
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(rate, list(parameters.values()), allow_unused=True)
    reached = {name.split(".")[0] for name, each in zip(parameters, gradients, strict=True) if each is not None}
    assert reached == {"prior"}


def test_without_codes_the_decoder_gets_the_encoders_outputs():
    model = small_model()
    images = some_images(model)
    output = model(images, quantize=False)
    expected = model.autoencoder.decoder(model.autoencoder.encoder(2 * images - 1)).sigmoid()
    torch.testing.assert_close(output.distortion, -log_prob_by_hand(expected, images).mean())
    torch.testing.assert_close(output.loss, output.distortion + output.rate)
    assert output.commitment_loss > 0


# The averaged codebook


def test_averages_are_those_of_what_was_assigned():
    model = small_model(codebook_update="ema", codebook_decay=0.9).train()
    counts, sums = torch.zeros(5, dtype=torch.double), torch.zeros(5, 3, dtype=torch.double)
    first = model.autoencoder.codebook.embeddings.clone()
    for step in range(3):
        images = some_images(model, 4, seed=step)
        latents, codes = outputs_of(model, images).detach(), model.encode(images).flatten()
        model(images)
        for code in range(5):
            counts[code] = 0.9 * counts[code] + 0.1 * (codes == code).sum()
            sums[code] = 0.9 * sums[code] + 0.1 * latents[codes == code].sum(0)
        torch.testing.assert_close(model.autoencoder.codebook.counts, counts)
        used = counts > 0
        torch.testing.assert_close(model.autoencoder.codebook.embeddings[used], (sums / counts[:, None])[used])
        assert torch.equal(model.autoencoder.codebook.embeddings[~used], first[~used])
    assert not torch.equal(model.autoencoder.codebook.embeddings, first)


def test_a_code_out_of_use_keeps_its_place_for_ever():
    codebook = Codebook(VQVAEConfig(codebook_size=2, code_size=2, codebook_decay=0.5))
    codebook.reset_parameters()
    codebook.embeddings.copy_(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    codebook.update(torch.tensor([[3.0, 4.0]]), torch.tensor([1]))
    for _ in range(300):
        codebook.update(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
    torch.testing.assert_close(codebook.embeddings, torch.tensor([[1.0, 1.0], [3.0, 4.0]]))


@updates
def test_dead_codes_begin_anew_at_outputs_of_the_encoder(update):
    model = small_model(codebook_update=update).train()
    images = some_images(model, 20)
    with torch.no_grad():
        model.autoencoder.codebook.embeddings[3] += 1000  # never the nearest
    for _ in range(5):
        model(images)
    assert model.autoencoder.codebook.counts[3] == 0 and (model.autoencoder.codebook.counts[[0, 1, 2, 4]] > 0).all()
    before = model.autoencoder.codebook.embeddings.detach().clone()
    state = torch.get_rng_state()
    moved = model.restart_dead_codes(images, threshold=1e-6, generator=seeded())
    assert moved == 1 and torch.equal(torch.get_rng_state(), state)
    outputs = outputs_of(model, images)
    after = model.autoencoder.codebook.embeddings.detach()
    assert torch.equal(after[[0, 1, 2, 4]], before[[0, 1, 2, 4]])
    assert (outputs - after[3]).abs().sum(1).min() == 0
    counts = model.autoencoder.codebook.counts
    torch.testing.assert_close(counts[3], counts[[0, 1, 2, 4]].sum() / 5)  # the mean use before
    # The generator decides where, alone.
    again = small_model(codebook_update=update)
    again.load_state_dict(model.state_dict())
    for each in (model, again):
        assert each.restart_dead_codes(images, threshold=2.0, generator=seeded(5)) > 1
    assert torch.equal(model.autoencoder.codebook.embeddings, again.autoencoder.codebook.embeddings)
    if update == "ema":  # it stays there until it is assigned something
        codebook = model.autoencoder.codebook
        torch.testing.assert_close(codebook.sums / codebook.counts[:, None], codebook.embeddings)


@updates
@pytest.mark.parametrize("scale", [1, 1000])
def test_dead_is_what_is_below_a_share_of_the_mean_use(scale, update):
    codebook = Codebook(VQVAEConfig(codebook_size=4, code_size=2, codebook_update=update))
    with torch.no_grad():
        codebook.embeddings.copy_(torch.arange(8).view(4, 2))
    codebook.counts.copy_(scale * torch.tensor([10.0, 10.0, 0.6, 0.4]))  # 5.25 on average
    assert codebook.restart(torch.full((3, 2), 9.0), 0.1, seeded()) == 1
    assert codebook.embeddings.tolist() == [[0, 1], [2, 3], [4, 5], [9, 9]]
    torch.testing.assert_close(codebook.counts, scale * torch.tensor([10.0, 10.0, 0.6, 5.25]))


def test_a_residual_block_adds_to_its_inputs():
    block, inputs = Residual(3), torch.randn(2, 3, 4, 4, generator=seeded())
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(block(inputs), inputs)
    torch.nn.init.ones_(block[-1].bias)
    assert torch.equal(block(inputs), inputs + 1)


# The bound

PRIORS = {"transformer": {}, "uniform": dict(prior="uniform"), "classes": dict(num_classes=3)}
priors = pytest.mark.parametrize("kind", PRIORS.values(), ids=PRIORS)


def some_labels(model, num):
    return torch.full((num,), 2) if model.config.num_classes else None


@priors
@pytest.mark.parametrize(
    ("size", "codes"), [(2, 1), pytest.param(4, 4, marks=pytest.mark.long)], ids=["2 x 2", "4 x 4"]
)
def test_all_images_together_have_a_bound_of_probability_1_at_most(kind, size, codes):
    model = small_model(image_size=size, hidden_sizes=[8], codebook_size=3, **kind)
    images = all_images(size)
    assert len(images) == 2 ** (size * size) and model.config.grid_sizes[-1] ** 2 == codes
    labels = some_labels(model, len(images))
    with torch.no_grad():
        bound, rate, distortion = model.negative_bound(images, labels)
    torch.testing.assert_close(bound, rate + distortion)
    total = (-bound).exp().sum()
    assert 0 < total <= 1
    # The bound is one term of the sum over all codes, which is p(x); that sums to 1.
    grid = math.isqrt(codes)
    every = torch.tensor(list(itertools.product(range(3), repeat=codes))).view(-1, grid, grid)
    with torch.no_grad():
        prior = model.prior_log_prob(every, some_labels(model, len(every)))
        probabilities = model.decode(every)
        terms = prior[:, None] + torch.stack(
            [log_prob_by_hand(each.expand_as(images), images) for each in probabilities]
        )
    torch.testing.assert_close(prior.exp().sum(), torch.ones((), dtype=torch.double))
    log_prob = terms.logsumexp(0)
    torch.testing.assert_close(log_prob.exp().sum(), torch.ones((), dtype=torch.double))
    assert (-bound <= log_prob).all()
    own = (every == model.encode(images)[:, None]).flatten(2).all(2).int().argmax(1)
    torch.testing.assert_close(-bound, terms[own, torch.arange(len(images))])
    torch.testing.assert_close(rate, -prior[own])


# The search


@priors
def test_the_neighbours_of_a_single_code_are_all_others(kind):
    """Then their sum is p(x) itself."""
    model = small_model(image_size=2, hidden_sizes=[8], codebook_size=5, **kind)
    images = all_images(2)
    labels = some_labels(model, len(images))
    codes, bound = model.search(images, labels, num_nearest=4, num_rounds=1)
    torch.testing.assert_close((-bound).exp().sum(), torch.ones((), dtype=torch.double))
    every = torch.arange(5).view(5, 1, 1)
    terms = torch.stack([sum_of_terms(model, each.expand(len(images), 1, 1), images, labels) for each in every])
    torch.testing.assert_close(bound, -(-terms).logsumexp(0))
    torch.testing.assert_close(terms.gather(0, codes.view(1, -1))[0], terms.min(0).values)


def sum_of_terms(model, codes, images, labels):
    with torch.no_grad():
        return -model.prior_log_prob(codes, labels) - log_prob_by_hand(model.decode(codes), images)


@pytest.mark.long
@priors
@pytest.mark.parametrize("num_nearest", [1, 2, 4])
def test_the_search_is_that_by_hand(kind, num_nearest, monkeypatch):
    """One image after the other, in the words of its docstring."""
    monkeypatch.setattr(modeling_vqvae, "SEARCH_CHUNK", 7)  # not all images at once
    model = small_model(**kind)
    images, labels = some_images(model, 6), some_labels(model, 6)
    found, bounds = model.search(images, labels, num_nearest=num_nearest, num_rounds=20)
    outputs = outputs_of(model, images).view(6, 4, -1)
    moved = 0
    for place, image in enumerate(images):
        own = None if labels is None else labels[:1]
        distances = torch.cdist(outputs[place], model.autoencoder.codebook.embeddings)
        near = distances.argsort(1)[:, : num_nearest + 1].tolist()
        codes = model.encode(image[None])
        lowest = sum_of_terms(model, codes, image[None], own).item()
        while True:
            values = {}
            for index, others in enumerate(near):
                for other in set(others) - {codes.flatten()[index].item()}:
                    changed = codes.flatten().clone()
                    changed[index] = other
                    values[tuple(changed.tolist())] = sum_of_terms(
                        model, changed.view(1, 2, 2), image[None], own
                    ).item()
            assert len(values) == 4 * num_nearest
            bound = -torch.tensor([-lowest, *(-value for value in values.values())], dtype=torch.double).logsumexp(0)
            best = min(values, key=values.get)
            if values[best] >= lowest:
                break
            codes, lowest, moved = torch.tensor(best).view(1, 2, 2), values[best], moved + 1
        assert torch.equal(found[place, None], codes)
        torch.testing.assert_close(bounds[place], bound)
    assert moved > 2


@pytest.mark.long
@priors
def test_the_searched_bound_is_tighter_and_a_bound(kind):
    model = small_model(image_size=4, hidden_sizes=[8], codebook_size=3, **kind)  # 4 codes
    images = all_images(4)[::97]
    labels = some_labels(model, len(images))
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
    terms = torch.stack([sum_of_terms(model, each.expand(len(images), 2, 2), images, labels) for each in every])
    negative_log_prob, before = -(-terms).logsumexp(0), model.negative_bound(images, labels)[0]
    for num_rounds in (1, 2, 8):
        codes, bound = model.search(images, labels, num_rounds=num_rounds)
        assert (bound >= negative_log_prob - 1e-9).all() and (bound < before).all()
        lowest = sum_of_terms(model, codes, images, labels)
        assert (lowest <= before + 1e-9).all() and (bound <= lowest).all()
    assert (bound - negative_log_prob).mean() < 0.5 * (before - negative_log_prob).mean()


def test_a_search_of_nothing_and_of_wrong_numbers():
    model = small_model()
    codes, bound = model.search(some_images(model)[:0])
    assert codes.shape == (0, 2, 2) and bound.shape == (0,)
    for num in (0, 5):
        with pytest.raises(ValueError, match=f"num_nearest is {num}; it must be one of 1 to 4"):
            model.search(some_images(model), num_nearest=num)
    with pytest.raises(ValueError, match="num_rounds is 0; it must be at least 1"):
        model.search(some_images(model), num_rounds=0)


def test_the_rate_of_a_uniform_prior_is_the_logarithm_of_all_codes():
    model = small_model(prior="uniform")
    _, rate, _ = model.negative_bound(some_images(model))
    assert rate.tolist() == pytest.approx([4 * math.log(5)] * 3)
    assert model.prior is None


@priors
def test_the_loss_is_made_of_the_bound(kind):
    model = small_model(**kind)
    images, labels = some_images(model, 6), some_labels(model, 6)
    output, bounds = model(images, labels), model.negative_bound(images, labels)
    torch.testing.assert_close(output.rate + output.distortion, bounds[0].mean())
    torch.testing.assert_close(output.rate, bounds[1].mean())
    counts = model.encode(images).flatten().bincount(minlength=5)
    torch.testing.assert_close(output.perplexity, perplexity(counts.double()))


def test_a_class_changes_the_prior_and_nothing_else():
    model = small_model(num_classes=3)
    images = some_images(model, 6)
    bounds = [model.negative_bound(images, torch.full((6,), label)) for label in range(3)]
    assert all(torch.equal(each[2], bounds[0][2]) for each in bounds)
    assert not torch.allclose(bounds[0][1], bounds[1][1])


def test_dropout_of_the_prior_is_that_of_training_alone():
    model = small_model(prior_dropout=0.5)
    whole, images = small_model(), some_images(model)
    assert outputs_of(model, images)[1].equal(outputs_of(whole, images)[1])
    codes = model.encode(images).flatten(1)
    assert torch.equal(model.prior.log_prob(codes, None), whole.prior.log_prob(codes, None))
    model.train(), whole.train()
    assert not torch.equal(model.prior.log_prob(codes, None), model.prior.log_prob(codes, None))
    assert torch.equal(whole.prior.log_prob(codes, None), whole.prior.log_prob(codes, None))


def test_a_code_is_given_those_before_it():
    """Its probability does not change with later codes: the sum over a later one leaves the marginal."""
    model = small_model(num_classes=3)
    labels = torch.full((5,), 1)
    codes = torch.tensor([[[0, 3], [2, 4]]]).repeat(5, 1, 1)
    codes[:, 1, 1] = torch.arange(5)
    last = model.prior_log_prob(codes, labels).logsumexp(0)
    codes = codes[:1].repeat(25, 1, 1)
    codes[:, 1] = torch.tensor(list(itertools.product(range(5), repeat=2)))
    pair = model.prior_log_prob(codes, torch.full((25,), 1)).view(5, 5).logsumexp(1)
    torch.testing.assert_close(pair[2], last)


# Samples


@priors
def test_codes_follow_the_prior(kind):
    model = small_model(image_size=4, codebook_size=3, hidden_sizes=[8], **kind)
    labels = some_labels(model, 20_000)
    codes = model.sample_codes(20_000, labels=labels, generator=seeded())
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2)
    expected = model.prior_log_prob(every, some_labels(model, len(every))).exp()
    observed = (codes.flatten(1) @ torch.tensor([27, 9, 3, 1])).bincount(minlength=81) / len(codes)
    assert (observed - expected).abs().max() < 5 * (expected * (1 - expected) / len(codes)).sqrt().max()
    assert expected.std() > 1e-3 or kind.get("prior") == "uniform"


def test_a_temperature_sharpens_each_step():
    model = small_model()
    first = model.prior(torch.zeros(1, 4, dtype=torch.long), None)  # a call that fails where shapes do not fit
    assert first.shape == (1,)
    probabilities = torch.stack(
        [model.prior_log_prob(torch.tensor(list(itertools.product([code], range(5), range(5), range(5))))
                              .view(-1, 2, 2)).logsumexp(0) for code in range(5)]
    ).exp()  # fmt: skip
    codes = model.sample_codes(20_000, generator=seeded(), temperature=0.5)
    observed = codes[:, 0, 0].bincount(minlength=5) / len(codes)
    expected = probabilities.square() / probabilities.square().sum()
    torch.testing.assert_close(observed.double(), expected.detach(), atol=0.02, rtol=0)
    likely = model.sample_codes(50, generator=seeded(), temperature=1e-4)
    assert len(likely.flatten(1).unique(dim=0)) == 1
    # In float32 a quotient by the second is infinite, and the last two are 0.
    model = model.float()
    likely = model.sample_codes(5, generator=seeded(), temperature=1e-4)
    for temperature in (1e-38, 1e-45, 1e-300):
        assert torch.equal(model.sample_codes(5, generator=seeded(), temperature=temperature), likely)


@priors
def test_samples_are_decoded_codes(kind):
    model = small_model(**kind)
    labels = torch.arange(6) % 3 if model.config.num_classes else None
    samples = model.sample(6, labels=labels, generator=seeded())
    codes = model.sample_codes(6, labels=labels, generator=seeded())
    assert torch.equal(samples, model.decode(codes))
    assert len(codes.flatten(1).unique(dim=0)) > 1


def test_classes_are_drawn_where_none_are_given():
    model = small_model(num_classes=3)
    generator = seeded()
    labels = torch.randint(3, (8,), generator=generator)
    assert torch.equal(model.sample_codes(8, generator=seeded()),
                       model.sample_codes(8, labels=labels, generator=generator))  # fmt: skip


# What is refused

REFUSED = {
    "too many halvings": (dict(image_size=4, hidden_sizes=[4, 4, 4, 4]), "hidden_sizes is [4, 4, 4, 4] with image_si"),
    "no convolution": (dict(hidden_sizes=[]), "hidden_sizes is []; it must be one number or more"),
    "one code": (dict(codebook_size=1), "codebook_size is 1; it must be at least 2"),
    "a decay of 1": (dict(codebook_decay=1.0), "codebook_decay is 1.0; it must be in [0, 1)"),
    "dropout of all": (dict(prior_dropout=1.0), "prior_dropout is 1.0; it must be in [0, 1)"),
    "negative commitment": (dict(commitment_weight=-1.0), "commitment_weight is -1.0; it must be finite and at least"),
    "commitment of NaN": (dict(commitment_weight=math.nan), "commitment_weight is nan"),
    "heads": (dict(prior_num_heads=3), "prior_hidden_size is 8; it must be divisible by prior_num_heads, which is 3"),
    "classes of a uniform prior": (dict(prior="uniform", num_classes=2), "num_classes is 2; a uniform prior is of no"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_configurations_that_do_not_go_together_are_refused(changes, words):
    with pytest.raises(StrictDataclassClassValidationError) as error:
        VQVAEConfig(**SMALL | changes)
    assert words in str(error.value.__cause__)


def test_what_the_model_cannot_take_is_refused():
    model, conditional = small_model(), small_model(num_classes=3)
    images = some_images(model)
    for call in (model, model.encode, model.negative_bound, model.reconstruct, model.restart_dead_codes):
        with pytest.raises(ValueError, match=r"pixel_values holds 0\.5; this model takes 0 and 1: binarise"):
            call(torch.where(images == 1, 0.5, images))
        with pytest.raises(ValueError, match=r"pixel_values has shape \(3, 1, 4, 4\); this model takes \(batch, 1, 6"):
            call(images[..., :4, :4])
    with pytest.raises(ValueError, match=r"codes has shape \(2, 4\); this model takes \(batch, 2, 2\)"):
        model.decode(torch.zeros(2, 4, dtype=torch.long))
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=f"codes holds {wrong}; it must be one of 0 to 4 everywhere"):
            model.prior_log_prob(torch.full((1, 2, 2), wrong))
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature is"):
            model.sample(2, temperature=temperature)
    for call in (conditional, conditional.negative_bound):
        with pytest.raises(ValueError, match="labels is None, but this model is conditional"):
            call(images)
    with pytest.raises(ValueError, match=r"labels has shape \(3,\); it must be one of 0 to 2 for each of the 2"):
        conditional.sample(2, labels=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="labels holds 3; it must be one of 0 to 2"):
        conditional.sample(2, labels=torch.tensor([0, 3]))


def test_each_image_of_a_batch_has_its_own_class():
    model = small_model(num_classes=3)
    images, labels = some_images(model, 5), torch.tensor([0, 2, 1, 2, 0])
    for call in (model.negative_bound, model.search):
        alone = [call(images[i : i + 1], labels[i : i + 1]) for i in range(5)]
        for parts, whole in zip(zip(*alone, strict=True), call(images, labels), strict=True):
            torch.testing.assert_close(torch.cat(parts), whole)
    drawn = model.sample_codes(5, labels=labels, generator=seeded())
    for i, label in enumerate(labels.tolist()):
        of_one_class = model.sample_codes(5, labels=torch.full((5,), label), generator=seeded())
        assert torch.equal(drawn[i], of_one_class[i])

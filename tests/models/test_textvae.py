"""The mathematics of TextVAEModel: a distribution over texts, bounds that are bounds, what a rate is made of."""

import itertools
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional as F

from hwzoo import TextVAEConfig, TextVAEModel, metrics
from hwzoo.models.textvae import modeling_textvae
from hwzoo.models.textvae.modeling_textvae import gaussian_kl, with_free_bits

PAD, END, UNKNOWN = 0, 1, 2


def some_texts(config, num):
    """Texts of all lengths from the end token alone on."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, config.vocab_size, (num, config.max_tokens), generator=generator)
    lengths = torch.arange(num) % config.max_tokens
    places = torch.arange(config.max_tokens)
    ids[places == lengths[:, None]], ids[places > lengths[:, None]] = END, PAD
    return {"input_ids": ids}


# For the shared suite: a small model with its optional parts switched on, and what it takes in place of images.
SUITE = {
    "config": dict(
        vocab_size=9,
        max_tokens=5,
        embedding_size=4,
        hidden_size=6,
        latent_size=3,
        beta=0.9,
        free_bits=0.01,
        word_dropout=0.3,
        pad_token_id=PAD,
        eos_token_id=END,
        unk_token_id=UNKNOWN,
    ),
    "inputs": some_texts,
    "mode": {"temperature": 0.0},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_model(spread=0.4, **changes):
    """In double precision and away from its initialisation."""
    torch.manual_seed(0)
    small = dict(vocab_size=5, max_tokens=4, embedding_size=3, hidden_size=5, latent_size=2)
    model = TextVAEModel(TextVAEConfig(**small | changes)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=spread)
    return model


def talkative():
    """Else the most likely text of every latent of an untrained model is empty."""
    model = small_model()
    with torch.no_grad():
        model.decoder.head.weight.mul_(5)
        model.decoder.head.bias[END] -= 5
        model.encoder.head.weight.mul_(4)
    return model


def all_texts(config):
    """Each text of at most `max_tokens` tokens once, padded."""
    others = [token for token in range(config.vocab_size) if token not in (PAD, END)]
    rows = [
        [*tokens, END, *[PAD] * (config.max_tokens - length - 1)]
        for length in range(config.max_tokens)
        for tokens in itertools.product(others, repeat=length)
    ]
    return torch.tensor(rows)


def grid(num=2001, reach=9.0):
    """Points of a line and their weights under the trapezoidal rule: for smooth densities exact to rounding."""
    points = torch.linspace(-reach, reach, num, dtype=torch.double)
    return points, torch.full_like(points, 2 * reach / (num - 1))


# The distribution


def test_given_a_latent_the_probabilities_of_all_texts_sum_to_1():
    model = small_model()
    texts = all_texts(model.config)
    assert len(texts) == 1 + 3 + 9 + 27
    for latents in torch.randn(3, 2, generator=seeded(), dtype=torch.double):
        total = model.log_prob(texts, latents.expand(len(texts), -1)).exp().sum()
        assert total.item() == pytest.approx(1, abs=1e-12)


def test_the_probabilities_of_all_texts_sum_to_1():
    """Over a latent of one dimension, by quadrature."""
    model = small_model(latent_size=1)
    texts, (points, weights) = all_texts(model.config), grid()
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(points)
    with torch.no_grad():
        given = torch.stack([model.log_prob(text.expand(len(points), -1), points[:, None]) for text in texts])
    likelihood = ((given + prior).exp() * weights).sum(1)
    assert likelihood.sum().item() == pytest.approx(1, abs=1e-9)
    # Each bound lies above its -log p(x), the more samples the less; by as much as KL(q(z|x) || p(z|x)) on average.
    with torch.no_grad():
        mean, variance = model.encode(texts)
        posterior = torch.distributions.Normal(mean, variance.sqrt()).log_prob(points)
        gap = (posterior.exp() * (posterior - (given + prior - likelihood.log()[:, None])) * weights).sum(1)
        draws = [model.negative_bound(texts, generator=seeded(seed))[0] for seed in range(600)]
        iwae = [model.negative_iwae_bound(texts, num, generator=seeded(), reduction="none") for num in (1, 30, 3000)]
    bound, error = torch.stack(draws).mean(0), torch.stack(draws).std(0) / 600**0.5
    assert ((bound + likelihood.log() - gap).abs() < 5 * error + 1e-9).all()
    excess = [(each + likelihood.log()).mean().item() for each in iwae]
    assert gap.mean() > 0.5 and excess[0] > excess[1] > excess[2] and abs(excess[2]) < 0.1


def test_a_language_model_has_no_latent_and_its_bound_is_exact():
    model = small_model(latent_size=0)
    texts = all_texts(model.config)
    bound, rate, distortion = model.negative_bound(texts)
    assert (-bound).exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.equal(bound, distortion) and not rate.any() and model.encoder is None
    torch.testing.assert_close(model.negative_iwae_bound(texts, 7, reduction="none"), bound)
    assert torch.equal(model(texts).loss, distortion.mean())
    mean, variance = model.encode(texts)
    assert mean.shape == variance.shape == (len(texts), 0)


def test_log_prob_is_that_of_the_network_token_by_token():
    model = small_model(max_tokens=6)
    ids, latents = torch.tensor([[3, 4, 2, END, PAD]]), torch.tensor([[0.3, -1.2]], dtype=torch.double)
    decoder = model.decoder
    state, expected = decoder.first_state(latents).tanh()[None], 0.0
    for given, token in zip([PAD, 3, 4, 2], [3, 4, 2, END], strict=True):
        step = torch.cat([decoder.embeddings.weight[given], latents[0]])[None, None]
        hidden, state = decoder.network(step, state)
        logits = decoder.head(hidden)[0, 0]
        expected = expected + logits[token] - logits[1:].logsumexp(0)  # padding, 0, is no outcome
    torch.testing.assert_close(model.log_prob(ids, latents)[0], expected)


def test_draws_have_the_frequencies_of_the_distribution():
    model = small_model(max_tokens=3)
    num, texts = 40_000, all_texts(model.config)
    latents = torch.randn(1, 2, generator=seeded(), dtype=torch.double)
    drawn = model.sample(num, latents=latents.expand(num, -1), generator=seeded(1))
    index = {tuple(text): number for number, text in enumerate(texts.tolist())}
    counts = torch.bincount(torch.tensor([index[tuple(row)] for row in drawn.tolist()]), minlength=len(texts))
    for temperature in (1.0, 0.5):
        if temperature == 1.0:
            expected = num * model.log_prob(texts, latents.expand(len(texts), -1)).exp()
            chi_square = ((counts - expected).square() / expected).sum().item()
            assert chi_square < 30  # 12 degrees of freedom: 30 is exceeded once in 360 times
    first = model.decoder(torch.zeros(1, 1, dtype=torch.long), latents)[0][0, 0, 1:]
    sharp = model.sample(num, latents=latents.expand(num, -1), generator=seeded(1), temperature=0.5)[:, 0]
    shares = torch.bincount(sharp, minlength=5)[1:] / num
    torch.testing.assert_close(shares.double(), (2 * first).softmax(0), atol=0.01, rtol=0)


def test_without_temperature_each_token_is_the_most_likely():
    model = talkative()
    latents = torch.randn(20, 2, generator=seeded(), dtype=torch.double)
    texts = model.sample(20, latents=latents, temperature=0.0)
    assert len(texts.unique(dim=0)) > 1
    for ids, latent in zip(texts, latents, strict=True):
        length = ids.tolist().index(END) + 1
        inputs = torch.cat([torch.tensor([PAD]), ids[: length - 1]])[None]
        logits = model.decoder(inputs, latent[None])[0][0]
        expected = logits[:, 1:].argmax(-1) + 1
        if length == model.config.max_tokens:
            expected[-1] = END
        assert torch.equal(ids[:length], expected) and not ids[length:].any()
    # And where it is nearly none: in float32 a quotient by the first is infinite, and the last two are 0.
    model, latents = model.float(), latents.float()
    texts = model.sample(20, latents=latents, temperature=0.0)
    for temperature in (1e-38, 1e-45, 1e-300):
        assert torch.equal(model.sample(20, latents=latents, generator=seeded(), temperature=temperature), texts)


# Padding, and the noise of training


def test_padding_changes_nothing():
    model = small_model(max_tokens=9)
    ids = some_texts(TextVAEConfig(vocab_size=5, max_tokens=5), 5)["input_ids"]
    noise = torch.randn(5, 2, generator=seeded(), dtype=torch.double)
    wide = F.pad(ids, (0, 4))
    for call in (model.encode, lambda each: model.negative_bound(each, noise=noise)):
        torch.testing.assert_close(call(wide)[0], call(ids)[0])
    for row in range(5):
        alone = ids[row : row + 1, : row % 5 + 1]
        torch.testing.assert_close(model.encode(alone)[0][0], model.encode(ids)[0][row])
    mask = (ids != PAD).long()
    torch.testing.assert_close(model.encode(ids.masked_fill(ids == PAD, 4), mask)[0], model.encode(ids)[0])


def test_both_ends_of_a_text_reach_its_latent():
    model = small_model(max_tokens=9)
    ids = torch.tensor([[3, 4, 2, 2, 3, END, PAD]])
    mean = model.encode(ids)[0]
    for place in range(5):
        other = ids.clone()
        other[0, place] = 7 - other[0, place] if other[0, place] > 2 else 3
        assert not torch.allclose(model.encode(other)[0], mean, atol=1e-4), place


def test_masked_inputs_are_those_below_the_share_but_for_the_start():
    model = small_model(max_tokens=9, word_dropout=0.5).train()
    ids = torch.tensor([[3, 4, 2, 3, END]])
    noise, uniform = torch.zeros(1, 2, dtype=torch.double), torch.tensor([[0.1, 0.1, 0.9, 0.4, 0.6]])
    seen = {}
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.update(inputs=inputs[0]))
    model(ids, noise=noise, dropout_noise=uniform)
    assert seen["inputs"].tolist() == [[PAD, UNKNOWN, 4, UNKNOWN, 3]]
    with pytest.raises(ValueError, match=r"dropout_noise has shape \(1, 4\); it must be \(1, 5\)"):
        model(ids, noise=noise, dropout_noise=uniform[:, :4])
    model.eval()(ids, noise=noise, dropout_noise=uniform)
    assert seen["inputs"].tolist() == [[PAD, 3, 4, 2, 3]]
    model.train().negative_bound(ids)
    assert seen["inputs"].tolist() == [[PAD, 3, 4, 2, 3]]


@pytest.mark.parametrize(("beta", "kl_weight"), [(1.0, 1.0), (0.5, 1.0), (0.5, 0.2)])
def test_the_loss_weighs_the_rate(beta, kl_weight):
    model = small_model(beta=beta)
    ids, noise = all_texts(model.config), torch.randn(40, 2, generator=seeded(), dtype=torch.double)
    output = model(ids, noise=noise, kl_weight=kl_weight)
    bound, rate, distortion = (each.mean() for each in model.negative_bound(ids, noise=noise))
    torch.testing.assert_close(output.loss, distortion + beta * kl_weight * rate)
    torch.testing.assert_close(output.negative_elbo, bound)
    torch.testing.assert_close(output.rate, rate)


def test_free_bits_are_of_each_dimension_of_the_batch_mean():
    rates = torch.tensor([[0.1, 0.9, 2.0], [0.3, 0.3, 4.0]], requires_grad=True)
    total = with_free_bits(rates, 0.5)
    assert total.item() == pytest.approx(0.5 + 0.6 + 3.0)
    total.backward()
    assert rates.grad.tolist() == [[0, 0.5, 0.5], [0, 0.5, 0.5]]
    model = small_model(free_bits=3.0)
    output = model(all_texts(model.config))
    torch.testing.assert_close(output.loss, output.distortion + 6.0)
    assert output.negative_elbo < output.loss  # what is reported is without them


def test_the_rate_is_the_divergence_of_the_posterior():
    mean, variance = torch.tensor([0.3, -2.0, 0.0]), torch.tensor([0.5, 3.0, 1.0])
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl(mean, variance), expected)


# What a rate is made of


def test_the_rate_is_the_mutual_information_and_the_divergence_of_the_aggregate():
    """Exact in one dimension, by quadrature; and what `aggregate_posterior_scores` estimates."""
    mean = torch.tensor([[-2.0], [0.1], [0.4], [3.0]], dtype=torch.double)
    variance = torch.tensor([[0.2], [1.5], [0.05], [0.6]], dtype=torch.double)
    points, weights = grid(20_001, reach=14)
    each = torch.distributions.Normal(mean, variance.sqrt()).log_prob(points)  # (4, points)
    aggregate = each.logsumexp(0) - math.log(4)
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(points)
    rate = gaussian_kl(mean, variance).sum(1).mean()
    information = (each.exp() * (each - aggregate) * weights).sum(1).mean()
    marginal = (aggregate.exp() * (aggregate - prior) * weights).sum()
    torch.testing.assert_close(rate, information + marginal, rtol=0, atol=1e-10)
    assert 0 < information < math.log(4) and marginal > 0

    scores = metrics.aggregate_posterior_scores(mean, variance, num_samples=50_000)
    assert scores["mutual_information"] == pytest.approx(information.item(), abs=0.02)
    assert scores["marginal_divergence"] == pytest.approx(marginal.item(), abs=0.02)
    assert scores["mutual_information_ceiling"] == math.log(4)


def test_mutual_information_is_capped_and_nothing_where_nothing_is_told():
    apart = torch.arange(30.0)[:, None] * 100
    scores = metrics.aggregate_posterior_scores(apart, torch.full((30, 1), 0.01), num_samples=3)
    assert scores["mutual_information"] == pytest.approx(math.log(30))
    same = metrics.aggregate_posterior_scores(torch.zeros(30, 2), torch.ones(30, 2), num_samples=3)
    assert same["mutual_information"] == pytest.approx(0, abs=1e-12)
    assert same["marginal_divergence"] == pytest.approx(0, abs=1e-12)
    none = metrics.aggregate_posterior_scores(torch.zeros(30, 0), torch.zeros(30, 0))
    assert none["mutual_information"] == pytest.approx(0, abs=1e-12)


# What is refused

TEXT = torch.tensor([[3, 4, END]])
WRONG = {
    "token above the vocabulary": (torch.tensor([[3, 5, END]]), "holds 5; it must be one of 0 to 4"),
    "token below 0": (torch.tensor([[3, -1, END]]), "holds -1; it must be one of 0 to 4"),
    "no end": (torch.tensor([[3, 4, 3]]), "no text: each must be tokens, then the end token once, 1,"),
    "padding alone": (torch.tensor([[3, END], [PAD, PAD]]), "no text"),
    "padding on the left": (torch.tensor([[PAD, 3, END]]), "no text"),
    "an end inside": (torch.tensor([[3, END, END]]), "then the end token once, 1,"),
    "too long": (torch.tensor([[3, 3, 3, 3, END]]), "has 5 tokens a text; it must be 1 to 4"),
    "floats": (TEXT.float(), "torch.float32 of shape .*it must be int64"),
    "one text": (TEXT[0], "it must be int64, .batch, length"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_batch_of_texts_is_refused(name):
    ids, told = WRONG[name]
    for call in (small_model(), small_model().encode, small_model().negative_bound, small_model().reconstruct):
        with pytest.raises(ValueError, match=told):
            call(ids)


def test_what_is_taken_for_a_text_is_one():
    """Of all rows of tokens, whatever the mask says of them, those that pass are the texts, each once."""
    model = small_model()
    rows = torch.tensor(list(itertools.product(range(model.config.vocab_size), repeat=model.config.max_tokens)))
    texts = all_texts(model.config).tolist()
    latent = torch.zeros(1, 2, dtype=torch.double)
    for mask_of in (lambda row: None, lambda row: torch.ones_like(row), lambda row: (row != PAD).long()):
        taken = []
        for row in rows[:, None]:
            try:
                model.negative_bound(row, mask_of(row))
            except ValueError as error:
                assert "no text" in str(error)
            else:
                taken.append(row[0].tolist())
        full = [text for text in texts if PAD not in text]
        assert sorted(taken) == sorted(full if mask_of(rows[:1]) is not None and mask_of(rows[:1]).all() else texts)
    assert model.log_prob(torch.tensor(texts), latent.expand(len(texts), -1)).exp().sum().item() == pytest.approx(1)


def test_other_wrong_values_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 2\); it must be \(1, 3\)"):
        model(TEXT, TEXT[:, :2])
    with pytest.raises(ValueError, match="num_importance_samples is 0"):
        model.negative_iwae_bound(TEXT, 0)
    with pytest.raises(ValueError, match="reduction is 'sum'"):
        model.negative_iwae_bound(TEXT, 1, reduction="sum")
    for temperature in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"temperature is {temperature}; it must be at least 0 and finite"):
            model.sample(1, temperature=temperature)
    with pytest.raises(TypeError, match="kl_wieght"):
        model(TEXT, kl_wieght=1.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"vocab_size": 2}, "vocab_size is 2; it must be at least 3"),
        ({"latent_size": -1}, "latent_size is -1; it must be at least 0"),
        ({"beta": math.nan}, "beta is nan; it must be finite and at least 0"),
        ({"free_bits": -0.5}, r"free_bits is -0.5; it must be in \[0, 1e6\]"),
        ({"free_bits": 3.41e38}, r"free_bits is 3.41e\+38; it must be in \[0, 1e6\]"),
        ({"word_dropout": 1.5}, r"word_dropout is 1.5; it must be in \[0, 1\]"),
        ({"eos_token_id": 0}, "they must be three of 0 to 258"),
        ({"unk_token_id": 300}, "they must be three of 0 to 258"),
    ],
)
def test_values_that_do_not_go_together_are_refused(changes, told):
    with pytest.raises(StrictDataclassClassValidationError, match=told):
        TextVAEConfig(**changes)


def test_reconstructions_and_paths_are_at_the_means():
    model = talkative()
    ids = all_texts(model.config)
    mean, variance = model.encode(ids)
    expected = model.sample(len(ids), latents=mean, temperature=0.0)
    assert len(expected.unique(dim=0)) > 1
    assert not torch.equal(expected, model.sample(len(ids), latents=variance, temperature=0.0))
    assert torch.equal(model.reconstruct(ids), expected)
    assert torch.equal(model.interpolate(ids[:20], ids[20:], 3), model.interpolate(mean[:20], mean[20:], 3))


def test_paths_are_spherical_when_not_asked():
    model = talkative()
    ends = [2 * torch.randn(40, 2, generator=seeded(each), dtype=torch.double) for each in (0, 1)]
    spherical, linear = (model.interpolate(*ends, 3, mode=mode) for mode in ("spherical", "linear"))
    assert torch.equal(model.interpolate(*ends, 3), spherical) and not torch.equal(spherical, linear)


def test_the_importance_weighted_bound_by_hand():
    model = small_model()
    ids, normal, weights = all_texts(model.config), torch.distributions.Normal, []
    mean, variance = model.encode(ids)
    for noise in torch.randn(6, *mean.shape, generator=seeded(), dtype=torch.double):
        latents = mean + variance.sqrt() * noise
        prior, posterior = normal(0.0, 1.0).log_prob(latents), normal(mean, variance.sqrt()).log_prob(latents)
        weights.append(model.log_prob(ids, latents) + (prior - posterior).sum(1))
    expected = -torch.stack(weights).exp().mean(0).log()
    drawn = {"generator": seeded(), "reduction": "none"}
    torch.testing.assert_close(model.negative_iwae_bound(ids, 6, **drawn), expected)
    filled, mask = ids.masked_fill(ids == PAD, 4), (ids != PAD).long()
    drawn = {"generator": seeded(), "reduction": "none"}
    torch.testing.assert_close(model.negative_iwae_bound(filled, 6, mask, **drawn), expected)
    state = torch.get_rng_state()
    model.negative_bound(ids, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_bound_is_the_same_in_chunks(monkeypatch):
    model, ids = small_model(), torch.tensor([[3, 4, END, PAD]]).expand(8, -1)
    whole = model.negative_iwae_bound(ids, 12, generator=seeded(), reduction="none")
    monkeypatch.setattr(modeling_textvae, "IWAE_CHUNK", 4 * ids.numel() * model.config.vocab_size)  # four samples
    parts = model.negative_iwae_bound(ids, 12, generator=seeded(), reduction="none")
    assert parts.tolist() == pytest.approx(whole.tolist())

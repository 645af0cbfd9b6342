"""Measures of latent-variable models, on means, labels and bounds that are known."""

import pytest
import torch

from hwzoo import metrics
from hwzoo.metrics import active_units, course100, first_of_each_class, likelihood


def with_variances(*variances):
    """Two values a column whose unbiased variance is the given one."""
    deviation = (torch.tensor(variances, dtype=torch.float64) / 2).sqrt()
    return torch.stack([deviation, -deviation])


@pytest.mark.parametrize(
    "variances, expected",
    [((0.0, 0.0), 0), ((0.0099, 0.0101), 1), ((1.0, 0.0, 0.5), 2), ((1e-9, 100.0, 3.0, 0.02), 3)],
)
def test_units_are_active_whose_mean_varies_by_more_than_a_hundredth(variances, expected):
    assert active_units(with_variances(*variances)) == expected


def test_a_mean_far_from_zero_does_not_make_a_unit_active():
    posterior_means = 1_000 + 1e-3 * torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    assert active_units(posterior_means) == 0


def test_the_first_of_each_class_come_by_class_and_place():
    labels = torch.tensor([2, 0, 2, 1, 0, 2, 0])
    assert first_of_each_class(labels, 1).tolist() == [1, 3, 0]
    assert first_of_each_class(labels, 2).tolist() == [1, 4, 3, 0, 2]
    assert first_of_each_class(labels, 10).tolist() == [1, 4, 6, 3, 0, 2, 5]


class KnownBounds:
    """The bounds that it gives come from the generator, the number of samples and the images alone."""

    def __init__(self):
        self.images = []
        self.num_samples = []

    def negative_elbo_bound(self, pixel_values, labels, *, generator):
        assert torch.equal(labels, LABELS[pixel_values.flatten().long()])
        self.images.append(pixel_values)
        drawn = torch.rand((), generator=generator)
        return 100 + drawn, 80 + drawn, torch.tensor(20.0)

    def negative_iwae_bound(self, pixel_values, num_importance_samples, labels, *, generator):
        assert torch.equal(labels, LABELS[pixel_values.flatten().long()])
        self.images.append(pixel_values)
        self.num_samples.append(num_importance_samples)
        return 100 - num_importance_samples / 100 + torch.rand((), generator=generator)


LABELS = torch.arange(10).repeat(12)


def indices_as_pixels(indices):
    return indices.float()[:, None, None, None]


def test_the_protocol_of_the_courses():
    model = KnownBounds()
    results = course100(model, indices_as_pixels, LABELS, seed=3)
    # As many repeats: 100 of the bound, then 100 / K of the bound with K samples.
    assert model.num_samples == [1] * 100 + [10] * 10 + [100] + [1000]
    assert len(model.images) == 100 + 112
    first_ten = torch.cat([torch.arange(label, 100, 10) for label in range(10)])
    assert all(torch.equal(images, indices_as_pixels(first_ten)) for images in model.images)

    drawn = torch.rand(212, generator=torch.Generator().manual_seed(3)).double()
    assert results == {
        "course100_negative_elbo": pytest.approx(100 + drawn[:100].mean().item(), rel=1e-6),
        "course100_reconstruction_loss": pytest.approx(80 + drawn[:100].mean().item(), rel=1e-6),
        "course100_kl_divergence": 20.0,
        "course100_iwae_1": pytest.approx(99.99 + drawn[100:200].mean().item(), rel=1e-6),
        "course100_iwae_10": pytest.approx(99.9 + drawn[200:210].mean().item(), rel=1e-6),
        "course100_iwae_100": pytest.approx(99.0 + drawn[210].item(), rel=1e-6),
        "course100_iwae_1000": pytest.approx(90.0 + drawn[211].item(), rel=1e-6),
    }
    assert all(type(value) is float for value in results.values())


def test_the_protocol_depends_on_its_seed_alone():
    results = course100(KnownBounds(), indices_as_pixels, LABELS)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert course100(KnownBounds(), indices_as_pixels, LABELS) == results
    assert torch.equal(torch.get_rng_state(), state)
    assert course100(KnownBounds(), indices_as_pixels, LABELS, seed=1) != results


@pytest.mark.parametrize(
    "labels", [torch.arange(10).repeat(9), torch.arange(9).repeat(12), torch.arange(11).repeat(12)]
)
def test_the_protocol_needs_ten_images_of_each_of_ten_classes(labels):
    model = KnownBounds()
    assert course100(model, indices_as_pixels, labels) == {}
    assert model.images == []


def test_scores_of_an_aggregate_posterior_are_the_same_in_parts(monkeypatch):
    seeded = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(16, 2, generator=seeded), torch.rand(16, 2, generator=seeded) + 0.1
    whole = metrics.aggregate_posterior_scores(mean, variance, num_samples=8)
    monkeypatch.setattr(likelihood, "PAIRS", 16 * 40)  # the last part is short
    assert metrics.aggregate_posterior_scores(mean, variance, num_samples=8) == pytest.approx(whole)


def test_the_active_units_of_a_run_are_those_of_its_means(monkeypatch):
    class Images(list):
        labels = torch.zeros(40, dtype=torch.long)

        def pixel_values(self, places):
            return places[:, None].double()

    class Stub:
        def encode(self, images, labels):
            return torch.cat([images, 0 * images, -images], 1), torch.ones(len(images), 3).double()

    monkeypatch.setattr(likelihood, "course100", lambda *args, **kwargs: {})
    assert likelihood.latent_variable_scores(Stub(), Images(range(40)), 7) == {"active_units": 2}

"""Scores of generated images, on sets of points whose distances are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from hwzoo import ClassifierConfig, ClassifierForImageClassification
from hwzoo.errors import HwzooError, UsageError
from hwzoo.metrics import (
    classes_covered,
    density_coverage,
    frechet_distance,
    frechet_standard_error,
    generation,
    generator_scores,
    inception_scores,
    label_entropy,
    label_histogram,
    load_inception,
    precision_recall,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def with_moments(mean, covariance, num=200, seed=0):
    """Points with exactly this mean and unbiased covariance."""
    mean, covariance = torch.as_tensor(mean).double(), torch.as_tensor(covariance).double()
    points = normal(num, len(mean), seed=seed)
    points -= points.mean(0)
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(points.T @ points / (num - 1)), points.T, upper=False
    ).T
    return whitened @ torch.linalg.cholesky(covariance).T + mean


def test_the_frechet_distance_of_covariances_that_commute():
    # |m1 - m2|^2 + sum (s1 - s2)^2 for standard deviations s along the same axes.
    first = with_moments([1.0, -2.0, 0.5], torch.diag(torch.tensor([4.0, 0.25, 1.0])))
    second = with_moments([0.0, 0.0, 0.5], torch.diag(torch.tensor([1.0, 2.25, 1.0])), num=300, seed=1)
    assert frechet_distance(first, second) == pytest.approx(5 + (2 - 1) ** 2 + (0.5 - 1.5) ** 2, rel=1e-12)


def test_the_frechet_distance_in_one_dimension():
    first, second = with_moments([3.0], [[9.0]]), with_moments([1.0], [[1.0]], num=50)
    assert frechet_distance(first, second) == pytest.approx(2**2 + 2**2, rel=1e-12)


def moments_of(points):
    return points.mean(0).numpy(), points.T.cov().numpy()


def test_the_frechet_distance_agrees_with_scipy_and_torchmetrics():
    from scipy.linalg import sqrtm
    from torchmetrics.image.fid import FrechetInceptionDistance

    class AsTheyAre(nn.Module):
        num_features = 12

        def forward(self, features):
            return features

    first = normal(500, 12) @ normal(12, 12, seed=1) + 1
    second = normal(400, 12, seed=2) @ normal(12, 12, seed=3) - 2
    (mean, covariance), (other_mean, other_covariance) = moments_of(first), moments_of(second)
    root = sqrtm(covariance @ other_covariance).real
    expected = np.square(mean - other_mean).sum() + np.trace(covariance + other_covariance - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-10)

    fid = FrechetInceptionDistance(feature=AsTheyAre())
    fid.update(first, real=True)
    fid.update(second, real=False)
    assert frechet_distance(first, second) == pytest.approx(fid.compute().item(), rel=1e-10)


@pytest.mark.parametrize("num, size", [(500, 8), (20, 50)])
def test_a_set_has_no_distance_from_itself_in_any_order(num, size):
    features = normal(num, size).relu()
    features[:, 0] = 0  # a unit that never fires
    assert 0 <= frechet_distance(features, features) < 1e-10
    order = torch.randperm(num, generator=generator())
    assert 0 <= frechet_distance(features[order], features) < 1e-10
    assert precision_recall(features, features[order]) == (1.0, 1.0)


def test_fewer_points_than_features_still_have_a_distance():
    # All points lie in a plane: the distance is that of the two coordinates.
    first, second = normal(10, 2), 2 * normal(10, 2, seed=1) + 1
    basis = torch.linalg.qr(normal(30, 2, seed=2)).Q.T
    assert frechet_distance(first @ basis, second @ basis) == pytest.approx(frechet_distance(first, second), rel=1e-9)


def test_single_precision_features_lose_nothing_to_their_mean():
    features = (1000 + normal(300, 5)).float()
    shifted = features + 0.5  # exact in float32
    assert frechet_distance(features, shifted) == pytest.approx(5 * 0.25, rel=1e-9)


@pytest.mark.parametrize(("num", "num_groups"), [(300, 50), (30, 50)])
def test_the_standard_error_is_the_spread_over_draws(num, num_groups):
    """Of the distance between `num` points and fixed ones, drawn again and again."""
    generator = torch.Generator().manual_seed(0)
    fixed = torch.randn(1000, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.5])
    draws = [torch.randn(num, 3, generator=generator, dtype=torch.float64) + 0.5 for _ in range(100)]
    spread = torch.tensor([frechet_distance(points, fixed) for points in draws]).std().item()
    errors = [frechet_standard_error(points, fixed, num_groups=num_groups) for points in draws[:20]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.2)  # its own error: 0.07


def test_groups_of_points_that_do_not_come_out_even_are_of_one_size():
    points, fixed = torch.randn(75, 50, generator=generator()), torch.randn(400, 50, generator=generator(1))
    alone = frechet_standard_error(points, fixed, num_groups=75)
    assert frechet_standard_error(points, fixed) == pytest.approx(alone, rel=0.1)


def test_three_points_have_no_standard_error():
    with pytest.raises(UsageError, match="3 images give no standard error"):
        frechet_standard_error(torch.randn(3, 2), torch.randn(9, 2))


def test_collapsed_samples_are_precise_and_recall_little():
    real = normal(300, 2)
    collapsed = real[:1] + 1e-4 * normal(300, 2, seed=1)
    precision, recall = precision_recall(real, collapsed)
    assert precision == 1.0 and recall < 0.02
    # Exactly one point: its balls have radius 0 and hold that real point alone.
    assert precision_recall(real.float(), real[:1].float().expand(300, -1)) == (1.0, 1 / 300)


def test_scattered_samples_recall_and_are_not_precise():
    real, scattered = normal(300, 2), 5 * normal(300, 2, seed=1)
    precision, recall = precision_recall(real, scattered)
    assert precision < 0.25 and recall > 0.85


def test_sets_far_apart_share_nothing():
    assert precision_recall(normal(50, 3), 100 + normal(60, 3, seed=1)) == (0.0, 0.0)


def test_half_of_the_modes_recall_half():
    real = torch.cat([normal(200, 2), 50 + normal(200, 2, seed=1)])
    precision, recall = precision_recall(real, real[:200] + 1e-6)
    assert (precision, recall) == (1.0, 0.5)


def test_precision_and_recall_by_hand():
    real, generated = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[-1.0], [1.5], [5.1], [9.0]])
    # k = 1: the real balls are [-1, 1], [0, 2] and [1, 5]; the generated radii are 2.5, 2.5, 3.6 and 3.9.
    assert precision_recall(real, generated, num_neighbors=1) == (2 / 4, 3 / 3)
    # k = 2: the real balls are [-3, 3], [-1, 3] and [0, 6].
    assert precision_recall(real, generated, num_neighbors=2)[0] == 3 / 4


def test_precision_and_recall_agree_with_every_pair_in_turn():
    real, generated = normal(60, 4), 0.7 * normal(80, 4, seed=1) + 0.3

    def covered(points, centres):
        radii = torch.cdist(centres, centres).sort().values[:, 3]
        return sum(any((point - c).norm() <= r for c, r in zip(centres, radii, strict=True)) for point in points)

    assert precision_recall(real, generated) == (covered(generated, real) / 80, covered(real, generated) / 60)


@pytest.mark.parametrize("chunk", [1, 100, 777, 10**9])
def test_chunks_change_nothing(chunk):
    real, generated = normal(90, 4).float(), 0.7 * normal(70, 4, seed=1).float()
    generated[:10] = real[:10]
    assert precision_recall(real, generated, chunk=chunk) == precision_recall(real, generated)


def test_the_order_of_the_points_changes_nothing():
    real, generated = normal(90, 4), 0.7 * normal(70, 4, seed=1)
    orders = [torch.randperm(num, generator=generator()) for num in (90, 70)]
    assert precision_recall(real[orders[0]], generated[orders[1]]) == precision_recall(real, generated)
    distance = frechet_distance(real, generated)
    assert frechet_distance(real[orders[0]], generated[orders[1]]) == pytest.approx(distance, rel=1e-12)
    assert frechet_distance(generated, real) == pytest.approx(distance, rel=1e-12)


def test_distances_are_held_in_chunks(monkeypatch):
    largest = []
    original = generation._squared_distances

    def watched(points, others):
        largest.append(len(points) * len(others))
        return original(points, others)

    monkeypatch.setattr(generation, "_squared_distances", watched)
    precision_recall(normal(500, 3), normal(400, 3, seed=1), chunk=5_000)
    assert max(largest) <= 5_000 and sum(largest) == 500 * 500 + 400 * 400 + 500 * 400


@pytest.mark.parametrize("num", [0, 1, 3])
def test_too_few_points(num):
    few, many = normal(num, 2), normal(10, 2)
    for real, generated in ((few, many), (many, few)):
        with pytest.raises(UsageError, match=f"{num} images have no 3-th nearest neighbours.*at least 4"):
            precision_recall(real, generated)
        if num < 2:
            with pytest.raises(UsageError, match=f"{num} images have no covariance"):
                frechet_distance(real, generated)


def test_the_histogram_of_labels_its_entropy_and_the_classes_covered():
    histogram = label_histogram(torch.tensor([0, 2, 2, 1, 0, 0, 0, 0]), 4)
    assert histogram == [5 / 8, 1 / 8, 2 / 8, 0.0]
    expected = -(5 * math.log(5 / 8) + math.log(1 / 8) + 2 * math.log(2 / 8)) / 8
    assert label_entropy(histogram) == pytest.approx(expected, rel=1e-12)
    assert classes_covered(histogram) == 3
    assert label_entropy([1.0, 0.0]) == 0
    assert label_entropy([0.1] * 10) == pytest.approx(math.log(10), rel=1e-12)


@pytest.mark.parametrize("num", [100, 700, 10_000])
def test_one_per_cent_of_the_samples_cover_a_class(num):
    labels = torch.zeros(num, dtype=torch.int64)
    labels[: num // 100] = 1
    labels[num // 100 : 2 * (num // 100) - 1] = 2  # one sample short
    assert classes_covered(label_histogram(labels, 3)) == 2


class Blocks(nn.Module):
    """A classifier whose features are the image's first two pixels, and its label the first of them, in tenths."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(0.5)

    def features(self, pixel_values):
        return self.dropout(pixel_values.flatten(1)[:, :2])

    def forward(self, pixel_values):
        label = (pixel_values.flatten(1)[:, 0] * 10).long().clamp(0, 9)
        return type("Output", (), {"logits": torch.nn.functional.one_hot(label, 10).float()})


def some_images(num, seed=0, channels=1):
    return torch.rand(num, channels, 4, 4, generator=generator(seed))


def test_the_scores_of_a_generator():
    samples, test, train = some_images(200), some_images(150, seed=1), some_images(200, seed=2)
    scores = generator_scores(samples, test, train, Blocks())

    def features(images):
        return images.flatten(1)[:, :2]

    precision, recall = precision_recall(features(test), features(samples))
    histogram = label_histogram((samples[:, 0, 0, 0] * 10).long(), 10)
    assert scores == {
        "test_fid": frechet_distance(features(samples), features(test)),
        "test_fid_floor": frechet_distance(features(train), features(test)),
        "test_precision": precision,
        "test_recall": recall,
        "test_class_histogram": histogram,
        "test_label_entropy": label_entropy(histogram),
        "test_classes_covered": 10,
    }
    kinds = {name: type(value) for name, value in scores.items()}
    assert kinds.pop("test_class_histogram") is list and kinds.pop("test_classes_covered") is int
    assert set(kinds.values()) == {float}


def test_batches_of_any_size_give_the_scores_of_one_tensor_and_leave_the_random_state():
    images = [some_images(200, seed=seed) for seed in range(3)]
    state = torch.get_rng_state()
    expected = generator_scores(*images, Blocks())
    assert generator_scores(*images, Blocks().train(), batch_size=7) == expected
    in_batches = [iter(each.split(60)) for each in images]
    assert generator_scores(*in_batches, Blocks()) == expected
    assert torch.equal(torch.get_rng_state(), state)


def test_a_classifier_of_the_zoo_scores():
    torch.manual_seed(0)
    config = ClassifierConfig(image_size=4, num_channels=3, backbone="mlp", hidden_sizes=[6], num_labels=5)
    classifier = ClassifierForImageClassification(config).train()
    test = some_images(50, channels=3)
    dark = 0.1 * some_images(50, seed=1, channels=3)
    scores = generator_scores(dark, test, test, classifier)
    assert scores["test_fid_floor"] < 1e-10 < 0.01 < scores["test_fid"]
    assert len(scores["test_class_histogram"]) == 5 and sum(scores["test_class_histogram"]) == pytest.approx(1)
    assert not classifier.training
    assert all(parameter.grad is None for parameter in classifier.parameters())


BAD = {
    "integers": (UsageError, "samples are torch.uint8", (some_images(9) * 255).byte()),
    "no channels": (UsageError, r"shape \(9, 4, 4\)", some_images(9)[:, 0]),
    "another range": (UsageError, r"samples have pixels from -\S+ to \S+; they must be in \[0, 1\]", -some_images(9)),
    "infinite": (UsageError, "samples have pixels from .* to inf", some_images(9) / 0),
    "not a number": (HwzooError, "samples hold pixels that are NaN", some_images(9) * torch.nan),
    "none": (UsageError, "samples: there are none", some_images(0)),
    "no batch": (UsageError, "samples: there are none", []),
    "another number": (UsageError, "9 training images for 8 samples", some_images(8)),
}


@pytest.mark.parametrize("name", BAD)
def test_samples_that_are_none(name):
    error, message, samples = BAD[name]
    with pytest.raises(error, match=message):
        generator_scores(samples, some_images(9), some_images(9), Blocks())


class Inception(nn.Module):
    """In place of the real one, whose weights would have to be downloaded."""

    num_features = 3

    def __init__(self):
        super().__init__()
        self.shapes = set()

    def forward(self, pixel_values):
        self.shapes.add(tuple(pixel_values.shape[1:]))
        return pixel_values.flatten(2).amax(-1) * torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_coloured_images_for_inception(channels):
    samples, test, train = (some_images(num, num, channels) for num in (30, 40, 30))
    network = Inception()
    inception = load_inception(network)

    def features(images):
        return network(images.expand(-1, 3, -1, -1))

    expected = {
        "test_inception_fid": frechet_distance(features(samples), features(test)),
        "test_inception_fid_floor": frechet_distance(features(train), features(test)),
    }
    # The second time there is nothing left of the first.
    for batch_size in (30, 7):
        assert inception_scores(samples, test, train, inception, batch_size=batch_size) == pytest.approx(
            expected, abs=1e-6
        )
    assert network.shapes == {(3, 4, 4)}


def test_what_inception_does_not_take():
    inception = load_inception(Inception())
    with pytest.raises(UsageError, match="samples have 2 channels; Inception takes 1"):
        inception_scores(some_images(5, channels=2), some_images(5), some_images(5), inception)
    with pytest.raises(UsageError, match="samples: 1 images have no covariance"):
        inception_scores(some_images(1), some_images(5), some_images(1), inception)
    with pytest.raises(UsageError, match="6 training images for 5 samples"):
        inception_scores(some_images(5), some_images(5), some_images(6), inception)


def test_inception_that_is_not_installed(monkeypatch):
    from torchmetrics.image import fid

    monkeypatch.setattr(fid, "_TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(UsageError, match="pip install torch-fidelity"):
        load_inception()


def test_inception_whose_weights_are_not_there(monkeypatch):
    from torchmetrics.image import fid

    def refuse(**kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(fid, "_TORCH_FIDELITY_AVAILABLE", True)
    monkeypatch.setattr(fid, "NoTrainInceptionV3", refuse)
    with pytest.raises(HwzooError, match="cannot be downloaded: no route to host"):
        load_inception()


def test_density_and_coverage_by_counting():
    real, made, k = normal(40, 3), 0.7 * normal(25, 3, seed=1) + 0.2, 4
    radii = torch.cdist(real, real).sort(1).values[:, k]
    inside = torch.cdist(real, made) <= radii[:, None]
    expected = inside.sum().item() / (k * 25), inside.any(1).double().mean().item()
    for chunk in (1, 200, 10**6):
        assert density_coverage(real, made, num_neighbors=k, chunk=chunk) == pytest.approx(expected)
    assert density_coverage(real, real, num_neighbors=k)[1] == 1
    assert density_coverage(real, real + 100, num_neighbors=k) == (0, 0)
    # Far from the real points an outlier makes nothing, and a real outlier does not make density: unlike precision.
    outlier = torch.cat([real, 50 + normal(1, 3)])
    assert density_coverage(outlier, normal(500, 3, seed=2) + 20, num_neighbors=k)[0] <= 1 / k + 1e-9
    with pytest.raises(UsageError, match="4 images have no 5-th nearest"):
        density_coverage(real[:4], made)
    with pytest.raises(UsageError, match="^0 generated images have no density and coverage$"):
        density_coverage(real, made[:0])


def test_every_score():
    samples, test, train = 0.7 * some_images(200), some_images(150, seed=1), some_images(200, seed=2)
    scores = generator_scores(samples, test, train, Blocks(), every_score=True)
    made, real = (each.flatten(1)[:, :2] for each in (samples, test))
    expected = density_coverage(real, made)
    assert (scores["test_density"], scores["test_coverage"]) == expected != density_coverage(made, real)

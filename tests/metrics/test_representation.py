"""Scores of features, by value, on features of which one knows what they are worth."""

import math
import time
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hwzoo import metrics
from hwzoo.metrics import representation


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@dataclass
class Images:
    """What the scores take of an `ImageSet`."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ("a", "b", "c")

    def __len__(self):
        return len(self.labels)

    def spread(self, num):
        return self

    def pixel_values(self, indices):
        return self.images[indices]


def blobs(num, num_classes=3, size=4, spread=0.3, seed=0):
    """Points around a corner a class, far from the others."""
    labels = torch.arange(num) % num_classes
    return 3 * F.one_hot(labels, size) + spread * torch.randn(num, size, generator=seeded(seed)), labels


# Probes


def test_a_probe_is_of_the_features_as_they_are():
    features, labels = blobs(300)
    features = features * torch.tensor([1e3, 1e-3, 1.0, 5.0]) + 7
    weight, bias = metrics.linear_probe(features, labels)
    assert weight.shape == (3, 4) and bias.shape == (3,) and weight.dtype == bias.dtype == torch.float32
    assert metrics.accuracy_of((weight, bias), features, labels) == 1
    assert metrics.accuracy_of((weight, bias), features, (labels + 1) % 3) == 0


def test_a_probe_has_no_weight_on_what_is_the_same_in_all_examples():
    features, labels = blobs(100)
    weight, bias = metrics.linear_probe(features, labels)
    with_constants = torch.cat([features, torch.tensor([0.2, 0.7, 0.0]).expand(100, 3)], 1)
    wider, same = metrics.linear_probe(with_constants, labels)
    assert wider[:, 4:].eq(0).all()
    torch.testing.assert_close((wider[:, :4], same), (weight, bias), rtol=1e-3, atol=1e-3)


def test_a_probe_is_the_regression_of_scikit_learn_with_the_penalty_that_cross_validation_chooses():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    chosen = set()
    for spread, size in ((1.0, 4), (1.0, 40)):
        features, labels = blobs(90, size=size, spread=spread)
        inputs = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
        models = [LogisticRegression(C=strength, max_iter=200) for strength in representation.STRENGTHS]
        scores = [cross_val_score(model, inputs, labels.numpy(), cv=3).mean() for model in models]
        assert len(set(scores)) > 1
        best = models[scores.index(max(scores))].fit(inputs, labels.numpy())
        chosen.add(best.C)
        given = F.linear(features, *metrics.linear_probe(features, labels)).softmax(1)
        expected = torch.from_numpy(best.predict_proba(inputs)).float()  # float64 by an older scikit-learn
        torch.testing.assert_close(given, expected, atol=1e-3, rtol=0)
    assert len(chosen) == 2


def test_the_penalty_of_classes_in_their_order_is_that_of_any_order(monkeypatch):
    monkeypatch.setattr(representation, "NUM_TO_CHOOSE", 60)
    features, labels = blobs(600, spread=3.0)
    monkeypatch.setattr(representation, "STRENGTHS", (1e-3, 1e-2))
    order = labels.argsort(stable=True)
    assert order.tolist() != list(range(600))
    sorted_probe = metrics.linear_probe(features[order], labels[order])
    norms = []
    for strength in (1e-3, 1e-2):
        monkeypatch.setattr(representation, "STRENGTHS", (strength,))
        norms.append(metrics.linear_probe(features, labels)[0].norm().item())
    assert any(sorted_probe[0].norm().item() == pytest.approx(norm, rel=1e-3) for norm in norms)
    monkeypatch.setattr(representation, "STRENGTHS", (1.0,))
    assert metrics.linear_probe(features, labels)[0].norm() > 1.02 * sorted_probe[0].norm()


def test_two_classes_and_few_examples():
    features, labels = blobs(4, num_classes=2, spread=0.1)
    probe = metrics.linear_probe(features, labels)
    assert probe[0].shape == (2, 4) and metrics.accuracy_of(probe, features, labels) == 1


def test_the_one_class_of_all_examples_is_the_answer_to_all():
    features, _ = blobs(9, num_classes=2, spread=1.0)
    probe = metrics.linear_probe(features, torch.full((len(features),), 2), num_classes=4)
    assert F.linear(features, *probe).argmax(1).eq(2).all() and torch.isfinite(probe[1]).all()


def test_a_class_without_examples_is_never_chosen():
    features, labels = blobs(60, num_classes=3, spread=0.1)
    weight, bias = metrics.linear_probe(features, labels)
    apart = torch.tensor([0, 2, 5])[labels]
    wider = metrics.linear_probe(features, apart, num_classes=8)
    assert wider[0].shape == (8, features.shape[1]) and torch.equal(wider[0][[0, 2, 5]], weight)
    assert torch.equal(wider[1][[0, 2, 5]], bias) and torch.isfinite(wider[1]).all()
    assert metrics.accuracy_of(wider, features, apart) == 1
    far = 1e4 * torch.randn(100, features.shape[1], generator=seeded())
    assert set(F.linear(far, *wider).argmax(1).tolist()) <= {0, 2, 5}


def test_neighbours_are_by_direction():
    train = torch.tensor([[1.0, 0.0], [100.0, 1.0], [0.0, 1.0], [1.0, 50.0]]), torch.tensor([0, 0, 1, 1])
    test = torch.tensor([[0.1, 0.01], [0.5, 7.0], [3.0, 2.9]]), torch.tensor([0, 1, 1])
    assert metrics.neighbor_accuracy(train, test, 1) == pytest.approx(2 / 3)
    assert metrics.neighbor_accuracy(train, test, 2) == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_features_may_be_as_a_model_gives_them(dtype):
    """Of half precision, and with a gradient."""
    (train, labels), (test, wanted) = blobs(60), blobs(30, seed=1)
    train, test = train.to(dtype), test.to(dtype)
    wide = [each.to(torch.promote_types(dtype, torch.float32)) for each in (train, test)]
    given = [each.clone().requires_grad_() for each in (train, test)]
    expected, found = (metrics.linear_probe(each[0], labels) for each in (wide, given))
    assert all(torch.equal(*each) for each in zip(found, expected, strict=True)) and not found[0].requires_grad
    assert metrics.accuracy_of(found, given[1], wanted) == metrics.accuracy_of(expected, test.float(), wanted) == 1
    assert metrics.neighbor_accuracy((given[0], labels), (given[1], wanted)) == 1
    expected, found = (metrics.principal_components(*each, num_components=2) for each in (wide, given))
    assert all(torch.equal(*each) for each in zip(found, expected, strict=True))
    assert metrics.sphere_scores(given[1], given[1].flip(0)) == metrics.sphere_scores(wide[1], wide[1].flip(0))
    scores, _ = metrics.probe_scores((given[0], labels), (given[1], wanted), num_draws=2)
    assert set(scores.values()) == {0.0, 1.0}  # the standard error alone is 0


def test_the_vote_is_of_the_most_neighbours():
    train = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]]), torch.tensor([1, 0, 0, 0])
    test = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert [metrics.neighbor_accuracy(train, test, num) for num in (1, 3, 20)] == [0, 1, 1]


def test_scores_of_features_that_tell_all_and_of_those_that_tell_nothing():
    told, _ = metrics.probe_scores(blobs(600), blobs(90, seed=1))
    assert told == {
        "linear_accuracy": 1, "few_labels_accuracy": 1, "few_labels_accuracy_standard_error": 0, "knn_accuracy": 1,
    }  # fmt: skip
    labels = torch.arange(600) % 3
    noise = [(torch.randn(600, 4, generator=seeded(seed)), labels) for seed in (2, 3)]
    scores, _ = metrics.probe_scores(*noise)
    error = scores.pop("few_labels_accuracy_standard_error")
    assert all(0.25 < value < 0.42 for value in scores.values()) and 0 < error < 0.05


def test_few_labels_are_ten_a_class_drawn_anew_by_the_seed(monkeypatch):
    seen, probe = [], representation.linear_probe
    monkeypatch.setattr(representation, "linear_probe", lambda *given: seen.append(given[:2]) or probe(*given))
    train = blobs(200)
    for seed in (0, 0, 1):
        metrics.probe_scores(train, blobs(30, seed=1), seed=seed)
    runs = [seen[start : start + 6] for start in (0, 6, 12)]
    for features, labels in (each for run in runs for each in run[:5]):
        assert labels.bincount().tolist() == [10, 10, 10]
        assert all((train[0] == row).all(1).any() for row in features)
    assert all(torch.equal(a, b) for one, two in zip(*runs[:2], strict=True) for a, b in zip(one, two, strict=True))
    assert len({tuple(features.flatten().tolist()) for run in runs[1:] for features, _ in run[:5]}) == 10
    assert all(len(run[5][1]) == 200 for run in runs)
    seen.clear()
    scores, _ = metrics.probe_scores(train, blobs(30, seed=1), num_draws=2)
    few = [metrics.accuracy_of(probe(*given), *blobs(30, seed=1)) for given in seen[:2]]
    assert len(seen) == 3 and scores["few_labels_accuracy"] == sum(few) / 2
    assert scores["few_labels_accuracy_standard_error"] == pytest.approx(abs(few[0] - few[1]) / 2)


# Features


def test_features_are_of_all_images_in_their_order():
    images = Images(torch.rand(7, 2, 3, 3, generator=seeded()), torch.arange(7))
    sizes = []
    features = metrics.features_of(lambda pixels: sizes.append(len(pixels)) or 2 * pixels, images, 3)
    assert torch.equal(features, 2 * images.images.flatten(1)) and sizes == [3, 3, 1]


def test_principal_components_keep_what_varies_most():
    scales = torch.tensor([0.1, 5.0, 1.0])
    train, test = (torch.randn(200, 3, generator=seeded(seed)) * scales + 4 for seed in (0, 1))
    parts = metrics.principal_components(train, test, num_components=2)
    centred = train - train.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    for given, each in zip(parts, (train, test), strict=True):
        expected = (each - train.mean(0)) @ directions[:2].T
        torch.testing.assert_close(given.abs(), expected.abs(), atol=1e-4, rtol=1e-4)
    assert parts[0].std(0).argsort().tolist() == [1, 0]
    assert metrics.principal_components(train[:2])[0].shape == (2, 2)


def test_components_of_many_dimensions_are_found_in_time():
    """Colour pictures of 64 x 64 pixels have 12,288; a matrix of them squared has a gigabyte."""
    directions, start = torch.linalg.qr(torch.randn(12_288, 3, generator=seeded())).Q, time.perf_counter()
    train = torch.randn(60, 3, generator=seeded(1)) * torch.tensor([30.0, 20.0, 10.0]) @ directions.T
    train += 0.01 * torch.randn(train.shape, generator=seeded(2))
    (found,) = metrics.principal_components(train, num_components=3)
    _, values, right = torch.linalg.svd(train - train.mean(0), full_matrices=False)
    torch.testing.assert_close(found.norm(dim=0), values[:3], rtol=1e-3, atol=0)
    torch.testing.assert_close(found.abs(), ((train - train.mean(0)) @ right[:3].T).abs(), rtol=0, atol=0.05)
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("num", [2, 500, 501, 1001])
def test_an_untrained_network_is_calibrated_on_any_number_of_images(num):
    pixels = torch.randn(num, 1, 2, 2, generator=seeded())
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(4))
    norm = metrics.calibrated(model, Images(pixels, torch.zeros(num, dtype=torch.long)))[1]
    torch.testing.assert_close(norm.running_mean, pixels.flatten(1).mean(0), atol=0.002, rtol=0)
    assert not norm.training and model[1].num_batches_tracked == 0

    class Own:  # has what is documented, and no more
        def __len__(self):
            return num

        def spread(self, most):
            return self

        def pixel_values(self, indices):
            return pixels[indices]

    assert torch.equal(metrics.calibrated(model, Own())[1].running_mean, norm.running_mean)
    metrics.calibrated(torch.nn.Identity(), Own())


def test_pixels_and_their_components_always_stand_beside():
    features, labels = blobs(120)
    train, test = (
        Images(features[:90].view(-1, 1, 2, 2), labels[:90]),
        Images(features[90:].view(-1, 1, 2, 2), labels[90:]),
    )
    ways = {"good": lambda pixels: pixels.flatten(1) ** 3, "blind": lambda pixels: 0 * pixels.flatten(1) + 1}
    scores, probe, seen = metrics.compare_features(ways, train, test, 50)
    assert list(scores) == ["good", "blind", "raw pixels", "principal components"]
    assert torch.equal(seen, features[90:] ** 3)
    assert metrics.accuracy_of(probe, seen, labels[90:]) == scores["good"]["linear_accuracy"] == 1
    assert scores["raw pixels"]["knn_accuracy"] == 1 and scores["blind"]["linear_accuracy"] == pytest.approx(1 / 3)
    table = metrics.comparison(scores).splitlines()
    assert len(table) == 5 and table[1].split()[:2] == ["good", "100.00"] and table[2].split()[1] == "33.33"
    assert len({len(line) for line in table}) == 1


def test_the_seed_and_the_number_of_draws_reach_every_probe(monkeypatch):
    told, (features, labels) = [], blobs(12)
    monkeypatch.setattr(representation, "probe_scores", lambda *given, **each: told.append(each) or ({}, None))
    images = Images(features.view(-1, 1, 2, 2), labels)
    metrics.compare_features({"own": lambda pixels: pixels.flatten(1)}, images, images, 6, seed=7, num_draws=2)
    assert told == [{"seed": 7, "num_draws": 2, "num_classes": 3}] * 3


# On the sphere


def test_alignment_and_uniformity_by_hand():
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    second = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, -1.0]])
    scores = metrics.sphere_scores(first, second)
    assert scores["alignment"] == pytest.approx((0 + 2 + 2) / 3)
    assert scores["uniformity"] == pytest.approx(math.log((2 * math.exp(-4) + math.exp(-8)) / 3), rel=1e-5)
    # Over the three, x is 1, 0, -1 and y 0, 1, 0.
    expected = (math.sqrt(2 / 3) + math.sqrt(2 / 9)) / 2 * math.sqrt(2)
    assert scores["projection_std"] == pytest.approx(expected, rel=1e-5)


def test_a_collapse_is_told():
    point = torch.tensor([[0.3, 0.4, 0.5]]).repeat(20, 1) * torch.arange(1, 21)[:, None]
    scores = metrics.sphere_scores(point, point)
    assert scores["alignment"] == 0 and scores["uniformity"] == pytest.approx(0, abs=1e-5)
    assert scores["projection_std"] == pytest.approx(0, abs=1e-6)
    apart = metrics.sphere_scores(*torch.randn(2, 2000, 32, generator=seeded()))
    assert apart["projection_std"] == pytest.approx(1, abs=0.01)
    assert apart["alignment"] == pytest.approx(2, abs=0.03) and apart["uniformity"] < -3.5


def test_effective_rank_counts_directions():
    assert metrics.effective_rank(torch.ones(10, 4)) == 0
    line = torch.arange(10.0)[:, None] * torch.tensor([1.0, 2.0, -1.0])
    assert metrics.effective_rank(line + 5) == pytest.approx(1, abs=1e-3)
    corners = torch.cat([torch.eye(4), -torch.eye(4)])  # alike in four directions
    assert metrics.effective_rank(corners) == pytest.approx(4)
    shares = [3 / 4, 1 / 4]  # singular values 3 and 1
    two = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert metrics.effective_rank(two) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


def test_accuracies_are_of_the_test_examples():
    features, labels = blobs(90, seed=1)
    scores, _ = metrics.probe_scores(blobs(600), (features, (labels + 1) % 3))
    assert set(scores.values()) == {0}


def test_each_panel_shows_its_score():
    scores = {"x": dict(zip(representation.SCORES, (1.0, 2.0, 3.0, 4.0), strict=True))}
    panels = representation.accuracy_panels(scores)
    assert list(panels.values()) == [([1.0], [0.0]), ([2.0], [3.0]), ([4.0], [0.0])]

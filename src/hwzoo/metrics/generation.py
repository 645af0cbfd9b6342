"""Scores of generated images: distances between sets of features, and what a classifier takes the images for."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import HwzooError, UsageError

NUM_NEIGHBORS = 3  # the choice of Kynkäänniemi et al., arXiv:1904.06991
DENSITY_NEIGHBORS = 5  # the choice of Naeem et al., arXiv:2002.09797
COVERED_FROM = 0.01  # the share of the samples from which a class counts as covered
# Pairs of points whose distances are held at once: 32 MB of float64.
CHUNK = 4_000_000
# Squared distances below this part of the squared lengths are rounding of float32 features: duplicates.
ROUNDING = 1e-12


def frechet_distance(features: Tensor, other: Tensor) -> float:
    """
    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) of the means m and unbiased covariances S of two sets of features, the
    squared Fréchet distance of Gaussians with these moments (Heusel et al., arXiv:1706.08500, equation 6): the FID
    when the features are Inception's. It depends on the number of points: fewer give a larger distance.

    With the triangular roots of S1 = R1' R1 and S2 = R2' R2 the last term is the sum of the singular values of R1 R2',
    exact also for fewer points than features, where the eigenvalues of S1 S2 are not.

    Args:
        features, other: (num, feature_size) each, of any numbers; computed in float64.

    Returns:
        The squared distance, in squared units of the features.

    Raises:
        UsageError: for fewer than 2 points, which have no covariance.
    """
    return _distance(_moments(features), _moments(other))


def frechet_standard_error(features: Tensor, other: Tensor, *, num_groups: int = 50) -> float:
    """
    The standard error of `frechet_distance` over the draw of `features`, with `other` as it is: by the jackknife
    (Efron and Stein, 1981), which leaves out one group of the points after the other, all of one size, so that the
    bias of fewer points shifts all distances alike. It is too large where points are about as few as features.

    Args:
        features, other: (num, feature_size) each; the points of `features` are independent of each other.
        num_groups: of points, at most; those that do not fill one more are in no group.

    Returns:
        The standard error, in the units of the distance.

    Raises:
        UsageError: for fewer than 4 points.
    """
    if len(features) < 4:
        raise UsageError(f"{len(features)} images give no standard error of a Fréchet distance; it needs at least 4")
    other_moments, distances = _moments(other), []
    size = -(-len(features) // num_groups)
    for start in range(0, len(features) - size + 1, size):
        kept = torch.cat([features[:start], features[start + size :]])
        distances.append(_distance(_moments(kept), other_moments))
    distances = torch.tensor(distances, dtype=torch.float64)
    return ((len(distances) - 1) * distances.var(correction=0)).sqrt().item()


def _distance(moments: tuple[Tensor, Tensor], other_moments: tuple[Tensor, Tensor]) -> float:
    (mean, root), (other_mean, other_root) = moments, other_moments
    cross = torch.linalg.svdvals(root @ other_root.T).sum()
    distance = (mean - other_mean).square().sum() + root.square().sum() + other_root.square().sum() - 2 * cross
    return max(0.0, distance.item())  # rounding may leave -1e-13


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, (feature_size,), and R with R' R the covariance, (min(num, feature_size), feature_size)."""
    if len(features) < 2:
        raise UsageError(f"{len(features)} images have no covariance; the Fréchet distance needs at least 2")
    features = features.cpu().double()
    mean = features.mean(0)
    return mean, torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R


def precision_recall(
    real: Tensor, generated: Tensor, *, num_neighbors: int = NUM_NEIGHBORS, chunk: int = CHUNK
) -> tuple[float, float]:
    """
    Improved precision and recall (Kynkäänniemi et al., arXiv:1904.06991, equations 1 and 2). A set's manifold is the
    union of balls around its points, each up to the point's k-th nearest neighbour in the set.

    Args:
        real, generated: features, (num, feature_size) each; computed in float64 on the CPU.
        num_neighbors: k.
        chunk: pairs of points whose distances are held at once.

    Returns:
        precision: the fraction of the generated points in the manifold of the real ones, how real they look.
        recall: the fraction of the real points in the manifold of the generated ones, how much of them is made.

    Raises:
        UsageError: for k or fewer points in a set.
    """
    for points in (real, generated):
        if len(points) <= num_neighbors:
            raise UsageError(
                f"{len(points)} images have no {num_neighbors}-th nearest neighbours; precision and recall need at "
                f"least {num_neighbors + 1}"
            )
    real, generated = real.cpu().double(), generated.cpu().double()
    real_radii, generated_radii = (_squared_radii(points, num_neighbors, chunk) for points in (real, generated))
    precise = torch.zeros(len(generated), dtype=torch.bool)
    num_recalled, rows = 0, max(1, chunk // len(generated))
    for points, radii in zip(real.split(rows), real_radii.split(rows), strict=True):
        distances = _squared_distances(points, generated)
        precise |= (distances <= radii[:, None]).any(0)
        num_recalled += int((distances <= generated_radii).any(1).sum())
    return precise.double().mean().item(), num_recalled / len(real)


def density_coverage(
    real: Tensor, generated: Tensor, *, num_neighbors: int = DENSITY_NEIGHBORS, chunk: int = CHUNK
) -> tuple[float, float]:
    """
    Density and coverage (Naeem et al., arXiv:2002.09797, section 3), of balls around the real points alone, each up to
    the point's k-th nearest real neighbour: an outlier changes them less than precision and recall.

    Args:
        real, generated: features, (num, feature_size) each; computed in float64 on the CPU.
        num_neighbors: k.
        chunk: pairs of points whose distances are held at once.

    Returns:
        density: in how many real balls a generated point lies, on average, over k; 1 is expected of real images, more
            of points where the real ones are dense.
        coverage: the fraction of the real balls that hold a generated point, in [0, 1].

    Raises:
        UsageError: for k or fewer real points, or no generated ones.
    """
    if not len(generated):
        raise UsageError("0 generated images have no density and coverage")
    if len(real) <= num_neighbors:
        raise UsageError(f"{len(real)} images have no {num_neighbors}-th nearest neighbours for density and coverage")
    real, generated = real.cpu().double(), generated.cpu().double()
    all_radii, rows = _squared_radii(real, num_neighbors, chunk), max(1, chunk // len(generated))
    num_inside = num_covered = 0
    for points, radii in zip(real.split(rows), all_radii.split(rows), strict=True):
        inside = _squared_distances(points, generated) <= radii[:, None]
        num_inside += int(inside.sum())
        num_covered += int(inside.any(1).sum())
    return num_inside / (num_neighbors * len(generated)), num_covered / len(real)


def _squared_radii(points: Tensor, num_neighbors: int, chunk: int) -> Tensor:
    """Squared distance of each point to its k-th nearest neighbour, (num,)."""
    radii = []
    for part in points.split(max(1, chunk // len(points))):
        # The nearest of all is the point itself, at distance 0.
        radii.append(_squared_distances(part, points).topk(num_neighbors + 1, largest=False).values[:, -1])
    return torch.cat(radii)


def _squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """(num_points, num_others), of float64; one matrix product, ten times as fast as `torch.cdist` pair by pair."""
    # Shortened by ROUNDING, so that duplicates have exactly 0: whether a point lies in a ball of radius 0 must not
    # depend on rounding.
    lengths, other_lengths = ((1 - ROUNDING) * each.square().sum(1) for each in (points, others))
    distances = (-2 * points) @ others.T
    return distances.add_(lengths[:, None]).add_(other_lengths).clamp_(min=0)


def label_histogram(labels: Tensor, num_labels: int) -> list[float]:
    """
    The fraction of each class, from 0 to num_labels - 1, among labels, int64, (num,).

    Args:
        labels: each from 0 to num_labels - 1.
        num_labels: of the classes, also of those that no label is of.

    Returns:
        `num_labels` fractions that add up to 1.
    """
    counts = torch.bincount(labels.cpu(), minlength=num_labels)
    return (counts.double() / len(labels)).tolist()


def label_entropy(histogram: list[float]) -> float:
    """-sum p ln p over a histogram's fractions p, in nats: 0 for one class alone, ln(num_labels) for all alike."""
    return torch.special.entr(torch.tensor(histogram, dtype=torch.float64)).sum().item()


def classes_covered(histogram: list[float]) -> int:
    """How many classes have 1 % of the samples or more."""
    return sum(share >= COVERED_FROM for share in histogram)


@torch.no_grad()
def generator_scores(
    samples: Tensor | Iterable[Tensor],
    real_test: Tensor | Iterable[Tensor],
    real_train: Tensor | Iterable[Tensor],
    classifier: Any,
    *,
    batch_size: int = 500,
    every_score: bool = False,
) -> dict[str, Any]:
    """
    Scores generated images by the features and labels of a classifier. Comparable only with scores by the same
    classifier for the same number of samples; the floor says what as many real images would get.

    Args:
        samples: float32 in [0, 1], (num, channels, height, width); or an iterable of such batches, of any sizes, each
            of which is read once, so that the images need not be in memory together.
        real_test: the test images, likewise.
        real_train: as many training images as there are samples, likewise.
        classifier: a module with `features(pixel_values) -> (batch, feature_size)` and
            `classifier(pixel_values).logits -> (batch, num_labels)`; it is put into eval mode.
        batch_size: images that the classifier sees at once, at most.
        every_score: whether `test_fid_standard_error`, of `frechet_standard_error` over the samples (50 Fréchet
            distances), `test_density` and `test_coverage`, see `density_coverage`, are given too.

    Returns:
        `test_fid`: `frechet_distance` between samples and test images; `test_fid_floor`: the same between the training
        and the test images; `test_precision`, `test_recall`: see `precision_recall`; `test_class_histogram`,
        `test_label_entropy`, `test_classes_covered`: of the samples' most likely labels, the share of each class,
        their entropy in nats, the classes with 1 % of the samples or more.

    Raises:
        UsageError: for images of the wrong shape, type or range, too few of them, or another number of training images
            than of samples.
        HwzooError: for samples that hold NaN.
    """
    classifier.eval()
    read = {"classifier": classifier, "batch_size": batch_size}
    made, logits = _outputs("samples", samples, classifier.features, lambda x: classifier(x).logits, **read)
    (test,) = _outputs("test images", real_test, classifier.features, **read)
    (train,) = _outputs("training images", real_train, classifier.features, **read)
    if len(train) != len(made):
        raise UsageError(f"{len(train)} training images for {len(made)} samples: the floor needs as many")
    precision, recall = precision_recall(test, made)
    histogram = label_histogram(logits.argmax(-1), logits.shape[-1])
    further = {}
    if every_score:
        further["test_fid_standard_error"] = frechet_standard_error(made, test)
        further["test_density"], further["test_coverage"] = density_coverage(test, made)
    return further | {
        "test_fid": frechet_distance(made, test),
        "test_fid_floor": frechet_distance(train, test),
        "test_precision": precision,
        "test_recall": recall,
        "test_class_histogram": histogram,
        "test_label_entropy": label_entropy(histogram),
        "test_classes_covered": classes_covered(histogram),
    }


def load_inception(feature: int | nn.Module = 2048, device: torch.device | str = "cpu") -> Any:
    """
    torchmetrics' `FrechetInceptionDistance`, for `inception_scores`; early, as its weights may be missing.

    Args:
        feature: the size of Inception's layer, or a network for float32 images in [0, 1], (batch, 3, height, width),
            that gives (batch, num_features) and has `num_features`.
        device: where it computes; the CPU does for one without float64, in which it adds up (MPS).

    Returns:
        The metric, in eval mode.

    Raises:
        UsageError: when torch-fidelity, which has Inception, is not installed.
        HwzooError: when the weights cannot be downloaded.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    try:
        inception = FrechetInceptionDistance(feature=feature, normalize=True).eval()
    except ModuleNotFoundError as error:
        raise UsageError(
            "FID on Inception's features needs torch-fidelity: pip install torch-fidelity (it downloads the weights, "
            "90 MB, when first used)"
        ) from error
    except OSError as error:
        raise HwzooError(f"the weights of Inception cannot be downloaded: {error}") from error
    try:
        return inception.to(device)
    except (TypeError, RuntimeError):
        return inception.cpu()


@torch.no_grad()
def inception_scores(
    samples: Tensor | Iterable[Tensor],
    real_test: Tensor | Iterable[Tensor],
    real_train: Tensor | Iterable[Tensor],
    inception: Any,
    *,
    batch_size: int = 50,
) -> dict[str, float]:
    """
    `test_inception_fid` and `test_inception_fid_floor`: as `test_fid` and `test_fid_floor` of `generator_scores`, on
    the features of Inception, trained on ImageNet. Grey images are repeated to three channels; all are resized to
    299 x 299 as in the original. `inception` is what `load_inception` gives.

    Args:
        samples: float32 in [0, 1], (num, channels, height, width); or an iterable of such batches, each read once.
        real_test: the test images, likewise.
        real_train: as many training images as there are samples, likewise.
        inception: of `load_inception`; its sums are reset.
        batch_size: images that Inception sees at once, at most.

    Returns:
        The two numbers by name, at least 0.

    Raises:
        UsageError: as `generator_scores`, or for images of other than 1 or 3 channels.
    """
    scores, counts = {}, {}
    device = inception.real_features_sum.device
    inception.reset_real_features = True  # it may have been used before
    inception.reset()
    inception.reset_real_features = False  # from here on `reset` keeps the sums of the test images

    def update(what, images, real):
        counts[what] = 0
        for batch in _batches(what, images, device, batch_size):
            if batch.shape[1] not in (1, 3):
                raise UsageError(f"{what} have {batch.shape[1]} channels; Inception takes 1 (grey) or 3")
            inception.update(batch.expand(-1, 3, -1, -1), real=real)
            counts[what] += len(batch)
        if counts[what] < 2:
            raise UsageError(f"{what}: {counts[what]} images have no covariance; FID needs at least 2")

    update("test images", real_test, True)
    for name, what, images in (
        ("test_inception_fid", "samples", samples),
        ("test_inception_fid_floor", "training images", real_train),
    ):
        inception.reset()
        update(what, images, False)
        scores[name] = max(0.0, inception.compute().item())
    if counts["training images"] != counts["samples"]:
        raise UsageError(
            f"{counts['training images']} training images for {counts['samples']} samples: the floor needs as many"
        )
    return scores


def _outputs(
    what: str, images: Tensor | Iterable[Tensor], *functions: Callable, classifier: nn.Module, batch_size: int
) -> list[Tensor]:
    """What each function gives for the batches, one behind the other, on the CPU."""
    device = next(classifier.parameters()).device
    rows = [[each(batch).cpu() for each in functions] for batch in _batches(what, images, device, batch_size)]
    if not rows:
        raise UsageError(f"{what}: there are none")
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def _batches(what: str, images: Tensor | Iterable[Tensor], device: torch.device, batch_size: int) -> Iterable[Tensor]:
    """At most `batch_size` at once, on the device; checked, as a range of [-1, 1] would only give a worse score."""
    for given in [images] if isinstance(images, Tensor) else images:
        if given.ndim != 4 or given.dtype != torch.float32:
            raise UsageError(
                f"{what} are {given.dtype} of shape {tuple(given.shape)}; they must be float32 of shape "
                "(batch, channels, height, width)"
            )
        if not len(given):
            continue
        low, high = (bound.item() for bound in given.aminmax())
        if not (low == low and high == high):
            raise HwzooError(f"{what} hold pixels that are NaN")
        if low < 0 or high > 1:
            raise UsageError(f"{what} have pixels from {low:.4g} to {high:.4g}; they must be in [0, 1]")
        for batch in given.split(batch_size):
            yield batch.to(device)

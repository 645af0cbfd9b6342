"""What features are worth: probes of them by simple classifiers, and how they lie on the sphere."""

import copy
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from .likelihood import first_of_each_class

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of C, the inverse strength of the probe's penalty, among which is chosen
NUM_FOLDS, NUM_TO_CHOOSE = 3, 2000  # of the cross-validation that chooses, and images for it at most
MAX_ITERATIONS = 200  # of L-BFGS
PROBE_NEIGHBORS = 20
PER_CLASS, NUM_DRAWS = 10, 5  # labels of the probe with few of them, and how often they are drawn
MOST_EXACT = 1000  # dimensions of which they are found by an exact decomposition
NEVER = -1e6  # logit of a class that the probe has seen no example of
NUM_COMPONENTS = 64  # of the principal component analysis
SCORES = ("linear_accuracy", "few_labels_accuracy", "few_labels_accuracy_standard_error", "knn_accuracy")
PROBES = (
    f"linear: multinomial logistic regression on standardised features, L2 penalty chosen by {NUM_FOLDS}-fold "
    f"cross-validation on at most {NUM_TO_CHOOSE} training images, at most {MAX_ITERATIONS} iterations; few labels: "
    f"the same on {PER_CLASS} labels a class, mean and standard error of {{num_draws}} draws; kNN: the "
    f"{PROBE_NEIGHBORS} nearest training images by cosine similarity; principal components: {NUM_COMPONENTS} of the "
    "pixels; alignment, uniformity and spread: of the normalised projections of two views of test images"
)


@torch.inference_mode()
def features_of(function: Callable[[Tensor], Tensor], images: Any, batch_size: int) -> Tensor:
    """
    What a function makes of all images.

    Args:
        function: of pixel values, (batch, channels, height, width) in [0, 1], gives (batch, size).
        images: `len`, and `pixel_values(indices)`.
        batch_size: images at once.

    Returns:
        float32, (images, size), on the CPU.
    """
    parts = (slice(start, start + batch_size) for start in range(0, len(images), batch_size))
    return torch.cat([function(images.pixel_values(part)).flatten(1).float().cpu() for part in parts])


def calibrated(model: torch.nn.Module, images: Any, num: int = 5000) -> torch.nn.Module:
    """
    A network whose batch normalisation has the statistics of images as they are: an untrained one gives features of
    some use then, the fairer baseline.

    Args:
        model: of pixel values.
        images: `spread(num)`, of which `len` and `pixel_values(indices)`; indices and pixels on the model's device.
        num: of the images at most, evenly spaced.

    Returns:
        A copy, in eval mode.
    """
    model, some = copy.deepcopy(model), images.spread(num)
    device = next(chain(model.parameters(), model.buffers()), torch.empty(0)).device
    parts = torch.arange(len(some), device=device).tensor_split(-(-len(some) // 500))  # none of one image
    update_bn((some.pixel_values(part) for part in parts), model)
    return model.eval()


def principal_components(train: Tensor, *others: Tensor, num_components: int = NUM_COMPONENTS) -> list[Tensor]:
    """
    The coordinates of examples along the directions in which those of the training vary most.

    Args:
        train: (num, size).
        others: of the same size.
        num_components: at most; no more than there are dimensions or training examples.

    Returns:
        The training's and the others', (num, num_components) each.
    """
    from sklearn.decomposition import PCA

    # Of many dimensions the exact decomposition would take hours: a randomised one has the same first directions.
    solver = "covariance_eigh" if train.shape[1] <= MOST_EXACT else "auto"
    rows = [each.detach().double().numpy() for each in (train, *others)]
    model = PCA(min(num_components, *train.shape), svd_solver=solver, random_state=0).fit(rows[0])
    return [torch.from_numpy(model.transform(each)).float() for each in rows]


def linear_probe(features: Tensor, labels: Tensor, num_classes: int | None = None) -> tuple[Tensor, Tensor]:
    """
    Multinomial logistic regression on standardised features, with an L2 penalty on its weights; how strong it is,
    cross-validation within the examples chooses (`STRENGTHS`; the weakest where a class has too few for that).

    Args:
        features: (num, size).
        labels: int64, (num,); of one class alone, that is the answer to all.
        num_classes: the largest label and one when not given.

    Returns:
        Weight, (num_classes, size), and bias, (num_classes,), of the features as they are: float32. A class without
        examples is never chosen.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    features = _plain(features)
    num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
    classes, labels = labels.unique(return_inverse=True)
    weight, bias = torch.zeros(num_classes, features.shape[1]), torch.full((num_classes,), NEVER)
    if len(classes) == 1:
        bias[classes] = 0.0
        return weight, bias
    mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    # Where all are equal they tell nothing; rounded means would leave a little there, for a weight of 1e6 times that.
    std = std.where((features != features[0]).any(0), torch.inf)
    inputs, targets = ((features - mean) / std).numpy(), labels.numpy()
    model, num = LogisticRegression(max_iter=MAX_ITERATIONS), min(NUM_TO_CHOOSE, len(labels))
    some = torch.arange(num) * len(labels) // num  # evenly spaced: a data set may be in the order of its classes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are part of the protocol
        strength = STRENGTHS[-1]
        if labels[some].bincount(minlength=len(classes)).min() >= NUM_FOLDS:
            search = GridSearchCV(model, {"C": STRENGTHS}, cv=NUM_FOLDS, refit=False)
            strength = search.fit(inputs[some.numpy()], targets[some.numpy()]).best_params_["C"]
        fitted = model.set_params(C=strength).fit(inputs, targets)
    coefficients, intercept = torch.from_numpy(fitted.coef_).double(), torch.from_numpy(fitted.intercept_).double()
    if len(coefficients) == 1:  # of two classes: the log-odds of the second
        coefficients, intercept = (torch.cat([-each / 2, each / 2]) for each in (coefficients, intercept))
    coefficients = coefficients / std.double()
    weight[classes], bias[classes] = coefficients.float(), (intercept - coefficients @ mean.double()).float()
    return weight, bias


def _plain(features: Tensor) -> Tensor:
    """Without a gradient, and as float32, or float64 where it is: what NumPy and all of torch's functions take."""
    return features.detach().to(torch.promote_types(features.dtype, torch.float32))


def neighbor_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num: int = PROBE_NEIGHBORS) -> float:
    """
    How many examples have the label that most of their nearest neighbours in the training have, by cosine similarity.

    Args:
        train: features, (num, size), and labels, int64, (num,).
        test: alike.
        num: of neighbours, at most the training examples.

    Returns:
        The fraction, in [0, 1].
    """
    from sklearn.neighbors import KNeighborsClassifier

    # Of points on the sphere the Euclidean distance has the order of the cosine, and a faster search.
    features, wanted = (F.normalize(_plain(each[0]), dim=1).numpy() for each in (train, test))
    model = KNeighborsClassifier(min(num, len(features)), algorithm="brute").fit(features, train[1].numpy())
    return float((model.predict(wanted) == test[1].numpy()).mean())


def nearest(train: Tensor, test: Tensor) -> Tensor:
    """
    The training examples nearest to others, by cosine similarity.

    Args:
        train: features, (num, size).
        test: alike.

    Returns:
        int64, an index for each of the others.
    """
    return (F.normalize(test, dim=1) @ F.normalize(train, dim=1).T).argmax(1)


def probe_scores(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
    num_classes: int | None = None,
) -> tuple[dict[str, float], tuple[Tensor, Tensor]]:
    """
    What three simple classifiers reach on features: a linear probe on all labels, one on `PER_CLASS` labels a class
    (the mean over draws of them, and its standard error over the draws), and nearest neighbours.

    Args:
        train: features, (num, size), and labels, int64, (num,).
        test: alike.
        seed: of the draws: the same images for all features.
        num_draws: of the labels, two at least.
        num_classes: as of `linear_probe`.

    Returns:
        Fractions in [0, 1] by name: `linear_accuracy`, `few_labels_accuracy`, `few_labels_accuracy_standard_error`,
        `knn_accuracy`; and the probe on all labels, weight and bias.
    """
    (features, labels), generator = train, torch.Generator().manual_seed(seed)
    few = []
    for _ in range(num_draws):
        order = torch.randperm(len(labels), generator=generator)
        drawn = order[first_of_each_class(labels[order], PER_CLASS)]
        few.append(accuracy_of(linear_probe(features[drawn], labels[drawn]), *test))
    draws, probe = torch.tensor(few, dtype=torch.float64), linear_probe(features, labels, num_classes)
    return {
        "linear_accuracy": accuracy_of(probe, *test),
        "few_labels_accuracy": draws.mean().item(),
        "few_labels_accuracy_standard_error": draws.std().item() / num_draws**0.5,
        "knn_accuracy": neighbor_accuracy(train, test),
    }, probe


def accuracy_of(probe: tuple[Tensor, Tensor], features: Tensor, labels: Tensor) -> float:
    """
    The fraction of examples whose largest logit is that of their label.

    Args:
        probe: weight, (classes, size), and bias, (classes,).
        features: (num, size).
        labels: int64, (num,).

    Returns:
        In [0, 1].
    """
    return (F.linear(features.to(probe[0].dtype), *probe).argmax(1) == labels).double().mean().item()


def sphere_scores(first: Tensor, second: Tensor) -> dict[str, float]:
    """
    How the outputs of two views of each image lie on the sphere, once normalised.

    Args:
        first: (num, size).
        second: of the other views, alike.

    Returns:
        `alignment`: the mean squared distance of the views of an image (Wang and Isola, arXiv:2005.10242, alpha 2),
        from 0 to 4, 0 where they are one point. `uniformity`: the logarithm of the mean of exp(-2 d^2) over all pairs
        of first views (there, with t 2), from -8 to 0, 0 where all are one point. `projection_std`: the standard
        deviation of first views, the mean over the dimensions (arXiv:2011.10566), relative to that of points spread
        alike in all directions: from 0, collapsed, to 1.
    """
    first, second = F.normalize(_plain(first), dim=1), F.normalize(_plain(second), dim=1)
    return {
        "alignment": (first - second).square().sum(1).mean().item(),
        "uniformity": F.pdist(first).square().mul(-2).exp().mean().log().item(),
        "projection_std": first.std(0, correction=0).mean().item() * first.shape[1] ** 0.5,
    }


def effective_rank(outputs: Tensor) -> float:
    """
    exp of the entropy of the normalised singular values of centred outputs (Roy and Vetterli, 2007): in how many
    directions they vary, from 1 to the size; 0 where they are one point: (num, size) -> a number.
    """
    values = torch.linalg.svdvals((outputs - outputs.mean(0)).double())
    total = values.sum()
    return torch.special.entr(values / total).sum().exp().item() if total > 0 else 0.0


def compare_features(
    ways: Mapping[str, Callable[[Tensor], Tensor]],
    train: Any,
    test: Any,
    batch_size: int,
    *,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> tuple[dict[str, dict[str, float]], tuple[Tensor, Tensor], Tensor]:
    """
    The scores of several features, and always beside them of the pixels as they are and of their principal components.

    Args:
        ways: name -> what makes features, (batch, size), of pixel values; the first is the one that is examined.
        train: images: `len`, `labels`, `class_names`, and `pixel_values(indices)`.
        test: alike.
        batch_size: images at once.
        seed: as of `probe_scores`.
        num_draws: as of `probe_scores`.

    Returns:
        Name -> scores, as of `probe_scores`; of the first, its linear probe and its features of the test images.
    """
    ways = dict(ways) | {"raw pixels": lambda pixel_values: pixel_values}
    found = {name: [features_of(way, part, batch_size) for part in (train, test)] for name, way in ways.items()}
    found["principal components"] = principal_components(*found["raw pixels"])
    labels, first = (train.labels.cpu(), test.labels.cpu()), next(iter(ways))
    told = {"seed": seed, "num_draws": num_draws, "num_classes": len(train.class_names)}
    scored = {name: probe_scores(*zip(each, labels, strict=True), **told) for name, each in found.items()}
    return {name: scores for name, (scores, _) in scored.items()}, scored[first][1], found[first][1]


def comparison(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The scores of several features, by their name, as a table of a line each, in per cent."""
    width = max(map(len, scores))
    lines = [f"{'accuracy in %':<{width}}   linear   {PER_CLASS} labels a class      kNN"]
    for name, each in scores.items():
        linear, few, error, knn = (100 * each[key] for key in SCORES)
        lines.append(f"{name:<{width}}   {linear:6.2f}     {few:6.2f} +- {error:5.2f}   {knn:6.2f}")
    return "\n".join(lines)


def accuracy_panels(scores: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """The scores of several features as panels of bars: label -> (accuracies, standard errors where known, else 0)."""
    linear, few, error, knn = ([each[key] for each in scores.values()] for key in SCORES)
    none = [0.0] * len(scores)
    return {"linear probe": (linear, none), f"{PER_CLASS} labels a class": (few, error), "kNN": (knn, none)}

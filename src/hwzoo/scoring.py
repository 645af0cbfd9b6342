"""How generated images are scored: by the features and labels of a classifier of the data they shall look like."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification
from transformers.utils import SAFE_WEIGHTS_NAME

from . import generators, hub, metrics
from .data import ImageSplits
from .errors import UsageError
from .files import public_name, sha256
from .loading import weight_files
from .models import ClassifierForImageClassification, family_of
from .training import Flags, flag, record_of

UNKNOWN_DATA = "mnist"  # what a model without a record is compared with
FLOOR_SEED = 0  # of the choice of the floor's training images: the same for every model
SINGULAR = "no more images than features: the covariances are singular, FID says little beside its floor"


@dataclass
class ScoreFlags(Flags):
    """The flags of a recipe that ends with scores of its samples."""

    FREE = {"num_test_samples", "classifier"}

    num_test_samples: int = flag(10_000, "samples that are scored, at most as many as training images", "[4, inf)")
    classifier: str | None = flag(
        None, "folder or Hub id of the classifier that scores them; the data set's own, if any, when not given"
    )


def with_data_of_training(settings: Any) -> Any:
    """
    What is to be compared with which data: where no data is given, that of the model's training, read as it was read
    there, which the model's preset.yaml tells, in its folder or on the Hub.

    Args:
        settings: flags with `model_name_or_path`, `dataset_name`, `data_dir` and those of `training.ImageData`.

    Returns:
        They with a `dataset_name`; what was given stays.

    Raises:
        UsageError: for a preset.yaml that cannot be read, and for what is neither a folder nor a Hub id.
        HwzooError: for a repository that is not there or that the token may not read, and when the Hub does not tell
            whether it has one.
    """
    if settings.dataset_name is not None:
        return settings
    generators.check_name(settings.model_name_or_path)
    values = {"dataset_name": UNKNOWN_DATA} | record_of(settings.model_name_or_path)
    unasked = {each.name for each in fields(settings) if getattr(settings, each.name) == each.default} - settings.asked
    return replace(settings, **{key: new for key, new in values.items() if key in unasked})


class Scorer:
    """
    Scores samples at the end of a run.

    Args:
        data: what they are compared with.
        flags: of the recipe.
        device: for the classifier.

    Raises:
        UsageError: for a classifier that does not fit the data.
    """

    def __init__(self, data: ImageSplits, flags: ScoreFlags, device: torch.device):
        self.data, self.flags = data, flags
        wanted = flags.classifier is not None or own_classifier(data) is not None
        self.classifier = load_classifier(data, flags.classifier).to(device) if wanted else None

    def __call__(self, draw: Callable[[int], Tensor], made_by: str, limit: int | None = None) -> dict:
        """
        The scores of `score`; where the data has no classifier only a `protocol` that says so. Of samples that hold
        NaN `test_fid` is NaN, by which an `Ending` saves all and ends with an error.

        Args:
            draw: gives so many samples, (num, channels, height, width) in [0, 1].
            made_by: what makes them, with the seed, for the protocol.
            limit: samples and test images at most, for a rehearsal.
        """
        if self.classifier is None:
            return {
                "protocol": f"{self.data.described}: samples not scored, no classifier for it comes with the package"
            }
        num_samples = min(limit or self.flags.num_test_samples, len(self.data.train))
        samples = draw(num_samples).cpu()
        if bad := samples.isnan().flatten(1).any(1).sum().item():
            told = f"samples not scored: {bad} of {num_samples} of {made_by} hold pixels that are NaN"
            return {"test_fid": math.nan, "protocol": f"{self.data.described}: {told}"}
        return score(samples, self.data, self.classifier, made_by, limit=limit)


def scored(
    test: Callable[[int | None], dict], model: Any, data: ImageSplits, run: Any, flags: ScoreFlags, accelerator: Any
) -> Callable[[int | None], dict]:
    """
    The test of an `Ending` with the scores of a model's samples after its own results, the protocols joined. The
    first process samples and scores.

    Args:
        test: called as `test(limit)`, gives results by name, `protocol` among them.
        model: with `sample`; classes, if any, are drawn uniformly.
        data: what the samples are compared with.
        run: the flags of the run: `seed` of the samples, `eval_batch_size` of them at once.
        flags: of scoring.
        accelerator: of `start`.

    Returns:
        The test with the scores.

    Raises:
        UsageError: for a classifier that does not fit the data.
    """
    scorer = Scorer(data, flags, accelerator.device)

    def test_and_score(limit: int | None) -> dict:
        results = test(limit)
        if not accelerator.is_main_process:
            return results
        draw = generators.sampler(model.eval(), run.seed, run.eval_batch_size)
        classes = ", classes drawn uniformly" if family_of(model).num_classes(model) else ""
        scores = scorer(draw, f"this model, seed {run.seed}{classes}", limit)
        return results | scores | {"protocol": f"{results['protocol']}; {scores['protocol']}"}

    return test_and_score


def score(
    samples: Tensor,
    data: ImageSplits,
    classifier: ClassifierForImageClassification,
    made_by: str,
    inception=None,
    limit: int | None = None,
    every_score: bool = False,
    split: str = "test",
) -> dict:
    """
    The scores of `metrics.generator_scores`, and `protocol`, which says how they were computed.

    Args:
        samples: (num_samples, channels, height, width) in [0, 1], no more than there are training images.
        data: what they are compared with: all its test images, and as many training images as there are samples.
        classifier: of `load_classifier`.
        made_by: what made the samples, with the seed, for the protocol.
        inception: of `metrics.load_inception`, for FID on its features as well.
        limit: test images at most, for a rehearsal.
        every_score: as of `metrics.generator_scores`.
        split: what `data.test` holds, for the protocol.

    Returns:
        Numbers and texts by name, as all_results.json holds them.
    """
    num_samples, num_features = len(samples), classifier.feature_size
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(FLOOR_SEED))[:num_samples]

    def pixel_values(images, indices):
        return (images.pixel_values(part) for part in indices.split(500))

    def real():
        return pixel_values(data.test, torch.arange(len(data.test))[:limit]), pixel_values(data.train, chosen)

    scores = metrics.generator_scores(samples, *real(), classifier, every_score=every_score)
    if inception is not None:
        scores |= metrics.inception_scores(samples, *real(), inception)
    weights = _saved_sha256(classifier)
    name = public_name(classifier.name_or_path) or f"{type(classifier).__name__}, not saved"
    shipped = Path(classifier.name_or_path).parent == hub.CLASSIFIERS
    scores |= {"classifier": name, "classifier_sha256": weights}
    protocol = [
        f"{data.described}: {num_samples} samples of {made_by}, against all {len(data.test)} {split} images",
        f"FID, precision and recall (k = {metrics.NUM_NEIGHBORS}) on the {num_features} features of the classifier "
        f"{name}{' of hwzoo' if shipped else ''} (sha256 {weights}), not Inception's: comparable only under the same "
        "classifier and the same number of samples",
        f"floor: the FID of {num_samples} training images, drawn with seed {FLOOR_SEED}, against the same {split} "
        "images",
        "classes: the classifier's most likely one; covered: by 1 % of the samples or more; entropy in nats",
    ]
    if min(num_samples, len(data.test)) <= num_features:
        protocol.append(SINGULAR)
    if every_score:
        protocol.append(f"density and coverage: k = {metrics.DENSITY_NEIGHBORS}, on the same features")
    if inception is not None:
        protocol.append("test_inception_fid: on Inception's 2,048 features, grey images repeated to three channels")
    return scores | {"protocol": "; ".join(protocol)}


def _saved_sha256(model: torch.nn.Module) -> str:
    """Of the file of its weights, or of their parts one after the other; of its parameters where it has no such."""
    files = weight_files(model.name_or_path) if model.name_or_path else []  # of one built in memory
    files = [path for path in files if path.name == SAFE_WEIGHTS_NAME] or files  # which is the one that is loaded
    return sha256(b"".join(path.read_bytes() for path in files)) if files else weights_sha256(model)


def weights_sha256(model: torch.nn.Module) -> str:
    """The SHA-256, hexadecimal, of the parameters of a model on any device, in their order."""
    weights = torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()])
    return sha256(weights.numpy().tobytes())


def own_classifier(data: ImageSplits) -> str | None:
    """The name of the classifier that comes with the package for a data set, by what it is, not by its name."""
    name = data.known_as
    return name if name is not None and (hub.CLASSIFIERS / name / "config.json").exists() else None


def load_classifier(
    data: ImageSplits, name_or_path: str | None = None, flag: str = "classifier"
) -> ClassifierForImageClassification:
    """
    The classifier whose features score images of a data set: the one of this name, or the data set's own.

    Args:
        data: with its test images and class names.
        name_or_path: folder or Hub id; None for the data set's own.
        flag: by which it was named, for errors.

    Returns:
        The classifier, in eval mode.

    Raises:
        UsageError: when the data set has none, or for one of other images or another number of classes.
    """
    if name_or_path is None:
        own = own_classifier(data)
        if own is None:
            known = sorted(path.parent.name for path in hub.CLASSIFIERS.glob("*/config.json"))
            raise UsageError(
                f"--{flag} is not given, and none comes with the package for {data.name} (only for "
                f"{', '.join(known) or 'no data set'}); give the folder or Hub id of one, as "
                "`hwzoo train continual --dataset_name DATA --strategy joint --num_tasks 1` trains it"
            )
        return hub.load_classifier(own)
    try:
        classifier = hub.load(AutoModelForImageClassification, name_or_path)
    except ValueError as error:
        raise UsageError(f"--{flag} {name_or_path} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not isinstance(classifier, ClassifierForImageClassification):
        raise UsageError(f"--{flag} {name_or_path}: a {type(classifier).__name__} is no classifier of the zoo")
    wanted = {"image_size": data.test.image_size, "num_channels": data.test.num_channels}
    for key, value in (wanted | {"num_labels": len(data.test.class_names)}).items():
        if getattr(classifier.config, key) != value:
            raise UsageError(
                f"--{flag} {name_or_path}: it has {key} {getattr(classifier.config, key)}, the data {value}"
            )
    return hub.with_named_outputs(classifier)

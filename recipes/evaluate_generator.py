"""
Scores what makes images, by the features and labels of a classifier: any zoo model with `sample`, any pipeline of
diffusers, or any folder of PNG images.

    python recipes/evaluate_generator.py outputs/vae --dataset_name mnist
    python recipes/evaluate_generator.py images --dataset_name digits --classifier outputs/digits

Writes scores.json and samples.png: FID (Heusel et al., arXiv:1706.08500) with its floor, the FID of as many training
images, precision and recall (Kynkäänniemi et al., arXiv:1904.06991), and which classes the samples show. mnist and
fashion_mnist have a classifier that comes with the package; one for other data is trained by
`train_continual.py --strategy joint --num_tasks 1 --backbone wide_cnn`.
"""

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel, AutoModelForImageClassification
from transformers.utils import cached_file

from hwzoo import ContinualForImageClassification, diffusion, hub, metrics, training
from hwzoo.data import ImageSplits, load_images
from hwzoo.errors import HwzooError, UsageError
from hwzoo.files import settled, sha256, write_json
from hwzoo.loading import TRUST, check_finite, loading
from hwzoo.retry import has_file, retried
from hwzoo.training import flag

FLOOR_SEED = 0  # of the choice of the floor's training images: the same for every model
MOST_SAMPLES = 10_000


@dataclass
class Settings(training.Flags):
    FIRST = "model_name_or_path"

    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    model_name_or_path: str | None = flag(None, "folder or Hub id of a model or pipeline, or a folder of PNG images")
    trust_remote_code: bool = flag(False, TRUST)
    dataset_name: str = flag("mnist", "what the images are compared with; as in the other recipes")
    data_dir: str | None = flag(None, "folder that holds mnist/ or fashion_mnist/; HWZOO_DATA_DIR when not given")
    num_samples: int | None = flag(
        None, "samples; 10,000, or as many as there are training images (or PNGs), when not given", "[4, inf)"
    )
    seed: int = flag(0, "of the samples", "[0, 4294967295]")
    classifier: str | None = flag(None, "folder or Hub id of a classifier; the data set's own when not given")
    inception_fid: bool = flag(False, "also FID on Inception's features; needs torch-fidelity and its weights")
    scheduler: Literal[diffusion.SCHEDULERS] | None = flag(None, "of a pipeline; its own when not given")
    num_inference_steps: int | None = flag(None, "of a pipeline; its own default when not given", "[1, inf)")
    center_crop: bool = flag(False, "cut samples that are larger than the data (a model of padded images)")
    eval_batch_size: int = flag(500, "samples a batch", "[1, inf)")
    output_dir: str = flag("outputs/evaluate_generator", "folder for scores.json and samples.png")
    overwrite_output_dir: bool = flag(False, "write over an earlier scores.json")


def main(settings: Settings) -> dict:
    # 1. what is asked for: all of it is found, or told to be wrong, before hours of sampling
    folder, name = Path(settings.output_dir), settings.model_name_or_path
    if name is None:
        raise UsageError("--model_name_or_path is missing: a model, a pipeline or a folder of PNG images")
    if (folder / "scores.json").exists() and not settings.overwrite_output_dir:
        raise UsageError(f"--output_dir {folder} holds scores.json; give --overwrite_output_dir or another folder")
    device = PartialState().device
    data = load_images(settings.dataset_name, settings.data_dir)
    classifier = load_classifier(data, settings.classifier).to(device)
    inception = metrics.load_inception().to(device) if settings.inception_fid else None
    sample, made_by, most = open_generator(settings, device)
    most = min(most, len(data.train))
    num_samples = settings.num_samples or min(most, MOST_SAMPLES)
    if num_samples > most:
        raise UsageError(
            f"--num_samples is {num_samples}; there are {len(data.train)} training images for the floor"
            + (f" and {most} PNG images" if most < len(data.train) else "")
        )
    training.make_output_dir(folder)

    # 2. samples, in memory once
    shape = data.test.images.shape[1:]
    samples = torch.empty(num_samples, *shape)
    generator = torch.Generator().manual_seed(settings.seed)
    places = torch.arange(num_samples).split(settings.eval_batch_size)
    for part in tqdm(places, desc="samples", unit="batch", disable=None):
        images = sample(part, num_samples, generator)
        if settings.center_crop:
            top, left = ((images.shape[i] - shape[i - 1]) // 2 for i in (2, 3))
            images = images[:, :, max(0, top) :, max(0, left) :][:, :, : shape[1], : shape[2]]
        if images.shape[1:] != shape:
            raise UsageError(
                f"--model_name_or_path {name}: its images are {by(images.shape[1:])} (channels x height x width), "
                f"those of --dataset_name {settings.dataset_name} {by(shape)}"
            )
        samples[part] = images.cpu().float()

    # 3. scores
    results = {"model": name, "dataset": data.name, "num_samples": num_samples, "seed": settings.seed}
    made_by += f", seed {settings.seed}" + (", their edges cut off" if settings.center_crop else "")
    results |= score(samples, data, classifier, made_by, inception)

    # 4. save
    training.save_image_grid(samples[:200], folder / "samples.png", columns=20)
    write_json(folder / "scores.json", results)
    shares = zip(data.test.class_names, results["test_class_histogram"], strict=True)
    for label, value in (*results.items(), *((f"share of {label}", share) for label, share in shares)):
        if isinstance(value, int | float):
            print(f"{label:>32} {value:.4f}" if isinstance(value, float) else f"{label:>32} {value}")
    print(results["protocol"])
    return results


def score(
    samples: Tensor, data: ImageSplits, classifier: ContinualForImageClassification, made_by: str, inception=None
) -> dict:
    """
    The scores of `metrics.generator_scores`, and `protocol`, which says how they were computed; `train_gan.py` ends
    with it too.

    Args:
        samples: (num_samples, channels, height, width) in [0, 1], no more than there are training images.
        data: what they are compared with: all its test images, and as many training images as there are samples.
        classifier: of `load_classifier`.
        made_by: what made the samples, with the seed, for the protocol.
        inception: of `metrics.load_inception`, for FID on its features as well.
    """
    num_samples, num_features = len(samples), classifier.feature_size
    chosen = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(FLOOR_SEED))[:num_samples]

    def pixel_values(images, places):
        return (images.pixel_values(part) for part in places.split(500))

    def real():
        return pixel_values(data.test, torch.arange(len(data.test))), pixel_values(data.train, chosen)

    scores = metrics.generator_scores(samples, *real(), classifier)
    if inception is not None:
        scores |= metrics.inception_scores(samples, *real(), inception)
    weights = sha256(Path(cached_file(settled(classifier.name_or_path), "model.safetensors")).read_bytes())
    shipped = Path(classifier.name_or_path).parent == hub.CLASSIFIERS
    name = Path(classifier.name_or_path).name if shipped else classifier.name_or_path
    scores |= {"classifier": name, "classifier_sha256": weights}
    sentence = [
        f"{data.name}: {num_samples} samples of {made_by}, against all {len(data.test)} test images",
        f"FID, precision and recall (k = {metrics.NUM_NEIGHBORS}) on the {num_features} features of the classifier "
        f"{name}{' of hwzoo' if shipped else ''} (sha256 {weights}), not Inception's: comparable only under the same "
        "classifier and the same number of samples",
        f"floor: the FID of {num_samples} training images, drawn with seed {FLOOR_SEED}, against the same test images",
        "classes: the classifier's most likely one; covered: by 1 % of the samples or more; entropy in nats",
    ]
    if min(num_samples, len(data.test)) <= num_features:
        sentence.append("no more images than features: the covariances are singular, FID says little beside its floor")
    if inception is not None:
        sentence.append("test_inception_fid: on Inception's 2,048 features, grey images repeated to three channels")
    return scores | {"protocol": "; ".join(sentence)}


def load_classifier(data: ImageSplits, name_or_path: str | None = None) -> ContinualForImageClassification:
    """
    The classifier whose features score images of a data set: the one of this name, or the data set's own.

    Raises:
        UsageError: when the data set has none, or for one of other images or another number of classes.
    """
    if name_or_path is None:
        own = sorted(path.parent.name for path in hub.CLASSIFIERS.glob("*/config.json"))
        if data.name not in own:
            raise UsageError(
                f"--classifier is not given, and none comes with the package for {data.name} (only for "
                f"{', '.join(own) or 'no data set'}); give the folder or Hub id of one, as "
                "`train_continual.py --strategy joint --num_tasks 1` trains it"
            )
        return hub.load_classifier(data.name)
    try:
        classifier = hub.load(AutoModelForImageClassification, name_or_path)
    except ValueError as error:
        raise UsageError(f"--classifier {name_or_path} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not isinstance(classifier, ContinualForImageClassification):
        raise UsageError(f"--classifier {name_or_path}: a {type(classifier).__name__} is no classifier of the zoo")
    wanted = {"image_size": data.test.image_size, "num_channels": data.test.num_channels}
    for key, value in (wanted | {"num_labels": len(data.test.class_names)}).items():
        if getattr(classifier.config, key) != value:
            raise UsageError(
                f"--classifier {name_or_path}: it has {key} {getattr(classifier.config, key)}, the data {value}"
            )
    return classifier


def open_generator(settings: Settings, device: torch.device) -> tuple[Callable[..., Tensor], str, float]:
    """
    What makes the images: (sample(places, num_samples, generator) -> (len(places), channels, height, width) in
    [0, 1], a description for the protocol, the most images that it has).
    """
    name = settings.model_name_or_path
    path = Path(name)
    if path.is_dir() and not has_file(name, "model_index.json") and not has_file(name, "config.json"):
        return open_folder(path, Path(settings.output_dir))
    if not path.is_dir() and not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise UsageError(f"--model_name_or_path {name}: no such folder, and not a Hub id (owner/name)")
    try:
        if has_file(name, "model_index.json"):
            return open_pipeline(settings, device)
        model = hub.load(AutoModel, name, settings.trust_remote_code).to(device).eval()
    except (OSError, ValueError) as error:
        raise UsageError(f"--model_name_or_path {name} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not hasattr(model, "sample"):
        raise UsageError(f"--model_name_or_path {name}: a {type(model).__name__} has no `sample`")
    what = f"{name} ({type(model).__name__} in eval mode: BatchNorm, if any, with its running statistics)"
    return lambda places, num_samples, generator: model.sample(len(places), generator=generator), what, math.inf


def open_pipeline(settings: Settings, device: torch.device):
    """`open_generator` for a pipeline of diffusers that makes images from nothing, or of classes drawn uniformly."""
    from diffusers import DiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading
    name = settings.model_name_or_path
    with loading(name) as source:
        index = retried(lambda: DiffusionPipeline.load_config(source), f"loading {name}")
        own = index.get("unet", [None] * 2)[1] == "UNet2DModel"  # others have schedulers of other kinds
    if own:
        pipeline = diffusion.load_pipeline(name).to(device)
    else:
        parts = [part for part, kind in index.items() if isinstance(kind, list) and part != "_class_name" and kind[0]]
        trust, dtype = settings.trust_remote_code, torch.float32
        with loading(name, *parts, trust_remote_code=trust, dtype=dtype) as source:
            pipeline = retried(
                lambda: DiffusionPipeline.from_pretrained(source, trust_remote_code=trust), f"loading {name}"
            ).to(device, dtype)
        for part in parts:
            if isinstance(getattr(pipeline, part), torch.nn.Module):
                check_finite(getattr(pipeline, part), name, part)
    pipeline.set_progress_bar_config(disable=True)
    parameters = inspect.signature(pipeline.__call__).parameters
    if "batch_size" not in parameters:
        raise UsageError(f"--model_name_or_path {name}: a {type(pipeline).__name__} makes no images from nothing")
    kind, num_classes = index["_class_name"], getattr(pipeline, "num_classes", 0)
    kind = kind if isinstance(kind, str) else kind[1]
    if settings.scheduler is not None:
        pipeline.scheduler = diffusion.make_scheduler(settings.scheduler, pipeline.scheduler.config)
    # The default of 1,000 steps is refused by schedulers that were trained with fewer.
    most = pipeline.scheduler.config.num_train_timesteps
    steps = settings.num_inference_steps or min(parameters["num_inference_steps"].default or most, most)
    if steps > most:
        raise UsageError(f"--num_inference_steps is {steps}; {name} was trained with {most} timesteps")

    def sample(places, num_samples, generator):
        asked = {"batch_size": len(places)}
        if num_classes:
            asked["labels"] = torch.randint(num_classes, (len(places),), generator=generator)
        made = pipeline(**asked, generator=generator, num_inference_steps=steps, output_type="np").images
        return torch.from_numpy(made).permute(0, 3, 1, 2)  # it had the channels last

    kind = f"{kind}, {type(pipeline.scheduler).__name__} with {steps} steps"
    kind += ", classes drawn uniformly" if num_classes else ""
    return sample, f"{name} ({kind}; eval mode)", math.inf


def open_folder(path: Path, output_dir: Path):
    """`open_generator` for a folder: its PNG images and those of its folders, evenly spaced by name."""
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".png")
    if not files:
        raise UsageError(f"--model_name_or_path {path}: it holds no model_index.json, config.json or PNG images")
    if output_dir.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"--output_dir {output_dir} is in the folder of images, and gets samples.png: give another")

    def sample(places, num_samples, generator):
        images = []
        for file in (files[place * len(files) // num_samples] for place in places.tolist()):
            try:
                with Image.open(file) as image:
                    if image.mode[0] in "IF":  # more than 8 bits a pixel
                        raise UsageError(f"{file} has the mode {image.mode}; pixels must have 8 bits a channel")
                    if image.mode not in ("L", "RGB"):
                        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
                    array = np.array(image)
            except OSError as error:
                raise HwzooError(f"{file} cannot be read: {error}") from error
            images.append(torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1)))
            if images[-1].shape != images[0].shape:
                sizes = f"{by(images[-1].shape)} (channels x height x width), not {by(images[0].shape)}"
                raise UsageError(f"{file} is {sizes} as the first of its batch")
        return torch.stack(images).float().div_(255)

    return sample, f"{len(files)} PNG images in {path}", len(files)


def by(shape) -> str:
    return " x ".join(map(str, shape))


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)

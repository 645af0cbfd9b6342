"""
Scores what makes images, by the features and labels of a classifier: any zoo model with `sample`, any pipeline of
diffusers, or any folder of images.

    python recipes/evaluate_generator.py outputs/vae
    python recipes/evaluate_generator.py images --dataset_name digits --classifier outputs/digits

Writes scores.json and samples.png: FID (Heusel et al., arXiv:1706.08500) with its floor, the FID of as many training
images, precision and recall (Kynkäänniemi et al., arXiv:1904.06991), and which classes the samples show. digits,
mnist and fashion_mnist have a classifier that comes with the package; one for other data is trained by
`train_continual.py --strategy joint --num_tasks 1 --backbone wide_cnn`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from hwzoo import diffusion, generators, metrics, scoring, training
from hwzoo.data import load_images
from hwzoo.errors import UsageError
from hwzoo.files import renewing, write_json
from hwzoo.generators import FAST_STEPS
from hwzoo.loading import TRUST
from hwzoo.training import flag

MOST_SAMPLES = 10_000


@dataclass
class Settings(training.ImageData):
    FIRST = "model_name_or_path"

    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    model_name_or_path: str | None = flag(None, "folder or Hub id of a model or pipeline, or a folder of images")
    trust_remote_code: bool = flag(False, TRUST)
    dataset_name: str | None = flag(
        None,
        "what the images are compared with; the data that the model was trained on, else mnist, when not given",
    )
    data_dir: str | None = flag(None, "folder that holds mnist/ or fashion_mnist/; HWZOO_DATA_DIR when not given")
    split: Literal["test", "validation"] = flag("test", "which of its images the samples are compared with")
    num_samples: int | None = flag(
        None, "samples; 10,000, or as many as there are training images (or images), when not given", "[4, inf)"
    )
    seed: int = flag(0, "of the samples", "[0, 4294967295]")
    classifier: str | None = flag(None, "folder or Hub id of a classifier; the data set's own when not given")
    inception_fid: bool = flag(False, "also FID on Inception's features; needs torch-fidelity and its weights")
    scheduler: Literal[diffusion.SCHEDULERS] | None = flag(None, "of a pipeline; its own when not given")
    num_inference_steps: int | None = flag(
        None, f"of a pipeline; its own default, else all for ddpm, {FAST_STEPS} for others, when not given", "[1, inf)"
    )
    guidance_scale: float = flag(1.0, "classifier-free guidance of a conditional pipeline; 1 is none", "[0, inf)")
    center_crop: bool = flag(False, "cut samples that are larger than the data (a model of padded images)")
    eval_batch_size: int = flag(500, "samples a batch", "[1, inf)")
    output_dir: str | None = flag(
        None, "folder for scores.json and samples.png; outputs/evaluate_generator/MODEL when not given"
    )
    overwrite_output_dir: bool = flag(False, "write over what the folder holds")

    def __post_init__(self):
        super().__post_init__()
        self.output_dir = self.output_dir or training.folder_for("outputs/evaluate_generator", self.model_name_or_path)


def main(settings: Settings) -> dict:
    # 1. what is asked for: all of it is found, or told to be wrong, before hours of sampling
    folder, name = Path(settings.output_dir), settings.model_name_or_path
    if name is None:
        raise UsageError("--model_name_or_path is missing: a model, a pipeline or a folder of images")
    training.check_free(folder, settings.overwrite_output_dir)
    device = PartialState().device
    settings = scoring.with_data_of_training(settings)
    data = load_images(settings.dataset_name, settings.data_dir, settings).compared_with(settings.split)
    classifier = scoring.load_classifier(data, settings.classifier).to(device)
    inception = metrics.load_inception(device=device) if settings.inception_fid else None
    names = ("scheduler", "num_inference_steps", "guidance_scale", "trust_remote_code")
    asked = {key: getattr(settings, key) for key in names} | {"num_channels": data.test.images.shape[1]}
    sample, made_by, most = generators.open_generator(name, device, output_dir=folder, options=settings, **asked)
    most = min(most, len(data.train))
    num_samples = settings.num_samples or min(most, MOST_SAMPLES)
    if num_samples > most:
        raise UsageError(
            f"--num_samples is {num_samples}; there are {len(data.train)} training images for the floor"
            + (f" and {most} images in the folder" if most < len(data.train) else "")
        )
    training.make_output_dir(folder)

    # 2. samples, in memory once
    samples = torch.empty(num_samples, *data.test.images.shape[1:])
    generator = torch.Generator().manual_seed(settings.seed)
    for part in tqdm(torch.arange(num_samples).split(settings.eval_batch_size), desc="samples", unit="batch"):
        images = sample(part, num_samples, generator)
        samples[part] = (
            generators.fitted(images, samples.shape[1:], settings.center_crop, name, data.name).cpu().float()
        )

    # 3. scores
    results = {"model": name, "dataset": data.name, "num_samples": num_samples, "seed": settings.seed}
    made_by += f", seed {settings.seed}" + (", their edges cut off" if settings.center_crop else "")
    results |= scoring.score(samples, data, classifier, made_by, inception, split=settings.split)

    # 4. save
    with renewing(folder) as staging:
        caption = f"{len(samples[:200])} of {num_samples} samples; {name}: {made_by}"
        training.save_image_grid(samples[:200], staging / "samples.png", caption)
        write_json(staging / "scores.json", results)
    shares = zip(data.test.class_names, results["test_class_histogram"], strict=True)
    for label, value in (*results.items(), *((f"share of {label}", share) for label, share in shares)):
        if isinstance(value, int | float):
            print(f"{label:>32} {value:.4f}" if isinstance(value, float) else f"{label:>32} {value}")
    print(results["protocol"])
    return results


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)

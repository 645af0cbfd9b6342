"""
Follows a GAN over the checkpoints of its run: what the discriminator tells apart, and how good the samples are, beside
the losses, which may stand while the samples get better: questions of IFT6135 (Montréal).

    accelerate launch recipes/train_gan.py --checkpointing_steps 100 --checkpoints_total_limit 20
    python recipes/compare_checkpoints.py outputs/gan
    python recipes/compare_checkpoints.py outputs/gan-cs274e --others mnist --data_dir FOLDER

For each checkpoint: the losses as they were logged; the Fréchet distance of its samples; and how often the
discriminator holds a test image for more real than a sample of its own generator, an image of another data set, a test
image with black and white exchanged, or noise (the area under the ROC curve: 1 always, 0.5 by chance). The output
folder gets all_results.json and checkpoints.png; docs/gan.md says what they mean. Takes 20 seconds on the run above.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hwzoo import GANModel, generators, hub, metrics, scoring, training
from hwzoo.data import load_images
from hwzoo.errors import HwzooError, UsageError
from hwzoo.files import write_json
from hwzoo.training import Checkpoint, Checkpoints, flag

LOSSES = ("discriminator_loss", "generator_loss")


@dataclass
class Settings(training.ImageData):
    FIRST = "model_name_or_path"

    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    model_name_or_path: str | None = flag(None, "output folder of train_gan.py, with its checkpoints")
    dataset_name: str | None = flag(None, "what the GAN was trained on; what its preset.yaml says when not given")
    data_dir: str | None = flag(None, "folder that holds mnist/ or fashion_mnist/; HWZOO_DATA_DIR when not given")
    others: list[str] = flag([], "data sets of images of that size, which the discriminator has never seen")
    num_samples: int = flag(2000, "samples, and images of each other set, at most", "[4, inf)")
    seed: int = flag(0, "of samples and noise", "[0, 4294967295]")
    classifier: str | None = flag(None, "folder or Hub id of the classifier; the data set's own when not given")
    eval_batch_size: int = flag(500, "images a batch", "[1, inf)")
    output_dir: str | None = flag(None, "folder for the results; outputs/compare_checkpoints/MODEL when not given")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")

    def __post_init__(self):
        super().__post_init__()
        name = self.model_name_or_path
        self.output_dir = self.output_dir or training.folder_for("outputs/compare_checkpoints", name)


def main(settings: Settings) -> dict:
    # 1. the run, its data, other images of that size
    if settings.model_name_or_path is None:
        raise UsageError("--model_name_or_path is missing: the output folder of train_gan.py")
    run = Path(settings.model_name_or_path)
    training.check_free(settings.output_dir, settings.overwrite_output_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = Checkpoints(run / "checkpoints").paths()
    if not found:
        raise UsageError(f"--model_name_or_path {run} has no checkpoints/step-...; train_gan.py keeps them")
    generators.check_name(str(run))
    model = hub.load(GANModel, str(run)).to(device).eval()
    settings = scoring.with_data_of_training(settings)
    data = load_images(settings.dataset_name, settings.data_dir, settings)
    scorer = scoring.Scorer(data, scoring.ScoreFlags(settings.num_samples, settings.classifier), device)
    history = training.read_history(run)
    sets = {"training images": evenly(data.train, settings)}
    for name in settings.others:
        other = load_images(name, settings.data_dir, settings)
        if other.image_shape != data.image_shape:
            raise UsageError(f"--others {name}: {other.image_shape}, {data.name} has {data.image_shape}")
        sets[name] = evenly(other.test, settings)
    real, labels = evenly(data.test, settings)
    sets["black and white exchanged"] = 1 - real, labels
    generator = torch.Generator().manual_seed(settings.seed)
    sets["noise"] = torch.rand(real.shape, generator=generator), labels

    # 2. each checkpoint: distance of its samples, and what its discriminator makes of all these
    classes = model.config.num_classes

    def logits_of(images: Tensor, labels: Tensor) -> Tensor:
        labels = labels % classes if classes else labels  # of another data set: any will do
        parts = zip(images.split(settings.eval_batch_size), labels.split(settings.eval_batch_size), strict=True)
        with torch.no_grad():
            return torch.cat([model.discriminator(*(each.to(device) for each in part)).cpu() for part in parts])

    latents = torch.randn(len(real), model.config.latent_size, generator=generator).to(device)
    drawn, rows = (torch.arange(len(real)) * max(1, classes) // len(real)).to(device), []
    for path in found:
        checkpoint = Checkpoint(path)
        model.load_state_dict(checkpoint.weights("model"))
        with torch.no_grad():  # not by `sample`: the discriminator has seen what is not clamped
            samples = model.generator(latents, drawn).cpu()
        draw = generators.sampler(model, settings.seed, settings.eval_batch_size, evenly=True)
        scores = scorer(draw, f"each checkpoint, seed {settings.seed}")
        if math.isnan(scores.get("test_fid", 0.0)):
            raise HwzooError(f"{path}: its samples hold pixels that are NaN")
        on_real = logits_of(real, labels)
        apart = {
            name: metrics.separation(on_real, logits_of(*images))
            for name, images in {"own samples": (samples, drawn.cpu()), **sets}.items()
        }
        logged = [each for each in history if each["step"] <= checkpoint.step and set(LOSSES) <= each.keys()]
        losses = {name: logged[-1][name] for name in LOSSES} if logged else {}
        rows.append({"step": checkpoint.step, **losses, "fid": scores.get("test_fid"), "separation": apart})
        told = [f"{name} {apart[name]['auroc']:.3f}" for name in apart]
        print(
            f"step {checkpoint.step}: FID {scores.get('test_fid', float('nan')):.1f}, "
            + ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in losses.items())
            + f"; AUROC of test images against {', '.join(told)}",
            flush=True,
        )

    # 3. save
    folder = training.make_output_dir(settings.output_dir)
    sizes = {"own samples": len(drawn), **{name: len(images) for name, (images, _) in sets.items()}}
    sizes = ", ".join(f"{name}: {num}" for name, num in sizes.items())
    protocol = [
        f"model: {run}, the weights of each checkpoint as they were trained, without averages, in eval mode",
        f"separation: area under the ROC curve of the discriminator's logits, {len(real)} test images above the "
        f"others ({sizes}), standard error by Hanley and McNeil; own samples not clamped, as in training",
        "losses: the log line before the checkpoint",
        scores["protocol"],
    ]
    results = {"checkpoints": rows, "protocol": "; ".join(protocol)}
    write_json(folder / "all_results.json", results)
    training.save_settings(folder / "preset.yaml", settings)
    training.save_functions(panels(rows), folder / "checkpoints.png", xlabel="step")
    print(f"results and picture are in {folder}")
    return results


def evenly(images, settings: Settings) -> tuple[Tensor, Tensor]:
    """At most so many of its images, evenly spaced, and their labels."""
    num = min(len(images), settings.num_samples)
    chosen = torch.arange(num) * len(images) // num
    return images.pixel_values(chosen), images.labels[chosen]


def panels(rows: list[dict]) -> dict[str, dict[str, tuple]]:
    steps = [row["step"] for row in rows]
    logged = [row for row in rows if set(LOSSES) <= row.keys()]  # a checkpoint before the first log line has none
    at = [row["step"] for row in logged]
    losses = {name.replace("_", " "): (at, [row[name] for row in logged], ".-") for name in LOSSES if logged}
    apart = {
        f"test images and {name}": (steps, [row["separation"][name]["auroc"] for row in rows], ".-")
        for name in rows[0]["separation"]
    }
    fid = {} if rows[0]["fid"] is None else {"FID": {"samples": (steps, [row["fid"] for row in rows], ".-")}}
    return ({"loss": losses} if losses else {}) | fid | {"told apart (AUROC)": apart}


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)

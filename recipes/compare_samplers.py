"""
Quality against steps against seconds: scores the samplers of one trained diffusion model.

    python recipes/compare_samplers.py outputs/ddpm-mnist-cpu --dataset_name mnist
    python recipes/compare_samplers.py outputs/ddpm-mnist-cpu --dataset_name mnist \\
        --schedulers dpm_solver sde_dpm_solver --spacings karras lu trailing linspace --num_inference_steps 10 25

Runs every scheduler with every number of steps and every spacing of them that it knows (its own where it knows none of
`--spacings`), and first the reference: DDPM with all timesteps of the training. Writes all_results.json, table.md,
quality.png (FID over network evaluations) and a picture of each sampler's images. A sampler that stands in
all_results.json is not run again, so that the table can be interrupted and extended.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from hwzoo import diffusion, generators, metrics, scoring, training
from hwzoo.data import load_images
from hwzoo.errors import UsageError
from hwzoo.files import sha256, write_bytes, write_json
from hwzoo.training import flag

HEADER = (
    "scheduler | spacing | steps | network evaluations | seconds | times as fast | FID | above the floor | "
    "above the reference, in its standard errors | precision | recall"
)
PROTOCOL = (
    "standard error: of the FID over the samples, by the jackknife over 50 groups of them; reference: DDPM with all "
    "timesteps of the training; seconds: the drawing of all images, without scores"
)


@dataclass
class Settings(training.ImageData):
    FIRST = "model_name_or_path"

    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    model_name_or_path: str | None = flag(None, "folder or Hub id of a pipeline")
    schedulers: list[str] = flag(list(diffusion.SCHEDULERS), f"some of {', '.join(diffusion.SCHEDULERS)}")
    num_inference_steps: list[int] = flag([10, 20, 50], "steps of each of them", "[1, inf)")
    spacings: list[str] = flag(["karras"], "of the steps: some of karras, lu, trailing, leading, linspace")
    reference: bool = flag(True, "also DDPM with all timesteps of the training, which takes long")
    num_samples: int = flag(1000, "images of each sampler", "[4, inf)")
    guidance_scale: float = flag(1.0, "classifier-free guidance of a conditional pipeline; 1 is none", "[0, inf)")
    seed: int = flag(0, "of each sampler's images", "[0, 4294967295]")
    dataset_name: str = flag("mnist", "what the images are compared with; as in the other recipes")
    data_dir: str | None = flag(None, "folder that holds mnist/ or fashion_mnist/; HWZOO_DATA_DIR when not given")
    classifier: str | None = flag(None, "folder or Hub id of a classifier; the data set's own when not given")
    eval_batch_size: int = flag(250, "images a batch", "[1, inf)")
    output_dir: str = flag("outputs/compare_samplers", "folder for tables and pictures")
    overwrite_output_dir: bool = flag(False, "start anew in a folder with results of another model or other settings")


def main(settings: Settings) -> dict:
    # 1. what is asked for: all of it is found, or told to be wrong, before hours of sampling
    folder, device, name = Path(settings.output_dir), PartialState().device, settings.model_name_or_path
    pipeline = generators.load_generator(name, device)
    if not hasattr(pipeline, "scheduler"):
        raise UsageError(f"--model_name_or_path {name}: a {type(pipeline).__name__} is no diffusion pipeline")
    generators.check_guidance(settings.guidance_scale, pipeline, name)
    generators.check_steps(max(settings.num_inference_steps), pipeline, name)
    config = pipeline.scheduler.config
    samplers = list_samplers(settings, config)
    data = load_images(settings.dataset_name, settings.data_dir, settings)
    classifier = scoring.load_classifier(data, settings.classifier).to(device).eval()
    if settings.num_samples > len(data.train):
        raise UsageError(f"--num_samples is {settings.num_samples}; the floor has {len(data.train)} training images")
    size = pipeline.config.image_size or pipeline.unet.config.sample_size
    shapes = [(pipeline.unet.config.in_channels, size, size), tuple(data.test.images.shape[1:])]
    if shapes[0] != shapes[1]:
        raise UsageError(f"--model_name_or_path {name}: its images are {shapes[0]}, those of {data.name} {shapes[1]}")
    weights = torch.cat([parameter.detach().flatten().cpu() for parameter in pipeline.unet.parameters()])
    results = {"model": name, "weights_sha256": sha256(weights.numpy().tobytes()), "dataset": data.name}
    same = ("num_samples", "guidance_scale", "seed", "classifier", "eval_batch_size")
    results |= {key: getattr(settings, key) for key in same} | {"device": device.type}
    path = folder / "all_results.json"
    earlier = json.loads(path.read_text()) if path.exists() and not settings.overwrite_output_dir else results
    for key, value in results.items():
        if earlier.get(key) != value:
            raise UsageError(
                f"--output_dir {folder} holds results with {key} {earlier.get(key)}, these have {value}; give another "
                "folder or --overwrite_output_dir"
            )
    rows = earlier.get("samplers", [])
    training.make_output_dir(folder)

    # 2. each sampler: images, seconds, scores
    labels = None
    if pipeline.num_classes:
        generator = torch.Generator().manual_seed(settings.seed)
        labels = torch.randint(pipeline.num_classes, (settings.num_samples,), generator=generator)
    call = {"labels": labels, "seed": settings.seed, "guidance_scale": settings.guidance_scale}
    call |= {"batch_size": settings.eval_batch_size}
    shown, made_by = [], f"{name} by each of the samplers, seed {settings.seed}"
    pipeline.unet.register_forward_pre_hook(lambda module, inputs: shown.append(len(inputs[0])))

    @torch.inference_mode()
    def features_of(images):
        return torch.cat([classifier.features(part.to(device)).cpu() for part in images.split(500)])

    test_features = features_of(data.test.pixel_values())
    generators.draw(pipeline, settings.num_samples, num_inference_steps=1, **call)  # warms up
    for scheduler, spacing, steps in samplers:
        sampler = {"scheduler": scheduler, "spacing": spacing, "num_inference_steps": steps}
        if any(sampler.items() <= row.items() for row in rows):
            continue
        pipeline.scheduler = diffusion.make_scheduler(scheduler, config, spacing)
        shown.clear()
        images, seconds = generators.draw(pipeline, settings.num_samples, num_inference_steps=steps, **call)
        row = sampler | {"network_evaluations": sum(shown) / len(images), "seconds": seconds}
        scores = scoring.score(images, data, classifier, made_by)
        results["protocol"] = f"{scores.pop('protocol')}; {PROTOCOL}"
        error = metrics.frechet_standard_error(features_of(images), test_features)
        rows.append(row | scores | {"test_fid_standard_error": error})
        training.save_image_grid(images[:100], folder / f"samples_{scheduler}_{spacing}_{steps}.png", columns=10)
        write_json(path, earlier | results | {"samplers": rows})

    # 3. beside the reference
    rows.sort(key=lambda row: (diffusion.SCHEDULERS.index(row["scheduler"]), -row["num_inference_steps"]))
    reference = next((row for row in rows if is_reference(row, config)), None)
    if reference:
        for row in rows:
            row["speedup"] = reference["seconds"] / row["seconds"]
            difference = row["test_fid"] - reference["test_fid"]
            row["test_fid_above_reference"] = difference / reference["test_fid_standard_error"]
    results = earlier | results | {"samplers": rows}
    write_json(path, results)
    table = [HEADER, " | ".join(["---"] * (HEADER.count("|") + 1)), *map(cells_of, rows)]
    table = [f"| {line} |" for line in table]
    write_bytes(folder / "table.md", "\n".join([*table, "", results["protocol"] + ".", ""]).encode())
    save_plot(rows, reference, folder / "quality.png")
    print(*table, f"pictures and numbers are in {folder}", sep="\n")
    return results


def list_samplers(settings: Settings, config: Any) -> list[tuple[str, str, int]]:
    """(scheduler, spacing, steps) of each sampler, the reference first."""
    for flag_name, given, known in (
        ("schedulers", settings.schedulers, diffusion.SCHEDULERS),
        ("spacings", settings.spacings, sorted({name for names in diffusion.SPACINGS.values() for name in names})),
    ):
        for value in given:
            if value not in known:
                raise UsageError(f"--{flag_name} has {value}; it must be some of {', '.join(known)}")
    samplers = [("ddpm", "trailing", config.num_train_timesteps)] if settings.reference else []
    for scheduler in settings.schedulers:
        own = diffusion.SPACINGS[scheduler]
        for spacing in [name for name in settings.spacings if name in own] or own[:1]:
            samplers += [(scheduler, spacing, steps) for steps in settings.num_inference_steps]
    return list(dict.fromkeys(samplers))


def is_reference(row: dict, config: Any) -> bool:
    return (row["scheduler"], row["num_inference_steps"]) == ("ddpm", config.num_train_timesteps)


def cells_of(row: dict) -> str:
    fid = f"{row['test_fid']:.2f} ± {row['test_fid_standard_error']:.2f}"
    speedup, above = (
        f"{row[name]:{form}}" if name in row else "-"
        for name, form in (("speedup", ".1f"), ("test_fid_above_reference", "+.1f"))
    )
    cells = [row["scheduler"], row["spacing"], row["num_inference_steps"], f"{row['network_evaluations']:g}"]
    cells += [f"{row['seconds']:.1f}", speedup, fid, f"{row['test_fid'] - row['test_fid_floor']:.2f}", above]
    return " | ".join(map(str, [*cells, f"{row['test_precision']:.3f}", f"{row['test_recall']:.3f}"]))


def save_plot(rows: list[dict], reference: dict | None, path: Path):
    curves = {}
    for row in rows:
        point = (row["network_evaluations"], row["test_fid"], row["test_fid_standard_error"])
        if row is not reference:
            curves.setdefault(f"{row['scheduler']}, {row['spacing']}", []).append(point)
    levels = {"floor": (rows[0]["test_fid_floor"], 0.0)}
    if reference:
        label = f"ddpm, {reference['num_inference_steps']} steps, ± 2 standard errors"
        levels[label] = (reference["test_fid"], reference["test_fid_standard_error"])
    training.save_error_curves(curves, path, xlabel="network evaluations", ylabel="FID", levels=levels)


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)

"""
Quality against steps against seconds: scores the samplers of one trained diffusion model.

    python recipes/compare_samplers.py outputs/ddpm
    python recipes/compare_samplers.py outputs/ddpm-mnist-cpu --schedulers dpm_solver sde_dpm_solver \\
        --spacings karras lu trailing linspace --num_inference_steps 10 25

Runs every scheduler with every number of steps and every spacing that it knows (else its best), and first the
reference: DDPM with all timesteps of the training. Choose one by images that training held out: `--split validation`.
Writes a table, quality.png (FID over network evaluations), images of each. Called again it goes on and extends them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState

from hwzoo import PipelineFamily, diffusion, generators, scoring, training
from hwzoo.data import load_images
from hwzoo.diffusion import comparison
from hwzoo.errors import UsageError
from hwzoo.files import write_bytes, write_json
from hwzoo.training import flag

PROTOCOL = "standard error: of the FID, by the jackknife over at most 50 groups of samples; seconds: to draw them all"
REFERENCE = "; reference: DDPM with all timesteps of the training"


@dataclass
class Settings(training.ImageData):
    FIRST = "model_name_or_path"

    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    model_name_or_path: str | None = flag(None, "folder or Hub id of a pipeline")
    schedulers: list[str] = flag(list(diffusion.SCHEDULERS), "", some_of=diffusion.SCHEDULERS)
    num_inference_steps: list[int] = flag([10, 20, 50], "steps of each of them", "[1, inf)")
    spacings: list[str] = flag([], "of the steps; its best if not given", some_of=comparison.EVERY_SPACING)
    reference: bool = flag(True, "also DDPM with all timesteps of the training, which takes long")
    num_samples: int = flag(1000, "images of each sampler", "[4, inf)")
    guidance_scale: float = flag(1.0, "classifier-free guidance of a conditional pipeline; 1 is none", "[0, inf)")
    seed: int = flag(0, "of each sampler's images", "[0, 4294967295]")
    dataset_name: str | None = flag(None, "what the images are compared with; as trained on, else mnist, by default")
    data_dir: str | None = flag(None, "folder that holds mnist/ or fashion_mnist/; HWZOO_DATA_DIR when not given")
    split: Literal["test", "validation"] = flag("test", "which of its images the samples are compared with")
    classifier: str | None = flag(None, "folder or Hub id of a classifier; the data set's own when not given")
    eval_batch_size: int = flag(250, "images a batch", "[1, inf)")
    output_dir: str = flag("outputs/compare_samplers", "folder for tables and pictures")
    overwrite_output_dir: bool = flag(False, "start anew in a folder with results of another model or other settings")


def main(settings: Settings) -> dict:
    # 1. what is asked for: all of it is found, or told to be wrong, before hours of sampling
    folder, device, name = Path(settings.output_dir), PartialState().device, settings.model_name_or_path
    family, pipeline = generators.load_generator(name, device)
    if not isinstance(family, PipelineFamily):
        raise UsageError(f"--model_name_or_path {name}: a {type(pipeline).__name__} is no diffusion pipeline")
    generators.check_guidance(settings.guidance_scale, family, pipeline, name)
    config, most = pipeline.scheduler.config, pipeline.scheduler.config.num_train_timesteps
    asked = settings.schedulers, settings.spacings, settings.num_inference_steps
    samplers = comparison.list_samplers(*asked, most if settings.reference else None, config)
    for scheduler, spacing, steps in samplers:
        generators.check_steps(steps, diffusion.make_scheduler(scheduler, config, spacing), name)
    settings = scoring.with_data_of_training(settings)
    data = load_images(settings.dataset_name, settings.data_dir, settings).compared_with(settings.split)
    classifier = scoring.load_classifier(data, settings.classifier).to(device).eval()
    if settings.num_samples > len(data.train):
        raise UsageError(f"--num_samples is {settings.num_samples}; the floor has {len(data.train)} training images")
    if (wanted := tuple(data.test.images.shape[1:])) != (shape := pipeline.image_shape):
        raise UsageError(f"--model_name_or_path {name}: its images are {shape}, those of {data.name} {wanted}")
    compared = data.name if settings.split == "test" else f"{data.name}, {settings.split}"
    results = {"model": name, "weights_sha256": scoring.weights_sha256(pipeline.unet), "dataset": compared}
    same = ("num_samples", "guidance_scale", "seed", "classifier", "eval_batch_size")
    results |= {key: getattr(settings, key) for key in same} | {"device": device.type, "data": data.digest()}
    results |= {"classifier_weights_sha256": scoring.weights_sha256(classifier)}
    path = folder / "all_results.json"
    results = {"samplers": []} | training.earlier_results(path, results, settings.overwrite_output_dir) | results
    rows, folder = results["samplers"], training.make_output_dir(folder)
    for old in folder.glob("samples_*_*_*.png") if settings.overwrite_output_dir else ():
        old.unlink()  # of a sampler that may not be asked for any more

    # 2. each sampler: images, seconds, scores
    size, generator = (settings.num_samples,), torch.Generator().manual_seed(settings.seed)
    labels = torch.randint(pipeline.num_classes, size, generator=generator) if pipeline.num_classes else None
    call = {"labels": labels, "seed": settings.seed, "batch_size": settings.eval_batch_size}
    call |= {"guidance_scale": settings.guidance_scale}
    told = f", classes drawn uniformly, guidance scale {settings.guidance_scale:g}" if pipeline.num_classes else ""
    shown, made_by = [], f"{name} by each of the samplers, seed {settings.seed}{told}"
    pipeline.unet.register_forward_pre_hook(lambda module, inputs: shown.append(len(inputs[0])))
    pipeline.scheduler = diffusion.make_scheduler("ddim", config)  # its own may take no single step, as PNDM
    generators.draw(family, pipeline, settings.num_samples, num_inference_steps=1, **call)  # warms up
    for scheduler, spacing, steps in samplers:
        sampler = {"scheduler": scheduler, "spacing": spacing, "num_inference_steps": steps}
        if any(sampler.items() <= row.items() for row in rows):
            continue
        pipeline.scheduler = diffusion.make_scheduler(scheduler, config, spacing)
        shown.clear()
        images, seconds = generators.draw(family, pipeline, settings.num_samples, num_inference_steps=steps, **call)
        row = sampler | {"network_evaluations": sum(shown) / len(images), "seconds": seconds}
        rows.append(row | scoring.score(images, data, classifier, made_by, every_score=True, split=settings.split))
        results["protocol"] = f"{rows[-1].pop('protocol')}; {PROTOCOL}"
        caption = f"{name} by {scheduler}, {spacing}, {steps} steps, seed {settings.seed}{told}"
        training.save_image_grid(images[:100], folder / f"samples_{scheduler}_{spacing}_{steps}.png", caption, 10)
        write_json(path, results)
        print(f"{caption}: FID {rows[-1]['test_fid']:.1f} in {seconds:.0f} s", flush=True)

    # 3. beside the reference
    reference = comparison.compare_with_reference(rows, most)
    results["protocol"] = results["protocol"].removesuffix(REFERENCE) + (REFERENCE if reference else "")
    write_json(path, results)
    table = comparison.sampler_table(rows)
    write_bytes(folder / "table.md", f"{table}\n\n{results['protocol']}.\n".encode())
    training.save_error_curves(path=folder / "quality.png", **comparison.sampler_curves(rows, reference))
    print(table, f"pictures and numbers are in {folder}", sep="\n")
    return results


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)

"""
Draws images with any zoo model or diffusion pipeline, or texts with one of texts.

    python recipes/sample.py outputs/ddpm --num_samples 100 --scheduler unipc --num_inference_steps 20
    python recipes/sample.py outputs/ddpm-conditional --labels 0 1 2 3 --guidance_scale 1.5 --scheduler sde_dpm_solver
    python recipes/sample.py outputs/vae --num_samples 200 --seed 1
    python recipes/sample.py outputs/flow --temperature 0.7

A pipeline samples as it was saved: one of `train_ddpm.py` by DDPM with every step of its training, which takes long;
`--scheduler` names a faster sampler. Writes samples.png and each image as a PNG of its own in images/, or samples.txt,
a text a line, and samples.json, which says how and in how many seconds they were drawn. How good and how fast the
samplers of a pipeline are, `compare_samplers.py` tells; `evaluate_generator.py` scores any model of images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState

from hwzoo import PipelineFamily, diffusion, generators, text, training
from hwzoo.errors import UsageError
from hwzoo.files import renewing, write_json
from hwzoo.generators import FAST_STEPS
from hwzoo.loading import TRUST
from hwzoo.training import flag


@dataclass
class Settings(training.Flags):
    FIRST = "model_name_or_path"

    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    model_name_or_path: str | None = flag(None, "folder or Hub id of a model or pipeline")
    trust_remote_code: bool = flag(False, TRUST)
    num_samples: int = flag(100, "how many images or texts", "[1, inf)")
    scheduler: Literal[diffusion.SCHEDULERS] | None = flag(
        None, "sampler of a pipeline, in place of the one that it was saved with; sde_dpm_solver is a good fast one"
    )
    spacing: str | None = flag(
        None,
        "of the steps of --scheduler: trailing, leading, linspace, for the last three karras, both dpm_solvers lu; "
        "its best when not given",
    )
    num_inference_steps: int | None = flag(
        None, f"of a pipeline; all that it was trained with for ddpm, {FAST_STEPS} else, when not given", "[1, inf)"
    )
    guidance_scale: float = flag(1.0, "classifier-free guidance of a conditional pipeline; 1 is none", "[0, inf)")
    temperature: float | None = flag(None, "of a model with one: 1 as it is, less keeps to the likely", "(0, inf)")
    labels: list[int] | None = flag(
        None, "classes, one after the other over and over; when not given, as many images of each class", "[0, inf)"
    )
    seed: int = flag(0, "of the images", "[0, 4294967295]")
    eval_batch_size: int = flag(250, "images a batch", "[1, inf)")
    output_dir: str | None = flag(None, "folder for samples and samples.json; outputs/samples/MODEL when not given")
    overwrite_output_dir: bool = flag(False, "write over what the folder holds")

    def __post_init__(self):
        super().__post_init__()
        self.output_dir = self.output_dir or training.folder_for("outputs/samples", self.model_name_or_path)


def main(settings: Settings) -> dict:
    # 1. what is asked for: all of it is found, or told to be wrong, before hours of sampling
    folder, name = Path(settings.output_dir), settings.model_name_or_path
    asked = {"trust_remote_code": settings.trust_remote_code, "draws": ("images", "texts")}
    family, model = generators.load_generator(name, PartialState().device, **asked)
    training.check_free(folder, settings.overwrite_output_dir)
    tokenizer = text.load_tokenizer(name, "model_name_or_path") if family.draws == "texts" else None
    num_classes = family.num_classes(model)
    generators.check_guidance(settings.guidance_scale, family, model, name)
    generators.check_temperature(settings.temperature, family, model, name)
    asked = {key: getattr(settings, key) for key in ("scheduler", "spacing", "num_inference_steps")}
    generators.check_sampler(family, name, **asked)
    results, call = {"model": name} | ({"labels": settings.labels} if settings.labels else {}), {}
    if isinstance(family, PipelineFamily):
        sampler = settings.scheduler or type(model.scheduler).__name__
        every = sampler in ("ddpm", "DDPMScheduler")  # only good with all of its steps
        if settings.scheduler is not None:
            spacing = settings.spacing or diffusion.spacings_of(sampler, model.scheduler.config)[0]
            model.scheduler = diffusion.make_scheduler(sampler, model.scheduler.config, spacing)
        elif settings.spacing is not None:
            raise UsageError(f"--spacing is {settings.spacing} without --scheduler, whose steps it spaces")
        steps = settings.num_inference_steps or generators.default_steps(model.scheduler)
        generators.check_steps(steps, model.scheduler, name)
        quick = f"; --scheduler sde_dpm_solver takes {FAST_STEPS}" if every and steps > FAST_STEPS else ""
        print(f"sampler: {sampler}{'' if settings.scheduler else ', as it was saved'}, {steps} steps{quick}")
        call = {"num_inference_steps": steps, "guidance_scale": settings.guidance_scale}
        results |= {"scheduler": sampler, **({"spacing": spacing} if settings.scheduler else {}), **call}
    elif settings.temperature is not None:
        results |= (call := {"temperature": settings.temperature})
    labels = generators.chosen_labels(settings.labels, settings.num_samples, num_classes, name)
    training.make_output_dir(folder)

    # 2. samples
    samples, seconds = generators.draw(
        family, model, settings.num_samples, labels, settings.seed, settings.eval_batch_size, **call
    )

    # 3. save
    results |= {"num_samples": settings.num_samples, "seed": settings.seed}
    caption = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in results.items())
    results["seconds"] = round(seconds, 3)
    with renewing(folder) as staging:
        if tokenizer:
            print("\n".join(text.save_texts(staging / "samples.txt", samples, tokenizer)[:10]))
        else:
            order = torch.arange(len(samples)) if labels is None else labels.argsort(stable=True)
            shown = samples[order[:: -(-len(samples) // 200)].sort().values]  # at most 200, evenly of each class
            training.save_image_grid(shown, staging / "samples.png", f"{caption}; {len(shown)} shown")
            training.save_images(samples, staging / "images")
        write_json(staging / "samples.json", results)
    print(f"{len(samples)} {family.draws} in {seconds:.1f} s; they are in {folder}")
    return results


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)

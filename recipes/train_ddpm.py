"""
Trains a denoising diffusion model (Ho et al., arXiv:2006.11239), unconditional or conditional on the class, scores it
and saves it as a pipeline of diffusers.

    accelerate launch recipes/train_ddpm.py
    accelerate launch recipes/train_ddpm.py --config recipes/configs/ddpm/mnist_cpu.yaml

The first trains on scikit-learn's digits, offline, within five minutes on 2 CPU cores. The presets say their command,
their minutes and the numbers to expect; `recipes/sample.py` draws from what is saved.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional as F

from hwzoo import diffusion, hub, scoring, training
from hwzoo.data import ImageBatches, load_images
from hwzoo.errors import UsageError
from hwzoo.training import flag

TEST_SEED = 0  # of the bound's noise and timesteps: the same for every run, whatever its seed
BOUNDS = ("bits_per_dim", "prior", "denoising", "reconstruction")
COLUMNS = 10  # of the pictures of a run's progress


@dataclass
class Run(training.RunArguments):
    output_dir: str = flag("outputs/ddpm", "folder for the pipeline, results, pictures and checkpoints")
    train_batch_size: int = flag(64, "images a step, for each process and accumulated batch", "[1, inf)")
    max_train_steps: int | None = flag(600, "optimiser steps; in place of --num_train_epochs", "[0, inf)")
    learning_rate: float = flag(2e-3, "peak learning rate", "(0, inf)")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"] = flag(
        "cosine", "schedule of the learning rate"
    )
    lr_warmup_steps: int = flag(
        100, "steps over which the rate rises from 0, for schedules other than constant", "[0, inf)"
    )
    use_ema: bool = flag(True, "test and save the exponential moving average of the weights")
    ema_decay: float = flag(0.995, "decay a step of the average, after its warm-up", "[0, 1)")
    eval_steps: int | None = flag(300, "steps between test losses and pictures, samples_0300.png ...", "[1, inf)")


@dataclass
class Model(training.Flags):
    block_out_channels: list[int] = flag(
        [16, 32, 64], "channels at each resolution of the UNet, each half the one before", "[1, inf)"
    )
    layers_per_block: int = flag(1, "residual blocks a resolution", "[1, inf)")
    attention: bool = flag(True, "attention at the lowest resolution")
    norm_num_groups: int = flag(8, "groups of each GroupNorm", "[1, inf)")
    dropout: float = flag(0.0, "in each residual block", "[0, 1)")
    padded_size: int | None = flag(
        None, "size to which images are padded with black, for more resolutions", "[1, inf)"
    )


@dataclass
class Method(scoring.ScoreFlags):
    FREE = scoring.ScoreFlags.FREE | {"scheduler", "num_inference_steps", "guidance_scale"}
    FREE |= {"num_bound_images", "num_bound_timesteps"}

    num_train_timesteps: int = flag(1000, "timesteps T of the forward process", "[25, inf)")
    beta_schedule: Literal[tuple(diffusion.BETA_SCHEDULES)] = flag("linear", "noise of each timestep")
    prediction_type: Literal[diffusion.PREDICTION_TYPES] = flag("v_prediction", "what the UNet predicts")
    loss_weighting: Literal[diffusion.WEIGHTINGS] = flag("uniform", "of the timesteps in the loss")
    snr_gamma: float = flag(5.0, "largest weight of min_snr", "(0, inf)")
    conditional: bool = flag(False, "condition the UNet on the class of an image")
    label_dropout: float = flag(0.1, "share of the labels that training hides, for guidance", "[0, 1]")
    compile: bool = flag(False, "train with torch.compile")
    scheduler: Literal[diffusion.SCHEDULERS] = flag("sde_dpm_solver", "sampler of the pictures and of the scores")
    num_inference_steps: int = flag(25, "steps of that sampler", "[1, inf)")
    guidance_scale: float = flag(1.0, "classifier-free guidance of a conditional model; 1 is none", "[0, inf)")
    num_bound_images: int = flag(500, "test images, evenly spaced, of the bound in bits/dim", "[2, inf)")
    num_bound_timesteps: int = flag(50, "terms of the bound drawn for each of them, one a part of T - 1", "[1, inf)")

    def __post_init__(self):
        super().__post_init__()
        most = {"num_inference_steps": self.num_train_timesteps, "num_bound_timesteps": self.num_train_timesteps - 1}
        for name, bound in most.items():
            if getattr(self, name) > bound:
                raise UsageError(
                    f"--{name} is {getattr(self, name)}; with --num_train_timesteps {self.num_train_timesteps} it "
                    f"must be in [1, {bound}]"
                )
        if self.guidance_scale != 1 and not self.conditional:
            raise UsageError(f"--guidance_scale is {self.guidance_scale}; without --conditional it must be 1")


def main(run: Run, architecture: Model, method: Method) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        device, process = accelerator.device, (accelerator.process_index, accelerator.num_processes)

        # 2. data, on the device as one tensor
        data = load_images(run.dataset_name, run.data_dir)
        if method.conditional:
            data.check_classes("--conditional")
        if len(data.test) < 2:
            raise UsageError(
                f"--num_bound_images: a standard error needs 2 test images, {data.name} has {len(data.test)}"
            )
        test_set, parts = data.test.to(device), run.gradient_accumulation_steps
        batches = ImageBatches(data.train.to(device), run.train_batch_size * parts, run.seed, *process)
        noise = training.GlobalNoise(run.seed, device, *process)
        size, num_classes = data.train.image_size, len(data.train.class_names) if method.conditional else 0
        padded_size = architecture.padded_size or size
        if padded_size < size:
            raise UsageError(f"--padded_size is {padded_size}; the images of {data.name} have {size} pixels")
        before = (padded_size - size) // 2
        margins = (before, padded_size - size - before) * 2
        scorer = scoring.Scorer(data, method, device)

        # 3. model: the UNet, and the scheduler that says what it is trained on
        network = {name: value for name, value in asdict(architecture).items() if name != "padded_size"}
        unet = diffusion.build_unet(padded_size, data.train.num_channels, **network, num_classes=num_classes)
        scheduler = diffusion.train_scheduler(method.num_train_timesteps, method.beta_schedule, method.prediction_type)
        if run.model_name_or_path is not None:
            trained = diffusion.load_pipeline(run.model_name_or_path)
            for name in ("sample_size", "in_channels", "num_class_embeds"):
                given, wanted = trained.unet.config[name], unet.config[name]
                if given != wanted:
                    path = run.model_name_or_path
                    raise UsageError(f"--model_name_or_path {path}: its UNet has {name} {given}, this run's {wanted}")
            unet, scheduler = trained.unet, trained.scheduler
        unet.to(device).train()
        alphas_cumprod = diffusion.alphas_cumprod(scheduler).to(device)

        # 4. optimiser
        optimizer = torch.optim.Adam(unet.parameters(), lr=run.learning_rate, fused=True)
        state = training.TrainState(
            run, accelerator, unet, optimizer, run.total_steps(len(batches)), autocast=True, norm_name="gradient_norm",
            wrapped=accelerator.prepare(torch.compile(unet)) if method.compile else None,
        )  # fmt: skip
        eval_model = state.eval_model

        # 5. one step; its noise is drawn for the whole batch, whatever the processes and accumulated parts
        def clean_images(pixel_values):
            return F.pad(pixel_values, margins) * 2 - 1

        def loss_of(network, clean, noise, timesteps, labels):
            kind = {"prediction_type": scheduler.config.prediction_type, "weighting": method.loss_weighting}
            kind |= {"labels": labels if num_classes else None, "snr_gamma": method.snr_gamma}
            return diffusion.diffusion_loss(network, clean, noise, timesteps, alphas_cumprod, **kind)

        def train_step(batch):
            clean, labels = clean_images(batch["pixel_values"]), batch["labels"]
            eps, timesteps = noise.normal(*clean.shape), noise.integers(len(alphas_cumprod), len(clean))
            if num_classes:  # the class after the last stands for none
                labels = labels.where(noise.uniform(len(labels)) >= method.label_dropout, num_classes)
            return state.step(lambda *part: {"loss": loss_of(state.wrapped, *part)}, clean, eps, timesteps, labels)

        # 6. training; the pictures show the same noise at all steps, and as many images of each class
        sampler = diffusion.make_pipeline(
            eval_model, diffusion.make_scheduler(method.scheduler, scheduler.config), image_size=size
        )

        def drawing(labels, generator):
            asked = {"labels": labels, "guidance_scale": method.guidance_scale} if num_classes else {}
            steps = {"num_inference_steps": method.num_inference_steps, "output_type": "pt"}
            return steps | asked | {"batch_size": len(labels), "generator": generator}

        def each_class(num_images):
            labels = torch.arange(num_images) * max(1, num_classes) // num_images
            return drawing(labels, torch.Generator().manual_seed(run.seed))

        test_means = training.TestMeans(accelerator, test_set, run.eval_batch_size, seed=TEST_SEED)

        def test_loss(batch, generator):
            clean = clean_images(batch["pixel_values"])
            eps = torch.randn(clean.shape, generator=generator, device=device)
            timesteps = torch.randint(len(alphas_cumprod), (len(clean),), generator=generator, device=device)
            return {"loss": loss_of(eval_model, clean, eps, timesteps, batch["labels"])}

        def watch():
            eval_model.eval()
            losses = test_means(test_loss, 500)
            if accelerator.is_main_process:
                frames = diffusion.reverse_process(sampler, COLUMNS, **each_class(100))
                pictures["samples"].add(state.steps_done, frames[-1])
                pictures["denoising"].add(state.steps_done, diffusion.denoising_strips(frames, 10, COLUMNS))
            unet.train()
            return losses

        folder = Path(run.output_dir)
        pictures = {name: training.ImageSeries(folder, COLUMNS, name) for name in ("samples", "denoising")}

        # 7. test
        def bound(batch, generator):
            terms = diffusion.variational_bound(
                eval_model, scheduler, (clean_images(batch["pixel_values"]) + 1) / 2,
                labels=batch["labels"] if num_classes else None, num_timesteps=method.num_bound_timesteps,
                generator=generator,
            )  # fmt: skip
            scale = (padded_size / size) ** 2  # bits of a padded image for each dimension of the image
            return {name: scale * getattr(terms, name) for name in BOUNDS}

        def samples(num):
            generator, images = torch.Generator().manual_seed(run.seed), []
            for part in torch.arange(num).split(run.eval_batch_size):
                labels = torch.randint(max(1, num_classes), (len(part),), generator=generator)
                images.append(sampler(**drawing(labels, generator)).images.cpu())
            return torch.cat(images)

        def test(limit):
            eval_model.eval()
            num_bound = limit or method.num_bound_images
            tests = test_means(bound, num_bound, with_error=["bits_per_dim"])
            results = {f"test_{name}": value for name, value in tests.items()}
            made_by = f"this model by {method.scheduler}, {method.num_inference_steps} steps, seed {run.seed}"
            if num_classes:
                made_by += f", classes drawn uniformly, guidance scale {method.guidance_scale}"
            results |= scorer(samples, made_by, limit) if accelerator.is_main_process else {}
            results["protocol"] = "; ".join([
                results.get("protocol", data.name),
                f"bits/dim: the variational bound on {len(test_means.indices(num_bound))} test images, evenly spaced, "
                f"with {method.num_bound_timesteps} of the {len(alphas_cumprod) - 1} terms L_(t-1) of each, at "
                "stratified t; prior is L_T, reconstruction L_0; the standard error is over the images"
                + (", each given its class" if num_classes else ""),
                training.weights_of(run),
            ])  # fmt: skip
            return results

        # 8. save
        def save(folder, results, history, limit):
            diffusion.save_pipeline(diffusion.make_pipeline(eval_model, scheduler, size), folder)
            hub.save_results(results, folder)
            training.save_image_grid(sampler(**each_class(limit or 200)).images, folder / "samples.png", columns=20)
            frames = diffusion.reverse_process(sampler, method.num_inference_steps, **each_class(limit or 100))
            training.save_animation([*frames, *[frames[-1]] * 8], folder / "reverse.gif", columns=COLUMNS)
            strips = diffusion.denoising_strips(frames, min(10, len(frames[0])), COLUMNS)
            training.save_image_grid(strips, folder / "denoising.png", columns=COLUMNS)
            for name, series in pictures.items():
                series.finish(folder / f"training_{name}.gif")
            training.save_curves(history, folder / "curves.png", ("loss",), unit="mean squared error")
            training.save_settings(folder / "preset.yaml", run, architecture, method)
            about = {"config": eval_model.config, "schedule": scheduler.config, "image_size": size, "method": method}
            hub.save_card(run, folder, "ddpm", data, results, library_name="diffusers", **about)

        ending = training.Ending(test, save, [unet, eval_model], hub.publish)
        identity = training.identity_of("train_ddpm", data, architecture, method)
        whole = {"model": unet, "noise": noise} | pictures | state.entries()
        fitted = training.fit(
            run, accelerator, batches, train_step, state=whole, identity=identity, evaluate=watch, ending=ending
        )
        return fitted.results


if __name__ == "__main__":
    training.launch(main, Run, Model, Method, description=__doc__)

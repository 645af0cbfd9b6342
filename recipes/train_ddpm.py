"""
Trains, scores and saves a denoising diffusion model (Ho et al., arXiv:2006.11239), conditional on the class or not.

    accelerate launch recipes/train_ddpm.py
    accelerate launch recipes/train_ddpm.py --config recipes/configs/ddpm/mnist_cpu.yaml

The first trains on scikit-learn's digits, offline, within five minutes on 2 CPU cores. The presets say their command,
their minutes and the numbers to expect; `recipes/sample.py` draws from what is saved.
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

import torch

from hwzoo import diffusion, hub, scoring, training
from hwzoo.data import ImageBatches, load_images
from hwzoo.errors import UsageError
from hwzoo.training import flag

TEST_SEED = 0  # of the bound's noise and timesteps: the same for every run of one --eval_batch_size
COLUMNS, MOST_FRAMES = 10, 100  # of the pictures of a run's progress, of the film of the reverse process
DEFAULTS = {"max_train_steps": 600, "learning_rate": 2e-3, "lr_scheduler": "cosine", "lr_warmup_steps": 100}
DEFAULTS |= {"use_ema": True, "ema_decay": 0.995}


@dataclass
class Run(training.with_defaults(training.RunArguments, **DEFAULTS)):
    output_dir: str = flag("outputs/ddpm", "folder for the pipeline, results, pictures and checkpoints")
    train_batch_size: int = flag(64, "images a step, for each process and accumulated batch", "[1, inf)")
    eval_steps: int | None = flag(300, "steps between test losses and pictures, samples_0300.png ...", "[1, inf)")


Model = training.config_flags(diffusion.UNetArchitecture, without=())


@dataclass
class Method(scoring.ScoreFlags):
    FREE = scoring.ScoreFlags.FREE | {"scheduler", "num_inference_steps", "guidance_scale"}
    FREE |= {"num_bound_images", "num_bound_timesteps"}

    num_test_samples: int = flag(500, "samples that are scored, at most as many as training images", "[4, inf)")
    num_train_timesteps: int = flag(1000, "timesteps T of the forward process", "[25, inf)")
    beta_schedule: Literal[tuple(diffusion.BETA_SCHEDULES)] = flag("linear", "noise of each timestep")
    prediction_type: Literal[diffusion.PREDICTION_TYPES] = flag("v_prediction", "what the UNet predicts")
    loss_weighting: Literal[diffusion.WEIGHTINGS] = flag("uniform", "of the timesteps in the loss")
    snr_gamma: float = flag(5.0, "largest weight of min_snr", "(0, inf)", only={"loss_weighting": ("min_snr",)})
    conditional: bool = flag(False, "condition the UNet on the class of an image")
    label_dropout: float = flag(0.1, "share of labels hidden, for guidance", "[0, 1)", only={"conditional": (True,)})
    compile: bool = flag(False, "train with torch.compile")
    scheduler: Literal[diffusion.SCHEDULERS] = flag("sde_dpm_solver", "sampler of the pictures and of the scores")
    num_inference_steps: int = flag(25, "steps of that sampler", "[1, inf)")
    guidance_scale: float = flag(1.0, "classifier-free guidance of a conditional model; 1 is none", "[0, inf)")
    num_bound_images: int = flag(500, "test images, evenly spaced, of the bound in bits/dim", "[2, inf)")
    num_bound_timesteps: int = flag(50, "terms of the bound drawn for each of them, one a part of T - 1", "[1, inf)")

    def __post_init__(self):
        super().__post_init__()
        if self.guidance_scale != 1 and not self.conditional:
            raise UsageError(f"--guidance_scale is {self.guidance_scale}; without --conditional it must be 1")
        if self.guidance_scale != 1 and not self.label_dropout:
            raise UsageError(f"--guidance_scale is {self.guidance_scale}; with --label_dropout 0 it must be 1")


def main(run: Run, architecture: Model, method: Method) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        # 2. data, on the device as one tensor
        device, data = accelerator.device, load_images(run.dataset_name, run.data_dir, run)
        if (num := len(data.test)) < 2:
            raise UsageError(f"--num_bound_images: a standard error needs 2 test images, {data.name} has {num}")
        batches = ImageBatches.for_run(data.train, run, accelerator)
        noise, scorer = training.GlobalNoise.for_run(run, accelerator), scoring.Scorer(data, method, device)

        # 3. model: the UNet, and the scheduler that says what it is trained on
        size, num_classes = data.train.image_size, len(data.train.class_names) if method.conditional else 0
        scheduler = diffusion.train_scheduler(method.num_train_timesteps, method.beta_schedule, method.prediction_type)
        asked = run.model_name_or_path, data, architecture, scheduler, num_classes
        unet, scheduler, own = diffusion.load_or_build(*asked)
        unet.to(device).train()
        alphas_cumprod, patch = diffusion.alphas_cumprod(scheduler, device), own.patch_size

        # 4. optimiser
        optimizer = torch.optim.Adam(unet.parameters(), lr=run.learning_rate, fused=True)
        settings = {"autocast": True, "norm_name": "gradient_norm", "compile": method.compile}
        state = training.TrainState(run, accelerator, unet, optimizer, run.total_steps(len(batches)), **settings)
        eval_model = state.eval_model

        # 5. one step; its noise is drawn for the whole batch, whatever the processes and accumulated parts
        def loss_of(network, clean, noise, timesteps, labels):
            kind = {"prediction_type": scheduler.config.prediction_type, "weighting": method.loss_weighting}
            kind |= {"labels": labels if num_classes else None, "snr_gamma": method.snr_gamma}
            return {"loss": diffusion.diffusion_loss(network, clean, noise, timesteps, alphas_cumprod, **kind)}

        def train_step(batch):
            clean, labels = diffusion.clean_images(batch["pixel_values"], *evaluation.sizes), batch["labels"]
            eps, timesteps = noise.normal(*clean.shape), noise.integers(len(alphas_cumprod), len(clean))
            if num_classes:  # the class after the last stands for none
                labels = labels.where(noise.uniform(len(labels)) >= method.label_dropout, num_classes)
            return state.step(partial(loss_of, state.wrapped), clean, eps, timesteps, labels)

        # 6. training; the pictures show the same noise at all steps, and as many images of each class
        evaluation = diffusion.Evaluation(eval_model, scheduler, size, method, run.seed, run.eval_batch_size, patch)
        test_means, watch_means = (training.TestMeans(accelerator, each, run.eval_batch_size, seed=TEST_SEED)
                                   for each in (data.test.to(device), data.watched.to(device)))  # fmt: skip
        made_by, series = training.made_by(run, data), partial(training.ImageSeries, run.output_dir, columns=COLUMNS)
        pictures = {name: series(f"{name.capitalize()}; {made_by}", name=name) for name in ("samples", "denoising")}

        def test_loss(batch, generator):
            clean, draw = diffusion.clean_images(batch["pixel_values"], *evaluation.sizes), {"generator": generator}
            eps = torch.randn(clean.shape, device=device, **draw)
            timesteps = torch.randint(len(alphas_cumprod), (len(clean),), device=device, **draw)
            return loss_of(eval_model, clean, eps, timesteps, batch["labels"])

        def watch():
            eval_model.eval()
            losses = watch_means(test_loss, 500)
            if accelerator.is_main_process:
                for name, images in evaluation.pictures(100, COLUMNS).items():
                    pictures[name].add(state.steps_done, images)
            unet.train()
            return losses

        # 7. test
        def test(limit):
            eval_model.eval()
            num_bound = limit or method.num_bound_images
            tests = test_means(evaluation.bound, num_bound, with_error=["bits_per_dim"])
            results = {f"test_{name}": value for name, value in tests.items()}
            if accelerator.is_main_process:
                results |= scorer(evaluation.samples, f"this model by {evaluation}", limit)
            bound = evaluation.protocol(len(test_means.indices(num_bound)))
            results["protocol"] = "; ".join([results.get("protocol", data.described), bound, training.weights_of(run)])
            return results

        # 8. save
        def save(folder, results, history, limit):
            hub.save(diffusion.make_pipeline(eval_model, scheduler, size, patch), folder, results)
            save_pictures(folder, evaluation, pictures, history, limit, data.test.pixel_values(slice(10)), made_by)
            training.save_settings(folder / "preset.yaml", run, architecture, method)
            about = {"config": eval_model.config, "schedule": scheduler.config, "method": method}
            about |= {"image_size": size, "patch_size": patch}
            hub.save_card(run, folder, "ddpm", data, results, **about)

        # What a trained model is by itself, whatever the flags ask for.
        trained_as = {name: scheduler.config[name] for name in diffusion.SCHEDULE_FIELDS} | asdict(own)
        return training.fit(
            run, accelerator, batches, train_step, evaluate=watch, words={"loss": ("loss", "mean squared error")},
            state={"model": unet, "noise": noise} | pictures | state.entries(),
            identity=training.identity_of("train_ddpm", data, architecture, method, trained_as=trained_as),
            ending=training.Ending(test, save, [unet, eval_model], hub.publish),
        ).results  # fmt: skip


def save_pictures(folder, evaluation, pictures, history, limit, originals, made_by):
    frames = evaluation.frames(limit or 200, min(evaluation.settings.num_inference_steps, MOST_FRAMES))
    some = {step: images[::2] for step, images in frames.items()}
    training.save_animation(some, folder / "reverse.gif", f"Reverse process; {made_by}", COLUMNS)
    grids = {"samples": [*frames.values()][-1], "denoising": diffusion.denoising_strips(frames, 10, COLUMNS)}
    grids["forward_process"] = evaluation.forward_process(originals, COLUMNS)
    for name, images in grids.items():
        training.save_image_grid(images, folder / f"{name}.png", f"{name.replace('_', ' ').capitalize()}; {made_by}")
    for name, series in pictures.items():
        series.finish(folder / f"training_{name}.gif")
    training.save_curves(history, folder / "curves.png", ("loss",), unit="mean squared error")


if __name__ == "__main__":
    training.launch(main, Run, Model, Method, description=__doc__)

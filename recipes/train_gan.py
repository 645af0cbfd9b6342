"""
Trains a generative adversarial network (Goodfellow et al., arXiv:1406.2661), unconditional or conditional on the
class, and saves it. The losses, with their papers, stand in `src/hwzoo/models/gan/losses_gan.py`.

    accelerate launch recipes/train_gan.py
    accelerate launch recipes/train_gan.py --conditional --loss wasserstein_gp
    accelerate launch recipes/train_gan.py --config recipes/configs/gan/cs274e.yaml

The first trains on scikit-learn's digits, offline. A step is some steps of the discriminator
(`--num_discriminator_steps`), each on images of its own, and one of the generator. Of several processes each has the
BatchNorm of its own images; the first one's statistics are saved.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from hwzoo import GANConfig, GANModel, hub, scoring, training
from hwzoo.data import ImageBatches, load_images
from hwzoo.errors import UsageError
from hwzoo.models.gan.losses_gan import LOSSES, gradient_penalty
from hwzoo.models.gan.modeling_gan import PIXEL_RANGES
from hwzoo.training import flag

PANELS = {
    "loss": ("discriminator_loss", "generator_loss"),
    "judged right": ("accuracy_real", "accuracy_fake"),
    "wasserstein": ("wasserstein_estimate", "gradient_penalty"),
    "norm of the gradient": ("discriminator_gradient_norm", "generator_gradient_norm"),
}


@dataclass
class Run(training.with_defaults(training.RunArguments, output_dir="outputs/gan", max_train_steps=1000)):
    train_batch_size: int = flag(
        64, "images of a discriminator step, for each process and accumulated batch; BatchNorm needs 2", "[2, inf)"
    )


Model = training.config_flags(GANConfig, without=("image_size", "num_channels", "num_classes"))


@dataclass
class Method(scoring.ScoreFlags):
    FREE = scoring.ScoreFlags.FREE | {"grid_steps"}

    conditional: bool = flag(False, "condition both networks on the class of an image")
    loss: Literal[tuple(LOSSES)] = flag("non_saturating", "what both networks minimise")
    gradient_penalty_weight: float = flag(10.0, "of the penalty of wasserstein_gp", "[0, inf)")
    num_discriminator_steps: int = flag(1, "steps of the discriminator for one of the generator", "[1, inf)")
    discriminator_learning_rate: float | None = flag(None, "its peak; --learning_rate when not given", "(0, inf)")
    adam_beta1: float = flag(0.5, "decay of Adam's average gradient", "[0, 1)")
    adam_beta2: float = flag(0.999, "decay of Adam's average squared gradient", "[0, 1)")
    grid_steps: int | None = flag(50, "steps between pictures of the same 100 latents, fake_0050.png ...", "[1, inf)")


def main(run: Run, architecture: Model, method: Method) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        main_process = accelerator.is_main_process

        # 2. data, on the device as one tensor: a step takes the images of all its discriminator steps
        data = load_images(run.dataset_name, run.data_dir, run)
        if method.conditional:
            data.check_classes("--conditional")
        turns = method.num_discriminator_steps
        batches = ImageBatches.for_run(data.train, run, accelerator, turns)
        noise = training.GlobalNoise.for_run(run, accelerator)
        scorer = scoring.Scorer(data, method, accelerator.device)

        # 3. model
        model, num_classes = build(run, data, architecture, method), len(data.train.class_names)
        model.to(accelerator.device, memory_format=torch.channels_last).train()  # the faster one for convolutions
        networks = {"generator": model.generator, "discriminator": model.discriminator}

        # 4. optimisers; the average is of the generator alone
        steps = run.total_steps(len(batches))
        states = {name: train_state(run, accelerator, method, networks[name], name, steps) for name in networks}
        generator, discriminator = (states[name].wrapped for name in networks)
        eval_model = model
        if run.use_ema:
            eval_model = GANModel(model.config)
            eval_model.generator, eval_model.discriminator = states["generator"].eval_model, model.discriminator

        # 5. one step; the generated images have the classes of the real ones
        losses, latent_size = LOSSES[method.loss], model.config.latent_size
        lipschitz_constant = PIXEL_RANGES[model.config.pixel_range][0]  # 1 in the networks' own units

        def discriminator_loss(real, labels, latents, mixing):
            with torch.no_grad():
                fake = model.generator(latents, labels)
            both = torch.cat([real, fake]), torch.cat([labels, labels])
            logits_real, logits_fake = discriminator(*both).chunk(2)
            loss = losses.discriminator(logits_real, logits_fake)
            if not losses.penalised:
                right = {"accuracy_real": logits_real > 0, "accuracy_fake": logits_fake < 0}
                return {"discriminator_loss": loss, **{name: each.float().mean() for name, each in right.items()}}
            penalty = gradient_penalty(
                lambda images: discriminator(images, labels), real, fake, mixing, lipschitz_constant
            )
            penalised = loss + method.gradient_penalty_weight * penalty
            return {"discriminator_loss": penalised, "wasserstein_estimate": -loss, "gradient_penalty": penalty}

        def generator_loss(labels, latents):
            logits = model.discriminator(generator(latents, labels), labels)
            return {"generator_loss": losses.generator(logits)}

        def train_step(batch):
            pixel_values, labels = batch["pixel_values"], batch["labels"]
            tensors = pixel_values, labels, noise.normal(len(labels), latent_size), noise.uniform(len(labels))
            outputs = []
            for turn, parts in enumerate(zip(*(each.chunk(turns) for each in tensors), strict=True), 1):
                loss = {"loss": "discriminator_loss", "advance": turn == turns}
                outputs.append(states["discriminator"].step(discriminator_loss, *parts, **loss))
            # Without gradients of the discriminator's weights: the generator's step has no use for them.
            model.discriminator.requires_grad_(False)
            labels = labels.chunk(turns)[-1]
            latents = noise.normal(len(labels), latent_size)
            output = states["generator"].step(generator_loss, labels, latents, loss="generator_loss")
            model.discriminator.requires_grad_(True)
            return training.average(outputs) | output

        # 6. training; the grids show the same latents, and as many images of each class, at all steps
        def samples(num):
            labels = torch.arange(num) * num_classes // num if model.config.num_classes else None
            return eval_model.sample(num, labels=labels, generator=torch.Generator().manual_seed(run.seed))

        def after_step(step):
            if method.grid_steps is not None and step % method.grid_steps == 0 and main_process:
                grids.add(step, samples(100))

        grids = training.ImageSeries(Path(run.output_dir), columns=10)

        def scored_samples(num):
            generator = torch.Generator().manual_seed(run.seed)
            parts = torch.arange(num).split(run.eval_batch_size)
            return torch.cat([eval_model.sample(len(part), generator=generator).cpu() for part in parts])

        # 7. test: each process has statistics of BatchNorm of its own, those of the first are saved and tested
        def test(limit):
            eval_model.eval()
            results = scorer(scored_samples, f"this generator, seed {run.seed}", limit) if main_process else {}
            results["protocol"] = protocol(run, model, results.get("protocol", data.described))
            return results

        # 8. save
        def save(folder, results, history, limit):
            hub.save(eval_model, folder, results)
            training.save_image_grid(samples(200), folder / "samples.png", columns=20)
            grids.finish(folder / "training.gif")
            training.save_panels(history, folder / "curves.png", PANELS)
            training.save_settings(folder / "preset.yaml", run, architecture, method)
            about = {"config": eval_model.config, "method": method, "steps_shown": list(grids.pictures())}
            hub.save_card(run, folder, "gan", data, results, **about)

        ending = training.Ending(test, save, [model, eval_model], hub.publish)
        state = {"model": model, "noise": noise, "grids": grids}
        state |= states["generator"].entries("generator_") | states["discriminator"].entries("discriminator_")
        identity = training.identity_of("train_gan", data, architecture, method, config=model.config)
        identity["num_classes"] = model.config.num_classes
        return training.fit(
            run, accelerator, batches, train_step, state=state, identity=identity, after_step=after_step, ending=ending
        ).results


def build(run, data, architecture, method) -> GANModel:
    num_classes = len(data.train.class_names)
    conditional_on = num_classes if method.conditional else 0
    config = GANConfig(num_classes=conditional_on, **data.image_shape, **asdict(architecture))
    model = hub.load_or_build(GANModel, run.model_name_or_path, config)
    if model.config.num_classes not in {conditional_on, num_classes}:
        raise UsageError(
            f"--model_name_or_path {run.model_name_or_path}: it has num_classes {model.config.num_classes}, "
            f"{data.name} has {num_classes}{', as --conditional needs' if method.conditional else ''}"
        )
    return model


def train_state(run, accelerator, method, network, name, steps) -> training.TrainState:
    rate = method.discriminator_learning_rate if name == "discriminator" else None
    betas = (method.adam_beta1, method.adam_beta2)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate or run.learning_rate, betas=betas, fused=True)
    own = {"average": name == "generator", "norm_name": f"{name}_gradient_norm"}
    return training.TrainState(run, accelerator, network, optimizer, steps, autocast=True, **own)


def protocol(run, model, scored: str) -> str:
    return "; ".join((
        scored,
        "samples with the running statistics of BatchNorm, pixels clamped to [0, 1]",
        "classes drawn uniformly" if model.config.num_classes else "unconditional",
        training.weights_of(run),
    ))  # fmt: skip


if __name__ == "__main__":
    training.launch(main, Run, Model, Method, description=__doc__)

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
from functools import partial
from typing import Literal

import torch

from hwzoo import GANConfig, GANModel, generators, hub, scoring, training
from hwzoo.data import ImageBatches, load_images
from hwzoo.models.gan.losses_gan import LOSSES
from hwzoo.models.gan.modeling_gan import PIXEL_RANGES
from hwzoo.training import flag

PANELS = {
    "loss": ("discriminator_loss", "generator_loss"),
    "judged right": ("accuracy_real", "accuracy_fake", "accuracy_pairs"),
    "wasserstein": ("wasserstein_estimate", "gradient_penalty"),
    "norm of the gradient": ("discriminator_gradient_norm", "generator_gradient_norm"),
}
STATISTICS = {"batch": "the running statistics of BatchNorm, ", "none": ""}
WITH_PENALTY = ("wasserstein_gp", "relativistic")


@dataclass
class Run(training.with_defaults(training.RunArguments, output_dir="outputs/gan", max_train_steps=1000)):
    train_batch_size: int = flag(64, "images a discriminator's step, process and part; BatchNorm needs 2", "[2, inf)")


Model = training.config_flags(GANConfig, without=("image_size", "num_channels", "num_classes"))


@dataclass
class Method(scoring.ScoreFlags):
    FREE = scoring.ScoreFlags.FREE | {"grid_steps"}

    conditional: bool = flag(False, "condition both networks on the class of an image")
    loss: Literal[tuple(LOSSES)] = flag("non_saturating", "what both networks minimise")
    gradient_penalty_weight: float = flag(10.0, "of the penalty", "[0, inf)", only={"loss": WITH_PENALTY})
    num_discriminator_steps: int = flag(1, "steps of the discriminator for one of the generator", "[1, inf)")
    discriminator_learning_rate: float | None = flag(None, "its peak; --learning_rate when not given", "(0, inf)")
    adam_beta1: float = flag(0.5, "decay of Adam's average gradient", "[0, 1)")
    adam_beta2: float = flag(0.999, "decay of Adam's average squared gradient", "[0, 1)")
    grid_steps: int | None = flag(50, "steps between pictures of the same 100 latents, fake_0050.png ...", "[1, inf)")


def main(run: Run, architecture: Model, method: Method) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        # 2. data, on the device as one tensor: a step takes the images of all its discriminator steps
        data = load_images(run.dataset_name, run.data_dir, run)
        if method.conditional:
            data.check_classes("--conditional")
        turns = method.num_discriminator_steps
        batches = ImageBatches.for_run(data.train, run, accelerator, turns)
        noise = training.GlobalNoise.for_run(run, accelerator)
        scorer = scoring.Scorer(data, method, accelerator.device)

        # 3. model
        model = build(run, data, architecture, method)
        config = model.config
        model.to(accelerator.device, memory_format=torch.channels_last).train()  # the faster one for convolutions

        # 4. optimisers; the average is of the generator alone
        states = train_states(run, accelerator, method, model, run.total_steps(len(batches)))
        generator, discriminator = states["generator"].wrapped, states["discriminator"].wrapped
        eval_model = GANModel(config) if run.use_ema else model
        eval_model.generator, eval_model.discriminator = states["generator"].eval_model, model.discriminator

        # 5. one step; the generated images have the classes of the real ones
        losses, latent_size = LOSSES[method.loss], config.latent_size
        slope = PIXEL_RANGES[config.pixel_range][0]  # Lipschitz constant: 1 in the networks' own units

        def discriminator_loss(real, labels, latents, mixing):
            with torch.no_grad():
                fake = model.generator(latents, labels)
            both = torch.cat([real, fake]), torch.cat([labels, labels])
            logits = discriminator(*both).chunk(2)
            loss, told = losses.discriminator(*logits), losses.told(*logits)
            if losses.penalty is None:
                return {"discriminator_loss": loss, **told}
            penalty = losses.penalty(partial(discriminator, labels=labels), real, fake, mixing, slope)
            penalised = loss + method.gradient_penalty_weight * penalty
            return {"discriminator_loss": penalised, **told, "gradient_penalty": penalty}

        def generator_loss(labels, latents, real):
            judged = [generator(latents, labels), *([real] if losses.paired else [])]
            return {"generator_loss": losses.generator(*(model.discriminator(each, labels) for each in judged))}

        def train_step(batch):
            pixel_values, labels = batch["pixel_values"], batch["labels"]
            drawn = noise.normal(len(labels), latent_size, turns=turns), noise.uniform(len(labels), turns=turns)
            parts = zip(*(each.chunk(turns) for each in (pixel_values, labels, *drawn)), strict=True)
            step = partial(states["discriminator"].step, discriminator_loss, loss="discriminator_loss")
            outputs = [step(*part, advance=turn == turns) for turn, part in enumerate(parts, 1)]
            # Without gradients of the discriminator's weights: the generator's step has no use for them.
            model.discriminator.requires_grad_(False)
            real, labels = pixel_values.chunk(turns)[-1], labels.chunk(turns)[-1]
            latents = noise.normal(len(labels), latent_size)
            output = states["generator"].step(generator_loss, labels, latents, real, loss="generator_loss")
            model.discriminator.requires_grad_(True)
            return training.average(outputs) | output

        # 6. training; the grids show the same latents, and as many images of each class, at all steps
        samples = generators.sampler(eval_model, run.seed, 200, evenly=True)
        grids = training.ImageSeries(run.output_dir, f"The same latents; {training.made_by(run, data)}", columns=10)
        after_step = grids.each(method.grid_steps, lambda: samples(100))

        # 7. test: each process has statistics of BatchNorm of its own, those of the first are saved and tested
        def test(limit):
            draw = generators.sampler(eval_model.eval(), run.seed, run.eval_batch_size)
            results = scorer(draw, f"this generator, seed {run.seed}", limit) if accelerator.is_main_process else {}
            drawn = f"samples with {STATISTICS[config.generator_norm]}pixels clamped to [0, 1]"
            classes = "classes drawn uniformly" if config.num_classes else "unconditional"
            parts = results.get("protocol", data.described), drawn, classes, training.weights_of(run)
            return results | {"protocol": "; ".join(parts)}

        # 8. save
        def save(folder, results, history, limit):
            hub.save(eval_model, folder, results)
            training.save_image_grid(samples(200), folder / "samples.png", f"Samples; {training.made_by(run, data)}")
            grids.finish(folder / "training.gif")
            training.save_panels(history, folder / "curves.png", PANELS)
            training.save_settings(folder / "preset.yaml", run, architecture, method, config=model.config)
            about = {"config": config, "method": method, "steps_shown": list(grids.shown())}
            hub.save_card(run, folder, "gan", data, results, **about)

        return training.fit(
            run, accelerator, batches, train_step, after_step=after_step, shown=PANELS["loss"],
            state={"model": model, "noise": noise, "grids": grids}
            | states["generator"].entries("generator_") | states["discriminator"].entries("discriminator_"),
            identity=training.identity_of(
                "train_gan", data, architecture, method, config=config, num_classes=config.num_classes
            ),
            ending=training.Ending(test, save, [model, eval_model], hub.publish),
        ).results  # fmt: skip


def build(run, data, architecture, method) -> GANModel:
    classes = len(data.train.class_names)
    own = classes if method.conditional else 0
    wanted = {"num_classes": own, **data.image_shape, **asdict(architecture)}
    # A conditional model that is trained on stays one, asked for or not.
    return hub.load_or_build(GANModel, run.model_name_or_path, wanted, architecture.asked, num_classes={own, classes})


def train_states(run, accelerator, method, model, steps) -> dict[str, training.TrainState]:
    rates, states = {"discriminator": method.discriminator_learning_rate}, {}
    for name in ("generator", "discriminator"):
        network, rate = getattr(model, name), rates.get(name) or run.learning_rate
        betas = (method.adam_beta1, method.adam_beta2)
        optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=betas, fused=True)
        own = {"average": name == "generator", "norm_name": f"{name}_gradient_norm", "autocast": True}
        states[name] = training.TrainState(run, accelerator, network, optimizer, steps, **own)
    return states


if __name__ == "__main__":
    training.launch(main, Run, Model, Method, description=__doc__)

"""
Trains a variational autoencoder (Kingma and Welling, arXiv:1312.6114), scores it and saves it.

    accelerate launch recipes/train_vae.py
    accelerate launch recipes/train_vae.py --config recipes/configs/vae/cs236.yaml

The first trains on scikit-learn's digits in about a minute on 2 CPU cores. The presets say their command, their minutes
and the numbers to expect.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import get_scheduler

from hwzoo import VAEConfig, VAEModel, hub, metrics, training
from hwzoo.data import ImageBatches, binarize, load_images
from hwzoo.errors import UsageError
from hwzoo.files import write_json
from hwzoo.models import architecture
from hwzoo.training import flag

TEST_SEED = 0  # of the test images' binarisation and the bounds' noise: the same for every run, whatever its seed


@dataclass
class Run(training.RunArguments):
    output_dir: str = flag("outputs/vae", "folder for the model, results, pictures and checkpoints")
    max_train_steps: int | None = flag(5000, "optimiser steps; in place of --num_train_epochs")


@dataclass
class VAEArguments:
    network: Literal["mlp", "conv"] = flag("mlp", "fully connected or convolutional networks")
    encoder_hidden_sizes: list[int] = flag([300, 300], "units (mlp) or channels (conv) of the encoder's hidden layers")
    decoder_hidden_sizes: list[int] = flag([300, 300], "the same for the decoder, from the latents outwards")
    latent_size: int = flag(10, "dimensions of the latent variable")
    activation: Literal["elu", "gelu", "leaky_relu", "relu", "silu", "tanh"] = flag("elu", "after each hidden layer")
    likelihood: Literal["bernoulli", "gaussian"] = flag("bernoulli", "of binary pixels, or of continuous ones")
    variance_parametrization: Literal["softplus", "exp"] = flag(
        "softplus", "what makes the posterior variances positive"
    )
    prior: Literal["normal", "mixture"] = flag("normal", "standard normal, or a learned mixture of Gaussians")
    prior_std: float = flag(1.0, "standard deviation of the normal prior")
    num_mixture_components: int = flag(500, "components of the mixture prior")
    beta: float = flag(1.0, "weight of the KL divergence in the training loss")
    kl_warmup_steps: int = flag(0, "steps over which the weight of the KL divergence rises from 0 to beta")
    binarization: Literal["dynamic", "static", "none"] = flag(
        "dynamic", "training pixels drawn from their intensities at every step, once, or left grey"
    )
    num_importance_samples: int = flag(100, "samples K of the importance-weighted test bound test_iwae_K")
    num_iwae_images: int | None = flag(None, "test images of that bound, evenly spaced; all when not given")

    def __post_init__(self):
        positive = (
            "latent_size encoder_hidden_sizes decoder_hidden_sizes num_mixture_components num_importance_samples"
        )
        training.check_ranges(self, **dict.fromkeys(positive.split(), "[1, inf)"), num_iwae_images="[1, inf)")
        training.check_ranges(self, prior_std="(0, inf)", beta="[0, inf)", kl_warmup_steps="[0, inf)")
        if self.likelihood == "gaussian" and self.binarization != "none":
            raise UsageError("--likelihood gaussian is of grey pixels: give --binarization none with it")


def main(run: Run, vae: VAEArguments) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        device, processes = accelerator.device, (accelerator.process_index, accelerator.num_processes)

        # 2. data: on the device, as one tensor
        data = load_images(run.dataset_name, run.data_dir)
        train_set = data.train.binarized(run.seed) if vae.binarization == "static" else data.train
        test_set = (data.test if vae.binarization == "none" else data.test.binarized(TEST_SEED)).to(device)
        batch_size = run.train_batch_size * run.gradient_accumulation_steps
        batches = ImageBatches(train_set.to(device), batch_size, run.seed, *processes)
        noise = training.GlobalNoise(run.seed, device, *processes)

        # 3. model
        config = VAEConfig(
            image_size=data.train.image_size,
            num_channels=data.train.num_channels,
            network=vae.network,
            encoder_hidden_sizes=vae.encoder_hidden_sizes,
            decoder_hidden_sizes=vae.decoder_hidden_sizes,
            latent_size=vae.latent_size,
            activation=vae.activation,
            likelihood=vae.likelihood,
            variance_parametrization=vae.variance_parametrization,
            prior=vae.prior,
            prior_std=vae.prior_std,
            num_mixture_components=vae.num_mixture_components,
            beta=vae.beta,
        )
        model = VAEModel(config).to(device)
        ema = training.averaged_model(model, run.ema_decay) if run.use_ema else None
        tested = ema.module if ema else model
        wrapped = accelerator.prepare(model)

        # 4. optimiser
        optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)
        lr_scheduler = get_scheduler(
            run.lr_scheduler, optimizer, run.lr_warmup_steps, num_training_steps=run.total_steps(len(batches))
        )

        # 5. one step: the noise is drawn for the whole batch, whatever the processes and accumulated parts
        def train_step(batch):
            pixel_values = batch["pixel_values"]
            if vae.binarization == "dynamic":
                pixel_values = binarize(pixel_values, noise.uniform(*pixel_values.shape))
            latent_noise = noise.normal(len(pixel_values), config.latent_size)
            # the schedule counts the steps
            kl_weight = min(1.0, (lr_scheduler.last_epoch + 1) / vae.kl_warmup_steps) if vae.kl_warmup_steps else 1.0
            logs = []
            for part, part_noise in training.micro_batches(
                accelerator, wrapped, run.gradient_accumulation_steps, pixel_values, latent_noise
            ):
                output = wrapped(part, kl_weight=kl_weight, noise=part_noise)
                accelerator.backward(output.loss / run.gradient_accumulation_steps)
                logs.append(output)
            if run.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), run.max_grad_norm)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
            if ema:
                ema.update_parameters(model)
            return {name: sum(log[name].detach() for log in logs) / len(logs) for name in output}

        # 6. training
        def bounds(part, generator):
            bound = tested.negative_elbo_bound(test_set.pixel_values(part), generator=generator)
            return dict(zip(("negative_elbo", "reconstruction_loss", "kl_divergence"), bound, strict=True))

        def test_bounds():
            return training.mean_over(accelerator, len(test_set), run.eval_batch_size, bounds, seed=TEST_SEED)

        state = {"model": model, "optimizer": optimizer, "lr_scheduler": lr_scheduler, "noise": noise}
        fitted = training.fit(
            run,
            accelerator,
            batches,
            train_step,
            state=state | ({"ema": ema} if ema else {}),
            identity={
                "recipe": "train_vae",
                **architecture(config),
                "binarization": vae.binarization,
                "dataset": data.name,
                "train_images": len(data.train),
                "images_per_step": batches.global_batch_size,
                "seed": run.seed,
            },
            evaluate=test_bounds,
        )

        # 7. test
        with torch.inference_mode():
            results = fitted.results | {f"test_{name}": value for name, value in test_bounds().items()}
            picked = torch.arange(len(test_set))[:: max(1, len(test_set) // (vae.num_iwae_images or len(test_set)))]
            picked = picked[: vae.num_iwae_images]

            def iwae_bound(part, generator):
                pixel_values = test_set.pixel_values(picked[part])
                bound = tested.negative_iwae_bound(pixel_values, vae.num_importance_samples, generator=generator)
                return {f"test_iwae_{vae.num_importance_samples}": bound}

            results |= training.mean_over(accelerator, len(picked), 100, iwae_bound, seed=TEST_SEED)
            hundred = metrics.first_of_each_class(test_set.labels, 10)
            if len(hundred) == 100:
                generator = torch.Generator(device).manual_seed(TEST_SEED)
                results |= metrics.course100(tested, test_set.pixel_values(hundred), generator)
            results["active_units"] = metrics.active_units(tested.encode(test_set.pixel_values())[0])
        results["protocol"] = protocol(run, vae, data, len(picked), course100=len(hundred) == 100)

        # 8. save
        if accelerator.is_main_process:
            folder = Path(run.output_dir)
            hub.save(tested, folder)
            write_json(folder / "all_results.json", results)
            generator = torch.Generator().manual_seed(run.seed)
            training.save_image_grid(tested.sample(200, generator=generator), folder / "samples.png", columns=20)
            originals = test_set.pixel_values(slice(100)).unflatten(0, (-1, 20))
            pairs = torch.stack([originals, tested.reconstruct(originals.flatten(0, 1)).unflatten(0, (-1, 20))], 1)
            training.save_image_grid(pairs.flatten(0, 2), folder / "reconstructions.png", columns=20)
            panels = {
                "negative ELBO [nats]": ["negative_elbo", "eval_negative_elbo"],
                "reconstruction loss [nats]": ["reconstruction_loss", "eval_reconstruction_loss"],
                "KL divergence [nats]": ["kl_divergence", "eval_kl_divergence"],
            }
            training.save_curves(fitted.history, folder / "curves.png", panels)
            training.print_results(results, folder)
        return results


def protocol(run: Run, vae: VAEArguments, data, num_iwae_images: int, course100: bool) -> str:
    """One sentence that says exactly how the test numbers were computed."""
    pixels = (
        "grey pixels" if vae.binarization == "none" else f"pixels drawn once from their intensities (seed {TEST_SEED})"
    )
    trained = {"dynamic": "pixels drawn anew at every step", "static": "pixels drawn once", "none": "grey pixels"}
    sentence = (
        f"All {len(data.test)} test images of {data.name}, {pixels} (trained on {trained[vae.binarization]}); nats per "
        f"image; negative ELBO, reconstruction loss and KL divergence from one posterior sample an image; "
        f"test_iwae_{vae.num_importance_samples} with as many samples on {num_iwae_images} of these images, evenly spaced"
    )
    if course100:
        sentence += "; course100: the first ten of each class, 100 repeats of the one-sample bound, 100 / K of the IWAE-K bound"
    weights = f"exponential moving average of the weights, decay {run.ema_decay}" if run.use_ema else "last weights"
    return f"{sentence}; {weights}, no model selection."


if __name__ == "__main__":
    training.launch(main, Run, VAEArguments, description=__doc__)

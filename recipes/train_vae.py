"""
Trains a variational autoencoder (Kingma and Welling, arXiv:1312.6114), scores it and saves it.

    accelerate launch recipes/train_vae.py
    accelerate launch recipes/train_vae.py --config recipes/configs/vae/cs236.yaml

The first trains on scikit-learn's digits, offline, in about a minute on 2 CPU cores. The presets say their command,
their minutes and the numbers to expect.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import get_scheduler

from hwzoo import VAEConfig, VAEModel, cards, hub, metrics, training
from hwzoo.data import ImageBatches, binarize, load_images
from hwzoo.errors import UsageError
from hwzoo.training import flag

TEST_SEED = 0  # of the test images' binarisation and the bounds' noise: the same for every run, whatever its seed
CARD = cards.template("vae")
BOUNDS = ("negative_elbo", "reconstruction_loss", "kl_divergence")


@dataclass
class Run(training.RunArguments):
    output_dir: str = flag("outputs/vae", "folder for the model, results, pictures and checkpoints")
    max_train_steps: int | None = flag(5000, "optimiser steps; in place of --num_train_epochs", "[0, inf)")


@dataclass
class Model(training.Flags):  # the fields of VAEConfig that the data does not decide
    network: Literal["mlp", "conv"] = flag("mlp", "fully connected or convolutional networks")
    encoder_hidden_sizes: list[int] = flag(
        [300, 300], "units (mlp) or channels (conv) of the encoder's hidden layers", "[1, inf)"
    )
    decoder_hidden_sizes: list[int] = flag(
        [300, 300], "the same for the decoder, from the latents outwards", "[1, inf)"
    )
    latent_size: int = flag(10, "dimensions of the latent variable", "[1, inf)")
    activation: Literal["elu", "gelu", "leaky_relu", "relu", "silu", "tanh"] = flag("elu", "after each hidden layer")
    likelihood: Literal["bernoulli", "gaussian"] = flag("bernoulli", "of binary pixels, or of continuous ones")
    variance_parametrization: Literal["softplus", "exp"] = flag("softplus", "what makes variances positive")
    prior: Literal["normal", "mixture"] = flag("normal", "normal, or a learned mixture of Gaussians")
    prior_std: float = flag(
        1.0, "standard deviation of the normal prior, of the mixture's means at the start", "[1e-6, 1e6]"
    )
    num_mixture_components: int = flag(500, "components of the mixture prior", "[1, inf)")
    beta: float = flag(1.0, "weight of the KL divergence in the training loss", "[0, inf)")


@dataclass
class Protocol(training.Flags):
    kl_warmup_steps: int = flag(0, "steps over which the weight of the KL divergence rises from 0 to beta", "[0, inf)")
    binarization: Literal["dynamic", "static", "none"] = flag(
        "dynamic", "training pixels drawn from their intensities at every step, once, or left grey"
    )
    num_importance_samples: int = flag(100, "samples K of the importance-weighted test bound test_iwae_K", "[1, inf)")
    num_iwae_images: int | None = flag(
        None, "test images for that bound, evenly spaced; all when not given", "[1, inf)"
    )


def main(run: Run, architecture: Model, protocol: Protocol) -> dict:
    if architecture.likelihood == "gaussian" and protocol.binarization != "none":
        raise UsageError("--likelihood gaussian is of grey pixels: give --binarization none with it")
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        device, process = accelerator.device, (accelerator.process_index, accelerator.num_processes)

        # 2. data, on the device as one tensor
        data = load_images(run.dataset_name, run.data_dir)
        train_set = data.train.binarized(run.seed) if protocol.binarization == "static" else data.train
        test_set = (data.test if protocol.binarization == "none" else data.test.binarized(TEST_SEED)).to(device)
        parts = run.gradient_accumulation_steps
        batches = ImageBatches(train_set.to(device), run.train_batch_size * parts, run.seed, *process)
        noise = training.GlobalNoise(run.seed, device, *process)

        # 3. model
        image = {"image_size": data.train.image_size, "num_channels": data.train.num_channels}
        model = hub.load_or_build(VAEModel, run.model_name_or_path, VAEConfig(**image, **asdict(architecture)))
        model.to(device)
        ema = training.averaged_model(model, run.ema_decay) if run.use_ema else None
        tested = ema.module if ema else model
        wrapped = accelerator.prepare(model)

        # 4. optimiser
        optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)
        steps = run.total_steps(len(batches))
        lr_scheduler = get_scheduler(run.lr_scheduler, optimizer, run.lr_warmup_steps, num_training_steps=steps)

        # 5. one step; its noise is drawn for the whole batch, whatever the processes and accumulated parts
        def train_step(batch):
            pixel_values = batch["pixel_values"]
            if protocol.binarization == "dynamic":
                pixel_values = binarize(pixel_values, noise.uniform(*pixel_values.shape))
            latent_noise = noise.normal(len(pixel_values), model.config.latent_size)
            step = lr_scheduler.last_epoch + 1  # torch's name for the steps done
            kl_weight = min(1.0, step / protocol.kl_warmup_steps) if protocol.kl_warmup_steps else 1.0
            outputs = []
            for part, part_noise in training.micro_batches(accelerator, wrapped, parts, pixel_values, latent_noise):
                outputs.append(wrapped(part, kl_weight=kl_weight, noise=part_noise))
                accelerator.backward(outputs[-1].loss / parts)
            if run.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), run.max_grad_norm)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
            if ema:
                ema.update_parameters(model)
            return training.average(outputs)

        # 6. training, watched on some of the test images
        def evenly_spaced(num_images):
            num_images = min(num_images, len(test_set))
            return torch.arange(num_images) * len(test_set) // num_images

        def test_mean(bounds, places, batch_size):
            def bounds_of(part, generator):
                return bounds(test_set.pixel_values(places[part]), generator)

            return training.mean_over(accelerator, len(places), batch_size, bounds_of, seed=TEST_SEED)

        def elbo(pixel_values, generator):
            return dict(zip(BOUNDS, tested.negative_elbo_bound(pixel_values, generator=generator), strict=True))

        def watch():
            return test_mean(elbo, evenly_spaced(1000), run.eval_batch_size)

        state = {"model": model, "optimizer": optimizer, "lr_scheduler": lr_scheduler, "noise": noise}
        state |= {"ema": ema} if ema else {}
        identity = {name: getattr(model.config, name) for name in asdict(architecture)}
        identity |= {"recipe": "train_vae", "dataset": data.name, "binarization": protocol.binarization}
        fitted = training.fit(run, accelerator, batches, train_step, state=state, identity=identity, evaluate=watch)

        # 7. test
        num_samples = protocol.num_importance_samples
        picked = evenly_spaced(protocol.num_iwae_images or len(test_set))

        def iwae(pixel_values, generator):
            return {f"iwae_{num_samples}": tested.negative_iwae_bound(pixel_values, num_samples, generator=generator)}

        tests = test_mean(elbo, evenly_spaced(len(test_set)), run.eval_batch_size) | test_mean(iwae, picked, 100)
        results = fitted.results | {f"test_{name}": value for name, value in tests.items()}
        results |= metrics.course100(tested, test_set.pixel_values, test_set.labels, seed=TEST_SEED)
        with torch.inference_mode():
            every = torch.arange(len(test_set)).split(run.eval_batch_size)
            means = torch.cat([tested.encode(test_set.pixel_values(places))[0] for places in every])
        results["active_units"] = metrics.active_units(means)
        sentence = (
            f"{data.name}: all {len(test_set)} test images",
            f"binarisation {protocol.binarization} (test images drawn once, seed {TEST_SEED}, unless none)",
            "nats per image, one posterior sample an image",
            f"test_iwae_{num_samples}: {len(picked)} of these images, evenly spaced",
            "course100: the first ten of each class, 100 repeats",
            f"weights averaged with decay {run.ema_decay}" if ema else "last weights",
            "the last step, not one chosen by test numbers",
        )
        results["protocol"] = "; ".join(sentence)

        # 8. save
        if accelerator.is_main_process:
            folder = Path(run.output_dir)
            hub.save(tested, folder, results)
            samples = tested.sample(200, generator=torch.Generator().manual_seed(run.seed))
            originals = test_set.pixel_values(slice(100))
            training.save_image_grid(samples, folder / "samples.png", columns=20)
            training.save_pairs(originals, tested.reconstruct(originals), folder / "reconstructions.png", columns=20)
            training.save_curves(fitted.history, folder / "curves.png", BOUNDS, unit="nats per image")
            training.save_settings(folder / "preset.yaml", run, architecture, protocol)
            training.print_results(results, folder)
            about = {"title": f"vae-{data.name}", "dataset": data.source, "config": tested.config}
            hub.publish(run, CARD, results=results, **about)
        return results


if __name__ == "__main__":
    training.launch(main, Run, Model, Protocol, description=__doc__)

"""
Trains a variational autoencoder (Kingma and Welling, arXiv:1312.6114), scores it and saves it.

    accelerate launch recipes/train_vae.py
    accelerate launch recipes/train_vae.py --config recipes/configs/vae/cs236.yaml

The first trains on scikit-learn's digits, offline, in half a minute on 2 CPU cores. Presets say what to expect.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import torch

from hwzoo import VAEConfig, VAEModel, generators, hub, metrics, scoring, training
from hwzoo.data import BINARIZATIONS, ImageBatches, binarize, load_images
from hwzoo.errors import UsageError
from hwzoo.training import flag

TEST_SEED = 0  # of the test images' binarisation and, for each --eval_batch_size, of the bounds' noise
BOUNDS = ("negative_elbo", "reconstruction_loss", "kl_divergence")
Model = training.config_flags(VAEConfig, without=("image_size", "num_channels", "num_classes"))


@dataclass
class Run(training.with_defaults(training.RunArguments, output_dir="outputs/vae", max_train_steps=5000)):
    pass


@dataclass
class Protocol(scoring.ScoreFlags):
    FREE = scoring.ScoreFlags.FREE | {"num_importance_samples", "num_iwae_images"}

    conditional: bool = flag(False, "condition encoder and decoder on the class of an image")
    kl_warmup_steps: int = flag(0, "steps over which the weight of the KL divergence rises from 0 to beta", "[0, inf)")
    binarization: Literal[tuple(BINARIZATIONS)] = flag(
        "dynamic", "training pixels: drawn at every step, once, 1 above 127, left grey, or binary already"
    )
    num_importance_samples: int = flag(100, "samples K of the importance-weighted test bound iwae_K", "[1, 1000000]")
    num_iwae_images: int | None = flag(None, "test images for it, evenly spaced; all when not given", "[1, inf)")


def main(run: Run, architecture: Model, protocol: Protocol) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        # 2. data, on the device as one tensor
        data = load_images(run.dataset_name, run.data_dir, run)
        train_set, test_set, watched = data.binarized(protocol.binarization, run.seed, TEST_SEED)
        test_set, watched = test_set.to(accelerator.device), watched.to(accelerator.device)
        batches = ImageBatches.for_run(train_set, run, accelerator)
        noise = training.GlobalNoise.for_run(run, accelerator)

        # 3. model
        classes = data.num_classes(protocol.conditional)
        wanted = {"num_classes": classes, **data.image_shape, **asdict(architecture)}
        model = hub.load_or_build(VAEModel, run.model_name_or_path, wanted, architecture.asked).to(accelerator.device)
        if model.config.likelihood == "gaussian" and protocol.binarization != "none":
            raise UsageError("--likelihood gaussian is of grey pixels: give --binarization none with it")

        # 4. optimiser
        optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)
        state = training.TrainState(run, accelerator, model, optimizer, run.total_steps(len(batches)))
        eval_model = state.eval_model

        # 5. one step; its noise is drawn for the whole batch, whatever the processes and accumulated parts
        def train_step(batch):
            pixel_values, labels = batch["pixel_values"], batch["labels"]
            if protocol.binarization == "dynamic":
                pixel_values = binarize(pixel_values, noise.uniform(*pixel_values.shape))
            kl_weight = min(1.0, (state.steps_done + 1) / max(1, protocol.kl_warmup_steps))

            def loss_of(pixel_values, labels, noise):
                return state.wrapped(pixel_values, labels=labels, kl_weight=kl_weight, noise=noise)

            return state.step(loss_of, pixel_values, labels, noise.normal(len(pixel_values), *model.noise_shape))

        # 6. training, watched on some of the test images, or of those held out for it
        watch_means = training.TestMeans(accelerator, watched, run.eval_batch_size, seed=TEST_SEED)
        test_means = training.TestMeans(accelerator, test_set, run.eval_batch_size, seed=TEST_SEED)
        num_samples = protocol.num_importance_samples

        def elbo(batch, generator):
            bounds = eval_model.negative_elbo_bound(batch["pixel_values"], batch["labels"], generator=generator)
            return dict(zip(BOUNDS, bounds, strict=True))

        def iwae(batch, generator):
            images = batch["pixel_values"], num_samples, batch["labels"]
            return {f"iwae_{num_samples}": eval_model.negative_iwae_bound(*images, generator=generator)}

        # 7. test
        def test(limit):
            num_iwae = limit or protocol.num_iwae_images
            tests = test_means(elbo, limit) | test_means(iwae, num_iwae, batch_size=100)
            results = {f"test_{name}": value for name, value in tests.items()}
            some, settings = test_set.select(test_means.indices(limit)), (run.eval_batch_size, TEST_SEED)
            results |= metrics.latent_variable_scores(eval_model, some, *settings)
            course = "course100_kl_divergence" in results
            results["protocol"] = "; ".join((
                f"{data.described}: all {len(test_set)} test images",
                BINARIZATIONS[protocol.binarization].format(seed=TEST_SEED),
                "nats per image, one posterior sample an image" + (", given its class" if classes else ""),
                f"test_iwae_{num_samples}: {len(test_means.indices(num_iwae))} of these images, evenly spaced",
                *(["course100: the first ten of each class, 100 repeats"] if course else []),
                training.weights_of(run),
            ))  # fmt: skip
            return results

        # 8. save
        def save(folder, results, history, limit):
            hub.save(eval_model, folder, results)
            samples = generators.sampler(eval_model, run.seed, 200, evenly=True)(200)
            training.save_image_grid(samples, folder / "samples.png", f"200 samples; {training.made_by(run, data)}")
            versions = data.test_versions(test_set, slice(100))
            versions["reconstruction"] = eval_model.reconstruct([*versions.values()][-1], test_set.labels[:100])
            training.save_rows(versions, folder / "reconstructions.png", f"Test images; {training.made_by(run, data)}")
            training.save_curves(history, folder / "curves.png", BOUNDS, unit="nats per image")
            training.save_settings(folder / "preset.yaml", run, architecture, protocol, config=model.config)
            hub.save_card(run, folder, "vae", data, results, config=eval_model.config)

        test = scoring.scored(test, eval_model, data, run, protocol, accelerator)
        ending = training.Ending(test, save, [model, eval_model], hub.publish)
        identity = training.identity_of("train_vae", data, architecture, protocol, config=model.config)
        return training.fit(
            run, accelerator, batches, train_step, state={"model": model, "noise": noise, **state.entries()},
            identity=identity, evaluate=lambda: watch_means(elbo, 1000), ending=ending, shown=("loss", *BOUNDS[1:]),
        ).results  # fmt: skip


if __name__ == "__main__":
    training.launch(main, Run, Model, Protocol, description=__doc__)

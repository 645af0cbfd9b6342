"""
Trains a normalising flow of images of 8 bits, tests its bound on their likelihood and saves it: NICE (Dinh et al.,
arXiv:1410.8516), RealNVP (arXiv:1605.08803) or Glow (Kingma and Dhariwal, arXiv:1807.03039).

    accelerate launch recipes/train_flow.py
    accelerate launch recipes/train_flow.py --network realnvp --num_steps 3
    accelerate launch recipes/train_flow.py --config recipes/configs/flow/mnist.yaml

The first trains on scikit-learn's digits, offline, in about two minutes on 2 CPU cores. Presets say what to expect.
"""

from dataclasses import asdict, dataclass

import torch

from hwzoo import FlowConfig, FlowModel, generators, hub, scoring, training
from hwzoo.data import ImageBatches, load_images
from hwzoo.errors import UsageError
from hwzoo.training import flag

TEST_SEED = 0  # of the noise on the test images: the same for every run of one --eval_batch_size
LOSS = "negative_log_prob"
NUM_FIRST_IMAGES = 500  # by which ActNorm is set before the first step
DEFAULTS = {"train_batch_size": 32, "max_train_steps": 1200, "learning_rate": 5e-3, "lr_scheduler": "cosine"}
DEFAULTS |= {"lr_warmup_steps": 50, "use_ema": True, "ema_decay": 0.998, "output_dir": "outputs/flow"}


@dataclass
class Run(training.with_defaults(training.RunArguments, **DEFAULTS)):
    pass


Model = training.config_flags(FlowConfig, without=("image_size", "num_channels", "num_classes"))


@dataclass
class Protocol(scoring.ScoreFlags):
    FREE = scoring.ScoreFlags.FREE | {"num_importance_samples", "temperature"}

    conditional: bool = flag(False, "condition on the class of an image")
    num_importance_samples: int = flag(
        8,
        "draws K of the noise on a test image for the tighter bounds, test_..._K, beside those of one",
        "[1, 1000000]",
    )
    temperature: float = flag(0.7, "factor on the latents of the samples in pictures: 1 is the model", "(0, inf)")


def main(run: Run, architecture: Model, protocol: Protocol) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        # 2. data, on the device as one tensor
        data = load_images(run.dataset_name, run.data_dir, run)
        test_set, watched = data.test.to(accelerator.device), data.watched.to(accelerator.device)
        batches = ImageBatches.for_run(data.train, run, accelerator)
        noise = training.GlobalNoise.for_run(run, accelerator)

        # 3. model; each process sets ActNorm by the same images and the same noise
        model = build(run, data, architecture, protocol)
        model.to(accelerator.device, memory_format=torch.channels_last)  # the faster one for convolutions
        first = batches.data.spread(NUM_FIRST_IMAGES).pixel_values()
        first_noise = torch.rand(first.shape, generator=torch.Generator().manual_seed(run.seed))
        try:
            model.initialize(first, noise=first_noise.to(accelerator.device))
        except ValueError as error:
            raise UsageError(f"--dataset_name {run.dataset_name}: {error}") from error

        # 4. optimiser
        optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)
        state = training.TrainState(run, accelerator, model, optimizer, run.total_steps(len(batches)))
        eval_model = state.eval_model

        # 5. one step; its noise is drawn for the whole batch, whatever the processes and accumulated parts
        def train_step(batch):
            pixel_values = batch["pixel_values"]

            def loss_of(pixel_values, labels, noise):
                return {LOSS: state.wrapped(pixel_values, labels, noise=noise).loss}

            tensors = pixel_values, batch["labels"], noise.uniform(*pixel_values.shape)
            return state.step(loss_of, *tensors, loss=LOSS)

        # 6. training, watched on some of the test images, or of those held out for it
        watch_means = training.TestMeans(accelerator, watched, run.eval_batch_size, seed=TEST_SEED)
        test_means = training.TestMeans(accelerator, test_set, run.eval_batch_size, seed=TEST_SEED)
        num_samples = protocol.num_importance_samples

        def scores(batch, generator, num=1):
            images = batch["pixel_values"], batch["labels"]
            log_prob = eval_model.log_prob(*images, num_importance_samples=num, generator=generator)
            return {LOSS if num == 1 else f"{LOSS}_{num}": -log_prob}

        # 7. test
        def test(limit):
            means = test_means(scores, limit, with_error=(LOSS,))
            more = f" (and {num_samples} for test_..._{num_samples})" if num_samples > 1 else ""
            if num_samples > 1:
                means |= test_means(lambda *args: scores(*args, num_samples), limit)
            return training.likelihood_results(
                means, test_set.images[0].numel(),
                f"{data.described}: all {len(test_set)} test images of 8 bits",
                "upper bound on -log P(x) of an image" + (", given its class" if model.config.num_classes else ""),
                f"uniform dequantisation, one draw{more}, seed {TEST_SEED}",
                training.weights_of(run),
            )  # fmt: skip

        # 8. save
        def save(folder, results, history, limit):
            hub.save(eval_model, folder, results)
            draw = generators.sampler(eval_model, run.seed, 200, evenly=True, temperature=protocol.temperature)
            samples = draw(limit or 200)
            caption = f"{len(samples)} samples at temperature {protocol.temperature:g}; {training.made_by(run, data)}"
            training.save_image_grid(samples, folder / "samples.png", caption)
            lines = interpolations(eval_model, test_set)
            caption = f"Paths between the latents of two test images each; {training.made_by(run, data)}"
            training.save_image_grid(lines.flatten(0, 1), folder / "interpolations.png", caption, lines.shape[1])
            training.save_curves(history, folder / "curves.png", (LOSS,), unit="nats per image")
            training.save_settings(folder / "preset.yaml", run, architecture, protocol, config=model.config)
            hub.save_card(run, folder, "flow", data, results, config=eval_model.config, protocol=protocol)

        test = scoring.scored(test, eval_model, data, run, protocol, accelerator)
        ending = training.Ending(test, save, [model, eval_model], hub.publish)
        identity = training.identity_of("train_flow", data, architecture, protocol, config=model.config)
        identity["num_classes"] = model.config.num_classes
        return training.fit(
            run, accelerator, batches, train_step, state={"model": model, "noise": noise, **state.entries()},
            identity=identity, evaluate=lambda: watch_means(scores, 1000), ending=ending,
        ).results  # fmt: skip


def build(run, data, architecture, protocol) -> FlowModel:
    num_classes = data.num_classes(protocol.conditional)
    wanted = {"num_classes": num_classes, **data.image_shape, **asdict(architecture)}
    return hub.load_or_build(FlowModel, run.model_name_or_path, wanted, architecture.asked, num_classes={num_classes})


def interpolations(model, images) -> torch.Tensor:
    """
    A line of ten pictures for each of at most ten classes, from its first test image to its last one where the model
    knows classes, else to that of the class before: (lines, 10, channels, height, width).
    """
    kinds = [(images.labels == label).nonzero()[[0, -1], 0] for label in images.labels.unique()[:10]]
    first, last = torch.stack(kinds, dim=1)
    known = model.config.num_classes > 0
    start, end = images.batch(first), images.batch(last if known else last.roll(1))
    labels = start["labels"] if known else None
    return model.interpolate(start["pixel_values"], end["pixel_values"], 10, labels=labels)


if __name__ == "__main__":
    training.launch(main, Run, Model, Protocol, description=__doc__)

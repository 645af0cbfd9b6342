"""
Trains an autoregressive model of images, tests its exact likelihood and saves it: PixelCNN (van den Oord et al.,
arXiv:1601.06759), gated PixelCNN (arXiv:1606.05328) or a transformer over patches.

    accelerate launch recipes/train_autoregressive.py
    accelerate launch recipes/train_autoregressive.py --network pixelcnn --hidden_size 32 --head_hidden_size 32
    accelerate launch recipes/train_autoregressive.py --config recipes/configs/autoregressive/best.yaml

The first trains on scikit-learn's digits, offline. `--binarization none` keeps all 256 levels.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import torch

from hwzoo import AutoregressiveConfig, AutoregressiveModel, generators, hub, scoring, training
from hwzoo.data import BINARIZATIONS, ImageBatches, binarize, load_images
from hwzoo.models.autoregressive.networks_autoregressive import CausalConv2d, receptive_field
from hwzoo.training import flag

TEST_SEED = 0  # of the test images' binarisation: the same for every run, whatever its seed
LOSS = "negative_log_prob"
DEFAULTS = {"train_batch_size": 32, "max_train_steps": 800, "learning_rate": 2e-3, "lr_scheduler": "cosine"}
DEFAULTS |= {"lr_warmup_steps": 100, "use_ema": True, "ema_decay": 0.998, "output_dir": "outputs/autoregressive"}


@dataclass
class Run(training.with_defaults(training.RunArguments, **DEFAULTS)):
    pass


BY_DATA = ("image_size", "num_channels", "num_levels", "num_classes")
Model = training.config_flags(AutoregressiveConfig, without=BY_DATA)


@dataclass
class Protocol(scoring.ScoreFlags):
    FREE = scoring.ScoreFlags.FREE | {"temperature"}

    conditional: bool = flag(False, "condition on the class of an image")
    binarization: Literal[tuple(BINARIZATIONS)] = flag(
        "dynamic", "training pixels: drawn at every step, once, 1 above 127, left grey, or binary already"
    )
    temperature: float = flag(1.0, "of the samples in pictures: 1 draws from the model", "(0, inf)")


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
        model = build(run, data, architecture, protocol)
        model.to(accelerator.device, memory_format=torch.channels_last)  # the faster one for convolutions

        # 4. optimiser
        optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)
        state = training.TrainState(run, accelerator, model, optimizer, run.total_steps(len(batches)))
        eval_model = state.eval_model

        # 5. one step
        def train_step(batch):
            pixel_values = batch["pixel_values"]
            if protocol.binarization == "dynamic":
                pixel_values = binarize(pixel_values, noise.uniform(*pixel_values.shape))

            def loss_of(pixel_values, labels):
                return {LOSS: state.wrapped(pixel_values, labels).loss}

            return state.step(loss_of, pixel_values, batch["labels"], loss=LOSS)

        # 6. training, watched on some of the test images, or of those held out for it
        watch_means = training.TestMeans(accelerator, watched, run.eval_batch_size, seed=TEST_SEED)
        test_means = training.TestMeans(accelerator, test_set, run.eval_batch_size, seed=TEST_SEED)

        def scores(batch, generator):
            return {LOSS: -eval_model.log_prob(batch["pixel_values"], batch["labels"])}

        # 7. test
        def test(limit):
            return training.likelihood_results(
                test_means(scores, limit, with_error=(LOSS,)), test_set.images[0].numel(),
                f"{data.described}: all {len(test_set)} test images",
                BINARIZATIONS[protocol.binarization].format(seed=TEST_SEED),
                "exact log-probability of an image" + (", given its class" if model.config.num_classes else ""),
                training.weights_of(run),
            )  # fmt: skip

        # 8. save
        def save(folder, results, history, limit):
            hub.save(eval_model, folder, results)
            draw = generators.sampler(eval_model, run.seed, 200, evenly=True, temperature=protocol.temperature)
            samples = draw(limit or 200)
            caption = f"{len(samples)} samples at temperature {protocol.temperature:g}; {training.made_by(run, data)}"
            training.save_image_grid(samples, folder / "samples.png", caption)
            some = test_means.indices(limit or 20).to(accelerator.device)
            drawing = {"generator": torch.Generator().manual_seed(run.seed), "temperature": protocol.temperature}
            versions = data.test_versions(test_set, some)
            versions |= completions(eval_model, [*versions.values()][-1], test_set.labels[some], drawing)
            caption = f"Test images, and their lower rows by the model; {training.made_by(run, data)}"
            training.save_rows(versions, folder / "completions.png", caption, len(some))
            training.save_receptive_fields(receptive_fields(eval_model), folder / "receptive_fields.png")
            training.save_curves(history, folder / "curves.png", (LOSS,), unit="nats per image")
            training.save_settings(folder / "preset.yaml", run, architecture, protocol, config=model.config)
            hub.save_card(run, folder, "autoregressive", data, results, config=eval_model.config, protocol=protocol)

        test = scoring.scored(test, eval_model, data, run, protocol, accelerator)
        ending = training.Ending(test, save, [model, eval_model], hub.publish)
        own = {"config": model.config, "num_classes": model.config.num_classes}
        identity = training.identity_of("train_autoregressive", data, architecture, protocol, **own)
        return training.fit(
            run, accelerator, batches, train_step, state={"model": model, "noise": noise, **state.entries()},
            identity=identity, evaluate=lambda: watch_means(scores, 1000), ending=ending,
        ).results  # fmt: skip


def build(run, data, architecture, protocol) -> AutoregressiveModel:
    levels = 256 if protocol.binarization == "none" else 2
    classes = data.num_classes(protocol.conditional)
    own = {"num_levels": levels, "num_classes": classes}
    wanted = {**data.image_shape, **own, **asdict(architecture)}
    fits = {name: {value} for name, value in own.items()}
    return hub.load_or_build(AutoregressiveModel, run.model_name_or_path, wanted, architecture.asked, **fits)


def completions(model, images, labels, drawing) -> dict[str, torch.Tensor]:
    """Rows of a picture: the upper rows of images, on grey, and four completions of these."""
    size, labels = images.shape[2], labels if model.config.num_classes else None
    rows = size // 2 // model.config.rows_at_once * model.config.rows_at_once
    known = (torch.arange(size, device=images.device) < rows)[:, None].expand(size, size)
    completed = {f"completion {i}": model.complete(images, known, labels=labels, **drawing) for i in range(1, 5)}
    return {"what is given": torch.where(known, images, 0.5)} | completed


def receptive_fields(model) -> dict:
    """What the model sees from four pixels; for a PixelCNN also what two layers of each pair of types see."""
    order, last = model.network.order()[-1], model.config.image_size - 1
    fields = {}
    middle = min(last // 2 + 1, last)
    for row, column in ((middle, middle), (last // 4, last), (last // 2, 0), (last, last)):
        seen = model.receptive_field(row, column, model.config.num_channels - 1).any(0).cpu()
        fields[f"from row {row}, column {column}"] = seen, order < order[row, column], (row, column)
    if model.config.network == "pixelcnn":
        before = (torch.arange(25) < 12).view(5, 5)
        for types in ("AA", "AB", "BA", "BB"):
            seen = receptive_field([CausalConv2d(1, 1, 3, each) for each in types], 2, 2, 5)
            fields[f"two 3 x 3 layers, {types[0]} then {types[1]}"] = seen, before, (2, 2)
    return fields


if __name__ == "__main__":
    training.launch(main, Run, Model, Protocol, description=__doc__)

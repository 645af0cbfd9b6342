"""
Trains an encoder of images without labels, by SimCLR (Chen et al., arXiv:2002.05709) or SimSiam (Chen and He,
arXiv:2011.10566), and tells what its features are worth beside raw pixels, their principal components, the untrained
encoder and the same encoder trained with all labels.

    accelerate launch recipes/train_simclr.py
    accelerate launch recipes/train_simclr.py --loss simsiam --stop_gradient false
    accelerate launch recipes/train_simclr.py --config recipes/configs/simclr/mnist.yaml

The first trains on scikit-learn's digits. The second collapses: all images get one projection.
"""

import copy
import time
from dataclasses import asdict, dataclass

import torch

from hwzoo import SimCLRConfig, SimCLRForImageClassification, SimCLRModel, hub, metrics, training
from hwzoo.data import NUM_NOISE, Augmentations, ImageBatches, augment, load_images, two_views
from hwzoo.errors import UsageError
from hwzoo.training import flag

TEST_SEED = 0  # of the test images' views and of the draws of labels: the same for every run, whatever its seed
NUM_VIEWED, NUM_NEIGHBORS = 2000, 5000  # test images of which two views are compared; training images when watched
DEFAULTS = {"train_batch_size": 125, "max_train_steps": 350, "learning_rate": 2e-3, "lr_scheduler": "cosine"}
DEFAULTS |= {"lr_warmup_steps": 50, "eval_steps": 100, "output_dir": "outputs/simclr"}


@dataclass
class Run(training.with_defaults(training.RunArguments, **DEFAULTS)):
    pass


Model = training.config_flags(SimCLRConfig, without=("image_size", "num_channels", "image_mean", "image_std"))
Views = training.config_flags(Augmentations, class_name="Views")


@dataclass
class Protocol(training.Flags):
    supervised_steps: int = flag(150, "steps of the same encoder with all labels, beside it; 0: none", "[0, inf)")
    num_draws: int = flag(metrics.NUM_DRAWS, "draws of the labels of the probe with ten a class", "[2, inf)")


def main(run: Run, architecture: Model, views: Views, protocol: Protocol) -> dict:
    if run.train_batch_size < 2:
        raise UsageError(f"--train_batch_size is {run.train_batch_size}: a view is told from those of other images")
    if views.min_scale > views.max_scale:
        raise UsageError(f"--min_scale is {views.min_scale:g}; it must be at most --max_scale, {views.max_scale:g}")
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        # 2. data, on the device as one tensor
        data = load_images(run.dataset_name, run.data_dir, run)
        data.check_classes(f"--dataset_name {run.dataset_name}")
        test_set, watched = data.test.to(accelerator.device), data.watched.to(accelerator.device)
        batches = ImageBatches.for_run(data.train, run, accelerator)
        noise = training.GlobalNoise.for_run(run, accelerator)

        # 3. model: an encoder, of which a linear classifier is the probe
        probed = build(run, data, architecture).to(accelerator.device, memory_format=torch.channels_last)
        model, untrained = probed.simclr.train(), SimCLRModel(probed.config).to(accelerator.device)

        # 4. optimiser, schedule and average
        optimizer = training.make_optimizer("adam", model, run.learning_rate)
        state = training.TrainState(run, accelerator, model, optimizer, run.total_steps(len(batches)), autocast=True)
        probed.simclr = state.eval_model

        # 5. one step: two views of each image, in one pass
        def losses(*both):
            outputs = state.wrapped(*both)
            return {"loss": outputs.loss, "projection_std": outputs.projection_std}

        def train_step(batch):
            return state.step(losses, *two_views(batch["pixel_values"], noise.uniform, views))

        # 6. training, watched on some of the test images, or of those held out for it, by their nearest neighbours
        def watch():
            some = [batches.data.spread(NUM_NEIGHBORS), watched.spread(1000)]
            features = [metrics.features_of(probed.eval().features, each, run.eval_batch_size) for each in some]
            probed.train()
            pairs = [(each, images.labels.cpu()) for each, images in zip(features, some, strict=True)]
            return {"knn_accuracy": metrics.neighbor_accuracy(*pairs)}

        # 7. test: the linear probe becomes the classifier of the model that is saved
        def test(limit):
            parts = batches.data, test_set
            if limit is not None:
                parts = [each.select(metrics.first_of_each_class(each.labels, limit)) for each in parts]
            ways = {"this model": probed.eval(), "untrained encoder": metrics.calibrated(untrained, parts[0])}
            if num := min(protocol.supervised_steps, limit or protocol.supervised_steps):
                encoder, runtime = supervised(run, accelerator, batches.data, untrained, views, num)
                ways |= {"encoder trained with all labels": encoder}
            ways = {name: each.features for name, each in ways.items()}
            draws = {"seed": TEST_SEED, "num_draws": protocol.num_draws if limit is None else 2}
            scores, probe, features = metrics.compare_features(ways, *parts, run.eval_batch_size, **draws)
            with torch.no_grad():
                for own, given in zip(probed.classifier.parameters(), probe, strict=True):
                    own.copy_(given)
            results = {f"test_{name}": value for name, value in scores["this model"].items()}
            results |= sphere(probed.simclr, parts[1].spread(NUM_VIEWED), run, views)
            results |= {"test_effective_rank": metrics.effective_rank(features)}
            results |= {"supervised_steps": num, "supervised_runtime": runtime} if num else {}
            results["accuracies"] = scores
            told = f"{data.described}: all {len(test_set)} test images, probes trained on {len(batches.data)} others"
            told = "; ".join((told, metrics.PROBES.format(num_draws=protocol.num_draws), training.weights_of(run)))
            return results | {"remark": metrics.comparison(scores), "protocol": told}

        # 8. save
        def save(folder, results, history, limit):
            hub.save(probed, folder, results, read=run)
            save_pictures(folder, probed, batches.data, test_set, results["accuracies"], run, data, views, limit)
            panels = {"loss": ("loss",), "spread of the projections": ("projection_std",)}
            training.save_panels(history, folder / "curves.png", panels | {"kNN accuracy": ("eval_knn_accuracy",)})
            training.save_settings(folder / "preset.yaml", run, architecture, views, protocol, config=probed.config)
            about = {"config": probed.config, "pipeline_tag": "image-feature-extraction"}
            hub.save_card(run, folder, "simclr", data, results, **about)

        identity = training.identity_of("train_simclr", data, architecture, views, protocol, config=probed.config)
        ending = training.Ending(test, save, [model, probed, untrained], hub.publish)
        return training.fit(
            run, accelerator, batches, train_step, state={"model": model, "noise": noise, **state.entries()},
            identity=identity, evaluate=watch, ending=ending, shown=("loss", "projection_std"),
        ).results  # fmt: skip


def build(run, data, architecture) -> SimCLRForImageClassification:
    mean, std = data.train.mean_and_std()
    own = {"image_mean": mean, "image_std": std, "id2label": dict(enumerate(data.train.class_names))}
    wanted = {**data.image_shape, **own, **asdict(architecture)}
    return hub.load_or_build(SimCLRForImageClassification, run.model_name_or_path, wanted, architecture.asked)


def supervised(run, accelerator, images, untrained, views, num) -> tuple[SimCLRModel, float]:
    """The encoder after steps with the labels of the same images and views, and the seconds that these took."""
    model, start = SimCLRForImageClassification(untrained.config).to(accelerator.device), time.perf_counter()
    model.simclr = copy.deepcopy(untrained).train()
    model.simclr.projector = model.simclr.predictor = None
    optimizer = training.make_optimizer("adam", model, run.learning_rate)
    state = training.TrainState(run, accelerator, model, optimizer, num)
    noise = training.GlobalNoise.for_run(run, accelerator)
    for _, batch in zip(range(num), ImageBatches.for_run(images, run, accelerator, steps=num), strict=False):
        view = augment(batch["pixel_values"], noise.uniform(len(batch["labels"]), NUM_NOISE), views)
        state.step(lambda *given: {"loss": state.wrapped(*given).loss}, view, batch["labels"])
    return state.eval_model.simclr.eval(), round(time.perf_counter() - start, 2)


def sphere(model, images, run, views) -> dict[str, float]:
    both = two_views(images.pixel_values(), training.GlobalNoise(TEST_SEED, images.images.device).uniform, views)
    with torch.inference_mode():
        both = [torch.cat([model(part).projections for part in each.split(run.eval_batch_size)]) for each in both]
    return {f"test_{name}": value for name, value in metrics.sphere_scores(*(each.cpu() for each in both)).items()}


def save_pictures(folder, model, train, test_set, accuracies, run, data, views, limit):
    made_by, some, train = training.made_by(run, data), test_set.spread(limit or 20), train.spread(NUM_NEIGHBORS)
    pixels = some.pixel_values()
    both = two_views(pixels, training.GlobalNoise(TEST_SEED, pixels.device).uniform, views)
    shown = {"test image": pixels, "a view": both[0], "another": both[1]}
    training.save_rows(shown, folder / "views.png", f"Views of images, as in training; {made_by}")
    nearest = {"test image": pixels}
    for name, way in {"by features": model.features, "by pixels": lambda pixel_values: pixel_values}.items():
        found = metrics.nearest(*(metrics.features_of(way, each, run.eval_batch_size) for each in (train, some)))
        nearest[name] = train.pixel_values(found.to(pixels.device))
    training.save_rows(nearest, folder / "neighbors.png", f"The nearest of {len(train)} training images; {made_by}")
    panels = metrics.accuracy_panels(accuracies)
    training.save_bar_panels(list(accuracies), panels, folder / "probes.png")


if __name__ == "__main__":
    training.launch(main, Run, Model, Views, Protocol, description=__doc__)

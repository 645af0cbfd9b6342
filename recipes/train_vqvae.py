"""
Trains a vector-quantised variational autoencoder of binary images (van den Oord et al., arXiv:1711.00937) with a
causal transformer over its codes as prior, tests its bound and saves both in one folder.

    accelerate launch recipes/train_vqvae.py
    accelerate launch recipes/train_vqvae.py --config recipes/configs/vqvae/mnist.yaml

The first trains on scikit-learn's digits. The codes come first, then the prior, for `--prior_share` of the steps.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import torch

from hwzoo import VQVAEConfig, VQVAEModel, generators, hub, metrics, scoring, training
from hwzoo.data import BINARIZATIONS, ImageBatches, binarize, load_images
from hwzoo.errors import UsageError
from hwzoo.training import flag

TEST_SEED = 0  # of the test images' binarisation: the same for every run, whatever its seed
BOUNDS, SEARCHED = ("negative_bound", "rate", "distortion"), "searched_bound"
BINARY = tuple(name for name in BINARIZATIONS if name != "none")
DEFAULTS = {"train_batch_size": 64, "max_train_steps": 1500, "learning_rate": 4e-3, "lr_scheduler": "cosine"}
DEFAULTS |= {"lr_warmup_steps": 100, "use_ema": True, "ema_decay": 0.998, "output_dir": "outputs/vqvae"}
Model = training.config_flags(VQVAEConfig, without=("image_size", "num_channels", "num_classes"))


@dataclass
class Run(training.with_defaults(training.RunArguments, **DEFAULTS)):
    pass


@dataclass
class Protocol(scoring.ScoreFlags):
    FREE = scoring.ScoreFlags.FREE | {"num_search_images", "temperature"}

    conditional: bool = flag(False, "condition the prior on the class of an image")
    binarization: Literal[BINARY] = flag("dynamic", "training pixels: drawn at every step, once, above 127, or binary")
    prior_share: float = flag(0.5, "last share of steps, for the prior", "[0, 1]", only={"prior": ("transformer",)})
    num_continuous_steps: int = flag(150, "first steps, at most half, that decode the encoder's outputs", "[0, inf)")
    restart_steps: int = flag(50, "steps between restarts of codes that are hardly used; 0 for none", "[0, inf)")
    num_search_images: int = flag(50, "test images, evenly spaced, whose codes are searched for", "[1, inf)")
    temperature: float = flag(1.0, "of samples in pictures: 1 as it is", "(0, inf)", only={"prior": ("transformer",)})


def main(run: Run, architecture: Model, protocol: Protocol) -> dict:
    if protocol.conditional and architecture.prior == "uniform":
        raise UsageError("--conditional is of a transformer as prior: give --prior transformer with it")
    if protocol.prior_share == 1 and run.model_name_or_path is None:
        raise UsageError("--prior_share is 1 without a model whose codes are trained: give --model_name_or_path")
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        # 2. data, on the device as one tensor
        data = load_images(run.dataset_name, run.data_dir, run)
        train_set, test_set, watched = data.binarized(protocol.binarization, run.seed, TEST_SEED)
        test_set, watched = test_set.to(accelerator.device), watched.to(accelerator.device)
        batches = ImageBatches.for_run(train_set, run, accelerator)
        noise = training.GlobalNoise.for_run(run, accelerator)

        # 3. model, in the faster format of convolutions
        model = build(run, data, architecture, protocol).train()
        model.to(accelerator.device, memory_format=torch.channels_last)

        # 4. optimisers, schedules and averages: one of each part, in its own phase
        steps = phases(model, protocol.prior_share, run.total_steps(len(batches)))
        eval_model, states = VQVAEModel(model.config).to(accelerator.device) if run.use_ema else model, {}
        for name, num in steps.items():
            optimizer = training.make_optimizer("adam", getattr(model, name), run.learning_rate)
            states[name] = training.TrainState(run, accelerator, getattr(model, name), optimizer, num)
            setattr(eval_model, name, states[name].eval_model)
        codes = states["autoencoder"]

        # 5. one step: of the codes, of which some that are hardly used begin anew; or of the prior
        def rate_of(codes, labels):
            log_prob = states["prior"].wrapped.train()(codes.flatten(1), labels if model.config.num_classes else None)
            return {"rate": -log_prob.mean()}

        def train_step(batch):
            pixel_values, step = batch["pixel_values"], codes.steps_done + 1
            if protocol.binarization == "dynamic":
                pixel_values = binarize(pixel_values, noise.uniform(*pixel_values.shape))
            if step > steps["autoencoder"]:
                return states["prior"].step(rate_of, eval_model.encode(pixel_values), batch["labels"], loss="rate")
            coded = step > min(protocol.num_continuous_steps, steps["autoencoder"] // 2)
            logged = codes.step(lambda pixels: codes.wrapped.train()(pixels, coded)[0], pixel_values)
            if protocol.restart_steps and step % protocol.restart_steps == 0:
                alike = {"generator": noise.generator, "num_parts": run.gradient_accumulation_steps}
                logged["restarted"] = model.restart_dead_codes(pixel_values, **alike)
            return logged

        # 6. training, watched on some of the test images, or of those held out for it
        watch_means = training.TestMeans(accelerator, watched, run.eval_batch_size, seed=TEST_SEED)
        test_means = training.TestMeans(accelerator, test_set, run.eval_batch_size, seed=TEST_SEED)

        def scores(batch, generator):
            return dict(zip(BOUNDS, eval_model.eval().negative_bound(**batch), strict=True))  # without dropout

        # 7. test
        def test(limit):
            means = test_means(scores, limit, with_error=BOUNDS)
            means |= test_means(
                lambda batch, _: {SEARCHED: eval_model.search(batch["pixel_values"], batch["labels"])[1]},
                limit or protocol.num_search_images, with_error=[SEARCHED],
            )  # fmt: skip
            counts = metrics.code_counts(eval_model, test_set.select(test_means.indices(limit)), run.eval_batch_size)
            results = {f"test_{name}": value for name, value in means.items()} | metrics.code_scores(counts)
            results["protocol"] = "; ".join((
                f"{data.described}: all {len(test_set)} test images; codes used, their perplexity: over all together",
                BINARIZATIONS[protocol.binarization].format(seed=TEST_SEED),
                "bound: -log p(codes) - log p(x | codes) at the encoder's codes, exact, nothing is sampled"
                + (", given the class" if model.config.num_classes else ""),
                f"searched bound: {len(test_means.indices(protocol.num_search_images))} of the images, evenly spaced",
                "nats per image; standard errors over the images; " + training.weights_of(run),
            ))  # fmt: skip
            return results

        # 8. save
        def save(folder, results, history, limit):
            hub.save(eval_model, folder, results)
            save_pictures(folder, eval_model, data, test_set, run, protocol, limit)
            training.save_curves(history, folder / "curves.png", BOUNDS, unit="nats per image")
            training.save_settings(folder / "preset.yaml", run, architecture, protocol, config=model.config)
            hub.save_card(run, folder, "vqvae", data, results, config=eval_model.config, protocol=protocol)

        test = scoring.scored(test, eval_model, data, run, protocol, accelerator)
        ending = training.Ending(test, save, [model, eval_model], hub.publish)
        own = {"config": model.config, "num_classes": model.config.num_classes, "phases": steps}
        identity = training.identity_of("train_vqvae", data, architecture, protocol, **own)
        entries = {f"{part}_{name}": each for part in states for name, each in states[part].entries().items()}
        return training.fit(
            run, accelerator, batches, train_step, state={"model": model, "noise": noise, **entries},
            identity=identity, evaluate=lambda: watch_means(scores, 1000), ending=ending, shown=BOUNDS,
        ).results  # fmt: skip


def build(run, data, architecture, protocol) -> VQVAEModel:
    wanted = {"num_classes": data.num_classes(protocol.conditional), **data.image_shape, **asdict(architecture)}
    model = hub.load_or_build(VQVAEModel, run.model_name_or_path, wanted, architecture.asked)
    if protocol.prior_share == 1 and model.prior is None:
        raise UsageError(f"--prior_share is 1: the prior of {run.model_name_or_path} is uniform, nothing to train")
    return model


def phases(model, prior_share: float, total_steps: int) -> dict[str, int]:
    """Steps of each part of the model; a uniform prior has none."""
    prior = {} if model.prior is None else {"prior": round(total_steps * prior_share)}
    return {"autoencoder": total_steps - sum(prior.values()), **prior}


def save_pictures(folder, model, data, test_set, run, protocol, limit):
    num, made_by, t = limit or 200, training.made_by(run, data), protocol.temperature
    draw = generators.sampler(model, run.seed, num, evenly=True, temperature=t)
    at = "" if model.prior is None else f" at temperature {t:g}"
    training.save_image_grid(draw(num), folder / "samples.png", f"{num} samples{at}; {made_by}")
    shape, generator = (num, *[model.config.grid_sizes[-1]] * 2), torch.Generator().manual_seed(run.seed)
    versions = data.test_versions(test_set, slice(limit or 100))
    with torch.inference_mode():
        uniform = model.decode(torch.randint(model.config.codebook_size, shape, generator=generator).to(model.device))
        versions["reconstruction"] = model.reconstruct([*versions.values()][-1])
    training.save_image_grid(uniform, folder / "uniform_samples.png", f"{num} of codes drawn alike; {made_by}")
    training.save_rows(versions, folder / "reconstructions.png", f"Test images; {made_by}")
    counts = metrics.code_counts(model, test_set.select(slice(limit)), run.eval_batch_size)
    shares, num = (counts.sort(descending=True).values / counts.sum()).tolist(), len(counts)
    curves = {"test images": (range(1, num + 1), shares, "-"), "all alike": ([1, num], [1 / num] * 2, "--")}
    training.save_functions({"share of the uses": curves}, folder / "code_use.png", "code, by its use")


if __name__ == "__main__":
    training.launch(main, Run, Model, Protocol, description=__doc__)

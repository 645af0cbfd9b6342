"""
Trains a linear-Gaussian model (probabilistic PCA, Tipping and Bishop, 1999), scores it and saves it.

    accelerate launch recipes/train_linear_gaussian.py --config digits
"""

from dataclasses import asdict, dataclass

import torch
from linear_gaussian import LinearGaussianConfig, LinearGaussianModel

from hwzoo import hub, training
from hwzoo.data import ImageBatches, load_images


@dataclass
class Run(training.with_defaults(training.RunArguments, output_dir="outputs/linear_gaussian", max_train_steps=500)):
    pass


Model = training.config_flags(LinearGaussianConfig, without=("image_size", "num_channels"))


def main(run: Run, architecture: Model) -> dict:
    with training.start(run) as accelerator:
        data = load_images(run.dataset_name, run.data_dir)
        batches = ImageBatches.for_run(data.train, run, accelerator)
        noise = training.GlobalNoise.for_run(run, accelerator)
        wanted = {**data.image_shape, **asdict(architecture)}
        model = hub.load_or_build(LinearGaussianModel, run.model_name_or_path, wanted).to(accelerator.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)
        state = training.TrainState(run, accelerator, model, optimizer, run.total_steps(len(batches)))
        eval_model = state.eval_model
        test_means = training.TestMeans(accelerator, data.test.to(accelerator.device), run.eval_batch_size, seed=0)

        def train_step(batch):
            # The levels of the pixels have a width: without noise on them the density would grow without bound.
            pixel_values = batch["pixel_values"] + noise.uniform(*batch["pixel_values"].shape) / 255
            return state.step(state.wrapped, pixel_values)

        def score(batch, generator):
            return {"negative_log_likelihood": -eval_model.log_prob(batch["pixel_values"])}

        def test(limit):
            results = {f"test_{name}": value for name, value in test_means(score, limit).items()}
            results["protocol"] = f"{data.name}: all {len(data.test)} test images, nats per image"
            return results

        def save(folder, results, history, limit):
            hub.save(eval_model, folder, results)
            samples = eval_model.sample(200, generator=torch.Generator().manual_seed(run.seed))
            training.save_image_grid(samples, folder / "samples.png", f"200 samples; {training.made_by(run, data)}")
            training.save_settings(folder / "preset.yaml", run, architecture)
            hub.save_card(run, folder, "linear_gaussian", data, results, config=eval_model.config)

        return training.fit(
            run, accelerator, batches, train_step, state={"model": model, "noise": noise, **state.entries()},
            identity=training.identity_of("train_linear_gaussian", data, architecture, config=model.config),
            ending=training.Ending(test, save, [model, eval_model], hub.publish),
        ).results  # fmt: skip


if __name__ == "__main__":
    training.launch(main, Run, Model, description=__doc__)

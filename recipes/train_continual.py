"""
Trains a classifier on a sequence of tasks with a strategy against forgetting, scores it on every task after each, and
saves it. The strategies, with their papers, stand in `src/hwzoo/continual`, a file each.

    accelerate launch recipes/train_continual.py
    accelerate launch recipes/train_continual.py --strategy ewc
    accelerate launch recipes/train_continual.py --config recipes/configs/continual/eecs182.yaml --strategy ewc

The first trains on scikit-learn's digits, five tasks of two classes, offline, in half a minute on 2 CPU cores: replay
of 200 stored images. `--strategy naive` does nothing against forgetting; `--scenario class` is the hardest. A plain
classifier is `--strategy joint --num_tasks 1`. The presets say their command, their minutes and the numbers to expect.
"""

from dataclasses import asdict, dataclass
from typing import Literal

import torch

from hwzoo import ClassifierConfig, ClassifierForImageClassification, continual, hub, metrics, training
from hwzoo.data import ImageBatches, load_images
from hwzoo.training import flag

SCORES = ("average_accuracy", "average_forgetting", "backward_transfer", "forward_transfer")
DEFAULTS = {"output_dir": "outputs/continual", "train_batch_size": 128, "eval_steps": 100}


@dataclass
class Run(training.with_defaults(training.RunArguments, **DEFAULTS)):
    num_train_epochs: float | None = flag(30, "passes over the images of each task", "(0, inf)")
    max_train_steps: int | None = flag(None, "optimiser steps of each task; in place of epochs", "[0, inf)")


Tasks = training.config_flags(continual.StreamSettings, class_name="Tasks")
Method = training.config_flags(continual.StrategySettings, class_name="Method")
OF_THE_DATA = ("image_size", "num_channels", "num_heads", "image_mean", "image_std")
Model = training.config_flags(ClassifierConfig, OF_THE_DATA, backbone="mlp", hidden_sizes=[400, 400])


@dataclass
class Optimizer(training.Flags):
    optimizer: Literal["adam", "sgd"] = flag("adam", "Adam, or SGD with --momentum")
    momentum: float = flag(0.9, "of SGD", "[0, 1)", only={"optimizer": ("sgd",)})
    reset_optimizer: bool = flag(False, "forget momentum and Adam's moments at the start of each task")


def main(run: Run, tasks: Tasks, architecture: Model, optimisation: Optimizer, method: Method) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        # 2. data: the images of all tasks on the device, in the order of the tasks
        data = load_images(run.dataset_name, run.data_dir, run)
        data.check_classes(f"--dataset_name {run.dataset_name}")
        stream, watched = continual.make_streams(tasks, data, accelerator.device)
        noise = training.GlobalNoise.for_run(run, accelerator)

        # 3. model and strategy
        model = build(run, data, stream, architecture).train()
        model.to(accelerator.device, memory_format=torch.channels_last)  # the faster one for convolutions
        strategy = continual.make_strategy(method, model, stream, noise)

        # 4. optimiser, and the phases of training: one a task, as a rule
        optimizer = training.make_optimizer(optimisation.optimizer, model, run.learning_rate, optimisation.momentum)
        phases = strategy.phases()
        batches = phase_batches(run, accelerator, stream, phases)
        strategy.task = phases[0][1]
        state = training.TrainState(run, accelerator, model, optimizer, sum(batches.steps))

        # 5. one step
        def train_step(batch):
            scores.begin()
            batch = strategy.extend(batch)

            def loss_of(*values):
                return strategy.losses(state.wrapped, dict(zip(batch, values, strict=True)))

            return state.step(loss_of, *batch.values(), after_update=lambda clip: strategy.after_step(optimizer, clip))

        # 6. training; after the last step of a phase the strategy keeps what it needs, and all tasks are tested
        def accuracy_on(task, of):
            means = training.TestMeans(accelerator, of.test.select(of.test_indices(task)), run.eval_batch_size)
            with state.testing() as eval_model:
                mean = means(lambda batch, generator: {"accuracy": strategy.accuracy(eval_model, batch)})
            return round(mean["accuracy"], 6)  # float32 gives no more digits

        def accuracies(num_tasks=stream.num_tasks, of=stream):
            return [accuracy_on(task, of) for task in range(num_tasks)]

        def watch():
            if batches.phase_done:
                return {}  # just told by `end_phase`
            values = accuracies(strategy.task + 1, watched)
            return {f"accuracy_task_{task}": value for task, value in enumerate(values, 1)}

        def after_step(step):
            return end_phase if batches.phase_done else None

        def end_phase():
            strategy.end_task()
            row = scores.add(accuracies())[: strategy.task + 1]
            row = row if data.validation is None else accuracies(len(row), watched)
            if batches.phase + 1 < len(phases):
                strategy.task = phases[batches.phase + 1][1]
                if optimisation.reset_optimizer:
                    optimizer.state.clear()
            return {f"eval_accuracy_task_{task}": value for task, value in enumerate(row, 1)}

        scores = continual.Scores(accuracies())

        # 7. test
        def test(limit):
            if limit is None and not scores.rows:  # no training: the model as it was loaded
                strategy.task = phases[-1][1]
                scores.add(accuracies())
            results = metrics.continual_results(scores, strategy, None if limit else accuracies(of=stream.seen()))
            return results | {"protocol": protocol(run, data, tasks, stream)}

        # 8. save
        def save(folder, results, history, limit):
            hub.save(state.eval_model, folder, results, read=run)
            training.save_accuracy_matrix(results["accuracy_matrix"], folder / "accuracy_matrix.png")
            training.save_task_curves(history, folder / "curves.png", batches.ends, watched is not stream)
            training.save_settings(folder / "preset.yaml", run, *flags, config=model.config)
            plain = {"title": f"{data.title} classifier", "tag": "classifier"}
            about = plain if tasks.num_tasks == 1 else {"title": f"continual-{data.name}-{method.strategy}"}
            about |= {"metrics": SCORES, "config": model.config, "tasks": tasks, "method": method}
            hub.save_card(run, folder, "classifier", data, results, pipeline_tag="image-classification", **about)

        whole = {"model": model, "noise": noise, "strategy": strategy, "stream": stream, "scores": scores}
        flags = tasks, architecture, optimisation, method
        identity = training.identity_of("train_continual", data, *flags, config=model.config, steps=batches.steps)
        return training.fit(
            run, accelerator, batches, train_step, state=whole | state.entries(), identity=identity, evaluate=watch,
            after_step=after_step, total_steps=sum(batches.steps), place=strategy.place,
            ending=training.Ending(test, save, [model, state.eval_model], hub.publish),
        ).results  # fmt: skip


def build(run, data, stream, architecture) -> ClassifierForImageClassification:
    mean, std = data.train.mean_and_std()
    own = {"image_mean": mean, "image_std": std, "id2label": dict(enumerate(stream.train.class_names))}
    wanted = {**data.image_shape, **own, "num_heads": stream.num_heads, **asdict(architecture)}
    asked = run.model_name_or_path, wanted, architecture.asked
    own = {"default": asdict(Model()), "trains": run.max_train_steps != 0}
    return hub.load_or_build(ClassifierForImageClassification, *asked, **own)


def phase_batches(run, accelerator, stream, phases) -> continual.StreamBatches:
    def batches_of(phase):
        images = stream.train.select(stream.train_indices(*phases[phase]))
        return ImageBatches.for_run(images, run, accelerator, seed=run.seed + 1_000_003 * phase)

    steps = [run.total_steps(len(batches_of(phase))) for phase in range(len(phases))]
    return continual.StreamBatches(batches_of, steps)


def protocol(run, data, tasks, stream) -> str:
    about = f"{tasks.num_tasks} tasks ({tasks.stream}, {tasks.scenario}-incremental)"
    return "; ".join((
        f"{data.described}, {about if tasks.num_tasks > 1 else 'all classes in one task'}",
        f"accuracy on all {len(stream.test)} test images (train_accuracy: of training), mean over tasks, at the end",
        "among the outputs of the image's own task" if tasks.scenario == "task" else "among all outputs seen",
        training.weights_of(run),
    ))  # fmt: skip


if __name__ == "__main__":
    training.launch(main, Run, Tasks, Model, Optimizer, Method, description=__doc__)

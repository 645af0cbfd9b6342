"""
Trains a classifier on a sequence of tasks with a strategy against forgetting, scores it on every task after each, and
saves it. The strategies, with their papers, stand in `src/hwzoo/continual`, a file each.

    accelerate launch recipes/train_continual.py
    accelerate launch recipes/train_continual.py --strategy ewc --ewc_lambda 100
    accelerate launch recipes/train_continual.py --config recipes/configs/continual/eecs182.yaml --strategy ewc

The first trains on scikit-learn's digits, five tasks of two classes, offline, in half a minute on 2 CPU cores. A plain
classifier is `--strategy joint --num_tasks 1`. The presets say their command, their minutes and the numbers to expect.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from hwzoo import ContinualConfig, ContinualForImageClassification, continual, hub, metrics, training
from hwzoo.data import ImageBatches, load_images
from hwzoo.training import flag

SCORES = ("average_accuracy", "average_forgetting", "backward_transfer", "forward_transfer")


@dataclass
class Run(training.RunArguments):
    output_dir: str = flag("outputs/continual", "folder for the model, results, pictures and checkpoints")
    train_batch_size: int = flag(128, "examples a step, for each process and each accumulated batch", "[1, inf)")
    num_train_epochs: float | None = flag(10, "passes over the images of each task", "(0, inf)")
    max_train_steps: int | None = flag(None, "optimiser steps of each task; in place of epochs", "[0, inf)")
    eval_steps: int | None = flag(100, "steps between evaluations on the tasks so far", "[1, inf)")


@dataclass
class Tasks(training.Flags):
    stream: Literal["split", "permuted"] = flag("split", "classes in groups, or all classes with permuted pixels")
    num_tasks: int = flag(5, "tasks of the stream", "[1, inf)")
    scenario: Literal["task", "domain", "class"] = flag(
        "class", "the task of an image is known; it is not and labels are shared; it is not and each task has new ones"
    )
    stream_seed: int = flag(0, "of the permutations: task t > 0 has that of the seed stream_seed + t", "[0, inf)")


@dataclass
class Model(training.Flags):
    backbone: Literal["cnn", "mlp", "wide_cnn"] = flag("mlp", "the course's CNN, an MLP, or a wider CNN")
    hidden_sizes: list[int] = flag([400, 400], "units of the MLP's hidden layers", "[1, inf)")
    dropout: float = flag(0.5, "probability of the CNNs' dropout", "[0, 1)")
    optimizer: Literal["adam", "sgd"] = flag("adam", "Adam, or SGD with --momentum")
    momentum: float = flag(0.9, "of SGD", "[0, 1)")
    reset_optimizer: bool = flag(False, "forget momentum and Adam's moments at the start of each task")


@dataclass
class Method(training.Flags):
    strategy: Literal[tuple(continual.STRATEGIES)] = flag("naive", "what is done against forgetting")
    ewc_lambda: float = flag(100.0, "strength of EWC's penalty", "[0, inf)")
    ewc_penalty: Literal["half", "full"] = flag("half", "lambda / 2 F d^2, or lambda F d^2 as in the course")
    ewc_online: bool = flag(False, "one anchor with a running Fisher information in place of one a task")
    ewc_decay: float = flag(1.0, "factor on the running Fisher information at each task", "[0, 1]")
    fisher_estimator: Literal[continual.ESTIMATORS] = flag("exact", "see hwzoo.continual.fisher_diagonal")
    fisher_samples: int | None = flag(None, "training images of each task for it; all when not given", "[1, inf)")
    fisher_mode: Literal["eval", "train"] = flag("eval", "without dropout, or with it as in the course")
    fisher_batch_size: int = flag(256, "images a batch for it", "[1, inf)")
    si_lambda: float = flag(1.0, "strength c of SI's penalty", "[0, inf)")
    si_damping: float = flag(0.1, "xi of SI", "(0, inf)")
    lwf_lambda: float = flag(1.0, "weight of LwF's distillation", "[0, inf)")
    lwf_temperature: float = flag(2.0, "of LwF's softmax", "(0, inf)")
    memory_size: int = flag(1000, "images that replay stores", "[1, inf)")
    replay_ratio: int = flag(1, "stored images of a step for each new one", "[1, 1000]")
    memory_policy: Literal["reservoir", "balanced"] = flag("balanced", "every image, or every class, alike")


def main(run: Run, tasks: Tasks, architecture: Model, method: Method) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        device, process = accelerator.device, (accelerator.process_index, accelerator.num_processes)

        # 2. data: the images of all tasks on the device, in the order of the tasks
        data = load_images(run.dataset_name, run.data_dir)
        data.check_classes(f"--dataset_name {run.dataset_name}")
        if tasks.stream == "split":
            stream = continual.split(data.train, data.test, tasks.num_tasks, tasks.scenario)
        else:
            stream = continual.permuted(data.train, data.test, tasks.num_tasks, tasks.scenario, tasks.stream_seed)
        stream = stream.to(device)
        noise = training.GlobalNoise.for_run(run, accelerator)

        # 3. model and strategy
        mean, std = data.train.mean_and_std()
        config = ContinualConfig(
            image_size=data.train.image_size,
            num_channels=data.train.num_channels,
            backbone=architecture.backbone,
            hidden_sizes=architecture.hidden_sizes,
            dropout=architecture.dropout,
            num_heads=stream.num_heads,
            image_mean=mean,
            image_std=std,
            id2label=dict(enumerate(stream.train.class_names)),
        )
        model = hub.load_or_build(ContinualForImageClassification, run.model_name_or_path, config)
        model.to(device, memory_format=torch.channels_last).train()  # the faster one for convolutions
        strategy = continual.STRATEGIES[method.strategy](model, stream, method, noise)

        # 4. optimiser, and the phases of training: one a task, as a rule
        if architecture.optimizer == "sgd":
            optimizer = torch.optim.SGD(model.parameters(), lr=run.learning_rate, momentum=architecture.momentum)
        else:
            optimizer = torch.optim.Adam(model.parameters(), lr=run.learning_rate, fused=True)
        phases, parts = strategy.phases(), run.gradient_accumulation_steps

        def batches_of(phase):
            images = stream.train.select(stream.train_places(*phases[phase]))
            return ImageBatches(images, run.train_batch_size * parts, run.seed + 1_000_003 * phase, *process)

        steps = [run.total_steps(len(batches_of(phase))) for phase in range(len(phases))]
        batches = continual.StreamBatches(batches_of, steps)
        strategy.task = phases[0][1]
        state = training.TrainState(run, accelerator, model, optimizer, sum(steps))
        eval_model = state.eval_model

        # 5. one step
        def train_step(batch):
            scores.begin()
            batch = strategy.extend(batch)

            def loss_of(*values):
                return strategy.losses(state.wrapped, dict(zip(batch, values, strict=True)))

            return state.step(loss_of, *batch.values(), after_update=lambda: strategy.after_step(optimizer))

        # 6. training; after the last step of a phase the strategy keeps what it needs, and all tasks are tested
        def accuracy_on(task):
            places = stream.test_places(task)

            def accuracy(part, generator):
                batch = stream.test.batch(torch.arange(part.start, part.stop, device=device) + places.start)
                logits = strategy.seen(eval_model(batch["pixel_values"], task_ids=batch["task_ids"]).logits)
                return {"accuracy": (logits.argmax(-1) == batch["labels"]).float().mean()}

            eval_model.eval()
            mean = training.mean_over(accelerator, places.stop - places.start, run.eval_batch_size, accuracy)
            eval_model.train()
            return round(mean["accuracy"], 6)  # float32 gives no more digits

        def watch():
            if batches.phase_done:
                return {}  # just told by `after_step`
            return {f"accuracy_task_{task + 1}": accuracy_on(task) for task in range(strategy.task + 1)}

        def after_step(step):
            if not batches.phase_done:
                return None
            strategy.end_task()
            row, num_learned = scores.add([accuracy_on(task) for task in range(stream.num_tasks)]), strategy.task + 1
            if batches.phase + 1 < len(phases):
                strategy.task = phases[batches.phase + 1][1]
                if architecture.reset_optimizer:
                    optimizer.state.clear()
            return {f"eval_accuracy_task_{task + 1}": value for task, value in enumerate(row[:num_learned])}

        scores = continual.Scores([accuracy_on(task) for task in range(stream.num_tasks)])

        # 7. test
        def test(limit):
            if limit is None and not scores.rows:  # no training: the model as it was loaded
                strategy.task = phases[-1][1]
                scores.add([accuracy_on(task) for task in range(stream.num_tasks)])
            rows = scores.rows or [scores.untrained]
            results = metrics.continual_metrics(rows, scores.untrained)
            results |= {"accuracy_matrix": rows, "untrained_accuracy": scores.untrained}
            results |= {"seconds_per_phase": scores.seconds, "memory_held": strategy.memory_held()}
            if stream.permutations is not None:
                results["permutations"] = stream.permutations.tolist()
            stream_of = f"{tasks.num_tasks} tasks ({tasks.stream}, {tasks.scenario}-incremental)"
            results["protocol"] = "; ".join((
                f"{data.name}, {stream_of if tasks.num_tasks > 1 else 'all classes in one task'}",
                f"accuracy on all {len(stream.test)} test images, the mean over the tasks, after the last one",
                "among the outputs of the image's own task" if tasks.scenario == "task" else "among all outputs seen",
                training.weights_of(run),
            ))  # fmt: skip
            return results

        # 8. save
        def save(folder, results, history, limit):
            hub.save(eval_model, folder, results)
            training.save_accuracy_matrix(results["accuracy_matrix"], folder / "accuracy_matrix.png")
            borders = torch.tensor(steps).cumsum(0).tolist()
            training.save_task_curves(history, folder / "curves.png", stream.num_tasks, borders)
            training.save_settings(folder / "preset.yaml", run, tasks, architecture, method)
            about = {"title": f"continual-{data.name}-{method.strategy}", "dataset": data.source, "metrics": SCORES}
            about |= {"pipeline_tag": "image-classification", "config": eval_model.config}
            hub.save_card(run, folder, "continual", results=results, tasks=tasks, method=method, **about)

        ending = training.Ending(test, save, [model, eval_model], hub.publish)
        whole = {"model": model, "noise": noise, "strategy": strategy, "stream": stream, "scores": scores}
        identity = training.identity_of("train_continual", data, tasks, architecture, method) | {"steps": steps}
        fitted = training.fit(
            run, accelerator, batches, train_step, state=whole | state.entries(), identity=identity, evaluate=watch,
            after_step=after_step, total_steps=sum(steps), ending=ending,
        )  # fmt: skip
        return fitted.results


if __name__ == "__main__":
    training.launch(main, Run, Tasks, Model, Method, description=__doc__)

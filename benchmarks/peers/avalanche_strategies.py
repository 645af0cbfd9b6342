"""
The continual-learning recipe beside avalanche's strategies (arXiv:2302.01766), in one process.

    pip install -e . avalanche-lib==0.6.0
    HWZOO_DATA_DIR=... python benchmarks/peers/avalanche_strategies.py

avalanche imports torchvision, whose wheels on PyPI fit the torch wheels of PyPI of the same release alone.

Both run split MNIST, class-incremental, five tasks of one epoch, MLP 784-400-400-10, Adam 1e-3, batches of 128, and
test on all tasks after each, 500 images at once; the images of both are tensors in memory. The contenders take turns.

- hwzoo: the loop of recipes/train_continual.py with its progress bar, log, tests and checkpoints (bench_continual.py);
  EWC's Fisher information from all images of a task, one by one, and from 1,000 of them; none after the last task,
  which nothing follows.
- avalanche: `strategy.train` and `strategy.eval` with its own evaluator and logger, whose text is thrown away; EWC's
  importances are its own, the squared gradients of whole batches over all images of the task.
- replay of both: 1,000 stored images, as many of them in a batch as new ones.
"""

import argparse
import contextlib
import io
import json
import sys
import time
from pathlib import Path

import torch
from avalanche.benchmarks.scenarios.supervised import class_incremental_benchmark
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.supervised import EWC, Naive, Replay

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_continual import BATCH, STRATEGIES, through_recipe
from side_by_side import images, ratio, take_turns

from hwzoo.data import ImageSet

PEERS = {"naive": (Naive, {}), "ewc": (EWC, {"ewc_lambda": 100.0}), "replay": (Replay, {"mem_size": 1000})}


OURS = STRATEGIES | {"ewc, 1,000 images": STRATEGIES["ewc"], "ewc": STRATEGIES["ewc"] | {"fisher_samples": None}}


class Tensors(torch.utils.data.TensorDataset):
    """Images in [0, 1] and their labels, which avalanche looks for in `targets`."""

    def __init__(self, part: ImageSet):
        super().__init__(part.images.float().div(255).flatten(1), part.labels)
        self.targets = part.labels.tolist()


def mlp() -> torch.nn.Module:
    layers = []
    for size_in, size_out in ((784, 400), (400, 400)):
        layers += [torch.nn.Linear(size_in, size_out), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(400, 10))


def through_avalanche(parts: dict[str, Tensors], name: str) -> float:
    """Seconds of training on, and testing after, each of the tasks."""
    scenario = class_incremental_benchmark(dict(parts), class_order=list(range(10)), num_experiences=5)
    model, (strategy_class, flags) = mlp(), PEERS[name]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sizes = {"train_mb_size": BATCH, "train_epochs": 1, "eval_mb_size": 500}
    evaluator = default_evaluator()
    for logger in evaluator.loggers:
        logger.file = io.StringIO()
    flags = {"criterion": torch.nn.CrossEntropyLoss(), "evaluator": evaluator, **sizes, **flags}
    strategy = strategy_class(model=model, optimizer=optimizer, **flags)
    start = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        for experience in scenario.train_stream:
            strategy.train(experience)
            strategy.eval(scenario.test_stream)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="the medians over them are compared")
    arguments = parser.parse_args()
    data = images()
    parts = {"train": Tensors(data.train), "test": Tensors(data.test)}

    def contenders() -> dict[str, float]:
        seconds = {f"hwzoo, {name}": through_recipe(data, **method) for name, method in OURS.items()}
        return seconds | {f"avalanche, {name}": through_avalanche(parts, name) for name in PEERS}

    seconds = take_turns(contenders, arguments.rounds, "s")
    pairs = {name: (f"avalanche, {name.split(',')[0]}", f"hwzoo, {name}") for name in OURS}
    print(json.dumps({f"{name}, avalanche / hwzoo": ratio(seconds, *pair) for name, pair in pairs.items()}))


if __name__ == "__main__":
    main()

"""
What a strategy costs beside naive fine-tuning, and the recipe's loop beside a bare one, in one process.

    python benchmarks/bench_continual.py

Split MNIST, class-incremental, 5 tasks of one epoch, MLP 784-400-400-10, Adam, batches of 128. The contenders take
turns, each round times every one of them, and the medians over the rounds are compared. Random images of MNIST's size
stand in where HWZOO_DATA_DIR does not hold it (the work is the same).

- bare: tensors in memory, index_select, the model, fused Adam; after each task the accuracy on all of them.
- naive, ewc (sampled Fisher information, 1,000 images a task), replay (1,000 images stored): the own `main` of
  recipes/train_continual.py as it is run, with its progress bar, log, tests after each task and checkpoints; the time
  is that of its loop, `train_runtime`.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_continual as recipe
from side_by_side import images, ratio, take_turns

from hwzoo import ClassifierConfig, ClassifierForImageClassification, continual
from hwzoo.data import ImageSplits

BATCH = 128
STRATEGIES = {
    "naive": {"strategy": "naive"},
    "ewc": {"strategy": "ewc", "fisher_estimator": "sampled", "fisher_samples": 1000},
    "replay": {"strategy": "replay", "memory_size": 1000},
}


def bare(stream: continual.Stream) -> float:
    """The loop that one would write by hand; gives its seconds."""
    model = ClassifierForImageClassification(ClassifierConfig(backbone="mlp", hidden_sizes=[400, 400]))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    train, test = stream.train, stream.test
    start = time.perf_counter()
    for task in range(stream.num_tasks):
        indices = stream.train_indices(task, task)
        order = torch.randperm(indices.stop - indices.start) + indices.start
        model.train()
        for indices in order.split(BATCH)[: len(order) // BATCH]:
            pixel_values = train.images.index_select(0, indices).float().div_(255)
            logits = model(pixel_values).logits
            F.cross_entropy(logits, train.labels.index_select(0, indices)).backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.inference_mode():
            for other in range(stream.num_tasks):
                part = stream.test_indices(other)
                for indices in torch.arange(part.start, part.stop).split(500):
                    logits = model(test.images.index_select(0, indices).float().div_(255)).logits
                    (logits.argmax(-1) == test.labels.index_select(0, indices)).float().mean().item()
    return time.perf_counter() - start


def through_recipe(data: ImageSplits, **method) -> float:
    """Seconds in the recipe's loop."""
    recipe.load_images = lambda *args: data
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        with contextlib.redirect_stdout(io.StringIO()):
            run = recipe.Run(output_dir=folder, num_train_epochs=1, train_batch_size=BATCH, eval_steps=None)
            settings = recipe.Tasks(scenario="class"), recipe.Model(), recipe.Optimizer(), recipe.Method(**method)
            return recipe.main(run, *settings)["train_runtime"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="the medians over them are compared")
    arguments = parser.parse_args()
    data = images()
    stream = continual.split(data.train, data.test, 5, "class")

    def contenders():
        return {"bare": bare(stream)} | {name: through_recipe(data, **method) for name, method in STRATEGIES.items()}

    seconds = take_turns(contenders, arguments.rounds, "s")
    pairs = (("naive", "bare"), ("ewc", "naive"), ("replay", "naive"))
    print(json.dumps({f"{first} / {second}": ratio(seconds, first, second) for first, second in pairs}))


if __name__ == "__main__":
    main()

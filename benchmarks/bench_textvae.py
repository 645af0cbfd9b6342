"""
How fast a text VAE trains: recipes/train_textvae.py's own `main` on its words as it is run (progress bar, log,
checkpoints; its evaluations and its final test are left out), and a bare loop of the same model, optimiser and
schedule, take turns at each step; the medians over the rounds are compared.

    python benchmarks/bench_textvae.py
"""

import argparse
import json
import resource
import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_textvae
from side_by_side import ratio, step_by_step, take_turns
from transformers import get_scheduler

from hwzoo import TextVAEConfig, TextVAEModel, text

BATCH, WARMUP = 64, 50


class Bare:
    """
    The loop that one would write by hand.

    Args:
        total_steps: of the schedule.
    """

    def __init__(self, total_steps: int):
        torch.manual_seed(0)
        texts = [each.target for each in text.load_texts().train]
        rows = [torch.tensor(row) for row in text.train_tokenizer(texts, 259)(texts).input_ids]
        self.ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        self.lengths = torch.tensor([len(row) for row in rows])
        self.model = TextVAEModel(TextVAEConfig()).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3, fused=True)
        self.lr_scheduler = get_scheduler("cosine", self.optimizer, WARMUP, total_steps)
        self.order, self.place = torch.randperm(len(self.ids)), 0

    def step(self):
        if self.place + BATCH > len(self.ids):
            self.order, self.place = torch.randperm(len(self.ids)), 0
        indices = self.order[self.place : self.place + BATCH]
        self.place += BATCH
        self.model(self.ids[indices][:, : self.lengths[indices].max()]).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="steps of each in a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    bare = Bare(arguments.steps * (arguments.rounds + 1))
    others = train_textvae.Data(), train_textvae.Model(), train_textvae.Protocol()
    flags = {"max_train_steps": arguments.steps, "train_batch_size": BATCH, "eval_steps": None}
    turns = partial(step_by_step, train_textvae, None, bare.step, *others, **flags)
    print("steps of the recipe and of a bare loop in turn:")
    results = {"recipe / bare": ratio(take_turns(turns, arguments.rounds, "steps/s"), "recipe", "bare")}
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(json.dumps(results))


if __name__ == "__main__":
    main()

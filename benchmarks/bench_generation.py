"""
How much a cache of keys and values saves in generation, and how fast the T5 recipe's loop is beside a bare loop.

    python benchmarks/bench_generation.py
    python benchmarks/bench_generation.py --model_name_or_path google-t5/t5-small

Generation: a T5 of t5-small's sizes that reads bytes, with new weights (the work is the same), or the named model;
sources of 64 random tokens, exactly as many new tokens as told, greedy and with beams. With the cache a step computes
the newest token only, without it all tokens so far again; the texts are the same. generation.png shows tokens a second
over the length.

Training: recipes/train_t5.py's own `main` on its word tasks as it is run, with progress bar, log lines and a
checkpoint at the end, without evaluations, against a loop by hand over the same padded batches in the same order:
model, gradients scaled to norm 1, fused AdamW with the same schedule; no progress, log or check. They take turns at
each step.

The contenders take turns, so that a change of the machine's speed meets all of them, and medians over the rounds are
compared; the first round warms up.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import get_scheduler

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_t5
from side_by_side import Turn, ratio, result_of_loop, take_turns

from hwzoo import hub, text, training
from hwzoo.training.seq2seq import EpochSampler

T5_SMALL = {
    "d_model": 512,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": 6,
    "num_heads": 8,
    "dropout_rate": 0.1,
}
SOURCE_LENGTH = 64
MODEL = train_t5.Model(config_d_model=128, config_d_ff=512)  # that is trained: the preset inflections'


def tokens_per_second(model, sources: torch.Tensor, num_new: int, num_beams: int, use_cache: bool) -> float:
    """Of all texts together, the beams of one text counted as one."""
    start = time.perf_counter()
    with torch.no_grad():
        ids = model.generate(
            input_ids=sources, attention_mask=torch.ones_like(sources), max_new_tokens=num_new, min_new_tokens=num_new,
            do_sample=False, num_beams=num_beams, use_cache=use_cache,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    if ids.shape != (len(sources), num_new + 1):  # the start token
        raise RuntimeError(f"{tuple(ids.shape)} tokens were generated, not {num_new} for each of {len(sources)}")
    return ids[:, 1:].numel() / seconds


def bench_generation(arguments) -> dict[str, float]:
    torch.manual_seed(0)
    if arguments.model_name_or_path is None:
        model = text.build_t5(text.new_tokenizer(None, None, ()), **T5_SMALL)
    else:
        model, _ = text.load_base(arguments.model_name_or_path, hub.load)
        if not model.config.is_encoder_decoder:
            raise SystemExit("--model_name_or_path must be a sequence-to-sequence model")
    model.eval()
    sources = torch.randint(3, 200, (arguments.batch_size, SOURCE_LENGTH))
    cells = {
        f"{num} tokens, {beams} beams, {'with' if cache else 'without'} cache": (num, beams, cache)
        for num in arguments.lengths
        for beams in arguments.beams
        for cache in (True, False)
    }
    print(f"generation, {arguments.batch_size} texts at once:")
    speeds = take_turns(
        lambda: {name: tokens_per_second(model, sources, *cell) for name, cell in cells.items()},
        arguments.rounds,
        "tokens/s",
    )
    curves = {
        f"{beams} beams, {'with' if cache else 'without'} cache": (
            arguments.lengths,
            [statistics.median(values) for name, values in speeds.items() if cells[name][1:] == (beams, cache)],
            f"C{colour}{'o-' if cache else 's--'}",
        )
        for colour, beams in enumerate(arguments.beams)
        for cache in (True, False)
    }
    training.save_functions({"tokens a second": curves}, arguments.plot, xlabel="new tokens", scale="log")
    return {
        f"with / without cache, {cell}": ratio(speeds, f"{cell}, with cache", f"{cell}, without cache")
        for cell in dict.fromkeys(name.rsplit(", ", 1)[0] for name in cells)
    }


class Bare:
    """The loop that one would write by hand."""

    def __init__(self, run: train_t5.Run):
        model, data, pairs = MODEL, train_t5.Data(), text.load_text()
        tokenizer = text.new_tokenizer(None, None, ())
        sizes = {name: getattr(model, f"config_{name}") for name in text.settings.SIZES}
        self.start = lambda: text.build_t5(tokenizer, **sizes).train()
        self.dataset = text.TokenizedPairs(pairs.train, tokenizer, data.max_source_length, data.max_target_length)
        self.collate = text.PadBatch(tokenizer.pad_token_id)
        self.settings = run

    def batches(self):
        size = self.settings.per_device_train_batch_size
        sampler = EpochSampler(len(self.dataset), self.settings.seed, None, size)
        epoch = 0
        while True:
            sampler.set_epoch(epoch)
            order, epoch = list(sampler), epoch + 1
            for start in range(0, len(order), size):  # the short last one too, as the Trainer
                yield self.collate([self.dataset[index] for index in order[start : start + size]])

    def new(self):
        """A new model, before its first step."""
        run, self.model = self.settings, self.start()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=run.learning_rate, weight_decay=0.0, fused=True)
        self.lr_scheduler = get_scheduler(run.lr_scheduler_type, self.optimizer, run.warmup_steps, run.max_steps)
        self.order = self.batches()

    def step(self):
        self.model(**next(self.order)).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()


def training_speeds(bare: Bare, steps: int) -> dict[str, float]:
    """Steps a second of the bare loop and of train_t5.py's, which take turns at each step."""
    training_step, turn = train_t5.ZooSeq2SeqTrainer.training_step, Turn(bare.step)

    def after_bare_step(*args, **kwargs):
        turn()
        return training_step(*args, **kwargs)

    bare.new()
    train_t5.ZooSeq2SeqTrainer.training_step = after_bare_step
    try:
        with tempfile.TemporaryDirectory() as folder:
            run = train_t5.Run(output_dir=folder, max_steps=steps, eval_steps=None)
            others = MODEL, train_t5.Data(), train_t5.Generation()
            fitted = result_of_loop(train_t5.ZooSeq2SeqTrainer, "fit", lambda: train_t5.main(run, *others))
    finally:
        train_t5.ZooSeq2SeqTrainer.training_step = training_step
    return turn.speeds(fitted.results)


def bench_training(steps: int, rounds: int) -> dict[str, float]:
    bare = Bare(train_t5.Run(max_steps=steps))
    speeds = take_turns(lambda: training_speeds(bare, steps), rounds, "steps/s")
    return {"recipe / bare": ratio(speeds, "recipe", "bare")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", help="folder or Hub id of the model that generates")
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 32, 64, 128, 256], help="new tokens")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4], help="beams")
    parser.add_argument("--batch_size", type=int, default=8, help="texts generated at once")
    parser.add_argument("--steps", type=int, default=100, help="steps of training a round; 0 leaves training out")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the medians over them are compared")
    parser.add_argument("--plot", default="generation.png", help="file of the plot")
    arguments = parser.parse_args()
    ratios = bench_generation(arguments)
    if arguments.steps:
        ratios |= bench_training(arguments.steps, arguments.rounds)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()

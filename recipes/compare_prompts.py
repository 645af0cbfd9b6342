"""
Compares what it takes to make one frozen language model do one task: a prompt in words, with examples or without, a
soft prompt (Lester et al., arXiv:2104.08691), a prefix (Li and Liang, arXiv:2101.00190), LoRA (Hu et al.,
arXiv:2106.09685), or training all of it.

    python recipes/compare_prompts.py
    python recipes/compare_prompts.py --architecture causal --num_virtual_tokens 14
    python recipes/compare_prompts.py --hold_out
    python recipes/compare_prompts.py --config recipes/configs/t5/compare_prompts.yaml
    python recipes/compare_prompts.py --model_name_or_path openai-community/gpt2 --num_virtual_tokens 100

The first, 3 minutes on 2 CPU cores, trains a small byte-level T5 on word tasks, each named by a prefix, offline, and
then looks for the plural in it. The second does so with a GPT-2 and sentences, "The plural of fox is foxes"; the third
with a base that never saw plurals. Any folder of `train_t5.py` and any sequence-to-sequence or causal checkpoint is
taken instead. The prompt in words is `--template`; what is trained gets only the part of it from {text} on. The output
folder gets all_results.json, failures.jsonl, and pictures; docs/text_prompts.md says what they mean.
"""

import random
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from transformers import set_seed

from hwzoo import hub, text, training
from hwzoo.errors import HwzooError, UsageError
from hwzoo.loading import TRUST
from hwzoo.text import comparison
from hwzoo.training import flag, flag_of_new

TUNING = (*text.PEFT_METHODS, "full")


@dataclass
class Settings(training.Flags):
    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    output_dir: str = flag("outputs/compare_prompts", "folder for results, failures and pictures")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")
    seed: int = flag(0, "of new weights, the order of the data and the choice of examples", "[0, 4294967295]")
    dataset_name: str = flag("words", "words, inflections, a folder with train.jsonl and so on, or a Hub id")
    data_dir: str | None = flag(None, "folder that holds inflections/; HWZOO_DATA_DIR when not given")
    task: str = flag("plural", "the rows whose column task says so; all rows of data without that column")
    max_predict_samples: int | None = flag(None, "test pairs of the task that are used, the first", "[1, inf)")
    per_device_eval_batch_size: int = flag(128, "texts a batch when generating", "[1, inf)")
    max_source_length: int = flag(512, "tokens of a prompt; of longer ones the last stay", "[1, inf)")
    generation_max_new_tokens: int = flag(32, "tokens of an answer", "[1, inf)")


@dataclass
class Base(training.Flags):
    model_name_or_path: str | None = flag(None, "folder or Hub id of the base; a small one is trained when not given")
    trust_remote_code: bool = flag(False, TRUST)
    architecture: Literal[text.ARCHITECTURES] = flag_of_new("seq2seq", "of the base trained here: a T5 or a GPT-2")
    tasks: list[str] = flag_of_new(["plural", "participle", "ordinal"], "tasks of the rows that train it")
    config_d_model: int = flag_of_new(64, "its width", "[1, inf)")
    config_num_layers: int = flag_of_new(3, "its blocks", "[1, inf)")
    pretrain_steps: int = flag_of_new(1000, "optimiser steps of its training", "[1, inf)")
    pretrain_learning_rate: float = flag_of_new(3e-3, "peak learning rate of its training", "(0, inf)")
    pretrain_shots: int | None = flag_of_new(None, "examples before a question; 1 (T5), 0 (GPT-2)", "[0, 9]")
    hold_out: bool = flag(False, "leave the task out of its training")


@dataclass
class Prompts(training.Flags):
    template: str | None = flag(
        None, "of a question, with {text} and {task}; '{task}: {text}', or for a causal base 'The {task} of {text} is'"
    )
    instruction: str = flag("Give the {task} of the word.", "line before the question for the prompt of that name")
    shots: list[int] = flag([0, 1, 3, 9], "numbers of examples in prompts, with right and wrong answers", "[0, 9]")
    tuning: list[str] = flag(["prompt_tuning", "prefix_tuning", "lora", "full"], "", some_of=TUNING)
    num_virtual_tokens: int = flag(8, "of soft prompt and prefix", "[1, inf)")
    prompt_tuning_init: Literal["random", "vocab"] = flag("vocab", "what the soft prompt starts with")
    lora_rank: int = flag(8, "of LoRA's updates", "[1, inf)")
    max_steps: int = flag(250, "optimiser steps of each", "[1, inf)")
    per_device_train_batch_size: int = flag(64, "pairs a step, in pretraining too", "[1, inf)")
    prompt_learning_rate: float = flag(0.1, "peak rate of soft prompts and prefixes", "(0, inf)")
    lora_learning_rate: float = flag(3e-3, "peak rate of LoRA", "(0, inf)")
    full_learning_rate: float = flag(1e-3, "peak rate when all is trained", "(0, inf)")


def main(settings: Settings, base: Base, prompts: Prompts) -> dict:
    # 1. output folder, seed, device
    if base.hold_out and base.model_name_or_path is not None:
        raise UsageError("--hold_out is for the base that is trained here; it is given with --model_name_or_path")
    folder = training.make_output_dir(settings.output_dir, settings.overwrite_output_dir)
    set_seed(settings.seed)
    draw = random.Random(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # 2. data: the pairs of the task
    pairs = text.load_tasks(settings.dataset_name, settings.data_dir)
    train, test = comparison.pairs_of_task(pairs, settings.task, settings.max_predict_samples)
    if len(train) < max(prompts.shots, default=0) + 1:
        raise HwzooError(f"{pairs.name} has {len(train)} training pairs of {settings.task}, too few for --shots")
    if prompts.tuning:
        text.check_batch_size(prompts.per_device_train_batch_size, len(train))

    # 3. the frozen base
    if (name := base.model_name_or_path) is not None:
        model, tokenizer = text.load_base(name, hub.load, base.trust_remote_code, bool(prompts.tuning))
    else:
        model, tokenizer = text.new_base(base.architecture, base.config_d_model, base.config_num_layers)
    model.to(device)
    seq2seq = model.config.is_encoder_decoder
    template, bare = comparison.question_templates(prompts.template, seq2seq)
    text.check_template("instruction", prompts.instruction, "hold {task}, or not,", task="")
    given = {key: getattr(prompts, key) for key in ("num_virtual_tokens", "prompt_tuning_init", "lora_rank")}
    tunable = partial(comparison.tunable_copy, model, tokenizer=tokenizer, **given)
    compared = comparison.PromptComparison(
        tokenizer, test, seed=settings.seed, batch_size=prompts.per_device_train_batch_size,
        eval_batch_size=settings.per_device_eval_batch_size, max_source_length=settings.max_source_length,
        max_new_tokens=settings.generation_max_new_tokens,
    )  # fmt: skip
    learned = [text.hard_prompt(each, bare) for each in train], [each.target for each in train]
    with torch.random.fork_rng():
        for network in map(tunable, prompts.tuning):
            compared.check(network, *learned, [text.hard_prompt(each, bare) for each in test])
            text.check_adapter_acts(network)
    if base.model_name_or_path is None:
        seen = comparison.pretraining_pairs(pairs, base.tasks, settings.task if base.hold_out else None)
        # With examples before the question a GPT-2 of this size takes many times the steps to learn to copy a word.
        most = int(seq2seq) if base.pretrain_shots is None else base.pretrain_shots
        contexts, targets = text.few_shot_prompts(seen, template, most, draw), [each.target for each in seen]
        compared.train("base", model, contexts, targets, base.pretrain_steps, base.pretrain_learning_rate)
        hub.save(model, folder / "base", also=(tokenizer,))
    model.requires_grad_(False)

    # 4. prompts in words
    examples, told = [*draw.sample(train, max(prompts.shots, default=0) + 1), *train], prompts.instruction
    asked = comparison.prompts_in_words(test, examples, prompts.shots, template=template, bare=bare, instruction=told)
    for name, contexts in asked.items():
        compared.test(name, model, contexts)

    # 5. trained prompts and weights, on the text alone
    rates = {"lora": prompts.lora_learning_rate, "full": prompts.full_learning_rate}
    for name in prompts.tuning:
        torch.manual_seed(settings.seed)
        network, rate = tunable(name), rates.get(name, prompts.prompt_learning_rate)
        watched = network, asked["no_prompt"], prompts.max_steps, learned[1]
        watch = compared.watch(*watched) if name == "prompt_tuning" else None
        compared.train(name, network, *learned, prompts.max_steps, rate, watch)
        compared.test(name, network, asked["no_prompt"])

    # 6. save
    what = base.model_name_or_path or f"a {base.architecture} model trained here for {base.pretrain_steps} steps"
    protocol = [
        f"{pairs.name}, task {settings.task}: {len(test)} test pairs, {len(train)} training pairs",
        *([pairs.note] if pairs.note else []),
        f"base: {what}" + (", without this task" if base.hold_out else ""),
        f"prompts in words from {template!r}, what is trained (and no_prompt) from {bare!r}",
        f"greedy generation of at most {settings.generation_max_new_tokens} tokens up to a line break; accuracy: the "
        "share of answers that equal a reference",
        f"what is trained: {prompts.max_steps} steps of {prompts.per_device_train_batch_size} pairs, the last "
        f"weights, {prompts.num_virtual_tokens} virtual tokens, seed {settings.seed}",
    ]
    results = compared.results() | {"protocol": "; ".join(protocol)}
    training.save_results(folder, results, compared.failures, settings, base, prompts)
    training.save_shares(compared.accuracy, len(test), folder / "accuracy.png", label="accuracy on test pairs")
    curves, path = compared.shot_curves(), folder / "shots.png"
    training.save_functions(curves, path, xlabel="examples in the prompt", limits=(0, 1))
    curves, path = compared.token_curves(), folder / "first_tokens.png"
    training.save_functions(curves, path, xlabel="step of the soft prompt", limits=(0, 1))
    training.save_functions(compared.distance_curves(), folder / "common_tokens.png", xlabel="step of the soft prompt")
    return results


if __name__ == "__main__":
    training.launch(main, Settings, Base, Prompts, description=__doc__)

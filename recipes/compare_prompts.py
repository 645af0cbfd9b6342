"""
Compares what it takes to make one frozen language model do one task: a prompt in words, with examples or without, a
soft prompt (Lester et al., arXiv:2104.08691), a prefix (Li and Liang, arXiv:2101.00190), LoRA (Hu et al.,
arXiv:2106.09685), or training all of it.

    python recipes/compare_prompts.py
    python recipes/compare_prompts.py --base causal --num_virtual_tokens 14
    python recipes/compare_prompts.py --hold_out
    python recipes/compare_prompts.py --config recipes/configs/t5/compare_prompts.yaml
    python recipes/compare_prompts.py --model_name_or_path openai-community/gpt2 --num_virtual_tokens 100

The first, 3 minutes on 2 CPU cores, trains a small byte-level T5 on word tasks, each named by a prefix, offline, and
then looks for the plural in it. The second does so with a GPT-2 and sentences, "The plural of fox is foxes"; the third
with a base that never saw plurals. Any folder of `train_t5.py` and any sequence-to-sequence or causal checkpoint is
taken instead. The prompt in words is `--template`; what is trained gets only the part of it from {text} on. The output
folder gets all_results.json, failures.jsonl, and pictures; docs/text_prompts.md says what they mean.
"""

import copy
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import set_seed

from hwzoo import hub, text, training
from hwzoo.errors import HwzooError, UsageError
from hwzoo.files import write_json, write_jsonl
from hwzoo.loading import TRUST
from hwzoo.training import flag

TUNING = (*text.PEFT_METHODS, "full")
TEMPLATES = {"seq2seq": "{task}: {text}", "causal": "The {task} of {text} is"}
NUM_WATCHED, NUM_TOP_TOKENS = 3, 5  # words on which the growing soft prompt is watched, and tokens that are told
WATCHED_STEPS = {0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000}


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
    base: Literal[text.KINDS] = flag("seq2seq", "kind of the base that is trained here: a T5 or a GPT-2")
    tasks: list[str] = flag(["plural", "participle", "ordinal"], "tasks that it is trained on")
    config_d_model: int = flag(64, "its width", "[1, inf)")
    config_num_layers: int = flag(3, "its blocks", "[1, inf)")
    pretrain_steps: int = flag(1000, "optimiser steps of its training", "[1, inf)")
    pretrain_learning_rate: float = flag(3e-3, "peak learning rate of its training", "(0, inf)")
    pretrain_shots: int | None = flag(
        None,
        "examples before a question in its training, at most; 1 for a T5 and 0 for a GPT-2 when not given",
        "[0, 9]",
    )
    hold_out: bool = flag(False, "leave the task out of its training")


@dataclass
class Prompts(training.Flags):
    template: str | None = flag(
        None, "of a question, with {text} and {task}; '{task}: {text}', or for a causal base 'The {task} of {text} is'"
    )
    instruction: str = flag("Give the {task} of the word.", "line before the question for the prompt of that name")
    shots: list[int] = flag(
        [0, 1, 3, 9], "numbers of examples in prompts, with right and with wrong answers", "[0, 9]"
    )
    tuning: list[str] = flag(["prompt_tuning", "prefix_tuning", "lora", "full"], f"some of {', '.join(TUNING)}")
    num_virtual_tokens: int = flag(8, "of soft prompt and prefix", "[1, inf)")
    prompt_tuning_init: Literal["random", "vocab"] = flag("vocab", "what the soft prompt starts with")
    lora_rank: int = flag(8, "of LoRA's updates", "[1, inf)")
    max_steps: int = flag(250, "optimiser steps of each", "[1, inf)")
    per_device_train_batch_size: int = flag(64, "pairs a step, in pretraining too", "[1, inf)")
    prompt_learning_rate: float = flag(0.1, "peak rate of soft prompts and prefixes", "(0, inf)")
    lora_learning_rate: float = flag(3e-3, "peak rate of LoRA", "(0, inf)")
    full_learning_rate: float = flag(1e-3, "peak rate when all is trained", "(0, inf)")

    def __post_init__(self):
        super().__post_init__()
        for name in self.tuning:
            if name not in TUNING:
                raise UsageError(f"--tuning is {name}; it must be some of {', '.join(TUNING)}")


def main(settings: Settings, base: Base, prompts: Prompts) -> dict:
    # 1. output folder, seed, device
    if base.hold_out and base.model_name_or_path is not None:
        raise UsageError("--hold_out is for the base that is trained here; it is given with --model_name_or_path")
    folder = training.make_output_dir(settings.output_dir, settings.overwrite_output_dir)
    set_seed(settings.seed)
    draw = random.Random(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # 2. data: the pairs of the task
    pairs = text.load_text(settings.dataset_name, settings.data_dir)
    if pairs.tasks and settings.task not in pairs.tasks:
        raise UsageError(f"--task is {settings.task}; {pairs.name} has {', '.join(pairs.tasks)}")
    train, test = (
        [each for each in part if not pairs.tasks or each.task == settings.task] for part in (pairs.train, pairs.test)
    )
    test = test[: settings.max_predict_samples]
    if len(train) < max(prompts.shots, default=0) + 1:
        raise HwzooError(f"{pairs.name} has {len(train)} training pairs of {settings.task}, too few for --shots")

    if prompts.tuning:
        text.check_batch_size(prompts.per_device_train_batch_size, len(train))

    # 3. the frozen base
    results: dict = {"trainable_params": {}, "train_runtime": {}}
    if base.model_name_or_path is not None:
        model, tokenizer = text.load_base(base.model_name_or_path, hub.load, base.trust_remote_code)
    else:
        model, tokenizer = text.new_base(base.base, base.config_d_model, base.config_num_layers)
    model.to(device)
    seq2seq = model.config.is_encoder_decoder
    template = prompts.template or TEMPLATES["seq2seq" if seq2seq else "causal"]
    text.check_template("template", template, "hold {text}, and may hold {task},", needed="{text}", text="", task="")
    bare = template[template.index("{text}") :]  # a trained prompt takes the place of what stands before
    text.check_template("instruction", prompts.instruction, "hold {task}, or not,", task="")

    def with_adapter(name: str):
        given = {key: getattr(prompts, key) for key in ("num_virtual_tokens", "prompt_tuning_init", "lora_rank")}
        return text.add_adapter(copy.deepcopy(model), name, tokenizer=tokenizer, **given).to(device)

    with torch.random.fork_rng():
        for name in dict.fromkeys(prompts.tuning):
            if name != "full":
                text.check_adapter_acts(with_adapter(name))

    def train_on(network, name: str, contexts: Sequence[str], targets: Sequence[str], steps: int, rate: float, **more):
        rows = text.encode(tokenizer, contexts, targets, seq2seq, max_source_length=settings.max_source_length)
        started = time.perf_counter()
        batch_size, common = prompts.per_device_train_batch_size, {"seed": settings.seed, "name": name}
        text.tune(
            network, rows, tokenizer.pad_token_id, steps=steps, learning_rate=rate, batch_size=batch_size,
            **common, **more,
        )  # fmt: skip
        results["train_runtime"][name] = time.perf_counter() - started
        results["trainable_params"][name] = text.count_trainable(network)

    if base.model_name_or_path is None:
        left_out = {settings.task} if base.hold_out else set()
        seen = [each for each in pairs.train if each.task in set(base.tasks) - left_out]
        if not seen:
            without = f" without {settings.task}" if base.hold_out else ""
            there = ", ".join(pairs.tasks) or "none"
            raise UsageError(f"--tasks is {' '.join(base.tasks)}{without}; {pairs.name} has {there}")
        # With examples before the question a GPT-2 of this size takes many times the steps to learn to copy a word.
        most = int(seq2seq) if base.pretrain_shots is None else base.pretrain_shots
        contexts = [text.few_shot_prompt(each, seen, template, draw.randint(0, most), draw) for each in seen]
        targets = [each.target for each in seen]
        train_on(model, "base", contexts, targets, base.pretrain_steps, base.pretrain_learning_rate)
        hub.save(model, folder / "base", also=(tokenizer,))
    model.requires_grad_(False)

    # 4. prompts in words
    failures: list[dict] = []
    accuracy: dict[str, float] = {}

    def test_on(network, name: str, contexts: Sequence[str]):
        answers = text.generate_answers(
            network, tokenizer, contexts, max_new_tokens=settings.generation_max_new_tokens,
            batch_size=settings.per_device_eval_batch_size, max_source_length=settings.max_source_length,
        )  # fmt: skip
        wrong = [
            {"prompt": name, "source": context, "prediction": answer, "references": each.references}
            for context, answer, each in zip(contexts, answers, test, strict=True)
            if answer not in {right.strip() for right in each.references}
        ]
        failures.extend(wrong)
        accuracy[name] = 1 - len(wrong) / len(test)
        print(f"{name:>16}: accuracy {accuracy[name]:.3f}", flush=True)

    examples = draw.sample(train, max(prompts.shots, default=0) + 1)
    test_on(model, "no_prompt", [text.hard_prompt(each, bare) for each in test])
    for num in sorted(set(prompts.shots)):
        right = [(shot, shot.target) for shot in examples[:num]]
        test_on(model, f"{num}_shot", [text.hard_prompt(each, template, right) for each in test])
        if num:  # each example gets the answer of the next one
            wrong = [(shot, other.target) for shot, other in zip(examples[:num], examples[1:], strict=False)]
            test_on(model, f"{num}_shot_wrong", [text.hard_prompt(each, template, wrong) for each in test])
    instructed = [text.hard_prompt(each, template, instruction=prompts.instruction) for each in test]
    test_on(model, "instruction", instructed)

    # 5. trained prompts and weights, on the text alone
    contexts, targets = [text.hard_prompt(each, bare) for each in train], [each.target for each in train]
    questions = [text.hard_prompt(each, bare) for each in test]
    watched: list[dict] = []
    rates = {"lora": prompts.lora_learning_rate, "full": prompts.full_learning_rate}
    for name in prompts.tuning:
        torch.manual_seed(settings.seed)
        network = copy.deepcopy(model).requires_grad_(True) if name == "full" else with_adapter(name)

        def watch(step: int, network=network):
            if step in WATCHED_STEPS or step == prompts.max_steps:
                for question in questions[:NUM_WATCHED]:
                    top = text.first_token_probabilities(network, tokenizer, question, NUM_TOP_TOKENS)
                    watched.append({"step": step, "source": question, "tokens": top})

        more = {"before_step": watch} if name == "prompt_tuning" else {}
        rate = rates.get(name, prompts.prompt_learning_rate)
        train_on(network, name, contexts, targets, prompts.max_steps, rate, **more)
        test_on(network, name, questions)

    # 6. save
    results |= {f"test_accuracy_{name}": value for name, value in accuracy.items()}
    results["soft_prompt_first_tokens"] = watched
    what = base.model_name_or_path or f"a {base.base} model trained here for {base.pretrain_steps} steps"
    sentence = [
        f"{pairs.name}, task {settings.task}: {len(test)} test pairs, {len(train)} training pairs",
        *([pairs.note] if pairs.note else []),
        f"base: {what}" + (", without this task" if base.hold_out else ""),
        f"prompts in words from {template!r}, what is trained (and no_prompt) from {bare!r}",
        f"greedy generation of at most {settings.generation_max_new_tokens} tokens up to a line break; accuracy: the "
        "share of answers that equal a reference",
        f"what is trained: {prompts.max_steps} steps of {prompts.per_device_train_batch_size} pairs, the last "
        f"weights, {prompts.num_virtual_tokens} virtual tokens, seed {settings.seed}",
    ]
    results["protocol"] = "; ".join(sentence)
    write_json(folder / "all_results.json", results)
    write_jsonl(folder / "failures.jsonl", failures)
    training.save_settings(folder / "preset.yaml", settings, base, prompts)
    draw_all(folder, accuracy, len(test), watched)
    print(f"results, failures and pictures are in {folder}")
    return results


def draw_all(folder: Path, accuracy: dict[str, float], num: int, watched: list[dict]):
    errors = [(value * (1 - value) / num) ** 0.5 for value in accuracy.values()]  # standard error of a share
    training.save_bars(
        list(accuracy), list(accuracy.values()), errors, folder / "accuracy.png", label="accuracy on test pairs"
    )
    curves = {}
    for suffix, label, style in (("_shot", "right answers", "o-"), ("_shot_wrong", "wrong answers", "s--")):
        named = [(f"{shots}{suffix}", shots) for shots in range(10)]
        points = [(shots, accuracy[name]) for name, shots in named if name in accuracy]
        if points:
            curves[label] = (*zip(*points, strict=True), style)
    if curves:
        training.save_functions(
            {"accuracy on test pairs": curves}, folder / "shots.png", xlabel="examples in the prompt"
        )
    panels: dict[str, dict[str, tuple]] = {}
    for source in dict.fromkeys(row["source"] for row in watched):
        rows = [row for row in watched if row["source"] == source]
        for token in dict.fromkeys(token for row in rows for token, value in row["tokens"] if value > 0.1):
            points = [(row["step"], dict(row["tokens"]).get(token, 0.0)) for row in rows]
            curve = (*zip(*points, strict=True), ".-")
            panels.setdefault(f"probability of a first token after {source!r}", {})[repr(token)] = curve
    if panels:
        training.save_functions(panels, folder / "first_tokens.png", xlabel="step of the soft prompt")


if __name__ == "__main__":
    training.launch(main, Settings, Base, Prompts, description=__doc__)

"""
Shows what temperature, top-k and top-p make of a language model's next token, by exact probabilities beside draws, and
whether "random" digits that it writes are random: an exercise of EECS 182 (Berkeley).

    python recipes/explore_sampling.py
    python recipes/explore_sampling.py --model_name_or_path openai-community/gpt2 --prompt "The weather today is"
        --digits_prompt "A list of 100 random digits:"

The first trains a GPT-2 of bytes on lines ("one fox, two foxes") and one on lists of digits from a known law with
favourites and few repeats, offline, and also tells how many plurals are right at each temperature. Draws are
those of `generate`; chi-square compares them with p^(1/T) / Z. The output folder gets all_results.json, failures.jsonl
(wrong answers, and the lists of digits that were too short), temperature.png and digits.png; docs/text_prompts.md says
what they mean. Takes 75 seconds of one core of an AMD EPYC (Zen 4).
"""

import random
from dataclasses import dataclass

import torch
from accelerate import PartialState
from transformers import set_seed

from hwzoo import hub, text, training
from hwzoo.errors import UsageError
from hwzoo.loading import TRUST
from hwzoo.text import sampling
from hwzoo.training import flag, flag_of_new

QUESTION, PROMPT, DIGITS_PROMPT = "one {text}, two", "one ", "Random digits:"
DIGITS = [str(digit) for digit in range(sampling.NUM_DIGITS)]
NUM_LISTS_TO_LEARN = 1000


@dataclass
class Settings(training.Flags):
    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    output_dir: str = flag("outputs/explore_sampling", "folder for results and pictures")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")
    seed: int = flag(0, "of new weights, the order of the data and all draws", "[0, 4294967295]")
    prompt: str | None = flag(None, f"whose next token is drawn; {PROMPT!r} for the model that is trained here")
    temperatures: list[float] = flag([0.0, 0.3, 0.7, 1.0, 1.5, 2.0], "of the table; 0 is greedy", "[0, 100]")
    top_p: float = flag(0.9, "a further row, at temperature 1", "(0, 1]")
    num_draws: int = flag(5000, "next tokens drawn for each row", "[100, inf)")
    digits_prompt: str | None = flag(None, f"that asks for digits; {DIGITS_PROMPT!r} for the model trained here")
    num_lists: int = flag(100, "lists of digits drawn, at temperature 1", "[1, inf)")
    num_digits: int = flag(100, "digits of a list at most", "[20, 1000]")
    max_predict_samples: int | None = flag_of_new(
        None, "plurals asked of the model trained here, the first", "[1, inf)"
    )


@dataclass
class Base(training.Flags):
    model_name_or_path: str | None = flag(None, "folder or Hub id of the model; a small one is trained when not given")
    trust_remote_code: bool = flag(False, TRUST)
    config_d_model: int = flag_of_new(64, "its width", "[1, inf)")
    config_num_layers: int = flag_of_new(3, "its blocks", "[1, inf)")
    pretrain_steps: int = flag_of_new(900, "optimiser steps of its training; one of digits a quarter", "[4, inf)")
    pretrain_learning_rate: float = flag_of_new(4e-3, "peak learning rate of its training", "(0, inf)")
    per_device_train_batch_size: int = flag_of_new(32, "lines a step of its training", "[1, inf)")


def main(settings: Settings, base: Base) -> dict:
    # 1. output folder, seed
    own = base.model_name_or_path is None
    if not own and (settings.prompt is None or settings.digits_prompt is None):
        raise UsageError("--prompt and --digits_prompt are needed: what the model of --model_name_or_path is asked")
    prompt, ask = settings.prompt or PROMPT, settings.digits_prompt or DIGITS_PROMPT
    most = text.MOST_BYTES - len(ask.encode()) - 2  # a blank before them, an end behind
    if own and settings.num_digits > most:
        told = f"of the {text.MOST_BYTES} bytes of a line the prompt leaves {most} to digits"
        raise UsageError(f"--num_digits is {settings.num_digits}; {told}")
    if not settings.temperatures:
        raise UsageError("--temperatures is []; it must not be empty")
    folder = training.make_output_dir(settings.output_dir, settings.overwrite_output_dir)
    set_seed(settings.seed)

    # 2. the model; what is trained here are two, one of sentences and one of digits from a law that is known
    asked, law = [], sampling.biased_digits()
    if own:
        pairs, draw = text.load_text("words", columns=text.Columns(tasks=["plural"])), random.Random(settings.seed)
        asked = pairs.test[: settings.max_predict_samples]
        lines = [f"{text.hard_prompt(each, QUESTION)} {each.target}" for each in pairs.train]
        lists = [f"{ask} {law.line(settings.num_digits, draw)}" for _ in range(NUM_LISTS_TO_LEARN)]
        model, tokenizer = learned(lines, "base", base.pretrain_steps, settings, base, folder)
        teller, _ = learned(lists, "base_digits", base.pretrain_steps // 4, settings, base, folder)
    else:
        model, tokenizer = text.load_base(base.model_name_or_path, hub.load, base.trust_remote_code)
        teller = model.to(PartialState().device)
    sampling.check_prompts(model, tokenizer, prompt=prompt, digits_prompt=ask)

    # 3. the next token: the law of each row, what is drawn; and what that does to answers
    ways = {f"T = {each:g}": {"temperature": each, "top_k": 0} for each in sorted(settings.temperatures)}
    plain = list(ways)
    for each in sorted({1.0, max(settings.temperatures)} - {0.0}):
        ways[f"T = {each:g}, default top-k"] = {"temperature": each}
    ways[f"T = 1, top-p {settings.top_p:g}"] = {"temperature": 1.0, "top_k": 0, "top_p": settings.top_p}
    rows, laws, failures = {}, {}, []
    print("| next token | entropy, nats | tokens kept | share cut off | p, as cut | p, uncut | plurals right |")
    print("| --- " * 7 + "|")
    for name, way in ways.items():
        found = sampling.sampled_law(model, tokenizer, prompt, settings.num_draws, way, settings.seed)
        *laws[name], row = found
        if asked:
            wrong = sampling.wrong_answers(model, tokenizer, asked, QUESTION, way, settings.seed)
            failures += [{"way": name} | each for each in wrong]
            row["test_accuracy"] = 1 - len(wrong) / len(asked)
        rows[name] = row
        tests = [sampling.p_of(row[test]) for test in ("chi_square", "chi_square_uncut")]
        told = [f"{row['entropy']:.3f}", f"{row['kept_tokens']}", f"{row['cut_mass']:.4f}", *tests]
        print(f"| {name} | {' | '.join(told)} | {row.get('test_accuracy', float('nan')):.3f} |", flush=True)

    # 4. digits
    first = text.score_labels(teller, tokenizer, [ask], DIGITS, end=False).log_probs[0]
    way = {"max_new_tokens": 2 * settings.num_digits, "batch_size": 50, "seed": settings.seed}
    way |= sampling.of_generate({"temperature": 1.0, "top_k": 0})
    ids = sampling.draw(teller, tokenizer, ask, settings.num_lists, **way)
    written = tokenizer.batch_decode(ids, skip_special_tokens=True)
    digits, short = sampling.digit_scores(written, settings.num_digits, first)
    failures += [{"too_few_digits": each} for each in short]
    if own:
        digits["learned_from"] = {"shares": law.stationary.tolist(), "repeats": law.repeats}
    for name in ("digits", "pairs", "repeats") if digits["num_lists"] else ():
        print(f"uniform by {name}, {digits['num_digits']} digits: p = {sampling.p_of(digits[name])}")

    # 5. save
    results = {"next_token": rows, "digits": digits, "protocol": protocol(settings, base, prompt, ask, len(asked))}
    training.save_results(folder, results, failures, settings, base)
    shown = {name: laws[name] for name in plain}
    training.save_functions(sampling.token_curves(shown), folder / "next_token.png", xlabel="token by rank")
    named = {"entropy": "entropy of the next token (nats)"}
    named |= {"test_accuracy": "plurals that are right"} if asked else {}
    x = [ways[name]["temperature"] for name in plain]
    panels = {label: {"all tokens": (x, [rows[name][key] for name in plain], "o-")} for key, label in named.items()}
    training.save_functions(panels, folder / "temperature.png", xlabel="temperature")
    training.save_functions(sampling.digit_curves(digits), folder / "digits.png", xlabel="digit")
    return results


def learned(lines: list[str], name: str, steps: int, settings: Settings, base: Base, folder):
    """A GPT-2 of bytes that writes such lines, and its tokenizer; both are saved."""
    model, tokenizer = text.new_base("causal", base.config_d_model, base.config_num_layers)
    ids = [torch.tensor(tokenizer(line)["input_ids"]) for line in lines]
    rows = [{"input_ids": each, "labels": each} for each in ids]
    model.to(PartialState().device)
    text.tune(
        model, rows, tokenizer.pad_token_id, steps=steps, learning_rate=base.pretrain_learning_rate,
        batch_size=base.per_device_train_batch_size, seed=settings.seed, name=name,
    )  # fmt: skip
    hub.save(model, folder / name, also=(tokenizer,))
    return model, tokenizer


def protocol(settings: Settings, base: Base, prompt: str, ask: str, num_asked: int) -> str:
    steps = base.pretrain_steps
    new = f"causal models trained here, of words for {steps} steps, of digits for {steps // 4}"
    parts = [
        f"model: {base.model_name_or_path or new}",
        f"next token after {prompt!r}: {settings.num_draws} draws of generate a row; chi_square: against p^(1/T) / Z "
        "as top-k and top-p cut it; chi_square_uncut: against all of it; default top-k: the library's 50",
        f"digits: {settings.num_lists} lists of at most {settings.num_digits} after {ask!r} at T = 1, those of less "
        f"than {sampling.FEWEST_DIGITS} left out",
        *([f"accuracy: {num_asked} test plurals, one answer each"] if num_asked else []),
        f"seed {settings.seed}",
    ]
    return "; ".join(parts)


if __name__ == "__main__":
    training.launch(main, Settings, Base, description=__doc__)

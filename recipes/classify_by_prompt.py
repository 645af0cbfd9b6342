"""
Classifies texts by the labels' log-probabilities in a language model, without training: zero- and few-shot; by the sum
over a label's tokens, by their mean, calibrated with texts without content (Zhao et al., arXiv:2102.09690), and with a
temperature that is fitted on validation texts (Guo et al., arXiv:1706.04599).

    python recipes/classify_by_prompt.py
    python recipes/classify_by_prompt.py --model_name_or_path openai-community/gpt2 --train_file train.csv
        --test_file test.csv --text_column sentence --label_column label --labels "0=negative" "1=positive"
        --template "Review: {text} Sentiment:"

The first, 40 seconds on 2 CPU cores, trains a small byte-level T5 to say of an English noun whether it is singular or
plural, on three singulars for each plural, so that it prefers the singular whatever the word, and tests what
calibration makes of that. The output folder gets all_results.json, failures.jsonl, reliability.png (accuracy over
confidence), accuracy.png; docs/text_prompts.md says what they mean.
"""

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from transformers import set_seed

from hwzoo import hub, text, training
from hwzoo.errors import UsageError
from hwzoo.loading import TRUST
from hwzoo.text.scoring import label_words, reliability_curves, wrong_labels
from hwzoo.text.sources import singular_or_plural
from hwzoo.training import flag, flag_of_new

SINGULARS_PER_PLURAL = 3  # in the training of the embedded base


@dataclass
class Settings(training.Flags):
    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    output_dir: str = flag("outputs/classify_by_prompt", "folder for results, failures and pictures")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")
    seed: int = flag(0, "of new weights, the order of the data and the choice of examples", "[0, 4294967295]")
    dataset_name: str | None = flag(
        None, "a folder with train.csv and so on, or a Hub id; singular or plural when not given"
    )
    data_dir: str | None = flag(None, "folder that holds the data set's; HWZOO_DATA_DIR when not given")
    train_file: str | None = flag(None, "json, jsonl or csv, plain or .gz; in place of --dataset_name")
    validation_file: str | None = flag(None, "the same to fit a temperature on; if --train_file is all, a tenth of it")
    test_file: str | None = flag(None, "the same for the test")
    text_column: str | None = flag(None, "column of the texts; document, article, text or source when not given")
    label_column: str = flag("label", "column of the labels")
    labels: list[str] | None = flag(None, "value=words for each label; the values themselves when not given")
    max_predict_samples: int | None = flag(None, "test texts that are used, the first", "[1, inf)")
    per_device_eval_batch_size: int = flag(128, "pairs of a text and a label at once", "[1, inf)")
    max_source_length: int = flag(512, "tokens of a prompt; of longer ones the last stay", "[1, inf)")


@dataclass
class Prompts(training.Flags):
    template: str = flag("{text} is", "of a question, with {text}; the label follows")
    shots: list[int] = flag([0, 2, 4], "numbers of examples in prompts, drawn at random", "[0, 64]")
    content_free: list[str] = flag(list(text.CONTENT_FREE), "texts without content, to calibrate with")


@dataclass
class Base(training.Flags):
    model_name_or_path: str | None = flag(None, "folder or Hub id of the model; a small one is trained when not given")
    trust_remote_code: bool = flag(False, TRUST)
    architecture: Literal[text.ARCHITECTURES] = flag_of_new("seq2seq", "of the model trained here: a T5 or a GPT-2")
    config_d_model: int = flag_of_new(64, "its width", "[1, inf)")
    config_num_layers: int = flag_of_new(3, "its blocks", "[1, inf)")
    pretrain_steps: int = flag_of_new(300, "optimiser steps of its training", "[1, inf)")
    pretrain_learning_rate: float = flag_of_new(3e-3, "peak learning rate of its training", "(0, inf)")
    pretrain_shots: int = flag_of_new(2, "examples before a question in its training, at most", "[0, 9]")
    per_device_train_batch_size: int = flag_of_new(64, "questions a step of its training", "[1, inf)")


def main(settings: Settings, prompts: Prompts, base: Base) -> dict:
    # 1. output folder, seed, device
    folder = training.make_output_dir(settings.output_dir, settings.overwrite_output_dir)
    set_seed(settings.seed)
    draw = random.Random(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # 2. data: texts, and labels in words
    given = settings.dataset_name or settings.train_file or settings.validation_file or settings.test_file
    if base.model_name_or_path is None and given:
        raise UsageError("--model_name_or_path is needed: the base trained here knows singular and plural only")
    pairs = labelled(settings) if given else singular_or_plural()
    test = pairs.test[: settings.max_predict_samples]
    validation = [] if pairs.validation is pairs.test else pairs.validation  # where there is no test split
    values = sorted({each.target for each in [*pairs.train, *pairs.validation, *pairs.test]})
    words = label_words(values, settings.labels)
    if len(labels := list(words.values())) < 2:
        raise UsageError(f"{pairs.name}: all texts have the label {values[0]}; two or more are needed")
    most = max(prompts.shots, default=0)
    if len(pairs.train) < most:
        raise UsageError(f"--shots is {most}; {pairs.name} has {len(pairs.train)} training texts")
    text.check_template("template", prompts.template, "hold {text}", needed="{text}", text="")

    # 3. the model
    if base.model_name_or_path is not None:
        model, tokenizer = text.load_base(base.model_name_or_path, hub.load, base.trust_remote_code)
        model.to(device)
    else:
        model, tokenizer = text.new_base(base.architecture, base.config_d_model, base.config_num_layers)
        seen = pairs.train + [each for each in pairs.train if each.target == "singular"] * (SINGULARS_PER_PLURAL - 1)
        seen = [replace(each, target=words[each.target]) for each in seen]  # as they are asked for
        asked = text.few_shot_prompts(seen, prompts.template, base.pretrain_shots, draw)
        rows = text.encode(tokenizer, asked, [each.target for each in seen], model.config.is_encoder_decoder)
        text.tune(
            model.to(device), rows, tokenizer.pad_token_id, steps=base.pretrain_steps, seed=settings.seed, name="base",
            learning_rate=base.pretrain_learning_rate, batch_size=base.per_device_train_batch_size,
        )  # fmt: skip
        hub.save(model, folder / "base", also=(tokenizer,))

    # 4. log-probabilities of all labels after each prompt, and after those whose text says nothing
    def asked_of(part: list[text.Example], num: int) -> list[str]:
        return [text.hard_prompt(each, prompts.template, examples[:num]) for each in part]

    limits = {"batch_size": settings.per_device_eval_batch_size, "max_source_length": settings.max_source_length}
    scores = partial(text.score_labels, model, tokenizer, labels=labels, **limits)
    examples = [(shot, words[shot.target]) for shot in draw.sample(pairs.train, most)]
    truth, fitted_to = (torch.tensor([values.index(each.target) for each in part]) for part in (test, validation))
    free = [text.Example("", "", (), text=each) for each in prompts.content_free]
    results, failures, shares = {}, [], {}
    for num in sorted(set(prompts.shots)):
        found, prior = scores(contexts=asked_of(test, num)), scores(contexts=asked_of(free, num)).raw()
        results[f"content_free_{num}_shot"] = dict(zip(labels, prior.mean(0).tolist(), strict=True))
        ways = {"raw": found.raw(), "normalized": found.normalized(), "calibrated": text.calibrate(found.raw(), prior)}
        if validation:
            told = scores(contexts=asked_of(validation, num)).log_probs
            results[f"temperature_{num}_shot"] = temperature = text.fit_temperature(told, fitted_to)
            ways["temperature"] = (found.log_probs / temperature).softmax(-1)
        for way, probabilities in ways.items():
            name = f"{num}_shot_{way}"
            results[name] = text.confidence_scores(probabilities, truth)
            results[f"test_accuracy_{name}"] = shares[name] = results[name].pop("accuracy")
            wrong = wrong_labels(asked_of(test, num), probabilities, truth, labels)
            failures += [{"prompt": name} | row for row in wrong]
            error = results[name]["calibration_error"]
            print(f"{name:>20}: accuracy {shares[name]:.3f}, calibration error {error:.3f}", flush=True)

    # 5. save
    what = base.model_name_or_path or f"a {base.architecture} model trained here for {base.pretrain_steps} steps"
    protocol = [
        f"{pairs.name}: {len(test)} test texts, labels {', '.join(labels)}" + f"; {pairs.note}" * bool(pairs.note),
        f"model: {what}",
        f"prompts from {prompts.template!r}, the same examples in all prompts of so many shots, seed {settings.seed}",
        "raw: the label with the largest sum of log-probabilities of its tokens; normalized: with the largest mean; "
        f"calibrated: raw, divided by the mean for the texts {prompts.content_free}; confidence: the probability of "
        "the answer among the labels; calibration error over 10 bins, interval: 95 % of 1,000 resampled test sets",
        *([f"temperature: of the sums, fitted on {len(validation)} validation texts"] if validation else []),
    ]
    training.save_results(folder, results | {"protocol": "; ".join(protocol)}, failures, settings, prompts, base)
    training.save_shares(shares, len(test), folder / "accuracy.png", label="accuracy on test texts")
    panels = reliability_curves(results, sorted(set(prompts.shots)))
    training.save_functions(panels, folder / "reliability.png", xlabel="confidence", limits=(0, 1))
    return results | {"protocol": "; ".join(protocol)}


def labelled(settings: Settings) -> text.TextSplits:
    columns = text.Columns(settings.text_column, settings.label_column, "", "", numbered=True)
    files = {split: getattr(settings, f"{split}_file") for split in ("train", "validation", "test")}
    try:
        return text.load_text(settings.dataset_name or "", settings.data_dir, files, columns)
    except UsageError as error:
        raise UsageError(str(error).replace("--summary_column", "--label_column")) from error


if __name__ == "__main__":
    training.launch(main, Settings, Prompts, Base, description=__doc__)

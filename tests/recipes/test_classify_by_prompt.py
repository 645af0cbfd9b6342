"""What classify_by_prompt.py leaves, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from recipe_runs import load_recipe, run_with

from hwzoo import hub, text, training
from hwzoo.training import parse_arguments

TINY = {"config_d_model": 16, "config_num_layers": 1, "pretrain_steps": 2, "max_predict_samples": 12, "shots": [0, 2]}
WAYS = ("raw", "normalized", "calibrated", "temperature")
REVIEWS = [("fine", "1"), ("dull", "0"), ("very good", "1"), ("far too long", "0"), ("I laughed", "1"), ("no", "0")]


@pytest.fixture
def recipe():
    load_recipe("compare_prompts")
    return load_recipe("classify_by_prompt")


@pytest.fixture
def no_pictures(monkeypatch):
    for name in ("save_shares", "save_functions"):
        monkeypatch.setattr(training, name, lambda *args, **kwargs: None)


@pytest.fixture
def given(tmp_path) -> dict:
    """Files of reviews and a tiny causal model."""
    torch.manual_seed(0)
    model, tokenizer = text.new_base("causal", 16, 1)
    hub.save(model, tmp_path / "base", also=(tokenizer,))
    lines = "".join(f"{review},{label}\n" for review, label in REVIEWS)
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{lines}")
    files = {f"{split}_file": str(tmp_path / f"{split}.csv") for split in ("train", "test")}
    return files | {"model_name_or_path": str(tmp_path / "base"), "template": "{text}. It was"}


def types_of(recipe) -> list[type]:
    return list(recipe.main.__annotations__.values())[:-1]


def run(recipe, folder: Path, **settings) -> dict:
    return run_with(recipe, types_of(recipe), TINY | {"output_dir": str(folder)} | settings)


def test_the_base_learns_the_words_that_it_is_asked_for(recipe, tmp_path, no_pictures, monkeypatch):
    taught, encode = [], text.encode

    def seen(tokenizer, contexts, answers, *args, **kwargs):
        taught.append((contexts, answers))
        return encode(tokenizer, contexts, answers, *args, **kwargs)

    monkeypatch.setattr(text, "encode", seen)
    run(recipe, tmp_path, labels=["singular=one", "plural=many"])
    (contexts, answers), *_ = taught
    assert set(answers) == {"one", "many"} and answers.count("one") == 3 * answers.count("many")
    shots = {line.rsplit(" ", 1)[1] for context in contexts for line in context.split("\n")[:-1]}
    assert shots == {"one", "many"}


def test_what_a_run_leaves(recipe, tmp_path):
    results = run(recipe, tmp_path, seed=3)
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    names = [f"{num}_shot_{way}" for num in (0, 2) for way in WAYS]
    keys = {f"{kind}_{num}_shot" for kind in ("content_free", "temperature") for num in (0, 2)}
    keys |= {"protocol", *names, *(f"test_accuracy_{n}" for n in names)}
    assert results.keys() == keys
    failures = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    for name in names:
        wrong = [row for row in failures if row["prompt"] == name]
        assert results[f"test_accuracy_{name}"] == pytest.approx(1 - len(wrong) / 12)
        assert sum(row["num"] for row in results[name]["reliability"]) == 12
        low, high = results[name]["calibration_error_interval"]
        assert 0 <= low <= high <= 1
        assert {"singular", "plural"} >= {row["prediction"] for row in wrong}
        if wrong:
            mean = sum(row["confidence"] for row in wrong) / len(wrong)
            assert results[name]["confidence_wrong"] == pytest.approx(mean, rel=1e-4)
    assert sum(results["content_free_0_shot"].values()) == pytest.approx(1)
    data = "singular or plural: 12 test texts, labels plural, singular"
    for words in (data, "'{text} is'", "seed 3", "'N/A', '', '[MASK]'"):
        assert words in results["protocol"], words
    for name in ("accuracy.png", "reliability.png"):
        with Image.open(tmp_path / name) as image:
            assert len(image.convert("RGB").getcolors(100_000)) > 20, name
    again = parse_arguments(types_of(recipe), [f"--config={tmp_path / 'preset.yaml'}"])
    assert {name: value for each in again for name, value in vars(each).items() if name in TINY} == TINY


def test_own_texts_with_labels_in_words(recipe, given, no_pictures, tmp_path):
    """The scores are those of `score_labels` on the prompts told."""
    results = run(recipe, tmp_path / "out", labels=["0=bad", "1=good"], **given)
    model, tokenizer = text.load_base(given["model_name_or_path"], hub.load)
    contexts = [f"{review}. It was" for review, _ in REVIEWS]
    found = text.score_labels(model, tokenizer, contexts, ["bad", "good"])
    truth = torch.tensor([int(label) for _, label in REVIEWS])
    free = text.score_labels(model, tokenizer, ["N/A. It was", ". It was", "[MASK]. It was"], ["bad", "good"]).raw()
    ways = {"raw": found.raw(), "normalized": found.normalized(), "calibrated": text.calibrate(found.raw(), free)}
    for way, probabilities in ways.items():
        expected = text.confidence_scores(probabilities, truth)
        assert results[f"test_accuracy_0_shot_{way}"] == expected["accuracy"]
        assert results[f"0_shot_{way}"]["calibration_error"] == pytest.approx(expected["calibration_error"], rel=1e-3)
    assert not (tmp_path / "out" / "base").exists() and "temperature_0_shot" not in results
    for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines():
        row = json.loads(line)
        shots = row["source"].split("\n")[:-1]
        assert len(shots) == int(row["prompt"][0]) and {each.split()[-1] for each in shots} <= {"bad", "good"}


def test_a_label_that_only_later_test_texts_have_competes_too(recipe, given, no_pictures, tmp_path):
    labels = ["neg", "pos"] * 6 + ["neutral"] * 3
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(f"film {each},{each}\n" for each in labels))
    own = given | {"train_file": None, "shots": [0]}
    results = run(recipe, tmp_path / "out", **own)
    assert results["content_free_0_shot"].keys() == {"neg", "neutral", "pos"}
    assert "12 test texts, labels neg, neutral, pos" in results["protocol"]


def test_white_space_around_a_label_makes_no_other_one(recipe, given, no_pictures, tmp_path):
    lines = "fine,positive\nnice,positive \ndull, negative\nno,negative\n"
    (tmp_path / "test.csv").write_text(f"text,label\n{lines}")
    results = run(recipe, tmp_path / "out", **given | {"train_file": None, "shots": [0]})
    assert results["content_free_0_shot"].keys() == {"negative", "positive"}


def test_the_order_in_which_labels_are_given_is_all_one(recipe, given, no_pictures, tmp_path):
    """Also of more than ten, whose names do not sort as numbers."""
    lines = "".join(f"text {'abcdefghijk'[each]},{each}\n" for each in range(11))
    own = given | {"train_file": str(tmp_path / "eleven.csv"), "test_file": str(tmp_path / "eleven.csv")}
    Path(own["train_file"]).write_text(f"text,label\n{lines}")
    for told, settings in (("two", given), ("eleven", own)):
        words = [f"{each}=word{'z' * each}" for each in range(2 if told == "two" else 11)]
        ends = [
            run(recipe, tmp_path / told / str(place), labels=labels, **settings)
            for place, labels in enumerate((words, words[::-1]))
        ]
        failures = [(tmp_path / told / str(place) / "failures.jsonl").read_text() for place in (0, 1)]
        assert ends[0] == ends[1] and failures[0] == failures[1] and failures[0]
    assert {json.loads(line)["label"] for line in failures[0].splitlines()} > {"wordzz", "wordzzzzzzzzzz"}


def test_a_temperature_from_validation_texts(recipe, given, no_pictures, tmp_path):
    (tmp_path / "validation.csv").write_text("text,label\nI wept,0\nbright,1\nslow,0\n")
    own = {"validation_file": str(tmp_path / "validation.csv"), "shots": [0]}
    results = run(recipe, tmp_path / "out", **given | own)
    model, tokenizer = text.load_base(given["model_name_or_path"], hub.load)
    contexts = [f"{each}. It was" for each in ("I wept", "bright", "slow")]
    told = text.score_labels(model, tokenizer, contexts, ["0", "1"]).log_probs
    expected = text.fit_temperature(told, torch.tensor([0, 1, 0]))
    assert results["temperature_0_shot"] == pytest.approx(expected, rel=1e-4)
    assert results["test_accuracy_0_shot_temperature"] == results["test_accuracy_0_shot_raw"]
    assert "fitted on 3 validation texts" in results["protocol"]
    without = run(recipe, tmp_path / "without", **given | {"shots": [0]})
    assert "temperature_0_shot" not in without and "validation texts" not in without["protocol"]
    texts = [f"film {number}" for number in range(30)]
    rows = "".join(f"{each},{number % 2}\n" for number, each in enumerate(texts))
    (tmp_path / "all.csv").write_text(f"text,label\n{rows}")
    alone = {"train_file": str(tmp_path / "all.csv"), "test_file": None, "shots": [0]}
    results = run(recipe, tmp_path / "alone", **given | alone)
    num = sum(text.hash_split(each) == "validation" for each in texts)
    assert num > 0 and f"fitted on {num} validation texts" in results["protocol"]


BAD = {
    "no name of a column": (2, "--label_column is ''; it must not be empty", {"label_column": ""}),
    "own texts without a model": (2, "--model_name_or_path is needed", {"model_name_or_path": None}),
    "labels without words": (2, "--labels is 0=bad 1; it must be value=words for each of 0, 1", {"labels": "0=bad 1"}),
    "a label missing": (2, "--labels is 0=bad; it must be value=words", {"labels": "0=bad"}),
    "the same words": (
        2,
        "--labels is 0=good 1=good; each value must have words of its own",
        {"labels": "0=good 1=good"},
    ),
    "doubled braces": (2, "--template is '{{text}} is'; it must hold {text}", {"template": "{{text}} is"}),
    "empty words": (2, "--labels is 0=bad 1=; it must be value=words", {"labels": "0=bad 1="}),
    "more shots than texts": (2, "--shots is 9; train has 6 training texts", {"shots": "9"}),
    "template": (2, "--template is 'x'; it must hold {text}", {"template": "x"}),
    "template too wide": (2, "it must hold {text} and nothing else", {"template": "{text:>9999999999999999}"}),
    "no such column": (2, "--label_column kind: --train_file", {"label_column": "kind"}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line(name, recipe, given, tmp_path, command_line):
    status, words, changed = BAD[name]
    flags = {key: value for key, value in (given | changed).items() if value is not None}
    arguments = [f"--output_dir={tmp_path / 'out'}"]
    for key, value in flags.items():
        arguments += [f"--{key}", *(value.split() if key in ("labels", "shots") else [value])]
    found, printed = command_line(recipe, *arguments)
    assert found == status and words in printed and printed.startswith("error: ") and printed.count("\n") == 1


def test_one_label_is_no_classification(recipe, given, tmp_path, command_line):
    for split in ("train", "test"):
        Path(given[f"{split}_file"]).write_text("text,label\nfine,1\n")
    arguments = [f"--{key}={value}" for key, value in given.items()]
    found, printed = command_line(recipe, f"--output_dir={tmp_path / 'out'}", *arguments)
    assert found == 2 and "all texts have the label 1; two or more are needed" in printed

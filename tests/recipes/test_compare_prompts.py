"""What compare_prompts.py leaves, and what it refuses."""

import json
from pathlib import Path

import pytest
from PIL import Image
from recipe_runs import load_recipe, run_with
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from hwzoo import hub, text, training
from hwzoo.errors import HwzooError, UsageError
from hwzoo.text import adapters as text_adapters
from hwzoo.text import comparison
from hwzoo.training import parse_arguments

WORDS = [
    "fox",
    "cat",
    "dog",
    "bee",
    "ant",
    "owl",
    "cow",
    "hen",
    "pig",
    "rat",
    "bat",
    "elk",
    "emu",
    "yak",
    "cod",
    "gnu",
]
TINY = {
    "config_d_model": 16, "config_num_layers": 1, "pretrain_steps": 2, "max_steps": 3, "num_virtual_tokens": 2,
    "lora_rank": 1, "per_device_train_batch_size": 4, "generation_max_new_tokens": 3, "tasks": ["plural", "past"],
    "shots": [0, 2],
}  # fmt: skip
PROMPTS = ["no_prompt", "0_shot", "2_shot", "2_shot_wrong", "instruction"]
TUNED = ["prompt_tuning", "prefix_tuning", "lora", "full"]


@pytest.fixture
def recipe():
    return load_recipe("compare_prompts")


@pytest.fixture
def data(tmp_path) -> Path:
    """Two tasks, whose answers are one of two letters."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    for split in ("train", "test"):
        words = WORDS if split == "train" else [word + "x" for word in WORDS[:4]]
        rows = [
            {"task": task, "source": word, "target": letters[place % 2]}
            for place, word in enumerate(words)
            for task, letters in (("plural", "sz"), ("past", "dt"))
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing them is most of a small run's time."""
    for name in ("save_shares", "save_functions"):
        monkeypatch.setattr(training, name, lambda *args, **kwargs: None)


def run(recipe, data: Path, folder: Path, **settings) -> dict:
    types = list(recipe.main.__annotations__.values())[:-1]
    return run_with(recipe, types, TINY | {"dataset_name": str(data), "output_dir": str(folder)} | settings)


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_a_run_leaves(recipe, data, tmp_path, capsys):
    folder = tmp_path / "out"
    results = run(recipe, data, folder, seed=3)
    assert json.loads((folder / "all_results.json").read_text()) == json.loads(json.dumps(results))
    names = [f"test_accuracy_{name}" for name in [*PROMPTS, *TUNED]]
    assert list(results) == [
        "trainable_params",
        "train_runtime",
        *names,
        "soft_prompt_first_tokens",
        "soft_prompt_distances",
        "protocol",
    ]
    assert list(results["trainable_params"]) == list(results["train_runtime"]) == ["base", *TUNED]
    assert results["trainable_params"]["prompt_tuning"] == 2 * 16
    assert results["trainable_params"]["full"] == results["trainable_params"]["base"]

    failures = lines_of(folder / "failures.jsonl")
    for name in [*PROMPTS, *TUNED]:
        wrong = [row for row in failures if row["prompt"] == name]
        assert results[f"test_accuracy_{name}"] == pytest.approx(1 - len(wrong) / 4)
        assert all(row["prediction"] not in row["references"] and row["references"][0] in ("s", "z") for row in wrong)
    watched = results["soft_prompt_first_tokens"]
    assert [row["step"] for row in watched] == [step for step in (0, 1, 2, 3) for _ in range(3)]
    assert {row["source"] for row in watched} == {"foxx", "catx", "dogx"}
    distances = results["soft_prompt_distances"]
    assert [row["step"] for row in distances] == [0, 1, 2, 3]
    for row in distances:
        assert 0 < row["to_answers"] < 0.694 and 0 < row["to_first_tokens"] < 0.694 and row["information"] >= -1e-9
    for row in watched:
        values = [value for _, value in row["tokens"]]
        assert len(values) == 5 and values == sorted(values, reverse=True) and 0 < sum(values) <= 1
    for words in ("task plural: 4 test pairs, 16 training pairs", "'{task}: {text}'", "from '{text}'", "seed 3"):
        assert words in results["protocol"], words
    for name in ("accuracy.png", "shots.png", "first_tokens.png"):
        if name != "first_tokens.png" or (folder / name).exists():  # it shows what is over 10 % probable
            with Image.open(folder / name) as image:
                assert len(image.convert("RGB").getcolors(100_000)) > 20, name
    types = list(recipe.main.__annotations__.values())[:-1]
    again = parse_arguments(types, [f"--config={folder / 'preset.yaml'}"])
    assert {name: value for each in again for name, value in vars(each).items() if name in TINY} == TINY
    assert "prompt_tuning: accuracy" in capsys.readouterr().out
    # The base is a model like any other.
    assert text.load_base(str(folder / "base"), hub.load)[0].config.d_model == 16


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_virtual_tokens": 1020}, r"--max_source_length \(\d tokens\), --num_virtual_tokens \(1020 tokens\): 10"),
        ({"generation_max_new_tokens": 1025}, r".*--generation_max_new_tokens \(1025 tokens\): 1\d\d\d positions are"),
    ],
)
def test_what_does_not_fit_the_base_is_told_before_it_is_trained(settings, told, recipe, data, tmp_path):
    with pytest.raises(UsageError, match=f"^{told}.*, the model has 1024$"):
        run(recipe, data, tmp_path / "out", architecture="causal", **settings)
    assert not (tmp_path / "out" / "base").exists()


@pytest.mark.parametrize("long", ["source", "target"])
def test_texts_that_are_too_long_for_the_base_are_told_before_it_is_trained(long, recipe, data, tmp_path):
    rows = lines_of(data / "train.jsonl")
    rows[0][long] = "x" * 1100
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = r"^--max_source_length \(\d+ tokens\).*: \d+ positions are needed, the model has 1024$"
    with pytest.raises(UsageError, match=told):
        run(recipe, data, tmp_path / "out", architecture="causal", max_source_length=2000)
    assert not (tmp_path / "out" / "base").exists()


def test_an_adapter_without_effect_is_told_before_the_base_is_trained(recipe, data, tmp_path, monkeypatch):
    def without_effect(model, method, **kwargs):
        model = text_adapters.add_adapter(model, method, **kwargs)
        if method == "prefix_tuning":
            model.generate = model.base_model.generate
        return model

    monkeypatch.setattr(comparison, "add_adapter", without_effect)
    with pytest.raises(HwzooError, match="^an adapter of prefix_tuning has no effect on what T5ForCond.* generates"):
        run(recipe, data, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_the_prompts_are_those_told(recipe, data, no_pictures, tmp_path):
    run(recipe, data, tmp_path / "out", instruction="Say the {task}.", tuning=["prompt_tuning"])
    asked = {}
    for row in lines_of(tmp_path / "out" / "failures.jsonl"):
        asked.setdefault(row["prompt"], row["source"])
    assert asked["no_prompt"] == asked["prompt_tuning"] == "foxx"
    assert asked["0_shot"] == "plural: foxx" and asked["instruction"] == "Say the plural.\nplural: foxx"
    *shots, question = asked["2_shot"].split("\n")
    assert question == "plural: foxx" and len(set(shots)) == 2
    assert all(shot[len("plural: ") : -len(" s")] in WORDS for shot in shots)


def test_wrong_answers_are_those_of_other_words(recipe, tmp_path, no_pictures):
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = [{"task": "plural", "source": word, "target": f"{word}s"} for word in WORDS]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(recipe, folder, tmp_path / "out", tuning=[], tasks=["plural"], shots=[9])
    rows = lines_of(tmp_path / "out" / "failures.jsonl")
    for name, right in (("9_shot", True), ("9_shot_wrong", False)):
        *shots, _ = next(row["source"] for row in rows if row["prompt"] == name).split("\n")
        pairs = [shot.removeprefix("plural: ").split() for shot in shots]
        assert len(pairs) == 9 and all((answer == f"{word}s") == right for word, answer in pairs)


def test_a_causal_base_that_never_saw_the_task(recipe, data, no_pictures, tmp_path, monkeypatch):
    contexts = []

    def encode(tokenizer, given, *args, **kwargs):
        contexts.append(given)
        return text.encode(tokenizer, given, *args, **kwargs)

    monkeypatch.setattr(comparison, "encode", encode)
    results = run(recipe, data, tmp_path / "out", architecture="causal", hold_out=True, tuning=["prefix_tuning"])
    second, first = contexts  # what the prefix is trained on is checked before the base is trained
    assert len(first) == 16 and all("The past of" in each and "plural" not in each for each in first)
    assert second[0].endswith(" is") and not second[0].startswith("The")
    assert "without this task" in results["protocol"] and "'The {task} of {text} is'" in results["protocol"]


def test_another_base_is_taken_and_left_as_it_is(recipe, data, no_pictures, tmp_path):
    model, tokenizer = text.new_base("causal", 16, 1)
    hub.save(model, tmp_path / "base", also=(tokenizer,))
    given = {"model_name_or_path": str(tmp_path / "base"), "tuning": ["lora"]}
    first, second = (run(recipe, data, tmp_path / name, **given) for name in ("a", "b"))
    for results in (first, second):
        assert results.pop("train_runtime").keys() == {"lora"}
    assert first == second and not (tmp_path / "a" / "base").exists()


def test_a_base_that_ends_no_answer_is_refused_before_prompts_in_words_are_tested(
    recipe, data, no_pictures, tmp_path, monkeypatch
):
    model, tokenizer = text.new_base("seq2seq", 16, 1)
    learned = Tokenizer.from_str(text.new_tokenizer(None, 300, ["x y"]).backend_tokenizer.to_str())
    learned.post_processor = processors.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learned, pad_token="<pad>", eos_token="</s>")
    hub.save(model, tmp_path / "base", also=(tokenizer,))
    asked, generated = [], comparison.generate_answers

    def generate(*args, **way):
        asked.append(0)
        return generated(*args, **way)

    monkeypatch.setattr(comparison, "generate_answers", generate)
    given = {"model_name_or_path": str(tmp_path / "base")}
    told = f"^--model_name_or_path {tmp_path}/base: its tokenizer must put its end token"
    with pytest.raises(UsageError, match=told):
        run(recipe, data, tmp_path / "a", tuning=["full"], **given)
    assert not asked
    results = run(recipe, data, tmp_path / "b", tuning=[], **given)  # it may answer, though
    assert len(asked) == len(PROMPTS) and f"test_accuracy_{PROMPTS[-1]}" in results


# name: (status, what the line says, the arguments for a folder of the test's own)
BAD = {
    "no name of a task": (2, "--task is ''; it must not be empty", ["--task="]),
    "unknown task": (2, "--task is gerund; pairs has past, plural", ["--task=gerund"]),
    "unknown tuning": (2, "--tuning has magic; it must be some of prompt_tuning, ", ["--tuning", "lora", "magic"]),
    "tuning twice": (2, "--tuning is lora lora; each may be given once", ["--tuning", "lora", "lora"]),
    "template without text": (2, "--template is 'plural'; it must hold {text}", ["--template=plural"]),
    "template with more": (2, "--template is '{word}{text}'; it must hold {text}", ["--template={word}{text}"]),
    "instruction": (2, "--instruction is 'Do {x}.'; it must hold {task}", ["--instruction=Do {x}."]),
    "shots": (2, "--shots is 10; it must be in [0, 9]", ["--shots", "10"]),
    "width": (2, "--config_d_model is 6; it must be a multiple of 4 heads", ["--config_d_model=6"]),
    "no such task to train on": (2, "--tasks is gerund; pairs has past, plural", ["--tasks", "gerund"]),
    "nothing left": (2, "--tasks is plural without plural", ["--tasks", "plural", "--hold_out"]),
    "hold out of a given base": (2, "--hold_out is for the base", ["--hold_out", "--model_name_or_path=x"]),
    "no such base": (1, "nowhere/at-all cannot be loaded", ["--model_name_or_path=nowhere/at-all"]),
    "batch larger than the pairs": (
        2, f"--per_device_train_batch_size: a step takes {10**12} pairs",
        [f"--per_device_train_batch_size={10**12}"],
    ),
    "no such data": (2, "--dataset_name nothing is neither", ["--dataset_name=nothing"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_one_line(name, recipe, data, tmp_path, command_line):
    status, words, arguments = BAD[name]
    common = [f"--dataset_name={data}", f"--output_dir={tmp_path / 'out'}", "--per_device_train_batch_size=4"]
    if not any("--model_name_or_path" in each for each in arguments):
        common.append("--pretrain_steps=1")
    found, printed = command_line(recipe, *common, *arguments)
    assert found == status and words in printed and printed.startswith("error: ") and printed.count("\n") == 1


def test_a_folder_with_results_is_kept(recipe, data, no_pictures, tmp_path, command_line):
    (tmp_path / "kept").write_text("")
    found, printed = command_line(recipe, f"--output_dir={tmp_path}")
    assert found == 2 and "is not empty; give --overwrite_output_dir" in printed

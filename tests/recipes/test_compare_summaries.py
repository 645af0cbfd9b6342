"""What compare_summaries.py leaves, and what it refuses."""

import json
import shutil

import pytest
import torch
from PIL import Image
from recipe_runs import load_recipe, run_with
from transformers import GPT2Config, GPT2LMHeadModel

from hwzoo import hub, text
from hwzoo.training import parse_arguments

ROWS = [
    ("We train models. They are large. It works well on data.", "large models work", "training helps"),
    ("Rain fell in the north. Roads were closed. Schools stayed open.", "rain closed roads", "schools open"),
    ("A study of bees. Bees dance to tell of food. Nobody knew.", "bees dance", "bees tell of food"),
]


@pytest.fixture
def recipe():
    return load_recipe("compare_summaries")


@pytest.fixture
def given(tmp_path) -> dict:
    rows = [{"document": text, "summary": first, "summaries": [first, second]} for text, first, second in ROWS]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answers = [{"index": 2, "prediction": "Bees dance to tell of food"}, {"index": 0, "prediction": "models <b>"}]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    torch.manual_seed(0)
    model, tokenizer = text.new_base("seq2seq", 16, 1)
    hub.save(model, tmp_path / "model", also=(tokenizer, text.generation_config(model, 5)))
    models = {"models": [f"small={tmp_path / 'model'}"], "predictions": [f"chat={tmp_path / 'chat.jsonl'}"]}
    return {"test_file": str(tmp_path / "test.jsonl"), "source_prefixes": ["small=tl;dr "], **models}


def types_of(recipe) -> list[type]:
    return list(recipe.main.__annotations__.values())[:-1]


def test_what_a_run_leaves(recipe, given, tmp_path, capsys):
    folder = tmp_path / "out"
    results = run_with(recipe, types_of(recipe), given | {"output_dir": str(folder), "against": "chat"})
    assert json.loads((folder / "all_results.json").read_text()) == results
    names = ["lead_1", "lead_3", "oracle_sentence", "small", "chat"]
    assert list(results["scores"]) == names
    assert "2 of 3 test documents" in results["protocol"] and "tl;dr" not in results["protocol"]
    rows = [json.loads(line) for line in (folder / "summaries.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 2] and rows[1]["chat"] == "Bees dance to tell of food"
    assert rows[0]["lead_1"] == "We train models." and rows[0]["lead_3"] == ROWS[0][0]
    documents = [json.loads(line) for line in (folder / "documents.jsonl").read_text().splitlines()]
    assert documents == [{"index": index, "document": row[0]} for index, row in enumerate(ROWS)]
    chat, lead = results["scores"]["chat"], results["scores"]["lead_3"]
    assert chat["rouge1_max"] > chat["rouge1"] and lead["coverage"] == 1 and lead["new_1grams"] == 0
    differences = results["differences_from_chat"]
    assert list(differences) == names[:-1]
    for name, row in differences.items():
        for key, each in row.items():
            assert each["mean"] == pytest.approx(results["scores"][name][key] - chat[key], abs=1e-9)
            assert each["low"] <= each["mean"] <= each["high"]
    page = (folder / "index.html").read_text()
    assert "models &lt;b&gt;" in page and "<mark>Bees dance to tell of food</mark>" in page and "<b>" not in page
    with Image.open(folder / "summaries.png") as image:
        assert len(image.convert("RGB").getcolors(1_000_000)) > 20
    assert "| rouge1 less that of chat |" in capsys.readouterr().out
    again = parse_arguments(types_of(recipe), [f"--config={folder / 'preset.yaml'}"])
    assert again[1].models == given["models"] and again[0].num_shown == 10


def test_baselines_alone(recipe, given, tmp_path):
    results = recipe.main(
        recipe.Settings(test_file=given["test_file"], output_dir=str(tmp_path / "out")), recipe.Systems()
    )
    assert list(results["scores"]) == ["lead_1", "lead_3", "oracle_sentence"]
    assert results["scores"]["oracle_sentence"]["rouge1"] >= results["scores"]["lead_1"]["rouge1"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"against": "chatt"}, "--against has chatt; there are lead_1, lead_3, oracle_sentence, small, chat"),
        ({"source_prefixes": ["big=x"]}, "--source_prefixes has big; there are small"),
        ({"models": ["small"]}, "--models 'small' is not NAME=VALUE"),
        ({"predictions": ["small=x.jsonl"]}, "--predictions 'small=x.jsonl': there is another small"),
        ({"predictions": ["references=x.jsonl"]}, "--predictions 'references=x.jsonl': there is another references"),
        ({"models": ["index=x"]}, "--models 'index=x': there is another index"),
        ({"models": ["the data=x"]}, "--models 'the data=x': there is another the data"),
        ({"predictions": ["chat=x.txt"]}, "--predictions x.txt: its name must end in .jsonl, .json, .csv"),
        ({"predictions": ["chat=x.jsonl"]}, "--predictions x.jsonl: No such file"),
        ({"summary_column": "abstract"}, "--summary_column abstract: --test_file"),
    ],
)
def test_a_mistake_is_one_line(changed, words, recipe, given, tmp_path, command_line):
    flags = given | changed | {"output_dir": str(tmp_path / "out")}
    arguments = [
        token
        for name, value in flags.items()
        for token in (f"--{name}", *([value] if isinstance(value, str) else value))
    ]
    status, error = command_line(recipe, *arguments)
    assert status == 2 and words in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_that_will_not_do_is_told_by_the_flag_that_named_it(recipe, given, tmp_path, command_line):
    shutil.copytree(tmp_path / "model", tmp_path / "odd")
    (tmp_path / "odd" / "tokenizer_config.json").write_text('{"tokenizer_class": "OddTokenizer"}')
    GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=4, n_embd=4, n_layer=1, n_head=1)).save_pretrained(
        tmp_path / "causal"
    )
    for name, expected, words in (
        ("causal", 2, "is no sequence-to-sequence model"),
        ("odd", 1, "its tokenizer cannot be loaded"),
    ):
        flags = [f"--test_file={given['test_file']}", f"--models=small={tmp_path / name}"]
        status, error = command_line(recipe, *flags, f"--output_dir={tmp_path / 'out'}")
        assert status == expected and error.count("\n") == 1, error
        assert error.startswith(f"error: --models {tmp_path / name}") and words in error
        assert "--model_name_or_path" not in error and "--tokenizer_name" not in error


def test_the_prefix_stands_before_each_document(recipe, given, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        recipe.summaries, "summarize", lambda model, tokenizer, sources, **_: (asked.extend(sources), sources)[1]
    )
    run_with(recipe, types_of(recipe), given | {"output_dir": str(tmp_path / "out")})
    assert asked == ["tl;dr " + row[0] for row in ROWS]

"""What explore_sampling.py leaves, and what it refuses."""

import json

import pytest
import torch
from PIL import Image
from recipe_runs import load_recipe, run_with

from hwzoo import hub, text, training
from hwzoo.errors import UsageError
from hwzoo.text import sampling
from hwzoo.training import parse_arguments

TINY = {"config_d_model": 16, "config_num_layers": 1, "pretrain_steps": 4, "max_predict_samples": 4}
TINY |= {"num_draws": 3000, "num_lists": 3, "num_digits": 30, "temperatures": [2.0, 0.0, 1.0]}


@pytest.fixture
def recipe():
    return load_recipe("explore_sampling")


def types_of(recipe) -> list[type]:
    return list(recipe.main.__annotations__.values())[:-1]


def test_what_a_run_leaves(recipe, tmp_path, capsys):
    results = run_with(recipe, types_of(recipe), TINY | {"output_dir": str(tmp_path), "seed": 2})
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    rows, printed = results["next_token"], capsys.readouterr().out
    plain, cut = ["T = 0", "T = 1", "T = 2"], ["T = 1, default top-k", "T = 2, default top-k", "T = 1, top-p 0.9"]
    assert list(rows) == [*plain, *cut]
    entropies = [rows[name]["entropy"] for name in plain]
    assert entropies[0] == 0 and entropies == sorted(entropies)
    assert rows["T = 1"]["kept_tokens"] == 384 and rows["T = 1, default top-k"]["kept_tokens"] == 50
    for row in rows.values():
        assert row["chi_square"]["p_value"] > 1e-4 and row["test_accuracy"] in (0, 0.25, 0.5, 0.75, 1)
    assert "| T = 2 | " in printed and "4 test plurals" in results["protocol"] and "seed 2" in results["protocol"]
    assert "trained here, of words for 4 steps, of digits for 1" in results["protocol"]
    digits = results["digits"]
    assert sum(digits["first_token"]) == pytest.approx(1)
    assert digits["learned_from"]["shares"] == sampling.biased_digits().stationary.tolist()
    failures = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    for name, row in rows.items():
        assert row["test_accuracy"] == 1 - sum(each.get("way") == name for each in failures) / 4
    assert digits["num_lists"] == 3 - sum("too_few_digits" in each for each in failures)
    for name in ("next_token.png", "temperature.png", "digits.png"):
        with Image.open(tmp_path / name) as image:
            assert len(image.convert("RGB").getcolors(1_000_000)) > 20, name
    for name in ("base", "base_digits"):
        text.load_base(str(tmp_path / name), hub.load)
    again = parse_arguments(types_of(recipe), [f"--config={tmp_path / 'preset.yaml'}"])
    assert {name: value for each in again for name, value in vars(each).items() if name in TINY} == TINY


def test_a_model_that_is_given(recipe, tmp_path, monkeypatch):
    """The numbers are those of its own logits; nothing is known of what is right."""
    monkeypatch.setattr(training, "save_functions", lambda *args, **kwargs: None)
    torch.manual_seed(0)
    model, tokenizer = text.new_base("causal", 16, 1)
    hub.save(model, tmp_path / "base", also=(tokenizer,))
    given = {"model_name_or_path": str(tmp_path / "base"), "prompt": "x", "digits_prompt": "Digits:"}
    tiny = {name: TINY[name] for name in ("num_draws", "num_lists", "num_digits", "temperatures")}
    results = run_with(recipe, types_of(recipe), tiny | given | {"output_dir": str(tmp_path / "out")})
    law = sampling.tempered(text.prompts.next_token_logits(model, tokenizer, "x"), 2.0)
    assert results["next_token"]["T = 2"]["entropy"] == pytest.approx(sampling.entropy(law), rel=1e-6)
    assert all("test_accuracy" not in row for row in results["next_token"].values())
    assert "learned_from" not in results["digits"] and not (tmp_path / "out" / "base").exists()
    scores = text.score_labels(model, tokenizer, ["Digits:"], list("0123456789")).log_probs[0]
    assert results["digits"]["first_token"] == pytest.approx(scores.softmax(0).tolist(), rel=1e-4)


def test_a_prompt_longer_than_the_model_is_one_line(recipe, tmp_path, command_line):
    model, tokenizer = text.new_base("causal", 16, 1)
    hub.save(model, tmp_path / "base", also=(tokenizer,))
    flags = [f"--model_name_or_path={tmp_path / 'base'}", "--digits_prompt=d", f"--prompt={'a' * 1100}"]
    status, error = command_line(recipe, f"--output_dir={tmp_path / 'out'}", *flags)
    told = "error: --prompt (1100 tokens): 1100 positions are needed, the model has 1024\n"
    assert (status, error) == (2, told)


def test_without_temperatures_nothing_is_begun(recipe, tmp_path):
    with pytest.raises(UsageError, match=r"--temperatures is \[\]; it must not be empty"):
        run_with(recipe, types_of(recipe), TINY | {"output_dir": str(tmp_path / "out"), "temperatures": []})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model_name_or_path=x"], "--prompt and --digits_prompt are needed"),
        (["--temperatures", "1", "-1"], "--temperatures is -1.0; it must be in [0, 100]"),
        (["--top_p=0"], "--top_p is 0.0; it must be in (0, 1]"),
        (["--num_draws=10"], "--num_draws is 10; it must be in [100, inf)"),
        (
            ["--num_digits=1000", "--digits_prompt=A list of a thousand digits:"],
            "--num_digits is 1000; of the 1024 bytes of a line the prompt leaves 994 to digits",
        ),
        (["--config_d_model=6"], "--config_d_model is 6; it must be a multiple of 4 heads"),
    ],
)
def test_a_mistake_is_one_line(flags, words, recipe, tmp_path, command_line):
    status, error = command_line(recipe, f"--output_dir={tmp_path / 'out'}", *flags)
    assert status == 2 and words in error and error.startswith("error: ") and error.count("\n") == 1

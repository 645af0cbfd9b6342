"""What a run of train_textvae.py leaves, that it learns, and that it goes on as if nothing had been."""

import functools
import itertools
import json
import math
import os
import random
from pathlib import Path

import pytest
import recipe_runs
import torch
import warm
from forked import by_one_and_by_two
from loopback_hub import LoopbackHub
from recipe_runs import (
    as_flags,
    history,
    load_recipe,
    results_but_times,
    run_with,
    same_run,
    stopped_at,
)
from transformers import AutoModel, AutoTokenizer

from hwzoo import metrics, text, training
from hwzoo.errors import UsageError

RECIPE = Path(__file__).parents[2] / "recipes" / "train_textvae.py"
launch = functools.partial(recipe_runs.launch, RECIPE)
BOUNDS = ("negative_elbo", "rate", "distortion")
WORDS = ["".join(each) for each in itertools.product("abcde", "aeiou", "klm")]
random.Random(0).shuffle(WORDS)
TRAIN, TEST = WORDS[:50], WORDS[50:]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict:
    """Flags of a small run on 50 words."""
    folder = tmp_path_factory.mktemp("data") / "trigrams"
    folder.mkdir()
    for split, words in (("train", TRAIN * 2), ("test", [*TEST, TRAIN[0], "a-very-long-word"])):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"word": word}) + "\n" for word in words))
    return {
        "dataset_name": str(folder),
        "text_column": "word",
        "max_tokens": 6,
        "embedding_size": 4,
        "hidden_size": 8,
        "latent_size": 2,
        "train_batch_size": 10,
        "max_train_steps": 8,
        "logging_steps": 2,
        "lr_warmup_steps": 2,
        "num_importance_samples": 3,
        "free_bits": 0.25,
        "kl_warmup_steps": 0,
    }


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing them is most of a small run's time."""
    monkeypatch.setattr(training, "save_curves", lambda *args, **kwargs: None)


def types_of(recipe) -> list[type]:
    return [recipe.Run, recipe.Data, recipe.Model, recipe.Protocol]


def run(recipe, settings, folder: Path, **changes) -> dict:
    return run_with(recipe, types_of(recipe), {**settings, "output_dir": str(folder), **changes})


def test_texts(small):
    data = text.load_texts(small["dataset_name"], text_column="word")
    train, test = ([each.target for each in split] for split in (data.train, data.test))
    assert train == TRAIN and test == [*TEST, "a-very-long-word"]  # each once, in the first split that has it
    words = text.load_texts()
    splits = [{each.target for each in split} for split in (words.train, words.validation, words.test)]
    assert [len(split) > 1500 for split in splits] == [True] * 3 and len(splits[0]) > 6 * len(splits[2])
    assert not splits[0] & splits[2] and not splits[1] & splits[2]
    assert sum(map(len, splits)) == len(words.train + words.validation + words.test)
    assert {"abilities", "ability"} <= splits[0] | splits[1] | splits[2]

    tokenizer = text.train_tokenizer(train, 259)
    rows = text.TokenSet.of([*test, "Ünï"], tokenizer, 6)
    assert len(rows) == len(test)  # all but the long one
    batch = rows.batch(torch.tensor([0, len(rows) - 1]))["input_ids"]
    assert batch.shape == (2, 6) and tokenizer.decode(batch[1], skip_special_tokens=True) == "Ünï"
    assert rows.batch(torch.tensor([0]))["input_ids"].shape == (1, 4)


@pytest.mark.parametrize("vocabulary", [None, 300])
@pytest.mark.parametrize("words", ["a </s> b", "a<unk>b", "a <pad> b"])
def test_special_tokens_spelled_in_a_text_are_letters(vocabulary, words):
    tokenizer = text.new_tokenizer(None, vocabulary, TRAIN)
    (row,) = text.TokenSet.of([words], tokenizer, 40).input_ids.tolist()
    special = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    assert row[-1] == tokenizer.eos_token_id and not special & set(row[:-1])
    assert tokenizer.decode(row[:-1]) == words


def test_what_a_run_leaves(train_textvae, small, tmp_path, capsys):
    results = run(train_textvae, small, tmp_path, eval_batch_size=7)
    told = capsys.readouterr().out
    assert "bound on the negative log-likelihood (nats a text)" in told and "an image" not in told
    assert f"hwzoo sample {tmp_path}" in told and "hwzoo evaluate" not in told
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    for words in ("trigrams: all 25 test texts, 50 training texts", "1 longer than 6 tokens left out", "259 tokens"):
        assert words in results["protocol"]
    model, tokenizer = AutoModel.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer(TEST, padding=True, return_tensors="pt")
    assert inputs.keys() == {"input_ids", "attention_mask"}
    with torch.no_grad():
        mean, variance = model.encode(**inputs)
        rate = 0.5 * (mean.square() + variance - 1 - variance.log()).sum(1).double()
        parts = [part.split(7) for part in inputs.values()]
        draws = [
            model.negative_bound(*part, generator=torch.Generator().manual_seed(index))
            for index, part in enumerate(zip(*parts, strict=True))
        ]
    for name, values in zip(BOUNDS, map(torch.cat, zip(*draws, strict=True)), strict=True):
        assert results[f"test_{name}"] == pytest.approx(values.mean().item(), rel=1e-5)
        error = values.double().std().item() / len(values) ** 0.5
        assert results[f"test_{name}_standard_error"] == pytest.approx(error, rel=1e-2, abs=1e-3)
    assert results["test_rate"] == pytest.approx(rate.mean().item(), rel=1e-5)
    scores = metrics.aggregate_posterior_scores(mean, variance)
    for name, value in scores.items():
        assert results[f"test_{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    parts = results["test_mutual_information"] + results["test_marginal_divergence"]
    assert parts == pytest.approx(results["test_rate"], abs=0.06)  # of 250 draws

    written = json.loads((tmp_path / "texts.json").read_text())
    ids = model.sample(200, generator=torch.Generator().manual_seed(0))
    assert written["samples, temperature 1"] == tokenizer.batch_decode(ids, skip_special_tokens=True)
    # Both kinds at the same latents, side by side in the card.
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((200, 2), generator=generator)
    for name, temperature in (("temperature 1", 1.0), ("most likely tokens", 0.0)):
        ids = model.sample(200, latents=latents, generator=generator, temperature=temperature)
        assert written[f"samples, {name}"] == tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert [source for source, _ in written["reconstructions"]] == TEST
    assert all(len(path) == 7 for path in written["paths"]) and len(written["paths"]) == 10
    card = " ".join((tmp_path / "README.md").read_text().split())
    for words in ("text-generation", "a latent of 2 dimensions", "0.25 free nats a dimension", "curves.png", TEST[0]):
        assert words in card
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        (TRAIN, TRAIN[:3], "--dataset_name .*own: each of its test texts is one of training or validation too"),
        ([f"{word}-and-more" for word in TRAIN], TEST, "--max_tokens is 6; no training text of own is as short"),
        (TRAIN, [f"{word}-and-more" for word in TEST], "--max_tokens is 6; no test text of own is as short"),
    ],
    ids=["no new test texts", "training texts too long", "test texts too long"],
)
def test_a_split_that_leaves_no_text_is_told_with_its_cause(train, test, told, train_textvae, small, tmp_path):
    folder = texts_in(tmp_path / "own", train, test)
    with pytest.raises(UsageError, match=f"^{told}$"):
        run(train_textvae, small, tmp_path / "run", dataset_name=folder)


def test_line_breaks_of_any_kind_break_no_table(train_textvae, small, no_pictures, tmp_path):
    folder = texts_in(tmp_path / "own", TRAIN, ["q\r\nr", "s\rt", "u\n|v"])
    run(train_textvae, small, tmp_path / "run", dataset_name=folder)
    card = (tmp_path / "run" / "README.md").read_bytes().decode()
    assert "\r" not in card
    for words in ("\n| `q r` | `", "\n| `s t` | `", "\n| `u /v` | `"):
        assert words in card


def texts_in(folder: Path, train: list[str], test: list[str]) -> str:
    """A folder of two splits of such texts."""
    folder.mkdir()
    for split, words in (("train", train), ("test", test)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"word": word}) + "\n" for word in words))
    return str(folder)


@pytest.mark.long
def test_training_learns_and_the_free_nats_are_used(train_textvae, small, no_pictures, tmp_path):
    flags = {"max_train_steps": 150, "learning_rate": 2e-2, "hidden_size": 16}
    before = run(train_textvae, small, tmp_path / "a", max_train_steps=1)
    free = run(train_textvae, small, tmp_path / "b", free_bits=0.5, **flags)
    collapsed = run(train_textvae, small, tmp_path / "c", free_bits=0.0, **flags)
    alone = run(train_textvae, small, tmp_path / "d", latent_size=0, **flags)
    assert before["test_negative_elbo"] > 20 > 12 > max(each["test_negative_elbo"] for each in (free, collapsed))
    assert 0.8 < free["test_rate"] < 1.8 and collapsed["test_rate"] < 0.3
    assert free["test_active_units"] == 2 and free["test_distinct_modes"] > 1
    assert free["test_mutual_information"] > 0.3
    assert alone["test_rate"] == 0 == alone["test_active_units"] and alone["test_distinct_modes"] == 1
    assert alone["test_iwae_3"] == pytest.approx(alone["test_negative_elbo"], rel=1e-5)
    card = (tmp_path / "d" / "README.md").read_text()
    assert "A language model" in card and "model.encode" not in card


@pytest.mark.long
def test_a_model_is_pushed_and_writes_where_hwzoo_is_not(train_textvae, small, no_pictures, tmp_path):
    with LoopbackHub(token="hf_right", users=("me",)) as server:
        environment = os.environ | server.environment(tmp_path / "cache")
        flags = as_flags(
            {**small, "push_to_hub": True, "hub_model_id": "me/words", "output_dir": str(tmp_path / "run")}
        )
        done = warm.run([RECIPE, *flags], env=environment)
        assert done.returncode == 0, done.stderr
        files = server.repos["me/words"].files
        assert {"model.safetensors", "tokenizer.json", "tokenizer_config.json", "texts.json"} <= files.keys()
        card = files["README.md"].decode()
        example = card.split("```python\n")[1].split("```")[0]
        program = f"import sys\nsys.modules['hwzoo'] = None\n{example}\nprint(bound.shape, path.shape)"
        done = warm.run(["-c", program], env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "torch.Size([8]) torch.Size([7, 6])"
    assert "custom code" not in done.stdout  # nobody was asked


def test_samples_are_texts_and_no_images(train_textvae, small, no_pictures, command_line, tmp_path, capsys):
    run(train_textvae, small, tmp_path / "run")
    model, tokenizer = AutoModel.from_pretrained(tmp_path / "run"), AutoTokenizer.from_pretrained(tmp_path / "run")
    recipe = load_recipe("sample")
    settings = {"num_samples": 7, "eval_batch_size": 4, "seed": 3, "output_dir": str(tmp_path / "samples")}
    results = recipe.main(recipe.Settings(model_name_or_path=str(tmp_path / "run"), **settings))
    generator = torch.Generator().manual_seed(3)
    drawn = torch.cat([model.sample(num, generator=generator) for num in (4, 3)])
    lines = [" ".join(each.split()) for each in tokenizer.batch_decode(drawn, skip_special_tokens=True)]
    assert (tmp_path / "samples" / "samples.txt").read_text().split("\n") == [*lines, ""]
    assert json.loads((tmp_path / "samples" / "samples.json").read_text()) == results
    assert {path.name for path in (tmp_path / "samples").glob("[!.]*")} == {"samples.txt", "samples.json"}
    assert "7 texts in" in capsys.readouterr().out
    told = "makes texts, no images"
    for name, flags in (("evaluate_generator", ["--dataset_name=digits"]), ("compare_samplers", [])):
        status, error = command_line(
            load_recipe(name), str(tmp_path / "run"), f"--output_dir={tmp_path / name}", *flags
        )
        assert status == 2 and told in error and error.count("\n") == 1, error
    status, error = command_line(recipe, str(tmp_path / "run"), "--labels=1", f"--output_dir={tmp_path / 'x'}")
    assert status == 2 and "has no classes" in error


@pytest.mark.parametrize(
    "settings",
    [
        {"kl_warmup_steps": 5, "word_dropout": 0.5, "beta": 0.5},
        {"latent_size": 0, "use_ema": True},
        {"vocab_size": 262, "mixed_precision": "bf16"},
    ],
    ids=["annealed", "language model", "pieces"],
)
def test_every_kind_of_model_trains_and_loads(settings, train_textvae, small, no_pictures, tmp_path):
    results = run(train_textvae, small, tmp_path, **settings)
    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.vocab_size == settings.get("vocab_size", 259)
    assert all(math.isfinite(results[f"test_{name}"]) for name in BOUNDS)
    card = " ".join((tmp_path / "README.md").read_text().split())
    words = {"kl_warmup_steps": "after 5 steps of rising weight, 50 % of the decoder's inputs masked"}
    assert all(told in card for name, told in words.items() if name in settings)
    of_a_latent = ("rate is what the latent costs", "likely tokens at the same latent", "from above", "model.encode")
    assert [told in card for told in of_a_latent] == [model.config.latent_size > 0] * 4
    assert ("and exact: without a latent" in card) == (model.config.latent_size == 0)
    assert ("posterior" in results["protocol"]) == (model.config.latent_size > 0)


def test_stopped_and_resumed_equals_uninterrupted(train_textvae, small, no_pictures, tmp_path):
    everything = {"gradient_accumulation_steps": 2, "max_grad_norm": 5.0, "use_ema": True, "word_dropout": 0.3}
    everything |= {"kl_warmup_steps": 9, "checkpointing_steps": 3, "checkpoints_total_limit": 4, "max_train_steps": 12}
    run(train_textvae, small, tmp_path / "straight", **everything)
    folder = stopped_at(tmp_path / "straight", 6, tmp_path / "resumed")
    for path in folder.iterdir():
        if path.name not in ("checkpoints", "history.jsonl", ".made.jsonl"):
            path.unlink() if path.is_file() else None
    run(train_textvae, small, folder, resume_from_checkpoint="latest", **everything)
    same_run(tmp_path / "straight", folder, 12)
    assert (folder / "texts.json").read_bytes() == (tmp_path / "straight" / "texts.json").read_bytes()


@pytest.mark.long
def test_two_processes_equal_one(train_textvae, small, no_pictures, tmp_path):
    """Also the free nats are of the batch of both, and inputs are masked alike."""
    settings = {**small, "max_train_steps": 12, "logging_steps": 1, "word_dropout": 0.3, "free_bits": 0.02}
    settings |= {"eval_batch_size": 7, "learning_rate": 1e-2}
    by_one_and_by_two(train_textvae, types_of(train_textvae), tmp_path, settings)
    rates = [record["rate"] for record in history(tmp_path / "one")]
    assert min(rates) < 0.04 < max(rates)  # on both sides of what is free
    for first, second in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        assert first.keys() == second.keys()
        for name in first:
            assert first[name] == pytest.approx(second[name], rel=1e-3), name
    first, second = results_but_times(tmp_path / "one"), results_but_times(tmp_path / "two")
    for name in (*(f"test_{each}" for each in BOUNDS), "test_iwae_3", "test_mutual_information", "train_steps"):
        assert first[name] == pytest.approx(second[name], rel=1e-3), name


def test_a_trained_model_is_tested_without_training(train_textvae, small, no_pictures, tmp_path):
    before = run(train_textvae, small, tmp_path / "a")
    after = run(train_textvae, small, tmp_path / "b", max_train_steps=0, model_name_or_path=str(tmp_path / "a"))
    assert after["test_negative_elbo"] == before["test_negative_elbo"]
    assert "without further training" in " ".join((tmp_path / "b" / "README.md").read_text().split())
    assert after["protocol"].endswith("the weights of a as they are")
    folder = texts_in(tmp_path / "own", [f"{word}-and-more" for word in TRAIN], TEST)
    flags = {"max_train_steps": 0, "model_name_or_path": str(tmp_path / "a"), "dataset_name": folder}
    with pytest.raises(UsageError, match="^--max_tokens is 6; no training text of own is as short$"):
        run(train_textvae, small, tmp_path / "d", **flags)
    further = run(train_textvae, small, tmp_path / "c", model_name_or_path=str(tmp_path / "a"))
    assert "last weights, trained further from a; the last step" in further["protocol"]
    assert "trained further" not in before["protocol"]


def test_a_run_from_a_trained_model_is_not_resumed_with_another_tokenizer(train_textvae, small, no_pictures, tmp_path):
    """It would learn one of its own where its flags do not name the model."""
    turned = tmp_path / "turned"
    turned.mkdir()
    for split, words in (("train", TRAIN), ("test", TEST)):
        lines = (json.dumps({"word": word[::-1]}) + "\n" for word in words)
        (turned / f"{split}.jsonl").write_text("".join(lines))
    sizes = {"vocab_size": 265, "checkpointing_steps": 1, "max_train_steps": 2}
    run(train_textvae, small, tmp_path / "a", **sizes | {"dataset_name": str(turned)})
    run(train_textvae, small, tmp_path / "b", model_name_or_path=str(tmp_path / "a"), **sizes)
    with pytest.raises(UsageError, match="is of a run with tokens '"):
        run(train_textvae, small, tmp_path / "b", resume_from_checkpoint="latest", **sizes)
    again = {"model_name_or_path": str(tmp_path / "a"), "resume_from_checkpoint": "latest"}
    run(train_textvae, small, tmp_path / "b", **sizes | again)


def test_a_trained_model_goes_on_with_another_loss(train_textvae, small, no_pictures, tmp_path, caplog):
    run(train_textvae, small, tmp_path / "a")
    loss = {"beta": 0.5, "free_bits": 0.5, "word_dropout": 0.25}
    flags = {"model_name_or_path": str(tmp_path / "a"), "hidden_size": 12, **loss}
    run(train_textvae, small, tmp_path / "b", **flags)
    own = json.loads((tmp_path / "b" / "config.json").read_text())
    assert {name: own[name] for name in loss} == loss and own["hidden_size"] == 8
    assert f"{tmp_path / 'a'} keeps its own hidden_size 8 (not 12)" in caplog.messages

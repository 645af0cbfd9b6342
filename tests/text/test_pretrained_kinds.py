"""
Models of the kinds of google-t5/t5-small, gpt2 and distilgpt2 without their weights: tokenizer files of these kinds,
learned from local text, and random weights; tiny, and at the real sizes among the slow tests.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sentencepiece
import torch
from recipe_runs import RECIPES, load_recipe, run_with
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from hwzoo import hub, text
from hwzoo.text.words import NOUNS, VERBS

WORDS = f"{NOUNS} {VERBS}".split()
SENTENCES = [
    f"The {noun} will {verb} the {other}." for noun, verb, other in zip(WORDS, WORDS[580:], WORDS[7:], strict=False)
]
# What is published: https://huggingface.co/google-t5/t5-small and so on, their config.json.
SIZES = {
    "t5-small": {"d_model": 512, "d_ff": 2048, "d_kv": 64, "num_layers": 6, "num_heads": 8, "vocab_size": 32128},
    "gpt2": {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257},
    "distilgpt2": {"n_embd": 768, "n_layer": 6, "n_head": 12, "vocab_size": 50257},
}
PARAMETERS = {"t5-small": 60_506_624, "gpt2": 124_439_808, "distilgpt2": 81_912_576}
TINY = {"t5-small": {"d_model": 16, "d_ff": 16, "d_kv": 4, "num_layers": 1, "num_heads": 2}}
TINY |= dict.fromkeys(("gpt2", "distilgpt2"), {"n_embd": 16, "n_layer": 1, "n_head": 2})


def tokenizer_files(kind: str, folder: Path):
    """The files that the tokenizer of the kind was published with, and no tokenizer.json."""
    folder.mkdir(parents=True)
    if kind == "t5-small":
        with open(folder / "spiece.model", "wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(SENTENCES), model_writer=file, model_type="unigram", vocab_size=600,
                hard_vocab_limit=False, minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
            )  # fmt: skip
        extra = [f"<extra_id_{index}>" for index in range(100)]
        config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100, "additional_special_tokens": extra}
    else:
        learned = ByteLevelBPETokenizer()
        learned.train_from_iterator(SENTENCES, vocab_size=700, special_tokens=["<|endoftext|>"], show_progress=False)
        learned.save_model(str(folder))
        config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 1024}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def made(kind: str, folder: Path, sizes: dict) -> str:
    """A folder as the Hub gives it: weights, config.json, tokenizer files."""
    tokenizer_files(kind, folder)
    torch.manual_seed(0)
    if kind == "t5-small":
        own = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, "vocab_size": 800}
        model = T5ForConditionalGeneration(T5Config(**own | sizes))
    else:
        ends = {"bos_token_id": 0, "eos_token_id": 0}
        model = GPT2LMHeadModel(GPT2Config(**{"vocab_size": 800, "n_positions": 1024} | ends | sizes))
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folder(request, tmp_path) -> str:
    return made(request.param, tmp_path / "model", TINY[request.param])


def kinds(*names: str):
    return pytest.mark.parametrize("folder", names, indirect=True)


@kinds("t5-small")
def test_a_unigram_model_with_extra_ids(folder):
    model, tokenizer = text.load_base(folder, hub.load)
    pieces = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/spiece.model")
    assert len(tokenizer) == len(pieces) + 100 < model.config.vocab_size  # as 32,100 of 32,128
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == len(tokenizer) - 1
    for sentence in SENTENCES[:20]:
        ids = tokenizer(sentence).input_ids
        assert ids == [*pieces.encode(sentence), 1] and tokenizer.decode(ids, skip_special_tokens=True) == sentence
    for target in ("<extra_id_0> fox <extra_id_1> The fox <extra_id_2>", "The <extra_id_0> fox"):
        labels = tokenizer(text_target=target).input_ids
        assert text.decode([[0, *labels, -100]], tokenizer) == [target]
    assert "<extra_id_7>" not in tokenizer.decode([len(tokenizer) - 8, 1], skip_special_tokens=True)


@kinds("gpt2", "distilgpt2")
def test_a_bpe_of_bytes_whose_end_pads(folder):
    _, tokenizer = text.load_base(folder, hub.load)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == tokenizer.bos_token_id == 0
    for sentence in ("The fox will run.", "naïve 狐", " 4"):
        assert tokenizer.decode(tokenizer(sentence).input_ids) == sentence
    assert tokenizer(" fox").input_ids != tokenizer("fox").input_ids  # a space belongs to the word after it


@pytest.mark.long
@kinds("t5-small")
def test_fine_tuning(folder, tmp_path):
    recipe = load_recipe("train_t5")
    flags = {"model_name_or_path": folder, "tasks": ["plural"], "max_steps": 3, "per_device_train_batch_size": 4}
    flags |= {"eval_steps": 3, "save_steps": 3, "max_eval_samples": 4, "max_predict_samples": 4, "warmup_steps": 1}
    flags |= {"generation_max_new_tokens": 4, "output_dir": str(tmp_path / "out"), "compounds_per_word": 0.0}
    types = [each for each in recipe.main.__annotations__.values() if each is not dict]
    results = run_with(recipe, types, flags)
    assert "zero_shot" in results["baselines"] and 0 <= results["test_exact_match"] <= 1
    before, after = (text.load_base(each, hub.load) for each in (folder, str(tmp_path / "out")))
    assert after[1](SENTENCES).input_ids == before[1](SENTENCES).input_ids
    assert after[0].config.vocab_size == before[0].config.vocab_size == 800  # no row more or less
    assert not torch.equal(after[0].shared.weight, before[0].shared.weight)


@pytest.mark.long
@kinds("t5-small", "gpt2", "distilgpt2")
def test_prompts_labels_and_draws(folder, tmp_path):
    """The recipes that ask a model, on one whose vocabulary is larger than its tokenizer's."""
    shared = {"model_name_or_path": folder}
    prompts = {"max_predict_samples": 3, "shots": [0], "tuning": ["prompt_tuning"], "max_steps": 2}
    prompts |= {"num_virtual_tokens": 3, "per_device_train_batch_size": 2, "generation_max_new_tokens": 2}
    (tmp_path / "data.csv").write_text("text,label\nfine,good\ndull,bad\n")
    labels = {f"{split}_file": str(tmp_path / "data.csv") for split in ("train", "validation", "test")}
    draws = {"prompt": "The fox", "digits_prompt": "Digits:", "num_draws": 5000, "num_lists": 2, "num_digits": 20}
    for name, flags in (
        ("compare_prompts", prompts), ("classify_by_prompt", labels | {"shots": [0, 1]}), ("explore_sampling", draws),
    ):  # fmt: skip
        recipe = load_recipe(name)
        types = [each for each in recipe.main.__annotations__.values() if each is not dict]
        results = run_with(recipe, types, shared | flags | {"output_dir": str(tmp_path / name)})
        if name == "explore_sampling":
            row = results["next_token"]["T = 1"]
            assert row["kept_tokens"] == 800 and row["chi_square"]["p_value"] > 1e-4
        assert (tmp_path / name / "all_results.json").is_file()


# The recipe in a process of its own, which tells its peak of memory in the unit of the system, kB.
PEAK = "import resource, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
PEAK += "; print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def measured(name: str, *flags: str) -> tuple[float, str]:
    """The peak of memory of a recipe, in GB, and what it printed."""
    command = [sys.executable, "-c", PEAK, str(RECIPES / f"{name}.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split("peak ")[1]) / 1e6, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", SIZES)
def test_real_sizes_have_as_many_parameters_and_fit_into_memory(kind, tmp_path):
    folder = made(kind, tmp_path / "model", SIZES[kind])
    model, _ = text.load_base(folder, hub.load)
    assert sum(each.numel() for each in model.parameters()) == PARAMETERS[kind]
    del model
    shared, started = [f"--model_name_or_path={folder}", f"--output_dir={tmp_path / 'out'}"], time.monotonic()
    if kind == "t5-small":
        rows = [
            {"document": " ".join(SENTENCES[start : start + 40]), "summary": SENTENCES[start]} for start in range(40)
        ]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        flags = [
            "--max_source_length=512",
            "--max_target_length=32",
            "--generation_max_new_tokens=8",
            "--eval_steps=6",
        ]
        flags += ["--per_device_train_batch_size=8", "--max_steps=6", "--save_steps=6", "--logging_steps=1"]
        flags += [f"--{split}_file={tmp_path / 'train.jsonl'}" for split in ("train", "validation", "test")]
        flags += ["--max_eval_samples=2", "--max_predict_samples=2", "--warmup_steps=1", "--source_prefix=summarize: "]
        peak, _ = measured("train_t5", *shared, *flags)
        results = json.loads((tmp_path / "out" / "all_results.json").read_text())
        print(f"{kind}: {60 * 6 / results['train_runtime']:.1f} steps a minute, peak {peak:.2f} GB")
        assert peak < 6  # measured: 4.9
        return
    prompts = ["--tuning", "prompt_tuning", "--shots=0", "--max_steps=4", "--per_device_train_batch_size=8"]
    prompts += ["--num_virtual_tokens=100", "--max_predict_samples=4", "--generation_max_new_tokens=4"]
    peak, _ = measured("compare_prompts", *shared, *prompts)
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    rate = 60 * 4 / results["train_runtime"]["prompt_tuning"]
    draws = ["--prompt=The fox", "--digits_prompt=Digits:", "--num_draws=500", "--num_lists=2", "--num_digits=20"]
    shared[1] += "-draws"
    more, _ = measured("explore_sampling", *shared, *draws)
    print(f"{kind}: {rate:.1f} steps a minute, peaks {peak:.2f} and {more:.2f} GB, {time.monotonic() - started:.0f} s")
    assert peak < 6 and more < 6  # measured: 4.0 and 1.8 of gpt2, 2.8 and 1.7 of distilgpt2

"""Adapters on a frozen tiny T5: what each trains, and that it is the same model when it comes back."""

import json
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForSeq2SeqLM
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, T5ForConditionalGeneration

from hwzoo import hub
from hwzoo.errors import HwzooError, UsageError
from hwzoo.text import (
    PEFT_METHODS,
    adapter_of,
    add_adapter,
    base_of,
    build_t5,
    count_trainable,
    decode,
    follow_cache_name,
    generation_config,
    load_seq2seq,
    new_tokenizer,
    tokenizer_of,
)

TOKENIZER = new_tokenizer(None, None, [])
TOKENS, RANK = 3, 2
# Encoder and decoder of different depth, which PEFT does not expect.
SIZES = {"d_model": 12, "d_ff": 16, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
PARAMETERS = {
    "prompt_tuning": TOKENS * 12,
    "prefix_tuning": TOKENS * 2 * 12,  # keys and values of the layer of the decoder
    "p_tuning": TOKENS * 12 + 3 * (12 * 12 + 12),
    "lora": (2 + 1 + 1) * 2 * 2 * RANK * 12,  # queries and values of each attention
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The folder of a model whose words depend on what it reads."""
    torch.manual_seed(0)
    model = build_t5(TOKENIZER, **SIZES)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.7)
    generation_config(model, 6)
    folder = tmp_path_factory.mktemp("base")
    hub.save(model, folder, also=[TOKENIZER])
    return folder


def adapted(base: Path, method: str, **kwargs):
    model = load_seq2seq(str(base), hub.load, trainable=True)
    sizes = {"num_virtual_tokens": TOKENS, "lora_rank": RANK}
    return add_adapter(model, method, **{**sizes, **kwargs})


def trained(model, steps: int = 3):
    torch.manual_seed(1)
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad], lr=0.3)
    batch = TOKENIZER(["abc", "de"], return_tensors="pt", padding=True)
    labels = TOKENIZER(["xyz", "xyz"], return_tensors="pt")["input_ids"]
    for _ in range(steps):
        model.train()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def texts_of(model, **kwargs) -> list[str]:
    batch = TOKENIZER(["abc", "a longer text", "q"], return_tensors="pt", padding=True)
    return decode(model.eval().generate(**batch, **kwargs).numpy(), TOKENIZER)


@pytest.mark.parametrize("method", PEFT_METHODS)
def test_it_trains_saves_reloads_and_writes_the_same(method, base, tmp_path):
    model = adapted(base, method)
    assert adapter_of(model) == method and base_of(model) == str(base)
    assert count_trainable(model) == PARAMETERS[method]
    frozen = {name: each.clone() for name, each in model.named_parameters() if not each.requires_grad}
    before = {name: each.clone() for name, each in model.named_parameters() if each.requires_grad}
    trained(model)
    assert all(torch.equal(each, frozen[name]) for name, each in model.named_parameters() if name in frozen)
    assert all(not torch.equal(each, before[name]) for name, each in model.named_parameters() if name in before)

    texts = texts_of(model)
    assert texts != texts_of(T5ForConditionalGeneration.from_pretrained(base))
    settings = generation_config(model, 6)
    hub.save(model, tmp_path, also=[TOKENIZER, settings])
    again = follow_cache_name(AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path))
    assert texts_of(again, generation_config=GenerationConfig.from_pretrained(tmp_path)) == texts
    here = load_seq2seq(str(tmp_path), hub.load, trainable=False)
    assert texts_of(here) == texts
    assert adapter_of(here) == method and tokenizer_of(str(tmp_path), here) == str(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) < 10_000  # the adapter alone


@pytest.mark.parametrize("method", PEFT_METHODS)
def test_what_can_be_trained_further(method, base, tmp_path):
    hub.save(trained(adapted(base, method)), tmp_path)
    if method != "lora":
        with pytest.raises(UsageError, match=f"PEFT does not train an adapter of {method} further"):
            load_seq2seq(str(tmp_path), hub.load, trainable=True)
        return
    model = load_seq2seq(str(tmp_path), hub.load, trainable=True)
    assert count_trainable(model) == PARAMETERS[method]
    texts = texts_of(model)
    assert tokenizer_of(str(tmp_path), model) == str(base)  # none is beside it
    assert texts_of(trained(model)) != texts


def test_a_prompt_starts_as_asked(base):
    weights = {}
    for init in ("random", "vocab"):
        torch.manual_seed(0)
        model = adapted(base, "prompt_tuning", prompt_tuning_init=init)
        weights[init] = model.prompt_encoder.default.embedding.weight
    words = model.get_base_model().get_input_embeddings().weight
    assert all((words == row).all(1).any() for row in weights["vocab"])
    assert not any((words == row).all(1).any() for row in weights["random"])
    given = {"prompt_tuning_init": "text", "prompt_tuning_init_text": "ab", "tokenizer": TOKENIZER}
    model = adapted(base, "prompt_tuning", num_virtual_tokens=5, **given)
    assert torch.equal(model.prompt_encoder.default.embedding.weight, words[[100, 101, 100, 101, 100]])  # without end


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_tuning_init": "text", "prompt_tuning_init_text": "ab"}, "text needs a tokenizer, and none is given"),
        ({"prompt_tuning_init": "text", "tokenizer": TOKENIZER}, "text needs --prompt_tuning_init_text"),
        ({"prompt_tuning_init": "BOGUS"}, "--prompt_tuning_init is BOGUS; it must be one of random, text, vocab"),
    ],
)
def test_a_prompt_that_cannot_start(settings, message, base):
    with pytest.raises(UsageError, match=message):
        adapted(base, "prompt_tuning", **settings)


def test_an_unknown_method_is_told_the_known_ones(base):
    with pytest.raises(
        UsageError, match="--peft_method is ia3; it must be none or one of prompt_tuning, prefix_tuning"
    ):
        adapted(base, "ia3")


def test_an_adapter_whose_base_is_missing(base, tmp_path):
    hub.save(adapted(base, "lora"), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for name, message in (
        (str(tmp_path / "gone"), "whose base cannot be loaded: .*gone"),
        (None, "that names no base model"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": name}))
        with pytest.raises(HwzooError, match=f"--model_name_or_path {tmp_path} is an adapter {message}"):
            load_seq2seq(str(tmp_path), hub.load, trainable=False)


def test_a_model_of_another_kind_is_refused(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=4, n_embd=4, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=f"--model_name_or_path {tmp_path} is no sequence-to-sequence model"):
        load_seq2seq(str(tmp_path), hub.load, trainable=True)

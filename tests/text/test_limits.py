"""Texts that are too long for a model, or of tokens that it lacks, are told before it reads them."""

import re

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    M2M100Config,
    M2M100ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from hwzoo.errors import UsageError
from hwzoo.text import check_fits

IDS = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
BART = {"d_model": 8, "max_position_embeddings": 16, "decoder_start_token_id": 0, "forced_eos_token_id": None} | IDS
BART |= dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 1)
BART |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 8)
LLAMA = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
T5 = {"d_model": 8, "d_ff": 8, "d_kv": 8, "num_layers": 1, "num_heads": 1, "decoder_start_token_id": 0}


def bart() -> BartForConditionalGeneration:
    return BartForConditionalGeneration(BartConfig(**BART)).eval()


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(**IDS, n_positions=16, n_embd=8, n_layer=1, n_head=1)).eval()


def row(source: int, labels: int | None = None, token: int = 5) -> dict[str, list[int]]:
    return {"input_ids": [token] * source} | ({} if labels is None else {"labels": [token] * labels})


def needs(words: str, model, *given, **settings):
    with pytest.raises(UsageError, match=f"^{re.escape(words)} are needed, the model has 16$"):
        check_fits(model, *given, **settings)


def test_sources_and_targets_have_as_many_positions_as_the_model():
    """BART's tables are longer than what its configuration states: their first rows are never read."""
    model = bart()
    model(input_ids=torch.ones((1, 16), dtype=torch.long), labels=torch.ones((1, 16), dtype=torch.long))
    check_fits(model, [row(3, 2), row(16, 16)], max_new_tokens=16)
    needs("--max_source_length (17 tokens): 17 positions", model, [row(3, 2), row(17, 2)])
    needs("--max_target_length (17 tokens): 17 positions", model, [row(3, 17)])
    needs("a label (17 tokens): 17 positions", model, [row(3, 17)], target="a label")
    needs("--generation_max_new_tokens (17 tokens): 17 positions", model, [row(3)], max_new_tokens=17)


def test_a_causal_model_reads_all_but_the_last_new_token():
    model = gpt2()
    ids = torch.full((1, 10), 5)
    settings = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0, "eos_token_id": 19}
    assert model.generate(ids, min_new_tokens=7, max_new_tokens=7, **settings).shape == (1, 17)
    check_fits(model, [row(10)], max_new_tokens=7)
    check_fits(model, [row(16, 16)])
    told = "--max_source_length (10 tokens), --generation_max_new_tokens (8 tokens): 17 positions"
    needs(told, model, [row(10)], max_new_tokens=8)


@pytest.mark.parametrize("kind", ["T5", "Llama", "M2M100"])
def test_positions_that_are_no_table_have_no_limit(kind):
    if kind == "T5":
        model = T5ForConditionalGeneration(T5Config(**IDS | T5, n_positions=16))
    elif kind == "Llama":
        model = LlamaForCausalLM(LlamaConfig(**IDS | LLAMA, max_position_embeddings=16))
    else:  # whose table grows
        model = M2M100ForConditionalGeneration(M2M100Config(**BART))
    check_fits(model, [row(40, 40)], max_new_tokens=40)


def test_a_prompt_takes_positions_of_the_source_and_a_prefix_those_of_the_target():
    prompt = {"num_virtual_tokens": 10, "num_transformer_submodules": 1, "task_type": "SEQ_2_SEQ_LM"}
    model = get_peft_model(bart(), PromptTuningConfig(**prompt))
    check_fits(model, [row(6, 16)], max_new_tokens=16)
    told = "--max_source_length (7 tokens), --num_virtual_tokens (10 tokens): 17 positions"
    needs(told, model, [row(7, 2)])
    model = get_peft_model(bart(), PrefixTuningConfig(num_virtual_tokens=10, task_type="SEQ_2_SEQ_LM"))
    check_fits(model, [row(16, 6)], max_new_tokens=6)
    told = "--max_target_length (7 tokens), --num_virtual_tokens (10 tokens): 17 positions"
    needs(told, model, [row(3, 7)])
    model = get_peft_model(gpt2(), PromptTuningConfig(num_virtual_tokens=10, task_type="CAUSAL_LM"))
    check_fits(model, [row(6, 6)])
    told = "--max_source_length (7 tokens), --num_virtual_tokens (10 tokens): 17 positions"
    needs(told, model, [row(7, 7)])


@pytest.mark.parametrize("make", [bart, gpt2])
def test_tokens_without_an_embedding_are_told(make):
    model = make()
    check_fits(model, [row(3, 3, token=19)])  # of a tokenizer that has more of them too
    for rows in ([row(3, 3, token=20)], [row(3), {"input_ids": [5], "labels": torch.tensor([20, -100])}]):
        told = "^--tokenizer_name: its tokenizer gives the token 20, the model has embeddings of 20$"
        with pytest.raises(UsageError, match=told):
            check_fits(model, rows, flag="tokenizer_name")

"""Texts as ids and back: lengths, padding, tokenizers, how a model generates, and the baselines."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, processors
from transformers import GenerationConfig, MBartTokenizer, NllbTokenizer, PreTrainedTokenizerFast

from hwzoo import hub
from hwzoo.errors import HwzooError, UsageError
from hwzoo.metrics.rouge.sentences import split_sentences
from hwzoo.metrics.text import text_scores
from hwzoo.text import (
    Example,
    ModelSettings,
    PadBatch,
    SuffixRules,
    TextSplits,
    TokenizedPairs,
    add_adapter,
    build_t5,
    check_adapter_acts,
    decode,
    describe,
    encode,
    generation_config,
    lead,
    load_or_build_t5,
    load_tokenizer,
    mean_length,
    new_tokenizer,
    oracle_sentence,
)

SIZES = {
    "d_model": 16, "d_ff": 16, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "dropout_rate": 0.0,
}  # fmt: skip
BYTES = new_tokenizer(None, None, [])


def pair(source: str, target: str, task: str = "") -> Example:
    return Example(f"{task}: {source}" if task else source, target, (target,), task, source)


def batch_of(*examples: Example, source: int = 128, target: int = 64) -> dict[str, torch.Tensor]:
    pairs = TokenizedPairs(examples, BYTES, source, target)
    return PadBatch(BYTES.pad_token_id)([pairs[index] for index in range(len(pairs))])


def test_labels_are_padded_with_what_the_loss_leaves_out():
    batch = batch_of(pair("ab", "xyz"), pair("abcd", "x"))
    assert batch["labels"].tolist() == [[123, 124, 125, 1], [123, 1, -100, -100]]  # a byte's id is it + 3, the end 1
    assert batch["input_ids"].tolist() == [[100, 101, 1, 0, 0], [100, 101, 102, 103, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert {each.dtype for each in batch.values()} == {torch.int64}


def test_padding_changes_no_loss():
    model = build_t5(BYTES, **SIZES).eval()
    short, long = pair("ab", "x"), pair("abcdefgh", "xyzxyzxyz")
    both = model(**batch_of(short, long))
    alone = model(**batch_of(short))
    assert torch.allclose(both.logits[0, :2], alone.logits[0], atol=1e-5)
    summed = alone.loss * 2 + model(**batch_of(long)).loss * 10  # tokens, each with its end
    assert both.loss.item() == pytest.approx((summed / 12).item(), rel=1e-5)


def test_long_texts_are_cut_and_still_end():
    batch = batch_of(pair("abcdefgh", "xyzxyz"), source=4, target=3)
    assert batch["input_ids"].tolist() == [[100, 101, 102, 1]] and batch["labels"].tolist() == [[123, 124, 1]]


@pytest.mark.parametrize("tokenizer", [BYTES, new_tokenizer(None, 300, ["x y"])], ids=["bytes", "pieces"])
@pytest.mark.parametrize("words", ["x </s> y", "x</s>", "</s>", "<pad>x <unk>", "<pad></s> <pad>"])
def test_the_end_token_that_a_text_spells_is_letters(words, tokenizer):
    pairs = TokenizedPairs([pair("a", "b"), pair(words, words), pair("c", words)], tokenizer, 64, 64)
    for ids in (pairs[1]["input_ids"], pairs[1]["labels"], pairs[2]["labels"]):
        assert decode(ids[None].numpy(), tokenizer) == [words]
        assert ids[-1] == tokenizer.eos_token_id and not set(ids[:-1].tolist()) & {0, 1, 2}
    assert pairs[0]["labels"].tolist() == tokenizer("b").input_ids
    cut = TokenizedPairs([pair("a", words)], tokenizer, 64, 4)[0]["labels"].tolist()
    assert len(cut) == 4 and cut[-1] == tokenizer.eos_token_id


def test_other_special_tokens_are_tokens():
    ids = TokenizedPairs([pair("a <extra_id_0>", "<extra_id_0>b")], BYTES, 64, 64)[0]
    blank = BYTES.convert_tokens_to_ids("<extra_id_0>")
    assert ids["input_ids"].tolist() == [100, 35, blank, 1] and ids["labels"].tolist() == [blank, 101, 1]


@pytest.mark.parametrize("kind", ["bytes", "pieces", "separator"])
def test_special_tokens_of_a_target_stay_in_what_is_predicted(kind):
    tokenizer = BYTES if kind == "bytes" else new_tokenizer(None, 300, ["the cute dog"] * 3)
    if kind == "separator":
        tokenizer.add_special_tokens({"sep_token": "<extra_id_0>", "additional_special_tokens": ["<extra_id_1>"]})
    target = "<extra_id_0> cute dog <extra_id_1> the"
    pairs = TokenizedPairs([pair(target, target)], tokenizer, 64, 64)
    predicted = decode([[tokenizer.pad_token_id, *pairs.labels[0].tolist(), -100]], tokenizer)
    assert predicted == [target] == decode([pairs.input_ids[0].tolist()], tokenizer)
    assert text_scores(predicted, [[target]])["exact_match"] == 1


@pytest.mark.parametrize(("kind", "language"), [(MBartTokenizer, "de_DE"), (NllbTokenizer, "deu_Latn")])
def test_languages_are_no_part_of_what_is_predicted(kind, language):
    tokenizer = kind()
    ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(language), tokenizer.unk_token_id]
    assert len(set(ids)) == 3 and decode([ids], tokenizer) == [""]


def test_the_digest_tells_other_pairs_apart():
    digests = {
        TokenizedPairs(examples, BYTES, 128, 64).digest()
        for examples in ([pair("a", "b")], [pair("ab", "")], [pair("a", "c")], [pair("a", "b"), pair("a", "b")], [])
    }
    assert len(digests) == 5
    assert TokenizedPairs([pair("a", "b")], BYTES, 9, 9).digest() in digests


def test_a_tokenizer_is_learned_saved_and_loaded(tmp_path):
    texts = ["the cat sat on the mat", "the dog sat on the log"] * 10
    tokenizer = new_tokenizer(None, 280, texts)
    assert 259 < len(tokenizer) <= 280
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    ids = tokenizer("the cat, müde")["input_ids"]
    assert ids[-1] == 1 and len(ids) < len("the cat, müde".encode())  # pieces, and bytes for what was never seen
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat, müde"
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again("the cat, müde")["input_ids"] == ids
    assert new_tokenizer(str(tmp_path), None, [])("the mat")["input_ids"] == tokenizer("the mat")["input_ids"]


def test_a_tokenizer_is_not_saved_with_the_limits_of_the_pairs(tmp_path):
    tokenizer, words = new_tokenizer(None, 300, ["x y"]), "word " * 40
    pairs = TokenizedPairs([pair(words, words)], tokenizer, 128, 16)
    assert len(pairs.labels[0]) == 16
    tokenizer.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    assert saved["truncation"] is None and saved["padding"] is None
    assert len(Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(words).ids) == 40 * len("word ") + 1


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(HwzooError, match=f"--tokenizer_name {tmp_path}: its tokenizer cannot be loaded"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_that_ends_no_target_is_refused(tmp_path):
    """As GPT-2's: what it has written would never end."""
    learned = Tokenizer.from_str(new_tokenizer(None, 300, ["x y"]).backend_tokenizer.to_str())
    for name, ends in (("ends", True), ("goes_on", False)):
        if not ends:
            learned.post_processor = processors.ByteLevel()
        named = {"pad_token": "<pad>", "eos_token": "</s>"}
        PreTrainedTokenizerFast(tokenizer_object=learned, **named).save_pretrained(tmp_path / name)
    assert new_tokenizer(str(tmp_path / "ends"), None, [])("x").input_ids[-1] == 1
    told = "its tokenizer must put its end token, </s>, behind a target; it does not$"
    with pytest.raises(UsageError, match=f"^--tokenizer_name {tmp_path}/goes_on: {told}"):
        new_tokenizer(str(tmp_path / "goes_on"), None, [])
    build_t5(BYTES, **SIZES).save_pretrained(tmp_path / "goes_on")
    loaded = ModelSettings(), str(tmp_path / "goes_on"), TextSplits("x", [], [], []), hub.load
    with pytest.raises(UsageError, match=f"^--model_name_or_path {tmp_path}/goes_on: {told}"):
        load_or_build_t5(*loaded, train=True)
    _, tokenizer = load_or_build_t5(*loaded, train=False)
    with pytest.raises(UsageError, match=f"^--model_name_or_path {tmp_path}/goes_on: {told}"):
        encode(tokenizer, ["x"], ["y"], is_encoder_decoder=True)
    assert encode(tokenizer, ["x"], ["y"], is_encoder_decoder=False)[0]["labels"][-1] == 1


def test_a_tokenizer_of_other_letters_ends_its_targets_too(tmp_path):
    tokenizer = Tokenizer(models.BPE(vocab={"<pad>": 0, "</s>": 1, "1": 2, "2": 3}, merges=[]))
    for post, refused in (
        (processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)]), False),
        (None, True),
    ):
        tokenizer.post_processor = post or processors.ByteLevel()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(
            tmp_path
        )
        if refused:
            with pytest.raises(UsageError, match="must put its end token"):
                new_tokenizer(str(tmp_path), None, [])
        else:
            assert new_tokenizer(str(tmp_path), None, [])("12").input_ids == [2, 3, 1]


def test_a_model_without_a_tokenizer_has_none(tmp_path):
    """Although transformers makes one up."""
    for kind in ("t5", "gpt2", "bart", "gemma"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(HwzooError, match=f"^--tokenizer_name {tmp_path}/{kind} has no tokenizer$"):
            load_tokenizer(str(tmp_path / kind))
    build_t5(BYTES, **SIZES).save_pretrained(tmp_path / "model")
    with pytest.raises(HwzooError, match=f"^--model_name_or_path {tmp_path}/model has no tokenizer$"):
        load_tokenizer(str(tmp_path / "model"), "model_name_or_path")


def test_a_tokenizer_of_one_file_and_one_of_none_are_there(tmp_path):
    new_tokenizer(None, 300, ["x y"]).save_pretrained(tmp_path / "pieces")
    BYTES.save_pretrained(tmp_path / "bytes")
    for kind in ("t5", "gpt2"):  # as on the Hub, where a tokenizer.json may be all that there is
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        named = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
        (tmp_path / kind / "tokenizer_config.json").write_text(json.dumps(named))
        (tmp_path / kind / "tokenizer.json").write_bytes((tmp_path / "pieces" / "tokenizer.json").read_bytes())
    pieces, *others = (load_tokenizer(str(tmp_path / kind))("x y").input_ids for kind in ("pieces", "t5", "gpt2"))
    assert others == [pieces, pieces] and len(pieces) > 1 and 2 not in pieces
    assert load_tokenizer(str(tmp_path / "bytes"))("ab").input_ids == [100, 101, 1]


def test_a_new_model_has_the_sizes_and_ids_asked_for():
    model = build_t5(BYTES, **SIZES)
    assert model.config.vocab_size == len(BYTES) == 384 and model.config.d_kv == 8
    assert model.generation_config.decoder_start_token_id == 0 and model.generation_config.eos_token_id == 1
    with pytest.raises(UsageError, match="--config_d_model is 16; it must be a multiple of 3 heads"):
        build_t5(BYTES, **SIZES | {"num_heads": 3})
    with pytest.raises(
        UsageError, match="--config_num_decoder_layers is 2; it must be at most --config_num_layers, 1"
    ):
        build_t5(BYTES, **SIZES | {"num_decoder_layers": 2})


@pytest.mark.parametrize(
    ("num_beams", "length_penalty", "words"),
    [(1, 1.0, "at most 5 new tokens, greedy"), (3, 0.6, "at most 5 new tokens, 3 beams, length penalty 0.6")],
)
def test_generation_is_stated_and_saved(num_beams, length_penalty, words, tmp_path, recwarn):
    torch.manual_seed(0)
    model = build_t5(BYTES, **SIZES).eval()
    config = generation_config(model, 5, num_beams, length_penalty)
    assert describe(config) == words
    config.save_pretrained(tmp_path)
    inputs = BYTES("abc", return_tensors="pt")
    ids = model.generate(**inputs)
    assert ids.shape[1] <= 1 + 5
    loaded = GenerationConfig.from_pretrained(tmp_path)
    model.generation_config = GenerationConfig()
    assert torch.equal(model.generate(**inputs, generation_config=loaded), ids)
    assert not recwarn.list


# What a generation configuration may ask for beside one text by greedy decoding.
ASKED = [
    {"temperature": 9.0, "top_k": 0, "top_p": 0.99},
    {"min_p": 0.1},
    {"top_h": 0.4},
    {"typical_p": 0.2},
    {"epsilon_cutoff": 3e-4},
    {"eta_cutoff": 3e-4},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"dola_layers": "high"},
    {"num_beam_groups": 2, "diversity_penalty": 0.5},
    {"stop_strings": ["a"]},
    {"token_healing": True},
    {"num_return_sequences": 2},
    {"return_dict_in_generate": True},
    {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True},
]
each_asked = pytest.mark.parametrize("asked", ASKED, ids=lambda asked: next(iter(asked)))


@each_asked
def test_a_model_that_asks_for_draws_is_greedy_all_the_same(asked, tmp_path, recwarn):
    torch.manual_seed(0)
    model, inputs = build_t5(BYTES, **SIZES).eval(), BYTES("abc", return_tensors="pt")
    greedy = model.generate(**inputs, max_new_tokens=5)
    model.generation_config.update(do_sample=True, **asked)
    config = generation_config(model, 5)
    config.save_pretrained(tmp_path)
    assert "do_sample" not in describe(config) and describe(config) == "at most 5 new tokens, greedy"
    for seed in range(3):
        torch.manual_seed(seed)
        for way in ({}, {"generation_config": config}):
            assert torch.equal(model.generate(**inputs, **way), greedy)
    assert not recwarn.list


@each_asked
def test_an_adapter_is_tried_whatever_its_base_asks_for(asked):
    torch.manual_seed(0)
    model = add_adapter(build_t5(BYTES, **SIZES), "lora", lora_rank=2)
    own = model.get_base_model().generation_config
    own.update(do_sample=True, **asked)
    before = own.to_dict()
    assert check_adapter_acts(model) is None
    assert model.get_base_model().generation_config is own and own.to_dict() == before


def test_generated_ids_are_decoded_and_counted():
    ids = np.array([[0, 100, 101, 1, 0, -100], [0, 102, 103, 104, 105, 1]])
    assert decode(ids, BYTES) == ["ab", "cdef"]
    assert mean_length(ids, BYTES) == 4.0  # with the end, without start and padding
    assert mean_length(np.array([[1, 100, 1], [1, 1, 0]]), BYTES) == 1.5  # BART's starts with its end
    filled = np.array([[0, 100, 1, 1, 1], [0, 100, 101, 102, 1]])  # as beams of different lengths are
    assert mean_length(filled, BYTES) == 3.0


# Baselines


def test_suffix_rules_take_the_most_frequent_change_of_the_longest_ending():
    seen = [("cat", "cats"), ("dog", "dogs"), ("box", "boxes"), ("fox", "foxes"), ("ox", "oxen"), ("city", "cities")]
    seen += [("man", "men"), ("woman", "women"), ("toy", "toys"), ("human", "humans")]
    rules = SuffixRules([pair(*each, "plural") for each in seen] + [pair("cat", "catted", "past")])
    expected = {
        "hat": "hats", "tax": "taxes", "pity": "pities", "boy": "boys", "man": "men", "superhuman": "superhumans",
        "bird": "birds", "x": "xes",
    }  # fmt: skip
    assert {word: rules(pair(word, "", "plural")) for word in expected} == expected
    assert rules(pair("hat", "", "past")) == "hatted" and rules(pair("hat", "", "gerund")) == "hat"


def test_leads_and_the_oracle_sentence():
    examples = [pair("One fish. Two cats sat. Red.", "two cats"), pair("Alone", "x")]
    assert lead(examples, 1, split_sentences) == ["One fish.", "Alone"]
    assert lead(examples, 2, split_sentences) == ["One fish. Two cats sat.", "Alone"]

    def shared(predictions, targets):
        return [len(set(a.lower().split()) & set(b.split())) for a, b in zip(predictions, targets, strict=True)]

    assert oracle_sentence(examples, split_sentences, shared) == ["Two cats sat.", "Alone"]

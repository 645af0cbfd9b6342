"""Tokenizers that ship a sentencepiece model alone, as the first T5s did."""

import json

import pytest
import sentencepiece

from hwzoo.errors import HwzooError
from hwzoo.text import Example, TokenizedPairs, TokenSet
from hwzoo.text.models import load_tokenizer

TEXTS = [f"the cat number {number} sat on the mat and looked at {7 * number} dogs" for number in range(300)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a T5's tokenizer without tokenizer.json."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    with open(folder / "spiece.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS), model_writer=file, vocab_size=60, hard_vocab_limit=False, minloglevel=2,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, required_chars="</p>",
        )  # fmt: skip
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "t5"}')
    return folder


def test_a_sentencepiece_model_alone_is_a_tokenizer(trained):
    tokenizer = load_tokenizer(str(trained))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(trained / "spiece.model"))
    for text in ("the cat sat on 7 dogs", "dogs looked at the mat", TEXTS[11]):
        ids = tokenizer(text).input_ids
        assert ids == [*pieces.encode(text), 1]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)


def test_an_end_that_a_text_spells_is_letters_although_it_is_a_piece(trained):
    tokenizer = load_tokenizer(str(trained))
    for words, letters in (
        ("the cat </s> sat", "the cat < /s> sat"),
        ("cat</s>", "cat< /s>"),
        ("<pad> a <unk>", "< pad> a < unk>"),
    ):
        (ids,) = TokenizedPairs([Example("a", words, (words,))], tokenizer, 64, 64).labels
        assert ids[-1] == 1 and not set(ids[:-1].tolist()) & {0, 1, 2}
        assert tokenizer.decode(ids[:-1]) == letters


def test_an_end_that_a_text_of_a_set_spells_is_letters_too(trained):
    texts = TokenSet.of(["the cat </s> sat", "<pad> a", "cat"], load_tokenizer(str(trained)), 64)
    for ids, length in zip(texts.input_ids.tolist(), texts.lengths.tolist(), strict=True):
        assert ids[length - 1] == 1 and not set(ids[: length - 1]) & {0, 1, 2}


def test_it_comes_back_as_it_was_saved(trained, tmp_path):
    tokenizer = load_tokenizer(str(trained))
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path))(TEXTS).input_ids == tokenizer(TEXTS).input_ids


def test_a_damaged_one_is_told(trained, tmp_path):
    for path in trained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 100 if path.name == "spiece.model" else None])
    with pytest.raises(HwzooError, match=str(tmp_path)):
        load_tokenizer(str(tmp_path))

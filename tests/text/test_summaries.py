"""Summaries that models write and files hold, and the page that shows them."""

import json
from html.parser import HTMLParser

import pytest
import torch
from transformers import GenerationConfig

from hwzoo import text
from hwzoo.errors import HwzooError, UsageError
from hwzoo.metrics import summaries as scored
from hwzoo.text import Example, summaries


def test_names_and_their_values():
    assert summaries.named("models", ["a=x", "b=y=z"]) == {"a": "x", "b": "y=z"}
    for given, taken, words in (
        (["x"], [], "--models 'x' is not NAME=VALUE"),
        (["=x"], [], "is not NAME=VALUE"),
        (["a="], [], "is not NAME=VALUE"),
        (["a=x", "a=y"], [], "--models 'a=y': there is another a"),
        (["lead_1=x"], ["lead_1"], "there is another lead_1"),
    ):
        with pytest.raises(UsageError, match=words):
            summaries.named("models", given, taken)


def test_a_model_writes_the_same_whatever_the_batch():
    torch.manual_seed(0)
    model, tokenizer = text.new_base("seq2seq", 16, 1)
    summaries.settle_generation(model, "model", 6, None)
    special = set(range(384)) - set(tokenizer.convert_tokens_to_ids(list("abcdefgh")))
    model.generation_config.suppress_tokens = sorted(special)
    sources = ["a", "long text " * 9, "bcd", "", "ef g"]
    alone = [
        summaries.summarize(model, tokenizer, [each], batch_size=1, max_source_length=50, name="x")[0]
        for each in sources
    ]
    together = summaries.summarize(model, tokenizer, sources, batch_size=3, max_source_length=50, name="x")
    assert together == alone and len(set(alone)) > 1


def test_how_a_model_generates_is_what_it_says_itself_but_for_what_is_asked():
    torch.manual_seed(0)
    model, _ = text.new_base("seq2seq", 16, 1)
    told = summaries.settle_generation(model, "model", None, None)
    assert (model.generation_config.max_new_tokens, model.generation_config.num_beams) == (64, 1) and "64" in told
    text.generation_config(model, 17, 4, 0.0)
    summaries.settle_generation(model, "model", None, None)
    own = model.generation_config
    assert (own.max_new_tokens, own.num_beams, own.length_penalty) == (17, 4, 0.0)
    summaries.settle_generation(model, "model", 5, 2)
    assert (model.generation_config.max_new_tokens, model.generation_config.num_beams) == (5, 2)
    model.generation_config.max_new_tokens, model.generation_config.max_length = None, 142  # with the start token
    summaries.settle_generation(model, "model", None, None)
    assert (model.generation_config.max_new_tokens, model.generation_config.max_length) == (141, None)


def test_an_adapter_generates_as_is_saved_with_it(tmp_path):
    torch.manual_seed(0)
    base, tokenizer = text.new_base("seq2seq", 16, 1)
    adapter = text.add_adapter(base, "lora", tokenizer=tokenizer, lora_rank=2)
    assert "64" in summaries.settle_generation(adapter, str(tmp_path), None, None)
    GenerationConfig(max_new_tokens=9, num_beams=3, length_penalty=0.6).save_pretrained(tmp_path)
    told = summaries.settle_generation(adapter, str(tmp_path), None, None)
    own = base.generation_config
    assert (own.max_new_tokens, own.num_beams, own.length_penalty) == (9, 3, 0.6) and "9" in told


def written(path, *rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_answers_in_order_and_by_number(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = {"prediction": " one "}, {"prediction": ""}
    assert summaries.read_predictions(written(path, *rows), "predictions", 3) == {0: "one", 1: ""}
    rows = {"index": 2, "prediction": "c"}, {"index": 0, "prediction": "a"}
    assert summaries.read_predictions(written(path, *rows), "predictions", 3) == {2: "c", 0: "a"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"answer": "x"}], "row 1: prediction is None; it must be a text"),
        ([{"index": 3, "prediction": "x"}], "row 1: index 3 must be a number from 0 to 2"),
        ([{"index": "b", "prediction": "x"}], "index b must be a number from 0 to 2"),
        ([{"index": 0.9, "prediction": "x"}], "row 1: index 0.9 must be a number from 0 to 2"),
        ([{"index": True, "prediction": "x"}], "row 1: index True must be a number from 0 to 2"),
        ([{"index": 1, "prediction": "x"}] * 2, "row 2: index 1 is there twice"),
        ([{"prediction": "x"}] * 4, "row 4: index 3 must be"),
    ],
)
def test_a_wrong_line_is_named(rows, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        summaries.read_predictions(written(tmp_path / "a.jsonl", *rows), "predictions", 3)


def test_only_documents_that_all_have_are_compared():
    assert summaries.in_common({"a": {0: "", 2: "", 3: ""}, "b": {3: "", 0: ""}}) == [0, 3]
    with pytest.raises(HwzooError, match="no document has a summary of each of a, b"):
        summaries.in_common({"a": {0: ""}, "b": {1: ""}})


def test_what_is_copied_is_marked_and_nothing_is_lost():
    document, summary = "The cat sat on the mat, and ran.", "Yes: the Cat sat on a mat, AND ran <b>."
    parts = summaries.marked(document, summary, scored.words_of, scored.extractive_fragments)
    assert parts == [
        (False, "Yes: "),
        (True, "the Cat sat on"),
        (False, " a "),
        (True, "mat, AND ran"),
        (False, " <b>."),
    ]
    assert summaries.marked(document, "", scored.words_of, scored.extractive_fragments) == []


class Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data.strip())


def test_the_page_shows_texts_as_they_are():
    document = "A <script>alert(1)</script> & more"
    example = Example(document, "right <i>", ("right <i>", "also"), text=document)
    systems = {"bold <b>": {4: [(True, "A <script>"), (False, " & x")]}}
    page = summaries.side_by_side_page("T & t", "protocol", {"bold <b>": {"r": 12.345}}, ["r"], {4: example}, systems)
    read = Texts()
    read.feed(page)
    assert not {"script", "b", "i"} & set(read.tags) and read.tags.count("mark") == 1
    for told in (
        "T & t",
        "protocol",
        "12.35",
        "Document 4",
        document,
        "right <i>",
        "also",
        "A <script>",
        "& x",
        "bold <b>",
    ):
        assert told in read.texts, told


def test_the_table():
    scores = {"a": {"r": 1.0}, "b": {"r": 2.5}}
    told = summaries.table(scores, ["r"], {"b": {"r": {"mean": 1.5, "low": 1, "high": 2}}}, "r", "a")
    assert told.split("\n")[-2:] == ["| a | 1.00 |  |", "| b | 2.50 | 1.50 [1.00, 2.00] |"]


def test_a_model_reads_what_the_limit_leaves():
    model, tokenizer = text.new_base("seq2seq", 16, 1)
    asked = []
    model.generate = lambda input_ids, **_: (asked.append(input_ids), input_ids[:, :1])[1]
    summaries.summarize(model, tokenizer, ["abcdefgh"], batch_size=1, max_source_length=5, name="x")
    assert asked[0].tolist() == [tokenizer("abcd")["input_ids"]]


def test_a_model_reads_the_letters_of_an_end_token():
    model, tokenizer = text.new_base("seq2seq", 16, 1)
    asked = []
    model.generate = lambda input_ids, attention_mask: (asked.append((input_ids, attention_mask)), input_ids[:, :1])[1]
    summaries.summarize(model, tokenizer, ["a</s>", "b"], batch_size=2, max_source_length=9, name="x")
    (ids, mask) = asked[0]
    assert ids.tolist() == [[101, 1, 0, 0, 0, 0], [100, *(byte + 3 for byte in b"</s>"), 1]]
    assert mask.tolist() == [[1, 1, 0, 0, 0, 0], [1] * 6]

"""Prompts in words and trained ones, on tiny models of both kinds: what is read, what is trained, what is answered."""

import itertools
import random
from types import SimpleNamespace

import pytest
import torch
from transformers import ByT5Tokenizer, LlamaTokenizer, PegasusTokenizer

from hwzoo import hub, text
from hwzoo.errors import HwzooError, UsageError
from hwzoo.text import Example

CONTEXTS = ["plural: fox", "plural: ox", "plural: toy", "plural: catamaran"]
METHODS = ("none", "prompt_tuning", "prefix_tuning", "p_tuning", "lora")
SETTINGS = {"num_virtual_tokens": 3, "prompt_tuning_init": "random", "lora_rank": 2}


def tiny(kind: str):
    torch.manual_seed(0)
    model, tokenizer = text.new_base(kind, d_model=16, num_layers=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval(), tokenizer


def adapted(kind: str, method: str):
    """With an adapter whose weights, LoRA's zeros too, make a difference."""
    model, tokenizer = tiny(kind)
    if method != "none":
        model = text.add_adapter(model, method, tokenizer=tokenizer, **SETTINGS)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter))
    return model.eval(), tokenizer


def rows_of(tokenizer, kind: str, answers=("foxes", "oxen", "toys", "catamarans")):
    return text.encode(tokenizer, CONTEXTS, answers, kind == "seq2seq")


# Words


def test_a_prompt_in_words():
    fox, man = Example("", "foxes", ("foxes",), "plural", "fox"), Example("", "men", ("men",), "plural", "man")
    assert text.hard_prompt(fox, "{task}: {text}") == "plural: fox"
    prompt = text.hard_prompt(fox, "The {task} of {text} is", [(man, "men"), (man, "mans")], "Give the {task}.")
    assert prompt == "Give the plural.\nThe plural of man is men\nThe plural of man is mans\nThe plural of fox is"
    # An answer follows white space as it does in `encode`: without another space.
    assert text.hard_prompt(fox, "{text} -> ", [(man, "men")]) == "man -> men\nfox -> "


def test_examples_before_a_question_are_of_its_task_and_right():
    nouns = [Example("", plural, (plural,), "plural", word) for word, plural in (("fox", "foxes"), ("man", "men"))]
    verb = Example("", "going", ("going",), "participle", "go")
    template = "{task}: {text}"
    prompts = {text.few_shot_prompt(nouns[0], [*nouns, verb], template, 2, random.Random(seed)) for seed in range(50)}
    lines = ("plural: fox foxes", "plural: man men")
    assert prompts == {f"{first}\n{second}\nplural: fox" for first in lines for second in lines}
    assert text.few_shot_prompt(verb, nouns, template, 0, random.Random(0)) == "participle: go"
    with pytest.raises(ValueError, match="'participle'"):
        text.few_shot_prompt(verb, nouns, template, 1, random.Random(0))


def test_a_template_with_what_does_not_belong_there_is_refused():
    for right in ("{task}: {text}", "{{{text}}}"):
        text.check_template("template", right, "hold {text}", needed="{text}", text="", task="")
    width = "{task:{text}<1}"
    for wrong in ("{text} {label}", "{text", "{0} {text}", "{text.upper.x}", "no text", "{{text}} is", width):
        with pytest.raises(UsageError, match="^--template is .* it must hold {text} and nothing else in braces$"):
            text.check_template("template", wrong, "hold {text}", needed="{text}", text="", task="")


@pytest.mark.parametrize("kind", text.ARCHITECTURES)
def test_rows_of_training_end_with_the_end_token(kind):
    model, tokenizer = tiny(kind)
    row = text.encode(tokenizer, ["ab"], ["cd"], kind == "seq2seq")[0]
    a, b, c, d, space, end = (*tokenizer("abcd ")["input_ids"],)
    if kind == "seq2seq":
        assert row["input_ids"].tolist() == [a, b, end] and row["labels"].tolist() == [c, d, end]
    else:
        assert row["input_ids"].tolist() == [a, b, space, c, d, end]
        assert row["labels"].tolist() == [-100, -100, space, c, d, end]


@pytest.mark.parametrize("kind", text.ARCHITECTURES)
def test_the_end_token_that_an_answer_spells_is_letters(kind):
    tokenizer = ByT5Tokenizer()
    row = text.encode(tokenizer, ["a</s>"], ["</s>b"], kind == "seq2seq")[0]
    a, b, end, letters = 100, 101, 1, [byte + 3 for byte in b"</s>"]
    if kind == "seq2seq":
        assert row["input_ids"].tolist() == [a, *letters, end] and row["labels"].tolist() == [*letters, b, end]
    else:  # whose question may be the turns of a chat
        assert row["input_ids"].tolist() == [a, 35, *letters, b, end]
        assert row["labels"].tolist() == [-100, 35, *letters, b, end]
    row = text.encode(tokenizer, ["a</s>a"], ["b"], kind == "seq2seq")[0]["input_ids"].tolist()
    assert row == ([a, *letters, a, end] if kind == "seq2seq" else [a, end, a, 35, b, end])


@pytest.mark.parametrize("context", ["a", "a ", "a  ", "a\n", "a\n ", "a\nplural: a"])
def test_an_answer_has_the_tokens_of_the_whole_text(context):
    """Also where a tokenizer puts a blank before every text."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "p", "l", "u", "r", "a", ":", *"</s>", "<0x0A>", "▁p", "pl", "▁a"]
    merges = [("▁", "p"), ("p", "l"), ("▁", "a")]
    tokenizer = LlamaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges)
    whole = context if context[-1:].isspace() else context + " "
    for answer in ("plural", "</s>a"):
        row = text.encode(tokenizer, [context], [answer], False, end=False)[0]
        ids, answered = row["input_ids"].tolist(), row["labels"] >= 0
        assert tokenizer.decode(ids) == whole + answer
        assert tokenizer.decode(row["labels"][answered]).strip() == answer
        if answer == "plural":
            assert ids == tokenizer(whole + answer)["input_ids"]
        source = text.prompts.source_ids(tokenizer, context, False)
        assert ids[: len(source)] == source and len(source) == (~answered).sum()


def test_an_answer_keeps_its_blank_where_a_line_break_is_read_as_one():
    pieces = ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk>", "▁", "c", "a", "t"]
    tokenizer = PegasusTokenizer(vocab=[(piece, -float(index > 4)) for index, piece in enumerate(pieces)])
    (row,) = text.encode(tokenizer, ["cat"], ["cat"], False, end=False)
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["▁", "c", "a", "t"] * 2


def test_tokens_that_are_bytes_have_no_blank_before_them():
    class Bytes(ByT5Tokenizer):
        def convert_ids_to_tokens(self, ids, *args, **kwargs):
            return bytes(ids) if isinstance(ids, int) else [bytes([index]) for index in ids]

    rows = [text.encode(kind(), ["ab "], ["c"], False)[0] for kind in (Bytes, ByT5Tokenizer)]
    assert torch.equal(rows[0]["input_ids"], rows[1]["input_ids"])


# What is generated


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("kind", text.ARCHITECTURES)
def test_cached_and_uncached_generation_are_identical(kind, num_beams):
    model, tokenizer = tiny(kind)
    sources = torch.tensor([tokenizer("plural: fox")["input_ids"], tokenizer("gerund: dye")["input_ids"]])
    settings = {"max_new_tokens": 40, "min_new_tokens": 40, "do_sample": False, "num_beams": num_beams}
    ids = [
        model.generate(input_ids=sources, attention_mask=torch.ones_like(sources), use_cache=cache, **settings)
        for cache in (True, False)
    ]
    assert ids[0].shape[1] >= 40 and len(set(ids[0][0].tolist())) > 2
    assert torch.equal(*ids)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", text.ARCHITECTURES)
def test_answers_are_the_most_probable_tokens_one_after_the_other(kind, method):
    """Also behind a prompt or prefix of an adapter, and whatever else is in the batch."""
    model, tokenizer = adapted(kind, method)
    answers = text.generate_answers(model, tokenizer, CONTEXTS, max_new_tokens=6, batch_size=2)
    line_break = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    for context, answer in zip(CONTEXTS, answers, strict=True):
        ids = []
        while len(ids) < 6 and not {tokenizer.eos_token_id, line_break} & set(ids):
            logits = logits_after(model, tokenizer, context, ids)
            ids.append(logits.argmax().item())
        (decoded,) = text.decode([ids], tokenizer)
        assert answer == decoded.strip(" ").split("\n")[0].strip()
    (token, probability), *_ = text.first_token_probabilities(model, tokenizer, CONTEXTS[0], 3)
    expected = logits_after(model, tokenizer, CONTEXTS[0], []).softmax(-1)
    assert probability == pytest.approx(expected.max().item(), rel=1e-4)
    assert token == tokenizer.convert_ids_to_tokens(expected.argmax().item())


@pytest.mark.parametrize("name", ["bytes", "pegasus"])
def test_a_line_break_ends_an_answer_where_it_is_a_token(name, monkeypatch):
    """Pegasus's tokenizer takes it for a blank."""
    model, tokenizer = tiny("seq2seq")
    if name == "pegasus":
        special, pieces = ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk>"], ["▁", "▁fox"]
        tokenizer = PegasusTokenizer(vocab=[*((each, 0.0) for each in special), *((each, -1.0) for each in pieces)])
        assert tokenizer.convert_ids_to_tokens(tokenizer("\n", add_special_tokens=False)["input_ids"]) == ["▁"]
    given = {}
    monkeypatch.setattr(model, "generate", lambda **settings: given.update(settings) or settings["input_ids"])
    text.generate_answers(model, tokenizer, ["fox"], max_new_tokens=2, batch_size=1)
    assert given["eos_token_id"] == ([1, 3 + ord("\n")] if name == "bytes" else [1])


def test_special_tokens_of_an_answer_stay_in_it(monkeypatch):
    model, tokenizer = tiny("seq2seq")
    monkeypatch.setattr(model, "generate", lambda **_: torch.tensor([[0, 259, 35, 101, 1, 1]]))
    assert text.generate_answers(model, tokenizer, ["fox"], max_new_tokens=5, batch_size=1) == ["<extra_id_0> b"]
    settings = {"batch_size": 1, "max_source_length": 9, "name": "x"}
    assert text.summaries.summarize(model, tokenizer, ["fox"], **settings) == ["<extra_id_0> b"]


def logits_after(model, tokenizer, context: str, ids: list[int]):
    """One forward pass, by labels as in training: those of the next token."""
    source = tokenizer(context)["input_ids"]
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            labels = torch.tensor([[*ids, tokenizer.eos_token_id]])
            return model(input_ids=torch.tensor([source]), labels=labels).logits[0, -1]
        return model(input_ids=torch.tensor([source[:-1] + ids])).logits[0, -1]


# What is trained


@pytest.mark.long
@pytest.mark.parametrize("method", [*METHODS[1:], "full"])
@pytest.mark.parametrize("kind", text.ARCHITECTURES)
def test_training_changes_what_it_should_and_lowers_the_loss(kind, method):
    model, tokenizer = tiny(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network, losses = model, []
    if method != "full":
        network = text.add_adapter(model, method, tokenizer=tokenizer, **SETTINGS)
        numbers = {"prompt_tuning": 3 * 16, "prefix_tuning": 3 * 16 * 2 * (1 if kind == "seq2seq" else 2)}
        if method in numbers:  # of a prefix: keys and values of each layer of the decoder
            assert text.count_trainable(network) == numbers[method]
    batch = text.PadBatch(tokenizer.pad_token_id)(rows_of(tokenizer, kind))

    def measure(step):
        with torch.no_grad():
            losses.append(network(**batch).loss.item())

    common = {"batch_size": 2, "seed": 0, "name": method, "before_step": measure}
    text.tune(network, rows_of(tokenizer, kind), tokenizer.pad_token_id, steps=20, learning_rate=3e-2, **common)
    assert len(losses) == 21 and losses[-1] < losses[0] - 0.05
    kept = {name.replace(".base_layer", ""): value for name, value in model.state_dict().items() if "lora" not in name}
    unchanged = [torch.equal(kept[name], value) for name, value in before.items()]
    assert not any(unchanged) if method == "full" else all(unchanged)


@pytest.mark.parametrize("kind", text.ARCHITECTURES)
def test_a_soft_prompt_starts_with_embeddings_of_the_vocabulary(kind):
    model, tokenizer = tiny(kind)
    network = text.add_adapter(
        model, "prompt_tuning", tokenizer=tokenizer, **SETTINGS | {"prompt_tuning_init": "vocab"}
    )
    rows = network.get_prompt(1)[0]
    table = model.get_input_embeddings().weight
    assert rows.shape == (3, 16) and all((table == row).all(1).any() for row in rows)


def test_a_loss_that_is_not_finite_ends_training():
    model, tokenizer = tiny("causal")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("inf"))
    with pytest.raises(HwzooError, match="base: the loss is nan at step 1; a smaller learning rate may help"):
        text.tune(
            model, rows_of(tokenizer, "causal"), 0, steps=2, learning_rate=1e-3, batch_size=2, seed=0, name="base"
        )


# What is loaded


@pytest.mark.parametrize("kind", text.ARCHITECTURES)
def test_a_base_of_either_kind_comes_back(kind, tmp_path):
    model, tokenizer = tiny(kind)
    hub.save(model, tmp_path, also=(tokenizer,))
    loaded, own = text.load_base(str(tmp_path), hub.load)
    assert own.pad_token_id is not None and loaded.config.is_encoder_decoder == (kind == "seq2seq")
    answers = [text.generate_answers(each, own, CONTEXTS, max_new_tokens=5, batch_size=4) for each in (model, loaded)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", text.ARCHITECTURES)
def test_a_base_without_a_tokenizer_is_told(kind, tmp_path):
    tiny(kind)[0].save_pretrained(tmp_path)
    with pytest.raises(HwzooError, match=f"^--model_name_or_path {tmp_path} has no tokenizer$"):
        text.load_base(str(tmp_path), hub.load)


def test_an_adapter_is_no_base(tmp_path):
    model, tokenizer = tiny("seq2seq")
    hub.save(model, tmp_path / "base", also=(tokenizer,))
    model, _ = text.load_base(str(tmp_path / "base"), hub.load)
    text.add_adapter(model, "lora", tokenizer=tokenizer, **SETTINGS).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UsageError, match="adapter is an adapter; a whole model is needed"):
        text.load_base(str(tmp_path / "adapter"), hub.load)


class Square(torch.nn.Module):
    """Its loss is a multiple of the square of its only weight; `seen` are the first ids of each batch."""

    def __init__(self, scale: float):
        super().__init__()
        self.weight, self.scale, self.seen = torch.nn.Parameter(torch.ones(1)), scale, []

    def forward(self, input_ids, labels, **_):
        self.seen.append(input_ids[:, 0].tolist())
        return SimpleNamespace(loss=self.scale * self.weight.square().sum())


def tuned(seed: int = 0, steps: int = 4, scale: float = 1.0) -> tuple[list, list]:
    """The batches, and the weight before each step."""
    model, weights = Square(scale), []
    rows = [{"input_ids": torch.tensor([first, 1]), "labels": torch.tensor([first, 1])} for first in range(2, 12)]
    text.tune(
        model, rows, 0, steps=steps, learning_rate=0.1, batch_size=5, seed=seed, name="x",
        before_step=lambda step: weights.append(model.weight.item()),
    )  # fmt: skip
    return model.seen, weights


def test_the_seed_decides_the_order_in_which_rows_are_tuned_on():
    (first, _), (second, _), (again, _) = tuned(0), tuned(1), tuned(0)
    assert first == again != second
    assert sorted(first[0] + first[1]) == list(range(2, 12)) and first[:2] != first[2:]


def test_the_rate_of_tuning_rises_and_falls_and_gradients_are_clipped(monkeypatch):
    _, weights = tuned(steps=20)
    sizes = [before - after for before, after in itertools.pairwise(weights)]
    assert sizes[0] == pytest.approx(0.05, rel=0.02) and sizes[-1] < 0.01  # over a tenth of the steps, to 0
    norms, step = [], torch.optim.AdamW.step

    def watched(self, *args, **kwargs):
        norms.append(self.param_groups[0]["params"][0].grad.norm().item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    tuned(scale=100.0)
    assert norms == pytest.approx([1.0] * 4, rel=1e-4)


def test_a_prompt_has_from_none_to_the_most_examples():
    pairs = [Example("a", "b", ("b",), "t", "a")]
    found = {
        prompt.count("\n")
        for seed in range(50)
        for prompt in text.few_shot_prompts(pairs, "{text}", 2, random.Random(seed))
    }
    assert found == {0, 1, 2}

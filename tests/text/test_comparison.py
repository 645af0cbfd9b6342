"""Which prompts are compared, on which pairs, and the curves of what came out."""

import math

import pytest
import torch
from transformers import ByT5Tokenizer, T5Config

from hwzoo import text, training
from hwzoo.errors import UsageError
from hwzoo.text import comparison
from hwzoo.text.comparison import PromptComparison, pairs_of_task, pretraining_pairs, prompts_in_words
from hwzoo.text.prompts import next_token_logits


def example(word: str, task: str = "plural") -> text.Example:
    return text.Example(word, word + "s", (word + "s",), task=task, text=word)


PAIRS = text.TextSplits(
    "pairs", [example("fox"), example("go", "past")], [], [example("cat"), example("run", "past"), example("dog")]
)
WITHOUT_TASKS = text.TextSplits("plain", [example("fox", "")], [], [example("cat", "")])


def empty() -> PromptComparison:
    sizes = dict.fromkeys(("seed", "batch_size", "eval_batch_size", "max_source_length", "max_new_tokens"), 1)
    return PromptComparison(None, [], **sizes)


def test_pairs_are_encoded_once_for_all_that_train_on_them(monkeypatch):
    encoded, trained = [], []
    network = torch.nn.Linear(1, 1)
    network.config = T5Config()
    monkeypatch.setattr(comparison, "encode", lambda tokenizer, *pairs, **_: encoded.append(pairs) or [{"of": pairs}])
    monkeypatch.setattr(comparison, "check_fits", lambda *_, **__: None)
    monkeypatch.setattr(comparison, "tune", lambda network, rows, *_, **__: trained.append(rows))
    compared = empty()
    compared.tokenizer = ByT5Tokenizer()
    for name, contexts in (("base", ["x"]), ("lora", ["a"]), ("full", ["a"])):
        compared.train(name, network, contexts, ["b"], 1, 0.1)
    assert encoded == [(["x"], ["b"], True), (["a"], ["b"], True)]
    assert trained == [[{"of": encoded[index]}] for index in (0, 1, 1)]


def test_the_prompts_in_words():
    shots = [example("a"), example("b"), example("c")]
    templates = {"template": "{task}: {text}", "bare": "{text}", "instruction": "Say the {task}."}
    assert prompts_in_words([example("x")], shots, [2, 0, 2], **templates) == {
        "no_prompt": ["x"],
        "0_shot": ["plural: x"],
        "2_shot": ["plural: a as\nplural: b bs\nplural: x"],
        "2_shot_wrong": ["plural: a bs\nplural: b cs\nplural: x"],
        "instruction": ["Say the plural.\nplural: x"],
    }


def answered(*targets: str) -> list[text.Example]:
    return [text.Example(name, target, (target,), text=name) for name, target in zip("abcd", targets, strict=False)]


@pytest.mark.parametrize(
    ("shots", "wrong"),
    [
        (answered("yes", "yes", "no", "no"), ["a no", "b no", "c yes"]),
        ([text.Example("a", "x", ("x", "y"), text="a"), *answered("y", "y", "z")[1:]], ["a z", "b z"]),
    ],
)
def test_no_wrong_answer_is_a_right_one(shots, wrong):
    ways = {"template": "{text}", "bare": "{text}", "instruction": "i"}
    found = prompts_in_words([example("q")], shots, [len(wrong)], **ways)
    assert found[f"{len(wrong)}_shot_wrong"] == ["\n".join([*wrong, "q"])]


def test_examples_of_one_answer_have_no_wrong_one():
    ways = {"template": "{text}", "bare": "{text}", "instruction": "i"}
    found = prompts_in_words([example("q")], answered("yes", "yes"), [0, 1], **ways)
    assert list(found) == ["no_prompt", "0_shot", "1_shot", "instruction"]


def test_the_pairs_of_a_task():
    train, test = pairs_of_task(PAIRS, "plural", 1)
    assert [each.text for each in train] == ["fox"] and [each.text for each in test] == ["cat"]
    # Of data without tasks all pairs are of the one that is asked for, and prompts name it.
    assert pairs_of_task(WITHOUT_TASKS, "plural") == ([example("fox")], [example("cat")])
    with pytest.raises(UsageError, match="--task is gerund; pairs has past, plural"):
        pairs_of_task(PAIRS, "gerund")


def test_the_pairs_of_pretraining():
    assert [each.text for each in pretraining_pairs(PAIRS, ["plural", "past"])] == ["fox", "go"]
    assert [each.text for each in pretraining_pairs(PAIRS, ["plural", "past"], "plural")] == ["go"]
    with pytest.raises(UsageError, match="--tasks is past without past; pairs has past, plural"):
        pretraining_pairs(PAIRS, ["past"], "past")


@pytest.mark.parametrize("seq2seq, template", [(True, "{task}: {text}"), (False, "The {task} of {text} is")])
def test_the_template_of_an_architecture(seq2seq, template):
    bare = template[template.index("{text}") :]
    assert comparison.question_templates(None, seq2seq) == (template, bare)
    assert comparison.question_templates("Now {text}, please", seq2seq) == ("Now {text}, please", "{text}, please")


@pytest.mark.parametrize(
    "template, answer",
    [
        ("{{text}} {text}", "ox"),
        ("{{{text}}} {{{task}}}", "ox} {plural}"),
        ("{task:>9}, {{{{{text}: {task!r:_>9} {{text}}", "ox: _'plural' {text}"),
        ("{text:>9} {text} and {text}", "ox and ox"),
    ],
)
def test_braces_that_stand_for_themselves_are_no_field(template, answer):
    whole, bare = comparison.question_templates(template, True)
    assert whole == template and bare.format(text="ox", task="plural") == answer


def test_the_curves():
    compared = empty()
    assert compared.shot_curves() == compared.token_curves() == {}
    compared.accuracy = {"no_prompt": 0.1, "0_shot": 0.2, "3_shot": 0.5, "3_shot_wrong": 0.4}
    curves = {"right answers": ((0, 3), (0.2, 0.5), "o-"), "wrong answers": ((3,), (0.4,), "s--")}
    assert compared.shot_curves() == {"accuracy on test pairs": curves}
    for step, tokens in ((0, [("a", 0.05), ("b", 0.04)]), (1, [("a", 0.9)])):  # b is never above a tenth
        compared.watched.append({"step": step, "source": "fox", "tokens": tokens})
    expected = {"'a'": ((0, 1), (0.05, 0.9), ".-")}
    assert compared.token_curves() == {"probability of a first token after 'fox'": expected}
    assert compared.distance_curves() == {}
    compared.distances.append({"step": 0, "to_answers": 0.1, "to_first_tokens": 0.2, "information": 0.3})
    (curves,) = compared.distance_curves().values()
    assert [y for _, (y,), _ in curves.values()] == [0.1, 0.2, 0.3]
    assert list(compared.results()) == [
        "trainable_params", "train_runtime", *(f"test_accuracy_{name}" for name in compared.accuracy),
        "soft_prompt_first_tokens", "soft_prompt_distances",
    ]  # fmt: skip


def test_without_a_curve_there_is_no_picture(tmp_path):
    """Nor is there one of an earlier comparison in the same folder."""
    for _ in range(2):
        training.save_functions({}, tmp_path / "x.png", xlabel="x")
        assert not list(tmp_path.iterdir())
        (tmp_path / "x.png").touch()


def test_shares_are_drawn_with_their_standard_errors(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(training.pictures, "save_bars", lambda *arguments: drawn.append(arguments))
    training.save_shares({"a": 0.5, "b": 1.0}, 25, tmp_path / "x.png", label="share")
    assert drawn == [(["a", "b"], [0.5, 1.0], [0.1, 0.0], tmp_path / "x.png", "share")]


def test_the_distances_of_first_tokens():
    """Same laws tell nothing of the text; laws apart tell its logarithm; nothing common is ln 2 away."""
    law = torch.tensor([0.5, 0.25, 0.25, 0, 0]).double()
    same = comparison.first_token_distances(law.repeat(4, 1), law[:4], torch.tensor([0, 0, 0, 1.0]).double())
    assert same["to_answers"] == pytest.approx(0, abs=1e-12) and same["information"] == pytest.approx(0, abs=1e-12)
    assert same["to_first_tokens"] == pytest.approx(math.log(2))
    apart = comparison.first_token_distances(torch.eye(5).double(), torch.full((5,), 0.2).double(), law)
    assert apart["information"] == pytest.approx(math.log(5)) and apart["to_answers"] == pytest.approx(0, abs=1e-12)
    # by hand: JSD of (1, 0) from (1/2, 1/2) is the entropy of (3/4, 1/4) less half of ln 2
    pair = comparison.first_token_distances(torch.tensor([[1.0, 0]]).double(), *torch.full((2, 2), 0.5).double())
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert pair["to_answers"] == pair["to_first_tokens"] == pytest.approx(entropy - math.log(2) / 2)


@pytest.mark.parametrize("architecture", text.ARCHITECTURES)
def test_the_shares_of_tokens_in_answers(architecture):
    _, tokenizer = text.new_base(architecture, 16, 1)
    answers, seq2seq = ["ab", "ba", "bb", "bb"], architecture == "seq2seq"
    everywhere, first = comparison.unigrams(tokenizer, "of fox is", answers, seq2seq)
    a, b, space, end = tokenizer.convert_tokens_to_ids(["a", "b", " ", "</s>"])
    further = end if architecture == "seq2seq" else space
    assert [everywhere[each].item() for each in (a, b, further)] == pytest.approx([2 / 12, 6 / 12, 4 / 12])
    assert everywhere.shape == (384,) and [everywhere.sum().item(), first.sum().item()] == pytest.approx([1, 1])
    firsts = [first[a].item(), first[b].item(), first[space].item()]
    assert firsts == ([0.25, 0.75, 0] if architecture == "seq2seq" else [0, 0, 1])
    # After white space an answer begins with its own first token.
    _, first = comparison.unigrams(tokenizer, "fox -> ", answers, seq2seq)
    assert [first[a].item(), first[b].item(), first[space].item()] == [0.25, 0.75, 0]


@pytest.mark.parametrize("architecture", text.ARCHITECTURES)
def test_what_is_watched_are_contexts_as_long_as_those_of_training(architecture):
    torch.manual_seed(0)
    model, tokenizer = text.new_base(architecture, 16, 1)
    compared = comparison.PromptComparison(
        tokenizer, [], seed=0, batch_size=1, eval_batch_size=1, max_source_length=4, max_new_tokens=1
    )
    context = "of the many words, fox"
    compared.watch(model, [context], 0, ["es"])(0)
    short, whole = (text.first_token_probabilities(model, tokenizer, context, 5, most) for most in (4, None))
    assert compared.watched == [{"step": 0, "source": context, "tokens": short}] and short != whole
    told = next_token_logits(model, tokenizer, context, 4).double().softmax(-1)
    commons = comparison.unigrams(tokenizer, context, ["es"], architecture == "seq2seq")
    assert compared.distances == [{"step": 0} | comparison.first_token_distances(told[None], *commons)]

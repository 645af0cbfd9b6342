"""Which prompts are compared, on which pairs, and the curves of what came out."""

import pytest

from hwzoo import text, training
from hwzoo.errors import UsageError
from hwzoo.text import comparison
from hwzoo.text.comparison import PromptComparison, pairs_of_task, pretraining_pairs, prompts_in_words


def example(word: str, task: str = "plural") -> text.Example:
    return text.Example(word, word + "s", (word + "s",), task=task, text=word)


PAIRS = text.TextSplits(
    "pairs", [example("fox"), example("go", "past")], [], [example("cat"), example("run", "past"), example("dog")]
)
WITHOUT_TASKS = text.TextSplits("plain", [example("fox", "")], [], [example("cat", "")])


def empty() -> PromptComparison:
    sizes = dict.fromkeys(("seed", "batch_size", "eval_batch_size", "max_source_length", "max_new_tokens"), 1)
    return PromptComparison(None, [], **sizes)


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


def test_the_pairs_of_a_task():
    train, test = pairs_of_task(PAIRS, "plural", 1)
    assert [each.text for each in train] == ["fox"] and [each.text for each in test] == ["cat"]
    assert pairs_of_task(WITHOUT_TASKS, "plural") == (WITHOUT_TASKS.train, WITHOUT_TASKS.test)
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
    assert list(compared.results()) == [
        "trainable_params", "train_runtime", *(f"test_accuracy_{name}" for name in compared.accuracy),
        "soft_prompt_first_tokens",
    ]  # fmt: skip


def test_without_a_curve_there_is_no_picture(tmp_path):
    training.save_functions({}, tmp_path / "x.png", xlabel="x")
    assert not list(tmp_path.iterdir())


def test_shares_are_drawn_with_their_standard_errors(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(training.pictures, "save_bars", lambda *arguments: drawn.append(arguments))
    training.save_shares({"a": 0.5, "b": 1.0}, 25, tmp_path / "x.png", label="share")
    assert drawn == [(["a", "b"], [0.5, 1.0], [0.1, 0.0], tmp_path / "x.png", "share")]

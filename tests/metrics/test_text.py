"""Scores of texts, next to what is counted by hand."""

import pytest

from hwzoo.metrics.text import ROUGE_TYPES, text_scores


def test_one_reference():
    scores = text_scores(["the cat sat", "a dog"], [["the cat sat"], ["no match"]])
    assert scores == {name: 50.0 for name in ROUGE_TYPES} | {"exact_match": 0.5}


def test_several_references_give_first_maximum_and_mean():
    scores = text_scores(["a b", "c d"], [["x y", "a b"], ["c d"]])
    assert [scores[f"rouge1{suffix}"] for suffix in ("", "_max", "_mean")] == [50.0, 100.0, 75.0]
    assert scores["exact_match"] == 1.0  # any of them is right
    assert len(scores) == 3 * 4 + 1


def test_exact_match_minds_case_but_not_white_space_around():
    scores = text_scores([" wolves\n", "Wolves", "wolf s"], [["wolves"]] * 3)
    assert scores["exact_match"] == pytest.approx(1 / 3)


def test_several_tasks_are_told_apart():
    tasks = ["plural", "plural", "plural", "past"]
    scores = text_scores(["a", "b", "x", "x"], [["a"], ["b"], ["c"], ["d"]], tasks)
    assert scores["exact_match"] == 0.5
    assert scores["exact_match_plural"] == pytest.approx(2 / 3) and scores["exact_match_past"] == 0.0
    assert scores["exact_match_mean_of_tasks"] == pytest.approx(1 / 3)
    assert text_scores(["a"], [["a"]], ["plural"]).keys() == text_scores(["a"], [["a"]], [""]).keys()


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], [])])
def test_nothing_to_score(predictions, references):
    with pytest.raises(ValueError, match=f"{len(predictions)} predictions and 0 lists of references"):
        text_scores(predictions, references)


@pytest.mark.parametrize(
    ("predictions", "references", "what"),
    [
        (["a", None], [["a"], ["b"]], "prediction 1 .* None"),
        (["a", "None"], [["a"], ["b", None]], "prediction 1 .* None"),
        (["3"], [[3]], "prediction 0 .* 3"),
    ],
)
def test_what_is_no_text_is_not_scored(predictions, references, what):
    """`None` is not the word None."""
    with pytest.raises(ValueError, match=f"{what}; it must be a text"):
        text_scores(predictions, references)
    assert text_scores(["None"], [["None"]])["exact_match"] == 1

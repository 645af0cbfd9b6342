"""Copied and new words of summaries, ROUGE at equal length, bootstrap intervals: by hand and by brute force."""

import random

import pytest
import torch

from hwzoo.metrics import summaries
from hwzoo.metrics.text import rouge_scores

DOCUMENT = "The cat sat on the mat. A dog barked at the cat, and the cat ran."


def test_the_words_of_a_text_with_their_places():
    text = "Don't STOP, Zürich: 東京 3.5"
    words = summaries.words_of(text)
    assert [word for word, _, _ in words] == ["don", "t", "stop", "zürich", "東", "京", "3", "5"]
    assert all(text[start:end].casefold() == word for word, start, end in words)


@pytest.mark.parametrize(
    ("document", "summary", "fragments"),
    [
        ("a b c d", "b c x a", [(0, 2), (3, 1)]),
        ("a b a b c", "a b c", [(0, 3)]),  # the longest of the places, not the first
        ("a b", "x y", []),
        ("", "a", []),
        ("a", "", []),
        ("a b c", "a b c a b c", [(0, 3), (3, 3)]),
        ("a a a", "a a a a", [(0, 3), (3, 1)]),
    ],
)
def test_fragments(document, summary, fragments):
    assert summaries.extractive_fragments(document.split(), summary.split()) == fragments


def test_fragments_are_those_of_a_search_through_all_places():
    draw = random.Random(0)
    for _ in range(200):
        document, summary = draw.choices("abc", k=draw.randint(0, 12)), draw.choices("abcd", k=draw.randint(0, 9))
        expected, start = [], 0
        while start < len(summary):
            inside = [
                length
                for length in range(1, len(summary) - start + 1)
                if any(document[at : at + length] == summary[start : start + length] for at in range(len(document)))
            ]
            expected += [(start, max(inside))] if inside else []
            start += max([1, *inside])
        assert summaries.extractive_fragments(document, summary) == expected


def test_scores_of_extraction_by_hand():
    # the cat | barked | at the cat: 2, 1 and 3 words of 7, "loudly" is new
    scores = summaries.extraction_scores(DOCUMENT, "The cat barked loudly at the cat")
    assert scores["coverage"] == pytest.approx(6 / 7) and scores["density"] == pytest.approx((4 + 1 + 9) / 7)
    assert scores["new_1grams"] == pytest.approx(1 / 7)
    assert scores["new_2grams"] == pytest.approx(3 / 6)  # cat barked, barked loudly, loudly at
    assert scores["new_3grams"] == pytest.approx(4 / 5) and scores["num_words"] == 7
    whole = summaries.extraction_scores(DOCUMENT, "The cat sat on the mat.")
    assert (whole["coverage"], whole["density"], whole["new_3grams"]) == (1, 6, 0)
    assert summaries.extraction_scores(DOCUMENT, "a b a b a b a")["repeated_3grams"] == pytest.approx(3 / 5)
    assert set(summaries.extraction_scores(DOCUMENT, "").values()) == {0}


@pytest.mark.parametrize(
    ("text", "num", "short"),
    [
        ("One, two; three.", 2, "One, two"),
        ("One two", 5, "One two"),
        ("One", 0, ""),
        ("", 3, ""),
        ("東京都", 2, "東京"),
    ],
)
def test_a_text_is_cut_behind_a_word(text, num, short):
    assert summaries.cut_to(text, num) == short


def test_the_scores_of_a_system():
    documents, texts = [DOCUMENT, "x y z"], ["the cat ran away from the dog and never came back", ""]
    references = [("the cat ran", "a dog barked"), ("x y", "z")]
    found = summaries.summary_scores(documents, texts, references, "rouge_score")
    assert {values.shape for values in found.values()} == {(2,)} and found["rouge1"].dtype == torch.float64
    assert found["rouge1"][0].item() == pytest.approx(100 * 2 * 3 / (11 + 3))  # 3 words right, of 11 and of 3
    assert found["rouge1_equal_length"].tolist() == pytest.approx([100, 0])
    best = rouge_scores(texts, references, "rouge_score", multi_reference="max")["rouge2"]
    assert found["rouge2_max"].tolist() == pytest.approx([100 * each for each in best])
    assert (found["rouge1_max"] >= found["rouge1"]).all() and found["num_words"].tolist() == [11, 0]


def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    held = 0
    for seed in range(200):
        sample = 0.3 + torch.randn(60, generator=generator)
        found = summaries.paired_bootstrap(sample, 500, seed)
        assert found["low"] < found["mean"] < found["high"] and found["mean"] == pytest.approx(
            sample.mean().item(), abs=1e-6
        )
        held += found["low"] <= 0.3 <= found["high"]
    assert 178 <= held <= 199  # 95 % of 200 less a little: 60 documents
    width = summaries.paired_bootstrap(torch.randn(10_000, generator=generator))
    assert width["high"] - width["low"] == pytest.approx(2 * 1.96 / 100, rel=0.1)
    assert summaries.paired_bootstrap(torch.ones(5)) == {"mean": 1, "low": 1, "high": 1}

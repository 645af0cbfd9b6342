"""What summaries are beside their ROUGE: how much of them is copied, how much is new, how they differ from others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .rouge.words import WORD
from .text import rouge_scores

ROUGE_SHOWN = ("rouge1", "rouge2", "rougeL")
NEW = (1, 2, 3)  # words of the n-grams that are looked up in the document
REPEATED = 3


def words_of(text: str) -> list[tuple[str, int, int]]:
    """
    The words of a text in any script, without regard to case, each with where it begins and ends.

    Args:
        text: that positions count the characters of.
    """
    return [(match[0].casefold(), *match.span()) for match in WORD.finditer(text)]


def extractive_fragments(document: Sequence[str], summary: Sequence[str]) -> list[tuple[int, int]]:
    """
    The runs of words that a summary shares with its document: from its start on, each time the longest one that
    follows, wherever it is in the document (Grusky et al., arXiv:1804.11283, figure 3).

    Args:
        document: its words.
        summary: its words.

    Returns:
        Start in the summary and number of words of each run, in their order.
    """
    places: dict[str, list[int]] = {}
    for index, word in enumerate(document):
        places.setdefault(word, []).append(index)
    fragments, start = [], 0
    while start < len(summary):
        longest = 0
        for place in places.get(summary[start], ()):
            pairs, length = zip(summary[start:], document[place:], strict=False), 0
            for mine, its in pairs:
                if mine != its:
                    break
                length += 1
            longest = max(longest, length)
        if longest:
            fragments.append((start, longest))
        start += max(1, longest)
    return fragments


def extraction_scores(document: str, summary: str) -> dict[str, float]:
    """
    How a summary takes from its document.

    Args:
        document: its text.
        summary: its text.

    Returns:
        `coverage`, the share of its words in fragments, in [0, 1], and `density`, the mean length of the fragment that
        a word is in, 0 for words in none (arXiv:1804.11283, equations 1 and 2); `new_1grams` to `new_3grams`, the
        shares of its runs of so many words that are not in the document, and `repeated_3grams`, of those that stand in
        it more than once, each later one counted; `num_words`. All 0 of an empty summary; shares of a shorter one too.
    """
    theirs, mine = ([word for word, _, _ in words_of(each)] for each in (document, summary))
    lengths = [length for _, length in extractive_fragments(theirs, mine)]
    size = max(1, len(mine))
    scores = {"coverage": sum(lengths) / size, "density": sum(length**2 for length in lengths) / size}
    for num in NEW:
        there, own = set(_ngrams(theirs, num)), _ngrams(mine, num)
        scores[f"new_{num}grams"] = sum(each not in there for each in own) / max(1, len(own))
    runs = _ngrams(mine, REPEATED)
    scores[f"repeated_{REPEATED}grams"] = 1 - len(set(runs)) / len(runs) if runs else 0.0
    return scores | {"num_words": float(len(mine))}


def _ngrams(words: Sequence[str], num: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(num)), strict=False))


def cut_to(text: str, num_words: int) -> str:
    """
    The beginning of a text.

    Args:
        text: that is cut behind a word.
        num_words: at most so many.

    Returns:
        The text up to the end of its word of that number; all of a shorter one.
    """
    words = words_of(text)
    return text if len(words) <= num_words else text[: words[num_words - 1][2] if num_words else 0]


def summary_scores(
    documents: Sequence[str], summaries: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str
) -> dict[str, Tensor]:
    """
    Scores of one system's summaries, document by document.

    Args:
        documents: their texts.
        summaries: one of each document.
        references: the right ones of each; ROUGE compares with the first.
        tokenizer: ROUGE's, as of `rouge_scores`.

    Returns:
        float64 (documents,) by name: `rouge1`, `rouge2`, `rougeL`, F-measures x 100; with `_max` against the best of
        the references; with `_equal_length` of the summary cut to as many words as the first reference has, so that
        who writes more gains nothing by it; and `extraction_scores`.
    """
    first = [each[:1] for each in references]
    short = [cut_to(text, len(words_of(right[0]))) for text, right in zip(summaries, first, strict=True)]
    kinds = {"": (summaries, first), "_max": (summaries, references), "_equal_length": (short, first)}
    scores: dict[str, Sequence[float]] = {}
    for suffix, (texts, right) in kinds.items():
        by_type = rouge_scores(texts, right, tokenizer, rouge_types=ROUGE_SHOWN)
        scores |= {f"{name}{suffix}": [100 * value for value in by_type[name]] for name in ROUGE_SHOWN}
    rows = [extraction_scores(document, text) for document, text in zip(documents, summaries, strict=True)]
    scores |= {name: [row[name] for row in rows] for name in rows[0]}
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in scores.items()}


def paired_bootstrap(differences: Tensor, num_resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """
    How sure a mean difference of two systems is, by sets of documents drawn with replacement (Koehn 2004).

    Args:
        differences: of the scores of both on the same documents, (documents,).
        num_resamples: sets.
        seed: of the draws.

    Returns:
        `mean`; `low` and `high`, its 2.5 and 97.5 % quantiles over the sets.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(differences), (num_resamples, len(differences)), generator=generator)
    quantiles = differences.double()[drawn].mean(1).quantile(torch.tensor([0.025, 0.975]).double())
    return {"mean": differences.double().mean().item()} | dict(zip(("low", "high"), quantiles.tolist(), strict=True))

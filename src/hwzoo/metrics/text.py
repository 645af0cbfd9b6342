"""How far texts agree with their references."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

ROUGE = Path(__file__).parent / "rouge"  # for `evaluate.load`
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
TOKENIZERS = ("rouge_score", "unicode")


def rouge_scores(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenizer: Literal[TOKENIZERS] = "rouge_score",
    **kwargs,
) -> dict[str, list[float]]:
    """
    ROUGE of each prediction, in [0, 1], with stemming and, for rougeLsum, a line for each sentence.

    Args:
        predictions: texts.
        references: the right texts for each.
        tokenizer: "rouge_score", whose words are runs of a-z and 0-9, or "unicode" (`UnicodeTokenizer`), whose words
            are of any script; of texts in ASCII both give the same.
        kwargs: further ones of the metric in `ROUGE`: `multi_reference` ("max", the default, or "mean"),
            `rouge_types`.

    Returns:
        By the name of a type (`rouge1`, say), one F-measure a prediction.
    """
    return _rouge().compute(
        predictions=list(predictions),
        references=[list(each) for each in references],
        use_aggregator=False,
        use_stemmer=True,
        newline_split=True,
        tokenizer=None if tokenizer == "rouge_score" else tokenizer,
        **kwargs,
    )


def rouge_tokenizer(texts: Iterable[str], asked: Literal[("auto", *TOKENIZERS)] = "auto") -> str:
    """
    The tokenizer that ROUGE needs.

    Args:
        texts: the references, all of a data set: one tokenizer scores whatever is compared.
        asked: a tokenizer, or "auto".

    Returns:
        The one that is asked for; for "auto" "unicode" where rouge-score's own would drop most of the letters, else
        "rouge_score".
    """
    from .rouge.words import share_dropped

    if asked != "auto":
        return asked
    return "unicode" if share_dropped(texts) > 0.5 else "rouge_score"


def text_scores(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tasks: Sequence[str] | None = None,
    tokenizer: Literal[TOKENIZERS] = "rouge_score",
) -> dict[str, float]:
    """
    Scores of predicted texts.

    Args:
        predictions: texts.
        references: the right texts for each; the first is the one that ROUGE compares with.
        tasks: the name of the task of each, for data with several.
        tokenizer: ROUGE's, as in `rouge_scores`.

    Returns:
        `rouge1`, `rouge2`, `rougeL`, `rougeLsum` in [0, 100], the mean over the predictions; where a prediction has
        several references also `rouge1_max` and so on, against the best of them, and `rouge1_mean`, the average over
        them. `exact_match` in [0, 1]: the share that equals a reference, white space at both ends aside; with several
        tasks also `exact_match_<task>` and `exact_match_mean_of_tasks`.

    Raises:
        ValueError: without predictions, when their number is not that of the references, or for what is no text.
    """
    if not predictions or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions and {len(references)} lists of references")
    for index, texts in enumerate(zip(predictions, references, strict=True)):
        for each in (texts[0], *texts[1]):
            if not isinstance(each, str):
                raise ValueError(f"prediction {index} or a reference of it is {each!r}; it must be a text")
    kinds = {"": [each[:1] for each in references]}
    if any(len(each) > 1 for each in references):
        kinds |= {"_max": references, "_mean": references}
    scores = {}
    for suffix, right in kinds.items():
        by_type = rouge_scores(predictions, right, tokenizer, multi_reference="mean" if suffix == "_mean" else "max")
        scores |= {f"{name}{suffix}": 100 * _mean(by_type[name]) for name in ROUGE_TYPES}
    pairs = zip(predictions, references, strict=True)
    matches = [text.strip() in {each.strip() for each in right} for text, right in pairs]
    scores["exact_match"] = _mean(matches)
    names = sorted(set(tasks or ()) - {""})
    for name in names if len(names) > 1 else ():
        scores[f"exact_match_{name}"] = _mean([m for m, task in zip(matches, tasks, strict=True) if task == name])
    if len(names) > 1:
        scores["exact_match_mean_of_tasks"] = _mean([scores[f"exact_match_{name}"] for name in names])
    return scores


def _mean(values: Sequence[float]) -> float:
    return float(sum(values) / len(values))


@cache
def _rouge():
    import evaluate

    return evaluate.load(str(ROUGE), keep_in_memory=True)

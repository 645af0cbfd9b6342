"""
ROUGE (Lin, 2004) as a metric of `evaluate` that loads without the Hub: `evaluate.load("<path>/hwzoo/metrics/rouge")`.

A script of `evaluate`, which copies it to its cache and runs it there: nothing in hwzoo imports it, and its imports
stand one on a line, as `evaluate` reads them with a regular expression.
"""

import datasets
import evaluate
from rouge_score import rouge_scorer, scoring

from .sentences import split_sentences
from .words import UnicodeTokenizer

_CITATION = """\
@inproceedings{lin-2004-rouge,
    title = "{ROUGE}: A Package for Automatic Evaluation of Summaries",
    author = "Lin, Chin-Yew",
    booktitle = "Text Summarization Branches Out",
    year = "2004",
    url = "https://aclanthology.org/W04-1013",
}
"""
_DESCRIPTION = """\
F-measures of overlapping n-grams and of the longest common subsequence between predicted and reference texts, by
Google's rouge-score, in [0, 1]. Case is ignored.
"""
_INPUTS = """
Computes ROUGE of each prediction. With the same arguments it gives what the Hub's `rouge` gives; the last two
arguments are its own.

Args:
    predictions: list of texts.
    references: list of texts, or of lists of texts (several references).
    rouge_types: some of rouge1 to rouge9, rougeL, rougeLsum; rouge1, rouge2, rougeL, rougeLsum when not given,
        or None.
    use_aggregator: one number, the median of 1,000 bootstrapped means, drawn with NumPy's global generator; else one
        for each prediction.
    use_stemmer: strip the endings of words (Porter).
    tokenizer: function from a text to a list of words, or "unicode" for words of any script, those of a-z and 0-9
        stemmed where use_stemmer says so; rouge-score's, runs of a-z and 0-9, when not given.
    newline_split: put each sentence on a line of its own, which is what rougeLsum compares; without it the texts must
        have line breaks already, or rougeLsum equals rougeL.
    multi_reference: "max" takes the best reference of a prediction for each type, "mean" the average over them.

Returns:
    A dict from each type to a float in [0, 1], or to a list of them.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class Rouge(evaluate.Metric):
    """The metric for `evaluate.load`; its description says what it computes and takes."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=[
                datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
                datasets.Features({"predictions": text, "references": text}),
            ],
            codebase_urls=["https://github.com/google-research/google-research/tree/master/rouge"],
            reference_urls=["https://aclanthology.org/W04-1013"],
        )

    def _compute(
        self,
        predictions,
        references,
        rouge_types=None,
        use_aggregator=True,
        use_stemmer=False,
        tokenizer=None,
        newline_split=False,
        multi_reference="max",
    ):
        if multi_reference not in ("max", "mean"):
            raise ValueError(f"multi_reference is {multi_reference!r}; it must be 'max' or 'mean'")
        rouge_types = ["rouge1", "rouge2", "rougeL", "rougeLsum"] if rouge_types is None else list(rouge_types)
        if tokenizer == "unicode":
            tokenizer = UnicodeTokenizer(use_stemmer)
        words = _Tokenizer(tokenizer) if tokenizer is not None else None
        scorer = rouge_scorer.RougeScorer(rouge_types=rouge_types, use_stemmer=use_stemmer, tokenizer=words)
        aggregator, by_type = scoring.BootstrapAggregator(), {kind: [] for kind in rouge_types}
        for prediction, given in zip(predictions, references, strict=True):
            texts = [prediction, *(given if isinstance(given, list) else [given])]
            if len(texts) == 1:
                raise ValueError(f"prediction {len(by_type[rouge_types[0]])} has no reference")
            if None in texts:
                what = "" if texts[0] is None else "a reference of "
                raise ValueError(f"{what}prediction {len(by_type[rouge_types[0]])} is None; it must be a text")
            if newline_split:
                texts = ["\n".join(split_sentences(text)) for text in texts]
            scores = [scorer.score(reference, texts[0]) for reference in texts[1:]]
            for kind in rouge_types:
                values = [score[kind].fmeasure for score in scores]
                value = max(values) if multi_reference == "max" else sum(values) / len(values)
                by_type[kind].append(value)
            if use_aggregator:
                score = {kind: scoring.Score(0.0, 0.0, by_type[kind][-1]) for kind in rouge_types}
                aggregator.add_scores(score)
        if not use_aggregator:
            return by_type
        return {kind: interval.mid.fmeasure for kind, interval in aggregator.aggregate().items()}


class _Tokenizer:
    """A function in the form that rouge-score takes."""

    def __init__(self, tokenize):
        self.tokenize = tokenize

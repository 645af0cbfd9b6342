"""
Classification without training: how probable a language model holds each label, as words, after a text.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..errors import UsageError
from .batches import IGNORED_LABEL, PadBatch
from .limits import check_fits
from .prompts import encode

NUM_RESAMPLES = 1000
MOST_TEMPERATURE = 1000
CONTENT_FREE = ("N/A", "", "[MASK]")  # texts without content, those of arXiv:2102.09690


@dataclass(frozen=True)
class LabelScores:
    """
    Log-probabilities of labels given contexts.

    Args:
        log_probs: float32 (num, labels), in nats, summed over the tokens of a label.
        num_tokens: int64 (num, labels), how many tokens that were.
    """

    log_probs: Tensor
    num_tokens: Tensor

    def raw(self) -> Tensor:
        """Probabilities among the labels, (num, labels), by the sums: long labels lose."""
        return self.log_probs.softmax(-1)

    def normalized(self) -> Tensor:
        """Probabilities among the labels, (num, labels), by the mean log-probability of a label's token."""
        return (self.log_probs / self.num_tokens).softmax(-1)


@torch.no_grad()
def score_labels(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    labels: Sequence[str],
    *,
    batch_size: int = 64,
    max_source_length: int | None = None,
    end: bool = True,
) -> LabelScores:
    """
    Scores each label after each context.

    For a sequence-to-sequence model a label is a whole answer, its end token counted unless `end` is False; for a
    causal model it is what follows the context, whatever comes after it. Which special tokens there are is explained
    at `encode`.

    Args:
        model: of either kind, or an adapter on it.
        tokenizer: of its base.
        contexts: texts up to where the label stands.
        labels: in words.
        batch_size: of pairs of context and label.
        max_source_length: tokens of a context; of longer ones the last stay.
        end: whether a sequence-to-sequence model's label ends an answer; else it may go on.

    Returns:
        The sums of log-probabilities in nats and the numbers of tokens, (contexts, labels) each.

    Raises:
        UsageError: for a label without tokens, and for contexts and labels that do not fit the model.
    """
    model.eval()
    device, seq2seq = next(model.parameters()).device, model.config.is_encoder_decoder
    pairs = [(context, label) for context in contexts for label in labels]
    rows = encode(tokenizer, *zip(*pairs, strict=True), seq2seq, end=False, max_source_length=max_source_length)
    check_fits(model, rows, target="a label")
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    cuts = "logits_to_keep" in inspect.signature(base.forward).parameters
    collate = PadBatch(tokenizer.pad_token_id)
    sums, counts = torch.empty(len(rows)), torch.empty(len(rows), dtype=torch.long)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))  # little padding
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = {name: value.to(device) for name, value in collate([rows[index] for index in chosen]).items()}
        if seq2seq:
            targets, logits = batch["labels"], model(**batch).logits
        else:
            # Logits of whole contexts would take gigabytes, and with `labels` a model would make a loss of them all.
            targets = batch.pop("labels")
            targets = targets[:, (targets != IGNORED_LABEL).any(0).nonzero()[0, 0] :]
            # A position tells the next token; a prompt that an adapter puts before the text has no labels.
            kept = targets.shape[1] + 1
            logits = model(**batch, **({"logits_to_keep": kept} if cuts else {})).logits[:, -kept:-1]
        counted = targets != IGNORED_LABEL
        if not end:
            counted &= (targets == tokenizer.eos_token_id).cumsum(1) == 0  # mBART's has a language behind it
        log_probs = logits.float().log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
        sums[chosen] = (log_probs * counted).sum(-1).cpu()
        counts[chosen] = counted.sum(-1).cpu()
    return LabelScores(sums.view(-1, len(labels)), counts.view(-1, len(labels)))


def calibrate(probabilities: Tensor, content_free: Tensor) -> Tensor:
    """
    Contextual calibration (Zhao et al., arXiv:2102.09690, section 5): probabilities divided by those that the same
    prompt gives for texts without content, so that such a text gets all labels alike.

    The paper takes a softmax of the quotients, which keeps their order; here they are divided by their sum, which also
    keeps them probabilities: a uniform `content_free` changes nothing.

    Args:
        probabilities: (num, labels), each row with the sum 1.
        content_free: (texts, labels), the same for texts without content; their mean is taken.

    Returns:
        Probabilities, (num, labels).
    """
    # By logarithms, as a label that the prompt all but rules out would be 0 / 0.
    tiny = torch.finfo(probabilities.dtype).tiny
    prior = content_free.mean(0).clamp(min=tiny).log()
    return (probabilities.clamp(min=tiny).log() - prior).softmax(-1)


def confidence_scores(probabilities: Tensor, labels: Tensor, num_bins: int = 10) -> dict:
    """
    How sure a classifier is when it is right and when it is wrong.

    Args:
        probabilities: (num, classes), each row with the sum 1.
        labels: int64 (num,).
        num_bins: of equal width over [0, 1].

    Returns:
        `accuracy`; `confidence_right` and `confidence_wrong`, the mean probability of the answer where it is right
        and wrong (absent where there is no such answer); `calibration_error`, the mean over the texts of
        |accuracy - confidence| of their bin (Guo et al., arXiv:1706.04599, eq. 5), and `calibration_error_interval`,
        the 2.5 and 97.5 % quantiles of it over 1,000 sets drawn from the texts with replacement (chance alone makes
        gaps in them, so that they lie a little high); `reliability`, for each bin with texts its `confidence` and
        `accuracy`, means, and its `num`.
    """
    confidence, answers = probabilities.cpu().max(-1)
    right = answers == labels.cpu()
    scores = {"accuracy": right.double().mean().item()}
    for name, where in (("right", right), ("wrong", ~right)):
        if where.any():
            scores[f"confidence_{name}"] = confidence[where].double().mean().item()
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    rows = []
    for index in bins.unique().tolist():
        inside = bins == index
        means = {"confidence": confidence[inside].double().mean().item(), "accuracy": right[inside].double().mean()}
        rows.append({name: float(value) for name, value in means.items()} | {"num": int(inside.sum())})
    gaps = right.double() - confidence.double()
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(gaps), (NUM_RESAMPLES, len(gaps)), generator=generator)
    interval = _binned_error(gaps[drawn], bins[drawn], num_bins).quantile(torch.tensor([0.025, 0.975]).double())
    error = _binned_error(gaps[None], bins[None], num_bins).item()
    return scores | {
        "calibration_error": error, "calibration_error_interval": interval.tolist(), "reliability": rows
    }  # fmt: skip


def _binned_error(gaps: Tensor, bins: Tensor, num_bins: int) -> Tensor:
    """Of sets (sets, num): the sum over the bins of the absolute sums of right - confidence, over num; (sets,)."""
    return gaps.new_zeros(len(gaps), num_bins).scatter_add_(1, bins, gaps).abs().sum(1) / gaps.shape[1]


def fit_temperature(log_probs: Tensor, labels: Tensor) -> float:
    """
    The temperature T for which softmax(log_probs / T) has the smallest cross-entropy (Guo et al., arXiv:1706.04599,
    section 4.2). It moves no answer, only how sure they are.

    Args:
        log_probs: of texts that the classifier is not tested on, (num, labels), in nats; any scores.
        labels: int64 (num,).

    Returns:
        T, in [0.001, 1000]: at a border where the best is beyond it, as where all answers are right.
    """
    scores, labels = log_probs.double().cpu(), labels.cpu()[:, None]
    low, high = -math.log(MOST_TEMPERATURE), math.log(MOST_TEMPERATURE)
    while high - low > 1e-9:
        # Convex in 1 / T; its derivative is the mean score of the answers drawn, less that of the labels.
        middle = (low + high) / 2
        drawn = ((scores * math.exp(middle)).softmax(-1) * scores).sum(-1)
        low, high = (middle, high) if drawn.mean() <= scores.gather(-1, labels).mean() else (low, middle)
    return math.exp(-middle)


def wrong_labels(contexts: Sequence[str], probabilities: Tensor, truth: Tensor, labels: Sequence[str]) -> list[dict]:
    """
    The texts whose most probable label is wrong.

    Args:
        contexts: what stands before the label, (num,).
        probabilities: (num, labels).
        truth: int64 (num,).
        labels: in words.

    Returns:
        `source`, `prediction`, `label` (the right one) and `confidence` of each.
    """
    confidence, answers = probabilities.cpu().max(-1)
    rows = zip(contexts, answers.tolist(), truth.tolist(), confidence.tolist(), strict=True)
    return [
        {"source": context, "prediction": labels[answer], "label": labels[right], "confidence": sure}
        for context, answer, right, sure in rows
        if answer != right
    ]


def label_words(values: Sequence[str], given: Sequence[str] | None) -> dict[str, str]:
    """
    The words that stand for each value of the label: of `value=words` each, or the values themselves when None.

    Args:
        values: of the label, without white space around them.
        given: what the flag `--labels` holds.

    Returns:
        The words by value, in the order of `values`, without white space around them.

    Raises:
        UsageError: when not every value, and no other, is given words of its own once.
    """
    if given is None:
        return {value: value for value in values}
    pairs = [[part.strip() for part in each.split("=", 1)] for each in given if "=" in each]
    words = dict(pairs)
    if len(words) != len(given) or set(words) != set(values) or not all(words.values()):
        raise UsageError(f"--labels is {' '.join(given)}; it must be value=words for each of {', '.join(values)}")
    if len(set(words.values())) < len(words):
        raise UsageError(f"--labels is {' '.join(given)}; each value must have words of its own")
    return {value: words[value] for value in values}


def reliability_curves(scores: Mapping[str, dict], shots: Sequence[int]) -> dict[str, dict[str, tuple]]:
    """
    The panels of `save_functions`, one for each number of shots, of `confidence_scores` by `<num>_shot_<way>`.

    Args:
        scores: each with `reliability`, rows with `confidence` and `accuracy` in [0, 1].
        shots: the numbers of shots.

    Returns:
        By the panel's title, by the curve's label: x, y and the style of matplotlib.
    """
    panels = {}
    for num in shots:
        curves: dict[str, tuple] = {"as sure as right": ([0, 1], [0, 1], "k:")}
        for way, style in (("raw", "o-"), ("normalized", "s-"), ("calibrated", "^-"), ("temperature", "v-")):
            bins = scores.get(f"{num}_shot_{way}", {}).get("reliability")
            if bins:
                curves[way] = ([row["confidence"] for row in bins], [row["accuracy"] for row in bins], style)
        panels[f"accuracy, {num} shots"] = curves
    return panels

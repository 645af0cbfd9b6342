"""What can be done with a language model: write, look at the next token, score words."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .. import text
from ..errors import UsageError
from .answers import Answer, Bars, Table, Text
from .controls import SEED, register
from .entries import Entry
from .inputs import Choice, Input, Number, Words
from .jobs import Job

MOST_TOKENS, MOST_SOURCE = 128, 512  # written, and read
PROMPT = Words("prompt", "Prompt", "", 3)
SHOTS = Words("shots", "Examples before it, one a line, each with its answer", "", 3)
WARPERS: list[Input] = [
    Number("temperature", "Temperature", 0.1, 2, 1, 0.05),
    Number("top_k", "Most likely tokens kept (top-k; 0: all)", 0, 100, 0),
    Number("top_p", "Probability kept (top-p)", 0.05, 1, 1, 0.05),
]


def _writes(entry: Entry) -> bool:
    return entry.writes


def warped(scores: Tensor, given: dict[str, Any]) -> Tensor:
    """
    Log-probabilities, up to a constant, after temperature, top-k and top-p.

    Args:
        scores: logits, (batch, vocabulary).
        given: `temperature`, `top_k`, `top_p`.

    Returns:
        (batch, vocabulary), minus infinity for what is left out.
    """
    steps = [TemperatureLogitsWarper(given["temperature"])]
    steps += [TopKLogitsWarper(given["top_k"])] if given["top_k"] else []
    steps += [TopPLogitsWarper(given["top_p"])] if given["top_p"] < 1 else []
    for step in steps:
        scores = step(None, scores)
    return scores


class _Draw(LogitsProcessor):
    """Leaves one drawn token for greedy decoding to take: `generate` itself draws from the global generator alone."""

    def __init__(self, given: dict[str, Any]):
        self._given, self._generator = given, torch.Generator().manual_seed(given["seed"])

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        chances = warped(scores.float(), self._given).softmax(-1)
        drawn = torch.multinomial(chances, 1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def _context(given: dict[str, Any], shots: bool = True) -> str:
    lines = [line for line in given["shots"].splitlines() if line.strip()] if shots else []
    return "\n".join([*lines, given["prompt"]])


def _input_ids(entry: Entry, context: str) -> Tensor:
    seq2seq = entry.config.is_encoder_decoder
    return torch.tensor([text.prompts.source_ids(entry.tokenizer, context, seq2seq, MOST_SOURCE)])


def _written(entry: Entry, context: str, given: dict[str, Any], model: nn.Module) -> str:
    input_ids, tokenizer = _input_ids(entry, context), entry.tokenizer
    steps = LogitsProcessorList([] if given["way"] == "greedy" else [_Draw(given)])
    with text.models.plain_generation(model):
        ids = model.generate(
            input_ids=input_ids, attention_mask=torch.ones_like(input_ids), max_new_tokens=given["num"],
            do_sample=False, num_beams=1, pad_token_id=tokenizer.pad_token_id, logits_processor=steps,
        )[0]  # fmt: skip
    own = ids if entry.config.is_encoder_decoder else ids[input_ids.shape[1] :]
    return tokenizer.decode(own, skip_special_tokens=True)


@register(
    "Write", "What the model writes: with the examples and without, with its adapter and without.", _writes,
    lambda entry: [
        PROMPT, SHOTS, Choice("way", "Way", ("greedy", "drawn"), "greedy"), *WARPERS,
        Number("num", "Tokens at most", 1, MOST_TOKENS, 32), SEED,
    ],
    "Write",
)  # fmt: skip
def _write(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """An answer for each way to ask."""
    adapter, shots = text.adapter_of(entry.model), bool(_context(given) != given["prompt"])
    answers: list[Answer] = []
    with job.running(entry.lock):
        for without in (False, True) if adapter else (False,):
            for with_shots in (True, False) if shots else (False,):
                words = [f"without its {adapter} adapter"] if without else [f"with its {adapter} adapter"]
                words = (words if adapter else []) + ([f"{'with' if with_shots else 'without'} examples"] * shots)
                # Its own `generate` would put a soft prompt before a sequence-to-sequence model's text all the same.
                model = entry.model.get_base_model() if without else entry.model
                with entry.model.disable_adapter() if without else nullcontext():
                    written = _written(entry, _context(given, with_shots), given, model)
                answers.append(Text(written, ", ".join(words) or "the model"))
    return answers


@register(
    "Next token", "The probabilities of the first token that the model would write.", _writes,
    lambda entry: [PROMPT, SHOTS, *WARPERS, Number("num", "Tokens shown", 1, 50, 12)], None,
)  # fmt: skip
def _next_token(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """The most likely tokens, before and after temperature, top-k and top-p."""
    with job.running(entry.lock):
        input_ids = _input_ids(entry, _context(given))
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        if entry.config.is_encoder_decoder:  # a label, whichever, makes the decoder write one position
            inputs["labels"] = torch.full((1, 1), entry.tokenizer.eos_token_id)
        logits = entry.model(**inputs).logits[:, -1].float()
        answers = []
        for name, scores in (("After temperature, top-k and top-p", warped(logits, given)), ("Of the model", logits)):
            top = scores.softmax(-1)[0].topk(min(given["num"], scores.shape[-1]))
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            shares = {repr(entry.tokenizer.decode([index])) + f" ({index})": value for index, value in pairs if value}
            answers.append(Bars(shares, name))
    return answers


@register(
    "Score words", "Which answers the model holds for likely, also calibrated with texts that say nothing.", _writes,
    lambda entry: [
        Words("text", "Text", "", 2), Words("template", "Prompt around it", "{text}", 2),
        Words("labels", "Answers, one a line", "", 3, 500),
    ],
    "Score",
)  # fmt: skip
def _score_words(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """`text.score_labels`, raw, by token and calibrated."""
    labels = list(dict.fromkeys(filter(None, map(str.strip, given["labels"].splitlines()))))
    if not 2 <= len(labels) <= 20:
        raise UsageError("Answers must be 2 to 20 different lines")
    if "{text}" not in given["template"]:
        raise UsageError("Prompt around it must hold {text}")
    contexts = [given["template"].replace("{text}", each) for each in (given["text"], *text.CONTENT_FREE)]
    with job.running(entry.lock):
        scores = text.score_labels(
            entry.model, entry.tokenizer, contexts, labels, max_source_length=MOST_SOURCE, batch_size=16
        )
    raw, normalized = scores.raw(), scores.normalized()
    calibrated = text.calibrate(raw[:1], raw[1:])
    rows = []
    for place, label in enumerate(labels):
        shares = [f"{100 * each[0, place]:.1f}" for each in (raw, normalized, calibrated)]
        rows.append([label, *shares, scores.log_probs[0, place].item()])
    head = ["answer", "raw", "mean of its tokens", "calibrated", "log p, nats"]
    best = {label: calibrated[0, place].item() for place, label in enumerate(labels)}
    return [Bars(best, "Calibrated"), Table(head, rows, "Probabilities among the answers, in per cent")]


@register(
    "Reconstruct words", "What comes back through the latent of a text.",
    lambda entry: (
        entry.tokenizer is not None and not entry.writes and entry.offers("reconstruct")
        and getattr(entry.config, "latent_size", 1) > 0
    ),
    lambda entry: [Words("text", "Text", "", 2)], "Reconstruct",
)  # fmt: skip
def _reconstruct_words(entry: Entry, given: dict[str, Any], job: Job) -> list[Answer]:
    """`reconstruct` of the tokens of a text, as many as the model takes."""
    most = min(MOST_SOURCE, getattr(entry.config, "max_tokens", MOST_SOURCE))
    # As in training.
    tokens = partial(text.batches.token_ids, entry.tokenizer, [given["text"]], split_special_tokens=True)
    ids = torch.tensor(tokens(truncation=True, max_length=most))
    with job.running(entry.lock):
        made = entry.model.reconstruct(ids)
    read = f" of its first {most} tokens" if len(tokens()[0]) > most else ""
    return [Text(line, f"reconstruction{read}") for line in entry.words(made)]

"""Sampling from a language model: what temperature, top-k and top-p make of its next token, and tests of draws."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from .limits import check_fits
from .models import plain_generation
from .prompts import generate_answers, hard_prompt, next_token_logits, source_ids
from .sources import Example

LIBRARY_TOP_K = 50  # what `generate(do_sample=True)` keeps where nothing is said; GenerationConfig shows None
LEAST_EXPECTED = 5  # draws of a cell of a chi-square test; cells with fewer are pooled (Cochran 1954)
LEVEL = 0.05
NUM_DIGITS = 10
FEWEST_DIGITS = 20  # of a list that is tested
# Whoever is asked for random digits likes 7, shuns 0 and hardly says one twice in a row.
DIGIT_WEIGHTS = (0.5, 1.0, 1.0, 1.3, 1.0, 0.8, 1.0, 1.8, 1.1, 0.8)
REPEAT_WEIGHT = 0.3


def tempered(logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """
    The law of the next token: p^(1/T) / Z, of the top_k most probable tokens, and of these of the fewest most probable
    ones that together have top_p (Holtzman et al., arXiv:1904.09751), in this order, as transformers has it.

    Args:
        logits: of the next token, (tokens,).
        temperature: T; 0 is the limit, the most probable token.
        top_k: how many are kept; 0 for all.
        top_p: in (0, 1]; 1 for all.

    Returns:
        Probabilities, float64 (tokens,).

    Raises:
        ValueError: for a temperature below 0.
    """
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; it must be at least 0")
    logits = logits.double()
    if temperature == 0:
        return nn.functional.one_hot(logits.argmax(), len(logits)).double()
    logits = logits / temperature
    if top_k:
        logits = logits.masked_fill(logits < logits.topk(min(top_k, len(logits))).values[-1], -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p >= 1:  # of which the rounded sums would fall short
        return probabilities
    order = probabilities.argsort(descending=True, stable=True)
    before = probabilities[order].cumsum(0) - probabilities[order]
    kept = torch.zeros_like(probabilities, dtype=torch.bool).index_fill(0, order[before < top_p], True)
    probabilities = probabilities.where(kept, 0.0)
    return probabilities / probabilities.sum()


def entropy(probabilities: Tensor) -> float:
    """
    Of a law, in nats, from 0 (one value) to the logarithm of how many there are.

    Args:
        probabilities: (values,), with the sum 1.
    """
    return max(0.0, -torch.special.xlogy(probabilities, probabilities).sum().item())


def check_prompts(model: nn.Module, tokenizer: PreTrainedTokenizerBase, **prompts: str):
    """
    Checks that a model has a position for each token of what it is asked.

    Args:
        model: of either kind.
        tokenizer: of it.
        prompts: texts, by the names of their flags.

    Raises:
        UsageError: with the flag of one that does not fit.
    """
    for flag, context in prompts.items():
        row = {"input_ids": source_ids(tokenizer, context, model.config.is_encoder_decoder)}
        check_fits(model, [row], source=f"--{flag}")


@torch.no_grad()
def draw(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, context: str, num: int, *, max_new_tokens: int = 1,
    seed: int = 0, batch_size: int = 500, **way,
) -> Tensor:  # fmt: skip
    """
    Continuations of a context by the library's `generate`, which knows no generator: the global random state is set,
    and put back.

    Args:
        model: of either kind, put into eval mode.
        tokenizer: of it.
        context: a text that fits the model.
        num: how many are drawn.
        max_new_tokens: of each; fewer where the model has no more positions, but at least one.
        seed: of the draws.
        batch_size: continuations at once.
        way: `do_sample`, `temperature`, `top_k`, `top_p` of `generate`; what is not given is the library's default,
            whatever the model's own generation configuration says.

    Returns:
        Ids, (num, tokens at most), what comes after the end of one is padding.
    """
    model.eval()
    device, seq2seq = next(model.parameters()).device, model.config.is_encoder_decoder
    input_ids = torch.tensor([source_ids(tokenizer, context, seq2seq)], device=device)
    given = 1 if seq2seq else input_ids.shape[1]
    pad, parts = tokenizer.eos_token_id, []  # a model warns of its own padding token wherever it reads one
    most = getattr(model.config, "max_position_embeddings", None)
    # The last new token is not read; and positions that are computed go on beyond those that are stated.
    now_tokens = max_new_tokens if seq2seq or most is None else min(max_new_tokens, max(1, most - given + 1))
    with torch.random.fork_rng(), plain_generation(model):
        torch.manual_seed(seed)
        for start in range(0, num, batch_size):
            now = min(batch_size, num - start)
            several = {"num_return_sequences": now} if way.get("do_sample") else {}
            ids = model.generate(
                input_ids=input_ids, attention_mask=torch.ones_like(input_ids), max_new_tokens=now_tokens,
                num_beams=1, pad_token_id=pad, **several, **way,
            )[:, given:].cpu()  # fmt: skip
            ids = ids if several else ids.expand(now, -1)
            parts.append(nn.functional.pad(ids, (0, max_new_tokens - ids.shape[1]), value=pad))
    return torch.cat(parts)


def chi_square(counts: Tensor, probabilities: Tensor) -> dict[str, float | None]:
    """
    Pearson's test of whether counts are draws from a law. Cells with fewer than five expected draws are pooled, the
    least probable first, until the pool has five; a draw of what cannot be makes the statistic infinite.

    Args:
        counts: of each value, (values,).
        probabilities: the law, (values,), with the sum 1.

    Returns:
        `statistic`, `degrees_of_freedom` and `p_value` in [0, 1], the probability of a statistic as large or larger;
        1 where the law has one cell only, None where that is for want of draws: they test nothing.
    """
    counts, expected = counts.double(), probabilities.double() * counts.sum().item()
    if counts[expected == 0].any():
        return {"statistic": float("inf"), "degrees_of_freedom": 0, "p_value": 0.0}
    order = expected.argsort()
    counts, expected = counts[order][expected[order] > 0], expected[order][expected[order] > 0]
    cells, pooled = len(expected), int((expected < LEAST_EXPECTED).sum())
    while 0 < pooled < len(expected) and expected[:pooled].sum() < LEAST_EXPECTED:
        pooled += 1
    if pooled:
        counts, expected = (torch.cat([x[:pooled].sum()[None], x[pooled:]]) for x in (counts, expected))
    statistic, degrees = ((counts - expected) ** 2 / expected).sum(), len(counts) - 1
    if not degrees:
        return {"statistic": 0.0, "degrees_of_freedom": 0, "p_value": 1.0 if cells == 1 else None}
    p_value = torch.special.gammaincc(torch.tensor(degrees / 2).double(), statistic / 2).item()
    return {"statistic": statistic.item(), "degrees_of_freedom": degrees, "p_value": p_value}


def p_of(test: Mapping) -> str:
    """
    Args:
        test: of `chi_square`.

    Returns:
        Its p-value in words.
    """
    return "too few draws" if test["p_value"] is None else f"{test['p_value']:.3g}"


@dataclass(frozen=True)
class DigitLaw:
    """
    Digits one after the other, each drawn given the last: a Markov chain.

    Args:
        transition: float64 (10, 10), each row with the sum 1.
    """

    transition: Tensor

    @property
    def stationary(self) -> Tensor:
        """The share of each digit in the long run, float64 (10,)."""
        return torch.linalg.matrix_power(self.transition, 1024)[0]

    @property
    def repeats(self) -> float:
        """The share of digits that equal the one before."""
        return (self.stationary * self.transition.diagonal()).sum().item()

    def line(self, num: int, generator: random.Random) -> str:
        """
        Digits without anything between them, the first from the stationary law.

        Args:
            num: how many.
            generator: of the draws.

        Returns:
            A text of so many characters.
        """
        digits = generator.choices(range(NUM_DIGITS), self.stationary.tolist())
        while len(digits) < num:
            digits += generator.choices(range(NUM_DIGITS), self.transition[digits[-1]].tolist())
        return "".join(map(str, digits))


def biased_digits() -> DigitLaw:
    """A law as people have who are asked for random digits: 7 often, 0 seldom, few repeats."""
    weights = torch.tensor(DIGIT_WEIGHTS).double().repeat(NUM_DIGITS, 1)
    weights.diagonal().mul_(REPEAT_WEIGHT)
    return DigitLaw(weights / weights.sum(1, keepdim=True))


def digits_of(text: str, num: int) -> list[int]:
    """
    The first digits 0 to 9 of the first line that has any.

    Args:
        text: what a model wrote.
        num: at most so many.

    Returns:
        From 0 to 9 each; none where no line has any.
    """
    lines = ([int(letter) for letter in line if letter in "0123456789"] for line in text.split("\n"))
    return next((digits for digits in lines if digits), [])[:num]


def digit_tests(lists: Sequence[Sequence[int]]) -> dict:
    """
    Whether lists of digits are uniform, by the digits and by what follows what.

    Args:
        lists: of digits, each on its own.

    Returns:
        `num_digits`; `shares` of each digit; `digits`, the chi-square test of the counts against the uniform law;
        `pairs`, that of pairs of digits that do not overlap (100 cells); `repeats`, that of how many digits equal the
        one before, with their `share`, 0.1 of uniform ones; and the shares of lists that the tests of `digits` and
        `repeats` would each call not uniform at 5 %, one list alone: `digits_rejected`, `repeats_rejected`, of the
        lists that are long enough for the test (50 digits, 51 for repeats), None without any.
    """
    counts = torch.stack([torch.bincount(torch.tensor(each), minlength=NUM_DIGITS) for each in lists])
    pairs = [
        NUM_DIGITS * first + second for each in lists for first, second in zip(each[::2], each[1::2], strict=False)
    ]
    same = [sum(a == b for a, b in zip(each, each[1:], strict=False)) for each in lists]
    again = torch.tensor([[repeats, len(each) - 1 - repeats] for repeats, each in zip(same, lists, strict=True)])
    # In float64, of which exactly five expected draws are five.
    uniform = torch.full((NUM_DIGITS,), 1 / NUM_DIGITS, dtype=torch.float64)
    once_more = torch.tensor([1, NUM_DIGITS - 1]).double() / NUM_DIGITS
    uniform_pairs = torch.full((NUM_DIGITS**2,), 1 / NUM_DIGITS**2, dtype=torch.float64)
    rejected = {"digits": (counts, uniform), "repeats": (again, once_more)}
    shares = {}
    for name, (rows, law) in rejected.items():
        tested = [p for row in rows if (p := chi_square(row, law)["p_value"]) is not None]
        shares[f"{name}_rejected"] = sum(p < LEVEL for p in tested) / len(tested) if tested else None
    share = (again.sum(0)[0] / again.sum()).item()
    return {
        "num_digits": int(counts.sum()),
        "shares": (counts.sum(0) / counts.sum()).tolist(),
        "digits": chi_square(counts.sum(0), uniform),
        "pairs": chi_square(torch.bincount(torch.tensor(pairs), minlength=NUM_DIGITS**2), uniform_pairs),
        "repeats": {"share": share} | chi_square(again.sum(0), once_more),
        **shares,
    }


def sampled_law(model: nn.Module, tokenizer: PreTrainedTokenizerBase, context: str, num: int, way: dict, seed: int):
    """
    The first tokens that `generate` draws after a context, beside what they should be.

    Args:
        model: of either kind.
        tokenizer: of it.
        context: a text.
        num: draws.
        way: `temperature`, and where they are given `top_k` and `top_p`; the library keeps 50 tokens without `top_k`.
        seed: of the draws.

    Returns:
        The probabilities p^(1/T) / Z of all tokens, float64 (tokens,), what was drawn, (tokens,), and a row of
        numbers: `entropy` in nats of the law; `cut_mass`, the share of p^(1/T) / Z that `top_k` and `top_p` cut off;
        `kept_tokens`; the shares `most_drawn` of the token drawn most often and `most_probable` of the most probable
        one; `chi_square` of the draws against the law so cut, and `chi_square_uncut` against the whole.
    """
    logits = next_token_logits(model, tokenizer, context)
    drawn = draw(model, tokenizer, context, num, seed=seed, **of_generate(way))
    counts = torch.bincount(drawn[:, 0], minlength=len(logits))
    law = tempered(logits, way["temperature"])
    cut = tempered(logits, way["temperature"], way.get("top_k", LIBRARY_TOP_K), way.get("top_p", 1.0))
    row = {"entropy": entropy(cut), "cut_mass": law[cut == 0].sum().item(), "kept_tokens": int((cut > 0).sum())}
    row |= {"most_drawn": counts.max().item() / num, "most_probable": cut.max().item()}
    return law, counts, row | {"chi_square": chi_square(counts, cut), "chi_square_uncut": chi_square(counts, law)}


def of_generate(way: dict) -> dict:
    """
    The flags of `generate`, which takes no temperature of 0.

    Args:
        way: `temperature`, and where they are given `top_k` and `top_p`.
    """
    return {"do_sample": True} | way if way["temperature"] > 0 else {"do_sample": False}


def wrong_answers(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Example], template: str, way: dict, seed: int
) -> list[dict]:
    """
    The questions to which the one answer drawn is none of the references.

    Args:
        model: of either kind.
        tokenizer: of it.
        asked: the questions.
        template: of a question, as of `hard_prompt`.
        way: as of `sampled_law`.
        seed: of the draws.

    Returns:
        `source`, `prediction` and `references` of each.
    """
    contexts = [hard_prompt(each, template) for each in asked]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        more = {"max_new_tokens": 24, "batch_size": 100} | of_generate(way)
        answers = generate_answers(model, tokenizer, contexts, **more)
    return [
        {"source": context, "prediction": answer, "references": each.references}
        for context, answer, each in zip(contexts, answers, asked, strict=True)
        if answer not in {right.strip() for right in each.references}
    ]


def digit_scores(written: Sequence[str], num: int, first: Tensor) -> tuple[dict, list[str]]:
    """
    `digit_tests` of what a model wrote when it was asked for digits, beside its own probabilities.

    Args:
        written: continuations of the prompt.
        num: digits of a list at most.
        first: log-probabilities of the ten digits as the first word, in nats, (10,).

    Returns:
        `first_token`, the probabilities of the digits among themselves, and `first_token_mass`, their sum before that;
        `num_lists` with 20 digits or more, and their `digit_tests`; and the texts that have less.
    """
    lists = [digits_of(each, num) for each in written]
    long = [each for each in lists if len(each) >= FEWEST_DIGITS]
    first = first.double()
    scores = {"first_token": first.softmax(0).tolist(), "first_token_mass": first.exp().sum().item()}
    scores |= {"num_lists": len(long), **(digit_tests(long) if long else {})}
    return scores, [text for text, each in zip(written, lists, strict=True) if len(each) < FEWEST_DIGITS]


def token_curves(laws: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, dict[str, tuple]]:
    """
    The panel of `save_functions` with the probabilities and the shares drawn of the 20 most probable tokens of the
    last law, by rank in it.

    Args:
        laws: by name, probabilities and counts, (tokens,) each.

    Returns:
        By the panel's title, by the curve's label: x, y and the style of matplotlib.
    """
    order = list(laws.values())[-1][0].argsort(descending=True)[:20]
    ranks, curves = list(range(1, len(order) + 1)), {}
    for colour, (name, (law, counts)) in enumerate(laws.items()):
        curves[name] = ranks, law[order].tolist(), f"C{colour}-"
        curves[f"{name}, drawn"] = ranks, (counts[order] / counts.sum()).tolist(), f"C{colour}."
    return {"probability of a token": curves}


def digit_curves(digits: Mapping) -> dict[str, dict[str, tuple]]:
    """
    The panel of `save_functions` with the shares of the digits.

    Args:
        digits: of `digit_scores`, with `learned_from` where the law is known.
    """
    x = list(range(NUM_DIGITS))
    curves = {"uniform": (x, [1 / NUM_DIGITS] * NUM_DIGITS, "k:"), "first token": (x, digits["first_token"], "o-")}
    if "shares" in digits:
        curves["in all lists"] = x, digits["shares"], "s-"
    if "learned_from" in digits:
        curves["what it learned from"] = x, digits["learned_from"]["shares"], "--"
    return {"share of a digit": curves}

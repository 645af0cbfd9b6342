"""Prompts in words, and what is trained in their place, compared on the same test pairs."""

import copy
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Formatter

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import UsageError
from .adapters import add_adapter, count_trainable
from .limits import check_fits
from .prompts import (
    check_template,
    encode,
    first_token_probabilities,
    generate_answers,
    hard_prompt,
    next_token_logits,
    source_ids,
    tune,
)
from .sources import Example, TextSplits

TEMPLATES = {True: "{task}: {text}", False: "The {task} of {text} is"}  # of an encoder-decoder, or a causal model

NUM_WATCHED, NUM_TOP_TOKENS = 3, 5  # contexts on which a growing soft prompt is watched, and tokens that are told
NUM_AVERAGED = 40  # contexts over which the laws of first tokens are averaged
WATCHED_STEPS = {0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000}
SHOWN_PROBABILITY = 0.1  # first tokens that never are more probable are not drawn


@dataclass
class PromptComparison:
    """
    Trains and tests networks under names, and keeps what it found by these names.

    Args:
        tokenizer: of the base.
        test_pairs: that all are tested on.
        seed: of the order of the training pairs.
        batch_size: pairs a step of training.
        eval_batch_size: contexts a batch when generating.
        max_source_length: tokens of a context; of longer ones the last stay.
        max_new_tokens: of an answer.
        accuracy: the share of answers that equal a reference, in [0, 1].
        failures: `prompt` (the name), `source`, `prediction` and `references` of each other answer.
        trainable_params, train_runtime: how many were trained, and in how many seconds.
        watched, distances: of `watch`.
    """

    tokenizer: PreTrainedTokenizerBase
    test_pairs: Sequence[Example]
    seed: int
    batch_size: int
    eval_batch_size: int
    max_source_length: int
    max_new_tokens: int
    accuracy: dict[str, float] = field(default_factory=dict)
    failures: list[dict] = field(default_factory=list)
    trainable_params: dict[str, int] = field(default_factory=dict)
    train_runtime: dict[str, float] = field(default_factory=dict)
    watched: list[dict] = field(default_factory=list)
    distances: list[dict] = field(default_factory=list)
    _encoded: dict[tuple, list[dict[str, Tensor]]] = field(default_factory=dict, init=False, repr=False)

    def train(
        self, name: str, network: nn.Module, contexts: Sequence[str], targets: Sequence[str], steps: int, rate: float,
        before_step: Callable[[int], None] | None = None,
    ):  # fmt: skip
        """
        Trains what can be trained of a network to answer contexts by targets; what is last is as of `tune`.

        Args:
            name: under which time and number of weights are kept.
            network: changed in place, and left in eval mode.
            contexts: what stands before the answers.
            targets: an answer to each context.
            steps: of AdamW.
            rate: the highest learning rate.
            before_step: as of `tune`.

        Raises:
            UsageError: as `check` and `tune`.
            HwzooError: as `tune`.
        """
        self.check(network, contexts, targets)
        rows = self._rows(network, contexts, targets)
        started = time.perf_counter()
        tune(
            network, rows, self.tokenizer.pad_token_id, steps=steps, learning_rate=rate, batch_size=self.batch_size,
            seed=self.seed, name=name, before_step=before_step or (lambda step: None),
        )  # fmt: skip
        self.train_runtime[name] = time.perf_counter() - started
        self.trainable_params[name] = count_trainable(network)

    def check(self, network: nn.Module, contexts: Sequence[str], targets: Sequence[str], asked: Sequence[str] = ()):
        """
        Checks that a network can be trained, as by `train`, and tested, as by `test`.

        Args:
            network: that is to be trained.
            contexts: of its training.
            targets: an answer to each.
            asked: contexts that it is tested on.

        Raises:
            UsageError: for texts that do not fit it.
        """
        check_fits(network, self._rows(network, contexts, targets), target="a target")
        most = network.config.is_encoder_decoder, self.max_source_length
        rows = [{"input_ids": source_ids(self.tokenizer, each, *most)} for each in asked]
        check_fits(network, rows, max_new_tokens=self.max_new_tokens)

    def _rows(self, network: nn.Module, contexts: Sequence[str], targets: Sequence[str]) -> list[dict[str, Tensor]]:
        seq2seq = network.config.is_encoder_decoder
        asked = (tuple(contexts), tuple(targets), seq2seq)
        if asked not in self._encoded:  # else of the network before: seconds for thousands of texts
            most = self.max_source_length
            self._encoded[asked] = encode(self.tokenizer, contexts, targets, seq2seq, max_source_length=most)
        return self._encoded[asked]

    def test(self, name: str, network: nn.Module, contexts: Sequence[str]):
        """
        Compares a network's greedy answers to contexts, one for each test pair, with the references.

        Args:
            name: under which accuracy and failures are kept.
            network: a model or an adapter on it.
            contexts: in the order of the test pairs.
        """
        answers = generate_answers(
            network, self.tokenizer, contexts, max_new_tokens=self.max_new_tokens, batch_size=self.eval_batch_size,
            max_source_length=self.max_source_length,
        )  # fmt: skip
        wrong = [
            {"prompt": name, "source": context, "prediction": answer, "references": each.references}
            for context, answer, each in zip(contexts, answers, self.test_pairs, strict=True)
            if answer not in {right.strip() for right in each.references}
        ]
        self.failures.extend(wrong)
        self.accuracy[name] = 1 - len(wrong) / len(self.test_pairs)
        print(f"{name:>16}: accuracy {self.accuracy[name]:.3f}", flush=True)

    def watch(
        self, network: nn.Module, contexts: Sequence[str], last_step: int, targets: Sequence[str]
    ) -> Callable[[int], None]:
        """
        A `before_step` that adds, at steps ever further apart and the last, to `watched`: `step`, `source` (each of
        the first three contexts), and `tokens`, the five most probable first tokens with their probabilities; and to
        `distances`: `step` and `first_token_distances` over the first forty contexts.

        Args:
            network: that is trained.
            contexts: that are asked.
            last_step: number of steps of the training.
            targets: the answers of training.

        Returns:
            The `before_step` for `train`.
        """
        commons = unigrams(self.tokenizer, contexts[0], targets, network.config.is_encoder_decoder)
        most = self.max_source_length

        def before_step(step: int):
            if step in WATCHED_STEPS or step == last_step:
                for context in contexts[:NUM_WATCHED]:
                    top = first_token_probabilities(network, self.tokenizer, context, NUM_TOP_TOKENS, most)
                    self.watched.append({"step": step, "source": context, "tokens": top})
                asked = [next_token_logits(network, self.tokenizer, each, most) for each in contexts[:NUM_AVERAGED]]
                laws = torch.stack(asked).double().softmax(-1)
                self.distances.append({"step": step} | first_token_distances(laws, *commons))

        return before_step

    def results(self) -> dict:
        """What all_results.json gets: all but the failures."""
        accuracy = {f"test_accuracy_{name}": value for name, value in self.accuracy.items()}
        trained = {"trainable_params": self.trainable_params, "train_runtime": self.train_runtime}
        watched = {"soft_prompt_first_tokens": self.watched, "soft_prompt_distances": self.distances}
        return trained | accuracy | watched

    def shot_curves(self) -> dict[str, dict[str, tuple]]:
        """The panel of `save_functions` with the accuracy over the number of examples; none without such prompts."""
        curves = {}
        for suffix, label, style in (("_shot", "right answers", "o-"), ("_shot_wrong", "wrong answers", "s--")):
            named = [(f"{shots}{suffix}", shots) for shots in range(10)]
            points = [(shots, self.accuracy[name]) for name, shots in named if name in self.accuracy]
            if points:
                curves[label] = (*zip(*points, strict=True), style)
        return {"accuracy on test pairs": curves} if curves else {}

    def token_curves(self) -> dict[str, dict[str, tuple]]:
        """The panels of `save_functions`, one a watched context, with the probabilities of first tokens by step."""
        panels: dict[str, dict[str, tuple]] = {}
        for source in dict.fromkeys(row["source"] for row in self.watched):
            rows = [row for row in self.watched if row["source"] == source]
            told = [token for row in rows for token, value in row["tokens"] if value > SHOWN_PROBABILITY]
            for token in dict.fromkeys(told):
                # At a step where it is not among the most probable its probability is not known.
                points = [(row["step"], dict(row["tokens"]).get(token, math.nan)) for row in rows]
                curve = (*zip(*points, strict=True), ".-")
                panels.setdefault(f"probability of a first token after {source!r}", {})[repr(token)] = curve
        return panels

    def distance_curves(self) -> dict[str, dict[str, tuple]]:
        """The panel of `save_functions` with `distances` by step; none without a soft prompt."""
        steps = [row["step"] for row in self.distances]
        named = {
            "to_answers": "from tokens of the answers", "to_first_tokens": "from first tokens of the answers",
            "information": "of the text in it",
        }  # fmt: skip
        curves = {label: (steps, [row[key] for row in self.distances], ".-") for key, label in named.items()}
        return {"first token of an answer (nats)": curves} if steps else {}


def unigrams(
    tokenizer: PreTrainedTokenizerBase, context: str, answers: Sequence[str], is_encoder_decoder: bool
) -> tuple[Tensor, Tensor]:
    """
    How often tokens are in answers, anywhere and as the first.

    Args:
        tokenizer: of the model.
        context: what may stand before any of the answers: whether it ends in white space is what counts.
        answers: of training, without contexts.
        is_encoder_decoder: whether the model is sequence-to-sequence.

    Returns:
        Shares of all tokens, and of the first ones, float64 (tokens,) each.
    """
    rows = encode(tokenizer, [context[-1:]] * len(answers), answers, is_encoder_decoder, end=False)
    ids = [row["labels"][row["labels"] >= 0] for row in rows]
    parts = torch.cat(ids), torch.stack([each[0] for each in ids])
    return tuple(torch.bincount(part, minlength=len(tokenizer)).double() / len(part) for part in parts)


def first_token_distances(laws: Tensor, answers: Tensor, first_tokens: Tensor) -> dict[str, float]:
    """
    What a prompt that fails says: common tokens, whatever the text.

    Args:
        laws: of the first token after several texts, (texts, tokens), each row with the sum 1; there may be more
            tokens than the tokenizer has.
        answers: shares of tokens in answers, (tokens,).
        first_tokens: shares of first tokens of answers, (tokens,).

    Returns:
        In nats: `to_answers` and `to_first_tokens`, the Jensen-Shannon divergence of the mean law from these shares,
        from 0 to ln 2; `information`, the Jensen-Shannon divergence of the laws from one another, which is how much a
        first token tells of the text, from 0 to the logarithm of their number.
    """
    mean = laws.mean(0)

    def entropy(law: Tensor) -> Tensor:
        return -torch.special.xlogy(law, law).sum(-1)

    def divergence(shares: Tensor) -> float:
        shares = nn.functional.pad(shares, (0, len(mean) - len(shares)))
        return (entropy((mean + shares) / 2) - (entropy(mean) + entropy(shares)) / 2).item()

    told = {"to_answers": divergence(answers), "to_first_tokens": divergence(first_tokens)}
    return told | {"information": (entropy(mean) - entropy(laws).mean()).item()}


def prompts_in_words(
    questions: Sequence[Example], examples: Sequence[Example], shots: Sequence[int], *, template: str, bare: str,
    instruction: str,
) -> Mapping[str, list[str]]:  # fmt: skip
    """
    Contexts for each question, by the name of the prompt.

    Args:
        questions: to be answered.
        examples: of which a prompt shows the first; the answers of all may stand as wrong ones.
        shots: numbers of examples.
        template: of a question, as of `hard_prompt`.
        bare: the template of a question without prompt.
        instruction: the line before the question for the prompt of that name.

    Returns:
        `no_prompt`; `<k>_shot` and `<k>_shot_wrong`, whose examples have the answer of the next one for which it is
        wrong (Min et al., arXiv:2202.12837), left out where one has none; `instruction`.
    """
    ways: dict[str, tuple[str, list[tuple[Example, str]], str]] = {"no_prompt": (bare, [], "")}
    for num in sorted(set(shots)):
        ways[f"{num}_shot"] = template, [(shot, shot.target) for shot in examples[:num]], ""
        if num:
            wrong = [(shot, _wrong_answer(examples, at)) for at, shot in enumerate(examples[:num])]
            if all(answer is not None for _, answer in wrong):
                ways[f"{num}_shot_wrong"] = template, wrong, ""
    ways["instruction"] = template, [], instruction
    return {name: [hard_prompt(each, *way) for each in questions] for name, way in ways.items()}


def _wrong_answer(examples: Sequence[Example], at: int) -> str | None:
    """The target of the first example after that one, and after the last from the first on, that is wrong for it."""
    right = {each.strip() for each in examples[at].references}
    others = itertools.chain(examples[at + 1 :], examples[:at])
    return next((each.target for each in others if each.target.strip() not in right), None)


def pairs_of_task(pairs: TextSplits, task: str, max_test: int | None = None) -> tuple[list[Example], list[Example]]:
    """
    Training pairs and the first `max_test` test pairs of a task; UsageError for one that the data lack.

    Args:
        pairs: with or without tasks; without, all are of the task.
        task: its name.
        max_test: test pairs; all when None.

    Returns:
        The training pairs and the test pairs.

    Raises:
        UsageError: for a task that the data lack.
    """
    if pairs.tasks and task not in pairs.tasks:
        raise UsageError(f"--task is {task}; {pairs.name} has {', '.join(pairs.tasks)}")
    if not pairs.tasks:  # prompts name the task
        train, test = ([replace(each, task=task) for each in part] for part in (pairs.train, pairs.test))
    else:
        train, test = ([each for each in part if each.task == task] for part in (pairs.train, pairs.test))
    return train, test[:max_test]


def pretraining_pairs(pairs: TextSplits, tasks: Sequence[str], left_out: str | None = None) -> list[Example]:
    """
    Training pairs of some tasks without the one that is left out; UsageError when there are none.

    Args:
        pairs: with tasks.
        tasks: their names.
        left_out: a task that is not taken, if any.

    Returns:
        The training pairs, in the order of the data.

    Raises:
        UsageError: when there are none.
    """
    found = [each for each in pairs.train if each.task in set(tasks) - {left_out}]
    if not found:
        without = "" if left_out is None else f" without {left_out}"
        there = ", ".join(pairs.tasks) or "none"
        raise UsageError(f"--tasks is {' '.join(tasks)}{without}; {pairs.name} has {there}")
    return found


def question_templates(template: str | None, is_encoder_decoder: bool) -> tuple[str, str]:
    """
    The template of a question, the usual one of the architecture when None, and what is left of it when a trained
    prompt takes the place of what stands before the text.

    Args:
        template: with `{text}` and, if wanted, `{task}`; None for the usual one.
        is_encoder_decoder: whether the model is sequence-to-sequence.

    Returns:
        The whole template, and its part from `{text}` on.

    Raises:
        UsageError: for a template without {text}, or with more than it and {task} in braces.
    """
    template = template or TEMPLATES[is_encoder_decoder]
    check_template("template", template, "hold {text}, and may hold {task},", needed="{text}", text="", task="")
    # Not where "{text}" is found first: within doubled braces it is a word.
    parts = list(Formatter().parse(template))
    start = next(place for place, (_, *field) in enumerate(parts) if field == ["text", "", None])
    bare = "{text}"
    for words, name, spec, conversion in parts[start + 1 :]:
        bare += words.replace("{", "{{").replace("}", "}}")
        if name is not None:
            bare += "{" + name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
    return template, bare


def tunable_copy(model: PreTrainedModel, method: str, **adapter) -> nn.Module:
    """
    A copy of a model with an adapter of `add_adapter`, or for the method `full` all of it to be trained.

    Args:
        model: the base; it stays as it is.
        method: `full` or a method of `add_adapter`.
        adapter: further arguments of `add_adapter`.

    Returns:
        The model or the `peft.PeftModel`, on the device of `model`.
    """
    own = copy.deepcopy(model)
    return own.requires_grad_(True) if method == "full" else add_adapter(own, method, **adapter).to(model.device)

"""Prompting a language model, sequence-to-sequence or causal: prompts of words, trained prompts, what it answers."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from string import Formatter

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import HwzooError, UsageError
from ..loading import OwnCode
from .batches import IGNORED_LABEL, PadBatch, check_batch_size, token_ids
from .limits import check_fits
from .models import build_t5, check_ends, decode, load_seq2seq, load_tokenizer, plain_generation
from .sources import Example

ARCHITECTURES = ("seq2seq", "causal")
MOST_BYTES = 1024  # that the GPT-2 of `new_base` reads and writes


def load_base(
    model_name_or_path: str,
    load: Callable[..., PreTrainedModel],
    trust_remote_code: bool = False,
    trainable: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    A trained sequence-to-sequence or causal language model in float32, and its tokenizer.

    Args:
        model_name_or_path: folder or Hub id of a whole model.
        load: gives a model of a class and a name, and refuses missing weights (`hwzoo.hub.load`).
        trust_remote_code: whether code that comes with the model is run.
        trainable: whether it or a prompt of it is to be trained.

    Returns:
        The model and the tokenizer.

    Raises:
        UsageError: for an adapter, or a model of another kind or with code of its own; for training a
            sequence-to-sequence model with a tokenizer that ends no target.
        HwzooError: when model or tokenizer cannot be loaded.
    """
    what = f"--model_name_or_path {model_name_or_path}"
    try:
        model = load_seq2seq(model_name_or_path, load, trainable=False, trust_remote_code=trust_remote_code)
    except OwnCode:
        raise
    except UsageError:  # it is of another kind
        try:
            model = load(AutoModelForCausalLM, model_name_or_path, trust_remote_code=trust_remote_code)
        except ValueError as error:
            raise UsageError(f"{what} is neither a sequence-to-sequence nor a causal language model") from error
    if hasattr(model, "peft_config"):
        raise UsageError(f"{what} is an adapter; a whole model is needed")
    # What pads is masked wherever it stands here, so that any token will do.
    more = {"end_may_pad": True, "trust_remote_code": trust_remote_code}
    tokenizer = load_tokenizer(model_name_or_path, "model_name_or_path", **more)
    if trainable and model.config.is_encoder_decoder:
        check_ends(tokenizer, "model_name_or_path")
    return model, tokenizer


def new_base(architecture: str, d_model: int, num_layers: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """
    A small model with new weights that reads bytes: a T5 (`seq2seq`) or a GPT-2 (`causal`, of at most 1,024 bytes).

    Args:
        architecture: one of ARCHITECTURES.
        d_model: width, a multiple of 4 heads.
        num_layers: blocks; a T5's decoder has one less than its encoder, at least one.

    Returns:
        The model in float32, with weights of torch's global random state, and the tokenizer of ByT5.

    Raises:
        UsageError: when 4 heads do not divide the width.
        ValueError: for another architecture.
    """
    if d_model % 4:
        raise UsageError(f"--config_d_model is {d_model}; it must be a multiple of 4 heads")
    tokenizer = ByT5Tokenizer()
    if architecture == "seq2seq":
        layers = {"num_layers": num_layers, "num_decoder_layers": max(1, num_layers - 1)}
        sizes = {"d_model": d_model, "d_ff": 4 * d_model, "num_heads": 4, "dropout_rate": 0.0}
        return build_t5(tokenizer, **sizes, **layers), tokenizer
    if architecture != "causal":
        raise ValueError(f"architecture is {architecture!r}; it must be one of {', '.join(ARCHITECTURES)}")
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=MOST_BYTES, n_embd=d_model, n_layer=num_layers, n_head=4,
        pad_token_id=tokenizer.pad_token_id, **ends, **dropout,
    )  # fmt: skip
    return GPT2LMHeadModel(config), tokenizer


def hard_prompt(
    example: Example,
    template: str,
    shots: Sequence[tuple[Example, str]] = (),
    instruction: str = "",
) -> str:
    """
    A prompt in words: the instruction, a line for each shot with its answer, and the question.

    Args:
        example: to be answered.
        template: of a question, with `{text}` and, if wanted, `{task}`.
        shots: examples with the answers to be shown for them, right or wrong: after a space, unless the question ends
            in white space.
        instruction: first line; `{task}` stands for the task.

    Returns:
        The prompt, lines joined by line breaks; it ends where the answer begins.
    """
    lines = [instruction.format(task=example.task)] if instruction else []
    for shot, answer in shots:
        question = template.format(text=shot.text, task=shot.task)
        lines.append(question + _gap(question) + answer)
    return "\n".join([*lines, template.format(text=example.text, task=example.task)])


def _gap(question: str) -> str:
    """What stands between a question and its answer."""
    return "" if question[-1:].isspace() else " "


def few_shot_prompt(
    example: Example, examples: Sequence[Example], template: str, num_shots: int, generator: random.Random
) -> str:
    """
    `hard_prompt` after right answers to so many examples of the same task, drawn at random, with replacement.

    Args:
        example: to be answered.
        examples: that shots are drawn from.
        template: of a question, with `{text}` and, if wanted, `{task}`.
        num_shots: 0 for the question alone.
        generator: of the draws.

    Returns:
        The prompt.

    Raises:
        ValueError: when shots are wanted and no example is of the task.
    """
    if num_shots and all(each.task != example.task for each in examples):
        raise ValueError(f"no example is of the task {example.task!r}")
    shots = []
    while len(shots) < num_shots:
        shot = generator.choice(examples)
        if shot.task == example.task:
            shots.append((shot, shot.target))
    return hard_prompt(example, template, shots)


def few_shot_prompts(examples: Sequence[Example], template: str, most: int, generator: random.Random) -> list[str]:
    """
    `few_shot_prompt` of each example, after 0 to `most` of the others or itself, as many as is drawn for it.

    Args:
        examples: to be answered, and to draw shots from.
        template: of a question, as in `few_shot_prompt`.
        most: shots of a prompt.
        generator: of their numbers and of the shots.

    Returns:
        A prompt for each example.
    """
    return [few_shot_prompt(each, examples, template, generator.randint(0, most), generator) for each in examples]


def check_template(name: str, value: str, allowed: str, needed: str = "", **columns: str):
    """
    Args:
        name: of the flag, without dashes.
        value: the template.
        allowed: what it must hold and may hold, for the error.
        needed: what it has to contain.
        columns: a value for each name that may stand in braces.

    Raises:
        UsageError: when the flag `name` has a template that lacks what is needed, or has more in braces than columns.
    """
    try:
        value.format(**columns)
        fits = not needed or [needed.strip("{}"), "", None] in [field for _, *field in Formatter().parse(value)]
    except (KeyError, IndexError, ValueError, AttributeError, TypeError, MemoryError):
        fits = False
    if not fits:
        raise UsageError(f"--{name} is {value!r}; it must {allowed} and nothing else in braces")


def encode(
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    answers: Sequence[str],
    is_encoder_decoder: bool,
    end: bool = True,
    max_source_length: int | None = None,
) -> list[dict[str, Tensor]]:
    """
    Contexts and their answers as rows for `PadBatch`: `input_ids` and `labels`, (length,) each.

    A sequence-to-sequence model reads the context and writes the answer, both with the special tokens of its
    tokenizer. For a causal model the answer follows the context, after a space unless the context ends in white
    space, as the whole text has it: where a tokenizer puts a blank before every text, as Llama's, a blank at the end
    of the context is the answer's. The tokens of the context, which loses the end token that some tokenizers give it,
    have the label -100. What spells an end token, say, in an answer or in what a sequence-to-sequence model reads, has
    its letters; a causal model's context may hold special tokens, as the turns of a chat do.

    Args:
        tokenizer: of the model.
        contexts: what stands before the answers.
        answers: one for each context, not empty.
        is_encoder_decoder: whether the model is sequence-to-sequence.
        end: whether answers are for training: a causal model's is followed by the end token, and a
            sequence-to-sequence model's has to be by its tokenizer.
        max_source_length: tokens of a context; of longer ones the last stay.

    Returns:
        A row for each context, int64.

    Raises:
        UsageError: for an answer without tokens, and for training a sequence-to-sequence model with a tokenizer that
            ends no answer.
    """
    if is_encoder_decoder and end:
        check_ends(tokenizer, "model_name_or_path")
    rows, blank_first = [], not is_encoder_decoder and _blank_first(tokenizer)
    for context, answer in zip(contexts, answers, strict=True):
        source = source_ids(tokenizer, context, is_encoder_decoder, max_source_length)
        if is_encoder_decoder:
            (target,) = token_ids(tokenizer, [answer], target=True)
        elif answer:
            target = _answer_ids(tokenizer, context, answer, blank_first)
        else:
            target = []
        if not answer.strip() or not target:
            raise UsageError(f"the answer {answer!r} has no tokens")
        if not is_encoder_decoder:
            target = target + [tokenizer.eos_token_id] * end
            source, target = source + target, [IGNORED_LABEL] * len(source) + target
        rows.append({"input_ids": torch.tensor(source), "labels": torch.tensor(target)})
    return rows


def _blank_first(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it reads a text as if a blank stood before it."""
    ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids[:1])  # bytes of some
    return any(isinstance(token, str) and token.startswith("▁") for token in tokens)


def _answer_ids(tokenizer: PreTrainedTokenizerBase, context: str, answer: str, blank_first: bool) -> list[int]:
    """The tokens of an answer that follows those that `source_ids` gives of a causal model's context."""
    following = _gap(context) + answer
    if blank_first:
        following = " " * context.endswith(" ") + following
        # The blank before the text goes before a line break, which is taken off again, unless that is read as a blank.
        before = tokenizer("\n", add_special_tokens=False)["input_ids"]
        (ids,) = token_ids(tokenizer, ["\n" + following], add_special_tokens=False)
        if ids[: len(before)] == before and tokenizer.decode(before).endswith("\n"):
            return ids[len(before) :]
    return token_ids(tokenizer, [following], add_special_tokens=False)[0]


def source_ids(
    tokenizer: PreTrainedTokenizerBase, context: str, is_encoder_decoder: bool, max_source_length: int | None = None
) -> list[int]:
    """
    The tokens of a context, as `encode` explains; at least one.

    Args:
        tokenizer: of the model.
        context: it may be empty: the end token alone then.
        is_encoder_decoder: whether the model is sequence-to-sequence; else the end token is taken off, and a blank at
            the end where the tokenizer joins it with what comes next, as Llama's.
        max_source_length: at most so many tokens, the last; all when None.

    Returns:
        The ids.
    """
    if not is_encoder_decoder and context.endswith(" ") and _blank_first(tokenizer):
        context = context.removesuffix(" ")
    ids = token_ids(tokenizer, [context])[0] if is_encoder_decoder else tokenizer(context)["input_ids"]
    if not is_encoder_decoder and ids[-1:] == [tokenizer.eos_token_id]:
        ids = ids[:-1]
    return ids[-max_source_length:] if ids and max_source_length else ids or [tokenizer.eos_token_id]


def tune(
    model: nn.Module,
    rows: Sequence[dict[str, Tensor]],
    pad_token_id: int,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    name: str,
    before_step: Callable[[int], None] = lambda step: None,
):
    """
    Trains what can be trained of a model: AdamW without weight decay, the rate rising over the first tenth of the
    steps and falling to 0, gradients scaled down to norm 1.

    Args:
        model: changed in place, and left in eval mode.
        rows: of `encode`.
        pad_token_id: that fills the rows of a batch.
        steps: of the optimiser.
        learning_rate: the highest.
        batch_size: rows a step.
        seed: of their order; each epoch has its own.
        name: for the progress bar and the error.
        before_step: gets the number of steps done, from 0 to `steps`, before each step and after the last.

    Raises:
        UsageError: when there are fewer rows than a batch has.
        HwzooError: with the first step whose loss is not finite.
    """
    check_batch_size(batch_size, len(rows))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device, collate = parameters[0].device, PadBatch(pad_token_id)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
    rise = max(1, steps // 10)
    lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (steps - step) / max(1, steps - rise))
    )
    batches = _batches(len(rows), batch_size, seed)
    for step in tqdm(range(steps), desc=name, unit="step", disable=None):
        before_step(step)
        model.train()
        batch = collate([rows[index] for index in next(batches)])
        loss = model(**{key: value.to(device) for key, value in batch.items()}).loss
        if not loss.isfinite():
            raise HwzooError(f"{name}: the loss is {loss.item()} at step {step + 1}; a smaller learning rate may help")
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        lr_scheduler.step()
    before_step(steps)
    model.eval()


def _batches(num: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(num, generator=generator).tolist()
        # The short last batch of an epoch is left out.
        for start in range(0, num - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


@torch.no_grad()
def generate_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    max_source_length: int | None = None,
    **way,
) -> list[str]:
    """
    What a model, or an adapter on it, answers, up to the first line break, without white space at both ends.

    A batch holds contexts of one length, so that nothing is padded: with an adapter of prompts before padded texts the
    positions of a causal model would be wrong.

    Args:
        model: put into eval mode.
        tokenizer: of its base.
        contexts: texts.
        max_new_tokens: of an answer.
        batch_size: contexts at most that are answered at once.
        max_source_length: tokens of a context; of longer ones the last stay.
        way: `do_sample`, `temperature` and so on of `generate`; greedy when not given, without the penalties of the
            model's own generation configuration.

    Returns:
        An answer to each context, in their order.

    Raises:
        UsageError: for contexts and answers that do not fit the model.
    """
    model.eval()
    device, seq2seq = next(model.parameters()).device, model.config.is_encoder_decoder
    sources = [source_ids(tokenizer, context, seq2seq, max_source_length) for context in contexts]
    check_fits(model, [{"input_ids": each} for each in sources], max_new_tokens=max_new_tokens)
    line_break = tokenizer("\n", add_special_tokens=False)["input_ids"]
    # Pegasus's, say, reads it as a blank, which ends nothing.
    one = len(line_break) == 1 and tokenizer.decode(line_break) == "\n"
    ends = [tokenizer.eos_token_id, *(line_break if one else [])]
    answers = [""] * len(sources)
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))
    for length, group in groupby(order, key=lambda index: len(sources[index])):
        same = list(group)
        for chosen in (same[start : start + batch_size] for start in range(0, len(same), batch_size)):
            input_ids = torch.tensor([sources[index] for index in chosen], device=device)
            with warnings.catch_warnings(), plain_generation(model):
                # PEFT counts the positions itself: right, as nothing is padded.
                warnings.filterwarnings("ignore", "Position ids are not supported")
                ids = model.generate(
                    input_ids=input_ids, attention_mask=torch.ones_like(input_ids), max_new_tokens=max_new_tokens,
                    # A model warns of its own padding token wherever it reads one.
                    num_beams=1, eos_token_id=ends, pad_token_id=tokenizer.eos_token_id,
                    **{"do_sample": False} | way,
                )  # fmt: skip
            texts = decode((ids if seq2seq else ids[:, length:]).tolist(), tokenizer)
            for index, text in zip(chosen, texts, strict=True):
                answers[index] = text.strip(" ").split("\n")[0].strip()
    return answers


@torch.no_grad()
def first_token_probabilities(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    num: int,
    max_source_length: int | None = None,
) -> list[tuple[str, float]]:
    """
    The `num` most probable first tokens of the answer to a context, with their probabilities.

    Args:
        model: put into eval mode.
        tokenizer: of its base.
        context: a text.
        num: how many; at most the size of the vocabulary are given.
        max_source_length: tokens of the context; of a longer one the last stay.

    Returns:
        Tokens as the vocabulary has them, with probabilities in [0, 1], the largest first.
    """
    probabilities = next_token_logits(model, tokenizer, context, max_source_length).softmax(-1)
    top = probabilities.topk(min(num, len(probabilities)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [(tokenizer.convert_ids_to_tokens(index), value) for index, value in pairs]


@torch.no_grad()
def next_token_logits(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, context: str, max_source_length: int | None = None
) -> Tensor:
    """
    What a model, or an adapter on it, says of the first token of the answer to a context.

    Args:
        model: put into eval mode.
        tokenizer: of its base.
        context: a text.
        max_source_length: tokens of the context; of a longer one the last stay.

    Returns:
        Logits, float32 (tokens,), on the CPU.
    """
    model.eval()
    device, seq2seq = next(model.parameters()).device, model.config.is_encoder_decoder
    input_ids = torch.tensor([source_ids(tokenizer, context, seq2seq, max_source_length)], device=device)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    # A label of one token, whichever, makes the decoder write one position.
    labels = {"labels": torch.full((1, 1), tokenizer.eos_token_id, device=device)} if seq2seq else {}
    return model(**inputs, **labels).logits[0, -1].float().cpu()

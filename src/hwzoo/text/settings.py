"""What a run on pairs of texts is asked for: its data, its model, how it writes. Recipes make flags of the fields."""

import copy
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..errors import UsageError
from .adapters import PEFT_METHODS, PROMPT_INITS, add_adapter
from .baselines import SuffixRules, lead, oracle_sentence
from .models import build_t5, check_ends, load_seq2seq, load_tokenizer, new_tokenizer, tokenizer_of
from .sources import Columns, TextSplits, limited, load_text

logger = logging.getLogger("hwzoo")

SIZES = ("d_model", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "dropout_rate")
ADAPTER = ("num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text", "lora_rank")
COLUMNS = ("text_column", "summary_column", "references_column", "source_prefix", "tasks")


@dataclass
class DataSettings:
    """
    Args:
        dataset_name (`str`): words, inflections, scitldr, a folder with train.jsonl and so on, or a Hub id.
        dataset_config_name (`str`): configuration of a Hub data set.
        data_dir (`str`): folder that holds inflections/ and scitldr/; HWZOO_DATA_DIR when not given.
        train_file (`str`): json, jsonl or csv, plain or .gz; in place of --dataset_name.
        validation_file (`str`): the same for validation.
        test_file (`str`): the same for the test.
        text_column (`str`): column of the sources; document, article, text or source when not given.
        summary_column (`str`): column of the targets; summary, highlights or target when not given.
        references_column (`str`): column of lists of right targets, '' for none; when not given, summaries or
            references where its lists hold the targets.
        tasks (`list[str]`): rows with these values in the column task; all when not given.
        source_prefix (`str`): before each source, with {columns}; '{task}: ' where there are tasks.
        compounds_per_word (`float`): compounds that end in a training word, for each, as further ones; 8 for words,
            else 0 when not given.
        max_source_length (`int`): tokens of a source, longer ones are cut.
        max_target_length (`int`): tokens of a target in training, longer ones are cut.
        max_eval_samples (`int`): validation pairs that are used, the first.
        max_predict_samples (`int`): test pairs that are used, the first.
        rouge_tokenizer (`str`): ROUGE's words: rouge_score (of a-z and 0-9), unicode (of any script), or auto: unicode
            where the other would drop most letters of the targets.
    """

    dataset_name: str = "words"
    dataset_config_name: str | None = None
    data_dir: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    test_file: str | None = None
    text_column: str | None = None
    summary_column: str | None = None
    references_column: str | None = None
    tasks: list[str] | None = None
    source_prefix: str | None = None
    compounds_per_word: float | None = field(default=None, metadata={"range": "[0, inf)"})
    max_source_length: int = field(default=128, metadata={"range": "[1, inf)"})
    max_target_length: int = field(default=64, metadata={"range": "[1, inf)"})
    max_eval_samples: int | None = field(default=None, metadata={"range": "[1, inf)"})
    max_predict_samples: int | None = field(default=None, metadata={"range": "[1, inf)"})
    rouge_tokenizer: Literal["auto", "rouge_score", "unicode"] = "auto"


@dataclass
class ModelSettings:
    """
    Args:
        tokenizer_name (`str`): folder or Hub id of its tokenizer; the bytes of ByT5 when not given.
        config_vocab_size (`int`): learn a tokenizer of so many tokens from the training texts.
        config_d_model (`int`): width.
        config_d_ff (`int`): units of the hidden layer of a block.
        config_num_layers (`int`): blocks of the encoder.
        config_num_decoder_layers (`int`): blocks of the decoder.
        config_num_heads (`int`): heads of attention.
        config_dropout_rate (`float`): share of units that is dropped.
        peft_method (`str`): adapter that is trained on the frozen model.
        num_virtual_tokens (`int`): of a prompt or prefix.
        prompt_tuning_init (`str`): what a tuned prompt starts with.
        prompt_tuning_init_text (`str`): for --prompt_tuning_init text.
        lora_rank (`int`): of LoRA's updates.
    """

    tokenizer_name: str | None = None
    config_vocab_size: int | None = field(
        default=None, metadata={"range": "[260, inf)", "only": {"tokenizer_name": (None,)}}
    )
    config_d_model: int = field(default=64, metadata={"range": "[1, inf)"})
    config_d_ff: int = field(default=256, metadata={"range": "[1, inf)"})
    config_num_layers: int = field(default=3, metadata={"range": "[1, inf)"})
    config_num_decoder_layers: int = field(default=2, metadata={"range": "[1, inf)"})
    config_num_heads: int = field(default=4, metadata={"range": "[1, inf)"})
    config_dropout_rate: float = field(default=0.0, metadata={"range": "[0, 1)"})
    peft_method: Literal[("none", *PEFT_METHODS)] = "none"
    num_virtual_tokens: int = field(
        default=20,
        metadata={"range": "[1, inf)", "only": {"peft_method": ("prompt_tuning", "prefix_tuning", "p_tuning")}},
    )
    prompt_tuning_init: Literal[PROMPT_INITS] = field(
        default="random", metadata={"only": {"peft_method": ("prompt_tuning",)}}
    )
    prompt_tuning_init_text: str | None = field(
        default=None, metadata={"only": {"peft_method": ("prompt_tuning",), "prompt_tuning_init": ("text",)}}
    )
    lora_rank: int = field(default=8, metadata={"range": "[1, inf)", "only": {"peft_method": ("lora",)}})


@dataclass
class GenerationSettings:
    """
    Args:
        generation_max_new_tokens (`int`): tokens that are generated at most.
        num_beams (`int`): beams of the search; 1 is greedy.
        length_penalty (`float`): exponent of the length by which a beam's score is divided.
    """

    generation_max_new_tokens: int = field(default=64, metadata={"range": "[1, inf)"})
    num_beams: int = field(default=1, metadata={"range": "[1, inf)"})
    length_penalty: float = field(
        default=1.0, metadata={"range": "(-inf, inf)", "only": {"num_beams": range(2, 2**63)}}
    )


def load_pairs(settings: DataSettings) -> TextSplits:
    """The pairs that settings (anything with the fields of `DataSettings`) ask for; raises as `load_text`."""
    files = {split: getattr(settings, f"{split}_file") for split in ("train", "validation", "test")}
    columns = Columns(*(getattr(settings, name) for name in COLUMNS))
    source = settings.dataset_name, settings.data_dir, files, columns, settings.dataset_config_name
    pairs = load_text(*source, settings.compounds_per_word)
    return limited(pairs, None, settings.max_eval_samples, settings.max_predict_samples)


def load_or_build_t5(
    settings: ModelSettings,
    model_name_or_path: str | None,
    pairs: TextSplits,
    load: Callable[..., Any],
    train: bool,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """
    A trained sequence-to-sequence model or adapter, or a new T5, and its tokenizer.

    Args:
        settings: anything with the fields of `ModelSettings`.
        model_name_or_path: of a trained one; None for a new T5.
        pairs: whose training texts a new tokenizer is learned from.
        load: as in `load_seq2seq`.
        train: whether the model, or an adapter further, is to be trained.
        trust_remote_code: whether code that comes with a model or tokenizer is run.

    Returns:
        The model or adapter, and the tokenizer.

    Raises:
        UsageError: for a model that is to be trained and a tokenizer that ends no target; as `load_seq2seq`.
        HwzooError: as `load_seq2seq`.
    """
    if model_name_or_path is not None:
        model = load_seq2seq(model_name_or_path, load, train, trust_remote_code)
        _tell_of_own_sizes(settings, model, model_name_or_path)
        where = settings.tokenizer_name or tokenizer_of(model_name_or_path, model)
        flag = "tokenizer_name" if settings.tokenizer_name else "model_name_or_path"
        tokenizer = load_tokenizer(where, flag, trust_remote_code=trust_remote_code)
        if train:
            check_ends(tokenizer, flag)
        return model, tokenizer
    texts = (each for pair in pairs.train for each in (pair.source, pair.target))
    tokenizer = new_tokenizer(settings.tokenizer_name, settings.config_vocab_size, texts, trust_remote_code)
    return build_t5(tokenizer, **{name: getattr(settings, f"config_{name}") for name in SIZES}), tokenizer


def without_evaluations(run: Any, pairs: TextSplits) -> Any:
    """
    A run that evaluates nothing during its training, and a warning that says so.

    Args:
        run: flags with `eval_steps`; they stay.
        pairs: that have no validation split.

    Returns:
        A copy of the flags without `eval_steps`.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        logger.warning("%s has no validation pairs: no evaluations in training, the last weights are kept", pairs.name)
    run = copy.copy(run)
    run.eval_steps = None
    return run


def _tell_of_own_sizes(settings: ModelSettings, model: Any, name: str):
    """Warns of sizes that were asked for: a trained model has its own."""
    own = (model.get_base_model() if hasattr(model, "get_base_model") else model).config
    given = {each: getattr(settings, f"config_{each}") for each in (*SIZES, "vocab_size")}
    defaults = {each.name.removeprefix("config_"): each.default for each in fields(ModelSettings)}
    asked = {each.removeprefix("config_") for each in getattr(settings, "asked", ())}
    other = {
        each: value
        for each, value in given.items()
        if (each in asked or value != defaults[each]) and value is not None and getattr(own, each, value) != value
    }  # fmt: skip
    if other and os.environ.get("LOCAL_RANK", "0") == "0":  # once for all processes
        kept = ", ".join(f"{each} {getattr(own, each)} (not {value})" for each, value in other.items())
        logger.warning("%s keeps its own %s", name, kept)


def with_adapter(settings: ModelSettings, base: Any, tokenizer: Any, model_name_or_path: str | None) -> Any:
    """
    A model with the adapter that settings ask for; the model itself for "none".

    Args:
        settings: anything with the fields of `ModelSettings`.
        base: the model.
        tokenizer: of the base.
        model_name_or_path: of the base; None for a new model.

    Returns:
        The `peft.PeftModel`, or `base`.

    Raises:
        UsageError: for an adapter on a new model, or on another adapter.
    """
    if settings.peft_method == "none":
        return base
    if model_name_or_path is None or hasattr(base, "peft_config"):
        needed = "--model_name_or_path of a model that is no adapter"
        raise UsageError(f"--peft_method {settings.peft_method} needs {needed}")
    given = {name: getattr(settings, name) for name in ADAPTER}
    return add_adapter(base, settings.peft_method, tokenizer=tokenizer, **given)


def baselines(
    pairs: TextSplits, split_sentences: Callable[[str], Sequence[str]], score: Callable[..., list[float]]
) -> dict[str, list[str]]:
    """
    What needs no network, for the test pairs, by name: rules of suffixes for word tasks; the first sentences, and the
    one sentence nearest to the reference, for summaries.

    Args:
        pairs: with or without tasks.
        split_sentences: of a text.
        score: of predictions and targets, higher is better; it chooses the nearest sentence.

    Returns:
        A text for each test pair, by the baseline's name; none for word tasks without training pairs.
    """
    if pairs.tasks:
        return {"suffix_rules": list(map(SuffixRules(pairs.train), pairs.test))} if pairs.train else {}
    leads = {f"lead_{num}": lead(pairs.test, num, split_sentences) for num in (1, 3)}
    return leads | {"oracle_sentence": oracle_sentence(pairs.test, split_sentences, score)}

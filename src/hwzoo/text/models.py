"""Sequence-to-sequence models and their tokenizers: built from sizes, or loaded, with or without an adapter."""

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub.errors import HTTPError
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from ..errors import HwzooError, UsageError, first_line
from ..loading import check_finite, loading, refuse_code
from ..retry import has_file, retried
from .cache_names import follow_cache_name

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2 as in every T5
# What transformers reads a vocabulary from beside the files that a class of tokenizers names itself.
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tekken.json", "tiktoken.model")
# What a generation configuration may ask for that is no part of one text by greedy decoding or beams: draws, ways to
# generate that transformers 5 takes from the Hub as code, what needs a tokenizer, which only the caller of `generate`
# can give, more texts than one, and more than the ids of them.
NOT_OF_ONE_TEXT = (
    "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "penalty_alpha", "dola_layers", "num_beam_groups", "diversity_penalty", "stop_strings", "token_healing",
    "num_return_sequences", "return_dict_in_generate", *GenerationConfig.extra_output_flags,
)  # fmt: skip


def build_t5(tokenizer: PreTrainedTokenizerBase, **sizes: Any) -> T5ForConditionalGeneration:
    """
    A T5 (Raffel et al., arXiv:1910.10683) with new weights.

    Args:
        tokenizer: decides the vocabulary.
        sizes: `d_model`, `d_ff`, `num_layers`, `num_decoder_layers`, `num_heads`, `dropout_rate`, as in `T5Config`.

    Returns:
        The model in float32; the weights are of torch's global random state.

    Raises:
        UsageError: when `num_heads` does not divide `d_model`, or the decoder is deeper than the encoder.
    """
    if sizes["d_model"] % sizes["num_heads"]:
        raise UsageError(
            f"--config_d_model is {sizes['d_model']}; it must be a multiple of {sizes['num_heads']} heads"
        )
    if sizes["num_decoder_layers"] > sizes["num_layers"]:
        # The key-value cache of `generate` (transformers 5) has as many layers as the encoder.
        raise UsageError(
            f"--config_num_decoder_layers is {sizes['num_decoder_layers']}; it must be at most --config_num_layers, "
            f"{sizes['num_layers']}: transformers' cache for generation is of that depth"
        )
    config = T5Config(
        vocab_size=len(tokenizer),  # ByT5Tokenizer's own vocab_size leaves the special tokens out
        d_kv=sizes["d_model"] // sizes["num_heads"],
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    return T5ForConditionalGeneration(config)


def load_seq2seq(
    model_name_or_path: str,
    load: Callable[..., PreTrainedModel],
    trainable: bool,
    trust_remote_code: bool = False,
    flag: str = "model_name_or_path",
) -> PreTrainedModel:
    """
    A trained sequence-to-sequence model in float32, or a PEFT adapter on its base.

    Args:
        model_name_or_path: folder or Hub id of a model or of an adapter.
        load: gives a model of a class and a name, and refuses missing weights (`hwzoo.hub.load`).
        trainable: whether an adapter is to be trained further.
        trust_remote_code: whether code that comes with the model, or with an adapter's base, is run.
        flag: that gave it, for the errors.

    Returns:
        The model, or a `peft.PeftModel` on its base.

    Raises:
        UsageError: for a model of another kind or with code of its own, or an adapter that cannot be trained further.
        HwzooError: when it, or the base that an adapter names, cannot be loaded.
    """
    from transformers import AutoModelForSeq2SeqLM

    what = f"--{flag} {model_name_or_path}"
    if not has_file(model_name_or_path, "adapter_config.json"):
        try:
            return load(AutoModelForSeq2SeqLM, model_name_or_path, trust_remote_code=trust_remote_code)
        except ValueError as error:
            kind = str(error).split(" for this kind")[0].splitlines()[0]
            raise UsageError(f"{what} is no sequence-to-sequence model: {kind}") from error

    from peft import PeftConfig, PeftModel

    with _loading(model_name_or_path, what) as source:
        config = retried(lambda: PeftConfig.from_pretrained(source), what)
    if getattr(config, "megatron_config", None):
        raise UsageError(f"{what} is an adapter for Megatron: it names a module of its own to be imported")
    if trainable and config.is_prompt_learning:
        raise UsageError(
            f"{what}: PEFT does not train an adapter of {config.peft_type.value.lower()} further; --max_steps 0 tests "
            "it, --peft_method on its base makes a new one"
        )
    base = config.base_model_name_or_path
    if base is None:
        raise HwzooError(f"{what} is an adapter that names no base model")
    try:
        model = load(AutoModelForSeq2SeqLM, base, trust_remote_code=trust_remote_code)
    except (HwzooError, ValueError) as error:
        kind = UsageError if isinstance(error, UsageError) else HwzooError
        raise kind(f"{what} is an adapter whose base cannot be loaded: {error}") from error
    with _loading(model_name_or_path, what, dtype=torch.float32) as source:
        model = retried(lambda: PeftModel.from_pretrained(model, source, is_trainable=trainable), what)
    check_finite(model, model_name_or_path)
    return follow_cache_name(model)


@contextmanager
def _loading(model_name_or_path: str, what: str, **kwargs: Any) -> Iterator[str]:
    """`loading` of what a library tells nothing of beside its errors."""
    try:
        with loading(model_name_or_path, **kwargs) as source:
            yield source
    except (OSError, HTTPError, ValueError) as error:
        raise HwzooError(f"{what} cannot be loaded: {first_line(error)}") from error


def load_tokenizer(
    name_or_path: str, flag: str = "tokenizer_name", end_may_pad: bool = False, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a folder or a Hub id.

    Args:
        name_or_path: the folder or Hub id.
        flag: that gave it, for the errors.
        end_may_pad: whether the end token pads where there is no pad token, as in GPT-2's.
        trust_remote_code: whether code that comes with it is run.

    Returns:
        The tokenizer; its `name_or_path` is the one given.

    Raises:
        HwzooError: when there is none, or a file of it is damaged.
        UsageError: when it has no pad token or no end token, or code of its own.
    """
    try:
        with loading(name_or_path, trust_remote_code=trust_remote_code) as source:
            config = retried(lambda: get_tokenizer_config(source), f"--{flag} {name_or_path}")
            # Without permission transformers takes the one that it knows for the model's type in its place.
            if config.get("auto_map") and not hasattr(transformers, str(config.get("tokenizer_class"))):
                refuse_code(name_or_path, trust_remote_code)
            tokenizer = retried(
                lambda: AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code),
                f"--{flag} {name_or_path}",
            )
    except (OSError, ValueError) as error:
        raise HwzooError(f"--{flag} {name_or_path}: its tokenizer cannot be loaded: {first_line(error)}") from error
    # Of no file transformers makes a T5's or GPT-2's tokenizer of special tokens alone, which reads every word as
    # unknown: findings/t5_tokenizer_of_nothing.sh. ByT5's needs no file, and names none.
    own = tuple(getattr(tokenizer, "vocab_files_names", {}).values())
    if own and not any(has_file(name_or_path, name) for name in dict.fromkeys(VOCABULARIES + own)):
        raise HwzooError(f"--{flag} {name_or_path} has no tokenizer")
    tokenizer.name_or_path = name_or_path  # wherever it was read from
    if tokenizer.pad_token_id is None and end_may_pad:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise UsageError(f"--{flag} {name_or_path}: its tokenizer has no pad token or no end token")
    return tokenizer


def new_tokenizer(
    name_or_path: str | None, vocab_size: int | None, texts: Iterable[str], trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """
    The tokenizer of a new model: the named one, else one of `vocab_size` tokens learned from `texts`, else that of
    ByT5 (Xue et al., arXiv:2105.13626): 256 bytes and 128 special tokens, no files.

    Args:
        name_or_path: folder or Hub id of a tokenizer.
        vocab_size: number of tokens to learn, at least 260.
        texts: of training; read only to learn from them.
        trust_remote_code: whether code that comes with a named one is run.

    Returns:
        The tokenizer, with a pad and an end token.

    Raises:
        UsageError: for a named one that ends no target, or as `load_tokenizer`.
        HwzooError: as `load_tokenizer`.
    """
    if name_or_path is not None:
        tokenizer = load_tokenizer(name_or_path, trust_remote_code=trust_remote_code)
        check_ends(tokenizer, "tokenizer_name")
        return tokenizer
    return ByT5Tokenizer() if vocab_size is None else train_tokenizer(texts, vocab_size)


def check_ends(tokenizer: PreTrainedTokenizerBase, flag: str):
    """
    Checks that a tokenizer ends what a sequence-to-sequence model is trained to write.

    Args:
        tokenizer: of the model.
        flag: that gave it, for the error.

    Raises:
        UsageError: when it does not, as GPT-2's: the model would never learn to end.
    """
    # The first one may be that token too, for the beginning; mBART's has a language behind it.
    ids = tokenizer(text_target="a")["input_ids"]
    if tokenizer.eos_token_id not in ids[1:] and ids != [tokenizer.eos_token_id]:  # which may know no such letter
        told = f"its tokenizer must put its end token, {tokenizer.eos_token}, behind a target; it does not"
        raise UsageError(f"--{flag} {tokenizer.name_or_path}: {told}")


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """
    A tokenizer of pieces of words (byte-level BPE) learned from texts, with T5's special tokens and end token.

    Args:
        texts: of training.
        vocab_size: number of tokens, at least 259: the 256 bytes and the special ones.

    Returns:
        The tokenizer, of at most so many tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    named = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    named["model_input_names"] = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named)


def base_of(model: PreTrainedModel) -> str | None:
    """Folder or Hub id of the model that an adapter is of; None for a whole model."""
    return getattr(getattr(model, "active_peft_config", None), "base_model_name_or_path", None)


def tokenizer_of(folder: str, model: PreTrainedModel) -> str:
    """
    Where the tokenizer of a loaded model is: with it, or, for an adapter without one, with its base.

    Args:
        folder: or Hub id that the model was loaded from.
        model: the model, or the adapter on its base.

    Returns:
        A folder or a Hub id for `load_tokenizer`.
    """
    base = base_of(model)
    if base is not None and not has_file(folder, "tokenizer_config.json"):
        return base
    return folder


def adapter_of(model: PreTrainedModel) -> str | None:
    """The kind of adapter that a model has, in lower case (`prompt_tuning`, `lora`, ...); None for a whole model."""
    config = getattr(model, "active_peft_config", None)
    return None if config is None else config.peft_type.value.lower()


def generation_config(
    model: PreTrainedModel, generation_max_new_tokens: int, num_beams: int = 1, length_penalty: float = 1.0
) -> GenerationConfig:
    """
    How a model generates, stated in full: also set on the model, so that `generate()` without arguments does the same.

    Args:
        model: or adapter; what its own configuration says beyond these arguments stays (forbidden repetitions, say),
            but for draws, several texts for one source, outputs beside the ids, and ends by their letters.
        generation_max_new_tokens: at most so many tokens, the start token not counted.
        num_beams: 1 for greedy decoding.
        length_penalty: exponent of the length by which the score of a beam is divided.

    Returns:
        A copy of what is set on the model.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = copy.deepcopy(base.generation_config)
    # `max_length` would count the start token, and the rest is for sampling or for beams alone.
    config.max_length = None
    config.max_new_tokens, config.num_beams = generation_max_new_tokens, num_beams
    config.length_penalty = length_penalty if num_beams > 1 else None
    if num_beams == 1:
        config.early_stopping = None
    # Evaluations draw nothing: False is stated, as `generate` takes what is None from the model's own.
    config.do_sample = False
    if cache_is_too_short(base.config):
        config.use_cache = False
    for name in NOT_OF_ONE_TEXT:
        setattr(config, name, None)
    config._from_model_config = False
    base.generation_config = config
    return copy.deepcopy(config)


def cache_is_too_short(config: PreTrainedConfig) -> bool:
    """
    Whether the key-value cache that `generate` makes (transformers 5) lacks layers of a decoder: a T5's is as deep as
    its encoder. Without a cache it generates the same, more slowly: `findings/t5_cache_depth.sh`.

    Args:
        config: of the model.
    """
    return (getattr(config, "num_decoder_layers", None) or 0) > getattr(config, "num_hidden_layers", math.inf)


@contextmanager
def plain_generation(model: PreTrainedModel) -> Iterator[None]:
    """
    Meanwhile `generate` does what it is told, and else what the library's defaults say: not the temperature, the cuts
    and the penalties that a model's own configuration asks for; its special tokens stay.

    Args:
        model: or an adapter.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    cache = {"use_cache": False} if cache_is_too_short(base.config) else {}
    kept = [(each, each.generation_config) for each in (model, base) if "generation_config" in vars(each)]
    try:
        for each, own in kept:
            ids = {name: value for name, value in own.to_dict().items() if name.endswith("token_id")}
            # BART's first and last token whatever the model says, which of one new token are all.
            ids = {name: value for name, value in ids.items() if not name.startswith("forced_")}
            each.generation_config = GenerationConfig(**ids, **cache)
        yield
    finally:
        for each, own in kept:
            each.generation_config = own


def describe(config: GenerationConfig) -> str:
    """A generation's settings in words, for protocols."""
    own = {"max_new_tokens", "num_beams", "length_penalty", "transformers_version", "use_cache"}
    own |= {name for name in config.to_diff_dict() if name.endswith("_token_id") or name.startswith("_")}
    words = [f"at most {config.max_new_tokens} new tokens"]
    words.append(
        "greedy" if config.num_beams == 1 else f"{config.num_beams} beams, length penalty {config.length_penalty}"
    )
    others = {name: value for name, value in config.to_diff_dict().items() if name not in own and value is not False}
    return ", ".join(words + [f"{name} {value}" for name, value in others.items()])


def decode(ids: np.ndarray | Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """
    Texts of ids that a model reads or writes.

    Args:
        ids: a row for each text, padded with the pad token or a negative number.
        tokenizer: of the model.

    Returns:
        A text for each row, without what tokenizer and generation put around texts: the tokens of beginning, end,
        padding, a language, and what is not known. Other special tokens, as T5's <extra_id_0>, are part of a text.
    """
    added = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    added |= set(tokenizer(text_target="")["input_ids"])  # BERT's have names of their own
    languages = getattr(tokenizer, "lang_code_to_id", {})
    added |= set(languages.values())
    if hasattr(tokenizer, "tgt_lang") and not languages:  # NLLB's are among its further special tokens, all of them
        added |= set(tokenizer.all_special_ids)
    rows = [[int(token) for token in row if token >= 0 and int(token) not in added] for row in ids]
    texts = tokenizer.batch_decode(rows)
    kept = [token for token in tokenizer.all_special_tokens if tokenizer.convert_tokens_to_ids(token) not in added]
    if kept and tokenizer(f"a {kept[0]}")["input_ids"] == tokenizer(f"a{kept[0]}")["input_ids"]:
        # T5's own reads no blank before one, as before all of them in its pre-training.
        before = re.compile(rf"(?<=\S)(?={'|'.join(map(re.escape, kept))})")
        texts = [before.sub(" ", text) for text in texts]
    return texts


def mean_length(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> float:
    """
    Mean number of generated tokens, the first end token counted, start and padding not.

    Args:
        ids: (num, length), each row of a start token, then what was generated, padded with the end token, the pad
            token or a negative number.
        tokenizer: whose end token is counted once, and whose pad token is not.

    Returns:
        The mean over the rows, in tokens.
    """
    generated = ids[:, 1:]
    ends = generated == tokenizer.eos_token_id
    # Where the pad token is 0, as T5's, transformers 5 fills a beam that has ended with end tokens.
    written = (generated >= 0) & (generated != tokenizer.pad_token_id) & (ends.cumsum(1) <= ends)
    return float(written.sum(1).mean())

"""Whether a model has an embedding for each token, and a position for each place, that it is to read or write."""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import UsageError


def check_fits(
    model: nn.Module,
    rows: Sequence[Mapping[str, Tensor | Sequence[int]]],
    *,
    max_new_tokens: int = 0,
    flag: str = "model_name_or_path",
    source: str = "--max_source_length",
    target: str = "--max_target_length",
):
    """
    Checks that a model has all that texts need: PyTorch would only tell of an index that is out of range.

    Args:
        model: sequence-to-sequence or causal, or an adapter on one.
        rows: `input_ids` of each text that it reads, and, where it is trained or scored, `labels`.
        max_new_tokens: that it may generate after any of them.
        flag: that gave its tokenizer, for the error.
        source: what the texts that it reads are called in the error.
        target: what a sequence-to-sequence model's labels are called in the error.

    Raises:
        UsageError: naming that flag, or those that make texts or an adapter as long as they are.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    # Some have more tokens to write than to read.
    layers = {"input_ids": base.get_input_embeddings(), "labels": base.get_output_embeddings()}
    for name, layer in layers.items():
        largest = max((int(torch.as_tensor(row[name]).max()) for row in rows if len(row.get(name, ()))), default=0)
        if layer is not None and largest >= (known := layer.weight.shape[0]):
            raise UsageError(f"--{flag}: its tokenizer gives the token {largest}, the model has embeddings of {known}")
    config = getattr(model, "active_peft_config", None)
    virtual = {"--num_virtual_tokens": getattr(config, "num_virtual_tokens", None) or 0}
    sources = {source: max((len(row["input_ids"]) for row in rows), default=0)}
    labels = {target: max((len(row["labels"]) for row in rows if "labels" in row), default=0)}
    new = {"--generation_max_new_tokens": max_new_tokens}
    if not base.config.is_encoder_decoder:
        _check_positions(base, "decoder", sources | virtual | new, not_read=min(1, max_new_tokens))
        return
    # A prefix stands before what the decoder writes, a prompt before what the encoder reads.
    has_prefix = config is not None and config.peft_type == "PREFIX_TUNING"
    _check_positions(base, "encoder", sources if has_prefix else sources | virtual)
    for written in (labels, new):
        _check_positions(base, "decoder", written | virtual if has_prefix else written)


def _check_positions(base: nn.Module, part: str, tokens: Mapping[str, int], not_read: int = 0):
    """Raises UsageError where a part has fewer positions than there are tokens, by their names, less some."""
    needed = sum(tokens.values()) - not_read
    config = getattr(base.config, part, base.config)
    stated = (getattr(config, name, None) for name in (f"max_{part}_position_embeddings", "max_position_embeddings"))
    most = next((each for each in stated if isinstance(each, int)), None)
    # Of positions that are relative or computed, what a configuration states is no limit.
    if most is not None and needed > most and not _has_positions(base, part, needed):
        longest = ", ".join(f"{name} ({num} tokens)" for name, num in tokens.items() if num)
        raise UsageError(f"{longest}: {needed} positions are needed, the model has {most}")


@torch.no_grad()
def _has_positions(base: nn.Module, part: str, num: int) -> bool:
    """Whether it reads, or writes, so many tokens; on a CPU, whose errors leave the device as it is."""
    base = copy.deepcopy(base).cpu().eval()
    many, one = torch.ones((1, num), dtype=torch.long), torch.ones((1, 1), dtype=torch.long)
    seq2seq = base.config.is_encoder_decoder
    read, written = (one, many) if seq2seq and part == "decoder" else (many, one)
    try:
        base(input_ids=read, **({"decoder_input_ids": written} if seq2seq else {}))
    except (IndexError, RuntimeError):
        return False
    return True

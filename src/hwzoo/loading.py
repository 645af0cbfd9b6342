"""Loading what others saved: where it is whole, no code of it unasked, and one line where a file of it is damaged."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, HTTPError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import nn

from .errors import HwzooError, UsageError, first_line
from .files import ENTRIES, settled

# Files of JSON that the libraries read; each holds an object.
SETTINGS = (
    *ENTRIES,
    *("generation_config.json", "preprocessor_config.json", "processor_config.json", "scheduler_config.json"),
    *("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
)
WEIGHTS, INDEXES = "*.safetensors", "*.safetensors.index*.json"  # of a variant, index.fp16.json
HALF = {"F16": "float16", "BF16": "bfloat16"}
TRUST = "runs the code that comes with the model: only for people you trust"


class OwnCode(UsageError):
    """A model needs code that comes with it, and nobody has allowed to run that."""


@contextmanager
def loading(
    name_or_path: str,
    *subfolders: str,
    trust_remote_code: bool | None = None,
    dtype: torch.dtype | None = None,
    **cache: Any,
) -> Iterator[str]:
    """
    Yields where to load a model, or what belongs to one, from: of a folder whose final files are on their way to their
    places, where they are whole. What the libraries report meanwhile is not printed; ours is the only line.

    Args:
        name_or_path: folder or Hub id.
        subfolders: of it that are read too, as of a pipeline.
        trust_remote_code: whether the caller has the user's word, the flag `--trust_remote_code`, for running code
            that comes with the model; None where there is no such flag, as no such model could serve.
        dtype: float32 where weights of half precision become that; a line tells it.
        cache: `revision` and `cache_dir` of `from_pretrained`, where they are given.

    Returns:
        The folder or Hub id to load from, as the value of the `with`.

    Raises:
        HwzooError: naming the file that is cut, empty or of another type, or what else a library stumbles over.
        OwnCode: when it needs code of its own to be run, and that is not allowed.
        OSError, ValueError: of the libraries, as they are.
    """
    source = settled(name_or_path)
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    levels = [logger.level for logger in loggers]
    local = Path(name_or_path).is_dir()
    half = _check(source, subfolders) if local else []
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield source
    except HwzooError:
        raise
    except Exception as error:
        if not local:
            _check(_cached(name_or_path, subfolders, **cache), subfolders)
        if "trust_remote_code" in str(error):
            raise OwnCode(_brings_code(name_or_path, trust_remote_code)) from error
        if isinstance(error, StrictDataclassError):  # a config that tells which of its fields is wrong
            raise HwzooError(f"{name_or_path}: its config.json says: {error.__cause__ or error}") from error
        if isinstance(error, (OSError, HTTPError, ValueError)):
            raise
        told = f"{type(error).__name__}: {first_line(error)}"
        raise HwzooError(f"{name_or_path} cannot be loaded: {told}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    if not local:
        half = _check(_cached(name_or_path, subfolders, **cache), subfolders)
    if dtype == torch.float32:
        for told in half:
            logging.getLogger("hwzoo").warning(f"{told}; it is loaded as float32")


def refuse_code(name_or_path: str, trust_remote_code: bool | None):
    """
    Args:
        name_or_path: of the model, for the error.
        trust_remote_code: the user's word; None where there is no flag for it.

    Raises:
        OwnCode: for a model that has code of its own, unless it may be run.
    """
    if not trust_remote_code:
        raise OwnCode(_brings_code(name_or_path, trust_remote_code))


def check_all_loaded(report: dict, name_or_path: str, model: nn.Module | None = None):
    """
    Args:
        report: of a library on loading.
        name_or_path: of the model, for the error.
        model: that was loaded; positions that it computes by itself, as a Pegasus, may be missing.

    Raises:
        HwzooError: when weights are missing, left over or of another shape.
    """
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = {str(key[0] if isinstance(key, tuple) else key) for key in report[kind]}
        if kind == "missing_keys" and model is not None:
            modules = dict(model.named_modules())
            keys = {key for key in keys if "Sinusoidal" not in type(modules.get(key.rpartition(".")[0])).__name__}
        if keys:
            names = ", ".join(sorted(keys))
            raise HwzooError(f"{name_or_path} has {kind.replace('_keys', '')} weights: {names}")


def check_finite(model: nn.Module, name_or_path: str, *subfolders: str, **cache: Any):
    """
    Args:
        model: that was loaded.
        name_or_path: from where.
        subfolders: of it that hold its weights; itself when there are none.
        cache: as of `loading`.

    Raises:
        HwzooError: when weights, or buffers that are saved, are not finite; it names the file and the weight.
    """
    tensors = model.state_dict().items()
    bad = [name for name, tensor in tensors if tensor.is_floating_point() and not tensor.isfinite().all()]
    if not bad:
        return
    for path in weight_files(name_or_path, *subfolders, **cache):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not tensor.float().isfinite().all():
                    raise HwzooError(f"{path}: the weights {name} are not finite")
    raise HwzooError(f"{name_or_path}: the weights {bad[0]} are not finite")


def weight_files(name_or_path: str, *subfolders: str, **cache: Any) -> list[Path]:
    """
    Args:
        name_or_path: folder or Hub id of a model that was loaded.
        subfolders: of it that hold weights too.
        cache: as of `loading`.

    Returns:
        Its files of safetensors by name, in the folder or in the cache; none of one with weights in other files.
    """
    local = Path(name_or_path).is_dir()
    source = settled(name_or_path) if local else _cached(name_or_path, subfolders, **cache)
    return [path for folder in _folders(source, subfolders) for path in sorted(folder.glob(WEIGHTS))]


def _brings_code(name_or_path: str, trust_remote_code: bool | None) -> str:
    told = f"{name_or_path} brings code of its own, which is not run"
    return told if trust_remote_code is None else f"{told}; --trust_remote_code {TRUST}"


def _cached(name: str, subfolders: tuple[str, ...], **cache: Any) -> str | None:
    """The folder of a repository's files in the cache; None where there are none."""
    places = ("", *(f"{each}/" for each in subfolders))
    entries = [f"{place}{entry}" for place in places for entry in (*ENTRIES, "tokenizer_config.json")]
    try:
        paths = {entry: try_to_load_from_cache(name, entry, **cache) for entry in entries}
    except HFValidationError:  # no id, but a folder that is not there
        return None
    found = (str(Path(path[: -len(entry)])) for entry, path in paths.items() if isinstance(path, str))
    return next(found, None)


def _folders(source: str | None, subfolders: tuple[str, ...]) -> list[Path]:
    return [] if source is None else [Path(source), *(Path(source) / each for each in subfolders)]


def _check(source: str | None, subfolders: tuple[str, ...]) -> list[str]:
    """
    Reads every file that the libraries will read, as far as can be told without them; of large ones the headers. Tells
    which are of half precision.
    """
    told = []
    for folder in _folders(source, subfolders):
        for path in sorted(path for name in (*SETTINGS, INDEXES) for path in folder.glob(name)):
            try:
                content = json.loads(path.read_bytes())
            except (ValueError, RecursionError) as error:
                raise HwzooError(f"{path} is not valid JSON: {first_line(error)}") from error
            except OSError as error:
                raise HwzooError(f"{path} cannot be read: {error.strerror}") from error
            if not isinstance(content, dict):
                raise HwzooError(f"{path} holds a JSON {type(content).__name__}; it must be an object")
        for path in sorted(folder.glob(WEIGHTS)):
            try:
                with safe_open(path, "pt") as file:
                    kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (it is no dict)
            except (SafetensorError, OSError) as error:
                raise HwzooError(f"{path} is no whole file of safetensors: {first_line(error)}") from error
            if half := sorted(HALF[kind] for kind in kinds & set(HALF)):
                told.append(f"{path} holds {' and '.join(half)}")
    return told

"""The flags that every image recipe shares, and how flags and presets are parsed and checked."""

import copy
import difflib
import logging
import math
import os
import re
import reprlib
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Container, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
import yaml
from accelerate.utils import parse_flag_from_env
from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, HTTPError, RemoteEntryNotFoundError
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..errors import HwzooError, UsageError, first_line
from ..files import NAMED_DATA, is_repo_id, public_name, settled, write_bytes
from ..packaged import Preset, preset_of, presets
from ..retry import UNREADABLE, not_read, retried, status_of

logger = logging.getLogger("hwzoo")

# `expected` holds the band of each test number of a preset; the reproduction test reads it, a recipe does not.
KEYS_FOR_TESTS = {"expected"}
DEFAULT_RUNS = ("digits", "words")  # the presets that say what to expect of a recipe's run without flags
OF_ONE_TRY = {"config", "data_dir", "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "report_to"}
OF_ONE_TRY |= {"push_to_hub", "hub_model_id", "hub_private_repo", "base_model_id", "trust_remote_code"}
OF_ONE_TRY |= {"asked", "changed", "expected"}  # of the parser
# What else no step of an image recipe depends on. The data has a digest, a batch its size over all processes.
OF_NO_STEP = {"dataset_name", "dataset_config", "image_column", "label_column", "model_name_or_path"}
OF_NO_STEP |= {"train_batch_size", "eval_batch_size", "num_train_epochs"}
OF_NO_STEP |= {"max_train_steps", "checkpointing_steps", "checkpoints_total_limit", "logging_steps", "eval_steps"}
# Of a model's configuration: a model that goes on keeps those of the data that it was trained on first.
OF_FIRST_DATA = ("image_mean", "image_std")
OF_NO_BAND = {"seed", "num_threads", "eval_batch_size", "logging_steps", "eval_steps", "checkpointing_steps"}
OF_NO_BAND |= {"checkpoints_total_limit", "per_device_eval_batch_size", "save_steps", "save_total_limit"}
RECORD = "preset.yaml"  # of a run, in its folder
OF_PATHS = (
    "preset",
    "recipe",
    "models",
    "others",
    "predictions",
    "_dir",
    "_file",
    "_path",
    "_checkpoint",
    "dataset_name",
    "tokenizer_name",
    "classifier",
    "config",
)
OF_NAMED_PATHS = {"models", "predictions"}  # each may be NAME=PATH
OF_MODELS = {"model_name_or_path", "classifier"}  # their names stand in results and cards
LONGEST_NAME = 255  # bytes of a file's or folder's name
OF_FOLDERS = {"config", "data_dir"}  # not of weights, which safetensors reads from names in UTF-8 only
TRACKERS = ("tensorboard", "trackio", "wandb")
# Texts, which may be empty; every other flag with words for its value names something.
MAY_BE_EMPTY = {"source_prefix", "instruction", "content_free", "prompt_tuning_init_text", "template"}
LARGEST_INTEGER = 2**63 - 1  # of torch
RISING = ("constant_with_warmup", "linear", "cosine", "polynomial")  # schedules with a warm-up
VALUE = re.compile(r"-([\d.]|(inf|nan)$)")  # argparse alone takes -1e-3, -inf and -1=words for flags
DEEPEST_PRESET = 20  # lists and mappings in one another; the presets have three
# Of these the one that is given displaces the other's default or preset.
EXCLUSIVE = ("num_train_epochs", "max_train_steps", "max_steps")
# Of the flags in --help, in this order, by the dataclass that holds them; those of all others are of the run.
GROUPS = ("run", "data", "model", "method", "sharing")
GROUP_OF_CLASS = {"Data": "data", "Tasks": "data", "Model": "model", "Base": "model"}
GROUP_OF_CLASS |= {"Optimizer": "method", "Method": "method", "Protocol": "method", "Prompts": "method"}


def flag(
    default: Any,
    help: str,
    allowed: str | None = None,
    some_of: Sequence[str] | None = None,
    only: Mapping[str, Container] | None = None,
    empty: bool = False,
) -> Any:
    """
    A dataclass field that is a command-line flag.

    Args:
        default: its value when it is not given.
        help: one line for `--help`.
        allowed: the interval of a number, or of each of a list, as in mathematics: "[0, 1)"; NaN is in none. `--help`
            shows it.
        some_of: the words that a list may hold; `--help` shows them.
        only: the values of other flags, by name, with which this one has an effect; a line tells who gives it in vain.
        empty: whether a list may be empty: the flag without a value.

    Returns:
        The field, with `help` and, where they are given, `range` (the interval), `some_of`, `only` and `empty` in its
        metadata.
    """
    metadata = {"help": help} | ({"range": allowed} if allowed else {}) | ({"only": only} if only else {})
    metadata |= {"empty": True} if empty else {}
    if some_of is not None:
        metadata |= {"help": f"{help}, some of {', '.join(some_of)}".removeprefix(", "), "some_of": some_of}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class _Given:
    """Of `only`: any value that is given."""

    def __contains__(self, value: Any) -> bool:
        return value is not None


GIVEN = _Given()
flag_of_new = partial(flag, only={"model_name_or_path": (None,)})  # of a model that is built, not loaded


@dataclass
class Flags:
    """
    Base of the dataclasses of flags: checks each number, and each word of a list, against what its `flag` allows, and
    that words are not empty (but for MAY_BE_EMPTY) and can be written into a file; None passes.

    Attributes:
        FIRST: the flag whose value may come first, without its name: `evaluate_generator.py outputs/vae --seed 1`.
        FREE: flags that a resumed run may give another value: no step depends on them.
        OF_TRAINED: whether a trained model that is loaded decides them.
        asked: the flags that the command line or its preset gave, also those that gave a default; no flag.
        changed: whether the run is another than that of its preset, by other flags or processes; no flag.
        expected: lowest and highest normal value of test numbers by name, where a preset tells; no flag.

    Raises:
        UsageError: naming the flag, the value and what is allowed.
    """

    FIRST: ClassVar[str | None] = None
    FREE: ClassVar[Set[str]] = frozenset()
    OF_TRAINED: ClassVar[bool] = False
    asked: ClassVar[Set[str]] = frozenset()
    changed: ClassVar[bool] = False
    expected: ClassVar[Mapping[str, tuple[float, float]]] = MappingProxyType({})

    def __post_init__(self):
        for each in fields(self):
            interval, value = each.metadata.get("range"), getattr(self, each.name)
            if "some_of" in each.metadata and isinstance(value, list) and len(set(value)) < len(value):
                raise UsageError(f"--{each.name} is {' '.join(value)}; each may be given once")
            for item in value if isinstance(value, list | tuple) else [value]:
                if isinstance(item, str):
                    _check_words(each.name, item)
                    if item not in (known := each.metadata.get("some_of", [item])):
                        raise UsageError(f"--{each.name} has {item}; it must be some of {', '.join(known)}")
                elif interval is not None and item is not None:
                    _check_number(each.name, item, interval)
            if each.name in OF_MODELS and value is not None:
                setattr(self, each.name, _with_name(value))


def _check_number(name: str, number: float, interval: str):
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = number >= low if interval[0] == "[" else number > low
    below = number <= high if interval[-1] == "]" else number < high
    if not (above and below):
        raise UsageError(f"--{name} is {number}; it must be in {interval}")
    if isinstance(number, int) and number > LARGEST_INTEGER:
        raise UsageError(f"--{name} is {number}; it must be at most {LARGEST_INTEGER}")


def _check_words(name: str, words: str):
    if not words.strip() and name not in MAY_BE_EMPTY:
        raise UsageError(f"--{name} is {words!r}; it must not be empty")
    try:
        # The name of one may be any bytes, which Python tells by surrogates; what else is given stands in results.
        data = words.encode(errors="surrogateescape" if name in OF_FOLDERS else "strict")
    except UnicodeEncodeError:
        data = b"\0"
    if b"\0" in data:
        raise UsageError(f"--{name} is {words!r}; it holds what no text in a file can")
    if name.endswith(OF_PATHS) and any(len(part) > LONGEST_NAME for part in data.split(b"/")):
        raise UsageError(f"--{name} is {reprlib.repr(words)}; a name has at most {LONGEST_NAME} bytes")


def _with_name(model: str) -> str:
    """A folder's path so that it ends with the folder's name: `.` is `../name`; a Hub id as it is."""
    path = Path(model)
    if path.name in ("", "..") and path.is_dir() and path.resolve().name:
        return str(path / ".." / path.resolve().name)
    return str(path) if model.endswith("/") and path.is_dir() else model


@dataclass
class ImageData(Flags):
    """How a data set of images is read, beside its name; the flags of every recipe that takes one."""

    dataset_config: str | None = flag(None, "of a Hub data set that has several configurations")
    image_column: str | None = flag(None, "column of the images, where a data set has several")
    label_column: str | None = flag(None, "column of the classes, where a data set has several; none for no classes")
    background: Literal["white", "black"] = flag("white", "what transparent pixels show, and what --resize pad adds")
    image_size: int | None = flag(
        None, "height and width that all images get; as they are when not given", "[1, 4096]"
    )
    resize: Literal["crop", "pad", "stretch"] = flag(
        "crop", "how --image_size makes squares of other images", only={"image_size": GIVEN}
    )
    test_share: float = flag(0.2, "share of a data set without test images that becomes them", "(0, 1)")
    validation_share: float = flag(
        0.0, "share of the training images held out, on which evaluations during training are", "[0, 1)"
    )


@dataclass
class RecordedData(ImageData):
    """What a run records of its data."""

    dataset_name: str | None = None
    data_dir: str | None = None


@dataclass
class LoopArguments(Flags):
    """The flags of a run of the loop, whatever its data."""

    FREE = OF_ONE_TRY | OF_NO_STEP

    config: str | None = flag(None, "a preset by name, or a YAML file with flags as keys; the command line wins")
    output_dir: str = flag("outputs", "folder for the model, results, pictures and checkpoints")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")
    seed: int = flag(0, "seed of the initial weights, the order of the data and all noise", "[0, 4294967295]")
    train_batch_size: int = flag(100, "examples a step, for each process and each accumulated batch", "[1, inf)")
    eval_batch_size: int = flag(500, "examples a batch when evaluating", "[1, inf)")
    num_train_epochs: float | None = flag(
        None, "passes over the training set; in place of --max_train_steps", "(0, inf)"
    )
    max_train_steps: int | None = flag(None, "optimiser steps; in place of --num_train_epochs", "[0, inf)")
    learning_rate: float = flag(1e-3, "peak learning rate", "(0, inf)")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"] = flag(
        "constant", "schedule of the learning rate"
    )
    lr_warmup_steps: int = flag(0, "steps over which the rate rises from 0", "[0, inf)", only={"lr_scheduler": RISING})
    max_grad_norm: float | None = flag(
        None, "gradients are scaled down to this norm; no limit when not given", "(0, inf)"
    )
    gradient_accumulation_steps: int = flag(1, "batches whose gradients are averaged into one step", "[1, inf)")
    mixed_precision: Literal["no", "bf16"] = flag(
        "no", "bf16 runs matrix products in bfloat16; a preset's only where the processor has instructions for it"
    )
    num_threads: int | None = flag(
        None, "threads of a process; OMP_NUM_THREADS, or else its share of the cores, when not given", "[1, 1024]"
    )
    use_ema: bool = flag(False, "test and save the exponential moving average of the weights")
    ema_decay: float = flag(
        0.999, "decay a step of the average, after its warm-up", "[0, 1)", only={"use_ema": (True,)}
    )
    checkpointing_steps: int | None = flag(
        1000, "steps between checkpoints; one is always taken at the end", "[1, inf)"
    )
    checkpoints_total_limit: int | None = flag(2, "checkpoints kept, the newest", "[1, inf)")
    resume_from_checkpoint: str | None = flag(
        None, "'latest' for the newest whole checkpoint in the output folder, or the path of a checkpoint"
    )
    logging_steps: int = flag(50, "steps between log lines, each the average over them", "[1, inf)")
    eval_steps: int | None = flag(1000, "steps between evaluations during training", "[1, inf)")
    model_name_or_path: str | None = flag(
        None, "folder or Hub id of a trained model to go on from, with its architecture; 0 steps only test it"
    )
    push_to_hub: bool = flag(False, "send the results to the Hub, with the token of HF_TOKEN or the login")
    hub_model_id: str | None = flag(None, "repository to push to, owner/name")
    hub_private_repo: bool = flag(False, "push to a private repository", only={"push_to_hub": (True,)})
    report_to: list[str] = flag(["none"], f"experiment trackers: {', '.join(TRACKERS)}, or none")

    def __post_init__(self):
        super().__post_init__()
        one_length(self)
        if self.max_train_steps == 0 and self.model_name_or_path is None:
            raise UsageError("--max_train_steps is 0 without --model_name_or_path: there is nothing to test")
        check_destinations(self)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimiser steps of the whole run, for an epoch of so many."""
        if self.num_train_epochs is not None:
            steps = round(self.num_train_epochs * steps_per_epoch, 6)  # 0.07 * 100 is a little more than 7
            return max(1, math.ceil(steps))
        return self.max_train_steps if self.max_train_steps is not None else steps_per_epoch


@dataclass
class RunArguments(LoopArguments, ImageData):
    """The flags of a run on images; a recipe derives from it to give its own defaults."""

    dataset_name: str = flag(
        "digits", "digits, mnist, fashion_mnist, a Hub id, or a folder with idx files or with images by class"
    )
    data_dir: str | None = flag(
        None, "folder that holds mnist/ or fashion_mnist/ with their idx files; HWZOO_DATA_DIR when not given"
    )


OF_IMAGES = {each.name for each in fields(ImageData)}


def one_length(run: Flags):
    """Of two flags for the length of a run one may be given: a recipe's default gives way to the other."""
    given = [name for name in EXCLUSIVE if getattr(run, name, None) is not None]
    if len(given) > 1:
        for each in fields(run):
            if each.name in given and getattr(run, each.name) == each.default:
                setattr(run, each.name, None)
                break


def check_destinations(run: Flags):
    """
    Checks where a run is to report and to be pushed to.

    Raises:
        UsageError: for an unknown tracker, or a push to nowhere.
    """
    for name in run.report_to:
        if name not in ("none", *TRACKERS):
            raise UsageError(f"--report_to is {name}; it must be none or some of {', '.join(TRACKERS)}")
    if run.push_to_hub and run.hub_model_id is None:
        raise UsageError("--push_to_hub is given without --hub_model_id owner/name")
    if run.hub_model_id is not None and not is_repo_id(run.hub_model_id):
        raise UsageError(f"--hub_model_id is {run.hub_model_id}; it must be owner/name")


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """
    Defaults shown, the recipe's docstring as it is written, with its commands on lines of their own, and each flag in
    one spelling: HfArgumentParser gives it a second one with dashes.
    """

    def _format_action_invocation(self, action):
        action = copy.copy(action)
        action.option_strings = [option for option in action.option_strings if "-" not in option[2:]]
        return super()._format_action_invocation(action)


class _Parser(HfArgumentParser):
    """Sorts the flags into the groups of `--help`, and takes for values what begins as a negative number."""

    def __init__(self, types: list[type], **kwargs: Any):
        self._of_flag = {each.name: _group(cls, each.name) for cls in types for each in fields(cls)}
        self._groups: dict[str, Any] = {}
        super().__init__(types, **kwargs)
        self._negative_number_matcher = VALUE

    def add_argument(self, *names: str, **kwargs: Any):
        # HfArgumentParser hands on a field's metadata. Its range is shown where argparse shows a metavar.
        kwargs.pop("some_of", None)
        kwargs.pop("only", None)
        if kwargs.pop("empty", False):
            kwargs["nargs"] = "*"
        if interval := kwargs.pop("range", None):
            kwargs["metavar"] = interval
        title = self._of_flag.get(kwargs.get("dest") or names[0].removeprefix("--"))
        if title is None:  # --help
            return super().add_argument(*names, **kwargs)
        self._groups = self._groups or {title: self.add_argument_group(title) for title in GROUPS}
        return self._groups[title].add_argument(*names, **kwargs)

    def error(self, message: str):
        # argparse would print the usage, many lines long, and exit.
        # It names a flag by both spellings, --learning_rate/--learning-rate.
        raise UsageError(re.sub(r"^argument (--\w+)/--[\w-]+", r"\1", message).removeprefix("argument "))


def _group(cls: type, name: str) -> str:
    """The group of a flag: that of its dataclass, but for what one recipe has among its run's flags, another apart."""
    if name.startswith(("push_", "hub_")):
        return "sharing"
    if name.startswith(("dataset_", "data_")) or name.endswith(("_file", "_column")) or name in OF_IMAGES:
        return "data"
    return "model" if name == "model_name_or_path" else GROUP_OF_CLASS.get(cls.__name__, "run")


def parse_arguments(
    types: list[type],
    argv: list[str] | None = None,
    description: str | None = None,
    launcher: dict[str, str] | None = None,
) -> list[Any]:
    """
    Parses the command line, and the preset that its `--config` names, into one instance of each dataclass.

    Args:
        types: dataclasses of flags, no flag in two of them; the first tells, by its module, whose presets have short
            names.
        argv: the words of the command line, without the program's; those of this process when None.
        description: text above the flags in `--help`.
        launcher: what `launcher_settings` gives, the defaults of the flags of these names.

    Returns:
        An instance of each of `types`, in their order.

    Raises:
        UsageError: for an unknown or abbreviated flag, an unknown key of the preset, a value of the wrong type or out
            of range, or what the launcher asks for where the recipe cannot do it or is told otherwise; one line that
            names it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for token in argv:
        if re.fullmatch(r"--[\w-]+=--", token):  # argparse of Python 3.10 makes an empty list of it
            raise UsageError(f"{token.removesuffix('=--')} is --, which is no value")
    first = _first(types)
    if first and argv and not argv[0].startswith("-"):
        if first in _names(argv):
            raise UsageError(f"--{first} is given twice, as {argv[0]} and by its name")
        argv[:1] = [f"--{first}", argv[0]]  # a list takes the words that follow
    finder = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder._negative_number_matcher = VALUE
    finder.add_argument("--config", nargs="?", default=None)
    path = finder.parse_known_args(argv)[0].config
    read: list[str] = []
    whole = preset = read
    if path is not None:
        _check_words("config", path)
        path = _preset_path(path, types)
        read = _read_preset(path, {f.name: _default(f) for cls in types for f in fields(cls)})
        whole = preset = _for_processor(read, argv)
        if _names(argv) & set(EXCLUSIVE):
            preset = [token for token in preset if not _names([token]) & set(EXCLUSIVE)]
    try:
        parsed = _parse(types, preset + argv, description)
    except UsageError as error:
        if path is not None and str(error) == _wrong_with(types, read):  # else it is the command line's
            raise UsageError(f"{path}: {error}") from None
        raise
    parsed = _as_launched(types, preset + argv, launcher or {}) or parsed
    for each in parsed:
        each.asked = _given(each, preset + argv)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for line in _in_vain(parsed, argv):
            _tell_once(line)
    # Of other settings than the preset's nobody knows what is normal; the seed is within the band.
    free = OF_ONE_TRY | OF_NO_BAND
    if types and "eval_steps" not in getattr(types[0], "FREE", ()):  # by which a T5's weights are chosen
        free = free - {"eval_steps"}
    # The preset as it is written, or without what this processor is slow at.
    as_it_stands = bool(types) and any(_differing(parsed, each) <= free for each in (whole, read))
    if as_it_stands and (bands := _expected(path or _default_preset(types))):
        parsed[0].expected = bands
    if path is not None and not as_it_stands:
        parsed[0].changed = True
    return parsed


def _wrong_with(types: list[type], tokens: list[str]) -> str | None:
    """What is told of a command line of these words alone; None where nothing is wrong."""
    try:
        _parse(types, tokens, None)
    except UsageError as error:
        return str(error)
    return None


def _differing(parsed: list[Any], preset: list[str]) -> set[str]:
    """The flags that have other values than a preset alone gives them; so has the batch of several processes."""
    try:
        alone = _parse([type(each) for each in parsed], preset, None)
    except UsageError:  # what is given beside it is needed
        return {"preset"}
    several = {"processes"} if os.environ.get("WORLD_SIZE", "1") != "1" else set()
    return several | {
        each.name
        for mine, theirs in zip(parsed, alone, strict=True)
        for each in fields(mine)
        if getattr(mine, each.name) != getattr(theirs, each.name)
    }


def _for_processor(preset: list[str], argv: list[str]) -> list[str]:
    """The preset without its wish for bfloat16 where that is slow, and a line that says so."""
    asked = [token for token in preset if _asks_for_bfloat16(token)]
    if not asked or has_bfloat16():
        return preset
    if os.environ.get("LOCAL_RANK", "0") == "0" and not _names(asked) & _names(argv):
        _tell_once(
            "float32 in place of the preset's bfloat16, for which this processor has no instructions (it would be "
            f"slower); {asked[0]} on the command line asks for it all the same"
        )
    return [token for token in preset if token not in asked]


def _asks_for_bfloat16(token: str) -> bool:
    name, _, value = token.partition("=")
    if name == "--bf16":
        with suppress(ArgumentTypeError):  # which the parser tells
            return string_to_bool(value)
    return token == "--mixed_precision=bf16"


def _in_vain(parsed: Sequence[Flags], argv: list[str]) -> Iterator[str]:
    """A line for each flag of the command line that has no effect beside the others' values."""
    values = {each.name: getattr(flags, each.name) for flags in parsed for each in fields(flags)}
    if values.get("model_name_or_path") is not None:  # a trained model has values of its own
        own = {each.name for flags in parsed if getattr(flags, "OF_TRAINED", False) for each in fields(flags)}
        if values.get("dataset_name") is None:  # the images may be read as those of its training were
            own |= OF_IMAGES
        values = {name: value for name, value in values.items() if name not in own}
    for flags in parsed:
        given = _given(flags, argv)
        for each in fields(flags):
            if each.name not in given or getattr(flags, each.name) == _default(each):
                continue
            for other, allowed in each.metadata.get("only", {}).items():
                if other in values and values[other] not in allowed:
                    value = values[other]
                    told = str(value).lower() if value is None or isinstance(value, bool) else value
                    yield f"--{each.name} has no effect: --{other} is {told}"


def _default(each: Field) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


@cache
def _tell_once(line: str):
    """Once for all runs of a sweep, whose flags are parsed one after the other."""
    logger.warning("%s", line)


def has_bfloat16() -> bool:
    """
    Whether matrix products in bfloat16 are no slower than in float32: the GPU, or another accelerator, or else the
    processor has instructions for them. Without (AVX2 alone; GPUs older than Ampere), they take many times as long.
    """
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    if torch.cuda.is_available() and not on_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.accelerator.is_available() and not on_cpu:
        return True
    # What torch asks itself; a build without oneDNN has no such operator, and tells nothing.
    return getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)()


def _as_launched(types: list[type], tokens: list[str], launcher: dict[str, str]) -> list[Any] | None:
    """The instances with what the launcher asks for; None where that is nothing."""
    defaults = []
    for name, value in launcher.items():
        asked = f"accelerate launch asks for {name} {value}"
        flags = {each.name: cls for cls in types for each in fields(cls)}
        # The text recipes have transformers' flags, one for each precision.
        flag, given = (value, "true") if name not in flags and value in flags else (name, value)
        if flag not in flags:
            raise UsageError(f"{asked}; this recipe has no --{name}")
        token = f"--{flag}={given}"
        try:
            (alone,) = _parse([flags[flag]], [token], None)
        except UsageError as error:
            raise UsageError(f"{asked}: {error}") from None
        if flag in _names(tokens):
            told = getattr(next(each for each in _parse(types, tokens, None) if hasattr(each, flag)), flag)
            if told != getattr(alone, flag):
                raise UsageError(f"--{flag} is {told}, but {asked}; give one of them, or both alike")
        defaults.append(token)
    return _parse(types, defaults + tokens, None) if defaults else None


def _recipe(flags: type) -> str:
    """The name of the recipe that a dataclass of flags is of."""
    return Path(getattr(sys.modules[flags.__module__], "__file__", None) or "").stem


def _default_preset(types: list[type]) -> Path | None:
    recipe = _recipe(types[0])
    return next((each.path for each in presets() if each.recipe == recipe and each.path.stem in DEFAULT_RUNS), None)


def _expected(path: Path | None) -> dict[str, tuple[float, float]]:
    """The band of each test number of a preset, by name; {} where it holds none that can be read."""
    bands = load_preset(path).get("expected") if path is not None else None
    try:
        return {name: (float(low), float(high)) for name, (low, high) in (bands or {}).items()}
    except (AttributeError, TypeError, ValueError):  # a stranger's preset
        return {}


def expected_numbers(preset: str, types: list[type]) -> list[str]:
    """
    Args:
        preset: by name or path, as for `--config`; it has been parsed.
        types: the dataclasses of its recipe.

    Returns:
        The names of the test numbers for which it says what to expect.
    """
    return list(load_preset(_preset_path(preset, types)).get("expected", {}))


def recorded(path: Path, folder: Path | None = None) -> dict[str, Any]:
    """
    The data that a run was given and how it was read, as its preset tells.

    Args:
        path: of a preset.yaml of `save_settings`.
        folder: in which its paths begin, that of its run; its own when not given.

    Returns:
        Values of `dataset_name`, `data_dir` and of the flags of `ImageData`, by name; only those that stand there, and
        no `data_dir` that is no longer there.

    Raises:
        UsageError: for a preset that cannot be read, or values that are not allowed.
    """
    preset = load_preset(path)
    given = {each.name: preset.get(each.name) for each in fields(RecordedData)}
    values = {
        name: _from_beside(folder or path.parent, name, value)
        for name, value in given.items()
        if isinstance(value, str) and value
    }
    try:
        (data,) = _parse([RecordedData], [f"--{name}={value}" for name, value in values.items()], None)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    if data.data_dir is not None and not Path(data.data_dir).is_dir():
        del values["data_dir"]
    return {name: getattr(data, name) for name in values}


def record_of(name: str) -> dict[str, Any]:
    """
    `recorded` of a trained model.

    Args:
        name: folder or Hub id.

    Returns:
        As of `recorded`; nothing of a model without a preset.yaml.

    Raises:
        UsageError: for what can be no repository, or as of `recorded`.
        HwzooError: for a repository that is not there or that the token may not read, and when the Hub does not tell
            whether it has a preset.yaml.
    """
    path = _record(name)
    return recorded(path, Path(name) if Path(name).is_dir() else None) if path is not None else {}


def settings_of(name: str) -> dict[str, Any]:
    """
    All flags of the run that made a model.

    Args:
        name: folder or Hub id.

    Returns:
        What its preset.yaml says, unchecked, every scalar as text; nothing of a model without one.

    Raises:
        UsageError: for a preset that cannot be read, or as of `record_of`.
        HwzooError: as of `record_of`.
    """
    path = _record(name)
    return load_preset(path) if path is not None else {}


def _record(name: str) -> Path | None:
    """The preset.yaml of a trained model, if it has one; raises as `record_of` does."""
    if Path(name).is_dir():
        path = Path(settled(name), RECORD)
        return path if path.is_file() else None
    try:
        if try_to_load_from_cache(name, RECORD) is _CACHED_NO_EXIST:
            return None
        return Path(retried(lambda: hf_hub_download(name, RECORD), f"loading {name}"))
    except RemoteEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UsageError(f"--model_name_or_path {name}: no such folder, and not a Hub id (owner/name)") from error
    except (OSError, HTTPError) as error:
        if (status := status_of(error)) in UNREADABLE:
            raise HwzooError(f"--model_name_or_path {name}: {not_read(status)}") from error
        raise HwzooError(
            f"--model_name_or_path {name}: no such folder, and the Hub does not tell which data it was trained on; "
            f"give --dataset_name ({first_line(error)})"
        ) from error


def save_settings(path: Path, *arguments: Any, config: Any = None):
    """
    Writes the `reproducing` settings of a run as a preset, which `--config` takes from its output folder.

    Args:
        path: of the YAML file; it is written whole or not at all.
        arguments: dataclasses of flags, one of them with `output_dir`.
        config: of the model, in place of flags of these names, as in `identity_of`.
    """
    write_bytes(path, yaml.safe_dump(reproducing(*arguments, config=config), sort_keys=False).encode())


def reproducing(*arguments: Any, config: Any = None) -> dict[str, Any]:
    """
    The `settings` of a run, and where its data is, so that a preset of them in the output folder does the run again
    from any folder: what is there by a relative path has one from the output folder, which starts with a dot.

    Args:
        arguments: dataclasses of flags, one of them with `output_dir`.
        config: of the model, in place of flags of these names, as in `identity_of`.

    Returns:
        Their flags by name.
    """
    flags = {name: value for each in arguments for name, value in vars(each).items()}
    values = settings(*arguments)
    if config is not None:
        values |= {name: value for name, value in config.to_dict().items() if name in values}
    if flags.get("data_dir") is not None:
        values["data_dir"] = flags["data_dir"]
    return {name: _from_folder(flags["output_dir"], name, value) for name, value in values.items()}


def _is_path(name: str) -> bool:
    """Whether the value of a flag may be a path; a data set's configuration has a name."""
    return name.endswith(OF_PATHS) and name != "dataset_config"


def _from_folder(folder: str, name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_from_folder(folder, name, item) for item in value]
    if not isinstance(value, str) or not _is_path(name):
        return value
    label, given = _split(name, value)
    if given in NAMED_DATA or Path(given).is_absolute() or not Path(given).exists():
        return value
    try:
        path = Path(os.path.relpath(given, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return f"{label}{Path(given).absolute()}"
    return label + (path if path.startswith("../") else f"./{path}")


def _from_beside(folder: Path, name: str, value: str) -> str:
    """The value of a flag in a preset; a path that starts with a dot begins at a folder, the preset's."""
    label, given = _split(name, value)
    if not _is_path(name) or not given.startswith(("./", "../")):
        return value
    path = os.path.normpath(folder / given)
    return label + (f"./{path}" if path in NAMED_DATA else path)


def _split(name: str, value: str) -> tuple[str, str]:
    """`NAME=` and the path after it; of a path without a name nothing and the whole."""
    label, equals, path = value.partition("=")
    named = equals and name in OF_NAMED_PATHS and not label.startswith(("./", "../"))
    return (label + equals, path) if named else ("", value)


def weights_of(run: Any) -> str:
    """Which weights are tested and saved, for protocols, and from which model they began."""
    base = None if run.model_name_or_path is None else public_name(run.model_name_or_path)
    if run.max_train_steps == 0:
        return f"the weights of {base} as they are"
    which = f"weights averaged with decay {run.ema_decay}" if run.use_ema else "last weights"
    which += f", trained further from {base}" if base else ""
    return f"{which}; the last step, not one chosen by test numbers"


def made_by(run: Any, data: Any) -> str:
    """
    Which run made a picture, for its caption: `vae on mnist, preset best, seed 0`.

    Args:
        run: the flags of the run, of a dataclass of its recipe's module.
        data: with a `name`.

    Returns:
        The words; without a preset where the run was given none, or the settings of a finished run.
    """
    preset = preset_of(run)
    parts = [f"{_recipe(type(run)).removeprefix('train_')} on {data.name}", preset and f"preset {preset}"]
    return ", ".join(filter(None, [*parts, f"seed {run.seed}"]))


def deciding(*arguments: Flags) -> dict[str, Any]:
    """The flags by name on which the steps of a run depend: a resumed run must have the same."""
    return {
        each.name: getattr(flags, each.name)
        for flags in arguments
        for each in fields(flags)
        if each.name not in flags.FREE
    }


def identity_of(recipe: str, data: Any, *arguments: Flags, config: Any = None, **own: Any) -> dict[str, Any]:
    """
    What a resumed run must share with its checkpoint, by name: recipe, data, and the flags that decide.

    Args:
        recipe: its name.
        data: with a `name` and a `digest()`.
        arguments: the flags of the recipe besides those of the run.
        config: of the model, in place of flags of these names: a trained model has a configuration of its own.
        own: further JSON values by name.

    Returns:
        JSON values by name, for `fit`'s `identity`.
    """
    flags = {name: getattr(config, name, value) for name, value in deciding(*arguments).items()}
    flags |= {name: getattr(config, name) for name in OF_FIRST_DATA if hasattr(config, name)}
    return {**flags, **own, "recipe": recipe, "dataset": data.name, "data": data.digest()}


def settings(*arguments: Any) -> dict[str, Any]:
    """The flags of a run by name, without what belongs to one machine or one try."""
    values = {name: value for each in arguments for name, value in vars(each).items() if name not in OF_ONE_TRY}
    if values.get("num_train_epochs") is not None:
        values = {name: value for name, value in values.items() if name not in EXCLUSIVE[1:]}
    return {name: value for name, value in values.items() if value is not None}


def _parse(types: list[type], tokens: list[str], description: str | None) -> list[Any]:
    parser = _Parser(
        types,
        description=description,
        allow_abbrev=False,
        usage=f"%(prog)s {f'[{_first(types)}] ' if _first(types) else ''}[--flag value ...]",
        formatter_class=_HelpFormatter,
    )
    given = [name for name in EXCLUSIVE if name in _names(tokens)]
    if len(given) > 1:
        raise UsageError(f"--{given[0]} and --{given[1]} are given; give one of them")
    *parsed, unknown = parser.parse_args_into_dataclasses(
        tokens, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        name = unknown[0].split("=")[0]
        if not name.startswith("-"):
            raise UsageError(f"{name!r} is not expected; every argument is a flag, --name value")
        known = [option for action in parser._actions for option in action.option_strings]
        raise UsageError(f"{name} is not a flag of this recipe{_suggestion(name, known)}; --help lists them")
    return parsed


class _PresetLoader(yaml.BaseLoader):
    """
    Reads every scalar as text: `1e-3` stays a number for the parser, `no` does not become False. Refuses what a preset
    has no use for: a key twice, of which YAML takes the last, aliases, which may unfold to any size, and depth.
    """

    depth = 0

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="a preset has no aliases", problem_mark=self.peek_event().start_mark)
        if self.depth == DEEPEST_PRESET:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.peek_event().start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_own(value: str, foreign: list[Preset], recipe: Path):
    """Refuses a preset of another recipe, which would train this one's model by flags that happen to be there too."""
    if foreign:
        raise UsageError(
            f"--config {value} is of {' and '.join(dict.fromkeys(each.recipe for each in foreign))}, not of "
            f"{recipe.stem}; `hwzoo presets` lists the presets of each"
        )


def _preset_path(value: str, types: list[type]) -> Path:
    """The file of a preset, which is given by path or by name, `cs236` or `vae/cs236`; the recipe's own come first."""
    recipe = Path(getattr(sys.modules[types[0].__module__], "__file__", None) or "")
    zoo = presets()
    every = [*zoo, *(each for each in presets(recipe.parent) if each.name not in {preset.name for preset in zoo})]
    own = [preset for preset in every if preset.recipe == recipe.stem]
    others = [preset for preset in every if preset.recipe and preset not in own] if own else []
    if Path(value).suffix or Path(value).is_file():
        found = [preset for preset in others if preset.path.resolve() == Path(value).resolve()]
        _check_own(value, found, recipe)
        return Path(value)
    for known in (own, every):
        found = [preset for preset in known if value in (preset.name, preset.path.stem)]
        _check_own(value, [preset for preset in found if preset in others], recipe)
        if len(found) > 1:
            raise UsageError(f"--config {value} may be {', '.join(preset.name for preset in found)}: give one of them")
        if found:
            return found[0].path
    names = [preset.path.stem for preset in own or every] + [preset.name for preset in every]
    close = difflib.get_close_matches(value, dict.fromkeys(names), n=3)
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise UsageError(f"--config {value}: no such file, and no preset has this name{meant}; `hwzoo presets` lists them")


def load_preset(path: Path) -> dict[str, Any]:
    """
    What stands in a preset.

    Args:
        path: of the YAML file.

    Returns:
        Its keys, every scalar as text; none of an empty file.

    Raises:
        UsageError: for a file that cannot be read, is no YAML, or has no keys at its top level.
    """
    try:
        preset = yaml.load(path.read_text(encoding="utf-8"), Loader=_PresetLoader)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if preset in (None, ""):
        preset = {}
    if not isinstance(preset, dict):
        raise UsageError(f"--config {path}: the top level must be `flag: value` lines, not {type(preset).__name__}")
    return preset


def _read_preset(path: Path, known: Mapping[str, Any]) -> list[str]:
    """The preset as command-line tokens, so that both go through the same checks; `known`: the defaults by name."""
    preset = load_preset(path)
    tokens = []
    for key, value in preset.items():
        if key in KEYS_FOR_TESTS:
            continue
        if key == "trust_remote_code":  # a preset may be somebody else's
            raise UsageError(f"{path}: {key} is taken from the command line only")
        if key not in known or key == "config":
            raise UsageError(f"{path}: {key} is not a flag of this recipe{_suggestion(key, known)}; --help lists them")
        if value == [] == known[key]:  # as no words on the command line say it
            continue
        values = value if isinstance(value, list) else [value]
        values = [_from_beside(path.parent, key, item) if isinstance(item, str) else item for item in values]
        if "--" in values:  # argparse would leave it out
            raise UsageError(f"{path}: {key} is {reprlib.repr(value)}; -- is no value")
        if not values and isinstance(known[key], bool):  # the flag without a value is true
            raise UsageError(f"{path}: {key} is []; it must be true or false")
        if len(values) > 1 and any(isinstance(item, str) and item.startswith("--") for item in values):
            raise UsageError(f"{path}: {key} is {reprlib.repr(value)}; none of a list of values may start with --")
        if not all(isinstance(item, str) for item in values):
            raise UsageError(f"{path}: {key} is {reprlib.repr(value)}; it must be one value or a list of values")
        # One token a flag: `--key=value` takes a value that starts with a dash; further values of a list follow.
        tokens += [f"--{key}={values[0]}", *values[1:]] if len(values) == 1 else [f"--{key}", *values]
    return tokens


def _first(types: list[type]) -> str | None:
    return next((cls.FIRST for cls in types if getattr(cls, "FIRST", None)), None)


def _names(tokens: list[str]) -> set[str]:
    return {token[2:].split("=")[0].replace("-", "_") for token in tokens if token.startswith("--")}


def _given(flags: Flags, tokens: list[str]) -> set[str]:
    """Which flags of a dataclass the words name; `--no_x` names x."""
    names = _names(tokens)
    return {each.name for each in fields(flags) if names & {each.name, f"no_{each.name}"}}


def _suggestion(name: str, known) -> str:
    """What may be meant: names that end so or whose words begin with these letters, else the nearest in spelling."""
    bare, names = name.lstrip("-"), {each.lstrip("-"): each for each in sorted(known)}
    close = [
        each
        for each in names
        if each.endswith(f"_{bare}") or bare == "".join(word[:1] for word in each.split("_") if "_" in each)
    ]
    close = close[:3] or difflib.get_close_matches(bare, names, n=1)
    return f" (did you mean {' or '.join(names[each] for each in close)}?)" if close else ""

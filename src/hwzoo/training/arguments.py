"""The flags that every image recipe shares, and how flags and presets are parsed and checked."""

import difflib
import math
import re
import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from transformers import HfArgumentParser

from ..errors import UsageError
from ..files import write_bytes

# `expected` holds the band of each test number of a preset; the reproduction test reads it, a recipe does not.
KEYS_FOR_TESTS = {"expected"}
OF_ONE_TRY = {"config", "data_dir", "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "report_to"}
OF_ONE_TRY |= {"push_to_hub", "hub_model_id", "hub_private_repo", "trust_remote_code"}
TRACKERS = ("tensorboard", "trackio", "wandb")
# Of these the one that is given displaces the other's default or preset.
EXCLUSIVE = ("num_train_epochs", "max_train_steps", "max_steps")


def flag(default: Any, help: str, allowed: str | None = None) -> Any:
    """
    A dataclass field that is a command-line flag.

    Args:
        default: its value when it is not given.
        help: one line for `--help`.
        allowed: the interval of a number, or of each of a list, as in mathematics: "[0, 1)"; NaN is in none.
    """
    # The interval stands as the flag's metavar, so that `--help` shows it: --ema_decay [0, 1).
    metadata = {"help": help} | ({"metavar": allowed} if allowed else {})
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Flags:
    """
    Base of the dataclasses of flags: checks each number against the interval that its `flag` allows; None passes.

    Attributes:
        FIRST: the flag whose value may come first, without its name: `evaluate_generator.py outputs/vae --seed 1`.

    Raises:
        UsageError: naming the flag, the value and the interval.
    """

    FIRST: ClassVar[str | None] = None

    def __post_init__(self):
        for each in fields(self):
            interval, value = each.metadata.get("metavar"), getattr(self, each.name)
            if interval is None or value is None:
                continue
            low, high = (float(bound) for bound in interval[1:-1].split(","))
            for number in value if isinstance(value, list | tuple) else [value]:
                above = number >= low if interval[0] == "[" else number > low
                below = number <= high if interval[-1] == "]" else number < high
                if not (above and below):
                    raise UsageError(f"--{each.name} is {number}; it must be in {interval}")


@dataclass
class RunArguments(Flags):
    """The flags of a run; a recipe derives from it to give its own defaults."""

    config: str | None = flag(None, "YAML file with flags as keys (a preset); the command line wins")
    dataset_name: str = flag(
        "digits", "digits, mnist, fashion_mnist, a Hub id, or a folder with idx files or with images by class"
    )
    data_dir: str | None = flag(
        None, "folder that holds mnist/ or fashion_mnist/ with their idx files; HWZOO_DATA_DIR when not given"
    )
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
    lr_warmup_steps: int = flag(
        0, "steps over which the rate rises from 0, for schedules other than constant", "[0, inf)"
    )
    max_grad_norm: float | None = flag(
        None, "gradients are scaled down to this norm; no limit when not given", "(0, inf)"
    )
    gradient_accumulation_steps: int = flag(1, "batches whose gradients are averaged into one step", "[1, inf)")
    mixed_precision: Literal["no", "bf16"] = flag("no", "bf16 runs matrix products in bfloat16")
    use_ema: bool = flag(False, "test and save the exponential moving average of the weights")
    ema_decay: float = flag(0.999, "decay a step of the average, after its warm-up", "[0, 1)")
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
    hub_private_repo: bool = flag(False, "push to a private repository")
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
            return max(1, math.ceil(self.num_train_epochs * steps_per_epoch))
        return self.max_train_steps if self.max_train_steps is not None else steps_per_epoch


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
    if run.hub_model_id is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", run.hub_model_id):
        raise UsageError(f"--hub_model_id is {run.hub_model_id}; it must be owner/name")


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Defaults shown, and the recipe's docstring as it is written: its commands stay on lines of their own."""


class _Parser(HfArgumentParser):
    def error(self, message: str):
        # argparse would print the usage, many lines long, and exit.
        raise UsageError(message.removeprefix("argument ").replace("/--" + _dashed(message), ""))


def _dashed(message: str) -> str:
    """The second spelling, --learning-rate, that argparse names beside --learning_rate."""
    match = re.match(r"argument --\w+/--([\w-]+)", message)
    return match.group(1) if match else "\0"


def parse_arguments(types: list[type], argv: list[str] | None = None, description: str | None = None) -> list[Any]:
    """
    Parses the command line, and the preset that its `--config` names, into one instance of each dataclass.

    Raises:
        UsageError: for an unknown or abbreviated flag, an unknown key of the preset, a value of the wrong type or out
            of range; one line that names it.
    """
    argv = _join_negative_numbers(sys.argv[1:] if argv is None else argv)
    first = _first(types)
    if first and argv and not argv[0].startswith("-"):
        if first in _names(argv):
            raise UsageError(f"--{first} is given twice, as {argv[0]} and by its name")
        argv[0] = f"--{first}={argv[0]}"
    finder = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", nargs="?", default=None)
    path = finder.parse_known_args(argv)[0].config
    preset = []
    if path is not None:
        preset = _read_preset(Path(path), {f.name for cls in types for f in fields(cls)})
        if "--help" not in argv and "-h" not in argv:
            try:
                _parse(types, preset, description)
            except UsageError as error:
                raise UsageError(f"{path}: {error}") from None
        given = _names(argv)
        if given & set(EXCLUSIVE):
            preset = [token for token in preset if not _names([token]) & set(EXCLUSIVE)]
    return _parse(types, preset + argv, description)


def save_settings(path: Path, *arguments: Any):
    """Writes the `settings` of a run as a preset that `--config` takes."""
    write_bytes(path, yaml.safe_dump(settings(*arguments), sort_keys=False).encode())


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


def _read_preset(path: Path, known: set[str]) -> list[str]:
    """The preset as command-line tokens, so that both go through the same checks."""
    try:
        # BaseLoader reads every scalar as text: `1e-3` stays a number for the parser, `no` does not become False.
        preset = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if preset in (None, ""):
        preset = {}
    if not isinstance(preset, dict):
        raise UsageError(f"--config {path}: the top level must be `flag: value` lines, not {type(preset).__name__}")
    tokens = []
    for key, value in preset.items():
        if key in KEYS_FOR_TESTS:
            continue
        if key == "trust_remote_code":  # a preset may be somebody else's
            raise UsageError(f"{path}: {key} is taken from the command line only")
        if key not in known or key == "config":
            raise UsageError(f"{path}: {key} is not a flag of this recipe{_suggestion(key, known)}; --help lists them")
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in values):
            raise UsageError(f"{path}: {key} is {value}; it must be one value or a list of values")
        # One token a flag: `--key=value` takes a value that starts with a dash; further values of a list follow.
        tokens += [f"--{key}={values[0]}", *values[1:]] if len(values) == 1 else [f"--{key}", *values]
    return tokens


def _join_negative_numbers(argv: list[str]) -> list[str]:
    # argparse takes -1e-3, -inf and -nan after a flag for another flag.
    joined = []
    for token in argv:
        number = re.fullmatch(r"-(\d+\.?\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|inf|nan)", token)
        if number and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={token}"
        else:
            joined.append(token)
    return joined


def _first(types: list[type]) -> str | None:
    return next((cls.FIRST for cls in types if getattr(cls, "FIRST", None)), None)


def _names(tokens: list[str]) -> set[str]:
    return {token[2:].split("=")[0].replace("-", "_") for token in tokens if token.startswith("--")}


def _suggestion(name: str, known) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""

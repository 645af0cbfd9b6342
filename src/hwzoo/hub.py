"""Saving models with the code that defines them, loading them with every weight accounted for, and pushing them."""

import argparse
import itertools
import json
import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import torch
import yaml
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session
from huggingface_hub.errors import HFValidationError, HTTPError
from transformers import AutoModel, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_relative_imports
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from . import models
from .cards import EVAL_RESULTS, template, write_card
from .errors import HwzooError, UsageError
from .files import (
    ENDED,
    NAMED_DATA,
    PUSHED,
    adding_to,
    finish,
    is_repo_id,
    made,
    of_model,
    public_name,
    read_jsonl,
    record_changed,
    sha256,
    with_words,
    write_bytes,
    write_json,
    write_jsonl,
)
from .loading import INDEXES, WEIGHTS, check_all_loaded, check_finite, loading, refuse_code
from .models import FAMILIES, FORMER_MODEL_TYPES, ClassifierForImageClassification, Family, TextFamily, family_of
from .packaged import preset_of
from .retry import UNREADABLE, has_file, not_read, reason, retried, status_of

logger = logging.getLogger("hwzoo")
CLASSIFIERS = Path(__file__).parent / "classifiers"
PLACE = ("revision", "token", "cache_dir", "subfolder", "local_files_only")  # of `from_pretrained`: where it looks


def save(model: Any, folder: Path, results: dict[str, Any] | None = None, also: Sequence[Any] = (), read: Any = None):
    """
    Writes what belongs to a model of any family, config.json, model.safetensors, the family's code and, where it has
    an image processor, preprocessor_config.json, or a pipeline; and the results as all_results.json. Each file appears
    whole or not at all.

    Args:
        model: of a family of the table, or anything with `save_pretrained`.
        folder: made if it is not there; other files in it stay.
        results: for all_results.json: numbers and what else JSON holds, by name, of numbers that are not finite their
            words; not written when not given.
        also: further objects with `save_pretrained` that belong to the model: a tokenizer, how it is to generate.
        read: the flags by which the training read pictures, `background`, `image_size` and `resize`, for the image
            processor of a family that has one.

    Raises:
        HwzooError: when the folder cannot be written; the files it held stay.
    """
    further = () if read is None else (read,)  # which a family's own `parts` may not know
    with adding_to(Path(folder)) as staging:
        for each in (*family_of(model).parts(model, *further), *also):
            each.save_pretrained(staging)
    if results:
        write_json(Path(folder) / "all_results.json", with_words(results))


def save_card(run: Any, folder: Path, family: str, data: Any, results: dict[str, Any], **about: Any):
    """
    Writes the card of a run.

    Args:
        run: the flags of the run: `config`, `hub_model_id`, `output_dir`, `seed`.
        folder: for README.md, with the pictures of the run.
        family: name of the row of the table whose template of a card is filled; it is also given `preset`, `repo_id`,
            `seed` and `trained`, the first words of how it was.
        data: with `name` and `source`, for its title and the data set that it names.
        results: as in all_results.json.
        about: all else that `cards.write_card` takes, `title` too.

    Raises:
        HwzooError: when the card cannot be written.
    """
    row = next(each for each in FAMILIES if each.name == family)
    about = {"title": f"{family}-{data.name.split('/')[-1]}", "dataset": data.source, **row.card, **about}
    if base := getattr(run, "model_name_or_path", None):
        about = {"trained": f"Trained further from `{public_name(base)}`"} | about
        about.setdefault("base_model", None if Path(base).exists() else base)
    about |= {"preset": preset_of(run), "repo_id": run.hub_model_id or str(run.output_dir)}
    write_card(folder, row.card_template or template(family), results=results, seed=run.seed, **about)


def publish(run: Any):
    """
    Pushes the folder of a run where `run.push_to_hub` asks for it.

    Raises:
        HwzooError: when the push fails; what is saved stays.
    """
    if run.push_to_hub:
        base = getattr(run, "base_model_id", None)  # of recipes that train adapters
        print("pushed:", push(Path(run.output_dir), run.hub_model_id, run.hub_private_repo, base_model_id=base))


def load(
    model_class: type[PreTrainedModel], model_name_or_path: str, trust_remote_code: bool | None = None, **kwargs
) -> PreTrainedModel:
    """
    `model_class.from_pretrained`, in float32 unless `dtype` says otherwise, that refuses what transformers only warns
    of: weights that are missing (they would be random), unexpected or of another shape; and what is not finite.

    Args:
        model_class: of the model, or an Auto class; `AutoModel` gives a sequence-to-sequence model with its head.
        model_name_or_path: folder or Hub id.
        trust_remote_code: whether code that comes with the model is run; None where the user is not asked for that, as
            no such model could serve.
        kwargs: of `from_pretrained`.

    Returns:
        The model, in eval mode.

    Raises:
        HwzooError: naming the weights that do not fit, the file that is damaged, or the model that is not there.
        UsageError: for a model of another type than the class, or one that needs code of its own, without the
            permission to run it.
    """
    # Where nobody answers transformers would try for a minute before it looks into the cache.
    cached = not Path(model_name_or_path).is_dir() and not _hub_answers()
    if cached:
        kwargs["local_files_only"] = True
    kwargs = {"dtype": torch.float32, "trust_remote_code": bool(trust_remote_code)} | kwargs
    place = {name: kwargs[name] for name in PLACE if kwargs.get(name) is not None}
    parts = [place["subfolder"]] if place.get("subfolder") else []
    cache = {name: place[name] for name in ("revision", "cache_dir") if name in place}
    wanted = getattr(getattr(model_class, "config_class", None), "model_type", None)  # an Auto class takes many
    how = {"trust_remote_code": trust_remote_code, "dtype": kwargs["dtype"], **cache}
    try:
        with loading(model_name_or_path, *parts, **how) as source:
            if wanted is not None or model_class is AutoModel:
                given = retried(
                    lambda: PreTrainedConfig.get_config_dict(source, **place)[0],
                    f"loading {model_name_or_path}",
                ).get("model_type", wanted)
                if given in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and model_class is AutoModel:
                    model_class = AutoModelForSeq2SeqLM
                if given != wanted is not None and FORMER_MODEL_TYPES.get(given) is not model_class.config_class:
                    raise UsageError(f"{model_name_or_path} is a model of type {given}; it must be of type {wanted}")
            model, report = retried(
                lambda: model_class.from_pretrained(
                    source, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
                ),
                f"loading {model_name_or_path}",
            )
    except OSError as error:
        told = "no such folder, no Hub that can be reached, and not in the cache" if cached else _not_loaded(error)
        raise HwzooError(f"{model_name_or_path} cannot be loaded: {told}") from error
    check_all_loaded(report, model_name_or_path, model)
    check_finite(model, model_name_or_path, *parts, **cache)
    # Without permission transformers passes over its code where it knows another class for the model's type, and over
    # its way to generate.
    named = str((getattr(model.config, "auto_map", None) or {}).get(model_class.__name__, type(model).__name__))
    script, token = "custom_generate/generate.py", place.get("token")
    generates = model.can_generate() and has_file(model_name_or_path, script, token, **cache)
    named = named.split(".")[-1]
    if generates or named != type(model).__name__ and getattr(models, named, None) is not type(model):
        refuse_code(model_name_or_path, trust_remote_code)
    model.name_or_path = model.config.name_or_path = model_name_or_path  # wherever it was read from
    # They lie in the mapped file, at whatever address: matrix products round by alignment, and the file may change.
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def load_any(model_name_or_path: str, trust_remote_code: bool | None = None) -> tuple[Family, Any]:
    """
    Whatever the zoo has at a folder or Hub id, and a stranger's model that is loaded as the zoo's are.

    Args:
        model_name_or_path: folder or Hub id.
        trust_remote_code: as in `load`; the code of a pipeline is never run.

    Returns:
        The row of its family, and the model, on the CPU.

    Raises:
        HwzooError, OSError, ValueError: when it cannot be loaded.
    """
    for family in FAMILIES:
        if family.entry != Family.entry and has_file(model_name_or_path, family.entry):
            return family, family.load(model_name_or_path, load, trust_remote_code)
    model = load(AutoModel, model_name_or_path, trust_remote_code)
    family = family_of(model)
    if isinstance(family, TextFamily) or type(model) is family.backbone_class:  # AutoModel leaves its head out
        model = family.load(model_name_or_path, load, trust_remote_code)
    return family, model


def load_or_build(
    model_class: type[PreTrainedModel],
    model_name_or_path: str | None,
    settings: Mapping[str, Any],
    asked: Collection[str] = (),
    *,
    default: Mapping[str, Any] | None = None,
    trains: bool = True,
    **allowed: Collection,
) -> PreTrainedModel:
    """
    A new model, or, when its name is given, a trained one with a configuration of its own. Of what was asked for and
    differs there, the family's `loss_fields` are changed, and the rest is told in a warning; so are other names of as
    many classes, which become the data's.

    Args:
        model_class: of the zoo.
        model_name_or_path: folder or Hub id; None for a new model.
        settings: the fields of the configuration of a new model, and what a trained one must fit. With a trained one
            they need not go together: its own architecture may be of images that the default's is not.
        asked: fields that are asked for also where they are as in `default`: `Flags.asked`.
        default: the fields when nothing is asked for, where they are not the configuration's.
        trains: whether a trained model's classes are learned anew; else their names stay.
        allowed: further fields of the configuration, with the values that a trained model may have.

    Returns:
        The model; the weights of a new one are of torch's global random state.

    Raises:
        UsageError: when the trained model has another value than `settings` of a field that `must_fit` in its family,
            or, where it is not trained, a class of the data at another place.
        HwzooError: when it cannot be loaded.
    """
    if model_name_or_path is None:
        return model_class(model_class.config_class(**settings))
    model, usual = with_named_outputs(load(model_class, model_name_or_path)), model_class.config_class()
    family, own = family_of(model), model.config.to_dict()
    id2label = settings.get("id2label", model.config.id2label)
    by_data = {"num_labels": len(id2label)} | settings
    fits = {name: [by_data.get(name, getattr(usual, name))] for name in family.must_fit} | allowed
    for name, wanted in fits.items():
        if (given := getattr(model.config, name)) not in wanted:
            told = f"it has {name} {given}, the data {' or '.join(map(str, sorted(wanted)))}"
            if name == "num_classes" and 0 in (given, *wanted) and len(wanted) == 1:
                told += "; it is conditional: give --conditional" if given else "; leave out --conditional"
            raise UsageError(f"--model_name_or_path {model_name_or_path}: {told}")
    names, own_names = (", ".join(each.values()) for each in (id2label, model.config.id2label))
    if names != own_names:
        if trains:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                logger.warning("%s goes on with the classes %s (it had %s)", model_name_or_path, names, own_names)
            model.config.id2label, model.config.label2id = dict(id2label), {v: k for k, v in id2label.items()}
        elif any(model.config.label2id.get(name, number) != number for number, name in id2label.items()):
            told = f"its classes are {own_names}, the data's {names}"
            raise UsageError(f"--model_name_or_path {model_name_or_path}: {told}")
        elif os.environ.get("LOCAL_RANK", "0") == "0":
            told = model_name_or_path, own_names, names
            logger.warning("%s is tested with its classes %s as those of the data, %s", *told)
    unasked = usual.to_dict() | dict(default or {})
    settings, unasked, own = map(_with_lists, (settings, unasked, own))
    decided = {"id2label", "label2id", "image_mean", "image_std", *family.must_fit, *allowed}  # by the data
    wanted = {name: value for name, value in settings.items() if name in asked or value != unasked.get(name)}
    other = {name: value for name, value in wanted.items() if name not in decided and own.get(name, value) != value}
    changed = {name: other.pop(name) for name in sorted(other.keys() & set(family.loss_fields))}
    for name, value in changed.items():
        setattr(model.config, name, value)
    model.config.validate()
    if other and os.environ.get("LOCAL_RANK", "0") == "0":  # once for all processes
        kept = ", ".join(f"{name} {own[name]} (not {value})" for name, value in other.items())
        logger.warning("%s keeps its own %s", model_name_or_path, kept)
    if changed and os.environ.get("LOCAL_RANK", "0") == "0":
        told = ", ".join(f"{name} {value} (it had {own[name]})" for name, value in changed.items())
        logger.warning("%s goes on with %s", model_name_or_path, told)
    return model


def _with_lists(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as which flags and files give them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def with_named_outputs(model: PreTrainedModel) -> PreTrainedModel:
    """
    Args:
        model: one that was loaded.

    Returns:
        The same, which gives its outputs by name and no hidden states, whatever its configuration asked for: recipes
        read some by name, and average all.
    """
    model.config.return_dict, model.config.output_hidden_states = True, False
    return model


def load_classifier(name: str) -> PreTrainedModel:
    """
    A classifier that comes with the package, in eval mode: its features score generated images. Its folder,
    `CLASSIFIERS / name`, holds its card, with the command that trained it and its test accuracy.

    Args:
        name: of its data set, "digits", "mnist" or "fashion_mnist".

    Raises:
        UsageError: for another name.
    """
    known = sorted(path.name for path in CLASSIFIERS.iterdir() if path.is_dir())
    if name not in known:
        raise UsageError(f"there is no classifier for {name!r}; there are {', '.join(known)}")
    return load(ClassifierForImageClassification, str(CLASSIFIERS / name))


def _hub_answers() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUTS[0])
    except (OSError, HTTPError):  # offline mode is an OSError
        return False
    return True


def _not_loaded(error: OSError) -> str:
    """transformers asks for another name whatever went wrong; what its error came from tells more."""
    status = status_of(error)
    if status in UNREADABLE:
        return not_read(status)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, HTTPError) and status is None:
        return f"the download broke off ({reason(cause)})"
    return reason(error)


# What a run keeps for itself, besides hidden files (its lock, unfinished ones).
NOT_PUSHED = ("checkpoints", "logs")
EXAMPLES = rb'(from_pretrained\(|load_pipeline\(|model=)"([^"\r\n\0]*)"'
SHOWN = 5  # of the names of what is not sent
# What is of a model in a folder without a record: by these names, at its top and in the parts of a pipeline ...
MODEL_FILES = (
    "config.json", "model_index.json", "adapter_config.json", "generation_config.json", "scheduler_config.json",
    "preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.jinja", "source.spm", "target.spm", "target_vocab.json",
    "prophetnet.tokenizer", "vocab-src.json", "vocab-tgt.json", WEIGHTS, INDEXES,
)  # fmt: skip
# ... and at its top alone.
PRESET = "preset.yaml"
RUN_FILES = ("README.md", "all_results.json", PRESET, "predictions.jsonl", "history.jsonl")
WORD_EVERY = 8  # seconds
TIMEOUTS = (10, 30, 30, 30)  # seconds to connect, of silence while reading and writing, for a free connection


def push(
    folder: Path, repo_id: str, private: bool = False, include: Sequence[str] = (), base_model_id: str | None = None
) -> str:
    """
    Creates the repository if need be and sends what a run made, all but its checkpoints and logs, in one commit.
    Pushing again what is there makes no further commit. The token is that of `HF_TOKEN` or `hf auth login`.

    A recorded final file that was changed since is sent as it is now; what the run made on its way, its history and
    pictures, only as it was at its end: not what an interrupted later run has there. Of a folder without the record of
    a finished run goes what has a name that transformers, diffusers, PEFT and the recipes give to the files of a
    model. No link is followed. A line on stderr says which files stay, another which links.

    Args:
        folder: of a run, or any that holds a model.
        repo_id: owner/name.
        private: for a repository that only its owner sees; an existing public one is refused then.
        include: patterns, as of `fnmatch`, for names relative to `folder`, with slashes: what else goes. Hidden files,
            checkpoints, logs and links never do.
        base_model_id: owner/name of the base of an adapter, where it was trained on one in a local folder: what is
            sent names it in that folder's place.

    Returns:
        The address of the commit.

    Raises:
        UsageError: for a folder without a model, an id that is none, a pattern that no file matches, a card that is
            not UTF-8, or an adapter whose base is in a local folder, without `base_model_id`.
        HwzooError: when the Hub cannot be reached or refuses; one line that says how to push later. Nothing local
            is lost; the card's examples that named this folder, or where it was pushed before, name `repo_id` from
            then on.
    """
    folder = Path(folder)
    finish(folder)
    names, left = _chosen(folder, include)
    if not any(name.endswith(".safetensors") for name in names):
        raise UsageError("; ".join([f"{folder} holds no model to push (no .safetensors file)", *left]))
    if not is_repo_id(repo_id):
        raise UsageError(f"{repo_id} is not a repository id, owner/name; nothing was pushed, {folder} is safe")
    base = check_base(folder, base_model_id)
    card = folder / "README.md"
    if "README.md" in names:
        _name_in_card(folder, repo_id)
    elif card.is_dir() and not card.is_symlink():
        raise UsageError(f"{card} is a folder; a model card is a file of that name; nothing was pushed")
    with suppress(OSError, ValueError):  # a terminal that is gone costs no push
        for line in left:
            print(line, file=sys.stderr)

    def operations() -> list[CommitOperationAdd]:
        changed = _without_places(folder) | (_naming_base(folder, base, base_model_id) if base else {})
        return [CommitOperationAdd(name, changed.get(name, folder / name)) for name in names]

    safe = _push_later(folder, repo_id, private, include, base_model_id)
    address = send(folder, repo_id, operations, safe, private)
    sent = {"pushed": repo_id}
    with suppress(OSError, HwzooError):  # a folder that cannot be written, of which a Space then knows nothing
        write_jsonl(folder / PUSHED, [*(each for each in read_jsonl(folder / PUSHED) if each != sent), sent])
    return address


def send(
    folder: Path,
    repo_id: str,
    operations: Callable[[], list[CommitOperationAdd]],
    safe: str,
    private: bool = False,
    **kind: str,
) -> str:
    """
    Creates a repository if need be and makes one commit there.

    Args:
        folder: of the files, for messages.
        repo_id: owner/name.
        operations: gives new ones at each call.
        safe: how to push later, for messages.
        private: for a repository that only its owner sees; an existing public one is refused then.
        kind: of `HfApi.create_repo`, `repo_type` and `space_sdk`, for what is no model.

    Returns:
        The address of the commit.

    Raises:
        UsageError: for an id that is none.
        HwzooError: when the Hub cannot be reached or refuses.
    """
    api, of_type = HfApi(), {"repo_type": kind.get("repo_type", "model")}

    def commit(parent: str | None) -> str:
        # After a lost answer the next try finds all files there and commits nothing: it needs new operations, as used
        # ones are not compared. Should the first commit come in late, `parent_commit` keeps it the only one (412).
        message = f"Upload {folder.resolve().name} with hwzoo"
        return api.create_commit(
            repo_id, operations(), commit_message=message, parent_commit=parent, **of_type
        ).commit_url

    def failed(reason: str) -> HwzooError:
        return HwzooError(f"pushing to {repo_id} failed: {reason}; {safe}")

    try:
        with _never_silent(f"pushing to {repo_id}"):
            retried(
                lambda: api.create_repo(repo_id, private=private, exist_ok=True, **kind),
                "creating the repository",
                json=True,
            )
            repo = retried(lambda: api.repo_info(repo_id, **of_type), "reading the repository", json=True)
            if private and not repo.private:  # it existed, and `private` was ignored
                raise failed("it exists and is public, but a private one was asked for")
            return retried(lambda: commit(repo.sha), "pushing", json=True)
    except KeyboardInterrupt:
        print(f"error: pushing to {repo_id} was interrupted; {safe}", file=sys.stderr)
        raise
    except HFValidationError as error:
        raise UsageError(f"{reason(error)}; nothing was pushed, {folder} is safe") from None
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        # huggingface_hub tells a failed upload as RuntimeError, a card that the Hub refuses as ValueError.
        raise failed(_reason(error)) from error


def check_base(folder: Path, base_model_id: str | None, base: str | None = None) -> str | None:
    """
    Before an adapter is pushed: whether others can find the model that it is of.

    Args:
        folder: of the adapter; need not exist where `base` is given.
        base_model_id: owner/name that stands for a local base.
        base: folder or id of the base, empty for what is no adapter; what the adapter's configuration says when not
            given.

    Returns:
        The base as the adapter names it where it is a local folder; else None.

    Raises:
        UsageError: for a base in a local folder without an id that stands for it, an id that is none, or an id where
            no local base needs one.
    """
    if base is None:
        base = _json(folder, "adapter_config.json", ["adapter_config.json"]).get("base_model_name_or_path")
    if base_model_id is not None and not is_repo_id(base_model_id):
        raise UsageError(f"--base_model_id is {base_model_id}; it must be owner/name")
    # outputs/t5 may be a name of either: whoever trained on the folder was somewhere above the adapter.
    local = bool(base) and (
        not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) or any((place / base).is_dir() for place in _near(folder))
    )
    if local and base_model_id is None:
        raise UsageError(
            f"{folder} is an adapter of a model in a local folder, {base}, which others do not have: push that first, "
            f"hwzoo push {shlex.quote(base)} OWNER/NAME, and give --base_model_id OWNER/NAME here; nothing was pushed"
        )
    if base_model_id is not None and not local:
        what = f"an adapter of {base}" if base else "no adapter"
        raise UsageError(f"--base_model_id is {base_model_id}, but {folder} is {what}, not one of a local folder")
    return base if local else None


def _naming_base(folder: Path, base: str, base_model_id: str) -> dict[str, bytes]:
    """The files of an adapter that name its base, with an id in place of a folder; the local ones stay."""
    config = _json(folder, "adapter_config.json", ["adapter_config.json"]) | {"base_model_name_or_path": base_model_id}
    changed = {"adapter_config.json": (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()}
    settings = _settings(folder)
    if (own := settings.get("model_name_or_path")) and (own == base or _is_one(folder / own, base, folder)):
        changed[PRESET] = _preset(_elsewhere(settings) | {"model_name_or_path": base_model_id})
    if (folder / "README.md").is_file():
        card = _read(folder / "README.md").replace(f"`{base}`".encode(), f"`{base_model_id}`".encode())
        if card.startswith(b"---\n") and b"\nbase_model:" not in card.split(b"\n---\n")[0]:
            card = card.replace(b"---\n", f"---\nbase_model: {base_model_id}\n".encode(), 1)
        changed["README.md"] = card
    return changed


def _is_one(path: Path, base: str, folder: Path) -> bool:
    """Whether a path is that of a base whose name is from wherever the training was, somewhere above the adapter."""
    return any(os.path.realpath(place / base) == os.path.realpath(path) for place in _near(folder))


def _near(folder: Path) -> list[Path]:
    return [Path.cwd(), *folder.resolve().parents]


def _without_places(folder: Path) -> dict[str, bytes]:
    """
    The settings of a run for other machines, on which its data lies elsewhere, and without the names of folders that
    are nobody's business; the local ones stay.
    """
    given = _settings(folder)
    settings = _elsewhere(given)
    return {PRESET: _preset(settings)} if settings != given else {}


def _settings(folder: Path) -> dict[str, Any]:
    """Those that a run left; none where the file is no such: one of a user's own goes as it is."""
    with suppress(Exception):  # of a date that is none, of lists within lists: not all are YAML's own
        settings = yaml.safe_load((folder / PRESET).read_bytes())
        return settings if isinstance(settings, dict) else {}
    return {}


def _elsewhere(settings: dict[str, Any]) -> dict[str, Any]:
    def is_place(value: Any) -> bool:
        return isinstance(value, str) and (Path(value).is_absolute() or ".." in Path(value).parts)

    def called(place: str) -> str:
        name = Path(place).name
        return f"./{name}" if name in NAMED_DATA else name  # a folder of one's own, whatever it is called

    kept = {name: value for name, value in settings.items() if name != "data_dir"}
    return {name: called(value) if is_place(value) else value for name, value in kept.items()}


def _preset(settings: dict[str, Any]) -> bytes:
    return yaml.safe_dump(settings, sort_keys=False).encode()


def _push_later(
    folder: Path, repo_id: str, private: bool, include: Sequence[str], base_model_id: str | None = None
) -> str:
    words = ["python", "-m", "hwzoo.hub", "push", str(folder), repo_id]
    words += ["--private"] * private + [f"--include={pattern}" for pattern in include]
    words += [f"--base_model_id={base_model_id}"] if base_model_id else []
    return f"{folder} is safe, push it later (twice does no harm): {shlex.join(words)}"


def _is_private(path: PurePosixPath) -> bool:
    # The Hub reads one hidden folder; hidden files in it are as others.
    parts = path.parts[1:] if path.parts[:1] == (EVAL_RESULTS,) else path.parts
    return any(part.startswith(".") or part in NOT_PUSHED for part in parts)


def _chosen(folder: Path, include: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of what `push` sends, and a line each about the other files and the links of the folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; nothing was pushed")
    files, links = _files_and_links(folder)
    try:
        chosen = of_model(folder)
    except OSError as error:
        raise HwzooError(f"cannot read {error.filename}: {error.strerror}; nothing was pushed") from error
    if not (folder / ENDED).is_file():  # no run, or one of an earlier version and what a later one has begun
        chosen |= _files_of_a_model(folder, files)
    for pattern in include:
        named = {name for name in files if fnmatchcase(name, pattern)}
        if not named:
            raise UsageError(
                f"--include {pattern} names no file of {folder} (of a folder's, train/* does; never a hidden file, a "
                "checkpoint, a log or a link); nothing was pushed"
            )
        chosen |= named
    names, others = ([name for name in files if (name in chosen) == sent] for sent in (True, False))
    left = [f"{_some(others, 'other file')} not sent; --include PATTERN sends what it names"] if others else []
    return names, left + ([f"{_some(links, 'link')} not sent; no link is followed"] if links else [])


def _some(names: Sequence[str], what: str) -> str:
    shown = ", ".join(" ".join(name.split()) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} {what} ({shown}) is" if len(names) == 1 else f"{len(names)} {what}s ({shown}) are"


def _files_and_links(folder: Path) -> tuple[list[str], list[str]]:
    """Names relative to a folder, with slashes, of what is not private."""

    def refused(error: OSError):
        raise HwzooError(f"cannot read {error.filename}: {error.strerror}; nothing was pushed") from error

    files, links = [], []
    for where, folders, others in os.walk(folder, onerror=refused):
        for each in sorted([*folders, *others]):
            path = Path(where, each)
            name = path.relative_to(folder).as_posix()
            if _is_private(PurePosixPath(name)):
                continue
            if path.is_symlink():
                links.append(name)
            elif path.is_file():
                files.append(name)
        folders[:] = sorted(each for each in folders if not _is_private(PurePosixPath(each)))
    return sorted(files), sorted(links)


def _files_of_a_model(folder: Path, files: Collection[str]) -> set[str]:
    """Those that transformers, diffusers, PEFT and the recipes write, by their names, and what these name further."""
    index = _json(folder, "model_index.json", files)
    # Its other entries say what the pipeline's parts are: name -> [library or module, class].
    parts = {name: kind for name, kind in index.items() if isinstance(kind, list) and not name.startswith("_")}
    found, modules = {name for name in files if name in RUN_FILES}, set()
    found |= {name for name in files if fnmatchcase(name, f"{EVAL_RESULTS}/*.yaml")}
    for name in files:
        place, _, last = name.rpartition("/")
        if (not place or place in parts) and any(fnmatchcase(last, each) for each in MODEL_FILES):
            found.add(name)
            modules |= {_beside(name, module) for module in _modules(_json(folder, name, files).get("auto_map"))}
    modules |= {f"{kind[0]}.py" for kind in [index.get("_class_name")] if isinstance(kind, list) and kind}
    modules |= {f"{name}/{kind[0]}.py" for name, kind in parts.items() if kind}
    while modules := (modules & set(files)) - found:
        found |= modules
        imports = set()
        for name in modules:
            with suppress(OSError, ValueError):  # it cannot be read: it goes as it is
                imports |= {_beside(name, module) for module in get_relative_imports(folder / name)}
        modules = imports
    if "README.md" in files:
        words = re.findall(r"[^\s()\[\]\"'<>`|]+", _read(folder / "README.md").decode(errors="replace"))
        pictures = {unquote(word).removeprefix("./").rstrip(".,;:!?") for word in words}
        found |= {name for name in pictures & set(files) if name.endswith((".png", ".gif")) and "/" not in name}
    return found


def _modules(auto_map: Any) -> set[str]:
    """Of `{"AutoModel": "modeling_x.XModel", "AutoTokenizer": ["tokenization_x.XTokenizer", None]}`."""
    named = auto_map.values() if isinstance(auto_map, dict) else []
    classes = itertools.chain.from_iterable(each if isinstance(each, list) else [each] for each in named)
    # "owner/name--modeling_x.XModel", of another repository, is no file's name here.
    return {name.rpartition(".")[0] for name in map(str, classes) if "." in name}


def _beside(name: str, module: str) -> str:
    return PurePosixPath(name).parent.joinpath(*module.split(".")).as_posix() + ".py"


def _json(folder: Path, name: str, files: Collection[str]) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is none."""
    content = None
    if name in files and name.endswith(".json"):
        with suppress(OSError, ValueError):
            content = json.loads((folder / name).read_bytes())
    return content if isinstance(content, dict) else {}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise HwzooError(f"cannot read {path}: {error.strerror}; nothing was pushed") from error


def _name_in_card(folder: Path, repo_id: str):
    """
    Makes the examples of a card load from a repository where they named its own folder, or one it was pushed to; all
    else stays, byte for byte.
    """
    card = folder / "README.md"
    text = _read(card)
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{card} is not UTF-8 (line {line}); save it as UTF-8; nothing was pushed") from None
    before = read_jsonl(folder / PUSHED)
    # All that a card names which is as the run wrote it is the run.
    untouched = made(folder).get("README.md") == sha256(text)

    def renamed(found: re.Match) -> bytes:
        name = found[2].decode()
        own = untouched or name in before or _is_name_of(folder, name)
        return found[1] + b'"' + (repo_id if own else name).encode() + b'"'

    new = re.sub(EXAMPLES, renamed, text)
    if repo_id not in before and f'"{repo_id}"'.encode() in new:
        write_jsonl(folder / PUSHED, [*before, repo_id])  # first: a later push shall know it
    if new != text and untouched:
        record_changed(folder, card.name, new)
    elif new != text:
        write_bytes(card, new)


def _is_name_of(folder: Path, name: str) -> bool:
    """Whether a name is a folder's path, from wherever it was seen: outputs/vae is a name of .../outputs/vae."""
    if os.path.realpath(name) == os.path.realpath(folder):
        return True
    parts = [part for part in Path(os.path.normpath(name)).parts if part not in ("..", ".")]
    paths = (Path(os.path.realpath(folder)), Path(os.path.abspath(folder)))
    return bool(parts) and any(list(path.parts[-len(parts) :]) == parts for path in paths)


@contextmanager
def _never_silent(what: str) -> Iterator[None]:
    """Says every few seconds that it goes on; a Hub that has stopped answering is not awaited for ever."""
    done, start = threading.Event(), time.monotonic()

    def tell():
        while not done.wait(WORD_EVERY):
            print(f"{what}: {time.monotonic() - start:.0f} s so far", file=sys.stderr)

    session = get_session()
    before, session.timeout = session.timeout, TIMEOUTS  # huggingface_hub sets none for what it sends
    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        session.timeout = before
        done.set()
        thread.join()


def _reason(error: Exception) -> str:
    status = status_of(error)
    if status == 401:
        return "the token is missing or refused (401): set HF_TOKEN or run `hf auth login`"
    if status == 403:
        return "the token may not write there (403)"
    if status == 404:
        return "there is no such owner or repository (404)"
    if status in (412, 429) or (status or 0) >= 500:
        return f"the Hub answered {status} at every try"
    if status is not None:
        return f"the Hub refuses it ({status}): {getattr(error, 'server_message', None) or error}"
    if getattr(error, "filename", None) is not None:
        return f"cannot read {error.filename}: {error.strerror}"
    return f"the Hub cannot be reached ({reason(error)})"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(f"{message}; {self.prog} --help lists what it takes")


def main(argv: list[str] | None = None) -> int:
    """
    `python -m hwzoo.hub push FOLDER REPO [--private] [--include PATTERN ...]`; gives the exit status. Ctrl-C ends the
    process, with 130.
    """
    parser = _Parser(prog="python -m hwzoo.hub", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    push_parser = commands.add_parser("push", help="send a run's folder to the Hub, in one commit", allow_abbrev=False)
    push_parser.add_argument("output_dir", metavar="FOLDER", help="that a recipe wrote")
    push_parser.add_argument("repo_id", metavar="REPO", help="owner/name")
    push_parser.add_argument("--private", action="store_true", help="for a repository that only its owner sees")
    push_parser.add_argument(
        "--include", action="append", default=[], metavar="PATTERN",
        help='further files to send, as "*.csv" or "notes/*"; may be given more than once',
    )  # fmt: skip
    push_parser.add_argument(
        "--base_model_id", metavar="OWNER/NAME", help="of the base of an adapter that was trained on a local folder"
    )
    try:
        arguments = parser.parse_args(argv)
        asked = (
            Path(arguments.output_dir), arguments.repo_id, arguments.private, arguments.include,
            arguments.base_model_id,
        )  # fmt: skip
        with _ended_by_ctrl_c(f"error: interrupted; {_push_later(*asked)}"):
            print(push(*asked))
    except HwzooError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return error.status
    return 0


@contextmanager
def _ended_by_ctrl_c(line: str) -> Iterator[None]:
    """Ends the process at once, with a line: an exception would wait for each file that a thread is sending."""

    def leave(*_):
        with suppress(OSError):
            # From a new line: the cursor is behind "^C", or in a bar of huggingface_hub.
            os.write(2, f"\n{line}\n".encode(errors="surrogateescape"))
        os._exit(128 + signal.SIGINT)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())

"""Saving models with the code that defines them, loading them with every weight accounted for, and pushing them."""

import argparse
import itertools
import json
import math
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session
from huggingface_hub.errors import HFValidationError, HTTPError
from transformers import PreTrainedConfig, PreTrainedModel

from .cards import write_card
from .errors import HwzooError, UsageError, first_line
from .files import adding_to, finish, made, write_bytes, write_json
from .loading import check_finite, loading, refuse_code
from .models import FAMILIES, ContinualForImageClassification
from .retry import has_file, reason, retried, status_of

CLASSIFIERS = Path(__file__).parent / "classifiers"


def register(model: PreTrainedModel):
    """
    Makes `save_pretrained` of a zoo model, and of its image processor, copy the family's code beside the weights, for
    users without hwzoo.

    Needed before every save: a model that was itself loaded keeps the reference to its code in config.json, but
    transformers copies the files only for classes registered in this process.
    """
    for family in FAMILIES:
        if type(model) is family.model_class:
            family.config_class.register_for_auto_class()
            family.model_class.register_for_auto_class(family.auto_class.__name__)
            if family.image_processor_class is not None:
                family.image_processor_class.register_for_auto_class()


def save(model: PreTrainedModel, folder: Path, results: dict[str, Any] | None = None, also: Sequence[Any] = ()):
    """
    Writes config.json, model.safetensors, the family's code and, where it has an image processor,
    preprocessor_config.json, and the results as all_results.json; each file appears whole or not at all. `also` are
    further objects with `save_pretrained` that belong to the model: a tokenizer, how it is to generate.

    Raises:
        HwzooError: when the folder cannot be written (the files it held stay), or, once the model is saved, when a
            result is not finite.
    """
    register(model)
    with adding_to(Path(folder)) as beside:
        for each in (model, *also):
            each.save_pretrained(beside)
        for family in FAMILIES:
            if type(model) is family.model_class and family.image_processor_class is not None:
                family.image_processor_class.from_config(model.config).save_pretrained(beside)
    if results is not None:
        save_results(results, folder)


def save_results(results: dict[str, Any], folder: Path):
    """
    Writes all_results.json into a folder that holds the model already.

    Raises:
        HwzooError: when a result is not finite, or the file cannot be written.
    """
    bad = [name for name, value in results.items() if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        raise HwzooError(f"{', '.join(bad)} is not finite: {folder} holds the model, but no new all_results.json")
    write_json(Path(folder) / "all_results.json", results)


def publish(run: Any, template: Path, *, results: dict[str, Any], **about: Any):
    """
    Writes the card of a run whose model is saved, and pushes its folder where the run asks for it.

    Args:
        run: the flags of the run: `config`, `hub_model_id`, `hub_private_repo`, `output_dir`, `push_to_hub`, `seed`.
        template: of the card, which is also given `preset`, `repo_id` and `seed`.
        results: as in all_results.json.
        about: `title`, `dataset` and all else that `cards.write_card` takes.

    Raises:
        HwzooError: when the card cannot be written or the push fails; what is saved stays.
    """
    folder = Path(run.output_dir)
    about |= {"preset": run.config and Path(run.config).stem, "repo_id": run.hub_model_id or str(folder)}
    write_card(folder, template, results=results, seed=run.seed, **about)
    if run.push_to_hub:
        print("pushed:", push(folder, run.hub_model_id, run.hub_private_repo))


def load(
    model_class: type[PreTrainedModel], model_name_or_path: str, trust_remote_code: bool | None = None, **kwargs
) -> PreTrainedModel:
    """
    `model_class.from_pretrained`, in float32 unless `dtype` says otherwise, that refuses what transformers only warns
    of: weights that are missing (they would be random), unexpected or of another shape; and what is not finite.

    Args:
        model_class: of the model, or an Auto class.
        model_name_or_path: folder or Hub id.
        trust_remote_code: whether code that comes with the model is run; None where the user is not asked for that, as
            no such model could serve.
        kwargs: of `from_pretrained`.

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
    wanted = getattr(getattr(model_class, "config_class", None), "model_type", None)  # an Auto class takes many
    try:
        with loading(model_name_or_path, trust_remote_code=trust_remote_code, dtype=kwargs["dtype"]) as source:
            if wanted is not None:
                given = retried(
                    lambda: PreTrainedConfig.get_config_dict(source, local_files_only=cached)[0],
                    f"loading {model_name_or_path}",
                ).get("model_type", wanted)
                if given != wanted:
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
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            names = ", ".join(sorted(str(key[0] if isinstance(key, tuple) else key) for key in report[kind]))
            raise HwzooError(f"{model_name_or_path} has {kind.replace('_keys', '')} weights: {names}")
    check_finite(model, model_name_or_path)
    # Without permission transformers passes over its code where it knows another class for the model's type, and over
    # its way to generate.
    named = str((getattr(model.config, "auto_map", None) or {}).get(model_class.__name__, type(model).__name__))
    generates = model.can_generate() and has_file(model_name_or_path, "custom_generate/generate.py")
    if generates or named.split(".")[-1] != type(model).__name__:
        refuse_code(model_name_or_path, trust_remote_code)
    model.name_or_path = model.config.name_or_path = model_name_or_path  # wherever it was read from
    # They lie in the mapped file, at whatever address: matrix products round by alignment, and the file may change.
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()
    return model


def load_or_build(model_class: type[PreTrainedModel], model_name_or_path: str | None, config: PreTrainedConfig):
    """
    A new model of a configuration, or, when its name is given, a trained one with a configuration of its own.

    Raises:
        UsageError: when the trained model has another image size or number of channels, labels or heads than `config`.
        HwzooError: when it cannot be loaded.
    """
    if model_name_or_path is None:
        return model_class(config)
    model = load(model_class, model_name_or_path)
    for name in ("image_size", "num_channels", "num_labels", "num_heads"):
        given, wanted = (getattr(each, name, None) for each in (model.config, config))  # heads: not of every family
        if given != wanted:
            raise UsageError(f"--model_name_or_path {model_name_or_path}: it has {name} {given}, the data {wanted}")
    return model


def load_classifier(name: str) -> PreTrainedModel:
    """
    A classifier that comes with the package, in eval mode: its features score generated images. Its folder,
    `CLASSIFIERS / name`, holds its card, with the command that trained it and its test accuracy.

    Args:
        name: of its data set, "mnist" or "fashion_mnist".

    Raises:
        UsageError: for another name.
    """
    known = sorted(path.name for path in CLASSIFIERS.iterdir() if path.is_dir())
    if name not in known:
        raise UsageError(f"there is no classifier for {name!r}; there are {', '.join(known)}")
    return load(ContinualForImageClassification, str(CLASSIFIERS / name))


def _hub_answers() -> bool:
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUTS[0])
    except (OSError, HTTPError):  # offline mode is an OSError
        return False
    return True


def _not_loaded(error: OSError) -> str:
    """transformers asks for another name whatever went wrong; what its error came from tells more."""
    status = status_of(error)
    if status in (401, 403, 404):
        return f"no such folder or repository, or the token may not read it ({status}); a private one needs HF_TOKEN"
    cause = error.__cause__ or error.__context__
    if isinstance(cause, HTTPError) and status is None:
        return f"the download broke off ({reason(cause)})"
    return reason(error)


# What a run keeps for itself, besides hidden files (its lock, unfinished ones).
NOT_PUSHED = ("checkpoints", "logs")
# Files that transformers, diffusers, PEFT and the recipes write, in a folder that has no record of what a run made.
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
OF_MODELS = (
    *("config.json", "generation_config.json", "adapter_config.json", "scheduler_config.json"),
    *("preprocessor_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "vocab.json", "vocab.txt", "merges.txt"),
    *("spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "source.spm", "target.spm"),
)
OF_RUNS = (
    *("README.md", "model_index.json", "all_results.json", "preset.yaml", "predictions.jsonl", "history.jsonl"),
    *("samples.png", "curves.png", "reconstructions.png", "accuracy_matrix.png", "denoising.png"),
    *("reverse.gif", "training.gif"),
)
PICTURES = (".png", ".gif", ".jpg", ".svg")
FORMER = ".repository"  # the id that the examples of the card name, after a push
NUM_LEFT_NAMED = 20
WORD_EVERY = 8  # seconds
TIMEOUTS = (10, 30, 30, 30)  # seconds to connect, of silence while reading and writing, for a free connection


def push(folder: Path, repo_id: str, private: bool = False, include: Sequence[str] = ()) -> str:
    """
    Creates the repository if need be and sends a run's files in one commit: those that it is recorded to have made
    (`files.made`), as they are now, whoever changed them since; of a folder without a record those that transformers,
    diffusers, PEFT and the recipes write. What else lies there stays, and is told in a line; checkpoints, logs and
    hidden files always stay, and no link is followed. Pushing again what is there makes no further commit. The token
    is that of `HF_TOKEN` or `hf auth login`.

    Args:
        folder: of a run, or any that holds a model.
        repo_id: owner/name.
        private: for a repository that only its owner sees; an existing public one is refused then.
        include: patterns, as of a shell, for the names of further files, relative to the folder, with slashes; `*`
            stands for slashes too.

    Returns:
        The address of the commit.

    Raises:
        UsageError: for a folder without a model, a pattern without a file, a card that is no text in UTF-8, or an id
            that is none.
        HwzooError: when the Hub cannot be reached or refuses; one line that says how to push later. Nothing local
            is lost; the card's examples of this run name `repo_id` from then on.
    """
    folder = Path(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise UsageError(f"{repo_id} is not a repository id, owner/name; nothing was pushed, {folder} is safe")
    finish(folder)
    files, left = _chosen(folder, include)
    if not any(name.endswith(".safetensors") for name in files):
        raise UsageError(f"{folder} holds no model to push (no .safetensors file)")
    if (folder / "README.md").is_dir():
        raise UsageError(f"{folder / 'README.md'} is a folder; a card is a file; nothing was pushed")
    if "README.md" in files:
        _name_in_card(folder, repo_id)
    if left:
        named, more = left[:NUM_LEFT_NAMED], len(left) - NUM_LEFT_NAMED
        told = ", ".join(named) + (f" and {more} more" if more > 0 else "")
        print(f"not pushed: {told} (--include PATTERN sends what is no link)", file=sys.stderr)
    api = HfApi()

    def commit(parent: str | None) -> str:
        # After a lost answer the next try finds all files there and commits nothing: it needs new operations, as used
        # ones are not compared. Should the first commit come in late, `parent_commit` keeps it the only one (412).
        operations = [CommitOperationAdd(name, folder / name) for name in files]
        message = f"Upload {folder.resolve().name} with hwzoo"
        return api.create_commit(repo_id, operations, commit_message=message, parent_commit=parent).commit_url

    more = [f"--include {shlex.quote(pattern)}" for pattern in include] + (["--private"] if private else [])
    later = " ".join(["python -m hwzoo.hub push", shlex.quote(str(folder)), repo_id, *more])
    safe = f"{folder} is safe, push it later (twice does no harm): {later}"

    def failed(reason: str) -> HwzooError:
        return HwzooError(f"pushing to {repo_id} failed: {reason}; {safe}")

    try:
        with _never_silent(f"pushing to {repo_id}"):
            retried(
                lambda: api.create_repo(repo_id, private=private, exist_ok=True), "creating the repository", json=True
            )
            repo = retried(lambda: api.repo_info(repo_id), "reading the repository", json=True)
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


def _chosen(folder: Path, include: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of a folder's files are sent, and which are told to stay: names relative to it, with slashes."""
    found, links = [], []
    for place, folders, names in os.walk(folder):  # it follows no links
        inside = Path(place).relative_to(folder)
        for name in [name for name in folders if (Path(place) / name).is_symlink()] + names:
            if not _stays(inside / name):
                (links if (Path(place) / name).is_symlink() else found).append((inside / name).as_posix())
        folders[:] = [name for name in folders if not _stays(inside / name)]
    recorded = made(folder)
    if not any(name.endswith(".safetensors") for name in recorded):  # no run, an earlier version's, or one not ended
        recorded = _written_by_libraries(folder, found)
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise UsageError(f"--include is {pattern}; no file of {folder} that may be pushed has such a name")
    chosen = {"README.md", *recorded, *(name for name in found for each in include if fnmatchcase(name, each))}
    left = [name for name in found if name not in chosen] + [f"{name} (a link)" for name in links]
    return sorted(name for name in found if name in chosen), sorted(left)


def _written_by_libraries(folder: Path, found: list[str]) -> set[str]:
    """Of the files of a folder those that belong to a model, by their names and by what its files name."""
    settings = {name: _object(folder / name) for name in found if Path(name).name in (*OF_MODELS, "model_index.json")}
    index = settings.get("model_index.json", {})
    parts = {part for part, kind in index.items() if isinstance(kind, list) and part != "_class_name"}
    chosen = set()
    for name in found:
        path = Path(name)
        if len(path.parts) == 1 or (len(path.parts) == 2 and path.parts[0] in parts):
            patterns = (*OF_MODELS, *WEIGHTS, *(OF_RUNS if len(path.parts) == 1 else ()))
            chosen |= {name} if any(fnmatchcase(path.name, pattern) for pattern in patterns) else set()
    # The code: what a configuration names as "file.Class", and the files that these import as `from .file import x`.
    references = [index.get("_class_name")] if isinstance(index.get("_class_name"), list) else []
    references += [value for each in settings.values() for value in _values(each.get("auto_map"))]
    code = {str(each[0] if isinstance(each, list) else each.split(".")[0]) for each in references}
    code = {f"{name}.py" for name in code} & set(found)
    waiting = sorted(code)
    for name in waiting:
        imported = re.findall(rb"^\s*from\s+\.(\w+)\s+import", (folder / name).read_bytes(), re.MULTILINE)
        new = {f"{each.decode()}.py" for each in imported} & set(found) - code
        code |= new
        waiting += sorted(new)
    card = (folder / "README.md").read_bytes() if "README.md" in found else b""
    shown = re.findall(rb"""(?:\]\(|src=["'])([^)"'\s]+)""", card)
    pictures = {name for name in found if name.encode() in shown and name.lower().endswith(PICTURES)}
    return chosen | code | pictures


def _object(path: Path) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _values(auto_map: Any) -> list[str]:
    """The classes that an `auto_map` names: of a dictionary, or of a tokenizer's list, with gaps."""
    values = list(auto_map.values()) if isinstance(auto_map, dict) else [auto_map]
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    return [each for each in flat if isinstance(each, str)]


def _name_in_card(folder: Path, repo_id: str):
    """The examples of the card that load this run, from its folder or from where it was pushed, name where it goes."""
    card, former = folder / "README.md", folder / FORMER
    try:
        text = card.read_bytes()
        text.decode()
        before = former.read_text(encoding="utf-8").strip() if former.is_file() else None
    except UnicodeDecodeError as error:
        raise UsageError(f"{card} is no text in UTF-8 ({first_line(error)}); nothing was pushed") from None
    except OSError as error:
        raise HwzooError(f"{card} cannot be read: {error.strerror}; nothing was pushed") from error
    whole = folder.resolve()

    def names(match: re.Match[bytes]) -> bytes:
        name = match[2].decode()
        # As it was given at the run, from wherever: the end of its path.
        parts = Path(os.path.normpath(name)).parts
        own = whole.parts[-len(parts) :] == parts or Path(name).absolute() == folder.absolute()
        own = own or (Path(name).is_dir() and Path(name).resolve() == whole)
        return match[1] + b'"' + (repo_id.encode() if name and (own or name == before) else match[2]) + b'"'

    changed = re.sub(rb'(from_pretrained\(|load_pipeline\(|model=)"([^"\n]*)"', names, text)
    if changed != text:
        write_bytes(card, changed)
    if before != repo_id:
        write_bytes(former, f"{repo_id}\n".encode())


def _stays(path: Path) -> bool:
    return any(part.startswith(".") or part in NOT_PUSHED for part in path.parts)


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
        raise UsageError(f"{message}; {self.usage}")  # argparse would print lines of usage, and exit


USAGE = "python -m hwzoo.hub push OUTPUT_DIR REPO_ID [--private] [--include PATTERN ...]"


def main(argv: list[str] | None = None) -> int:
    """`python -m hwzoo.hub push OUTPUT_DIR REPO_ID [--private] [--include PATTERN ...]`; gives the exit status."""
    parser = _Parser(prog="python -m hwzoo.hub", usage=USAGE, description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    help = "send a run's folder to the Hub, in one commit"
    push_parser = commands.add_parser("push", usage=USAGE, help=help, description=help, allow_abbrev=False)
    push_parser.add_argument("output_dir", help="folder that a recipe wrote")
    push_parser.add_argument("repo_id", help="owner/name")
    push_parser.add_argument("--private", action="store_true", help="for a repository that only its owner sees")
    push_parser.add_argument(
        "--include", action="append", default=[], metavar="PATTERN",
        help="send files that no run made as well, by name relative to the folder, as 'notes/*.txt'; repeatable",
    )  # fmt: skip
    try:
        arguments = parser.parse_args(argv)
        print(push(Path(arguments.output_dir), arguments.repo_id, arguments.private, arguments.include))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except HwzooError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())

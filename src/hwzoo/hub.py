"""Saving models with the code that defines them, loading them with every weight accounted for, and pushing them."""

import argparse
import itertools
import math
import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_session
from huggingface_hub.errors import HFValidationError, HTTPError
from transformers import PreTrainedConfig, PreTrainedModel

from .cards import template, write_card
from .errors import HwzooError, UsageError
from .files import adding_to, write_bytes, write_json
from .models import FAMILIES, ContinualForImageClassification
from .retry import reason, retried, status_of

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


def save_card(run: Any, folder: Path, family: str, data: Any, results: dict[str, Any], **about: Any):
    """
    Writes the card of a run.

    Args:
        run: the flags of the run: `config`, `hub_model_id`, `output_dir`, `seed`.
        folder: for README.md, with the pictures of the run.
        family: whose template of a card is filled; it is also given `preset`, `repo_id` and `seed`.
        data: with `name` and `source`, for its title and the data set that it names.
        results: as in all_results.json.
        about: all else that `cards.write_card` takes, `title` too.

    Raises:
        HwzooError: when the card cannot be written.
    """
    about = {"title": f"{family}-{data.name.split('/')[-1]}", "dataset": data.source, **about}
    about |= {"preset": run.config and Path(run.config).stem, "repo_id": run.hub_model_id or str(run.output_dir)}
    write_card(folder, template(family), results=results, seed=run.seed, **about)


def publish(run: Any):
    """
    Pushes the folder of a run where `run.push_to_hub` asks for it.

    Raises:
        HwzooError: when the push fails; what is saved stays.
    """
    if run.push_to_hub:
        print("pushed:", push(Path(run.output_dir), run.hub_model_id, run.hub_private_repo))


def load(model_class: type[PreTrainedModel], model_name_or_path: str, **kwargs) -> PreTrainedModel:
    """
    `model_class.from_pretrained` that refuses what transformers only warns of: weights that are missing (they would be
    random), unexpected or of another shape.

    Raises:
        HwzooError: naming the weights that do not fit, or the model that is not there.
    """
    # Where nobody answers transformers would try for a minute before it looks into the cache.
    cached = not Path(model_name_or_path).is_dir() and not _hub_answers()
    if cached:
        kwargs["local_files_only"] = True
    try:
        model, loading = retried(
            lambda: model_class.from_pretrained(
                model_name_or_path, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
            ),
            f"loading {model_name_or_path}",
        )
    except OSError as error:
        told = "no such folder, no Hub that can be reached, and not in the cache" if cached else _not_loaded(error)
        raise HwzooError(f"{model_name_or_path} cannot be loaded: {told}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[kind]:
            names = ", ".join(sorted(str(key[0] if isinstance(key, tuple) else key) for key in loading[kind]))
            raise HwzooError(f"{model_name_or_path} has {kind.replace('_keys', '')} weights: {names}")
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
WORD_EVERY = 8  # seconds
TIMEOUTS = (10, 30, 30, 30)  # seconds to connect, of silence while reading and writing, for a free connection


def push(folder: Path, repo_id: str, private: bool = False) -> str:
    """
    Creates the repository if need be and sends a run's files, all but its checkpoints and logs, in one commit. Pushing
    again what is there makes no further commit. The token is that of `HF_TOKEN` or `hf auth login`.

    Args:
        folder: of a run, or any that holds a model.
        repo_id: owner/name.
        private: for a repository that only its owner sees; an existing public one is refused then.

    Returns:
        The address of the commit.

    Raises:
        UsageError: for a folder without a model, or an id that is none.
        HwzooError: when the Hub cannot be reached or refuses; one line that says how to push later. Nothing local
            is lost; the card's examples name `repo_id` from then on.
    """
    folder = Path(folder)
    weights = (path.relative_to(folder) for path in folder.rglob("*.safetensors"))  # a pipeline's: a folder further
    if all(_is_private(path) for path in weights):
        raise UsageError(f"{folder} holds no model to push (no .safetensors file)")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise UsageError(f"{repo_id} is not a repository id, owner/name; nothing was pushed, {folder} is safe")
    card = folder / "README.md"
    if card.exists():  # its examples load from where it now goes
        text = card.read_text(encoding="utf-8")
        text = re.sub(r'(from_pretrained\(|load_pipeline\(|model=)"[^"]*"', rf'\1"{repo_id}"', text)
        write_bytes(card, text.encode())
    api = HfApi()
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def commit(parent: str | None) -> str:
        # After a lost answer the next try finds all files there and commits nothing: it needs new operations, as used
        # ones are not compared. Should the first commit come in late, `parent_commit` keeps it the only one (412).
        pushed = [name for name in files if not _is_private(name)]
        operations = [CommitOperationAdd(name.as_posix(), files[name]) for name in pushed]
        message = f"Upload {folder.resolve().name} with hwzoo"
        return api.create_commit(repo_id, operations, commit_message=message, parent_commit=parent).commit_url

    def failed(reason: str) -> HwzooError:
        later = f"python -m hwzoo.hub push {shlex.quote(str(folder))} {repo_id}{' --private' if private else ''}"
        return HwzooError(
            f"pushing to {repo_id} failed: {reason}; {folder} is safe, push it later (twice does no harm): {later}"
        )

    try:
        with _never_silent(f"pushing to {repo_id}"):
            retried(
                lambda: api.create_repo(repo_id, private=private, exist_ok=True), "creating the repository", json=True
            )
            repo = retried(lambda: api.repo_info(repo_id), "reading the repository", json=True)
            if private and not repo.private:  # it existed, and `private` was ignored
                raise failed("it exists and is public, but a private one was asked for")
            return retried(lambda: commit(repo.sha), "pushing", json=True)
    except HFValidationError as error:
        raise UsageError(f"{reason(error)}; nothing was pushed, {folder} is safe") from None
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        # huggingface_hub tells a failed upload as RuntimeError, a card that the Hub refuses as ValueError.
        raise failed(_reason(error)) from error


def _is_private(path: Path) -> bool:
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


def main(argv: list[str] | None = None) -> int:
    """`python -m hwzoo.hub push OUTPUT_DIR REPO_ID [--private]`; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hwzoo.hub", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    push_parser = commands.add_parser("push", help="send a run's folder to the Hub, in one commit", allow_abbrev=False)
    push_parser.add_argument("output_dir", help="folder that a recipe wrote")
    push_parser.add_argument("repo_id", help="owner/name")
    push_parser.add_argument("--private", action="store_true", help="for a repository that only its owner sees")
    arguments = parser.parse_args(argv)
    try:
        print(push(Path(arguments.output_dir), arguments.repo_id, private=arguments.private))
    except HwzooError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())

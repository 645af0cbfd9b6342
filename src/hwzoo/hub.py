"""Saving models with the code that defines them, loading them with every weight accounted for, and pushing them."""

import argparse
import math
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from transformers import PreTrainedConfig, PreTrainedModel

from .errors import HwzooError, UsageError
from .files import adding_to, write_bytes, write_json
from .models import FAMILIES


def register(model: PreTrainedModel):
    """
    Makes `save_pretrained` of a zoo model copy the family's code beside the weights, for users without hwzoo.

    Needed before every save: a model that was itself loaded keeps the reference to its code in config.json, but
    transformers copies the files only for classes registered in this process.
    """
    for family in FAMILIES:
        if type(model) is family.model_class:
            family.config_class.register_for_auto_class()
            family.model_class.register_for_auto_class(family.auto_class.__name__)


def save(model: PreTrainedModel, folder: Path, results: dict[str, Any] | None = None):
    """
    Writes config.json, model.safetensors and the family's code, and the results as all_results.json; each file appears
    whole or not at all.

    Raises:
        HwzooError: when the folder cannot be written (the files it held stay), or, once the model is saved, when a
            result is not finite.
    """
    register(model)
    with adding_to(Path(folder)) as beside:
        model.save_pretrained(beside)
    if results is not None:
        bad = [name for name, value in results.items() if isinstance(value, float) and not math.isfinite(value)]
        if bad:
            raise HwzooError(f"{', '.join(bad)} is not finite: {folder} holds the model, but no new all_results.json")
        write_json(Path(folder) / "all_results.json", results)


def load(model_class: type[PreTrainedModel], model_name_or_path: str, **kwargs) -> PreTrainedModel:
    """
    `model_class.from_pretrained` that refuses what transformers only warns of: weights that are missing (they would be
    random), unexpected or of another shape.

    Raises:
        HwzooError: naming the weights that do not fit, or the model that is not there.
    """
    try:
        model, loading = model_class.from_pretrained(
            model_name_or_path, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    except OSError as error:
        raise HwzooError(f"{model_name_or_path} cannot be loaded: {str(error).splitlines()[0]}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[kind]:
            names = ", ".join(sorted(str(key[0] if isinstance(key, tuple) else key) for key in loading[kind]))
            raise HwzooError(f"{model_name_or_path} has {kind.replace('_keys', '')} weights: {names}")
    return model


def load_or_build(model_class: type[PreTrainedModel], model_name_or_path: str | None, config: PreTrainedConfig):
    """
    A new model of a configuration, or, when its name is given, a trained one with a configuration of its own.

    Raises:
        UsageError: when the trained model takes images of another size or number of channels than `config` says.
        HwzooError: when it cannot be loaded.
    """
    if model_name_or_path is None:
        return model_class(config)
    model = load(model_class, model_name_or_path)
    for name in ("image_size", "num_channels"):
        if getattr(model.config, name) != getattr(config, name):
            raise UsageError(
                f"--model_name_or_path {model_name_or_path}: it has {name} {getattr(model.config, name)}, the data "
                f"{getattr(config, name)}"
            )
    return model


# What a run keeps for itself, besides hidden files (its lock, unfinished ones).
NOT_PUSHED = ("checkpoints", "logs")
WAITS = (1, 2, 4, 8)  # seconds before each further try


def push(folder: Path, repo_id: str, private: bool = False) -> str:
    """
    Creates the repository if need be and sends a run's files, all but its checkpoints and logs, in one commit. The
    token is that of `HF_TOKEN` or `hf auth login`.

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
    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"{folder} holds no model to push (no .safetensors file)")
    card = folder / "README.md"
    if card.exists():  # its examples load from where it now goes
        text = re.sub(r'from_pretrained\("[^"]*"', f'from_pretrained("{repo_id}"', card.read_text())
        write_bytes(card, text.encode())
    api = HfApi()
    files = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_private(path.relative_to(folder))
    ]
    operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    try:
        _retried(lambda: api.create_repo(repo_id, private=private, exist_ok=True), "creating the repository")
        # For a repository that exists, `private` was ignored.
        if private and not _retried(lambda: api.repo_info(repo_id).private, "reading the repository"):
            raise HwzooError(f"{repo_id} exists and is public, but private was asked for; nothing was pushed")
        message = f"Upload {folder.resolve().name} with hwzoo"
        commit = _retried(lambda: api.create_commit(repo_id, operations, commit_message=message), "pushing")
    except HFValidationError as error:
        raise UsageError(f"{repo_id} is not a repository id: {_first_line(error)}") from None
    except (OSError, HTTPError, RuntimeError, ValueError) as error:
        # huggingface_hub tells a failed upload as RuntimeError, an answer that is no JSON as ValueError.
        later = f"python -m hwzoo.hub push {folder} {repo_id}{' --private' if private else ''}"
        raise HwzooError(
            f"{repo_id} was not pushed: {_reason(error)}; {folder} is safe, push it later: {later}"
        ) from error
    return commit.commit_url


def _is_private(path: Path) -> bool:
    return any(part.startswith(".") or part in NOT_PUSHED for part in path.parts)


def _retried(call: Callable[[], Any], what: str) -> Any:
    """Calls again after 429 and 5xx, as huggingface_hub does not for commits, with growing waits and a word each."""
    for wait in (*WAITS, None):
        try:
            return call()
        except HfHubHTTPError as error:
            status = _status(error) or 0
            if wait is None or not (status == 429 or status >= 500):
                raise
            print(f"{what}: the Hub answered {status}; trying again in {wait} s", file=sys.stderr)
            time.sleep(wait)


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error, or what it came from, tells."""
    while error is not None:
        if getattr(error, "response", None) is not None:
            return error.response.status_code
        error = error.__cause__
    return None


def _reason(error: Exception) -> str:
    status = _status(error)
    if status == 401:
        return "the Hub refuses the token (401): set HF_TOKEN or run `hf auth login`"
    if status == 403:
        return "the token may not write there (403): is the owner right?"
    if status == 404:
        return "there is no such owner or repository (404)"
    if status is not None:
        return f"the Hub answered {status} at every try"
    return f"the Hub cannot be reached ({_first_line(error)})"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


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

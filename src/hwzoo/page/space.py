"""The page as a Space of the Hub: a folder that runs by itself, and its way there."""

import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import requires, version
from pathlib import Path

from huggingface_hub import CommitOperationAdd, SpaceCardData

from .. import hub
from ..errors import UsageError
from ..files import PUSHED, is_repo_id, made, read_jsonl, renewing
from ..packaged import PACKAGE
from .app import SECONDS

APP = '''"""The page of a Space; `python app.py` shows it."""

from hwzoo import page

MODELS = {models}

if __name__ == "__main__":
    page.serve(page.build(page.load_entries(MODELS), {seconds:g}, {title!r}), host=None, told=print)
'''
CARD = """---
{data}
---

# {title}

A page to play with {models}, made by hwzoo {version}. `pip install -r requirements.txt` and `python app.py` show it on
any machine.
"""
LEFT = ("__pycache__", "classifiers", "recipes", "model_cards")  # of the package: what the page never reads


def hub_ids(names: Sequence[str]) -> list[str]:
    """
    Where a Space loads models from.

    Args:
        names: Hub ids, or folders that were pushed.

    Returns:
        Hub ids; of a folder the one that it was pushed to last.

    Raises:
        UsageError: for a folder that was not pushed, or what is neither.
    """
    ids = []
    for name in names:
        if Path(name).is_dir():
            if (Path(name) / "comparison.json").is_file():
                raise UsageError(f"{name} is a comparison, which has no place in a Space: leave it out")
            lines = read_jsonl(Path(name) / PUSHED)
            pushed = [each.get("pushed") for each in lines if isinstance(each, dict)]
            pushed = [each for each in pushed if isinstance(each, str) and is_repo_id(each)]
            if not pushed and any(isinstance(each, str) for each in lines):
                raise UsageError(
                    f"{name}: it is not known where it was pushed to last: push it again, or give its Hub id"
                )
            if not pushed:
                told = f"hwzoo push {name} OWNER/NAME first, or give its Hub id"
                raise UsageError(f"{name} is on this machine alone: {told}")
            ids.append(pushed[-1])
        elif is_repo_id(name):
            ids.append(name)
        else:
            raise UsageError(f"--models has {name}: no such folder, and not a Hub id (owner/name)")
    return ids


def requirements() -> list[str]:
    """The direct dependencies of the package and the page, each at the version that is installed here."""
    lines = requires("hwzoo") or []
    wanted = [re.match(r"[\w.-]+", line)[0] for line in lines if "extra ==" not in line]
    wanted += [re.match(r"[\w.-]+", line)[0] for line in lines if re.search(r"extra == ['\"]page['\"]", line)]
    return [f"{name}=={version(name).split('+')[0]}" for name in sorted(set(wanted))]


def make_space(names: Sequence[str], folder: Path, seconds: float = SECONDS) -> Path:
    """
    Writes a Space: app.py, requirements.txt with the versions of this machine, README.md with what the Hub reads of
    it, and the package, as it is installed here.

    Args:
        names: Hub ids, or folders that were pushed.
        folder: for the files.
        seconds: that a call may take.

    Returns:
        The folder.

    Raises:
        UsageError: as of `hub_ids`.
        HwzooError: when the folder cannot be written.
    """
    ids, pinned = hub_ids(names), requirements()
    title = " and ".join(each.split("/")[1] for each in ids) if len(ids) < 4 else f"{len(ids)} models of hwzoo"
    data = SpaceCardData(
        title=title, sdk="gradio", sdk_version=version("gradio"), app_file="app.py", models=ids, license="apache-2.0",
        python_version=".".join(map(str, sys.version_info[:2])), short_description="Models to play with",
    )  # fmt: skip
    card = CARD.format(data=data.to_yaml(), title=title, models=", ".join(ids), version=version("hwzoo"))
    with renewing(folder) as staging:
        (staging / "app.py").write_text(APP.format(models=repr(ids), seconds=seconds, title=title))
        (staging / "requirements.txt").write_text("\n".join(pinned) + "\n")
        (staging / "README.md").write_text(card)
        shutil.copytree(PACKAGE, staging / "hwzoo", ignore=shutil.ignore_patterns(*LEFT))
        # By this the package knows its version where it was not installed.
        about = staging / f"hwzoo-{version('hwzoo')}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: hwzoo\nVersion: {version('hwzoo')}\n")
    return folder


def push_space(folder: Path, repo_id: str, private: bool = False, later: str = "push it later") -> str:
    """
    Sends the folder of a Space to the Hub, in one commit, with the token of `HF_TOKEN` or the login.

    Args:
        folder: of `make_space`.
        repo_id: owner/name.
        private: for a Space that only its owner sees.
        later: what is said when it fails, after where the folder is.

    Returns:
        The address of the commit.

    Raises:
        UsageError: for an id that is none.
        HwzooError: when the Hub cannot be reached or refuses; the folder stays.
    """
    names = sorted(made(folder))

    def operations() -> list[CommitOperationAdd]:
        return [CommitOperationAdd(name, folder / name) for name in names]

    safe = f"{folder} is safe, {later}"
    return hub.send(folder, repo_id, operations, safe, private, repo_type="space", space_sdk="gradio")

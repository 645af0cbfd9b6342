"""
Shows models on a page to play with, in a browser on this machine.

    python recipes/page.py outputs/vae outputs/gan outputs/compare_continual
    python recipes/page.py you/vae you/gan --output_dir outputs/space --push you/space

Each folder or Hub id gets a tab with what its model offers: drawing, paths and planes of latents, noise added and
taken away, a drawing board, codes, likelihoods, nearest training images, prompts; a folder of a comparison its tables.
Nothing is asked of another host, nothing of this one is shared, no code that comes with a model is run. With
`--output_dir` it makes the folder of a Space instead (`python app.py` there shows it), `--push` sends that to the Hub.
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from hwzoo import page, training
from hwzoo.errors import HwzooError, UsageError
from hwzoo.files import is_repo_id
from hwzoo.training import GIVEN, flag


@dataclass
class Settings(training.Flags):
    FIRST = "models"

    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    models: list[str] | None = flag(None, "folders or Hub ids of models, or folders of comparisons")
    port: int | None = flag(
        None,
        "of the page; the first that is free from 7860 on when not given",
        "[1, 65535]",
        only={"output_dir": (None,), "push": (None,)},
    )
    max_seconds: float = flag(page.SECONDS, "that a call of a visitor may take", "(0, 600]")
    output_dir: str | None = flag(None, "folder for the files of a Space, which are made in place of showing the page")
    overwrite_output_dir: bool = flag(False, "write over what the folder holds")
    push: str | None = flag(None, "Space to send that folder to, owner/name")
    hub_private_repo: bool = flag(False, "push to a private Space", only={"push": GIVEN})

    def __post_init__(self):
        super().__post_init__()
        if not self.models:
            raise UsageError("--models is missing: folders or Hub ids")
        if self.push and not is_repo_id(self.push):
            raise UsageError(f"--push is {self.push}; it must be owner/name")


def main(settings: Settings):
    # 1. a Space
    if settings.push or settings.output_dir:
        page.gradio()  # whose version is written down
        folder = Path(settings.output_dir or "outputs/space")
        ids = page.hub_ids(settings.models)
        training.check_free(folder, settings.overwrite_output_dir)
        training.make_output_dir(folder)
        page.make_space(ids, folder, settings.max_seconds)
        print(f"{folder}: python app.py there shows the page")
        if settings.push:
            words = ["hwzoo", "page", *settings.models, "--output_dir", str(folder), "--overwrite_output_dir"]
            words += ["--max_seconds", f"{settings.max_seconds:g}", "--push", settings.push]
            words += ["--hub_private_repo"] if settings.hub_private_repo else []
            later = f"push it later: {shlex.join(words)}"
            print("pushed:", page.push_space(folder, settings.push, settings.hub_private_repo, later))
        return

    # 2. the page
    page.check_port(settings.port)
    entries = page.load_entries(settings.models)
    for entry in entries:
        if entry.error:
            print(f"{entry.title} has no page: {entry.error}")
    if all(entry.error for entry in entries):
        raise HwzooError(f"there is nothing to show: {entries[0].error}")
    page.serve(page.build(entries, settings.max_seconds), "127.0.0.1", settings.port, told=print)


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)

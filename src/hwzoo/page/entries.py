"""What has a tab of its own: a model with what its folder tells of it, a folder of results, or why it is not there."""

import inspect
import itertools
import json
import logging
import random
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from torch import Tensor

from .. import hub
from ..data import ImageOptions, load_images
from ..data.sources import HUB_IDS
from ..errors import HwzooError, first_line
from ..files import settled
from ..models import Family, family_of
from ..retry import has_file
from ..training import recorded

logger = logging.getLogger(__name__)

COMPARISON = "comparison.json"
MOST_TRAINING_IMAGES = 2000
OWN_DATA = ("digits", *HUB_IDS)  # all that a preset from the Hub may name
MOST_BYTES = 2**23  # of a file of a folder that is shown


@dataclass(eq=False)
class Entry:
    """
    A tab.

    Args:
        name: folder or Hub id.
        title: of the tab.
        family: the row of its model.
        model: None for results without a model, and where it cannot be loaded.
        tokenizer: of a model of texts.
        comparison: rows of a folder that compares runs.
        error: why there is nothing, in one line.
        lock: held by whoever computes with the model.
        features: of the training images, once they were asked for.
    """

    name: str
    title: str
    family: Family = field(default_factory=lambda: Family(""))
    model: Any = None
    tokenizer: Any = None
    comparison: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    lock: Any = field(default_factory=threading.Lock)
    features: Tensor | None = None

    @property
    def config(self) -> Any:
        """Of the model."""
        return getattr(self.model, "config", None)

    def offers(self, *names: str) -> bool:
        """Whether the model has all of some methods."""
        return self.model is not None and all(callable(getattr(self.model, name, None)) for name in names)

    def takes(self, method: str, argument: str) -> bool:
        """
        Args:
            method: of the model.
            argument: of the method.

        Returns:
            Whether both are there.
        """
        function = getattr(self.model, method, None)
        return callable(function) and argument in inspect.signature(function).parameters

    @property
    def is_pipeline(self) -> bool:
        """Whether it is a pipeline of diffusers around a network that removes noise."""
        return hasattr(self.model, "scheduler") and hasattr(self.model, "unet")

    @property
    def draws(self) -> bool:
        """Whether it makes images or texts from nothing."""
        return self.model is not None and not self.writes and self.family.samples(self.model)

    @property
    def writes(self) -> bool:
        """Whether it is a language model that goes on with a prompt."""
        return self.tokenizer is not None and self.offers("generate")

    def words(self, tokens: Tensor) -> list[str]:
        """Texts of tokens, (num, length), without special ones."""
        return self.tokenizer.batch_decode(tokens, skip_special_tokens=True)

    @property
    def num_classes(self) -> int:
        """Of what it draws; 0 where it knows none."""
        return self.family.num_classes(self.model) if self.draws else 0

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Channels, and height and width, of the images that it takes or makes; None where it has no square ones."""
        if self.is_pipeline:
            channels, height, width = self.model.image_shape
            return (channels, height) if height == width else None
        channels, size = (getattr(self.config, name, None) for name in ("num_channels", "image_size"))
        return (channels, size) if channels in (1, 3) and isinstance(size, int) else None

    @property
    def num_levels(self) -> int | None:
        """Of a pixel, where the model takes no others."""
        return getattr(self.config, "num_levels", None)

    # What the folder tells

    def read(self, name: str) -> str | None:
        """A text file of the folder or repository; None where there is none, or a larger one than is shown."""
        data = self.read_bytes(name)
        return None if data is None else data.decode(errors="replace")

    def read_bytes(self, name: str) -> bytes | None:
        """As `read`, of any file."""
        try:
            if Path(self.name).is_dir():
                path = Path(settled(self.name)) / name
            elif has_file(self.name, name):
                path = Path(hf_hub_download(self.name, name))
            else:
                return None
            return path.read_bytes() if path.is_file() and path.stat().st_size <= MOST_BYTES else None
        except (OSError, ValueError, HwzooError):
            return None

    @cached_property
    def results(self) -> dict[str, Any]:
        """all_results.json."""
        return _object(self.read("all_results.json"))

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl that can be read."""
        lines = map(_object, (self.read("history.jsonl") or "").splitlines())
        return [line for line in lines if line]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The flags of its run."""
        import yaml

        try:
            content = yaml.safe_load(self.read("preset.yaml") or "")
        except Exception:  # of a date that is none, of lists within lists: not all are YAML's own
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def card(self) -> str:
        """README.md without its head, and without pictures: no address of a stranger's text is asked for."""
        text = REGEX_YAML_BLOCK.sub("", self.read("README.md") or "", count=1)
        return re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        """The PNG files that its card shows, by name."""
        named = re.findall(r"!\[[^\]]*\]\(([\w.-]+\.png)\)", self.read("README.md") or "")
        found = {name: self.read_bytes(name) for name in dict.fromkeys(named)}
        return {name: data for name, data in found.items() if data}

    @property
    def knows_data(self) -> bool:
        """
        Whether something says on which images it was trained. Of a model from the Hub only the zoo's own data sets
        count: whatever else a stranger's preset names would be looked for on this machine.
        """
        name = self.settings.get("dataset_name")
        return name in OWN_DATA if not Path(self.name).is_dir() else name is not None

    def example(self) -> Tensor:
        """One of the training images, (channels, height, width) in [0, 1], another each time."""
        images, _ = self.training_images
        return images[random.randrange(len(images))]

    @cached_property
    def training_images(self) -> tuple[Tensor, list[str]]:
        """
        Images that it was trained on, evenly spaced, MOST_TRAINING_IMAGES at most, and the names of their classes.

        Returns:
            (num, channels, height, width) in [0, 1], and `num` names.

        Raises:
            HwzooError: when they are not at hand; why is told on stderr: visitors are not to read names of files.
        """
        settings, preset = self.settings, Path(settled(self.name), "preset.yaml")
        try:
            if not Path(self.name).is_dir():
                settings = {"dataset_name": settings["dataset_name"], "image_size": (self.image_shape or (1, None))[1]}
            elif preset.is_file():  # whose paths begin in the folder of the run
                settings = recorded(preset, Path(self.name))
            options = {name: settings[name] for name in ImageOptions.__annotations__ if name in settings}
            data = load_images(settings["dataset_name"], settings.get("data_dir"), ImageOptions(**options)).train
        except HwzooError as error:
            logger.warning("the training images of %s: %s", self.name, error)
            raise HwzooError("the training images are not at hand") from error
        data = data.spread(MOST_TRAINING_IMAGES)
        return data.pixel_values(), [data.class_names[label] for label in data.labels]


def load_entries(names: Sequence[str]) -> list[Entry]:
    """
    Args:
        names: folders of models or of comparisons, or Hub ids. No code that comes with a model is run.

    Returns:
        An entry for each, their titles differ; one that cannot be loaded says why.
    """
    titles: list[str] = []
    for name in names:
        base = Path(name).name or Path(name).resolve().name
        free = itertools.chain([base], (f"{base} ({number})" for number in itertools.count(2)))
        titles.append(next(title for title in free if title not in titles))
    return [load_entry(name, title) for name, title in zip(names, titles, strict=True)]


def load_entry(name: str, title: str) -> Entry:
    """
    What a folder or Hub id holds.

    Args:
        name: folder or Hub id.
        title: of its tab.

    Returns:
        The entry, with `error` where it cannot be loaded.
    """
    if Path(name).is_dir():  # spelled in full, as errors spell its files: the page has the title in place of it
        name = str(Path(name).absolute())
    entry = Entry(name, title)
    if Path(name).is_dir() and (text := entry.read(COMPARISON)):
        rows = _parsed(text)
        rows = [row for row in rows if isinstance(row, dict) and "label" in row] if isinstance(rows, list) else []
        entry.comparison = rows
        entry.error = None if entry.comparison else f"{name}/{COMPARISON} holds no rows"
        return entry
    try:
        entry.family, entry.model = hub.load_any(name)
        if isinstance(entry.model, torch.nn.Module):
            entry.model.eval()
        _find_words(entry)
    except Exception as error:  # whatever is wrong with one folder, the others have their tabs
        told = first_line(error) if isinstance(error, HwzooError) else _told(name, error)
        entry.model, entry.error = None, told.replace("--model_name_or_path", "--models")  # the flag of the page
    return entry


def _find_words(entry: Entry):
    """The tokenizer of a model of texts; and the head of a causal one, which AutoModel leaves out."""
    named = " ".join(getattr(entry.config, "architectures", None) or [])
    causal = not entry.family.name and re.search(r"ForCausalLM|LMHeadModel", named)
    known = has_file(entry.name, "tokenizer_config.json")
    if not (causal or known or getattr(entry.config, "is_encoder_decoder", False)):
        return
    from .. import text

    if causal:
        entry.model, entry.tokenizer = text.load_base(entry.name, hub.load)
        entry.family = family_of(entry.model)
    else:
        entry.tokenizer = text.load_tokenizer(text.tokenizer_of(entry.name, entry.model), "model_name_or_path")


def _told(name: str, error: Exception) -> str:
    return f"{name} cannot be loaded: {type(error).__name__}: {first_line(error)}"


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None


def _object(text: str | None) -> dict[str, Any]:
    content = _parsed(text)
    return content if isinstance(content, dict) else {}

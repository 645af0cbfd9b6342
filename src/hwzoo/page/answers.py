"""What the page shows: pictures without loss, numbers and words, as HTML that needs nothing but itself."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import torch
from PIL import Image
from torch import Tensor

from .inputs import PNG

ENLARGED, SHOWN = 8, 224  # a picture is shown at least so many times as large, and at least so many pixels wide


def png(image: Tensor) -> bytes:
    """The PNG of one image, (channels, height, width) in [0, 1], of 1 or 3 channels, rounded to 8 bits a channel."""
    levels = (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    array = levels[0].numpy() if len(levels) == 1 else levels.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def data_uri(data: bytes) -> str:
    """A PNG as an address that holds it."""
    return PNG + base64.b64encode(data).decode()


def _image(image: Tensor, text: str) -> str:
    height, width = image.shape[1:]
    times = max(ENLARGED, -(-SHOWN // width))
    return (
        f'<img class="hard" src="{data_uri(png(image))}" width="{times * width}" height="{times * height}" '
        f'alt="{escape(text)}">'
    )


@dataclass(frozen=True)
class Pictures:
    """
    Images side by side.

    Args:
        images: (num, channels, height, width) in [0, 1].
        captions: one for each.
        columns: in which they stand; None for as many as fit.
        shown: whether captions stand below the images; screen readers read them in any case.
    """

    images: Tensor
    captions: Sequence[str]
    columns: int | None = None
    shown: bool = True

    def html(self) -> str:
        """The figures."""
        parts = []
        for image, text in zip(self.images, self.captions, strict=True):
            below = f"<figcaption>{escape(text)}</figcaption>" if self.shown else ""
            parts.append(f"<figure>{_image(image, text)}{below}</figure>")
        style = "" if self.columns is None else f' style="grid-template-columns: repeat({self.columns}, max-content)"'
        return _wide(f'<div class="pictures"{style}>{"".join(parts)}</div>', self.captions[0])


@dataclass(frozen=True)
class Film:
    """
    What changes along one thing, which a slider in the browser moves through.

    Args:
        frames: the answers of each frame.
        names: of the frames.
        label: of the slider.
        start: the frame that is shown first.
    """

    frames: Sequence[Sequence["Answer"]]
    names: Sequence[str]
    label: str
    start: int = 0

    def html(self) -> str:
        """All frames, one of which is seen, and the slider."""
        first, label = escape(self.names[self.start]), escape(self.label)
        slider = (
            f'<label><span>{label}: <output>{first}</output></span><input type="range" min="0" '
            f'max="{len(self.names) - 1}" value="{self.start}" aria-valuetext="{first}"></label>'
        )
        frames = "".join(
            f'<div class="frame" data-name="{escape(name)}"{"" if place == self.start else " hidden"}>'
            f"{''.join(each.html() for each in answers)}</div>"
            for place, (answers, name) in enumerate(zip(self.frames, self.names, strict=True))
        )
        return f'<div class="film">{slider}{frames}</div>'


@dataclass(frozen=True)
class Table:
    """
    Rows of words and numbers.

    Args:
        head: of the columns; the first column names the rows.
        rows: as long as the head each.
        caption: above it.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | float | int]]
    caption: str

    def html(self) -> str:
        """The table."""
        head = "".join(f'<th scope="col">{escape(each)}</th>' for each in self.head)
        rows = "".join(
            f'<tr><th scope="row">{_cell(first)}</th>{"".join(f"<td>{_cell(each)}</td>" for each in rest)}</tr>'
            for first, *rest in self.rows
        )
        table = f"<table><caption>{escape(self.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
        return _wide(f"{table}</table>", self.caption)


@dataclass(frozen=True)
class Bars:
    """
    Numbers in [0, 1] by name, the largest first.

    Args:
        values: by name.
        caption: above them.
        ordered: whether they stand in the order given.
    """

    values: Mapping[str, float]
    caption: str
    ordered: bool = False

    def html(self) -> str:
        """A table with a bar in each row."""
        pairs = list(self.values.items())
        pairs = pairs if self.ordered else sorted(pairs, key=lambda pair: -pair[1])
        rows = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td class="bar"><span style="width: {100 * value:.1f}%"></span>'
            f"</td><td>{100 * value:.1f} %</td></tr>"
            for name, value in pairs
        )
        return _wide(
            f'<table class="bars"><caption>{escape(self.caption)}</caption><tbody>{rows}</tbody></table>', self.caption
        )


@dataclass(frozen=True)
class Curves:
    """
    Lines over the steps of a run, a panel each.

    Args:
        points: by name, (step, value) with growing steps; finite.
    """

    points: Mapping[str, Sequence[tuple[float, float]]]

    def html(self) -> str:
        """Drawings in the colours of the text, with the ends of both axes in words."""
        return f'<div class="curves">{"".join(self._panel(*each) for each in self.points.items())}</div>'

    def _panel(self, name: str, points: Sequence[tuple[float, float]]) -> str:
        steps, values = zip(*points, strict=True)
        first, last, low, high = steps[0], steps[-1], min(values), max(values)
        width, height = (last - first) or 1, (high - low) or 1
        places = [(300 * (x - first) / width, 100 - 100 * (y - low) / height) for x, y in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        told = f"{name} from {_number(values[0])} at step {first:g} to {_number(values[-1])} at step {last:g}"
        dot = '<circle cx="0" cy="100" r="3"/>' if len(points) == 1 else ""
        return (
            f'<figure><figcaption>{escape(name)}</figcaption><svg viewBox="-4 -6 308 112" role="img" '
            f'aria-label="{escape(told)}"><polyline points="{line}"/>{dot}</svg>'
            f"<p><span>step {first:g} to {last:g}</span><span>{_number(low)} to {_number(high)}</span></p></figure>"
        )


@dataclass(frozen=True)
class Text:
    """
    Words.

    Args:
        text: as it is.
        title: above it.
    """

    text: str
    title: str

    def html(self) -> str:
        """The words, their white space kept."""
        return f'<div class="words"><h4>{escape(self.title)}</h4><pre tabindex="0">{escape(self.text)}</pre></div>'


@dataclass(frozen=True)
class Note:
    """
    A line to the visitor.

    Args:
        text: of the line.
        wrong: whether it is an error.
    """

    text: str
    wrong: bool = False

    def html(self) -> str:
        """The line, which screen readers read when it appears."""
        kind = ("wrong", "alert") if self.wrong else ("note", "status")
        return f'<p class="{kind[0]}" role="{kind[1]}">{escape(self.text)}</p>'


@dataclass(frozen=True)
class File:
    """
    A picture as it lies in a folder.

    Args:
        data: of a PNG.
        name: of the file.
    """

    data: bytes
    name: str

    def html(self) -> str:
        """The picture as large as it is."""
        name = escape(self.name)
        image = f'<img src="{data_uri(self.data)}" alt="{name}, a picture of the run">'
        return f'<figure class="file">{image}<figcaption>{name}</figcaption></figure>'


Answer = Pictures | Film | Table | Bars | Curves | Text | Note | File


def to_html(answers: Sequence[Answer]) -> str:
    """One piece of HTML of some answers."""
    return f'<div class="answer">{"".join(each.html() for each in answers)}</div>'


def _wide(html: str, label: str) -> str:
    """What may be wider than the screen, which then scrolls, by keys too."""
    return f'<div class="wide" role="group" aria-label="{escape(label)}" tabindex="0">{html}</div>'


def _number(value: float) -> str:
    return f"{value:.4g}"


def _cell(value: str | float | int) -> str:
    return _number(value) if isinstance(value, float) else escape(str(value))

"""Summaries of the same documents by several systems: written by models, read from files, shown side by side."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from ..errors import HwzooError, UsageError
from ..files import settled
from ..retry import has_file, retried
from .batches import padded, token_ids
from .limits import check_fits
from .models import decode, describe, generation_config
from .sources import Example, read_rows

LONGEST_SUMMARY = 64  # tokens, of a model that does not say
SHORTEST_MARK = 3  # words that are marked as copied
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 16px/1.5 sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } td, th { border: 1px solid #bbb; padding: .3em .6em; text-align: left; }
td { vertical-align: top; } td.number { text-align: right; } mark { background: #ffe08a; color: inherit; }
details { margin: .5em 0; }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ protocol }}</p>
<p>Marked: {{ shortest }} words or more that stand so in the document.</p>
<table><thead><tr><th>system</th>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for name, row in scores.items() %}<tr><th>{{ name }}</th>
{% for column in columns %}<td class="number">{{ "%.2f" | format(row[column]) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
{% for each in shown %}<h2>Document {{ each.index }}</h2>
<details><summary>{{ each.document[:160] }}{{ "..." if each.document | length > 160 }}</summary>
<p>{{ each.document }}</p></details>
<table><tbody>
{% for text in each.references %}<tr><th>reference</th><td>{{ text }}</td></tr>
{% endfor %}{% for name, parts in each.systems.items() %}<tr><th>{{ name }}</th><td>
{%- for copied, text in parts %}{% if copied %}<mark>{{ text }}</mark>{% else %}{{ text }}{% endif %}{% endfor -%}
</td></tr>
{% endfor %}</tbody></table>
{% endfor %}</body></html>
"""


def named(flag: str, given: Sequence[str], taken: Sequence[str] = ()) -> dict[str, str]:
    """
    What NAME=VALUE says.

    Args:
        flag: that holds them, without dashes.
        given: its words.
        taken: names that are others' already.

    Returns:
        The values by name.

    Raises:
        UsageError: for what has another form, and a name that is there already.
    """
    found: dict[str, str] = {}
    for each in given:
        name, _, value = each.partition("=")
        if not name.strip() or not value:
            raise UsageError(f"--{flag} {each!r} is not NAME=VALUE")
        if name in found or name in taken:
            raise UsageError(f"--{flag} {each!r}: there is another {name}")
        found[name] = value
    return found


def settle_generation(model: nn.Module, name: str, max_new_tokens: int | None, num_beams: int | None) -> str:
    """
    Sets how a model generates to what is asked for, and for what is not asked for to what it says itself: an adapter
    by the generation_config.json that is saved with it, else its base.

    Args:
        model: or an adapter; its generation configuration is changed.
        name: folder or Hub id that it was loaded from.
        max_new_tokens: of a summary; 64 where neither says so.
        num_beams: of the search; 1 where neither says so.

    Returns:
        What was set, in words.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if base is not model and has_file(name, GENERATION_CONFIG_NAME):
        base.generation_config = retried(lambda: GenerationConfig.from_pretrained(settled(name)), f"loading {name}")
    own = base.generation_config
    # `max_length` counts the start token too.
    length = max_new_tokens or own.max_new_tokens or (own.max_length or 0) - 1
    length = length if length > 0 else LONGEST_SUMMARY
    penalty = 1.0 if own.length_penalty is None else own.length_penalty
    return describe(generation_config(model, length, num_beams or own.num_beams or 1, penalty))


@torch.no_grad()
def summarize(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, sources: Sequence[str], *, batch_size: int,
    max_source_length: int, name: str,
) -> list[str]:  # fmt: skip
    """
    What a sequence-to-sequence model writes of each source, by its own generation configuration.

    Args:
        model: or an adapter on one; put into eval mode.
        tokenizer: of its base.
        sources: with their prefix.
        batch_size: at once.
        max_source_length: tokens of a source, longer ones are cut.
        name: for the progress bar.

    Returns:
        A text for each source, in their order.

    Raises:
        UsageError: for sources and summaries that do not fit the model.
    """
    model.eval()
    rows = token_ids(tokenizer, sources, truncation=True, max_length=max_source_length)
    new = model.generation_config.max_new_tokens or 0
    check_fits(model, [{"input_ids": each} for each in rows], max_new_tokens=new, flag="models")
    device, texts = next(model.parameters()).device, [""] * len(sources)
    order = sorted(range(len(sources)), key=lambda index: len(sources[index]))  # little padding
    starts = range(0, len(order), batch_size)
    for chosen in tqdm([order[start : start + batch_size] for start in starts], desc=name, unit="batch", disable=None):
        batch = padded([torch.tensor(rows[index]) for index in chosen], tokenizer.pad_token_id)
        inputs = {name: value.to(device) for name, value in batch.items()}
        written = decode(model.generate(**inputs).tolist(), tokenizer)
        for index, text in zip(chosen, written, strict=True):
            texts[index] = text.strip()
    return texts


def read_predictions(path: str, flag: str, num: int) -> dict[int, str]:
    """
    Answers that were made elsewhere, pasted from a chat model, say: a line of JSON each, with `prediction`, and with
    `index`, the number of the document from 0 on, or in the order of the documents.

    Args:
        path: of the file, `.jsonl`, `.json` or `.csv`, plain or .gz.
        flag: that gave it.
        num: of documents.

    Returns:
        The answers by the number of their document.

    Raises:
        UsageError: for a line without a text, or for a document that there is not, or twice.
    """
    found: dict[int, str] = {}
    for line, row in enumerate(read_rows(flag, path), 1):
        text, index = row.get("prediction"), row.get("index", line - 1)
        if not isinstance(text, str):
            raise UsageError(f"--{flag} {path}, row {line}: prediction is {text!r}; it must be a text")
        try:  # int() would take 0.9 for 0 and true for 1
            index = -1 if isinstance(index, bool) or int(index) != float(index) else int(index)
        except (TypeError, ValueError, OverflowError):
            index = -1
        if not 0 <= index < num or index in found:
            why = "is there twice" if index in found else f"must be a number from 0 to {num - 1}"
            raise UsageError(f"--{flag} {path}, row {line}: index {row.get('index', line - 1)} {why}")
        found[index] = text.strip()
    return found


def in_common(systems: Mapping[str, Mapping[int, str]]) -> list[int]:
    """
    The documents that every system has a summary of.

    Args:
        systems: by name, summaries by the number of the document.

    Raises:
        HwzooError: where there is none.
    """
    common = set.intersection(*(set(each) for each in systems.values()))
    if not common:
        raise HwzooError(f"no document has a summary of each of {', '.join(systems)}")
    return sorted(common)


def marked(
    document: str, summary: str, words_of: Callable[[str], list[tuple[str, int, int]]],
    fragments_of: Callable[[Sequence[str], Sequence[str]], list[tuple[int, int]]],
) -> list[tuple[bool, str]]:  # fmt: skip
    """
    A summary in parts: those copied from its document, of three words or more, and those between.

    Args:
        document: its text.
        summary: its text.
        words_of: gives the words of a text with where they begin and end.
        fragments_of: gives start and length of the runs of words that two lists share.

    Returns:
        Whether it is copied and the text of each part; together they are the summary.
    """
    words, parts, end = words_of(summary), [], 0
    for start, length in fragments_of([word for word, _, _ in words_of(document)], [word for word, _, _ in words]):
        if length >= SHORTEST_MARK:
            begin, stop = words[start][1], words[start + length - 1][2]
            parts += [(False, summary[end:begin]), (True, summary[begin:stop])]
            end = stop
    return [part for part in [*parts, (False, summary[end:])] if part[1]]


def side_by_side_page(
    title: str, protocol: str, scores: Mapping[str, Mapping[str, float]], columns: Sequence[str],
    examples: Mapping[int, Example], systems: Mapping[str, Mapping[int, list[tuple[bool, str]]]],
) -> str:  # fmt: skip
    """
    An HTML page with what each system wrote of some documents, one below the other.

    Args:
        title: of the page.
        protocol: how the scores were made.
        scores: by the system's name, by the score's.
        columns: names of the scores that are shown.
        examples: the documents that are shown, by number.
        systems: by name, by the document's number, what `marked` gives.

    Returns:
        The page; it needs no other file.
    """
    from jinja2 import Environment

    shown: list[dict[str, Any]] = [
        {
            "index": index, "document": each.text, "references": each.references,
            "systems": {name: texts[index] for name, texts in systems.items()},
        }
        for index, each in examples.items()
    ]  # fmt: skip
    template = Environment(autoescape=True).from_string(PAGE)
    about = {"title": title, "protocol": protocol, "shortest": SHORTEST_MARK}
    return template.render(**about, scores=scores, columns=columns, shown=shown) + "\n"


def table(
    scores: Mapping[str, Mapping[str, float]], columns: Sequence[str],
    differences: Mapping[str, Mapping[str, Mapping[str, float]]], tested: str, against: str,
) -> str:  # fmt: skip
    """
    A table in Markdown of the systems' scores, and the interval of one difference.

    Args:
        scores: by the system's name, by the score's.
        columns: names of the scores.
        differences: by the system's name, by the score's, `mean`, `low` and `high`.
        tested: the score whose differences are shown.
        against: the system that they are from.

    Returns:
        Lines of text.
    """
    lines = [["system", *columns, f"{tested} less that of {against}"], ["---"] * (len(columns) + 2)]
    for name, row in scores.items():
        each = differences.get(name, {}).get(tested)
        told = f"{each['mean']:.2f} [{each['low']:.2f}, {each['high']:.2f}]" if each else ""
        lines.append([name, *(f"{row[column]:.2f}" for column in columns), told])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

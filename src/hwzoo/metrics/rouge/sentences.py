"""Where a sentence ends, without a download."""

import re

import regex

from .words import share_dropped

# After these a full stop ends no sentence, though a capital or a digit may follow.
ABBREVIATIONS = {
    "al", "approx", "cf", "ch", "col", "dept", "dr", "e.g", "eq", "eqs", "est", "fig", "figs", "gen", "gov", "i.e",
    "inc", "jr", "lt", "ltd", "mr", "mrs", "ms", "mt", "p", "pp", "prof", "ref", "refs", "resp", "rev",
    "sec", "sen", "sgt", "sr", "st", "tab", "viz", "vol", "vs", "w.r.t",
}  # fmt: skip
_END = re.compile(r"""(?<=[.!?])["')\]]*\s+(?=["'(\[]?[A-Z0-9])""")
# Of other scripts: a full stop of their own, or one of ours before a letter that is no small one.
_OTHER_END = re.compile(
    r"""[。！？｡]+["'”’」』）)\]]*\s*|(?<=[।॥።։۔؟])["'”’»)\]]*\s*|(?<=[.!?…])["'”’»)\]]*\s+(?=["'“‘«(\[]?(\w))"""
)
_INITIALS = re.compile(r"(?:[A-Z]\.)*[A-Z]")
_OTHER_INITIALS = regex.compile(r"(?:\p{Lu}\.)*\p{Lu}")
# From the beginning of a word: a search that tried every letter of it would take time that is quadratic in its length.
_LAST_WORD = re.compile(r"(?<![\w.])([\w.]+)\.[\"')\]]*\s*$")


def split_sentences(text: str) -> list[str]:
    """
    The sentences of a text, stripped; none of an empty one. A line break ends a sentence; so does `.`, `!` or `?`
    before white space and a capital or digit, unless the full stop belongs to an abbreviation or an initial. In a text
    most of whose letters are no a-z, so do the full stops of other scripts, and any letter but a small one may follow.
    """
    sentences = []
    end, initials = (_OTHER_END, _OTHER_INITIALS) if share_dropped([text]) > 0.5 else (_END, _INITIALS)
    for line in text.splitlines():
        start = 0
        for match in end.finditer(line):
            if match.lastindex and match[1].islower():
                continue
            word = _LAST_WORD.search(line[start : match.end()])
            if word and (word[1].lower() in ABBREVIATIONS or initials.fullmatch(word[1])):
                continue
            sentences.append(line[start : match.end()].strip())
            start = match.end()
        sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]

"""Where a sentence of English ends, without a download."""

import re

# After these a full stop ends no sentence, though a capital or a digit may follow.
ABBREVIATIONS = {
    "al", "approx", "cf", "ch", "col", "dept", "dr", "e.g", "eq", "eqs", "est", "fig", "figs", "gen", "gov", "i.e",
    "inc", "jr", "lt", "ltd", "mr", "mrs", "ms", "mt", "p", "pp", "prof", "ref", "refs", "resp", "rev",
    "sec", "sen", "sgt", "sr", "st", "tab", "viz", "vol", "vs", "w.r.t",
}  # fmt: skip
_END = re.compile(r"""(?<=[.!?])["')\]]*\s+(?=["'(\[]?[A-Z0-9])""")
_LAST_WORD = re.compile(r"([\w.]+)\.[\"')\]]*\s*$")


def split_sentences(text: str) -> list[str]:
    """
    The sentences of a text, stripped; none of an empty one. A line break ends a sentence; so does `.`, `!` or `?`
    before white space and a capital or digit, unless the full stop belongs to an abbreviation or an initial.
    """
    sentences = []
    for line in text.splitlines():
        start = 0
        for match in _END.finditer(line):
            word = _LAST_WORD.search(line[start : match.end()])
            if word and (word[1].lower() in ABBREVIATIONS or re.fullmatch(r"(?:[A-Z]\.)*[A-Z]", word[1])):
                continue
            sentences.append(line[start : match.end()].strip())
            start = match.end()
        sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]

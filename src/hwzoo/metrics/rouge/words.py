"""Words of any script, for ROUGE: rouge-score's own tokenizer keeps a-z and 0-9 only."""

import unicodedata
from collections.abc import Iterable

import regex

# Scripts written without spaces between words; in them each character, with the marks on it, counts as a word.
_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
WORD = regex.compile(rf"(?V1)[[\p{{L}}\p{{N}}]&&[{_NO_SPACES}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{_NO_SPACES}]]+")
_JOINERS = dict.fromkeys(map(ord, "\u00ad\u200c\u200d\u2060"))  # unseen characters inside words, soft hyphens too


class UnicodeTokenizer:
    """
    Words in the letters, marks and digits of all scripts (Unicode's categories L, M, N), without regard to case and to
    forms of one character (NFKC). Chinese, Japanese, Thai and others that put no spaces between words give a word for
    each character. Of a text in ASCII it gives what rouge-score's own gives.

    Args:
        use_stemmer: strip the endings of words that consist of a-z and 0-9, as rouge-score does (Porter).
    """

    def __init__(self, use_stemmer: bool = False):
        from rouge_score.tokenizers import DefaultTokenizer  # brings nltk, which takes long

        self._of_ascii = DefaultTokenizer(use_stemmer)

    def __call__(self, text: str) -> list[str]:
        """The words of a text."""
        plain = unicodedata.normalize("NFKC", text.casefold()).translate(_JOINERS)
        words = WORD.findall(plain)
        return [each for word in words for each in (self._of_ascii.tokenize(word) if word.isascii() else [word])]


def share_dropped(texts: Iterable[str]) -> float:
    """
    How much of texts rouge-score's own tokenizer does not see.

    Args:
        texts: in any script.

    Returns:
        The share of their letters that are no a-z in either case, in [0, 1]; 0 for texts without letters.
    """
    letters = kept = 0
    for text in texts:
        if text.isascii():
            found = sum(map(str.isalpha, text))
            letters, kept = letters + found, kept + found
        else:
            found = [letter for letter in text if letter.isalpha()]
            letters, kept = letters + len(found), kept + sum(map(str.isascii, found))
    return 1 - kept / letters if letters else 0.0

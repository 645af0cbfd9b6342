"""What needs no network: rules of endings for words, sentences of the document for summaries."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from .sources import Example

SUFFIX_LENGTHS = range(6, -1, -1)  # letters at the end of a word that a rule looks at, the longest first


class SuffixRules:
    """
    Inflects a word by the change of ending that was the most frequent one, in training, among the words of the same
    task with the same last letters: six of them if such words were seen, else five, and so on. Of equally frequent
    changes the one seen first is taken.

    Args:
        examples: of training, with their `task`, `text` and `target`.
    """

    def __init__(self, examples: Sequence[Example]):
        counts: dict[tuple[str, str], Counter] = defaultdict(Counter)
        for each in examples:
            word, target = each.text, each.target
            same = next((i for i, (a, b) in enumerate(zip(word, target, strict=False)) if a != b), None)
            same = min(len(word), len(target)) if same is None else same
            change = (len(word) - same, target[same:])
            for length in SUFFIX_LENGTHS:
                # The letters that change must be among those that the rule looks at.
                if change[0] <= length <= len(word) + 1:
                    counts[each.task, _ending(word, length)][change] += 1
        self.rules = {key: changes.most_common(1)[0][0] for key, changes in counts.items()}

    def __call__(self, example: Example) -> str:
        """The inflected word; the word itself when no rule fits."""
        word = example.text
        for length in SUFFIX_LENGTHS:
            change = self.rules.get((example.task, _ending(word, length)))
            if change is not None:
                return word[: len(word) - change[0]] + change[1]
        return word


def _ending(word: str, length: int) -> str:
    # The mark of the beginning keeps "man" as a whole word apart from the ending of "human".
    return f"^{word}"[-length:] if length else ""


def lead(examples: Sequence[Example], num_sentences: int, split_sentences: Callable[[str], list[str]]) -> list[str]:
    """
    The first sentences of each document.

    Args:
        examples: with documents as their `text`.
        num_sentences: fewer of a shorter document.
        split_sentences: gives the sentences of a text.

    Returns:
        The sentences of each document, joined by spaces.
    """
    return [" ".join(split_sentences(each.text)[:num_sentences]) for each in examples]


def oracle_sentence(
    examples: Sequence[Example],
    split_sentences: Callable[[str], list[str]],
    score: Callable[[list[str], list[str]], Sequence[float]],
) -> list[str]:
    """
    The sentence of each document that scores best against its target: no extract of one sentence can do better.

    Args:
        examples: with documents as their `text`.
        split_sentences: gives the sentences of a text.
        score: gives a number for each pair of prediction and reference.

    Returns:
        A sentence of each document; the first of several with the best score.
    """
    sentences = [split_sentences(each.text) or [each.text] for each in examples]
    flat = [sentence for own in sentences for sentence in own]
    targets = [each.target for each, own in zip(examples, sentences, strict=True) for _ in own]
    scores, best, start = score(flat, targets), [], 0
    for own in sentences:
        of_own = scores[start : start + len(own)]
        best.append(own[max(range(len(own)), key=of_own.__getitem__)])
        start += len(own)
    return best

"""Pairs of texts as token ids, and batches of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from ..errors import UsageError
from ..files import sha256
from .sources import Example

IGNORED_LABEL = -100  # what the loss of transformers' models leaves out


class TokenizedPairs(Dataset):
    """
    Examples as token ids, kept in 4 bytes each.

    Args:
        examples: to be tokenised.
        tokenizer: of the model.
        max_source_length: tokens of a source, its end token included; longer ones are cut.
        max_target_length: tokens of a target, its end token included.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: PreTrainedTokenizerBase,
        max_source_length: int,
        max_target_length: int,
    ):
        sources, targets = [each.source for each in examples], [each.target for each in examples]
        self.input_ids, self.labels = [], []
        if examples:
            self.input_ids = _ids(token_ids(tokenizer, sources, max_length=max_source_length, truncation=True))
            limits = {"max_length": max_target_length, "truncation": True}
            self.labels = _ids(token_ids(tokenizer, targets, target=True, **limits))

    def digest(self) -> str:
        """SHA-256 of all ids, with which a resumed run is told from one on other data."""
        hashed = hashlib.sha256()
        for ids in (each for pair in zip(self.input_ids, self.labels, strict=True) for each in pair):
            hashed.update(len(ids).to_bytes(4, "little") + ids.numpy().tobytes())
        return hashed.hexdigest()

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.input_ids[index], "labels": self.labels[index]}


def check_batch_size(pairs_a_step: int, num_pairs: int):
    """
    Checks that a training set holds what one step takes.

    Args:
        pairs_a_step: over all processes and accumulated batches.
        num_pairs: of the training set.

    Raises:
        UsageError: when it does not: the steps would be others than those asked for.
    """
    if pairs_a_step > num_pairs:
        raise UsageError(
            f"--per_device_train_batch_size: a step takes {pairs_a_step} pairs (over all processes and accumulated "
            f"batches), the training set has {num_pairs}"
        )


class PadBatch:
    """
    Puts examples of `TokenizedPairs` together: `input_ids` (batch, source length) padded with `pad_token_id`,
    `attention_mask` of the same shape, 1 where there is text, and `labels` (batch, target length) padded with -100.
    """

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        inputs = padded([row["input_ids"] for row in rows], self.pad_token_id)
        return inputs | {"labels": pad_sequence([row["labels"] for row in rows], True, IGNORED_LABEL).long()}


def padded(rows: Sequence[Tensor], pad_token_id: int) -> dict[str, Tensor]:
    """
    Texts of different length as one batch.

    Args:
        rows: ids, (length,) each.
        pad_token_id: that fills them up.

    Returns:
        `input_ids` and `attention_mask`, 1 where there is text: int64, (rows, longest length) each.
    """
    input_ids = pad_sequence(list(rows), batch_first=True, padding_value=pad_token_id).long()
    # By length, not by value: a pad token in the middle of a text is text.
    lengths = torch.tensor([len(row) for row in rows])
    return {"input_ids": input_ids, "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()}


def _ids(rows: Sequence[Sequence[int]]) -> list[Tensor]:
    return [torch.tensor(row, dtype=torch.int32) for row in rows]


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], target: bool = False, **settings: Any
) -> list[list[int]]:
    """
    Ids of texts; one that spells the token with which texts begin or end, that pads them or stands for what is not
    known, such as </s>, has its letters in it. Other special tokens, as T5's <extra_id_0>, are tokens in a text that
    spells none of these four.

    Args:
        tokenizer: of the model.
        texts: any number.
        target: whether they are what a sequence-to-sequence model writes, for which some tokenizers differ.
        settings: more of what the tokenizer takes when it is called.

    Returns:
        The ids of each text.
    """
    name = "text_target" if target else "text"
    named = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    spelled = [{token for token in named if token and token in text} for text in texts]
    others = ["" if tokens else text for text, tokens in zip(texts, spelled, strict=True)]
    rows = tokenizer(**{name: others}, **settings)["input_ids"] if texts else []
    plain = {"split_special_tokens": True}
    for index, tokens in enumerate(spelled):
        if tokens:
            text = texts[index]
            inside = tokenizer(**{name: text}, add_special_tokens=False, **plain)["input_ids"]
            if not set(inside).isdisjoint(tokenizer.convert_tokens_to_ids(list(tokens))):
                # A unigram model, as T5's, has them among its pieces, which a space tears.
                for token in tokens:
                    text = text.replace(token, f"{token[0]} {token[1:]}")
            rows[index] = tokenizer(**{name: text}, **settings | plain)["input_ids"]
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        # It keeps the limit of its last call, and would be saved with it: others' texts would be cut.
        backend.no_truncation()
    return rows


@dataclass(frozen=True)
class TokenSet:
    """
    Texts in memory, as rows of tokens.

    Args:
        input_ids: int64, (num, length): the tokens of a text, its end token, then padding.
        lengths: int64, (num,): tokens of each text, its end token counted.
    """

    input_ids: Tensor
    lengths: Tensor

    unit: ClassVar[str] = "texts"

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> "TokenSet":
        """
        Those of some texts that are not too long.

        Args:
            texts: they are tokenized with their end.
            tokenizer: with a pad token.
            max_tokens: of a text, its end token counted; longer ones are left out.

        Returns:
            The rows, in the order of the texts.
        """
        # A text that spells a special token, such as </s>, has its letters in it.
        rows = token_ids(tokenizer, texts, split_special_tokens=True)
        rows = [row for row in rows if len(row) <= max_tokens]
        ids = torch.full((len(rows), max(map(len, rows), default=1)), tokenizer.pad_token_id)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        return cls(ids, torch.tensor([len(row) for row in rows], dtype=torch.long))

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def device(self) -> torch.device:
        """Where the tokens are."""
        return self.input_ids.device

    def digest(self) -> str:
        """SHA-256 of the tokens, in hexadecimal."""
        return sha256(self.input_ids.cpu().numpy().tobytes())

    def to(self, device: torch.device | str) -> "TokenSet":
        """The same texts on a device."""
        return TokenSet(self.input_ids.to(device), self.lengths.to(device))

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """{"input_ids": int64, (indices, length)} of the texts at some indices, on a CPU as long as the longest."""
        input_ids = self.input_ids.index_select(0, indices)
        if self.device.type == "cpu" and len(indices):  # to ask another device would wait for it
            input_ids = input_ids[:, : self.lengths.index_select(0, indices).max()]
        return {"input_ids": input_ids}

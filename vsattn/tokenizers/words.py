"""Sentences as lists of words: what their tokenizers share, and a vector for each word of a vocabulary."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.base import Tokenizer
from vsattn.vectorset import VectorSet

Sentence = Sequence[str]

#: Rows of every table that no entry of a vocabulary has.
PADDING, UNKNOWN, FIRST = 0, 1, 2


class WordTokenizer(Tokenizer):
    """Base of the tokenizers of sentences: lists of words in, one vector per word out, in a ``"sequence"``.

    A subclass says what it learns, which tensors a batch gets, and makes the module that reads them. Every batch has
    ``mask (B, N)`` too, where N is at least 1 so that a batch of empty sentences is one.

    Args:
        width: numbers per word where several tokenizers are laid end to end, see
            :class:`~vsattn.tokenizers.spelling.WordFeatures`; alone, a tokenizer has the model's width.
    """

    def __init__(self, *, width: int = 128) -> None:
        if width < 1:
            raise ConfigError(f"{type(self).__name__}.width is at least 1, not {width}")
        self.width = width

    @abstractmethod
    def learn(self, sentences: Sequence[Sentence]) -> dict[str, Any]:
        """Return what the training sentences teach, as plain JSON values."""

    @abstractmethod
    def features(self, sentences: Sequence[Sentence], length: int, train: bool) -> dict[str, Tensor]:
        """Return the tensors that the embedder reads, for sentences padded to ``length`` words."""

    def fit(self, items: Iterable[Sentence]) -> WordTokenizer:
        """Learn from the training sentences, and return self.

        Raises:
            DataError: when there is none, or one is no list of words.
        """
        sentences = [checked(item, f"training sentence {i}") for i, item in enumerate(items)]
        longest = max(map(len, sentences), default=0)
        if not longest:
            raise DataError(f"{type(self).__name__}.fit got no words")
        return self.load_state({"max_length": longest, **self.learn(sentences)})  # type: ignore[return-value]

    def collate(self, items: Sequence[Sentence], train: bool = False) -> dict[str, Tensor]:
        """Return ``mask (B, N)`` and the features; the same sentence gives the same vectors in any batch.

        Raises:
            DataError: for an empty batch, or a sentence that is no list of words.
        """
        if len(items) == 0:
            raise DataError("a batch needs at least one sentence")
        sentences = [checked(item, f"sentence {i} of the batch") for i, item in enumerate(items)]
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        length = max(1, int(lengths.max()))
        mask = torch.arange(length) < lengths[:, None]
        return {**self.features(sentences, length, train), "mask": mask}

    @property
    def sizes(self) -> dict[str, Any]:
        """A sequence, and the most words of a training sentence, which learned positions are made for."""
        return {"dimensions": 1, "max_length": self.state["max_length"]}


class Words(WordTokenizer):
    """A learned vector for each word that training sentences hold often enough, and one for all others.

    Args:
        width: see :class:`WordTokenizer`.
        min_count: a word seen less often is unknown, which is how the vector of unknown words learns.
        lower: make no difference between cases.
        dropout: a; in training a word that occurs n times is made unknown with probability ``a / (a + n)``, so that the
            vector of unknown words learns from rare ones (Kiperwasser and Goldberg 2016, with a = 0.25).

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(self, *, width: int = 128, min_count: int = 2, lower: bool = False, dropout: float = 0.0) -> None:
        super().__init__(width=width)
        if dropout < 0 or min_count < 1:
            raise ConfigError(
                f"Words.dropout is 0 (off) or positive and min_count at least 1, not {dropout} and {min_count}"
            )
        self.min_count, self.lower, self.dropout = min_count, lower, dropout

    def learn(self, sentences: Sequence[Sentence]) -> dict[str, Any]:
        counts = Counter(self._key(word) for sentence in sentences for word in sentence)
        words = frequent(counts, self.min_count)
        return {"words": words, "counts": [counts[word] for word in words]}

    def load_state(self, state: dict[str, Any]) -> Words:
        super().load_state(state)
        self._rows, seen = rows_of(self, state, "words"), state.get("counts")
        if not isinstance(seen, list) or len(seen) != len(state["words"]) or not all(isinstance(n, int) for n in seen):
            raise DataError("this is no state of Words: it needs 'counts', a whole number for each of its 'words'")
        counts = torch.tensor([torch.inf] * FIRST + seen)
        self._drop = self.dropout / (self.dropout + counts)
        return self

    def features(self, sentences: Sequence[Sentence], length: int, train: bool) -> dict[str, Tensor]:
        """Return ``word (B, N)``, rows of the table."""
        rows = self._rows
        word = padded([[rows.get(self._key(w), UNKNOWN) for w in sentence] for sentence in sentences], length)
        if train and self.dropout:
            word = word.masked_fill(torch.rand(word.shape) < self._drop[word], UNKNOWN)
        return {"word": word}

    def decode(self, batch: dict[str, Tensor]) -> list[list[str]]:
        """Return the words of a batch; an unknown one is ``<unknown>``."""
        names = ["", "<unknown>", *self.state["words"]]
        return [[names[row] for row in rows if row != PADDING] for rows in batch["word"].tolist()]

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, N, dim)``."""
        return TableEmbedder("word", FIRST + len(self.state["words"]), dim)

    def _key(self, word: str) -> str:
        return word.lower() if self.lower else word


class TableEmbedder(nn.Module):
    """Rows of one table: ``batch[name]`` of ``(B, N)`` rows, or of ``(B, N, K)`` rows whose vectors are added up."""

    def __init__(self, name: str, rows: int, dim: int) -> None:
        super().__init__()
        self.name = name
        self.table = nn.Embedding(rows, dim, padding_idx=PADDING)

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map a batch to ``(B, N, D)``."""
        vectors = self.table(batch[self.name])
        return VectorSet(vectors if vectors.ndim == 3 else vectors.sum(2), batch["mask"], layout="sequence")


def checked(item: Any, name: str) -> Sentence:
    """Return a sentence as it is.

    Raises:
        DataError: for anything but a list or tuple of strings.
    """
    if isinstance(item, (list, tuple)) and all(isinstance(word, str) for word in item):
        return item
    hint = "; split it first, as in text.split()" if isinstance(item, str) else ""
    raise DataError(f"{name} is {str(item)[:40]!r} ({type(item).__name__}); a sentence is a list of words{hint}")


def frequent(entries: Iterable[str], min_count: int) -> list[str]:
    """Return the entries, or the keys of counts, that occur ``min_count`` times: most frequent first, then by name."""
    counts = Counter(entries)
    return sorted((e for e, n in counts.items() if n >= min_count), key=lambda e: (-counts[e], e))


def rows_of(tokenizer: Tokenizer, state: dict[str, Any], name: str) -> dict[str, int]:
    """Return the row of each entry of the vocabulary ``state[name]``.

    Raises:
        DataError: for the state of another kind of tokenizer.
    """
    entries = state.get(name)
    if not isinstance(entries, list) or not isinstance(state.get("max_length"), int):
        raise DataError(f"this is no state of {type(tokenizer).__name__}: it needs a list {name!r} and 'max_length'")
    return {entry: row for row, entry in enumerate(entries, start=FIRST)}


def padded(rows: Sequence[Sequence[int]], length: int) -> Tensor:
    """Return ``(B, length)``, each row filled up with `PADDING`."""
    return torch.tensor([[*row, *[PADDING] * (length - len(row))] for row in rows])

"""Pairs of texts, a source and its translation, as rows of one vocabulary or two, and the tables they look up."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.text import BOS, EOS, PADDING, Text
from vsattn.tokenizers.words import padded
from vsattn.vectorset import VectorSet


class TextPairs(Tokenizer):
    """Source texts to a batch, target texts to what a decoder is taught, and rows to target text.

    Args:
        source: of the source texts.
        target: of the target texts; None puts both into one joint vocabulary with one table of vectors.
        max_length: most pieces of a text with its `EOS`.
        scale: multiply vectors by sqrt(dim) (Vaswani et al. 2017, section 3.4).

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(self, *, source: Text, target: Text | None = None, max_length: int = 256, scale: bool = True) -> None:
        if max_length < 2:
            raise ConfigError(f"TextPairs.max_length is at least 2, a piece and the end, not {max_length}")
        self.source, self.target = source, source if target is None else target
        self.max_length, self.scale = max_length, scale
        self._encoded: tuple[dict[str, array[int]], dict[str, array[int]]] = {}, {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoded": ({}, {})}

    @property
    def joint(self) -> bool:
        """Whether source and target share one vocabulary."""
        return self.target is self.source

    @property
    def writes(self) -> list[str]:
        """The name of each row of the target vocabulary, which a decoder writes."""
        return self.target.names

    def fit(self, items: Iterable[tuple[str, str]]) -> TextPairs:
        """Learn from the training pairs ``(source, target)``, and return self.

        Raises:
            DataError: when they hold no words, or see :meth:`lengths`.
        """
        pairs = [_checked(item, i) for i, item in enumerate(items)]
        sides = tuple(zip(*pairs, strict=True)) or ((), ())
        if self.joint:
            self.source.fit([*sides[0], *sides[1]])
        else:
            self.source.fit(sides[0])
            self.target.fit(sides[1])
        self._encoded = {}, {}
        self.lengths(pairs)
        return self

    @property
    def state(self) -> dict[str, Any]:
        """What `fit` learned, as plain JSON values."""
        return {"source": self.source.state, "target": None if self.joint else self.target.state}

    def load_state(self, state: dict[str, Any]) -> TextPairs:
        """Take over what another tokenizer learned, and return self.

        Raises:
            DataError: for the state of something else.
        """
        if not isinstance(state.get("source"), dict) or isinstance(state.get("target"), dict) == self.joint:
            kind = "one joint vocabulary" if self.joint else "two vocabularies"
            raise DataError(f"this is no state of TextPairs with {kind}: it needs 'source' and 'target'")
        self.source.load_state(state["source"])
        if not self.joint:
            self.target.load_state(state["target"])
        self._encoded = {}, {}
        return self

    @property
    def sizes(self) -> dict[str, Any]:
        """A sequence, and the most pieces of a text, which learned positions are made for."""
        return {"dimensions": 1, "max_length": self.max_length}

    def collate(self, items: Sequence[str], train: bool = False) -> dict[str, Tensor]:
        """Return ``source (B, N)``: each text's rows and `EOS`, padded; a text without words is `EOS` alone.

        Raises:
            DataError: for an empty batch, what is no string, or a text of more than ``max_length`` pieces.
        """
        return {"source": _stacked([[*self._rows(text, 0, i), EOS] for i, text in enumerate(items)])}

    def targets(self, texts: Sequence[str]) -> Tensor:
        """Return ``(B, M + 1)``: each text's rows between `BOS` and `EOS`, padded.

        Raises:
            DataError: see :meth:`collate`.
        """
        return _stacked([[BOS, *self._rows(text, 1, i), EOS] for i, text in enumerate(texts)])

    def lengths(self, pairs: Iterable[tuple[str, str]]) -> list[int]:
        """Return for each pair the rows of the longer text, `BOS` and `EOS` included; what was encoded is remembered.

        Raises:
            DataError: for texts of more than ``max_length`` pieces: a run stops at once, and not when it meets one.
        """
        found = []
        for pair in pairs:
            for text, tokenizer, known in zip(pair, (self.source, self.target), self._encoded, strict=True):
                if text not in known:
                    known[text] = array("i", tokenizer.encode(text))
            found.append(2 + max(len(known[text]) for text, known in zip(pair, self._encoded, strict=True)))
        long = [index for index, length in enumerate(found) if length - 1 > self.max_length]
        if long:
            raise DataError(
                f"{len(long)} of {len(found)} pairs have more than tokenizer.max_length={self.max_length} pieces, pair "
                f"{long[0]} is the first and the longest has {max(found) - 1}: raise it, or leave long pairs out, in "
                "training by a lower data.max_words"
            )
        return found

    def decode(self, batch: dict[str, Tensor]) -> list[str]:
        """Return the source texts of a batch."""
        return [self.source.decode(_until_end(rows)) for rows in batch["source"].tolist()]

    def target_text(self, ids: Sequence[int] | Tensor) -> str:
        """Return the text of rows of the target vocabulary, up to `EOS`."""
        return self.target.decode(_until_end(ids.tolist() if isinstance(ids, Tensor) else ids))

    def embedder(self, dim: int) -> TokenEmbedder:
        """Make the module that maps ``batch["source"]`` to a `VectorSet` ``(B, N, dim)``."""
        return TokenEmbedder("source", len(self.source), dim, scale=self.scale)

    def target_embedder(self, dim: int, source: TokenEmbedder) -> TokenEmbedder:
        """Make the module that maps ``batch["target"]``; with a joint vocabulary it has the table of ``source``."""
        made = TokenEmbedder("target", len(self.target), dim, scale=self.scale)
        if self.joint:
            made.table = source.table
        return made

    def _rows(self, text: str, side: int, index: int) -> Sequence[int]:
        rows = self._encoded[side].get(text)
        found: Sequence[int] = (self.source, self.target)[side].encode(text) if rows is None else rows
        if len(found) >= self.max_length:
            raise DataError(
                f"text {index} of the batch ({text[:40]!r}...) has {len(found)} pieces, and with its end at most "
                f"{self.max_length} are allowed: cut it in two, or train with a larger tokenizer.max_length"
            )
        return found


class TokenEmbedder(nn.Module):
    """Rows of one table of vectors, drawn from N(0, 1 / dim), times sqrt(dim) if ``scale``.

    Args:
        name: of the ids ``(B, N)`` in a batch.
        rows: of the table.
        dim: D.
        scale: multiply by sqrt(D), so that vectors begin with the unit variance that positions have.
    """

    def __init__(self, name: str, rows: int, dim: int, *, scale: bool = True) -> None:
        super().__init__()
        self.name, self.factor = name, dim**0.5 if scale else 1.0
        self.table = nn.Embedding(rows, dim, padding_idx=PADDING)
        with torch.no_grad():
            self.table.weight.normal_(std=dim**-0.5)[PADDING].zero_()

    def embed(self, ids: Tensor) -> Tensor:
        """Map ids ``(B, N)`` to ``(B, N, D)``."""
        return self.table(ids) * self.factor

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map a batch to ``(B, N, D)``; what is `PADDING` is masked."""
        ids = batch[self.name]
        return VectorSet(self.embed(ids), ids != PADDING, layout="sequence")


def _checked(item: Any, index: int) -> tuple[str, str]:
    if isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(text, str) for text in item):
        return item[0], item[1]
    raise DataError(
        f"training pair {index} is {str(item)[:40]!r}; it is a source text and a target text, as in data=parallel"
    )


def _stacked(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return ``(B, N)``, each row filled up with `PADDING`."""
    if not rows:
        raise DataError("a batch needs at least one text")
    return padded(rows, max(map(len, rows)))


def _until_end(ids: Sequence[int]) -> Sequence[int]:
    return ids[: ids.index(EOS)] if EOS in ids else ids

"""Words by how they end and what they look like, and several such views of a word in one vector."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.words import (
    FIRST,
    PADDING,
    UNKNOWN,
    Sentence,
    TableEmbedder,
    WordTokenizer,
    frequent,
    rows_of,
)  # fmt: skip
from vsattn.vectorset import VectorSet


class Spelling(WordTokenizer):
    """The sum of learned vectors for a word's endings, its beginnings and its shape, each a row of one table.

    What taggers before neural ones knew of rare words (Ratnaparkhi 1996, table 1).

    Args:
        width: see :class:`~vsattn.tokenizers.words.WordTokenizer`.
        suffixes: lengths of the endings, in lower case; a shorter word has none.
        prefixes: lengths of the beginnings, likewise.
        shape: use :func:`outline`.
        min_count: a feature seen less often is unknown.

    Raises:
        ConfigError: for values out of range, or no feature at all.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        suffixes: Sequence[int] = (1, 2, 3),
        prefixes: Sequence[int] = (),
        shape: bool = True,
        min_count: int = 2,
    ) -> None:
        super().__init__(width=width)
        if any(size < 1 for size in (*suffixes, *prefixes)) or not (suffixes or prefixes or shape):
            raise ConfigError(
                "Spelling needs suffixes or prefixes, of lengths of at least 1, or shape; "
                f"got suffixes={list(suffixes)}, prefixes={list(prefixes)}"
            )
        if min_count < 1:
            raise ConfigError(f"Spelling.min_count is at least 1, not {min_count}")
        self.suffixes, self.prefixes = tuple(suffixes), tuple(prefixes)
        self.shape, self.min_count = shape, min_count

    def learn(self, sentences: Sequence[Sentence]) -> dict[str, Any]:
        entries = (entry for sentence in sentences for word in sentence for entry in self._entries(word) if entry)
        return {"spelling": frequent(entries, self.min_count)}

    def load_state(self, state: dict[str, Any]) -> Spelling:
        super().load_state(state)
        self._rows = rows_of(self, state, "spelling")
        return self

    def features(self, sentences: Sequence[Sentence], length: int, train: bool) -> dict[str, Tensor]:
        """Return ``spelling (B, N, K)``, rows of the table for the K features of each word."""
        rows = {w: [self._row(entry) for entry in self._entries(w)] for sentence in sentences for w in sentence}
        nothing = [PADDING] * len(self._entries(""))
        return {"spelling": torch.tensor([[*map(rows.get, s), *[nothing] * (length - len(s))] for s in sentences])}

    def decode(self, batch: dict[str, Tensor]) -> list[list[str]]:
        """Return the features of each word, such as ``-ing <xx>``."""
        names = ["", "<unknown>", *self.state["spelling"]]
        pairs = zip(batch["spelling"].tolist(), batch["mask"].tolist(), strict=True)
        return [
            [" ".join(names[row] for row in rows if row) for rows, real in zip(words, mask, strict=True) if real]
            for words, mask in pairs
        ]

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, N, dim)``."""
        return TableEmbedder("spelling", FIRST + len(self.state["spelling"]), dim)

    def _row(self, entry: str) -> int:
        return self._rows.get(entry, UNKNOWN) if entry else PADDING

    def _entries(self, word: str) -> list[str]:
        """Return a word's features by name, always as many; one that the word is too short for is empty."""
        low, size = word.lower(), len(word)
        found = [f"-{low[size - k :]}" if size >= k else "" for k in self.suffixes]
        found += [f"{low[:k]}-" if size >= k else "" for k in self.prefixes]
        return found + ([f"<{outline(word)}>"] if self.shape else [])


def outline(word: str) -> str:
    """Return the shape of a word's beginning: ``X`` and ``x`` for letters, ``0`` for digits, runs cut to two.

    ``outline("McDonald's") == "XxXxx'x"`` and ``outline("1984-85") == "00-00"`` (after Collins 2002, section 5.1).
    """
    kinds = "".join("X" if c.isupper() else "x" if c.isalpha() else "0" if c.isdigit() else c for c in word[:64])
    return re.sub(r"(.)\1+", r"\1\1", kinds, flags=re.DOTALL)


class WordFeatures(WordTokenizer):
    """Several views of each word in one vector: added up, or laid end to end and projected to the model's width.

    Args:
        words, characters, spelling: the views; None leaves one out.
        join: ``"sum"``, each view in the model's width; or ``"concatenate"``, each in its own, then a linear layer.

    Raises:
        ConfigError: without any view, or for another join.
    """

    def __init__(
        self,
        *,
        words: WordTokenizer | None = None,
        characters: WordTokenizer | None = None,
        spelling: WordTokenizer | None = None,
        join: Literal["sum", "concatenate"] = "concatenate",
    ) -> None:
        views = {"words": words, "characters": characters, "spelling": spelling}
        self.views = {name: view for name, view in views.items() if view is not None}
        if not self.views:
            raise ConfigError("WordFeatures needs at least one of words, characters and spelling")
        if join not in ("sum", "concatenate"):
            raise ConfigError(f"WordFeatures.join is 'sum' or 'concatenate', not {join!r}")
        super().__init__(width=sum(view.width for view in self.views.values()))
        self.join = join

    def learn(self, sentences: Sequence[Sentence]) -> dict[str, Any]:
        return {name: view.fit(sentences).state for name, view in self.views.items()}

    def load_state(self, state: dict[str, Any]) -> WordFeatures:
        missing = sorted({"max_length", *self.views} - set(state))
        if missing:
            views = ", ".join(self.views)
            raise DataError(f"this is no state of WordFeatures with {views}: {', '.join(missing)} missing")
        for name, view in self.views.items():
            view.load_state(state[name])
        super().load_state(state)
        return self

    def features(self, sentences: Sequence[Sentence], length: int, train: bool) -> dict[str, Tensor]:
        """Return the tensors of all views."""
        found = (view.features(sentences, length, train).items() for view in self.views.values())
        return dict(chain.from_iterable(found))

    def decode(self, batch: dict[str, Tensor]) -> list[list[str]]:
        """Return the words as the view that keeps most of them has them."""
        return (self.views.get("characters") or next(iter(self.views.values()))).decode(batch)

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, N, dim)``."""
        added = self.join == "sum"
        views = [view.embedder(dim if added else view.width) for view in self.views.values()]
        return JoinedEmbedder(views, None if added else nn.Linear(self.width, dim))


class JoinedEmbedder(nn.Module):
    """The sum of the views' vectors, or a linear layer on all of them."""

    def __init__(self, views: Iterable[nn.Module], project: nn.Linear | None) -> None:
        super().__init__()
        self.views, self.project = nn.ModuleList(views), project

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map a batch to ``(B, N, D)``."""
        sets: list[VectorSet] = [view(batch) for view in self.views]
        vectors = [vector_set.x for vector_set in sets]
        x = torch.stack(vectors).sum(0) if self.project is None else self.project(torch.cat(vectors, -1))
        return sets[0].replace(x=x)

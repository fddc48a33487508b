"""Words by their characters: convolutions within each word."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError
from vsattn.tokenizers.words import FIRST, PADDING, UNKNOWN, Sentence, WordTokenizer, frequent, padded, rows_of
from vsattn.vectorset import VectorSet


class Characters(WordTokenizer):
    """Each word from its characters, by convolutions whose largest response counts.

    ``relu(max_t (W_k * c)_t)`` over the real characters c of the word, for each kernel size k, side by side
    (dos Santos and Zadrozny 2014, section 2.2; Kim et al. 2016, section 2). Each spelling of a batch is read once.

    Args:
        width: see :class:`~vsattn.tokenizers.words.WordTokenizer`.
        char_width: numbers per character.
        kernel_sizes: odd; the filters are divided among them.
        max_length: a longer word keeps its first and its last characters, half of this each.
        min_count: a character seen less often is unknown.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        char_width: int = 32,
        kernel_sizes: Sequence[int] = (3, 5),
        max_length: int = 32,
        min_count: int = 2,
    ) -> None:
        super().__init__(width=width)
        if char_width < 1 or max_length < 2 or min_count < 1:
            raise ConfigError(
                "char_width and min_count are at least 1 and max_length at least 2, not "
                f"{char_width}, {min_count} and {max_length}"
            )
        if not kernel_sizes or any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ConfigError(f"kernel_sizes are odd numbers, at least one, not {list(kernel_sizes)}")
        self.char_width, self.kernel_sizes = char_width, tuple(kernel_sizes)
        self.max_length, self.min_count = max_length, min_count

    def learn(self, sentences: Sequence[Sentence]) -> dict[str, Any]:
        return {"characters": frequent(chain.from_iterable(chain.from_iterable(sentences)), self.min_count)}

    def load_state(self, state: dict[str, Any]) -> Characters:
        super().load_state(state)
        self._rows = rows_of(self, state, "characters")
        return self

    def features(self, sentences: Sequence[Sentence], length: int, train: bool) -> dict[str, Tensor]:
        """Return ``char (U, L)``, the characters of the U different words, and ``char_word (B, N)``, which it is."""
        index: dict[str, int] = {"": 0}  # padding is a word without characters
        words = padded([[index.setdefault(self._cut(w), len(index)) for w in s] for s in sentences], length)
        rows = [[self._rows.get(character, UNKNOWN) for character in word] for word in index]
        return {"char": padded(rows, max(1, max(map(len, rows)))), "char_word": words}

    def decode(self, batch: dict[str, Tensor]) -> list[list[str]]:
        """Return the words of a batch as far as they were read; an unknown character is a replacement character."""
        names = ["", "\N{REPLACEMENT CHARACTER}", *self.state["characters"]]
        spelled = ["".join(names[row] for row in rows) for rows in batch["char"].tolist()]
        pairs = zip(batch["char_word"].tolist(), batch["mask"].tolist(), strict=True)
        return [[spelled[w] for w, real in zip(words, mask, strict=True) if real] for words, mask in pairs]

    def embedder(self, dim: int) -> nn.Module:
        """Make the module ``batch -> VectorSet (B, N, dim)``.

        Raises:
            ConfigError: for fewer filters than kernel sizes.
        """
        return CharacterEmbedder(FIRST + len(self.state["characters"]), self.char_width, self.kernel_sizes, dim)

    def _cut(self, word: str) -> str:
        if len(word) <= self.max_length:
            return word
        return word[: -(-self.max_length // 2)] + word[len(word) - self.max_length // 2 :]


class CharacterEmbedder(nn.Module):
    """The convolutions; what stands beyond a word's end is 0 to them and never its largest response."""

    def __init__(self, rows: int, char_width: int, kernel_sizes: Sequence[int], dim: int) -> None:
        super().__init__()
        share, rest = divmod(dim, len(kernel_sizes))
        if not share:
            raise ConfigError(f"{len(kernel_sizes)} kernel sizes need a width of at least that many, not {dim}")
        self.table = nn.Embedding(rows, char_width, padding_idx=PADDING)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(char_width, share + (i < rest), size, padding=size // 2) for i, size in enumerate(kernel_sizes)
        )

    def forward(self, batch: dict[str, Tensor]) -> VectorSet:
        """Map ``char (U, L)`` and ``char_word (B, N)`` to ``(B, N, D)``."""
        char = batch["char"]
        x = self.table(char).transpose(1, 2)  # (U, E, L)
        nothing = (char == PADDING)[:, None]  # (U, 1, L)
        found = [conv(x).masked_fill(nothing, -torch.inf).amax(2).relu() for conv in self.convolutions]
        words = torch.cat(found, 1)  # (U, D)
        return VectorSet(nn.functional.embedding(batch["char_word"], words), batch["mask"], layout="sequence")

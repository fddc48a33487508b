"""Letters to copy, to reverse or to sort: what every model that writes must learn in a minute."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from string import ascii_lowercase
from typing import Literal

from vsattn.errors import ConfigError, DataError

from .parallel import SPLITS, Pair, ParallelData

KINDS: dict[str, Callable[[list[str]], list[str]]] = {"copy": list, "reverse": lambda word: word[::-1], "sort": sorted}


class Toy(ParallelData):
    """Strings of letters with spaces between them, and the same letters copied, reversed or sorted.

    Args:
        kind: ``"copy"``, ``"reverse"`` or ``"sort"``.
        strings: how many different ones train, validate and test; none of them is in two splits.
        length: fewest and most letters.
        letters: size of the alphabet.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        *,
        kind: Literal["copy", "reverse", "sort"] = "copy",
        strings: Sequence[int] = (4_000, 200, 200),
        length: Sequence[int] = (3, 10),
        letters: int = 12,
    ) -> None:
        super().__init__(source_language="letters", target_language="letters", tokenised=True)
        if kind not in KINDS:
            raise ConfigError(f"data.kind is one of {', '.join(KINDS)}, not {kind!r}")
        if len(strings) != 3 or min(strings) < 1:
            raise ConfigError(f"data.strings are three numbers of at least 1 (train, val, test), not {list(strings)}")
        if len(length) != 2 or not 1 <= length[0] <= length[1]:
            raise ConfigError(f"data.length is [fewest, most] with fewest at least 1, not {list(length)}")
        if not 2 <= letters <= len(ascii_lowercase):
            raise ConfigError(f"data.letters is from 2 to {len(ascii_lowercase)}, not {letters}")
        self.kind, self.strings, self.length, self.letters = kind, tuple(strings), tuple(length), letters

    @property
    def name(self) -> str:
        """Name the kind too."""
        return f"{super().name} ({self.kind})"

    def setup(self, seed: int) -> None:
        """Draw the strings by the seed.

        Raises:
            DataError: when there are not so many.
        """
        drawing, found = random.Random(seed), dict[str, None]()
        for _ in range(100 * sum(self.strings)):
            letters = drawing.choices(ascii_lowercase[: self.letters], k=drawing.randint(*self.length))
            found[" ".join(letters)] = None
            if len(found) == sum(self.strings):
                break
        else:
            raise DataError(f"{self.name}: fewer than {sum(self.strings):,} strings: raise data.length or data.letters")
        pairs: list[Pair] = [(text, " ".join(KINDS[self.kind](text.split()))) for text in found]
        borders = [0, self.strings[0], self.strings[0] + self.strings[1], len(pairs)]
        self.take({split: pairs[borders[i] : borders[i + 1]] for i, split in enumerate(SPLITS)})

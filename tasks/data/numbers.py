"""Numbers in words, German and English: real language that needs no download and crosses its words."""

from __future__ import annotations

import random
from collections.abc import Sequence

from vsattn.errors import ConfigError, DataError

from .parallel import SPLITS, Pair, ParallelData

#: The numbers below are names of their own (*elf*, *twelve*), which nothing but having seen them teaches: they train.
NAMES = 20

#: Of so many numbers in a row one validates and one tests.
BLOCK = 20

#: Years whose German differs from that of the plain number: *neunzehnhundert...*.
YEARS = (1100, 1999)

#: A kind of phrase, and how many of a hundred are of it.
SHARES = {"cardinal": 40, "ordinal": 30, "year": 10, "EUR": 10, "USD": 10}
MONEY = ("EUR", "USD")


class NumberPhrases(ParallelData):
    """German numbers, ordinals, years and sums of money in English words, by the package num2words.

    *einundzwanzig* is *twenty-one*: units and tens cross. No number that validates or tests occurs in training, in any
    kind of phrase, as a whole amount or as cents. Small numbers are drawn as often as large ones: their logarithm is
    uniform.

    Args:
        phrases: how many different ones train, validate and test.
        highest: number, below a million.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(self, *, phrases: Sequence[int] = (20_000, 1_000, 1_000), highest: int = 999_999) -> None:
        super().__init__(source_language="de", target_language="en")
        if len(phrases) != 3 or min(phrases) < 1:
            raise ConfigError(f"data.phrases are three numbers of at least 1 (train, val, test), not {list(phrases)}")
        if not 99 <= highest < 1_000_000:  # above, num2words' German ordinals are wrong
            raise ConfigError(f"data.highest is from 99 to 999,999, not {highest:,}")
        self.phrases, self.highest = tuple(phrases), highest

    def setup(self, seed: int) -> None:
        """Draw the phrases; the seed decides which numbers validate and test.

        Raises:
            DataError: when there are not so many phrases.
        """
        try:
            import num2words  # noqa: F401
        except ImportError:
            raise DataError("data=numbers needs the package num2words: pip install num2words") from None
        counts = zip(SPLITS, self.phrases, strict=True)
        self.take({split: self._drawn(split, count, seed) for split, count in counts})

    def _drawn(self, split: str, count: int, seed: int) -> list[Pair]:
        drawing, splits = random.Random(f"{seed} {split}"), Splits(seed)
        found: dict[tuple[str, int, int], Pair] = {}
        for _ in range(100 * count):
            (kind,) = drawing.choices(list(SHARES), list(SHARES.values()))
            number = drawing.randint(*YEARS) if kind == "year" else round(self.highest ** drawing.random())
            cents = drawing.randint(1, 99) if kind in MONEY else 0
            drawn = kind, number, cents
            if drawn in found or number > self.highest or not sane(number):
                continue
            if splits(number) == split and (not cents or splits(cents) == split):
                found[drawn] = phrase(*drawn, "de"), phrase(*drawn, "en")
            if len(found) == count:
                return list(found.values())
        raise DataError(
            f"{self.name}: numbers up to {self.highest:,} make fewer than {count:,} phrases for {split}: "
            "raise data.highest or lower data.phrases"
        )


class Splits:
    """number -> ``"train"``, ``"val"`` or ``"test"``: one of each `BLOCK` validates, one tests, drawn by the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._places: dict[int, list[int]] = {}

    def __call__(self, number: int) -> str:
        block, place = divmod(number, BLOCK)
        if block not in self._places:
            self._places[block] = random.Random(f"{self.seed} {block}").sample(range(BLOCK), 2)
        val, test = self._places[block]
        return "train" if number < NAMES else {val: "val", test: "test"}.get(place, "train")


def sane(number: int) -> bool:
    """Tell whether num2words says it right: not where *eins* would stand before *tausend*, which is *ein* there."""
    return number < 2000 or number // 1000 % 100 != 1


def phrase(kind: str, number: int, cents: int, language: str) -> str:
    """Return a number in words.

    Args:
        kind: a key of `SHARES`.
        number: at least 1.
        cents: of a sum of money.
        language: ``"de"`` or ``"en"``.
    """
    from num2words import num2words

    if kind in MONEY:
        return num2words(f"{number}.{cents:02d}", lang=language, to="currency", currency=kind)
    return num2words(number, lang=language, to=kind)

"""Which parts of a German number are which words of the English one: they say the same values, in another order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

#: Values that are names of their own, from 1 to 19 and by tens.
_GERMAN = {
    name: value
    for value, names in {
        1: "erste eins ein", 2: "zwei", 3: "dritte drei", 4: "vier", 5: "fünf", 6: "sechs", 7: "siebte sieben",
        8: "achte acht", 9: "neun", 10: "zehn", 11: "elf", 12: "zwölf", 13: "dreizehn", 14: "vierzehn",
        15: "fünfzehn", 16: "sechzehn", 17: "siebzehn", 18: "achtzehn", 19: "neunzehn", 20: "zwanzig",
        30: "dreißig", 40: "vierzig", 50: "fünfzig", 60: "sechzig", 70: "siebzig", 80: "achtzig", 90: "neunzig",
    }.items()
    for name in names.split()
}  # fmt: skip
_ENGLISH = {
    name: value
    for value, names in {
        1: "one first", 2: "two second", 3: "three third", 4: "four fourth", 5: "five fifth", 6: "six sixth",
        7: "seven seventh", 8: "eight eighth", 9: "nine ninth", 10: "ten tenth", 11: "eleven eleventh",
        12: "twelve twelfth", 13: "thirteen thirteenth", 14: "fourteen fourteenth", 15: "fifteen fifteenth",
        16: "sixteen sixteenth", 17: "seventeen seventeenth", 18: "eighteen eighteenth", 19: "nineteen nineteenth",
        20: "twenty twentieth", 30: "thirty thirtieth", 40: "forty fortieth", 50: "fifty fiftieth",
        60: "sixty sixtieth", 70: "seventy seventieth", 80: "eighty eightieth", 90: "ninety ninetieth",
    }.items()
    for name in names.split()
}  # fmt: skip
#: What is no value of its own but has a counterpart.
_GERMAN_SIGNS = {"hundert": "hundred", "tausend": "thousand", "Euro": "euro", "Dollar": "dollar", "Cent": "cent"}
_ENGLISH_SIGNS = {
    "hundred": "hundred", "hundredth": "hundred", "thousand": "thousand", "thousandth": "thousand", "euro": "euro",
    "euros": "euro", "dollar": "dollar", "dollars": "dollar", "cent": "cent", "cents": "cent",
}  # fmt: skip
#: What makes an ordinal of a German number, and what has no counterpart.
_ORDINAL, _JOINTS = ("ste", "te"), ("und", "and", "oh")


class Part(NamedTuple):
    """A part of a text: the characters ``start .. stop - 1``, and what they say; None for a joint."""

    start: int
    stop: int
    says: int | str | None


class Linked(NamedTuple):
    """Parts of a source and of a target, and which are which, by their numbers (source, target)."""

    source: list[Part]
    target: list[Part]
    sure: set[tuple[int, int]]
    possible: set[tuple[int, int]]


def number_links(german: str, english: str) -> Linked | None:
    """Link the phrases of :class:`~vsattn.tasks.data.numbers.NumberPhrases`, or return None for other texts.

    The n-th time that a value is said in the one it is said for the n-th time in the other: both say thousands,
    hundreds and the rest in this order, and units and tens, which cross, are different values. That is sure. The ending
    that makes an ordinal is possibly the last English word, which is sure to be the number before it. *und*, *and* and
    *oh* are linked to nothing; the target parts are those English words that have a counterpart.
    """
    source, words = _cut(german, _german, _GERMAN_WORDS), _cut(english, _english, re.compile(r"[a-z]+"))
    if source is None or words is None:
        return None
    places: dict[int | str, list[int]] = defaultdict(list)
    for number, part in enumerate(source):
        if part.says is not None:
            places[part.says].append(number)
    target: list[Part] = []
    sure: set[tuple[int, int]] = set()
    possible: set[tuple[int, int]] = set()
    for word in words:
        if word.says is None:
            continue
        if not places[word.says]:
            return None
        sure.add((places[word.says].pop(0), len(target)))
        target.append(word)
    endings = [number for number, part in enumerate(source) if part.says == "ordinal"]
    if target and endings:
        possible.add((endings[-1], len(target) - 1))
    left = {says for says, numbers in places.items() if numbers} - {"ordinal", "hundred"}  # a year: nineteen eighty
    return None if left or not target else Linked(source, target, sure, possible)


def _german(text: str) -> int | str | None:
    return "ordinal" if text in _ORDINAL else _GERMAN.get(text) or _GERMAN_SIGNS.get(text)


def _english(text: str) -> int | str | None:
    return _ENGLISH.get(text) or _ENGLISH_SIGNS.get(text)


def _cut(text: str, says: Callable[[str], int | str | None], pattern: re.Pattern[str]) -> list[Part] | None:
    """Return the parts of a text, or None if some of its letters belong to none."""
    parts = [Part(*found.span(), says(found[0])) for found in pattern.finditer(text)]
    known = all(part.says is not None or text[part.start : part.stop] in _JOINTS for part in parts)
    covered = sum(part.stop - part.start for part in parts) == sum(map(str.isalpha, text))
    return parts if known and covered else None


_names = sorted([*_GERMAN, *_GERMAN_SIGNS, *_ORDINAL, "und"], key=len, reverse=True)
_GERMAN_WORDS = re.compile("|".join(_names))

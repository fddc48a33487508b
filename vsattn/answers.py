"""How answers are written: JSON lines, tables for programs and for people."""

from __future__ import annotations

import csv
import json
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, TextIO

#: One answer, or a part of one, in plain types; what is nested in it only JSON holds.
Record = dict[str, Any]

#: Probabilities and times are written with so many decimals.
DECIMALS = 6

#: Rows by which the columns of a table are made wide enough; later ones may be wider.
MEASURED = 1000

#: The key under which a record has the probability of every class.
EVERY_CLASS = "probabilities"


class Writer(ABC):
    """Base of what writes records, one after the other.

    Args:
        out: where to.
    """

    def __init__(self, out: TextIO) -> None:
        self.out = out

    @abstractmethod
    def write(self, records: Iterable[Record]) -> None:
        """Write records, which all have the same keys."""

    def close(self) -> None:
        """Write what was held back."""
        return None


class JsonLines(Writer):
    """Each record an object on a line of its own (https://jsonlines.org).

    Args:
        out: where to.
        every_class: with the probability of every class, where there are classes.
    """

    def __init__(self, out: TextIO, *, every_class: bool = False) -> None:
        super().__init__(out)
        self.every_class = every_class

    def write(self, records: Iterable[Record]) -> None:
        for record in records:
            kept = {key: _rounded(value) for key, value in record.items() if self.every_class or key != EVERY_CLASS}
            self.out.write(json.dumps(kept, ensure_ascii=False, allow_nan=False) + "\n")


class Separated(Writer):
    """A table with a header for programs: values between commas, quoted where they need it (RFC 4180).

    Args:
        out: where to.
        dialect: ``"excel"`` for commas and ``"excel-tab"`` for tabs, see :mod:`csv`.
    """

    def __init__(self, out: TextIO, *, dialect: str = "excel") -> None:
        super().__init__(out)
        # With "\r\n" as the end, which is left out again, a carriage return within a value is quoted.
        lines = SimpleNamespace(write=lambda row: out.write(row.removesuffix("\r\n") + "\n"))
        self._rows, self._begun = csv.writer(lines, dialect=dialect, lineterminator="\r\n"), False

    def write(self, records: Iterable[Record]) -> None:
        for record in map(_flat, records):
            if not self._begun:
                self._rows.writerow(record)
                self._begun = True
            self._rows.writerow(record.values())


class Aligned(Writer):
    """A table for people: columns under each other, numbers at their right."""

    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._held: list[list[str]] = []
        self._widths: list[int] = []
        self._right: list[bool] = []

    def write(self, records: Iterable[Record]) -> None:
        for record in map(_flat, records):
            if not self._right:
                self._right = [isinstance(value, (int, float)) for value in record.values()]
                self._held.append(list(record))
            self._held.append([_cell(value) for value in record.values()])
            if self._widths or len(self._held) > MEASURED:
                self.close()

    def close(self) -> None:
        if self._held and not self._widths:
            self._widths = [max(map(_width, column)) for column in zip(*self._held, strict=True)]
        for row in self._held:
            padded = []
            for text, width, right in zip(row, self._widths, self._right, strict=True):
                space = " " * (width - _width(text))
                padded.append(space + text if right else text + space)
            self.out.write("  ".join(padded).rstrip() + "\n")
        self._held.clear()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DECIMALS)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _flat(record: Record) -> Record:
    return {key: _rounded(value) for key, value in record.items() if not isinstance(value, (dict, list))}


def _cell(value: Any) -> str:
    """Return a value in one line; what would move the cursor is escaped."""
    if isinstance(value, float):
        return f"{value:.4f}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def _width(text: str) -> int:
    """Return how many columns a terminal gives a text: two for a wide character, none for one that combines."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)

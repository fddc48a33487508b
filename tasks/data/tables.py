"""Tables of text and numbers, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vsattn.errors import DataError

from .text_files import BYTE_ORDER_MARK, read_text

#: What a feature, which is float32, can hold.
LARGEST = float(np.finfo(np.float32).max)


@dataclass
class Table:
    """A CSV file: columns of text by name, the other columns as numbers ``(n, F)``, and the line of each row."""

    text: dict[str, list[str]]
    features: Tensor
    lines: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, required: Sequence[str], known: Sequence[str]) -> Table:
        """Read a table whose header names the ``required`` columns; those of ``known`` are text.

        Raises:
            DataError: naming file and line, and the column of a number that is none.
        """
        text = read_text(path).removeprefix(BYTE_ORDER_MARK)
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: no row of a CSV table: {error}") from error
        lacking = [name for name in required if name not in header]
        if lacking or "" in header or len(set(header)) < len(header):
            unnamed = (
                "has a column without a name (a row number? leave it out)" if "" in header else "names a column twice"
            )
            what = f"lacks {', '.join(lacking)}" if lacking else unnamed
            raise DataError(
                f"{path}, line 1: the header {','.join(header)!r} {what}; columns are {','.join(known)} and features"
            )
        where = {name: i for i, name in enumerate(header)}
        numeric = [name for name in header if name not in known]
        values = np.empty((len(rows), len(numeric)), np.float32)
        for i, (line, row) in enumerate(rows):
            if len(row) != len(header):
                raise DataError(f"{path}, line {line}: {len(row)} cells; the header has {len(header)}")
            values[i] = [_number(row[where[name]], f"{path}, line {line}, column {name}") for name in numeric]
        text_of = {name: [row[where[name]] for _, row in rows] for name in known if name in where}
        return cls(text_of, torch.from_numpy(values), [line for line, _ in rows])


def _number(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise DataError(f"{where}: a number is expected, not {cell!r}") from None
    if not cell.isascii() or "_" in cell:  # Python's own notation and digits of other scripts
        raise DataError(f"{where}: a number is expected, not {cell!r}")
    if not abs(value) <= LARGEST:
        raise DataError(f"{where}: a finite number is expected, not {cell!r} (at most {LARGEST:.3g})")
    return value

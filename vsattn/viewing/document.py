"""What was looked at, as plain JSON values and one buffer of numbers: all that a page or a drawing is made from."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vsattn.errors import DataError
from vsattn.viewing.quantise import (
    Buffer,
    Cells,
    Packing,
    compressed,
    from_levels,
    packings,
    page_bytes,
    read_array,
    to_levels,
)

#: The version of the layout of `Document.data`.
SCHEMA = 1

#: Bytes that the code of a page is given.
CODE = 200_000

#: The key under which a JSON file has the buffer.
BUFFER = "buffer"

Head = int | Literal["mean"]


@dataclass(frozen=True, eq=False)
class Document:
    """Inputs, their sets of vectors, and maps of who looked at whom.

    Args:
        data: plain JSON values. ``inputs`` has one or two things that were looked at, each with ``sets`` by name and a
            list of ``maps``; a map's arrays say where in the buffer they lie.
        buffer: the arrays, little-endian.
    """

    data: dict[str, Any]
    buffer: bytes

    def matrix(self, found: dict[str, Any], head: Head) -> np.ndarray:
        """Return the weights of a map ``(n, m)``, or the means of its blocks, by one head (from 0) or their mean."""
        if found.get("edges"):
            key, query, weights = self.edges(found, head)
            sets = self._input_of(found)["sets"]
            dense = np.zeros([len(sets[found[side]]["labels"]) for side in ("query", "key")])
            dense[query, key] = weights
            return dense
        return _of_head(self._weights(found), head)

    def row(self, found: dict[str, Any], head: Head, query: int) -> np.ndarray:
        """Return one row of that matrix, ``(m,)``: a query, one of the chosen queries, or a block of them."""
        return self.matrix(found, head)[query]

    def edges(self, found: dict[str, Any], head: Head) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return keys, queries and weights of a map along edges, each ``(E,)``."""
        key, query = (read_array(self.buffer, found["edges"][side]) for side in ("key", "query"))
        return key, query, _of_head(self._weights(found), head)

    def strongest(self, found: dict[str, Any], head: int, query: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the exactly known strongest keys of a query and their weights, ``(k,)`` each; None: all are exact."""
        top = found["top"]
        if top is None:
            return None
        shape = (len(found["heads"]), -1, top["k"])
        index, weight = (read_array(self.buffer, top[name], shape) for name in ("index", "weight"))
        return index[head, query], weight[head, query]

    def to_json(self) -> str:
        """Return everything as one JSON text; the buffer is compressed by zlib and written in base64."""
        packed = base64.b64encode(compressed(self.buffer)).decode("ascii")
        return json.dumps({**self.data, BUFFER: packed}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Document:
        """Return what `to_json` wrote.

        Raises:
            DataError: for any other text.
        """
        try:
            data = json.loads(text)
            buffer = zlib.decompress(base64.b64decode(data.pop(BUFFER), validate=True))
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise DataError(f"this is no document of vsattn ({type(error).__name__}: {str(error)[:80]})") from None
        if data.get("schema") != SCHEMA:
            raise DataError(f"this document has schema {data.get('schema')!r}, and this vsattn reads {SCHEMA}")
        return cls(data, buffer)

    @classmethod
    def read(cls, path: str | Path) -> Document:
        """Return the document of a JSON file.

        Raises:
            DataError: naming a file that is missing or something else.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    def _weights(self, found: dict[str, Any]) -> np.ndarray:
        kept = found["weights"]
        values = read_array(self.buffer, kept["values"], found["shape"])
        if kept["dtype"] == "float32":
            return values
        largest = read_array(self.buffer, kept["row_max"], found["shape"][:2])
        return from_levels(values, largest, kept["levels"])

    def _input_of(self, found: dict[str, Any]) -> dict[str, Any]:
        return next(one for one in self.data["inputs"] if any(found is each for each in one["maps"]))


@dataclass(frozen=True)
class Draft:
    """A map before its weights are packed.

    Args:
        about: the entries of the map that are plain values.
        cells: its weights, dense.
        edges: or keys ``(E,)``, queries ``(E,)`` and weights ``(H, E)``, which always stay exact.
    """

    about: dict[str, Any]
    cells: Cells | None = None
    edges: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None


def pack(data: dict[str, Any], drafts: Sequence[Sequence[Draft]], limit: int) -> Document:
    """Put maps into a document, as exactly as a page of ``limit`` bytes can hold them.

    Args:
        data: of the document; its inputs have no maps yet.
        drafts: the maps of each input.
        limit: bytes of the page.

    Raises:
        DataError: when even the coarsest way takes more.
    """
    dense = [draft.cells for each in drafts for draft in each if draft.cells is not None]
    plain = len(json.dumps([data, [draft.about for each in drafts for draft in each]])) + CODE
    edges = [array for each in drafts for draft in each for array in draft.edges or ()]
    fixed = plain + sum(array.size * 4 for array in edges) * 4 / 3
    size = 0
    for packing in packings(dense, max(1, int(limit - fixed))):
        document = _packed(data, drafts, packing)
        size = len(json.dumps(document.data)) + CODE + page_bytes(document.buffer)
        if size <= limit:
            return document
    raise DataError(
        f"a page of this would take {size / 1e6:.1f} MB, and budget_mb={limit / 1e6:g} is allowed: choose fewer "
        "layers=, heads= or queries=, or raise budget_mb"
    )


def _packed(data: dict[str, Any], drafts: Sequence[Sequence[Draft]], packing: Packing) -> Document:
    buffer, number, error, inputs = Buffer(), 0, 0.0, []
    for given, each in zip(data["inputs"], drafts, strict=True):
        maps = []
        for draft in each:
            if draft.cells is None:
                maps.append(_along_edges(draft, buffer))
                continue
            made, lost = _dense(draft.about, packing.cells(number, draft.cells), packing, number, buffer)
            maps.append(made)
            number, error = number + 1, max(error, lost)
        inputs.append({**given, "maps": maps})
    exact = not any(found["weights"]["dtype"] != "float32" for one in inputs for found in one["maps"])
    kind = {"kind": "exact"} if exact else {"kind": "quantised", "levels": packing.levels, "max_error": _above(error)}
    return Document({**data, "precision": kind, "inputs": inputs}, buffer.bytes())


def _dense(
    about: dict[str, Any], cells: Cells, packing: Packing, number: int, buffer: Buffer
) -> tuple[dict[str, Any], float]:
    """Return a map, and by how much a weight of it is off at most."""
    levels, lost, top = packing.levels_of(number), 0.0, None
    if levels is None:
        weights: dict[str, Any] = {"dtype": "float32", "values": buffer.add(cells.values)}
    else:
        values, largest = to_levels(cells.values, levels)
        lost = float(np.abs(from_levels(values, largest, levels) - cells.values).max(initial=0.0))
        places = {"values": buffer.add(values), "row_max": buffer.add(largest)}
        weights = {"dtype": values.dtype.name, "levels": levels, **places}
    if levels is not None or cells.blocks is not None:
        index, strongest = cells.strongest(packing.top)
        kind = np.uint16 if int(cells.columns.sum()) <= 65536 else np.int32
        places = {"index": buffer.add(index.astype(kind)), "weight": buffer.add(strongest.astype(np.float32))}
        top = {"k": index.shape[-1], **places}
    blocks = None if cells.blocks is None else list(cells.blocks)
    return {**about, "shape": list(cells.values.shape), "blocks": blocks, "weights": weights, "top": top}, lost


def _along_edges(draft: Draft, buffer: Buffer) -> dict[str, Any]:
    assert draft.edges is not None
    key, query, weights = draft.edges
    places = {"key": buffer.add(key.astype(np.int32)), "query": buffer.add(query.astype(np.int32))}
    kept = {"dtype": "float32", "values": buffer.add(weights.astype(np.float32))}
    return {**draft.about, "shape": list(weights.shape), "edges": places, "blocks": None, "weights": kept, "top": None}


def _of_head(weights: np.ndarray, head: Head) -> np.ndarray:
    return weights.mean(0, dtype=np.float64) if head == "mean" else weights[head]


def _above(error: float) -> float:
    """Return a bound that holds for readers in single precision too, in few digits."""
    return float(f"{error * 1.006 + 1e-7:.3g}")

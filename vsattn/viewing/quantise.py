"""Weights in as few bytes as their page allows: levels, means of blocks, and exactly the strongest keys beside them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

#: How finely weights are kept, the first that fits: None is float32 as it is, a number so many levels above 0.
LADDER = (None, 65535, 255, 63, 31, 15, 7, 5, 4)

#: Blocks of so many by so many cells are tried where no level fits.
FACTORS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)

#: Of each query at most so many of its strongest keys are kept exactly, in at most this share of all bytes.
MOST_TOP, TOP_SHARE = 8, 0.3

#: The smallest maps stay float32 together in this share of all bytes.
SMALL_SHARE = 0.1

#: How zlib looks for repetitions: as usual, and not at all.
STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY)

#: Rows by which a size is foretold.
SAMPLED = 24


@dataclass(frozen=True)
class Cells:
    """The weights of one map, dense: ``values (H, n, m)`` of not negative float32.

    Args:
        values: of queries and keys, or the means of blocks of them.
        rows, columns: how many queries and keys each cell stands for, ``(n,)`` and ``(m,)``.
        blocks: of so many queries and keys, or None.
        top: numbers and weights of the strongest keys of every query ``(H, N, k)``, where they were looked for already.
    """

    values: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    blocks: tuple[int, int] | None = None
    top: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(cls, weights: np.ndarray) -> Cells:
        """Return the cells of single pairs ``(H, n, m)``."""
        rows, columns = (np.ones(size, np.int64) for size in weights.shape[1:])
        return cls(np.ascontiguousarray(weights, np.float32), rows, columns)

    def strongest(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k strongest keys of every query and their weights, ``(H, N, k)``."""
        found = top_k(self.values, k) if self.top is None else self.top
        return found[0][..., :k], found[1][..., :k]

    def in_blocks(self, queries: int, keys: int) -> Cells:
        """Return the means of blocks of so many cells by so many; every pair in a block counts alike."""
        if queries == keys == 1:
            return self
        steps = zip(self.values.shape[1:], (queries, keys), strict=True)
        starts = [np.arange(0, size, step) for size, step in steps]
        rows, columns = np.add.reduceat(self.rows, starts[0]), np.add.reduceat(self.columns, starts[1])
        if self.blocks is None:
            means = block_means(self.values, queries, keys)
        else:
            sums = self.values * (self.rows[:, None] * self.columns)
            sums = np.add.reduceat(np.add.reduceat(sums, starts[0], axis=1), starts[1], axis=2)
            means = (sums / (rows[:, None] * columns)).astype(np.float32)
        before = self.blocks or (1, 1)
        blocks = before[0] * queries, before[1] * keys
        top = self.strongest(min(MOST_TOP, self.values.shape[2])) if self.top is None else self.top
        return replace(self, values=means, rows=rows, columns=columns, blocks=blocks, top=top)


def block_means(weights: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the means of blocks of the last two axes of ``(H, n, m)``; those at the ends may be smaller."""
    from torch import from_numpy  # here, so that a document is read and drawn without torch
    from torch.nn.functional import avg_pool2d

    return avg_pool2d(from_numpy(weights), (rows, columns), ceil_mode=True).numpy()


def top_k(weights: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and values of the k largest of each last axis, largest first."""
    from torch import from_numpy

    found = from_numpy(weights).topk(min(k, weights.shape[-1]))
    return found.indices.numpy(), found.values.numpy()


def to_levels(weights: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return levels ``(H, n, m)`` and the largest weight of each row ``(H, n)``; ``weight ~ largest (level / L)^2``.

    The square gives small weights more levels than large ones. What is lost is at most ``largest / L``.
    """
    largest = weights.max(-1).astype(np.float32)
    share = weights / np.where(largest > 0, largest, 1)[..., None]
    kind = np.uint8 if levels < 256 else np.uint16
    return np.rint(np.sqrt(share, dtype=np.float32) * np.float32(levels)).astype(kind), largest


def from_levels(values: np.ndarray, largest: np.ndarray, levels: int) -> np.ndarray:
    """Return the weights that levels stand for, float64."""
    return largest[..., None].astype(np.float64) * (values / levels) ** 2


class Buffer:
    """Arrays one after the other in one little-endian buffer, each at a multiple of 4 bytes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, array: np.ndarray) -> dict[str, Any]:
        """Append an array, and return where it lies."""
        kept = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        raw = kept.tobytes()
        place = {"offset": self.size, "length": len(raw), "dtype": array.dtype.name}
        self.parts.append(raw + bytes(-len(raw) % 4))
        self.size += len(self.parts[-1])
        return place

    def bytes(self) -> bytes:
        """Return all of it."""
        return b"".join(self.parts)


def read_array(buffer: bytes, place: dict[str, Any], shape: Sequence[int] | None = None) -> np.ndarray:
    """Return an array that `Buffer.add` put there."""
    dtype = np.dtype(place["dtype"]).newbyteorder("<")
    found = np.frombuffer(buffer, dtype, place["length"] // dtype.itemsize, place["offset"])
    return found if shape is None else found.reshape(shape)


def compressed(buffer: bytes) -> bytes:
    """Return a zlib stream, the shorter of two: few levels at random hold no repetitions, and a search is misled."""
    return min((_deflated(buffer, strategy) for strategy in STRATEGIES), key=len)


def page_bytes(buffer: bytes) -> int:
    """Return how many bytes a buffer takes in a page: compressed, as base64."""
    return -(-len(compressed(buffer)) // 3) * 4


def _deflated(buffer: bytes, strategy: int) -> bytes:
    made = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return made.compress(buffer) + made.flush()


@dataclass(frozen=True)
class Packing:
    """How maps are kept: levels (None is float32), cells in blocks, strongest keys, and the maps that stay exact."""

    levels: int | None
    factor: int
    top: int
    exact: frozenset[int]

    def cells(self, number: int, cells: Cells) -> Cells:
        """Return the cells that are kept of a map; one whose queries are few, or were chosen, keeps its rows."""
        if number in self.exact or max(cells.values.shape[1:]) <= 64:
            return cells
        whole = cells.values.shape[1] > 64
        return cells.in_blocks(self.factor if whole else 1, self.factor)

    def levels_of(self, number: int) -> int | None:
        """Return the levels of a map."""
        return None if number in self.exact else self.levels


def packings(maps: Sequence[Cells], limit: int) -> list[Packing]:
    """Return ways to keep maps, the best first, and only those that are likely to take at most ``limit`` bytes of page.

    The last way is always among them, so that it is tried before anything is refused.
    """
    exact = _small(maps, SMALL_SHARE * limit)
    per_key = sum(6 * cells.values.shape[0] * int(cells.rows.sum()) for i, cells in enumerate(maps) if i not in exact)
    top = int(min(MOST_TOP, max(1, TOP_SHARE * limit * 0.75 // max(1, per_key))))
    found = []
    for factor in FACTORS:
        for levels in LADDER:
            dense = _foretold(maps, packing := Packing(levels, factor, top, exact))
            for k in sorted({top, 1}, reverse=True):
                if dense + _beside(maps, replace(packing, top=k)) <= limit:
                    found.append(replace(packing, top=k))
        if found:  # coarser levels of finer blocks follow, should the best have been foretold too small
            return found
    return [Packing(LADDER[-1], FACTORS[-1], 1, exact)]


def _small(maps: Sequence[Cells], share: float) -> frozenset[int]:
    """Return the numbers of the smallest maps that together take at most so many bytes of page."""
    found, total = set(), 0.0
    for number in sorted(range(len(maps)), key=lambda i: maps[i].values.size):
        total += maps[number].values.nbytes * 4 / 3
        if total > share:
            break
        if maps[number].blocks is None:
            found.add(number)
    return frozenset(found)


def _foretold(maps: Sequence[Cells], packing: Packing) -> float:
    """Return about how many bytes of a page the cells of maps will take, from some rows of each."""
    totals = dict.fromkeys(STRATEGIES, 0.0)
    for number, cells in enumerate(maps):
        kept = packing.cells(number, _thinned(cells, packing.factor))
        levels = packing.levels_of(number)
        raw = kept.values if levels is None else to_levels(kept.values, levels)[0]
        share = max(1.0, -(-cells.values.shape[1] // packing.factor) / kept.values.shape[1])
        for strategy in STRATEGIES:
            totals[strategy] += share * len(_deflated(np.ascontiguousarray(raw).tobytes(), strategy))
    return min(totals.values()) * 4 / 3


def _beside(maps: Sequence[Cells], packing: Packing) -> float:
    """Return about how many bytes of a page the largest weights and the strongest keys of all rows will take."""
    total = 0
    for number, cells in enumerate(maps):
        heads, queries = cells.values.shape[0], int(cells.rows.sum())
        levels = packing.levels_of(number)
        total += 4 * heads * cells.values.shape[1] if levels is not None else 0
        if levels is not None or cells.blocks is not None or packing.factor > 1:
            total += 6 * heads * queries * packing.top
    return total * 4 / 3


def _thinned(cells: Cells, factor: int) -> Cells:
    """Return a stretch of evenly spread rows, whole blocks of them."""
    n, wanted = cells.values.shape[1], SAMPLED * factor
    if n <= 2 * wanted:
        return cells
    starts = np.linspace(0, n // factor - 1, SAMPLED).astype(int) * factor
    rows = (starts[:, None] + np.arange(factor)).ravel()
    few = (np.zeros((1, 1, 1), int), np.zeros((1, 1, 1), np.float32))
    return replace(cells, values=cells.values[:, rows], rows=cells.rows[rows], top=few)

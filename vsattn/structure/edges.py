"""Graphs: `Edges`, one allowed pair per edge, and `EdgeList`, the same pairs sorted for the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsattn.errors import ShapeError
from vsattn.structure.base import Full, Structure, register, remake, same_type

if TYPE_CHECKING:
    from vsattn.vectorset import VectorSet


@dataclass(frozen=True, eq=False)
class EdgeList:
    """Pairs of keys and queries, sorted by query, then key (compressed sparse rows).

    Args:
        key: ``(E,)`` indices into the flattened keys.
        query: ``(E,)`` indices into the flattened queries, ascending.
        num_queries: ``B * Nq``.
        num_keys: ``B * Nk``.
    """

    key: Tensor
    query: Tensor
    num_queries: int
    num_keys: int

    @property
    def edge_index(self) -> Tensor:
        """Keys and queries, ``(2, E)``."""
        return torch.stack([self.key, self.query])

    @property
    def codes(self) -> Tensor:
        """One number for each pair, ascending, ``(E,)``."""
        return self.query * self.num_keys + self.key

    @cached_property
    def starts(self) -> Tensor:
        """Where the edges of each query start, ``(num_queries + 1,)``."""
        return _starts(self.query, self.num_queries)

    @cached_property
    def count(self) -> Tensor:
        """``0 .. E - 1``, ``(E,)``."""
        return torch.arange(len(self.key), device=self.key.device)

    @cached_property
    def by_key(self) -> tuple[Tensor, Tensor, Tensor]:
        """The transpose: which edge comes when sorted by key ``(E,)``, its query ``(E,)``, ``starts`` of the keys."""
        order = self.key.argsort(stable=True)
        return order, self.query[order], _starts(self.key[order], self.num_keys)

    def union(self, other: EdgeList) -> EdgeList:
        """Return the pairs of both, each once."""
        codes = torch.cat([self.codes, other.codes]).unique()
        return EdgeList(codes % self.num_keys, codes // self.num_keys, self.num_queries, self.num_keys)

    def spread(self, features: Tensor, part: EdgeList) -> Tensor:
        """Return features ``(E', F)`` of a part of these pairs for all of them, ``(E, F)``, zeros elsewhere."""
        where = torch.searchsorted(self.codes, part.codes)
        return features.new_zeros(len(self.key), features.shape[1]).index_copy(0, where, features)


@dataclass(frozen=True, eq=False)
class Edges(Structure):
    """A graph: one allowed pair per edge.

    Args:
        edge_index: integer ``(2, E)``, row 0 the key (source), row 1 the query (target); indices into the
            flattened ``B * N`` vectors of the key and the query set, prefix vectors counted.
        edge_attr: ``(E, F)`` features of the edges, or None.

    Raises:
        ShapeError: for a wrong shape or dtype, a negative index, or an edge given twice.

    The edges are sorted once, when the structure is made, and the sorted form is kept as long as the index is not
    changed in place: make it once for a graph that stays.
    """

    edge_index: Tensor
    edge_attr: Tensor | None = None

    def __post_init__(self) -> None:
        index = self.edge_index
        if index.ndim != 2 or index.shape[0] != 2 or index.is_floating_point() or index.dtype == torch.bool:
            raise ShapeError(f"edge_index is integer (2, E), not {index.dtype} {tuple(index.shape)}")
        if self.edge_attr is not None and (self.edge_attr.ndim != 2 or len(self.edge_attr) != index.shape[1]):
            raise ShapeError(f"edge_attr is {tuple(self.edge_attr.shape)}; {index.shape[1]} edges need (E, F)")
        if index.numel() and int(index.min()) < 0:
            raise ShapeError(f"edge_index holds the negative index {int(index.min())}")
        index = index.long()
        object.__setattr__(self, "edge_index", index)
        order = _order(index)
        key, query = index[:, order]
        twice = (key[1:] == key[:-1]) & (query[1:] == query[:-1])
        if bool(twice.any()):
            first = int(twice.nonzero()[0])
            raise ShapeError(
                f"{int(twice.sum())} edges are given more than once (first: key {int(key[first])} -> query "
                f"{int(query[first])}); a mask counts an edge once: coalesce them first "
                "(torch_geometric.utils.coalesce)"
            )
        object.__setattr__(self, "_order", (_version(index), order))

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        batch, num_queries, num_keys = len(query_set.x), query_set.num_vectors, key_set.num_vectors
        if not torch.compiler.is_compiling():
            self._check(batch, num_queries, num_keys)
        key, query = self.edge_index
        allowed = torch.zeros(batch, num_queries, num_keys, dtype=torch.bool, device=query_set.x.device)
        allowed[query // num_queries, query % num_queries, key % num_keys] = True
        return allowed[:, None]

    def permits(self, query_set: VectorSet, key_set: VectorSet, edge_index: Tensor) -> Tensor:
        own = self.edge_list(query_set, key_set)
        if not len(own.key):
            return torch.zeros_like(edge_index[0], dtype=torch.bool)
        codes, wanted = own.codes, edge_index[1] * own.num_keys + edge_index[0]
        return codes[torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)] == wanted

    def edge_list(self, query_set: VectorSet, key_set: VectorSet) -> EdgeList:
        sizes = len(query_set.x), query_set.num_vectors, key_set.num_vectors
        if torch.compiler.is_compiling():
            return self._sorted(sizes)
        now = (*sizes, _version(self.edge_index))
        kept = getattr(self, "_kept", None)  # (sizes and version, list): checked and sorted once
        if kept is None or kept[0] != now:
            self._check(*sizes)
            kept = now, self._sorted(sizes)
            if not torch.is_inference_mode_enabled():  # what is made there cannot serve training
                object.__setattr__(self, "_kept", kept)
        return kept[1]

    def edge_features(self, query_set: VectorSet, key_set: VectorSet) -> Tensor | None:
        return None if self.edge_attr is None else self.edge_attr[self._in_order()]

    def _sorted(self, sizes: tuple[int, int, int]) -> EdgeList:
        key, query = self.edge_index[:, self._in_order()]
        return EdgeList(key, query, sizes[0] * sizes[1], sizes[0] * sizes[2])

    def _in_order(self) -> Tensor:
        """Return the edges' order by query, then key, ``(E,)``."""
        kept = getattr(self, "_order", None)  # (version, order)
        if kept is not None and (torch.compiler.is_compiling() or kept[0] == _version(self.edge_index)):
            return kept[1]
        order = _order(self.edge_index)
        if not (torch.compiler.is_compiling() or torch.is_inference_mode_enabled()):
            object.__setattr__(self, "_order", (_version(self.edge_index), order))
        return order

    def __getstate__(self) -> dict[str, Tensor | None]:
        return {"edge_index": self.edge_index, "edge_attr": self.edge_attr}  # what is kept for speed is made anew

    def _check(self, batch: int, num_queries: int, num_keys: int) -> None:
        if not self.edge_index.numel():
            return
        key, query = self.edge_index
        if int(query.max()) >= batch * num_queries or int(key.max()) >= batch * num_keys:
            raise ShapeError(
                f"edge_index reaches {tuple(self.edge_index.max(1).values.tolist())} (key, query); the flattened "
                f"sets hold {batch * num_keys} keys and {batch * num_queries} queries"
            )
        if bool((key // num_keys != query // num_queries).any()):
            raise ShapeError("an edge joins two samples of the batch; edges stay within one sample")

    def unbounded(self) -> Structure:
        return Full()

    def shifted(self, num_prefix: int, num_vectors: int) -> Structure:
        sample = self.edge_index // num_vectors
        moved = self.edge_index + (sample + 1) * num_prefix  # keeps the order
        kept = {} if torch.compiler.is_compiling() else {"_order": (_version(moved), self._in_order())}
        return remake(Edges, edge_index=moved, edge_attr=self.edge_attr, **kept)

    def select(self, sample: int, keep: Tensor, num_vectors: int) -> Structure:
        new_index = torch.full((num_vectors,), -1, dtype=torch.long, device=keep.device)
        new_index[keep] = torch.arange(len(keep), device=keep.device)
        local = self.edge_index - sample * num_vectors
        inside = ((local >= 0) & (local < num_vectors)).all(0)
        moved = new_index[local[:, inside]]
        kept = (moved >= 0).all(0)
        attr = None if self.edge_attr is None else self.edge_attr[inside][kept]
        return remake(Edges, edge_index=moved[:, kept], edge_attr=attr)

    def stack(self, others: Sequence[Structure], sizes: Sequence[int], num_vectors: int) -> Structure:
        edges = [same_type(self, s) for s in (self, *others)]
        index = torch.cat([e.edge_index + i * num_vectors for i, e in enumerate(edges)], dim=1)
        if len({e.edge_attr is None for e in edges}) > 1:
            raise ShapeError("some sets of the batch have edge_attr and some have none")
        attr = None if self.edge_attr is None else torch.cat([e.edge_attr for e in edges])
        return remake(Edges, edge_index=index, edge_attr=attr)


def _order(edge_index: Tensor) -> Tensor:
    """Return the order of edges by query, then key."""
    key, query = edge_index
    if not edge_index.numel():
        return torch.zeros_like(key)
    return (query * (key.max() + 1) + key).argsort(stable=True)


def _version(tensor: Tensor) -> int:
    """Return a number that changes when a tensor is changed in place; tensors of inference mode do not tell."""
    return -1 if tensor.is_inference() else tensor._version


def _starts(ascending: Tensor, count: int) -> Tensor:
    return torch.searchsorted(ascending, torch.arange(count + 1, device=ascending.device))


register(Edges, ("edge_index", "edge_attr"))

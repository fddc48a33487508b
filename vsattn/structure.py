"""Who may attend to whom: a small algebra of structures, closed under ``&`` and ``|``.

A structure answers one question, ``allowed(query_set, key_set)``: may this query attend to this key?
Padding is not its business (the key mask always applies), nor are prefix vectors (they see and are seen
by every real vector); :func:`vsattn.attention.allowed_pairs` puts the three together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from vsattn.errors import ShapeError

if TYPE_CHECKING:
    from vsattn.vectorset import VectorSet


class Structure:
    """Base of all structures. ``a & b`` allows what both allow, ``a | b`` what either allows."""

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        """Return bool ``(B|1, 1, Nq, Nk)``, True where the query may attend to the key."""
        raise NotImplementedError(f"{type(self).__name__} must define allowed(query_set, key_set)")

    def __and__(self, other: Structure) -> Structure:
        parts = [p for s in (self, other) for p in (s.parts if isinstance(s, And) else (s,))]
        parts = [p for p in parts if not isinstance(p, Full)]
        return Full() if not parts else parts[0] if len(parts) == 1 else And(tuple(parts))

    def __or__(self, other: Structure) -> Structure:
        if isinstance(self, Full) or isinstance(other, Full):
            return Full()
        return Or(tuple(p for s in (self, other) for p in (s.parts if isinstance(s, Or) else (s,))))

    def leaves(self) -> tuple[Structure, ...]:
        """Return the elementary structures this one is made of."""
        return (self,)

    def shifted(self, num_prefix: int, num_vectors: int) -> Structure:
        """Return the same structure after ``num_prefix`` vectors were put before each set of ``num_vectors``."""
        return self

    def select(self, sample: int, keep: Tensor, num_vectors: int) -> Structure:
        """Return the structure of one sample, restricted to the vectors ``keep (n,)`` of its ``num_vectors``."""
        return self

    def stack(self, others: Sequence[Structure], sizes: Sequence[int], num_vectors: int) -> Structure:
        """Join ``[self, *others]``, the structures of single sets of ``sizes``, padded to ``num_vectors``."""
        if any(other != self for other in others):
            raise ShapeError(f"sets of one batch need one structure; got {[type(s).__name__ for s in (self, *others)]}")
        return self


@dataclass(frozen=True)
class Full(Structure):
    """Every vector may attend to every vector."""

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        shape = (1, 1, query_set.num_vectors, key_set.num_vectors)
        return torch.ones(shape, dtype=torch.bool, device=query_set.x.device)


@dataclass(frozen=True)
class Window(Structure):
    """A query at position p attends to keys at positions ``p - left .. p + right``; None means no limit."""

    left: int | None
    right: int | None

    def __post_init__(self) -> None:
        for name, value in (("left", self.left), ("right", self.right)):
            if value is not None and value < 0:
                raise ShapeError(f"Window.{name} counts positions and must be >= 0 or None, not {value}")

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        offset = _offset(self, query_set, key_set)
        allowed = torch.ones_like(offset, dtype=torch.bool)
        if self.left is not None:
            allowed = allowed & (offset >= -self.left)
        if self.right is not None:
            allowed = allowed & (offset <= self.right)
        return allowed[:, None]


@dataclass(frozen=True)
class Causal(Structure):
    """A query attends to keys at its own position and earlier: positions are compared, not indices."""

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        return (_offset(self, query_set, key_set) <= 0)[:, None]


@dataclass(frozen=True, eq=False)
class Segments(Structure):
    """Several samples packed into one set: vectors attend within their own segment.

    Args:
        ids: integer ``(B, N)``, the segment of each vector.
        key_ids: the same for the keys of cross-attention; None when query and key set are one.
    """

    ids: Tensor
    key_ids: Tensor | None = None

    def __post_init__(self) -> None:
        for name, ids in (("ids", self.ids), ("key_ids", self.key_ids)):
            if ids is not None and (ids.ndim != 2 or ids.is_floating_point()):
                raise ShapeError(f"Segments.{name} is integer (B, N), not {ids.dtype} {tuple(ids.shape)}")

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        keys = self.ids if self.key_ids is None else self.key_ids
        for name, ids, found in (("ids", self.ids, query_set), ("key_ids", keys, key_set)):
            if tuple(ids.shape) != tuple(found.x.shape[:2]):
                raise ShapeError(f"Segments.{name} is {tuple(ids.shape)}; the set is {tuple(found.x.shape[:2])}")
        return (self.ids[:, :, None] == keys[:, None, :])[:, None]

    def select(self, sample: int, keep: Tensor, num_vectors: int) -> Structure:
        return Segments(self.ids[sample, keep][None])

    def stack(self, others: Sequence[Structure], sizes: Sequence[int], num_vectors: int) -> Structure:
        rows = [_same_type(self, s).ids[0] for s in (self, *others)]
        return Segments(torch.stack([_pad_end(row, num_vectors, -1) for row in rows]))


@dataclass(frozen=True, eq=False)
class Dense(Structure):
    """Any boolean mask: ``allowed`` is ``(Nq, Nk)``, ``(B, Nq, Nk)`` or ``(B|1, 1, Nq, Nk)``, True = may attend."""

    mask: Tensor

    def __post_init__(self) -> None:
        mask = self.mask
        if mask.dtype != torch.bool:
            raise ShapeError(f"Dense needs a bool mask (True = may attend), not {mask.dtype}; convert explicitly")
        if mask.ndim in (2, 3):
            object.__setattr__(self, "mask", mask[None, None] if mask.ndim == 2 else mask[:, None])
        elif mask.ndim != 4 or mask.shape[1] != 1:
            raise ShapeError(f"Dense takes (Nq, Nk), (B, Nq, Nk) or (B, 1, Nq, Nk), not {tuple(mask.shape)}")

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        expected = (query_set.num_vectors, key_set.num_vectors)
        if tuple(self.mask.shape[-2:]) != expected or self.mask.shape[0] not in (1, query_set.x.shape[0]):
            raise ShapeError(f"Dense mask is {tuple(self.mask.shape)}; the sets are {expected} (queries, keys)")
        return self.mask

    def shifted(self, num_prefix: int, num_vectors: int) -> Structure:
        return Dense(torch.nn.functional.pad(self.mask, (num_prefix, 0, num_prefix, 0), value=False))

    def select(self, sample: int, keep: Tensor, num_vectors: int) -> Structure:
        mask = self.mask[min(sample, self.mask.shape[0] - 1), 0]
        return Dense(mask[keep][:, keep])

    def stack(self, others: Sequence[Structure], sizes: Sequence[int], num_vectors: int) -> Structure:
        masks = [_same_type(self, s).mask[0, 0] for s in (self, *others)]
        padded = [torch.nn.functional.pad(m, (0, num_vectors - n, 0, num_vectors - n)) for m, n in zip(masks, sizes)]
        return Dense(torch.stack(padded))


@dataclass(frozen=True, eq=False)
class Edges(Structure):
    """A graph: one allowed pair per edge.

    Args:
        edge_index: integer ``(2, E)``, row 0 the key (source), row 1 the query (target); indices into the
            flattened ``B * N`` vectors of the key and the query set, prefix vectors counted.
        edge_attr: ``(E, F)`` features of the edges, or None.

    Raises:
        ShapeError: for a wrong shape or dtype, a negative index, or an edge given twice.
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
        unique, counts = index.unique(dim=1, return_counts=True)
        if unique.shape[1] != index.shape[1]:
            key, query = unique[:, counts > 1][:, 0].tolist()
            raise ShapeError(
                f"{index.shape[1] - unique.shape[1]} edges are given more than once (first: key {key} -> query "
                f"{query}); a mask counts an edge once: coalesce them first (torch_geometric.utils.coalesce)"
            )

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        batch, num_queries, num_keys = len(query_set.x), query_set.num_vectors, key_set.num_vectors
        key, query = self.edge_index
        if not torch.compiler.is_compiling() and self.edge_index.numel():
            if int(query.max()) >= batch * num_queries or int(key.max()) >= batch * num_keys:
                raise ShapeError(
                    f"edge_index reaches {tuple(self.edge_index.max(1).values.tolist())} (key, query); the flattened "
                    f"sets hold {batch * num_keys} keys and {batch * num_queries} queries"
                )
            if bool((key // num_keys != query // num_queries).any()):
                raise ShapeError("an edge joins two samples of the batch; edges stay within one sample")
        allowed = torch.zeros(batch, num_queries, num_keys, dtype=torch.bool, device=query_set.x.device)
        allowed[query // num_queries, query % num_queries, key % num_keys] = True
        return allowed[:, None]

    def shifted(self, num_prefix: int, num_vectors: int) -> Structure:
        sample = self.edge_index // num_vectors
        return _checked_edges(self.edge_index + (sample + 1) * num_prefix, self.edge_attr)

    def select(self, sample: int, keep: Tensor, num_vectors: int) -> Structure:
        new_index = torch.full((num_vectors,), -1, dtype=torch.long, device=keep.device)
        new_index[keep] = torch.arange(len(keep), device=keep.device)
        local = self.edge_index - sample * num_vectors
        inside = ((local >= 0) & (local < num_vectors)).all(0)
        moved = new_index[local[:, inside]]
        kept = (moved >= 0).all(0)
        attr = None if self.edge_attr is None else self.edge_attr[inside][kept]
        return _checked_edges(moved[:, kept], attr)

    def stack(self, others: Sequence[Structure], sizes: Sequence[int], num_vectors: int) -> Structure:
        edges = [_same_type(self, s) for s in (self, *others)]
        index = torch.cat([e.edge_index + i * num_vectors for i, e in enumerate(edges)], dim=1)
        if len({e.edge_attr is None for e in edges}) > 1:
            raise ShapeError("some sets of the batch have edge_attr and some have none")
        attr = None if self.edge_attr is None else torch.cat([e.edge_attr for e in edges])
        return _checked_edges(index, attr)


@dataclass(frozen=True)
class _Combined(Structure):
    parts: tuple[Structure, ...]

    def leaves(self) -> tuple[Structure, ...]:
        return tuple(leaf for part in self.parts for leaf in part.leaves())

    def shifted(self, num_prefix: int, num_vectors: int) -> Structure:
        return type(self)(tuple(p.shifted(num_prefix, num_vectors) for p in self.parts))

    def select(self, sample: int, keep: Tensor, num_vectors: int) -> Structure:
        return type(self)(tuple(p.select(sample, keep, num_vectors) for p in self.parts))

    def stack(self, others: Sequence[Structure], sizes: Sequence[int], num_vectors: int) -> Structure:
        parts = [self.parts, *(_same_type(self, s).parts for s in others)]
        if len({len(p) for p in parts}) > 1:
            raise ShapeError(f"sets of one batch need one structure; got {[type(s).__name__ for s in (self, *others)]}")
        columns = list(zip(*parts))
        return type(self)(tuple(c[0].stack(c[1:], sizes, num_vectors) for c in columns))


@dataclass(frozen=True)
class And(_Combined):
    """Allowed by every part (made by ``a & b``)."""

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        return reduce(torch.logical_and, (p.allowed(query_set, key_set) for p in self.parts))


@dataclass(frozen=True)
class Or(_Combined):
    """Allowed by at least one part (made by ``a | b``)."""

    def __post_init__(self) -> None:
        attributed = [e for e in self.leaves() if isinstance(e, Edges) and e.edge_attr is not None]
        if len(attributed) > 1:
            raise ShapeError("`|` of two Edges that both carry edge_attr is ambiguous; merge the edges first")

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        return reduce(torch.logical_or, (p.allowed(query_set, key_set) for p in self.parts))


def _offset(structure: Structure, query_set: VectorSet, key_set: VectorSet) -> Tensor:
    """Return key position minus query position, ``(B|1, Nq, Nk)``; both sets need P = 1."""
    query, key = query_set.positions(), key_set.positions()
    if query.shape[-1] != 1 or key.shape[-1] != 1:
        raise ShapeError(
            f"{type(structure).__name__} needs one coordinate per vector (a sequence); "
            f"these positions have {query.shape[-1]} and {key.shape[-1]} (query, key)"
        )
    return key[:, None, :, 0] - query[:, :, None, 0]


def _pad_end(values: Tensor, length: int, fill: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)), value=fill)


def _same_type(first: Structure, other: Structure) -> Any:
    if type(other) is not type(first):
        raise ShapeError(f"sets of one batch need one kind of structure; got {type(first)} and {type(other)}")
    return other


def _checked_edges(edge_index: Tensor, edge_attr: Tensor | None) -> Edges:
    """Make Edges from indices that come out of checked ones, without checking them again."""
    return _remake(Edges, edge_index=edge_index, edge_attr=edge_attr)


def _remake(cls: type, **fields: Any) -> Any:
    made: Any = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _register(cls: type, children: tuple[str, ...], static: tuple[str, ...] = ()) -> None:
    """Register a structure as a pytree, so that compile, export and `tree_map` see its tensors."""
    register_pytree_node(
        cls,
        lambda s: ([getattr(s, c) for c in children], tuple(getattr(s, n) for n in static)),
        lambda values, context: _remake(cls, **dict(zip(children, values)), **dict(zip(static, context))),
        serialized_type_name=f"vsattn.{cls.__name__}",
    )


for _cls, _children, _static in (
    (Full, (), ()),
    (Causal, (), ()),
    (Window, (), ("left", "right")),
    (Segments, ("ids", "key_ids"), ()),
    (Dense, ("mask",), ()),
    (Edges, ("edge_index", "edge_attr"), ()),
    (And, ("parts",), ()),
    (Or, ("parts",), ()),
):
    _register(_cls, _children, _static)

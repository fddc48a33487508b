"""The base of all structures, `Full`, and the two ways to combine them."""

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
    from vsattn.structure.edges import EdgeList
    from vsattn.vectorset import VectorSet


class Structure:
    """Base of all structures. ``a & b`` allows what both allow, ``a | b`` what either allows."""

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        """Return bool ``(B|1, 1, Nq, Nk)``, True where the query may attend to the key."""
        raise NotImplementedError(f"{type(self).__name__} must define allowed(query_set, key_set)")

    def permits(self, query_set: VectorSet, key_set: VectorSet, edge_index: Tensor) -> Tensor:
        """Return the same for listed pairs, bool ``(E,)``, without making the dense mask.

        Args:
            edge_index: ``(2, E)``, row 0 the key, row 1 the query, indices into the flattened sets.
        """
        allowed = self.allowed(query_set, key_set).expand(len(query_set.x), -1, -1, -1)[:, 0]
        (key, query), num_queries = edge_index, query_set.num_vectors
        return allowed[query // num_queries, query % num_queries, key % key_set.num_vectors]

    def edge_list(self, query_set: VectorSet, key_set: VectorSet) -> EdgeList | None:
        """Return sorted pairs that hold every allowed one, if they are few and known without looking at all."""
        return None

    def edge_features(self, query_set: VectorSet, key_set: VectorSet) -> Tensor | None:
        """Return the features ``(E, F)`` of the pairs of :meth:`edge_list`, or None if edges have none."""
        return None

    def reach(self) -> tuple[int | None, int | None]:
        """Return how many positions before and after a query its keys can lie at most; None is no limit."""
        return None, None

    def unbounded(self) -> Structure:
        """Return the structure without its `Edges` and `Window`, for layers that see the whole set."""
        return self

    def __and__(self, other: Structure) -> Structure:
        if not isinstance(other, Structure):
            return NotImplemented
        parts: list[Structure] = []
        for part in (p for s in (self, other) for p in (s.parts if isinstance(s, And) else (s,))):
            if not isinstance(part, Full) and all(part is not known for known in parts):
                parts.append(part)
        return Full() if not parts else parts[0] if len(parts) == 1 else And(tuple(parts))

    def __or__(self, other: Structure) -> Structure:
        if not isinstance(other, Structure):
            return NotImplemented
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

    def permits(self, query_set: VectorSet, key_set: VectorSet, edge_index: Tensor) -> Tensor:
        return torch.ones_like(edge_index[0], dtype=torch.bool)


@dataclass(frozen=True)
class _Combined(Structure):
    parts: tuple[Structure, ...]

    def __post_init__(self) -> None:
        if len({id(leaf) for leaf in self.leaves() if _has_features(leaf)}) > 1:
            sign = "&" if isinstance(self, And) else "|"
            raise ShapeError(
                f"`{sign}` of two Edges that both carry edge_attr is ambiguous; merge them, or leave one without"
            )

    def leaves(self) -> tuple[Structure, ...]:
        return tuple(leaf for part in self.parts for leaf in part.leaves())

    def shifted(self, num_prefix: int, num_vectors: int) -> Structure:
        return type(self)(tuple(p.shifted(num_prefix, num_vectors) for p in self.parts))

    def select(self, sample: int, keep: Tensor, num_vectors: int) -> Structure:
        return type(self)(tuple(p.select(sample, keep, num_vectors) for p in self.parts))

    def stack(self, others: Sequence[Structure], sizes: Sequence[int], num_vectors: int) -> Structure:
        parts = [self.parts, *(same_type(self, s).parts for s in others)]
        if len({len(p) for p in parts}) > 1:
            raise ShapeError(f"sets of one batch need one structure; got {[type(s).__name__ for s in (self, *others)]}")
        columns = list(zip(*parts))
        return type(self)(tuple(c[0].stack(c[1:], sizes, num_vectors) for c in columns))

    def reach(self) -> tuple[int | None, int | None]:
        sides = [part.reach() for part in self.parts]
        return self._joined([side[0] for side in sides]), self._joined([side[1] for side in sides])

    def _joined(self, reaches: list[int | None]) -> int | None:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts}  # what is kept for speed is made anew


@dataclass(frozen=True)
class And(_Combined):
    """Allowed by every part (made by ``a & b``)."""

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        return reduce(torch.logical_and, (p.allowed(query_set, key_set) for p in self.parts))

    def permits(self, query_set: VectorSet, key_set: VectorSet, edge_index: Tensor) -> Tensor:
        return reduce(torch.logical_and, (p.permits(query_set, key_set, edge_index) for p in self.parts))

    def edge_list(self, query_set: VectorSet, key_set: VectorSet) -> EdgeList | None:
        # The part that has features comes first, so that its list is the one that is filtered.
        for part in sorted(self.parts, key=lambda p: not any(_has_features(leaf) for leaf in p.leaves())):
            found = part.edge_list(query_set, key_set)
            if found is not None:
                return found
        return None

    def edge_features(self, query_set: VectorSet, key_set: VectorSet) -> Tensor | None:
        found = (part.edge_features(query_set, key_set) for part in self.parts)
        return next((features for features in found if features is not None), None)

    def unbounded(self) -> Structure:
        return reduce(lambda a, b: a & b, (p.unbounded() for p in self.parts))

    def _joined(self, reaches: list[int | None]) -> int | None:
        known = [reach for reach in reaches if reach is not None]
        return min(known) if known else None


@dataclass(frozen=True)
class Or(_Combined):
    """Allowed by at least one part (made by ``a | b``)."""

    def allowed(self, query_set: VectorSet, key_set: VectorSet) -> Tensor:
        return reduce(torch.logical_or, (p.allowed(query_set, key_set) for p in self.parts))

    def permits(self, query_set: VectorSet, key_set: VectorSet, edge_index: Tensor) -> Tensor:
        return reduce(torch.logical_or, (p.permits(query_set, key_set, edge_index) for p in self.parts))

    def edge_list(self, query_set: VectorSet, key_set: VectorSet) -> EdgeList | None:
        lists = []
        for part in self.parts:
            found = part.edge_list(query_set, key_set)
            if found is None:
                return None
            lists.append(found)
        kept = getattr(self, "_kept", None)  # (lists, union): asked for more than once, joined once
        if kept is None or any(a is not b for a, b in zip(kept[0], lists)):
            kept = lists, reduce(lambda a, b: a.union(b), lists)
            object.__setattr__(self, "_kept", kept)
        return kept[1]

    def edge_features(self, query_set: VectorSet, key_set: VectorSet) -> Tensor | None:
        for part in self.parts:
            features = part.edge_features(query_set, key_set)
            if features is not None:  # pairs of the other parts have zeros
                union, own = self.edge_list(query_set, key_set), part.edge_list(query_set, key_set)
                assert union is not None and own is not None
                return union.spread(features, own)
        return None

    def unbounded(self) -> Structure:
        return reduce(lambda a, b: a | b, (p.unbounded() for p in self.parts))

    def _joined(self, reaches: list[int | None]) -> int | None:
        known = [reach for reach in reaches if reach is not None]
        return max(known) if len(known) == len(reaches) else None


def _has_features(leaf: Structure) -> bool:
    return getattr(leaf, "edge_attr", None) is not None


def of_edges(values: Tensor, batch: int, index: Tensor) -> Tensor:
    """Return ``values (B|1, N, ...)`` at flattened indices ``(E,)``: ``(E, ...)``."""
    return values.expand(batch, *values.shape[1:]).flatten(0, 1)[index]


def same_type(first: Structure, other: Structure) -> Any:
    """Return ``other``, or raise when the sets of one batch have different kinds of structure."""
    if type(other) is not type(first):
        raise ShapeError(f"sets of one batch need one kind of structure; got {type(first)} and {type(other)}")
    return other


def remake(cls: type, **fields: Any) -> Any:
    """Make a frozen dataclass from fields that were checked before, or that are not tensors."""
    made: Any = object.__new__(cls)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def register(cls: type, children: tuple[str, ...] = (), static: tuple[str, ...] = ()) -> None:
    """Register a structure as a pytree, so that compile, export and `tree_map` see its tensors."""
    register_pytree_node(
        cls,
        lambda s: ([getattr(s, c) for c in children], tuple(getattr(s, n) for n in static)),
        lambda values, context: remake(cls, **dict(zip(children, values)), **dict(zip(static, context))),
        serialized_type_name=f"vsattn.{cls.__name__}",
    )


register(Full)
register(And, ("parts",))
register(Or, ("parts",))

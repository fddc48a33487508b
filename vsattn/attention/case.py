"""One call of attention, and the mask that its structure, padding and prefix vectors come to."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vsattn.errors import ShapeError
from vsattn.relations import Pair, Relation
from vsattn.scores import Score
from vsattn.structure import Causal, EdgeList, Edges, Full, Segments, Structure, Window
from vsattn.vectorset import VectorSet


@dataclass(frozen=True)
class Case:
    """What a kernel is asked to do: projected ``query (B, H, Nq, d)``, ``key (B, H, Nk, d)``, ``value (B, H, Nk, dv)``.

    ``rows`` says which queries of the query set ``query`` holds, for work in chunks.

    Raises:
        ShapeError: when the tensors and the two sets do not fit together.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    query_set: VectorSet
    key_set: VectorSet
    structure: Structure
    score: Score
    relation: Relation | None = None
    dropout: float = 0.0
    rows: slice = field(default_factory=lambda: slice(None))

    def __post_init__(self) -> None:
        q, k, v = self.query.shape, self.key.shape, self.value.shape
        if not (len(q) == len(k) == len(v) == 4 and q[:2] == k[:2] == v[:2] and k[2] == v[2] and q[3] == k[3]):
            raise ShapeError(
                "attend takes query (B, H, Nq, d), key (B, H, Nk, d), value (B, H, Nk, dv), where keys and values may "
                f"have fewer heads, a divisor of H; got {tuple(q)}, {tuple(k)}, {tuple(v)}"
            )
        whole = self.rows == slice(None)  # (a range would fix the length in a compiled graph)
        num_queries = self.query_set.num_vectors if whole else len(range(self.query_set.num_vectors)[self.rows])
        for name, shape, found, length in (
            ("query", q, self.query_set, num_queries),
            ("key", k, self.key_set, self.key_set.num_vectors),
        ):
            if (shape[0], shape[2]) != (found.x.shape[0], length):
                raise ShapeError(f"{name} {tuple(shape)} does not fit its set {tuple(found.x.shape)} in B or N")
        score = self.score
        if (score.num_heads, score.head_dim) != (q[1], q[3]):
            raise ShapeError(
                f"{type(score).__name__} was made for {score.num_heads} heads of width {score.head_dim}; "
                f"these are {q[1]} of width {q[3]}"
            )
        refuse_leaks(self.structure, self.query_set, self.key_set)

    @property
    def pair(self) -> Pair:
        """The pairs of queries and keys, for the relation."""
        return Pair(self.query_set, self.key_set, self.rows, self.structure)

    @property
    def dot(self) -> tuple[Tensor, Tensor, float] | None:
        """What makes the score a dot product, ``(q, k, scale)``, or None."""
        return self.score.as_dot(self.query, self.key)

    @property
    def edges(self) -> EdgeList | None:
        """The pairs of a graph, or None if the structure is none."""
        return self.structure.edge_list(self.query_set, self.key_set)

    def adds(self, part: str) -> bool:
        """Tell whether the relation has this part: ``to_score``, ``to_key`` or ``to_value``."""
        return self.relation is not None and part in self.relation.parts

    def bias(self) -> Tensor | None:
        """Return what the relation adds to the scores, ``(B|1, H, Nq, Nk)``, 0 where a prefix takes part; or None."""
        if self.relation is None or not self.adds("to_score"):
            return None
        pair = self.pair
        return pair.without_prefix(self.relation.to_score(self.query, pair)).permute(0, 3, 1, 2)

    def allowed(self) -> Tensor | None:
        """Return :func:`allowed_pairs` for the queries of this case."""
        allowed = allowed_pairs(self.structure, self.query_set, self.key_set)
        return allowed if allowed is None or allowed.shape[-2] == 1 else allowed[:, :, self.rows]


def allowed_pairs(structure: Structure, query_set: VectorSet, key_set: VectorSet) -> Tensor | None:
    """Return who may attend to whom, all things together: structure, prefix vectors, and the key mask.

    Returns:
        bool ``(B|1, 1, Nq|1, Nk)``, True = may attend; None when every query may attend to every key.

    Raises:
        ShapeError: when prefix vectors meet Causal or Segments: a prefix sees all and is seen by all, so it
            would carry the future to the past, or one packed sample to another.
    """
    refuse_leaks(structure, query_set, key_set)
    allowed, num_query, num_key = None, query_set.num_prefix, key_set.num_prefix
    if not isinstance(structure, Full):
        allowed = structure.allowed(query_set, key_set)
        if num_query or num_key:
            query = torch.arange(query_set.num_vectors, device=allowed.device) < num_query
            key = torch.arange(key_set.num_vectors, device=allowed.device) < num_key
            allowed = allowed | query[:, None] | key[None, :]
    if key_set.mask is not None:
        key_mask = key_set.mask[:, None, None, :]
        allowed = key_mask if allowed is None else allowed & key_mask
    return allowed


def refuse_leaks(structure: Structure, query_set: VectorSet, key_set: VectorSet) -> None:
    """Raise ShapeError when a prefix would carry what the structure keeps apart."""
    if query_set.num_prefix or key_set.num_prefix:
        for leaf in structure.leaves():
            if isinstance(leaf, (Causal, Segments)):
                raise ShapeError(
                    f"prefix vectors and {type(leaf).__name__} do not go together: every vector sees the prefix "
                    "and the prefix sees every vector, so it would leak; use num_prefix=0 (and no CLS head)"
                )


def is_sparse(structure: Structure) -> bool:
    """Tell whether most pairs of a long set are forbidden, so that a dense mask wastes its work."""
    return any(isinstance(leaf, (Window, Edges, Segments)) for leaf in structure.leaves())

"""What the features of an edge add to attention along it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from vsattn.errors import ConfigError, ShapeError
from vsattn.relations.base import EdgePair, Pair, Relation


class EdgeFeatures(Relation):
    """Features of the edges, mapped linearly and added to scores, to keys, or to keys and values.

    Args:
        edge_dim: F, the width of ``Edges.edge_attr``.
        to: ``"score"`` adds one number per head; ``"key"`` adds to the keys, which with `Additive` and leaky ReLU is
            GATv2 with edge features, inside the activation; ``"key_value"`` adds to both (Shi et al. 2021, "Masked
            Label Prediction", section 3.1).

    The map has no bias, so a pair without an edge adds nothing.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        edge_dim: int,
        to: Literal["score", "key", "key_value"] = "key_value",
    ) -> None:
        super().__init__(num_heads, head_dim)
        parts = {"score": {"to_score"}, "key": {"to_key"}, "key_value": {"to_key", "to_value"}}
        if to not in parts:
            raise ConfigError(f"EdgeFeatures.to is one of {', '.join(parts)}, not {to!r}")
        if edge_dim < 1:
            raise ConfigError(f"EdgeFeatures.edge_dim is at least 1, not {edge_dim}")
        self.parts = frozenset(parts[to])
        self.project = nn.Linear(edge_dim, num_heads * (1 if to == "score" else head_dim), bias=False)

    def to_score(self, query: Tensor, pair: Pair | EdgePair) -> Tensor:
        return self._projected(pair) if "to_score" in self.parts else super().to_score(query, pair)

    def to_key(self, pair: Pair | EdgePair) -> Tensor:
        return self._vectors(pair) if "to_key" in self.parts else super().to_key(pair)

    def to_value(self, pair: Pair | EdgePair) -> Tensor:
        return self._vectors(pair) if "to_value" in self.parts else super().to_value(pair)

    def _vectors(self, pair: Pair | EdgePair) -> Tensor:
        return self._projected(pair).unflatten(-1, (self.num_heads, self.head_dim))

    def _projected(self, pair: Pair | EdgePair) -> Tensor:
        attr = pair.edge_attr()
        if attr.shape[-1] != self.project.in_features:
            raise ShapeError(
                f"edge_attr has width {attr.shape[-1]}; EdgeFeatures was made for {self.project.in_features}"
            )
        return self.project(attr.to(self.project.weight.dtype))

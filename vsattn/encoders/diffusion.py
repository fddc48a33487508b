"""Layers whose attention weights carry the vectors over many hops, for graphs of which few nodes are labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from vsattn.attention.diffusion import diffuse
from vsattn.attention.functional import make_case
from vsattn.attention.observing import Observable
from vsattn.encoders.base import Encoder
from vsattn.errors import ConfigError
from vsattn.scores import ScaledDot, Score
from vsattn.vectorset import VectorSet


class DiffusionLayer(nn.Module, Observable):
    """K hops of ``z <- (1 - a) A z + a x`` from ``z = x``, with the attention weights A of x.

    Queries and keys alone are projected; the vectors themselves are mixed, head h carries the h-th part of their width.

    Args:
        dim: D.
        num_heads: H, a divisor of D.
        hops: K.
        teleport: a, the weight of a vector itself at each hop, in [0, 1); None is the mean over the hops.
        head_dim: width of a head's queries and keys; None is D / H.
        score: class or partial, called with ``(num_heads, head_dim)``.
        dropout: on the weights, others at each hop.
        vector_dropout: of whole vectors before they are carried; those dropped still say whom to attend to.
        weight_decay: of the projections that make the weights, in place of the optimizer's.

    Raises:
        ConfigError: for values out of range.

    Source: :func:`~vsattn.attention.diffusion.diffuse`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        hops: int,
        teleport: float | None,
        head_dim: int | None = None,
        score: Callable[..., Score] = ScaledDot,
        dropout: float = 0.0,
        vector_dropout: float = 0.0,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ConfigError(f"dim {dim} cannot be cut into {num_heads} equal heads")
        head_dim = dim // num_heads if head_dim is None else head_dim
        shares = (teleport or 0.0, dropout, vector_dropout)
        if hops < 1 or head_dim < 1 or not all(0 <= share < 1 for share in shares) or (weight_decay or 0.0) < 0:
            raise ConfigError(
                "hops and head_dim are at least 1, teleport, attention_dropout and vector_dropout in [0, 1), "
                f"attention_decay at least 0; not {hops}, {head_dim}, {teleport}, {dropout}, {vector_dropout} and "
                f"{weight_decay}"
            )
        self.num_heads, self.hops, self.teleport, self.dropout = num_heads, hops, teleport, dropout
        self.query_proj, self.key_proj = (nn.Linear(dim, num_heads * head_dim) for _ in range(2))
        self.score = score(num_heads, head_dim)
        self.vector_dropout = nn.Dropout1d(vector_dropout)  # 1d: a whole row of x
        self.weight_decay = None if weight_decay is None else float(weight_decay)  # the optimizer looks for it
        for projection in (self.query_proj, self.key_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``."""
        x = vector_set.x
        q, k, v = (self._heads(vectors) for vectors in (self.query_proj(x), self.key_proj(x), self.vector_dropout(x)))
        dropout = self.dropout if self.training else 0.0
        case = make_case(q, k, v, vector_set, vector_set, vector_set.structure, self.score, None, dropout)
        mixed = diffuse(case, self.hops, self.teleport, module=self)  # (B, H, N, D / H)
        return vector_set.replace(x=mixed.transpose(1, 2).flatten(2))

    def _heads(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class DiffusionEncoder(Encoder):
    """Diffusion layers with an activation and dropout between them: little to learn, and far to see.

    Two layers of one hop each are GAT (Velickovic et al. 2018, section 3.3) with the score of your choice.

    Args:
        dim: D.
        num_heads: of each layer.
        hops: of each layer.
        teleport, head_dim, score: see :class:`DiffusionLayer`.
        dropout: on the vectors between layers.
        attention_dropout: on the weights.
        vector_dropout: of whole vectors before the first layer carries them (Feng et al. 2020, section 3.1, DropNode).
        attention_decay: weight decay of what makes the weights, in place of the optimizer's; much of it holds them near
            the mean of the neighbours.
        activation: ``"elu"`` or ``"relu"``.
        activate_last: apply it, and dropout, after the last layer too, for what the head makes of it.

    Raises:
        ConfigError: for no layer, lists of different lengths, and see :class:`DiffusionLayer`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: Sequence[int] = (8, 1),
        *,
        hops: Sequence[int] = (1, 4),
        teleport: float | None = 0.1,
        head_dim: int | None = None,
        score: Callable[..., Score] = ScaledDot,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        vector_dropout: float = 0.0,
        attention_decay: float | None = None,
        activation: Literal["elu", "relu"] = "elu",
        activate_last: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ("elu", "relu"):
            raise ConfigError(f"DiffusionEncoder.activation is 'elu' or 'relu', not {activation!r}")
        if not num_heads or len(num_heads) != len(hops):
            raise ConfigError(f"num_heads and hops are lists, one number a layer; not {num_heads} and {hops}")
        self.layers = nn.ModuleList(
            DiffusionLayer(
                dim,
                heads,
                hops=count,
                teleport=teleport,
                head_dim=head_dim,
                score=score,
                dropout=attention_dropout,
                vector_dropout=0.0 if index else vector_dropout,
                weight_decay=attention_decay,
            )
            for index, (heads, count) in enumerate(zip(num_heads, hops))
        )
        self.dropout, self.activate_last = nn.Dropout(dropout), activate_last
        self.activation: Callable[[Tensor], Tensor] = nn.functional.elu if activation == "elu" else nn.functional.relu

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``."""
        vector_set = self.layers[0](vector_set)
        for layer in self.layers[1:]:
            vector_set = layer(self._activated(vector_set))
        return self._activated(vector_set) if self.activate_last else vector_set

    def _activated(self, vector_set: VectorSet) -> VectorSet:
        return vector_set.replace(x=self.dropout(self.activation(vector_set.x)))

"""Weights of one attention that carry the vectors over many hops, for graphs of which few nodes are labelled."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vsattn.attention.diffusion import diffuse
from vsattn.attention.functional import make_case
from vsattn.encoders.base import Encoder
from vsattn.errors import ConfigError
from vsattn.scores import ScaledDot, Score
from vsattn.vectorset import VectorSet


class DiffusionEncoder(Encoder):
    """``x <- relu(x)``, then K hops of ``z <- (1 - a) A z + a x`` from ``z = x``, with the attention weights A of x.

    It sees K hops far and has little to learn: queries and keys alone are projected, the vectors themselves are mixed.
    Head h carries the h-th part of their width.

    Args:
        dim: D.
        num_heads: H, a divisor of D.
        head_dim: width of a head's queries and keys; None is D / H.
        hops: K.
        teleport: a, the weight of a vector itself at each hop, in [0, 1).
        score: class or partial, called with ``(num_heads, head_dim)``.
        dropout: on the vectors after the ReLU.
        attention_dropout: on the weights, others at each hop.

    Raises:
        ConfigError: for values out of range.

    Source: :func:`~vsattn.attention.diffusion.diffuse`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 1,
        *,
        head_dim: int | None = None,
        hops: int = 8,
        teleport: float = 0.2,
        score: Callable[..., Score] = ScaledDot,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ConfigError(f"dim {dim} cannot be cut into {num_heads} equal heads")
        head_dim = dim // num_heads if head_dim is None else head_dim
        if hops < 1 or head_dim < 1 or not 0 <= teleport < 1 or not 0 <= attention_dropout < 1:
            raise ConfigError(
                "hops and head_dim are at least 1, teleport and attention_dropout in [0, 1); not "
                f"{hops}, {head_dim}, {teleport} and {attention_dropout}"
            )
        self.num_heads, self.hops, self.teleport = num_heads, hops, teleport
        self.query_proj, self.key_proj = (nn.Linear(dim, num_heads * head_dim) for _ in range(2))
        self.score = score(num_heads, head_dim)
        self.dropout, self.attention_dropout = nn.Dropout(dropout), attention_dropout
        for projection in (self.query_proj, self.key_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``."""
        x = self.dropout(vector_set.x.relu())
        if vector_set.mask is not None:
            x = x.masked_fill(~vector_set.mask[..., None], 0.0)
        q, k, v = (self._heads(vectors) for vectors in (self.query_proj(x), self.key_proj(x), x))
        dropout = self.attention_dropout if self.training else 0.0
        case = make_case(q, k, v, vector_set, vector_set, vector_set.structure, self.score, None, dropout)
        return vector_set.replace(x=diffuse(case, self.hops, self.teleport).transpose(1, 2).flatten(2))

    def _heads(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

"""Layers whose attention weights carry the vectors over many hops, for graphs of which few nodes are labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from vsattn.attention.diffusion import diffuse
from vsattn.attention.functional import make_case
from vsattn.encoders.base import Encoder
from vsattn.errors import ConfigError
from vsattn.scores import ScaledDot, Score
from vsattn.vectorset import VectorSet


class DiffusionLayer(nn.Module):
    """K hops of ``z <- (1 - a) A z + a x`` from ``z = x``, with the attention weights A of x.

    Queries and keys alone are projected; the vectors themselves are mixed, head h carries the h-th part of their width.

    Args:
        dim: D.
        num_heads: H, a divisor of D.
        hops: K.
        teleport: a, the weight of a vector itself at each hop, in [0, 1).
        head_dim: width of a head's queries and keys; None is D / H.
        score: class or partial, called with ``(num_heads, head_dim)``.
        dropout: on the weights, others at each hop.

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
        teleport: float,
        head_dim: int | None = None,
        score: Callable[..., Score] = ScaledDot,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ConfigError(f"dim {dim} cannot be cut into {num_heads} equal heads")
        head_dim = dim // num_heads if head_dim is None else head_dim
        if hops < 1 or head_dim < 1 or not 0 <= teleport < 1 or not 0 <= dropout < 1:
            raise ConfigError(
                "hops and head_dim are at least 1, teleport and attention_dropout in [0, 1); not "
                f"{hops}, {head_dim}, {teleport} and {dropout}"
            )
        self.num_heads, self.hops, self.teleport, self.dropout = num_heads, hops, teleport, dropout
        self.query_proj, self.key_proj = (nn.Linear(dim, num_heads * head_dim) for _ in range(2))
        self.score = score(num_heads, head_dim)
        for projection in (self.query_proj, self.key_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``."""
        x = vector_set.x
        q, k, v = (self._heads(vectors) for vectors in (self.query_proj(x), self.key_proj(x), x))
        dropout = self.dropout if self.training else 0.0
        case = make_case(q, k, v, vector_set, vector_set, vector_set.structure, self.score, None, dropout)
        return vector_set.replace(x=diffuse(case, self.hops, self.teleport).transpose(1, 2).flatten(2))

    def _heads(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class DiffusionEncoder(Encoder):
    """Diffusion layers with an ELU and dropout between them: little to learn, and far to see.

    Two layers of one hop each are GAT (Velickovic et al. 2018, section 3.3) with the score of your choice.

    Args:
        dim: D.
        num_heads: of each layer.
        hops: of each layer.
        teleport, head_dim, score: see :class:`DiffusionLayer`.
        dropout: on the vectors between layers.
        attention_dropout: on the weights.

    Raises:
        ConfigError: for no layer, lists of different lengths, and see :class:`DiffusionLayer`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: Sequence[int] = (8, 1),
        *,
        hops: Sequence[int] = (1, 4),
        teleport: float = 0.1,
        head_dim: int | None = None,
        score: Callable[..., Score] = ScaledDot,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
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
            )
            for heads, count in zip(num_heads, hops)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``."""
        vector_set = self.layers[0](vector_set)
        for layer in self.layers[1:]:
            vector_set = layer(vector_set.replace(x=self.dropout(nn.functional.elu(vector_set.x))))
        return vector_set

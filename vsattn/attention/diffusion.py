"""The weights of one attention applied again and again."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from vsattn.attention.case import Case
from vsattn.attention.edges import by_head, edge_weights, edges_refuses
from vsattn.attention.kernels import MAX_DENSE_PAIRS, num_pairs
from vsattn.attention.reference import reference_weights
from vsattn.errors import ShapeError
from vsattn.sparse import edge_sum


def diffuse(case: Case, hops: int, teleport: float) -> Tensor:
    """Return z_K of ``z_0 = v``, ``z_k = (1 - a) A z_{k-1} + a v`` for the attention weights A; ``(B, H, N, dv)``.

    The weights are computed once, along edges where the structure is a graph and for all pairs elsewhere; dropout
    takes other weights away at each hop.

    Args:
        case: self-attention, without a relation that adds to the values.
        hops: K, at least 1.
        teleport: a, in [0, 1); the weight of a vector's own value at each hop.

    Raises:
        ShapeError: for more than `MAX_DENSE_PAIRS` pairs where there is no graph with a softmax.

    Source: Wang et al. 2021, "Multi-hop Attention Graph Neural Network", equation 6; with uniform weights it is
    personalised PageRank (Gasteiger et al. 2019, equation 5).
    """
    if edges_refuses(case) is None:
        pair, value, weights = edge_weights(case)
        mixed = _hops(value, weights, lambda w, z: edge_sum(w, z, pair.edges), case.dropout, hops, teleport)
        return by_head(mixed, case)
    if num_pairs(case) > MAX_DENSE_PAIRS:
        raise ShapeError(
            f"diffusion over {num_pairs(case)} pairs would keep them all (limit {MAX_DENSE_PAIRS}), because "
            f"{edges_refuses(case)}; use Edges and a score with a softmax, or smaller sets"
        )
    return _hops(case.value, reference_weights(case), lambda w, z: w @ z, case.dropout, hops, teleport)


def _hops(
    value: Tensor,
    weights: Tensor,
    mix: Callable[[Tensor, Tensor], Tensor],
    dropout: float,
    hops: int,
    teleport: float,
) -> Tensor:
    mixed = value
    for _ in range(hops):
        dropped = F.dropout(weights, dropout, training=dropout > 0)
        mixed = (1 - teleport) * mix(dropped, mixed) + teleport * value
    return mixed

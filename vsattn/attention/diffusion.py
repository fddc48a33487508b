"""The weights of one attention applied again and again."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.attention.case import Case
from vsattn.attention.edges import by_head, edge_weights, edges_refuses
from vsattn.attention.kernels import MAX_DENSE_PAIRS, num_pairs
from vsattn.attention.observing import observed
from vsattn.attention.reference import reference_weights
from vsattn.errors import ShapeError
from vsattn.sparse import edge_sum


def diffuse(case: Case, hops: int, teleport: float | None, *, module: nn.Module | None = None) -> Tensor:
    """Return z_K of ``z_0 = v``, ``z_k = (1 - a) A z_{k-1} + a v`` for the attention weights A; ``(B, H, N, dv)``.

    Without a it is the mean of z_0 to z_K, where ``z_k = A z_{k-1}``.

    The weights are computed once, along edges where the structure is a graph and for all pairs elsewhere; dropout
    takes other weights away at each hop.

    Args:
        case: self-attention, without a relation that adds to the values.
        hops: K, at least 1.
        teleport: a, in [0, 1); the weight of a vector's own value at each hop; None takes the mean over hops.
        module: whose call this is.

    Raises:
        ShapeError: for more than `MAX_DENSE_PAIRS` pairs where there is no graph with a softmax.

    Source: Wang et al. 2021, "Multi-hop Attention Graph Neural Network", equation 6; with uniform weights it is
    personalised PageRank (Gasteiger et al. 2019, equation 5). The mean: Feng et al. 2020, section 3.1.
    """
    refusal, pair = edges_refuses(case), None
    if refusal is None:
        pair, value, weights = edge_weights(case)
    elif num_pairs(case) <= MAX_DENSE_PAIRS:
        value, weights = case.value, reference_weights(case)
    else:
        raise ShapeError(
            f"diffusion over {num_pairs(case)} pairs would keep them all (limit {MAX_DENSE_PAIRS}), because {refusal}; "
            "use Edges and a score with a softmax, or smaller sets"
        )

    def mix(weights: Tensor) -> Tensor:
        def hop(vectors: Tensor) -> Tensor:
            dropped = F.dropout(weights, case.dropout, training=case.dropout > 0)
            return dropped @ vectors if pair is None else edge_sum(dropped, vectors, pair.edges)

        result = _hops(hop, value, hops, teleport)
        return result if pair is None else by_head(result, case)

    return observed(mix(weights), case, module, mix)


def _hops(hop: Callable[[Tensor], Tensor], value: Tensor, hops: int, teleport: float | None) -> Tensor:
    mixed = total = value
    for _ in range(hops):
        mixed = hop(mixed) if teleport is None else (1 - teleport) * hop(mixed) + teleport * value
        total = total + mixed if teleport is None else mixed
    return total / (hops + 1) if teleport is None else total

"""Attention rollout: how much of each input vector reaches each vector through all layers, if weights were all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from vsattn.attention.rows import reduced
from vsattn.errors import ConfigError, ShapeError

if TYPE_CHECKING:
    from vsattn.measures.flow import Step

Fusion = Literal["mean", "max", "min"]


def rollout(
    weights: Sequence[Tensor], *, residual: float = 0.5, heads: Fusion = "mean", mask: Tensor | None = None
) -> list[Tensor]:
    """Multiply the weights of self-attention layers: ``R_l = norm((1 - r) A_l + r I) R_(l-1)`` with ``R_0 = I``.

    Row i of the last tells what vector i after the last layer is made of. Rows of real vectors sum to 1: what a layer's
    residual connection carries past its attention is the share r, and ``norm`` divides each row by its sum, which is 1
    already for the mean of the heads of vectors that see anything. One that sees nothing stays itself.

    Args:
        weights: of each layer, the first layer first, ``(B, H, N, N)`` with queries as rows.
        residual: r, in [0, 1).
        heads: how the heads of a layer become one.
        mask: bool ``(B, N)``, True = real; others get rows and columns of 0.

    Returns:
        For each layer what it and those below amount to, ``(B, N, N)``.

    Raises:
        ConfigError: for a share out of range, or another way to fuse heads.
        ShapeError: for no layer, or weights of other shapes.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers", sections 3 and 4.
    """
    if not weights or any(w.ndim != 4 or w.shape[2] != w.shape[3] or w.shape != weights[0].shape for w in weights):
        shapes = [tuple(w.shape) for w in weights]
        raise ShapeError(f"rollout takes the weights (B, H, N, N) of one layer or more, all alike; got {shapes}")
    carried = identity(weights[0], mask)
    found = []
    for layer in weights:
        carried = passed_on(layer, carried, carried, residual=residual, heads=heads, mask=mask)
        found.append(carried)
    return found


def rollouts(steps: Sequence[Step], *, residual: float = 0.5, heads: Fusion = "mean") -> dict[str, Tensor]:
    """Roll attention out over all sets of a model, from the vectors that the encoder is given.

    A set that reads another, such as a decoder's target or a head's seeds, gets what the other is made of; what it was
    itself before came from no input vector and is left out by ``norm``.

    Args:
        steps: see :func:`~vsattn.measures.flow.steps_of`.
        residual, heads: see :func:`rollout`.

    Returns:
        By the name of each set what its vectors are made of, ``(B, n, N)`` over the N vectors of ``"input"``.
    """
    first = next(step for step in steps if "input" in (step.query, step.key))
    mask = first.query_mask if first.query == "input" else first.key_mask
    size = first.weights.shape[2 if first.query == "input" else 3]
    carried = {"input": identity(first.weights.new_zeros(len(first.weights), 1, size, size), mask)}
    for step in steps:
        if step.key not in carried:  # it has seen nothing of the input yet, such as what was written so far
            continue
        own = carried.get(step.query, carried[step.key].new_zeros(1))
        other, mask = carried[step.key], step.query_mask
        carried[step.query] = passed_on(step.weights, own, other, residual=residual, heads=heads, mask=mask)
    return carried


def passed_on(
    weights: Tensor, own: Tensor, other: Tensor, *, residual: float, heads: Fusion, mask: Tensor | None
) -> Tensor:
    """Return what queries are made of behind a layer, ``(B, n, N)``: ``norm((1 - r) A other + r own)``.

    Args:
        weights: A, ``(B, H, n, m)``; a query whose weights are 0 keeps its own.
        own, other: what the queries and the keys are made of before it.
        residual, heads, mask: see :func:`rollout`.
    """
    if not 0 <= residual < 1:
        raise ConfigError(f"rollout: residual is in [0, 1), not {residual}")
    fused = fuse(weights, heads)
    mixed = fused @ other
    seen = fused.sum(-1, keepdim=True) > 0
    mixed = torch.where(seen, (1 - residual) * mixed + residual * own, own.expand_as(mixed))
    total = mixed.sum(-1, keepdim=True)
    mixed = torch.where(total > 0, mixed / torch.where(total > 0, total, 1.0), 0.0)
    return mixed if mask is None else mixed.masked_fill(~mask[..., None], 0.0)


def fuse(weights: Tensor, heads: Fusion) -> Tensor:
    """Put heads into one: ``(B, H, n, m)`` to ``(B, n, m)``.

    Raises:
        ConfigError: for another way than mean, max and min.
    """
    if heads not in ("mean", "max", "min"):
        raise ConfigError(f"rollout: heads is 'mean', 'max' or 'min', not {heads!r}")
    return reduced(weights, heads).squeeze(1)


def identity(weights: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``(B, N, N)`` where each real vector is itself, for ``weights (B, H, N, N)``."""
    eye = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device).expand(len(weights), -1, -1)
    return eye if mask is None else eye.masked_fill(~mask[..., None], 0.0)

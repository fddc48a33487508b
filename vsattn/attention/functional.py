"""The verb: `attend`, and its second face `attention_weights`."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from vsattn.attention.case import Case
from vsattn.attention.kernels import KERNELS, choose
from vsattn.attention.observing import observed
from vsattn.attention.reference import logits, masked_weights, reference_weights
from vsattn.errors import ShapeError
from vsattn.relations import Relation
from vsattn.scores import ScaledDot, Score
from vsattn.structure import Full, Structure
from vsattn.vectorset import VectorSet


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_set: VectorSet,
    key_set: VectorSet,
    structure: Structure | None = None,
    *,
    score: Score | None = None,
    relation: Relation | None = None,
    dropout: float = 0.0,
    kernel: str = "auto",
    module: nn.Module | None = None,
) -> Tensor:
    """Mix the values of the keys that each query may attend to: ``softmax(score(q, k) + relation) v``.

    Args:
        query: projected queries ``(B, H, Nq, d)``.
        key: projected keys ``(B, H, Nk, d)``; with fewer heads, which divide H, each serves a group of query heads
            (grouped-query attention, Ainslie et al. 2023, section 2; one is multi-query, Shazeer 2019).
        value: projected values ``(B, H, Nk, dv)``, with as many heads as the keys.
        query_set: supplies mask, positions, layout and prefix of the queries; its ``x`` is not read.
        key_set: the same for the keys; its mask always applies.
        structure: who may attend to whom; None is `Full`. The sets' own structures are not read: self-attention
            combines them in :class:`MultiHeadAttention`.
        score: how well a query matches a key; None is `ScaledDot`.
        relation: what a pair adds.
        dropout: probability of dropping a weight; the caller passes 0 outside training.
        kernel: ``"auto"`` or a name from the kernel table.
        module: an :class:`~vsattn.attention.Observable` whose call this is, by which a recording names it.

    Returns:
        ``(B, H, Nq, dv)``; exactly 0, with finite gradients, for a query with no allowed key.

    Raises:
        ShapeError: when shapes do not fit, or the kernel asked for cannot do this.

    Source: Vaswani et al. 2017, "Attention Is All You Need", section 3.2.
    """
    if key_set.mask is not None:  # what stands in padding, even a NaN, must not meet a weight of 0
        padded = ~key_set.mask[:, None, :, None]
        key, value = key.masked_fill(padded, 0.0), value.masked_fill(padded, 0.0)
    if query_set.mask is not None:
        query = query.masked_fill(~query_set.mask[:, None, :, None] & ~query.isfinite(), 0.0)
    case = make_case(query, key, value, query_set, key_set, structure, score, relation, dropout)
    return run_case(case, kernel, module=module)


def run_case(case: Case, kernel: str = "auto", *, module: nn.Module | None = None) -> Tensor:
    """Compute a case whose padded keys and values are known to be finite; ``(B, H, Nq, dv)``."""
    name, _ = choose(case, kernel)
    return observed(KERNELS[name].run(case), case, module)


def explain_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_set: VectorSet,
    key_set: VectorSet,
    structure: Structure | None = None,
    *,
    score: Score | None = None,
    relation: Relation | None = None,
    dropout: float = 0.0,
    kernel: str = "auto",
) -> str:
    """Say which kernel :func:`attend` would use for the same arguments, and why, such as ``"dense: ..."``."""
    case = make_case(query, key, value, query_set, key_set, structure, score, relation, dropout)
    return ": ".join(choose(case, kernel))


def attention_weights(
    query: Tensor,
    key: Tensor,
    query_set: VectorSet,
    key_set: VectorSet,
    structure: Structure | None = None,
    *,
    score: Score | None = None,
    relation: Relation | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Return the weights by which :func:`attend` mixes, ``(B, H, Nq, Nk)``.

    Args:
        chunk_size: work on so many queries at a time, which bounds the memory of what lies between; the
            result is the same. None is all at once.

    Each row sums to 1, or is exactly 0 where the query has no allowed key. Dropout never applies.
    """
    if chunk_size is not None and chunk_size < 1:
        raise ShapeError(f"chunk_size counts queries and is at least 1, not {chunk_size}")
    if key_set.mask is not None:
        key = key.masked_fill(~key_set.mask[:, None, :, None], 0.0)
    case = make_case(query, key, key, query_set, key_set, structure, score, relation, 0.0)
    if chunk_size is None or chunk_size >= query.shape[2]:
        return reference_weights(case)
    chunks, allowed = [], case.allowed()
    for start in range(0, query.shape[2], chunk_size):
        rows = slice(start, start + chunk_size)
        scores = logits(dataclasses.replace(case, query=query[:, :, rows], rows=rows))
        own = allowed if allowed is None or allowed.shape[-2] == 1 else allowed[:, :, rows]
        chunks.append(masked_weights(scores, own, case.score.normalizer))
    return torch.cat(chunks, dim=2)


def make_case(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_set: VectorSet,
    key_set: VectorSet,
    structure: Structure | None,
    score: Score | None,
    relation: Relation | None,
    dropout: float,
) -> Case:
    """Return the call as one `Case`, defaults filled in and grouped heads written out."""
    structure = Full() if structure is None else structure
    score = ScaledDot(query.shape[1], query.shape[-1]) if score is None else score
    if query.ndim == key.ndim == value.ndim == 4 and 0 < key.shape[1] < query.shape[1]:
        if key.shape[1] != value.shape[1] or query.shape[1] % key.shape[1]:
            raise ShapeError(
                "keys and values have as many heads as each other, a divisor of the queries'; got "
                f"{query.shape[1]} heads of queries, {key.shape[1]} of keys, {value.shape[1]} of values"
            )
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return Case(query, key, value, query_set, key_set, structure, score, relation, dropout)

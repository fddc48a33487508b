"""Which source word a target word comes from, by what it looks at, against alignments that are known."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from vsattn.errors import DataError, ShapeError

#: Links of one sentence: numbers of a source word and of a target word.
Links = set[tuple[int, int]]


def alignment_error_rate(found: Iterable[Links], sure: Iterable[Links], possible: Iterable[Links]) -> float:
    """Return ``1 - (|A & S| + |A & P|) / (|A| + |S|)`` over all sentences, 0 for none wrong.

    Args:
        found: A, of each sentence.
        sure: S, that must be found.
        possible: P, that may be; sure links are possible too.

    Raises:
        DataError: for different numbers of sentences, or no link at all.

    Source: Och and Ney 2003, "A Systematic Comparison of Various Statistical Alignment Models", section 5.
    """
    right = total = 0
    sentences = [list(part) for part in (found, sure, possible)]
    if len({len(part) for part in sentences}) > 1:
        raise DataError(f"found, sure and possible links of {[len(part) for part in sentences]} sentences do not match")
    for a, s, p in zip(*sentences, strict=True):
        right += len(a & s) + len(a & (p | s))
        total += len(a) + len(s)
    if not total:
        raise DataError("there is no link, found or sure, in any sentence")
    return 1 - right / total


def align(weights: Tensor) -> Links:
    """Return for each target the source it looks at most, for ``weights (targets, sources)``; none for rows of 0."""
    seen = (weights.sum(1) > 0).tolist() if weights.shape[1] else [False] * len(weights)
    best = weights.argmax(1).tolist() if weights.shape[1] else []
    return {(source, target) for target, source in enumerate(best) if seen[target]}


def between_words(weights: Tensor, targets: Tensor, sources: Tensor) -> Tensor:
    """Return weights between words, of those between the pieces that words were cut into.

    A word looks as its pieces do on average, and gets the sum of what its pieces get.

    Args:
        weights: ``(m, n)`` between pieces, targets as rows.
        targets: ``(v, m)``, how much of each piece belongs to each word, such as the share of its letters.
        sources: ``(w, n)``, the same.

    Returns:
        ``(v, w)``.

    Raises:
        ShapeError: when the shapes do not fit.
    """
    if weights.shape != (targets.shape[1], sources.shape[1]):
        raise ShapeError(
            f"weights {tuple(weights.shape)} are not between {targets.shape[1]} and {sources.shape[1]} pieces"
        )
    share = targets / targets.sum(1, keepdim=True).clamp(min=torch.finfo(targets.dtype).tiny)
    return share @ weights @ sources.T


def diagonal(targets: int, sources: int) -> Links:
    """Return the links of two texts that are read side by side: target j to the source as far along as it is."""
    return {(min(sources - 1, int((j + 0.5) * sources / targets)), j) for j in range(targets)} if sources else set()

"""Bootstrap intervals over items: of a mean, and of the change of a rate, item against item."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vsattn.errors import DataError

#: How often the items are drawn anew.
RESAMPLES = 2000

#: Draws that are held at once.
CELLS = 2**22


def mean_interval(values: Tensor, *, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean over items ``(n,)`` (Efron and Tibshirani 1993, chapter 13).

    Of differences between two things measured on the same items it is the paired interval.

    Raises:
        DataError: for no item.
    """
    return _interval([values[drawn].mean(1) for drawn in _draws(len(values), seed)], level)


def ratio_interval(
    before: Tensor, after: Tensor, total: Tensor, *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return the paired bootstrap interval of ``sum(after) / sum(total) - sum(before) / sum(total)``.

    Args:
        before, after: what each item adds, such as its right answers, ``(n,)``.
        total: how many answers it has.

    Raises:
        DataError: for no item.
    """
    change = (after - before).double()
    draws = _draws(len(total), seed)
    return _interval([change[drawn].sum(1) / total[drawn].sum(1).clamp(min=1) for drawn in draws], level)


def _draws(count: int, seed: int) -> Iterator[Tensor]:
    """Yield draws ``(some, count)`` of ``count`` of the items, `RESAMPLES` in all."""
    if not count:
        raise DataError("an interval needs at least one item")
    generator = torch.Generator().manual_seed(seed)
    some = max(1, min(RESAMPLES, CELLS // count))
    for start in range(0, RESAMPLES, some):
        yield torch.randint(count, (min(some, RESAMPLES - start), count), generator=generator)


def _interval(parts: list[Tensor], level: float) -> tuple[float, float]:
    quantiles = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(parts).double().quantile(quantiles).tolist()
    return low, high

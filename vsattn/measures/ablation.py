"""What each head is worth: the change of a model's score when that head alone is silent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vsattn.attention.observing import observables
from vsattn.measures.flow import require_evaluation
from vsattn.measures.intervals import ratio_interval
from vsattn.model import Model
from vsattn.silencing import silence

#: Runs a model on some items; what each item adds to the score ``(n,)``, and how many answers it has ``(n,)``.
Judge = Callable[[], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Ablated:
    """One head's silence.

    Args:
        path: of its module.
        head: its number, from 0.
        score: of the model without it.
        change: of the score, below 0 where the head was of use.
        low, high: 95% interval of the change, by bootstrap over items, paired; too narrow where few items change.
        p: of the exact sign test over items, times the number of heads that were tried (Bonferroni), at most 1.
    """

    path: str
    head: int
    score: float
    change: float
    low: float
    high: float
    p: float

    @property
    def says(self) -> str:
        """``"needed"`` or ``"harmful"`` where p is below 0.05, else ``"not told"``."""
        return "not told" if self.p >= 0.05 else "needed" if self.change < 0 else "harmful"


def ablation(
    model: Model, judge: Judge, *, heads: Mapping[str, int] | None = None, seed: int = 0
) -> tuple[float, list[Ablated]]:
    """Silence each head in turn, see :func:`vsattn.silence`.

    Args:
        model: in evaluation mode.
        judge: judges it, always by the same items; a score is the sum of what items add by that of their answers.
        heads: the number of heads by path; None is all that the model has.
        seed: of the bootstrap.

    Returns:
        The score of the whole model, and one `Ablated` for each head.

    Raises:
        ConfigError: for a model in training mode.

    Source: Michel et al. 2019, "Are Sixteen Heads Really Better than One?", section 3.2.
    """
    require_evaluation(model)
    counts = {path: module.num_heads for path, module in observables(model).items()} if heads is None else heads
    before, total = judge()
    whole = _rate(before, total)
    found = []
    for path, count in counts.items():
        for head in range(count):
            with silence(model, {path: [head]}):
                after, _ = judge()
            low, high = ratio_interval(before, after, total, seed=seed)
            score = _rate(after, total)
            p = min(1.0, _sign_test(before, after) * sum(counts.values()))
            found.append(Ablated(path, head, score, score - whole, low, high, p))
    return whole, found


def _rate(right: Tensor, total: Tensor) -> float:
    return float(right.double().sum() / torch.clamp(total.double().sum(), min=1))


def _sign_test(before: Tensor, after: Tensor) -> float:
    """Return the two-sided p of as uneven a split of the items that change, were it a coin's (for rates McNemar's)."""
    lost, won = int((after < before).sum()), int((after > before).sum())
    tail = sum(math.comb(lost + won, i) for i in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2 ** (lost + won))

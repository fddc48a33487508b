"""What is kept of tested words, and what several models say of them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.ensemble import together
from vsattn.heads import MultiTaskHead

from .classification import IGNORED


class Remembered(NamedTuple):
    """What is kept of a test batch with n words.

    Attributes:
        predictions, targets: of all words, in order ``(n,)``.
        total: the sum of the losses of the labelled.
        logits: ``(n, C)``, with those of further columns behind them.
        beside: the classes of K further columns, ``(n, K)``, or None.
    """

    predictions: np.ndarray
    targets: np.ndarray
    total: float
    logits: Tensor
    beside: Tensor | None


def averaged(kept: Sequence[Remembered], head: MultiTaskHead | None = None) -> Remembered:
    """Return what an ensemble says of a batch, its members' probabilities averaged in each column.

    Args:
        kept: by each member, of the same words.
        head: parts the columns; None where there is one.
    """
    members = [one.logits for one in kept]
    logits = [together(column) for column in ([members] if head is None else _columns(head, members))]
    targets = torch.from_numpy(kept[0].targets)
    total = float(F.nll_loss(logits[0], targets, ignore_index=IGNORED, reduction="sum"))
    return kept[0]._replace(predictions=logits[0].argmax(-1).numpy(), total=total, logits=torch.cat(logits, dim=-1))


def _columns(head: MultiTaskHead, members: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the members' logits of the classes, and of each further column."""
    split = [head.split(logits) for logits in members]
    return [[own for own, _ in split], *([others[name] for _, others in split] for name in head.widths)]

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
        guesses, beside: what is said of K further columns, and what is true, ``(n, K)``; None without such.
        logits: ``(n, C)``, with those of further columns behind them, where an ensemble needs them; else None.
    """

    predictions: np.ndarray
    targets: np.ndarray
    total: float
    guesses: Tensor | None
    beside: Tensor | None
    logits: Tensor | None


def averaged(kept: Sequence[Remembered], head: MultiTaskHead | None = None) -> Remembered:
    """Return what an ensemble says of a batch, its members' probabilities averaged in each column.

    Args:
        kept: by each member, of the same words.
        head: parts the columns; None where there is one.
    """
    members = [one.logits for one in kept if one.logits is not None]
    own, *others = map(together, [members] if head is None else _columns(head, members))
    total = float(F.nll_loss(own, torch.from_numpy(kept[0].targets), ignore_index=IGNORED, reduction="sum"))
    guesses = torch.stack([logits.argmax(-1) for logits in others], dim=-1) if others else None
    return kept[0]._replace(predictions=own.argmax(-1).numpy(), total=total, guesses=guesses, logits=None)


def _columns(head: MultiTaskHead, members: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the members' logits of the classes, and of each further column."""
    split = [head.split(logits) for logits in members]
    return [[own for own, _ in split], *([others[name] for _, others in split] for name in head.widths)]

"""Further columns of labels, learned beside the classes of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vsattn.errors import ConfigError
from vsattn.heads import MultiTaskHead
from vsattn.tokenizers.base import Tokenizer

from .classification import IGNORED, Collate
from .remembering import Remembered
from .report import accuracy


class BesideCollate(Collate):
    """Adds ``"beside"``, the classes of K further columns, ``(B, N, K)``; `IGNORED` where there is none.

    Args:
        tokenizer, train: see :class:`~vsattn.tasks.classification.Collate`.
        columns: K.
    """

    def __init__(self, tokenizer: Tokenizer, *, columns: int, train: bool = False) -> None:
        super().__init__(tokenizer, train=train)
        self.columns = columns

    def __call__(self, pairs: list[Any]) -> dict[str, Tensor]:
        batch = super().__call__(pairs)
        rows = [getattr(target, "beside", None) or [[IGNORED] * self.columns] * len(target) for _, target in pairs]
        beside = pad_sequence([torch.tensor(row).view(-1, self.columns) for row in rows], True, IGNORED)
        return batch | {"beside": beside}


def check_columns(head: MultiTaskHead | None, labels: Mapping[str, Sequence[str]]) -> None:
    """Raise ConfigError for columns that the head does not learn, or the data do not have, in the same order."""
    learns = {} if head is None else head.widths
    if labels and not learns:
        raise ConfigError(
            f"data.beside names {', '.join(labels)}, which head=multi_task alone learns: choose it, or data.beside=null"
        )
    if list(labels) != list(learns) or any(len(labels[name]) > width for name, width in learns.items()):
        has = {name: len(own) for name, own in labels.items()}
        raise ConfigError(
            f"head=multi_task learns {learns or 'nothing'}, and the data have {has or 'no further columns'}: set "
            "data.beside and leave head.beside to follow it, or choose head=vector"
        )


def beside_loss(head: MultiTaskHead, output: Tensor, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
    """Return the sum over the further columns of the mean cross-entropy per word that has a label there."""
    losses = []
    for logits, target in zip(head.split(output)[1].values(), batch["beside"].unbind(-1), strict=True):
        taught = (target != IGNORED).sum().clamp(min=1)
        given = logits.float().flatten(0, -2), target.flatten()
        total = F.cross_entropy(*given, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum")
        losses.append(total / taught)
    return torch.stack(losses).sum()


def guesses_beside(head: MultiTaskHead, output: Tensor) -> Tensor:
    """Return the most probable label of each further column, ``(..., K)``."""
    return torch.stack([logits.argmax(-1) for logits in head.split(output)[1].values()], dim=-1)


def beside_scores(head: MultiTaskHead, remembered: Sequence[Remembered], seed: int) -> dict[str, float]:
    """Return the accuracy of each further column with its interval; none of one that the tested files do not fill."""
    guesses, targets = (torch.cat([getattr(kept, name) for kept in remembered]) for name in ("guesses", "beside"))
    right, scores = (guesses == targets).numpy(), dict[str, float]()
    for k, name in enumerate(head.widths):
        if bool((targets[:, k] != IGNORED).any()):
            scores |= accuracy(f"accuracy_{name}", right[:, k], seed=seed)
    return scores

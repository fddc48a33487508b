"""Further columns of labels, learned beside the classes of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vsattn.errors import ConfigError
from vsattn.heads import MultiTaskHead

from .classification import IGNORED, Collate
from .data.base import Data
from .remembering import Remembered
from .report import bootstrap


class BesideCollate(Collate):
    """Adds ``"beside"``, the classes of the further columns, ``(B, N, K)``, padded with `IGNORED`."""

    def __call__(self, pairs: list[Any]) -> dict[str, Tensor]:
        batch = super().__call__(pairs)
        rows = [torch.tensor(getattr(target, "beside", None) or _no_columns()) for _, target in pairs]
        return batch | {"beside": pad_sequence(rows, True, IGNORED)}


def _no_columns() -> NoReturn:
    raise ConfigError("head=multi_task learns further columns, and the data have none: set data.beside, or head=vector")


def check_columns(head: MultiTaskHead | None, data: Data) -> None:
    """Raise ConfigError for columns that the head does not learn, or the data do not have."""
    has, learns = dict(getattr(data, "beside", {})), {} if head is None else head.widths
    if has and not learns:
        raise ConfigError(f"data.beside names {', '.join(has)}, which head=multi_task alone learns")
    if has != learns:
        raise ConfigError(f"head=multi_task learns {learns}, and data.beside has {has}: name the same columns in both")


def beside_loss(head: MultiTaskHead, output: Tensor, batch: dict[str, Tensor], label_smoothing: float) -> Tensor:
    """Return the sum over the further columns of the mean cross-entropy per word that has a label there."""
    losses = []
    for logits, target in zip(head.split(output)[1].values(), batch["beside"].unbind(-1), strict=True):
        taught = (target != IGNORED).sum().clamp(min=1)
        given = logits.float().flatten(0, -2), target.flatten()
        total = F.cross_entropy(*given, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum")
        losses.append(total / taught)
    return torch.stack(losses).sum()


def right_beside(head: MultiTaskHead, output: Tensor, target: Tensor) -> Tensor:
    """Return where the most probable label of each further column is the right one, bool ``(..., K)``."""
    return torch.stack([logits.argmax(-1) for logits in head.split(output)[1].values()], dim=-1) == target


def beside_scores(head: MultiTaskHead, remembered: Sequence[Remembered], seed: int) -> dict[str, float]:
    """Return the accuracy of each further column with its interval; none of one that the tested files do not fill."""
    targets = torch.cat([kept.beside for kept in remembered if kept.beside is not None])
    right = right_beside(head, torch.cat([kept.logits for kept in remembered]), targets).numpy()
    scores = dict[str, float]()
    for k, name in enumerate(head.widths):
        if bool((targets[:, k] != IGNORED).any()):
            low, high = bootstrap(right[:, k], seed=seed)
            scores |= {f"test/accuracy_{name}": float(right[:, k].mean())}
            scores |= {f"test/accuracy_{name}_low": low, f"test/accuracy_{name}_high": high}
    return scores

"""Several trained models that answer together."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vsattn.crf import CrfHead
from vsattn.errors import ConfigError, DataError
from vsattn.heads import CtcHead
from vsattn.predictor import Predictor

if TYPE_CHECKING:
    from typing import Any


class Ensemble(Predictor):
    """Models of one task whose probabilities are averaged, ``p(c) = (p_1(c) + ... + p_K(c)) / K``.

    Trained from different seeds they err in different places (Hansen and Salamon 1990; Lakshminarayanan, Pritzel and
    Blundell 2017, section 2.4). Each reads the items by its own tokenizer, so they need not be of one kind. Its logits
    are the logarithms of those probabilities. ``model``, ``tokenizer`` and ``config`` are those of the first member.

    Args:
        members: two at least, with the same classes in the same order.

    Raises:
        ConfigError: for fewer, for other classes, and for models whose answers are no labels one by one.
    """

    def __init__(self, members: Sequence[Predictor]) -> None:
        if len(members) < 2:
            raise ConfigError(f"an ensemble needs two members at least, not {len(members)}")
        for number, member in enumerate(members, start=1):
            if member.tokenizer.writes is not None:
                raise ConfigError("translators find a sentence together by python -m vsattn.translate ckpt=A,B")
            if isinstance(member.model.head, (CrfHead, CtcHead)):
                kind = type(member.model.head).__name__
                raise ConfigError(
                    f"member {number} has a {kind}, which finds a whole sequence: nothing can be averaged"
                )
            if member.classes != members[0].classes:
                others = sorted({*member.classes} ^ {*members[0].classes})
                which = f": {', '.join(others[:5])} in one alone" if others else " in another order"
                raise ConfigError(f"member {number} of the ensemble has other classes than the first{which}")
            if list(member.beside.items()) != list(members[0].beside.items()):
                raise ConfigError(
                    f"member {number} of the ensemble has other further columns (data.beside) than the first"
                )
        first = members[0]
        super().__init__(first.model, first.tokenizer, first.classes, config=first.config)
        self.members, self.beside = list(members), first.beside

    def to(self, device: str | torch.device) -> Ensemble:
        """Move all models, and return self."""
        for member in self.members:
            member.to(device)
        return self

    @torch.inference_mode()
    def _outputs(self, items: Sequence[Any]) -> list[Tensor]:
        found = []
        for member in self.members:
            member.model.eval()
            found.append(member._outputs(items))
        return [together(logits) for logits in zip(*found, strict=True)]


def together(logits: Sequence[Tensor]) -> Tensor:
    """Return the logarithms of the mean probabilities of several models, float32, from their logits ``(..., C)``.

    Raises:
        DataError: when they do not answer for as many vectors.
    """
    if len(shapes := {tuple(one.shape) for one in logits}) > 1:
        raise DataError(f"the members of the ensemble give answers of different shapes for one item: {sorted(shapes)}")
    log_p = torch.stack([one.double().log_softmax(-1) for one in logits])
    return (log_p.logsumexp(0) - math.log(len(logits))).float()


def names_of(ckpt: str) -> list[str]:
    """Return the paths that ``ckpt=PATH,PATH`` names; one path may hold commas.

    Raises:
        ConfigError: for an empty name, or the same one twice.
    """
    names = [ckpt] if os.path.exists(os.path.expanduser(ckpt)) else ckpt.split(",")
    if "" in names:
        raise ConfigError(f"ckpt={ckpt}: there is nothing between two commas, or before or behind one")
    if len(set(map(os.path.realpath, names))) < len(names):
        raise ConfigError(f"ckpt={ckpt} names a model twice, which changes nothing of the mean but its weight")
    return names


def load_together(ckpt: str) -> Predictor:
    """Load the model that ``ckpt=PATH`` names, or the ensemble of those of ``ckpt=PATH,PATH``.

    Raises:
        CheckpointError: see :func:`vsattn.load`.
        ConfigError: see `Ensemble`.
    """
    from vsattn.checkpoint import load

    loaded = [load(name) for name in names_of(ckpt)]
    return loaded[0] if len(loaded) == 1 else Ensemble(loaded)

"""What several noisy passes answer should be the same, also where no label is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def consistency(logits: Sequence[Tensor], *, temperature: float, mask: Tensor | None = None) -> Tensor:
    """Return the mean over passes s and vectors of ``|p_s - q|^2``, where q ~ ``(mean_s p_s)^(1/T)`` is a fixed target.

    Args:
        logits: one tensor ``(..., C)`` a pass.
        temperature: T, in (0, 1]; the smaller, the surer the target.
        mask: ``(...)``, True = real; others do not count.

    Source: Feng et al. 2020, "Graph Random Neural Networks", section 3.2.
    """
    probabilities = torch.stack([one.float().softmax(-1) for one in logits])
    target = (probabilities.detach().mean(0).log() / temperature).softmax(-1)  # powers alone could all come to zero
    distance = (probabilities - target).square().sum(-1)
    return distance.mean() if mask is None else distance[:, mask].mean()

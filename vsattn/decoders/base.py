"""The face that all decoders share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vsattn.recording import record
from vsattn.vectorset import VectorSet


class Decoder(nn.Module):
    """Maps a target sequence to a sequence of the same length, each vector from the memory and those up to itself.

    All at once, ``forward(target, memory)``, or piece by piece with the same result: ``state = start(memory)``, then
    ``output, state = advance(step, state)`` as often as needed. A state is never changed, so several searches can go
    on from one; ``state.select(rows)`` takes rows ``(n,)`` of its batch, or rows ``(n, W)``, where the W rows of a line
    come from one sample and go on to share its memory.
    """

    def forward(self, target: VectorSet, memory: VectorSet) -> VectorSet:
        """Map the target ``(B, N, D)`` to ``(B, N, D)``, given the memory ``(B, M, Dm)``."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(target, memory)")

    def start(self, memory: VectorSet) -> Any:
        """Return the state before the first vector."""
        raise NotImplementedError(f"{type(self).__name__} must define start(memory)")

    def advance(self, step: VectorSet, state: Any) -> tuple[VectorSet, Any]:
        """Map the next vectors ``(B, n, D)`` to ``(B, n, D)`` and return the state behind them."""
        raise NotImplementedError(f"{type(self).__name__} must define advance(step, state)")

    def attention(self, target: VectorSet, memory: VectorSet) -> Tensor:
        """Return the weights by which each vector of the target looks at the memory, ``(B, L, H, N, M)``."""
        with record(self, budget_mb=torch.inf) as recording:
            self(target, memory)
        crosses = [path for path in recording.paths if recording.calls(path)[0].kind == "cross"]
        return torch.stack([recording.joined(path) for path in crosses], 1).to(target.x.device)

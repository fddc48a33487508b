"""One layer of a Transformer decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from vsattn.attention import MultiHeadAttention
from vsattn.attention.cache import KeyValue
from vsattn.errors import ConfigError
from vsattn.layers import Norm
from vsattn.structure import Causal
from vsattn.vectorset import VectorSet


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to a memory, feed-forward, each with a residual and a norm.

    ``norm(x + f(x))`` (post-norm, Vaswani et al. 2017, section 3.1) or ``x + f(norm(x))`` (pre-norm), three times.

    Args:
        self_attention: from the target to itself; the block adds `Causal` to its structure.
        cross_attention: from the target to the memory, by the memory's mask.
        feed_forward: maps ``(B, N, D)`` to ``(B, N, D)``.
        norm: makes a norm, called without arguments; three are made.
        norm_placement: ``"pre"`` or ``"post"``.
        dropout: on each branch, before the residual sum.
    """

    def __init__(
        self,
        self_attention: MultiHeadAttention,
        cross_attention: MultiHeadAttention,
        feed_forward: nn.Module,
        *,
        norm: Callable[[], Norm],
        norm_placement: Literal["pre", "post"] = "pre",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if norm_placement not in ("pre", "post"):
            raise ConfigError(f"norm_placement is 'pre' or 'post', not {norm_placement!r}")
        self.norm_placement = norm_placement
        self.self_attention, self.cross_attention, self.feed_forward = self_attention, cross_attention, feed_forward
        self.self_norm, self.cross_norm, self.feed_forward_norm = norm(), norm(), norm()
        self.dropout = nn.Dropout(dropout)

    def forward(self, target: VectorSet, memory: VectorSet) -> VectorSet:
        """Map the target ``(B, N, D)`` to ``(B, N, D)``, given the memory ``(B, M, Dm)``."""
        query = self._before(target, self.self_norm)
        target = self._after(target, self.self_attention(query, structure=Causal()).x, self.self_norm)
        query = self._before(target, self.cross_norm)
        target = self._after(target, self.cross_attention(query, memory).x, self.cross_norm)
        return self._fed_forward(target)

    def advance(self, step: VectorSet, earlier: KeyValue, memory: KeyValue) -> tuple[VectorSet, KeyValue]:
        """Map the next vectors ``(B, n, D)``, and return the keys and values up to them."""
        query = self._before(step, self.self_norm)
        earlier = earlier.append(self.self_attention.keys_and_values(query))
        step = self._after(step, self.self_attention.read(query, earlier, structure=Causal()).x, self.self_norm)
        query = self._before(step, self.cross_norm)
        step = self._after(step, self.cross_attention.read(query, memory).x, self.cross_norm)
        return self._fed_forward(step), earlier

    def _fed_forward(self, target: VectorSet) -> VectorSet:
        branch = self.feed_forward(self._before(target, self.feed_forward_norm).x)
        return self._after(target, branch, self.feed_forward_norm)

    def _before(self, vectors: VectorSet, norm: nn.Module) -> VectorSet:
        return vectors.replace(x=norm(vectors.x, vectors.mask)) if self.norm_placement == "pre" else vectors

    def _after(self, vectors: VectorSet, branch: Tensor, norm: nn.Module) -> VectorSet:
        x = vectors.x + self.dropout(branch)
        return vectors.replace(x=norm(x, vectors.mask) if self.norm_placement == "post" else x)

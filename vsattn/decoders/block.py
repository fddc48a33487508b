"""One layer of a Transformer decoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vsattn.attention import MultiHeadAttention
from vsattn.attention.cache import KeyValue
from vsattn.layers import Norm, NormPlacement, ResidualBlock
from vsattn.structure import Causal, Full
from vsattn.vectorset import VectorSet


class DecoderBlock(ResidualBlock):
    """Causal self-attention, attention to a memory, feed-forward, each a residual branch (Vaswani et al. 2017, 3.1).

    Args:
        self_attention: from the target to itself; the block adds `Causal` to its structure.
        cross_attention: from the target to the memory, by the memory's mask.
        feed_forward: maps ``(B, N, D)`` to ``(B, N, D)``.
        norm: makes a norm, called without arguments for each norm of the block.
        norm_placement, dropout: see :class:`vsattn.layers.ResidualBlock`.
    """

    def __init__(
        self,
        self_attention: MultiHeadAttention,
        cross_attention: MultiHeadAttention,
        feed_forward: nn.Module,
        *,
        norm: Callable[[], Norm],
        norm_placement: NormPlacement = "pre",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(norm_placement, dropout=dropout)
        self.self_attention, self.cross_attention, self.feed_forward = self_attention, cross_attention, feed_forward
        self.self_norm, self.cross_norm, self.feed_forward_norm = norm(), norm(), norm()
        self.self_out_norm, self.cross_out_norm = self.out_norm(norm), self.out_norm(norm)
        self.feed_forward_out_norm = self.out_norm(norm)

    def forward(self, target: VectorSet, memory: VectorSet) -> VectorSet:
        """Map the target ``(B, N, D)`` to ``(B, N, D)``, given the memory ``(B, M, Dm)``."""

        def to_memory(x: Tensor) -> Tensor:
            return self.cross_attention(target.replace(x=x), memory).x

        return self._layer(target, self._to_itself(target), to_memory)

    def advance(self, step: VectorSet, earlier: KeyValue, memory: KeyValue) -> tuple[VectorSet, KeyValue]:
        """Map the next vectors ``(B, n, D)``, and return the keys and values up to them."""
        grown, causal = earlier, Causal() if step.num_vectors > 1 else Full()  # all that is earlier may be seen by one

        def to_earlier(x: Tensor) -> Tensor:
            nonlocal grown
            query = step.replace(x=x)
            grown = earlier.append(self.self_attention.keys_and_values(query))
            return self.self_attention.read(query, grown, structure=causal).x

        def to_memory(x: Tensor) -> Tensor:
            query = _shared(step.replace(x=x), memory.key.shape[0])
            return self.cross_attention.read(query, memory).x.reshape(x.shape)

        output = self._layer(step, to_earlier, to_memory)
        return output, grown

    def _to_itself(self, target: VectorSet) -> Callable[[Tensor], Tensor]:
        return lambda x: self.self_attention(target.replace(x=x), structure=Causal()).x

    def _layer(
        self, target: VectorSet, to_itself: Callable[[Tensor], Tensor], to_memory: Callable[[Tensor], Tensor]
    ) -> VectorSet:
        mask = target.mask
        x = self.residual(target.x, to_itself, self.self_norm, self.self_out_norm, mask)
        x = self.residual(x, to_memory, self.cross_norm, self.cross_out_norm, mask)
        x = self.residual(x, self.feed_forward, self.feed_forward_norm, self.feed_forward_out_norm, mask)
        return target.replace(x=x)


def _shared(rows: VectorSet, samples: int) -> VectorSet:
    """Put the W rows in a row that share a sample of a memory into one set: ``(S W, n, D)`` becomes ``(S, W n, D)``."""
    if rows.x.shape[0] == samples:
        return rows
    x = rows.x.reshape(samples, -1, rows.x.shape[-1])
    mask = None if rows.mask is None else rows.mask.reshape(samples, -1)
    pos = None if rows.pos is None else rows.pos.expand(*rows.x.shape[:2], -1).reshape(samples, x.shape[1], -1)
    return VectorSet(x, mask, pos)

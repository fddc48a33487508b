"""The Transformer decoder, and what it remembers between two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

from vsattn.attention import MultiHeadAttention
from vsattn.attention.cache import KeyValue
from vsattn.decoders.base import Decoder
from vsattn.decoders.block import DecoderBlock
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers import FeedForward, LayerNorm, Norm, NormPlacement
from vsattn.structure import Full
from vsattn.vectorset import VectorSet


@dataclass(frozen=True, eq=False)
class DecoderState:
    """Keys and values of each layer: of the vectors decoded so far, and of the memory, which W rows in a row share."""

    earlier: tuple[KeyValue, ...]
    memory: tuple[KeyValue, ...]

    @property
    def length(self) -> int:
        """How many vectors were decoded so far."""
        return self.earlier[0].key.shape[2]

    @property
    def batch(self) -> int:
        """B, how many sequences are decoded side by side."""
        return self.earlier[0].key.shape[0]

    def select(self, rows: Tensor) -> DecoderState:
        """Take rows ``(n,)``, in this order and as often as named; ``(n, W)`` shares one memory in each line."""
        return DecoderState(
            tuple(layer.select(rows.flatten()) for layer in self.earlier),
            tuple(layer.of_rows(rows, self.batch) for layer in self.memory),
        )


class TransformerDecoder(Decoder):
    """A stack of decoder layers (Vaswani et al. 2017, section 3.1), pre-norm unless told otherwise.

    The decoder owns `Causal`, by position: the target is a sequence, or has positions. What ``attention`` says of
    structure, relation and rotary goes for self-attention; attention to the memory is by the memory's mask alone.

    Args:
        dim: D.
        num_layers: how many layers.
        num_heads: heads of each attention.
        memory_dim: width of the memory; None is ``dim``.
        attention: class or partial, called with ``(dim, num_heads)``; for the memory with ``key_dim`` too, and without
            structure, relation and rotary.
        feed_forward: class or partial, called with ``(dim)``.
        norm: class or partial, called with ``(dim)``.
        norm_placement: ``"pre"``, ``"sandwich"`` (both with one more norm at the end) or ``"post"``.
        dropout: on the residual branches and on the input.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        memory_dim: int | None = None,
        attention: Callable[..., MultiHeadAttention] = MultiHeadAttention,
        feed_forward: Callable[..., FeedForward] = FeedForward,
        norm: Callable[..., Norm] = LayerNorm,
        norm_placement: NormPlacement = "pre",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ConfigError(f"TransformerDecoder.num_layers is at least 1, not {num_layers}")
        cross: dict[str, Any] = {"key_dim": memory_dim, "structure": Full(), "relation": None, "rotary": None}
        self.dim, self.dropout = dim, nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            DecoderBlock(
                attention(dim, num_heads),
                attention(dim, num_heads, **cross),
                feed_forward(dim),
                norm=partial(norm, dim),
                norm_placement=norm_placement,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm = None if norm_placement == "post" else norm(dim)

    def forward(self, target: VectorSet, memory: VectorSet) -> VectorSet:
        """Map the target ``(B, N, D)`` to ``(B, N, D)``, given the memory ``(B, M, memory_dim)``.

        Raises:
            ShapeError: for a target without positions or with prefix vectors, or when batch sizes or widths do not fit.
        """
        target = target.replace(x=self.dropout(target.x))
        for block in self._layers():
            target = block(target, memory)
        return self._normed(target)

    def start(self, memory: VectorSet) -> DecoderState:
        """Project the memory ``(B, M, memory_dim)`` for every layer, once."""
        if memory.mask is not None and bool(memory.mask.all()):
            memory = memory.replace(mask=None)  # no mask is quicker than one that lets all through
        nothing = VectorSet(memory.x.new_zeros(memory.x.shape[0], 0, self.dim), layout="sequence")
        return DecoderState(
            tuple(block.self_attention.keys_and_values(nothing) for block in self._layers()),
            tuple(block.cross_attention.keys_and_values(memory).contiguous() for block in self._layers()),
        )

    def advance(self, step: VectorSet, state: DecoderState) -> tuple[VectorSet, DecoderState]:
        """Map the next vectors ``(B, n, D)`` to ``(B, n, D)``, as :meth:`forward` would behind the earlier ones.

        Args:
            step: a sequence without ``pos`` stands right behind what was decoded, at ``state.length`` and on; other
                positions are given by ``pos``. Nothing that was decoded sees it, so its positions come later.
            state: of :meth:`start` or of the step before.

        Raises:
            ShapeError: for a step that has a structure of its own, no positions or prefix vectors, or that does not
                fit the state.
        """
        if not isinstance(step.structure, Full) or step.num_prefix:
            name = type(step.structure).__name__
            raise ShapeError(
                f"a step has no prefix vectors and no structure of its own; this one has {step.num_prefix} and {name}: "
                "decode it by forward(target, memory)"
            )
        if step.x.shape[0] != state.batch:
            raise ShapeError(
                f"a step of {step.x.shape[0]} samples does not go on from a state of {state.batch}; "
                "state.select(rows) takes samples"
            )
        if step.pos is None and step.layout == "sequence":
            place = torch.arange(state.length, state.length + step.num_vectors, device=step.x.device)
            step = step.replace(pos=place[None, :, None], layout="sequence")
        step = step.replace(x=self.dropout(step.x))
        earlier = []
        for block, own, memory in zip(self._layers(), state.earlier, state.memory, strict=True):
            step, grown = block.advance(step, own, memory)
            earlier.append(grown)
        return self._normed(step), DecoderState(tuple(earlier), state.memory)

    def _layers(self) -> Iterable[DecoderBlock]:
        return cast("Iterable[DecoderBlock]", self.blocks)

    def _normed(self, vectors: VectorSet) -> VectorSet:
        return vectors if self.norm is None else vectors.replace(x=self.norm(vectors.x, vectors.mask))


register_pytree_node(
    DecoderState,
    lambda state: ([state.earlier, state.memory], None),
    lambda values, _: DecoderState(*values),
    serialized_type_name="vsattn.DecoderState",
)

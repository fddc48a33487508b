"""Answers while the input still comes: windowed attention over chunks, equal to attending to the whole at once.

A layer whose attention sees ``left`` vectors back and ``right`` ahead keeps the keys and values of the former and waits
for the latter. Without a limit to the left, what is kept grows with the stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vsattn.attention import MultiHeadAttention
from vsattn.attention.cache import KeyValue
from vsattn.encoders import TransformerEncoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers import TransformerBlock
from vsattn.positions import Positions
from vsattn.structure import Causal, Window
from vsattn.vectorset import VectorSet

#: However many vectors are pushed at once, they are attended to in pieces of this many, or the window if it is longer.
MIN_PIECE = 64


class Streaming:
    """A Transformer encoder over chunks of sequences: what it returns equals the encoder on the whole, to rounding.

    The sequences of a batch are equally long. After :meth:`finish` others can begin.

    Args:
        encoder: in evaluation mode; each layer sees a limited number of vectors ahead (`Window` with ``right``, or
            `Causal`). A layer without a limit to the left keeps the keys and values of all that came before.
        positions: added to what is pushed, counted on from chunk to chunk; None adds nothing.

    Raises:
        ConfigError: for an encoder that cannot stream, with what to change.
    """

    _batch: int | None

    def __init__(self, encoder: nn.Module, *, positions: Positions | None = None) -> None:
        if not isinstance(encoder, TransformerEncoder):
            raise ConfigError(f"a stream needs encoder=transformer; {type(encoder).__name__} is no TransformerEncoder")
        if encoder.prefix is not None:
            raise ConfigError("prefix vectors see the whole sequence, so they cannot stream: use encoder.num_prefix=0")
        require_eval(encoder)
        self.encoder, self.positions = encoder, positions
        self._layers = [_Layer(block, f"layer {i + 1}") for i, block in enumerate(encoder.blocks)]
        self._begin()

    @property
    def look_ahead(self) -> int:
        """How many vectors must follow before one is final: the sum over the layers."""
        return sum(layer.right for layer in self._layers)

    @property
    def held(self) -> list[tuple[int, int]]:
        """How many vectors wait in each layer, and of how many it keeps keys and values."""
        return [(layer.num_waiting, layer.num_kept) for layer in self._layers]

    @torch.no_grad()
    def push(self, vectors: Tensor) -> VectorSet:
        """Take the next vectors ``(B, n, D)`` and return those that are final now, ``(B, m, D)`` with their ``pos``.

        Raises:
            ShapeError: for another B or D than before, or a position beyond those that were learned.
            ConfigError: when the encoder was set to training meanwhile.
        """
        require_eval(self.encoder)
        width = self._layers[0].attention.embed_dim
        if vectors.ndim != 3 or vectors.shape[-1] != width or self._batch not in (None, len(vectors)):
            batch = "B" if self._batch is None else self._batch
            raise ShapeError(f"this stream takes vectors ({batch}, n, {width}), not {tuple(vectors.shape)}")
        self._batch = len(vectors)
        piece = max(MIN_PIECE, *((layer.left or 0) + layer.right for layer in self._layers))
        return self._final(torch.cat([self._advance(part) for part in vectors.split(piece, 1)], 1))

    @torch.no_grad()
    def finish(self) -> VectorSet:
        """Return the vectors that still waited, ``(B, m, D)``, since nothing follows them; then begin anew.

        Raises:
            ShapeError: when nothing was pushed since the last time.
        """
        if self._batch is None:
            raise ShapeError("nothing was pushed, so there is nothing to finish; push (B, 0, D) for an empty sequence")
        x = self._layers[0].waiting[:, :0]
        for layer in self._layers:
            x = layer.advance(x, ends=True)
        final = self._final(x)
        self._begin()
        return final

    def _advance(self, x: Tensor) -> Tensor:
        if self.positions is not None:
            x = self.positions(_placed(x, self._pushed)).x
        self._pushed += x.shape[1]
        for layer in self._layers:
            x = layer.advance(x)
        return x

    def _final(self, x: Tensor) -> VectorSet:
        final = _placed(x if self.encoder.norm is None else self.encoder.norm(x, None), self._returned)
        self._returned += x.shape[1]
        return final

    def _begin(self) -> None:
        self._batch, self._pushed, self._returned = None, 0, 0
        for layer in self._layers:
            layer.begin()


class _Layer:
    """One block: the inputs that wait for what they may see ahead, and keys and values that are seen behind."""

    waiting: Tensor
    cache: KeyValue

    def __init__(self, block: nn.Module, name: str) -> None:
        attention = getattr(block, "attention", None)
        if not isinstance(block, TransformerBlock) or not isinstance(attention, MultiHeadAttention):
            raise ConfigError(f"{name} is no TransformerBlock of MultiHeadAttention, so it cannot stream")
        left, right = attention.structure.reach()
        if right is None or not all(isinstance(leaf, (Causal, Window)) for leaf in attention.structure.leaves()):
            raise ConfigError(
                f"{name} attends by {attention.structure}, which sets no limit ahead by positions: only Window(left, "
                "right) and Causal stream; train with structure=window"
            )
        self.block, self.attention, self.left, self.right = block, attention, left, right

    def begin(self) -> None:
        """Forget everything."""
        self.num_in = self.num_waiting = self.num_kept = 0

    def advance(self, x: Tensor, *, ends: bool = False) -> Tensor:
        """Take the next inputs ``(B, n, D)``; return the outputs ``(B, m, D)`` that nothing later changes."""
        block, attention = self.block, self.attention
        if not (x.shape[1] or ends) and self.num_in:
            return x
        keys = x if block.norm_placement == "post" else block.attention_norm(x, None)
        found = attention.keys_and_values(_placed(keys, self.num_in))
        self.cache = self.cache.append(found) if self.num_kept else found
        self.waiting = torch.cat([self.waiting, x], 1) if self.num_waiting else x
        self.num_in += x.shape[1]
        ready = self.waiting.shape[1] if ends else max(0, self.waiting.shape[1] - self.right)
        x, self.waiting = self.waiting[:, :ready], self.waiting[:, ready:].clone()  # not a view of a long chunk
        self.num_waiting, first = self.waiting.shape[1], self.num_in - self.waiting.shape[1] - ready

        def attend(queries: Tensor) -> Tensor:
            return attention.read(_placed(queries, first), self.cache).x

        if ready:
            x = block.residual(x, attend, block.attention_norm, block.attention_out_norm, None)
            x = block.residual(x, block.feed_forward, block.feed_forward_norm, block.feed_forward_out_norm, None)
        if self.left is not None:
            self.cache = _last(self.cache, self.left + self.num_waiting)
        self.num_kept = self.cache.key.shape[2]
        return x


def _placed(x: Tensor, first: int) -> VectorSet:
    """Return vectors ``(B, n, D)`` that stand at ``first`` and on."""
    return VectorSet(x, pos=torch.arange(first, first + x.shape[1], device=x.device)[None, :, None])


def _last(cache: KeyValue, count: int) -> KeyValue:
    """Return the keys and values of the last ``count`` vectors."""
    start, kept = max(0, cache.key.shape[2] - count), cache.key_set
    key_set = VectorSet(kept.x[:, start:], pos=kept.positions()[:, start:])
    return KeyValue(cache.key[:, :, start:], cache.value[:, :, start:], key_set)


def require_eval(module: nn.Module) -> None:
    """Raise ConfigError unless every part of a module is in evaluation mode."""
    if any(part.training for part in module.modules()):
        raise ConfigError("a stream needs a model in evaluation mode (dropout and batch norms): call .eval() first")

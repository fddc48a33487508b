"""Answers while the input still comes: windowed attention over chunks, equal to attending to the whole at once.

A layer whose attention sees ``left`` vectors back and ``right`` ahead keeps the keys and values of the former and waits
for the latter, as does a convolution for its kernel. Without a limit to the left, what is kept grows with the stream.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.attention import MultiHeadAttention
from vsattn.attention.cache import KeyValue
from vsattn.encoders import TransformerEncoder
from vsattn.errors import ConfigError, DataError, ShapeError
from vsattn.heads import VectorHead
from vsattn.layers import TransformerBlock
from vsattn.model import Model
from vsattn.positions import Positions
from vsattn.structure import Causal, Window
from vsattn.tokenizers.audio import AudioFrames, FrameEmbedder
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.waveforms import to_waveform
from vsattn.vectorset import VectorSet

#: However many vectors are pushed at once, they are attended to in pieces of this many, or the window if it is longer.
MIN_PIECE = 64

#: Samples become frames so many frames at a time.
FRAMES_AT_ONCE = 256


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
        _require_eval(encoder)
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
        _require_eval(self.encoder)
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


class StreamingAudio:
    """A whole model over chunks of sound, samples in and logits out.

    To rounding, the logits are those that :meth:`vsattn.Predictor.logits` gives for the whole recording. With a head
    for CTC, :class:`vsattn.ctc.Greedy` makes labels of them. After :meth:`finish` another recording can begin.

    Args:
        model: in evaluation mode, with a head that answers per vector and an encoder that streams.
        tokenizer: fitted `AudioFrames`, ``normalise="global"`` or ``"none"``.

    Raises:
        ConfigError: for a model or tokenizer that cannot stream, with what to change.
    """

    _samples: Tensor
    _framed: bool

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        if not isinstance(tokenizer, AudioFrames) or not isinstance(model.embedder, FrameEmbedder):
            raise ConfigError(f"sound is streamed by AudioFrames, not by {type(tokenizer).__name__}")
        if tokenizer.normalise == "utterance":
            raise ConfigError("the mean of a whole recording is not known in a stream: use tokenizer.normalise=global")
        if tokenizer.hop > tokenizer.window:
            raise ConfigError("streaming needs windows that touch: tokenizer.hop is at most tokenizer.window")
        if not isinstance(model.head, VectorHead):
            raise ConfigError(f"{type(model.head).__name__} answers once at the end: use head=vector or head=ctc")
        _require_eval(model)
        self.model, self.tokenizer = model, tokenizer
        self.encoder = Streaming(model.encoder, positions=model.positions)
        self._stem = [_Convolution(layer) for layer in model.embedder.convolutions if isinstance(layer, nn.Conv1d)]
        self._begin()

    @property
    def look_ahead(self) -> float:
        """How long after the middle of a vector's window its answer is known, in seconds."""
        frames = self.encoder.look_ahead
        for stride in reversed(self.tokenizer.strides):
            frames = frames * stride + stride  # a kernel of 2 s + 1 sees s ahead
        return (frames * self.tokenizer.hop + self.tokenizer.window / 2) / self.tokenizer.sample_rate

    def push(self, samples: Any) -> Tensor:
        """Take the next samples ``(n,)`` of one channel, at the tokenizer's rate; return what is final, ``(m, C)``.

        Raises:
            DataError: for samples of another shape, or with NaN or infinity among them.
        """
        chunk = torch.as_tensor(samples)
        if chunk.ndim != 1:
            raise DataError(f"a stream takes samples (n,) of one channel, not {tuple(chunk.shape)}")
        if len(chunk):
            chunk = to_waveform(chunk, self.tokenizer.sample_rate, "a chunk")
        return torch.cat([self._advance(piece) for piece in chunk.split(FRAMES_AT_ONCE * self.tokenizer.hop)])

    def finish(self) -> Tensor:
        """Return the logits ``(m, C)`` that still waited, since nothing follows; then begin anew.

        Raises:
            DataError: when there was no sample.
        """
        if not (self._framed or len(self._samples)):
            raise DataError("a stream needs at least one sample before it can finish")
        last = self._advance(torch.zeros(0), ends=True)
        self._begin()
        return last

    @torch.no_grad()
    def _advance(self, samples: Tensor, *, ends: bool = False) -> Tensor:
        x = self._frames(samples, ends).to(next(self.model.parameters()))
        if self._stem:
            x = x.T[None]  # (1, F, T)
            for convolution in self._stem:
                x = convolution.advance(x, ends=ends)
            x = x[0].T
        else:
            x = self.model.embedder.project(x)  # type: ignore[operator, union-attr]
        logits = [self.model.head(self.encoder.push(x[None]))]
        if ends:
            logits.append(self.model.head(self.encoder.finish()))
        return torch.cat(logits, 1)[0].float().cpu()

    def _frames(self, samples: Tensor, ends: bool) -> Tensor:
        """Return the next frames ``(T, F)``; as for whole recordings, one that never fills a window is padded to it."""
        tokenizer = self.tokenizer
        self._samples = torch.cat([self._samples, samples])
        if len(self._samples) < tokenizer.window and not (ends and not self._framed):
            return torch.zeros(0, tokenizer.num_features)
        count = tokenizer.num_frames(len(self._samples))
        frames = tokenizer.frames(self._samples[: (count - 1) * tokenizer.hop + tokenizer.window])
        self._samples, self._framed = self._samples[count * tokenizer.hop :], True
        return frames

    def _begin(self) -> None:
        self._samples, self._framed = torch.zeros(0), False
        for convolution in self._stem:
            convolution.begin()


class _Convolution:
    """A padded convolution of the stem, with GELU, over chunks: keeps the inputs that later outputs still see."""

    def __init__(self, layer: nn.Conv1d) -> None:
        self.layer, self.size, self.stride = layer, layer.kernel_size[0], layer.stride[0]
        self.padding = int(layer.padding[0])
        self.begin()

    def begin(self) -> None:
        """Forget everything; before the start are zeros."""
        self.kept = torch.zeros(1, self.layer.in_channels, self.padding)

    def advance(self, x: Tensor, *, ends: bool = False) -> Tensor:
        """Map the next ``(1, C, n)`` to what is final now, ``(1, D, m)``."""
        x = F.pad(torch.cat([self.kept.to(x), x], 2), (0, self.padding if ends else 0))
        count = max(0, (x.shape[2] - self.size) // self.stride + 1)
        self.kept = x[:, :, count * self.stride :]
        if not count:
            return x.new_zeros(1, self.layer.out_channels, 0)
        return F.gelu(F.conv1d(x, self.layer.weight, self.layer.bias, self.stride))


def _placed(x: Tensor, first: int) -> VectorSet:
    """Return vectors ``(B, n, D)`` that stand at ``first`` and on."""
    return VectorSet(x, pos=torch.arange(first, first + x.shape[1], device=x.device)[None, :, None])


def _last(cache: KeyValue, count: int) -> KeyValue:
    """Return the keys and values of the last ``count`` vectors."""
    start, kept = max(0, cache.key.shape[2] - count), cache.key_set
    key_set = VectorSet(kept.x[:, start:], pos=kept.positions()[:, start:])
    return KeyValue(cache.key[:, :, start:], cache.value[:, :, start:], key_set)


def _require_eval(module: nn.Module) -> None:
    if any(part.training for part in module.modules()):
        raise ConfigError("a stream needs a model in evaluation mode (dropout and batch norms): call .eval() first")

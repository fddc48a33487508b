"""Answers while the sound still comes: frames, the stem and the encoder over chunks, equal to the whole at once.

Each stage keeps what its later outputs still see: samples of a window, inputs of a kernel, and what
:class:`vsattn.streaming.Streaming` keeps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn.errors import ConfigError, DataError
from vsattn.heads import VectorHead
from vsattn.model import Model
from vsattn.streaming import Streaming, require_eval
from vsattn.tokenizers.audio import AudioFrames
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.frame_stem import FrameEmbedder
from vsattn.tokenizers.waveforms import to_waveform

#: Samples become frames so many frames at a time.
FRAMES_AT_ONCE = 256


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
        if tokenizer.normalise in ("utterance", "peak"):
            raise ConfigError("the level of a whole recording is not known in a stream: use tokenizer.normalise=global")
        if tokenizer.trim is not None:
            raise ConfigError("where a stream will end is not known: use tokenizer.trim=null")
        if tokenizer.hop > tokenizer.window:
            raise ConfigError("streaming needs windows that touch: tokenizer.hop is at most tokenizer.window")
        if not isinstance(model.head, VectorHead):
            raise ConfigError(f"{type(model.head).__name__} answers once at the end: use head=vector or head=ctc")
        require_eval(model)
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

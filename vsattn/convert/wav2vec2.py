"""From ``torchaudio``: wav2vec 2.0 and HuBERT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.models import Wav2Vec2Model
from torchaudio.models.wav2vec2 import components as peers

from vsattn.convert import parts
from vsattn.convert.transfer import Transfer
from vsattn.encoders import Encoder
from vsattn.layers import LayerNorm
from vsattn.positions import Positions
from vsattn.vectorset import VectorSet


class WaveEmbedder(nn.Module):
    """Waveforms to a sequence of feature vectors: convolutions over time, then a projection.

    Args:
        extractor: maps waveforms and lengths ``(B, T), (B,)`` to features and lengths ``(B, N, C), (B,)``.
        project: maps ``(B, N, C)`` to ``(B, N, D)``.
    """

    def __init__(self, extractor: nn.Module, project: nn.Module) -> None:
        super().__init__()
        self.extractor, self.project = extractor, project

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> VectorSet:
        """Map waveforms ``(B, T)`` of ``lengths (B,)`` samples to vectors ``(B, N, D)``."""
        features, counts = self.extractor(waveforms, lengths)
        place = torch.arange(features.shape[1], device=features.device)
        mask = None if counts is None else place < counts[:, None]
        return VectorSet(self.project(features), mask, layout="sequence")


class ConvPositions(Positions):
    """What a convolution sees around each vector tells it where it stands (Baevski et al. 2020, section 2)."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.convolution = convolution

    def encode(self, vector_set: VectorSet) -> Tensor:
        return self.convolution(vector_set.x)


class LayerDrop(nn.Module):
    """Skip a layer for the whole batch with probability p, in training (Fan et al. 2020, section 3.1)."""

    def __init__(self, layer: nn.Module, p: float) -> None:
        super().__init__()
        self.layer, self.p = layer, p

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)``."""
        return vector_set if self.training and torch.rand((), device="cpu") <= self.p else self.layer(vector_set)


class Wav2Vec2(nn.Module):
    """Waveforms to contextual vectors, or to logits: embedder, positions, norm, encoder, head.

    Args:
        embedder: maps waveforms and lengths to a set.
        positions: added to it.
        norm: after that, or None.
        encoder: maps a set to a set.
        head: maps each vector to logits, or None.
    """

    def __init__(
        self,
        embedder: WaveEmbedder,
        positions: Positions,
        norm: LayerNorm | None,
        encoder: Encoder,
        head: nn.Linear | None,
    ) -> None:
        super().__init__()
        self.embedder, self.positions, self.norm, self.encoder, self.head = embedder, positions, norm, encoder, head

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> VectorSet:
        """Map waveforms ``(B, T)`` of ``lengths (B,)`` samples to ``(B, N, D)``, with a mask if there are lengths."""
        vectors = self.positions(self.embedder(waveforms, lengths))
        vectors = vectors if self.norm is None else vectors.replace(x=self.norm(vectors.x))
        vectors = self.encoder(vectors)
        return vectors if self.head is None else vectors.replace(x=self.head(vectors.x))


def from_wav2vec2(peer: Wav2Vec2Model) -> Wav2Vec2:
    """Take over a ``torchaudio.models.Wav2Vec2Model`` (wav2vec 2.0 or HuBERT, base or large, with or without ``aux``).

    The convolutions, those of the positions too, are the peer's own, copied; the Transformer is ours::

        ours = from_wav2vec2(torchaudio.pipelines.WAV2VEC2_BASE.get_model())
        features = ours(waveforms, lengths)  # features.x is (B, N, 768), features.mask (B, N)

    Real vectors equal the peer's; padded ones are 0, where the peer leaves what came out. With a group norm (base)
    the peer's extractor looks at padding too, so pad with zeros as it asks.

    Raises:
        ConfigError: for WavLM's attention, whose positions are gated, and branches of different dropout.

    Source: Baevski et al. 2020, "wav2vec 2.0", section 2.
    """
    with Transfer(peer, Wav2Vec2Model) as transfer:
        theirs: Any = peer
        transfer.require(theirs.encoder, peers.Encoder)
        transformer = theirs.encoder.transformer
        transfer.require(transformer, peers.Transformer)
        norm, first = parts.layer_norm(transfer, transformer.layer_norm), transformer.layer_norm_first
        encoder = parts.encoder(
            [_layer(transfer, layer, transformer.layer_drop) for layer in transformer.layers],
            norm=None if first else norm,
            dropout=transformer.dropout.p,
        )
        ours = Wav2Vec2(
            WaveEmbedder(transfer.keep(theirs.feature_extractor), transfer.keep(theirs.encoder.feature_projection)),
            ConvPositions(transfer.keep(transformer.pos_conv_embed)),
            norm if first else None,
            encoder,
            None if theirs.aux is None else transfer.keep(theirs.aux),
        )
        return transfer.finish(ours)


def _layer(transfer: Transfer, peer: Any, layer_drop: float) -> nn.Module:
    transfer.require(peer, peers.EncoderLayer)
    transfer.require(peer.attention, peers.SelfAttention)
    transfer.require(peer.feed_forward, peers.FeedForward)
    own, wide = peer.attention, peer.feed_forward
    ours = parts.block(
        parts.attention(transfer, own.num_heads, own.q_proj, own.k_proj, own.v_proj, own.out_proj, dropout=own.dropout),
        parts.feed_forward(transfer, wide.intermediate_dense, wide.output_dense, "gelu", wide.intermediate_dropout.p),
        (parts.layer_norm(transfer, peer.layer_norm), parts.layer_norm(transfer, peer.final_layer_norm)),
        is_pre_norm=peer.layer_norm_first,
        dropout=parts.same_dropout(transfer, peer, peer.dropout.p, wide.output_dropout.p),
    )
    return LayerDrop(ours, layer_drop) if layer_drop else ours

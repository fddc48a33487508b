"""Encoders: the Transformer, and the baselines that stand behind the same face."""

from vsattn.encoders.base import Encoder
from vsattn.encoders.convolution import ConvEncoder
from vsattn.encoders.transformer import TransformerEncoder

__all__ = ["ConvEncoder", "Encoder", "TransformerEncoder"]

"""Encoders: the Transformer, its kin that are linear in N, and the baselines that stand behind the same face."""

from vsattn.encoders.base import Encoder
from vsattn.encoders.convolution import ConvEncoder
from vsattn.encoders.induced import InducedEncoder
from vsattn.encoders.latent import LatentEncoder
from vsattn.encoders.transformer import TransformerEncoder

__all__ = ["ConvEncoder", "Encoder", "InducedEncoder", "LatentEncoder", "TransformerEncoder"]

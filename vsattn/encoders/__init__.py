"""Encoders: the Transformer, its kin that are linear in N, and the baselines that stand behind the same face."""

from vsattn.encoders.base import Encoder
from vsattn.encoders.convolution import ConvEncoder
from vsattn.encoders.diffusion import DiffusionEncoder
from vsattn.encoders.identity import Identity
from vsattn.encoders.induced import InducedEncoder
from vsattn.encoders.latent import LatentEncoder
from vsattn.encoders.recurrent import RecurrentEncoder
from vsattn.encoders.transformer import TransformerEncoder
from vsattn.encoders.window_mlp import WindowMLP

__all__ = [
    "ConvEncoder",
    "DiffusionEncoder",
    "Encoder",
    "Identity",
    "InducedEncoder",
    "LatentEncoder",
    "RecurrentEncoder",
    "TransformerEncoder",
    "WindowMLP",
]

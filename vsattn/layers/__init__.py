"""The layers around attention: norms, feed-forward, drop path, and the Transformer block that joins them."""

from vsattn.layers.block import TransformerBlock
from vsattn.layers.drop_path import DropPath, drop_path_rates
from vsattn.layers.feedforward import FeedForward
from vsattn.layers.norms import BatchNorm, LayerNorm, Norm, RMSNorm
from vsattn.layers.residual import NormPlacement, ResidualBlock

__all__ = [
    "BatchNorm",
    "DropPath",
    "FeedForward",
    "LayerNorm",
    "Norm",
    "NormPlacement",
    "RMSNorm",
    "ResidualBlock",
    "TransformerBlock",
    "drop_path_rates",
]

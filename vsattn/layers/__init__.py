"""The layers around attention: norms, feed-forward, drop path, and the Transformer block that joins them."""

from vsattn.layers.block import TransformerBlock
from vsattn.layers.drop_path import DropPath
from vsattn.layers.feedforward import FeedForward
from vsattn.layers.norms import BatchNorm, LayerNorm, Norm, RMSNorm

__all__ = ["BatchNorm", "DropPath", "FeedForward", "LayerNorm", "Norm", "RMSNorm", "TransformerBlock"]

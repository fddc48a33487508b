"""The Perceiver: a few latent vectors read the set, think, and are read by it again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from vsattn.attention import MultiHeadAttention
from vsattn.encoders.base import Encoder, refuse_structure
from vsattn.encoders.induced import AttentionBlock, beside, learned_vectors
from vsattn.errors import ConfigError
from vsattn.layers import FeedForward, LayerNorm, Norm, TransformerBlock, drop_path_rates
from vsattn.vectorset import VectorSet


class LatentEncoder(Encoder):
    """Encode to M latents, self-attention among them, decode to the N vectors, pre-norm throughout; linear in N.

    ``Z_0 = block(latents, X)``, ``Z_l = layer_l(Z_{l-1})``, ``output = block(X, Z_L)``: encode, process and decode of
    Perceiver IO (Jaegle et al. 2022, sections 3.1 and 3.2; the Perceiver, 2021, is the first two). What queries the
    latents at the end is the input itself, so that each vector gets an answer.

    Args:
        dim: D.
        num_layers: L, self-attention layers among the latents.
        num_heads: heads of each attention.
        num_latents: M.
        latent_dim: width of the latents; None is ``dim``.
        attention: class or partial, called with ``(width, num_heads)``, to encode and decode with ``key_dim`` too;
            without relation, rotary and structure.
        feed_forward: class or partial, called with a width.
        norm: class or partial, called with a width.
        dropout: on the residual branches and on the input.
        drop_path: of the last layer among the latents; it grows linearly from 0 at the first.
    """

    def __init__(
        self,
        dim: int,
        num_layers: int,
        num_heads: int,
        *,
        num_latents: int = 32,
        latent_dim: int | None = None,
        attention: Callable[..., MultiHeadAttention] = MultiHeadAttention,
        feed_forward: Callable[..., FeedForward] = FeedForward,
        norm: Callable[..., Norm] = LayerNorm,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ConfigError(f"LatentEncoder.num_layers is at least 1, not {num_layers}")
        latent_dim = dim if latent_dim is None else latent_dim

        def block(width: int, key_dim: int) -> AttentionBlock:
            attend = attention(width, num_heads, key_dim=key_dim)
            return AttentionBlock(attend, feed_forward(width), norm=norm, norm_placement="pre", dropout=dropout)

        self.dropout = nn.Dropout(dropout)
        self.latents = learned_vectors(num_latents, latent_dim)
        self.encode, self.decode = block(latent_dim, dim), block(dim, latent_dim)
        self.process = nn.ModuleList(
            TransformerBlock(
                attention(latent_dim, num_heads),
                feed_forward(latent_dim),
                norm=partial(norm, latent_dim),
                dropout=dropout,
                drop_path=rate,
            )
            for rate in drop_path_rates(drop_path, num_layers)
        )
        self.norm = norm(dim)

    def forward(self, vector_set: VectorSet) -> VectorSet:
        """Map ``(B, N, D)`` to ``(B, N, D)`` in ``2 B N M`` comparisons; prefix vectors are vectors like the others.

        Raises:
            ShapeError: for a set that has a structure of its own.
        """
        refuse_structure(vector_set, self)
        vector_set = vector_set.replace(x=self.dropout(vector_set.x))
        latents = self.encode(beside(vector_set, self.latents), vector_set)  # (B, M, latent_dim)
        for layer in self.process:
            latents = layer(latents)
        output = self.decode(vector_set, latents)
        return output.replace(x=self.norm(output.x, output.mask))

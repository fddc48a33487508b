"""From ``torch.nn``: MultiheadAttention and the Transformer.

Ours take batches first, ``(B, N, D)``, whatever the peer's ``batch_first`` says, and masks in which True means real.
Where a query may attend to nothing, ``torch.nn`` gives NaN and ours the bias of the output projection.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from vsattn.attention import MultiHeadAttention
from vsattn.convert import parts
from vsattn.convert.transfer import Transfer
from vsattn.decoders import DecoderBlock, TransformerDecoder
from vsattn.encoders import TransformerEncoder
from vsattn.layers import FeedForward, LayerNorm


def from_multihead_attention(peer: nn.MultiheadAttention) -> MultiHeadAttention:
    """Take over a ``torch.nn.MultiheadAttention``, with ``kdim``, ``vdim`` and ``bias`` as they are.

    ``key_padding_mask=m`` becomes ``VectorSet(key, ~m)``, ``attn_mask=m`` ``structure=Dense(~m)``::

        ours = from_multihead_attention(torch.nn.MultiheadAttention(8, 2, batch_first=True))
        output = ours(VectorSet(torch.randn(3, 5, 8), mask)).x  # (3, 5, 8)

    Raises:
        ConfigError: for ``add_bias_kv`` and ``add_zero_attn``, which add a key that no vector stands for.

    Source: Vaswani et al. 2017, section 3.2.2.
    """
    with Transfer(peer, nn.MultiheadAttention) as transfer:
        return transfer.finish(multihead_attention(transfer, peer))


def from_transformer_encoder(peer: nn.TransformerEncoder | nn.TransformerEncoderLayer) -> TransformerEncoder:
    """Take over a ``torch.nn.TransformerEncoder``, or one layer as an encoder of one.

    ``src_key_padding_mask=m`` becomes ``VectorSet(x, ~m)``; a causal ``mask`` the set's ``structure=Causal()``, with
    ``layout="sequence"``, any other ``structure=Dense(~mask)``::

        peer = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, norm_first=True), num_layers=2)
        encoded = from_transformer_encoder(peer)(VectorSet(torch.randn(3, 5, 8), mask))  # encoded.x is (3, 5, 8)

    Raises:
        ConfigError: for an activation other than relu and gelu, a norm other than LayerNorm, or branches of different
            dropout.

    Source: Vaswani et al. 2017, section 3.1; with ``norm_first`` Xiong et al. 2020, figure 1.
    """
    with Transfer(peer, nn.TransformerEncoder, nn.TransformerEncoderLayer) as transfer:
        return transfer.finish(_encoder(transfer, peer))


def from_transformer_decoder(peer: nn.TransformerDecoder) -> TransformerDecoder:
    """Take over a ``torch.nn.TransformerDecoder``.

    Ours is causal by itself, as the peer is with ``tgt_mask=Transformer.generate_square_subsequent_mask(N)``; the
    target is a sequence. ``tgt_key_padding_mask=m`` and ``memory_key_padding_mask=n`` become masks of the two sets::

        peer = torch.nn.TransformerDecoder(torch.nn.TransformerDecoderLayer(8, 2), num_layers=2)
        target = VectorSet(torch.randn(3, 5, 8), ~m, layout="sequence")
        decoded = from_transformer_decoder(peer)(target, VectorSet(torch.randn(3, 7, 8), ~n))  # decoded.x is (3, 5, 8)

    Raises:
        ConfigError: as :func:`from_transformer_encoder`.

    Source: Vaswani et al. 2017, section 3.1.
    """
    with Transfer(peer, nn.TransformerDecoder) as transfer:
        return transfer.finish(_decoder(transfer, peer))


def from_transformer(peer: nn.Transformer) -> tuple[TransformerEncoder, TransformerDecoder]:
    """Take over a ``torch.nn.Transformer`` as an encoder and a decoder::

        encoder, decoder = from_transformer(torch.nn.Transformer(8, 2, 2, 2, 16))
        decoded = decoder(target, encoder(source))

    Raises:
        ConfigError: as :func:`from_transformer_encoder`, and for a custom encoder or decoder.

    Source: Vaswani et al. 2017, section 3.1.
    """
    with Transfer(peer, nn.Transformer) as transfer:
        encoder, decoder = _encoder(transfer, peer.encoder), _decoder(transfer, peer.decoder)
        transfer.finish(nn.ModuleList([encoder, decoder]))
    return encoder, decoder


def multihead_attention(transfer: Transfer, peer: Any) -> MultiHeadAttention:
    """Return the attention that a ``torch.nn.MultiheadAttention`` of the peer's computes."""
    transfer.require(peer, nn.MultiheadAttention)
    transfer.refuse(peer, peer.bias_k is not None, "has add_bias_kv=True, and ours adds no key: build it without")
    transfer.refuse(peer, peer.add_zero_attn, "has add_zero_attn=True, and ours adds no key: build it without")
    ours = MultiHeadAttention(
        peer.embed_dim, peer.num_heads, key_dim=peer.kdim, value_dim=peer.vdim, dropout=peer.dropout
    )
    packed, separate = peer.in_proj_weight, (peer.q_proj_weight, peer.k_proj_weight, peer.v_proj_weight)
    weights = separate if packed is None else _thirds(transfer, packed)
    own = (ours.query_proj, ours.key_proj, ours.value_proj)
    for projection, weight, bias in zip(own, weights, _thirds(transfer, peer.in_proj_bias), strict=True):
        transfer.put(projection, "weight", weight)
        transfer.put(projection, "bias", bias)
    transfer.copy(ours.out_proj, peer.out_proj)
    return ours


def _thirds(transfer: Transfer, packed: Tensor | None) -> tuple[Tensor | None, ...]:
    transfer.read(packed)
    return (None, None, None) if packed is None else packed.chunk(3)


def _encoder(transfer: Transfer, peer: Any) -> TransformerEncoder:
    transfer.require(peer, nn.TransformerEncoder, nn.TransformerEncoderLayer)
    if isinstance(peer, nn.TransformerEncoderLayer):
        return parts.encoder([_encoder_layer(transfer, peer)], norm=None)
    blocks = [_encoder_layer(transfer, layer) for layer in peer.layers]
    return parts.encoder(blocks, norm=None if peer.norm is None else parts.layer_norm(transfer, peer.norm))


def _decoder(transfer: Transfer, peer: Any) -> TransformerDecoder:
    transfer.require(peer, nn.TransformerDecoder)
    if not len(peer.layers):
        raise transfer.stop(peer, "has no layers")
    blocks = [_decoder_layer(transfer, layer) for layer in peer.layers]
    ours = TransformerDecoder(blocks[0].self_attention.embed_dim, 1, 1)
    ours.blocks, ours.norm = nn.ModuleList(blocks), None
    if peer.norm is not None:
        ours.norm = parts.layer_norm(transfer, peer.norm)
    return ours


def _encoder_layer(transfer: Transfer, peer: Any) -> nn.Module:
    transfer.require(peer, nn.TransformerEncoderLayer)
    return parts.block(
        multihead_attention(transfer, peer.self_attn),
        _feed_forward(transfer, peer),
        (parts.layer_norm(transfer, peer.norm1), parts.layer_norm(transfer, peer.norm2)),
        is_pre_norm=peer.norm_first,
        dropout=parts.same_dropout(transfer, peer, peer.dropout1.p, peer.dropout2.p),
    )


def _decoder_layer(transfer: Transfer, peer: Any) -> DecoderBlock:
    transfer.require(peer, nn.TransformerDecoderLayer)
    ours = DecoderBlock(
        multihead_attention(transfer, peer.self_attn),
        multihead_attention(transfer, peer.multihead_attn),
        _feed_forward(transfer, peer),
        norm=partial(LayerNorm, 1),
        norm_placement="pre" if peer.norm_first else "post",
        dropout=parts.same_dropout(transfer, peer, peer.dropout1.p, peer.dropout2.p, peer.dropout3.p),
    )
    ours.self_norm, ours.cross_norm = parts.layer_norm(transfer, peer.norm1), parts.layer_norm(transfer, peer.norm2)
    ours.feed_forward_norm = parts.layer_norm(transfer, peer.norm3)
    return ours


def _feed_forward(transfer: Transfer, peer: Any) -> FeedForward:
    activation = parts.activation_of(transfer, peer, peer.activation)
    return parts.feed_forward(transfer, peer.linear1, peer.linear2, activation, peer.dropout.p)

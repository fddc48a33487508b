"""Ours, with the weights of ``torch.nn``'s attention and Transformer, against them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from parity import Parity, compare, same_in_training, shaken
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from vsattn.convert import (
    from_multihead_attention,
    from_transformer,
    from_transformer_decoder,
    from_transformer_encoder,
)
from vsattn.errors import ConfigError
from vsattn.structure import Causal, Dense, Full
from vsattn.vectorset import VectorSet

MASK = torch.tensor([[True] * 5, [True, True, False, True, False], [True, False, False, False, False]])
MEMORY_MASK = torch.tensor([[True] * 4, [True, True, True, False], [False, True, False, False]])
SOME = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)


def randn(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def attention_case(dtype: torch.dtype, *, kdim: int = 12, vdim: int = 12, **options: object) -> Parity:
    peer = shaken(nn.MultiheadAttention(12, 3, kdim=kdim, vdim=vdim, batch_first=True, **options), dtype)
    seen = MEMORY_MASK.clone()
    seen[2, 0] = True  # by SOME, each query sees key 0

    def theirs(module, query, key, value):
        return module(query, key, value, key_padding_mask=~seen, attn_mask=~SOME)[0]

    def ours(module, query, key, value):
        return module(query, VectorSet(key, seen), value, structure=Dense(SOME))

    sizes = ((5, 12), (4, kdim), (4, vdim))
    inputs = [randn(3, *size, dtype=dtype, seed=i) for i, size in enumerate(sizes)]
    return compare(peer, from_multihead_attention, theirs, ours, inputs)


def encoder_case(
    dtype: torch.dtype, *, causal: bool = False, num_layers: int = 2, norm: bool = False, **options: object
) -> Parity:
    peer, theirs, ours = encoder_problem(causal, num_layers, norm, **options)
    return compare(shaken(peer, dtype), from_transformer_encoder, theirs, ours, [randn(3, 5, 12, dtype=dtype)])


def encoder_problem(causal: bool, num_layers: int, norm: bool, dropout: float = 0.0, **options: object):
    layer = nn.TransformerEncoderLayer(12, 3, 20, dropout=dropout, batch_first=True, **options)
    final = nn.LayerNorm(12, eps=1e-3) if norm else None
    peer = nn.TransformerEncoder(layer, num_layers, norm=final, enable_nested_tensor=False) if num_layers else layer
    mask = MASK.clone()
    mask[:, 0] = True  # so that a causal query sees something

    def theirs(module, x):
        order = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1) if causal else None
        real = mask[: len(x)]
        return module(x, order, src_key_padding_mask=~real)[real]

    def ours(module, x):
        structure = Causal() if causal else Full()
        real = mask[: len(x)]
        return module(VectorSet(x, real, structure=structure, layout="sequence")).x[real]

    return peer, theirs, ours


def decode(module, target, memory):
    order = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    real, seen = MASK[: len(target)], MEMORY_MASK[: len(target)]
    return module(target, memory, tgt_mask=order, tgt_key_padding_mask=~real, memory_key_padding_mask=~seen)[real]


def decode_with_ours(module, target, memory):
    real, seen = MASK[: len(target)], MEMORY_MASK[: len(target)]
    return module(VectorSet(target, real, layout="sequence"), VectorSet(memory, seen)).x[real]


def decoder_case(dtype: torch.dtype, *, norm: bool = False, **options: object) -> Parity:
    layer = nn.TransformerDecoderLayer(12, 3, 20, dropout=0.0, batch_first=True, **options)
    peer = shaken(nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(12) if norm else None), dtype)
    inputs = [randn(3, 5, 12, dtype=dtype), randn(3, 4, 12, dtype=dtype, seed=1)]
    return compare(peer, from_transformer_decoder, decode, decode_with_ours, inputs)


class Pair(nn.Module):
    """Encoder and decoder as one module, so that they are compared with one peer."""

    def __init__(self, peer):
        super().__init__()
        self.encoder, self.decoder = from_transformer(peer)


def transformer_case(dtype: torch.dtype, **options: object) -> Parity:
    peer = shaken(nn.Transformer(12, 3, 2, 2, 20, dropout=0.0, batch_first=True, **options), dtype)
    order = nn.Transformer.generate_square_subsequent_mask(5).isinf()

    def theirs(module, source, target):
        masks = {"src_key_padding_mask": ~MEMORY_MASK, "memory_key_padding_mask": ~MEMORY_MASK}
        return module(source, target, tgt_mask=order, tgt_key_padding_mask=~MASK, **masks)[MASK]

    def ours(module, source, target):
        memory = module.encoder(VectorSet(source, MEMORY_MASK))
        return module.decoder(VectorSet(target, MASK, layout="sequence"), memory).x[MASK]

    inputs = [randn(3, 4, 12, dtype=dtype), randn(3, 5, 12, dtype=dtype, seed=1)]
    return compare(peer, Pair, theirs, ours, inputs)


CASES = {
    "`torch.nn.MultiheadAttention`": attention_case,
    "`torch.nn.MultiheadAttention`, three widths": partial(attention_case, kdim=7, vdim=5),
    "`torch.nn.TransformerEncoder`, post-norm": encoder_case,
    "`torch.nn.TransformerEncoder`, pre-norm": partial(encoder_case, norm_first=True, activation="gelu", norm=True),
    "`torch.nn.TransformerDecoder`, post-norm": decoder_case,
    "`torch.nn.TransformerDecoder`, pre-norm": partial(decoder_case, norm_first=True, activation="gelu", norm=True),
    "`torch.nn.Transformer`": transformer_case,
}
MORE = {
    "attention without bias": partial(attention_case, bias=False),
    "attention, three widths, no bias": partial(attention_case, kdim=7, vdim=5, bias=False),
    "one layer": partial(encoder_case, num_layers=0),
    "causal": partial(encoder_case, causal=True),
    "no bias": partial(encoder_case, bias=False, norm_first=True),
    "gelu module": partial(encoder_case, activation=nn.GELU(), norm=True, layer_norm_eps=1e-2),
    "relu module": partial(encoder_case, activation=nn.ReLU()),
    "decoder, no bias": partial(decoder_case, bias=False, norm_first=True),
    "transformer, pre-norm": partial(transformer_case, norm_first=True, layer_norm_eps=1e-2),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_outputs_and_gradients_equal_the_peers(name, dtype):
    {**CASES, **MORE}[name](dtype).check(dtype)


@pytest.mark.parametrize("norm_first", [False, True])
def test_dropout_falls_in_the_same_places(norm_first):
    peer, theirs, ours = encoder_problem(False, 2, True, dropout=0.3, norm_first=norm_first)
    inputs = [randn(1, 5, 12, dtype=torch.float64)]
    same_in_training(shaken(peer, torch.float64), from_transformer_encoder, theirs, ours, inputs)
    layer = nn.TransformerDecoderLayer(12, 3, 20, dropout=0.3, batch_first=True, norm_first=norm_first)
    decoder = shaken(nn.TransformerDecoder(layer, 2), torch.float64)
    inputs = [randn(1, 5, 12, dtype=torch.float64), randn(1, 4, 12, dtype=torch.float64, seed=1)]
    same_in_training(decoder, from_transformer_decoder, decode, decode_with_ours, inputs)


def test_decoding_step_by_step_equals_the_peers_decoder():
    peer = shaken(nn.TransformerDecoder(nn.TransformerDecoderLayer(12, 3, 20, batch_first=True), 2), torch.float64)
    decoder, order = from_transformer_decoder(peer), nn.Transformer.generate_square_subsequent_mask(5).isinf()
    target, memory = randn(3, 5, 12, dtype=torch.float64), randn(3, 4, 12, dtype=torch.float64, seed=1)
    expected = peer(target, memory, tgt_mask=order, memory_key_padding_mask=~MEMORY_MASK)
    state = decoder.start(VectorSet(memory, MEMORY_MASK))
    for i in range(5):
        output, state = decoder.advance(VectorSet(target[:, i : i + 1], layout="sequence"), state)
        torch.testing.assert_close(output.x, expected[:, i : i + 1], atol=1e-12, rtol=0)


def test_where_torch_gives_nan_ours_gives_the_output_bias():
    peer = shaken(nn.MultiheadAttention(8, 2, batch_first=True), torch.float64)
    x = randn(2, 3, 8, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    expected = peer(x, x, x, key_padding_mask=~mask)[0]
    found = from_multihead_attention(peer)(x, VectorSet(x, mask))
    assert expected[1].isnan().all(), "torch now handles this: the README's remark needs an update"
    assert torch.equal(found[1], peer.out_proj.bias.expand(3, 8))
    torch.testing.assert_close(found[0], expected[0], atol=1e-12, rtol=0)


def test_the_comparison_sees_a_weight_that_is_off():
    def sabotaged(peer):
        ours = from_transformer_encoder(peer)
        ours.blocks[1].feed_forward_norm.eps += 1e-4
        return ours

    peer, theirs, ours = encoder_problem(False, 2, False)
    inputs = [randn(3, 5, 12, dtype=torch.float64)]
    found = compare(shaken(peer, torch.float64), sabotaged, theirs, ours, inputs)
    assert min(found.output, found.inputs, found.weights) > 1e-6


def test_layers_with_options_of_their_own_keep_them():
    layers = [nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, dropout=0.1) for _ in range(2)]
    layers[1] = nn.TransformerEncoderLayer(12, 2, 8, batch_first=True, dropout=0.2, activation="gelu", norm_first=True)
    peer = nn.TransformerEncoder(layers[0], 2, enable_nested_tensor=False)
    peer.layers[1] = layers[1]
    shaken(peer, torch.float64)
    x = randn(2, 5, 12, dtype=torch.float64)
    ours = from_transformer_encoder(peer)
    torch.testing.assert_close(ours(VectorSet(x)).x, peer(x), atol=1e-12, rtol=0)
    assert [block.dropout.p for block in ours.blocks] == [0.1, 0.2]


def test_dtype_mode_and_frozen_weights_are_the_peers_and_no_storage_is_shared():
    peer = nn.MultiheadAttention(8, 2).to(torch.bfloat16).train()
    peer.in_proj_weight.requires_grad_(False)
    with torch.no_grad():
        ours = from_multihead_attention(peer)
    assert ours.training and not ours.query_proj.weight.requires_grad and ours.query_proj.bias.requires_grad
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    theirs = {p.untyped_storage().data_ptr() for p in peer.parameters()}
    assert not theirs & {p.untyped_storage().data_ptr() for p in ours.parameters()}
    assert not from_multihead_attention(peer.eval()).training


def test_no_random_number_is_drawn():
    peer = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 2, enable_nested_tensor=False)
    state = torch.get_rng_state()
    from_transformer_encoder(peer)
    assert torch.equal(torch.get_rng_state(), state)


def test_all_that_ours_cannot_express_is_in_one_error():
    layer = nn.TransformerEncoderLayer(8, 2, 8, activation=nn.functional.silu)
    layer.dropout2.p = 0.5
    peer = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    peer.layers[1].self_attn = nn.MultiheadAttention(8, 2, add_bias_kv=True, add_zero_attn=True)
    with pytest.raises(ConfigError) as error:
        from_transformer_encoder(peer)
    parts = ("layers.0 (and 2 more) has the activation", "silu", "different dropout (0.1, 0.5)", "layers.1.self_attn")
    for part in (*parts, "add_bias_kv=True", "add_zero_attn=True"):
        assert part in str(error.value)


class Louder(nn.MultiheadAttention):
    """A subclass that computes something else."""

    def forward(self, *args, **kwargs):
        output, weights = super().forward(*args, **kwargs)
        return 2 * output, weights


@pytest.mark.parametrize(
    ("convert", "peer", "message"),
    [
        (from_multihead_attention, Louder(8, 2), "it is a Louder, where MultiheadAttention"),
        (from_multihead_attention, nn.Linear(2, 2), "it is a Linear, where MultiheadAttention"),
        (from_transformer_encoder, nn.TransformerDecoderLayer(8, 2), "TransformerEncoder or TransformerEncoderLayer"),
        (
            from_transformer_encoder,
            nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 1, nn.RMSNorm(8), enable_nested_tensor=False),
            "norm is a RMSNorm, where LayerNorm",
        ),
        (from_transformer, nn.Transformer(8, 2, custom_encoder=nn.Identity()), "encoder is a Identity"),
        (from_transformer_decoder, nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2), 0), "no layers"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused(convert, peer, message):
    with pytest.raises(ConfigError, match="cannot be taken over") as error:
        convert(peer)
    assert message in str(error.value)


def test_a_weight_of_another_shape_is_refused():
    peer = nn.TransformerEncoderLayer(8, 2, 8)
    peer.linear1.weight = nn.Parameter(torch.zeros(32, 1, dtype=torch.uint8), requires_grad=False)  # as if quantised
    with pytest.raises(ConfigError, match=r"a weight \(32, 1\) where \(8, 8\) is expected"):
        from_transformer_encoder(peer)


def test_a_weight_that_has_no_place_is_not_dropped():
    peer = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 1, enable_nested_tensor=False)
    weight_norm(peer.layers[0].linear1)
    with pytest.raises(ConfigError, match=r"layers\.0\.linear1\.parametrizations\.weight\.original0"):
        from_transformer_encoder(peer)
    adapted = nn.MultiheadAttention(8, 2)
    adapted.register_parameter("adapter", nn.Parameter(torch.zeros(3)))
    with pytest.raises(ConfigError, match="no place here, adapter"):
        from_multihead_attention(adapted)

"""Rotary positions against complex numbers, transformers' LLaMA, and the property that they are made for."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from vsattn.attention import MultiHeadAttention
from vsattn.errors import ConfigError, ShapeError
from vsattn.positions import Rotary
from vsattn.vectorset import VectorSet

PAIRINGS = ["interleaved", "halves"]


def sequence(count, **fields):
    return VectorSet(torch.zeros(1, count, 1), layout="sequence", **fields)


def grid(height, width):
    return VectorSet(torch.zeros(1, height * width, 1), layout="grid", grid=(height, width))


def by_complex_numbers(vectors, positions, wavelength=10000.0):
    """Turn neighbours ``a + ib`` by ``exp(i p w^(-2i/d))``; ``positions`` is ``(N,)``."""
    pairs = torch.view_as_complex(vectors.double().unflatten(-1, (-1, 2)).contiguous())
    count = pairs.shape[-1]
    angle = torch.outer(positions.double(), wavelength ** (-torch.arange(count, dtype=torch.float64) / count))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def test_interleaved_is_a_product_of_complex_numbers():
    vectors = torch.randn(2, 3, 50, 8, dtype=torch.float64)
    for wavelength in (10000.0, 100.0):
        turned = Rotary(8, max_wavelength=wavelength)(vectors, sequence(50))
        expected = by_complex_numbers(vectors, torch.arange(50), wavelength)
        torch.testing.assert_close(turned, expected, atol=1e-12, rtol=0)


def test_halves_are_llamas():
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(hidden_size=48, num_attention_heads=3, max_position_embeddings=64)
    query, key = torch.randn(2, 2, 3, 40, 16)
    cos, sin = LlamaRotaryEmbedding(config)(query, torch.arange(40)[None])
    expected = apply_rotary_pos_emb(query, key, cos, sin)
    rotary = Rotary(16, pairing="halves")
    for vectors, turned in zip((query, key), expected, strict=True):
        torch.testing.assert_close(rotary(vectors, sequence(40)), turned, atol=2e-5, rtol=0)


def test_the_two_pairings_differ_by_the_order_of_features_alone():
    vectors = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    order = torch.arange(8).view(4, 2).T.flatten()  # 0 2 4 6 1 3 5 7
    interleaved = Rotary(8)(vectors, sequence(6))
    torch.testing.assert_close(Rotary(8, pairing="halves")(vectors[..., order], sequence(6)), interleaved[..., order])


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("coordinates", [1, 2])
def test_a_match_depends_on_the_offset_alone(pairing, coordinates):
    torch.manual_seed(0)
    rotary = Rotary(8, pairing=pairing)
    query, key = torch.randn(2, 8, dtype=torch.float64)
    places = torch.randint(-50, 50, (20, coordinates)).double()
    shifted = places + torch.tensor([1234.0, -77.0][:coordinates])

    def matches(pos):
        sets = VectorSet(torch.zeros(1, 20, 1, dtype=torch.float64), pos=pos[None])
        q, k = (rotary(v.expand(1, 1, 20, 8), sets)[0, 0] for v in (query, key))
        return q @ k.T

    torch.testing.assert_close(matches(places), matches(shifted), atol=1e-10, rtol=0)
    assert matches(places).std() > 0.1  # and it does depend on that


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_grid_turns_one_part_by_rows_and_one_by_columns(pairing):
    vectors = torch.randn(2, 3, 20, 8, dtype=torch.float64)
    turned, part = Rotary(8, pairing=pairing)(vectors, grid(4, 5)), Rotary(4, pairing=pairing)
    rows, columns = (VectorSet(torch.zeros(1, 20, 1), pos=p[None, :, None]) for p in grid(4, 5).positions()[0].T)
    expected = torch.cat([part(vectors[..., :4], rows), part(vectors[..., 4:], columns)], -1)
    torch.testing.assert_close(turned, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_lengths_stay_and_a_prefix_is_not_turned(pairing):
    rotary, vectors = Rotary(12, pairing=pairing), torch.randn(2, 3, 6, 12, dtype=torch.float64)
    pos = torch.rand(2, 4, 3) * 100
    sets = VectorSet(torch.zeros(2, 4, 1), pos=pos).with_prefix(torch.zeros(2, 1))
    strange = sets.replace(pos=sets.pos + 7.0)  # what stands in a prefix's row is nobody's position
    turned = rotary(vectors, strange)
    assert torch.equal(turned[:, :, :2], vectors[:, :, :2])
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1), atol=1e-12, rtol=0)
    torch.testing.assert_close(
        turned[:, :, 2:], rotary(vectors[:, :, 2:], VectorSet(torch.zeros(2, 4, 1), pos=pos + 7))
    )


def test_half_precision_rounds_the_result_only():
    vectors = torch.randn(1, 1, 3, 8).bfloat16()
    sets = VectorSet(torch.zeros(1, 3, 1), pos=torch.tensor([[[4000.0], [4001.0], [4003.0]]]))
    turned = Rotary(8)(vectors, sets)
    assert turned.dtype == torch.bfloat16
    expected = by_complex_numbers(vectors, torch.tensor([4000, 4001, 4003]))
    torch.testing.assert_close(turned.double(), expected, atol=0, rtol=2**-7)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_gradients_are_those_of_a_linear_map_and_it_compiles_whole(pairing):
    rotary = Rotary(8, pairing=pairing)
    vectors = torch.randn(1, 2, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: rotary(v, grid(2, 2)), vectors)
    compiled = torch.compile(rotary, fullgraph=True, backend="eager", dynamic=True)
    for sets in (sequence(4), grid(2, 2), sequence(3).with_prefix(torch.zeros(1, 1))):
        assert torch.equal(compiled(vectors, sets), rotary(vectors, sets))


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_attention_with_rotary_sees_offsets_not_places(pairing):
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 2, rotary=partial(Rotary, pairing=pairing)).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    pos = torch.arange(5.0)[None, :, None]
    plain = layer(VectorSet(x, layout="sequence")).x
    torch.testing.assert_close(layer(VectorSet(x, pos=pos + 100)).x, plain, atol=1e-9, rtol=0)
    assert not torch.allclose(layer(VectorSet(x, pos=pos * 2)).x, plain, atol=1e-3)


def test_impossible_rotations_are_refused():
    with pytest.raises(ConfigError, match="must be even, not 5"):
        Rotary(5)
    with pytest.raises(ConfigError, match="'interleaved' or 'halves', not 'quarters'"):
        Rotary(4, pairing="quarters")
    with pytest.raises(ShapeError, match="2 coordinates need heads of a width divisible by 4, not 6"):
        Rotary(6)(torch.zeros(1, 1, 4, 6), grid(2, 2))
    with pytest.raises(ShapeError, match=r"turns \(B, H, 4, 8\), not \(1, 1, 3, 8\)"):
        Rotary(8)(torch.zeros(1, 1, 3, 8), grid(2, 2))
    with pytest.raises(ShapeError, match="have no positions"):
        Rotary(8)(torch.zeros(1, 1, 3, 8), VectorSet(torch.zeros(1, 3, 1)))

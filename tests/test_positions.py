"""Positions and relations against their formulas and torch's interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vsattn.attention import MultiHeadAttention, attention_weights
from vsattn.errors import ConfigError, ShapeError
from vsattn.positions import Learned, OneHot, Sinusoidal
from vsattn.relations import Pair, Relative2d
from vsattn.structure import Full
from vsattn.vectorset import VectorSet


def formula(positions, dim, wavelength=10000.0):
    table = np.zeros((len(positions), dim))
    for i in range(0, dim, 2):
        table[:, i] = np.sin(positions / wavelength ** (i / dim))
        table[:, i + 1] = np.cos(positions / wavelength ** (i / dim))
    return torch.tensor(table, dtype=torch.float32)


def grid_set(height, width, dim=8, batch=1):
    return VectorSet(torch.zeros(batch, height * width, dim), layout="grid", grid=(height, width))


def test_sinusoidal_equals_the_papers_formula():
    sets = VectorSet(torch.zeros(2, 300, 16), layout="sequence")
    torch.testing.assert_close(Sinusoidal(16)(sets).x[1], formula(np.arange(300), 16), atol=1e-6, rtol=0)


def test_sinusoidal_on_a_grid_is_rows_then_columns():
    x = Sinusoidal(8)(grid_set(3, 5)).x[0].view(3, 5, 8)
    torch.testing.assert_close(x[:, 2, :4], formula(np.arange(3), 4))
    torch.testing.assert_close(x[1, :, 4:], formula(np.arange(5), 4))
    with pytest.raises(ShapeError, match="divisible by 4"):
        Sinusoidal(6)(grid_set(2, 2, 6))
    with pytest.raises(ConfigError, match="even"):
        Sinusoidal(7)


def test_real_valued_positions_are_welcome():
    seconds = torch.tensor([[[0.25], [1.5]]])
    x = Sinusoidal(4)(VectorSet(torch.zeros(1, 2, 4), pos=seconds)).x[0]
    torch.testing.assert_close(x, formula(np.array([0.25, 1.5]), 4))


@pytest.mark.parametrize("size", [(4, 6), (8, 3), (2, 2), (7, 13)])
def test_learned_grid_is_resampled_as_torch_interpolates(size):
    positions = Learned(8, grid=(4, 6))
    table = positions.table.detach().T.view(1, 8, 4, 6)
    expected = F.interpolate(table, size=size, mode="bilinear", align_corners=False)[0].flatten(1).T
    torch.testing.assert_close(positions(grid_set(*size)).x[0], expected, atol=1e-6, rtol=0)


def test_a_small_picture_in_a_padded_batch_is_told_the_same_positions():
    positions = Learned(8, grid=(4, 4))
    alone = positions(grid_set(2, 3)).x[0].view(2, 3, 8)
    mask = torch.zeros(2, 5, 6, dtype=torch.bool)
    mask[0, :2, :3], mask[1] = True, True
    batch = VectorSet(torch.zeros(2, 30, 8), mask.flatten(1), layout="grid", grid=(5, 6))
    output = positions(batch).x.view(2, 5, 6, 8)
    torch.testing.assert_close(output[0, :2, :3], alone)
    torch.testing.assert_close(output[1].flatten(0, 1), positions(grid_set(5, 6)).x[0])
    assert torch.equal(output[0][~mask[0]].count_nonzero(), torch.tensor(0))


def test_learned_sequence_looks_up_and_refuses_what_is_too_long():
    positions = Learned(4, max_length=5)
    assert torch.equal(positions(VectorSet(torch.zeros(1, 3, 4), layout="sequence")).x[0], positions.table[:3])
    with pytest.raises(ShapeError, match="sequence of 6 is longer than the 5"):
        positions(VectorSet(torch.zeros(1, 6, 4), layout="sequence"))
    with pytest.raises(ShapeError, match="serves sequences"):
        positions(grid_set(2, 2, 4))
    with pytest.raises(ConfigError, match="one of them"):
        Learned(4)
    with pytest.raises(ShapeError, match="before prefix"):
        positions(VectorSet(torch.zeros(1, 2, 4), layout="sequence").with_prefix(torch.zeros(1, 4)))


@pytest.mark.parametrize("pos", [None, torch.tensor([[[3.0], [0.0], [4.0]], [[1.0], [1.0], [2.0]]])])
def test_one_hot_times_a_matrix_is_the_learned_table_and_so_are_its_gradients(pos):
    learned, one_hot = Learned(4, max_length=5), OneHot(4, max_length=5)
    with torch.no_grad():
        one_hot.weight.copy_(learned.table)
    layout = "sequence" if pos is None else "free"
    sets, probe = VectorSet(torch.randn(2, 3, 4), pos=pos, layout=layout), torch.randn(2, 3, 4)
    assert torch.equal(one_hot(sets).x, learned(sets).x)
    for positions in (learned, one_hot):
        (positions(sets).x * probe).sum().backward()
    torch.testing.assert_close(one_hot.weight.grad, learned.table.grad)
    compiled = torch.compile(one_hot, fullgraph=True, backend="eager")
    assert torch.equal(compiled(sets).x, one_hot(sets).x)


def test_one_hot_refuses_what_is_too_long_and_grids():
    positions = OneHot(4, max_length=5)
    with pytest.raises(ShapeError, match="sequence of 6 is longer than the 5"):
        positions(VectorSet(torch.zeros(1, 6, 4), layout="sequence"))
    with pytest.raises(ShapeError, match=r"positions 2 \.\. 5 do not lie within the 5"):
        positions(VectorSet(torch.zeros(1, 2, 4), pos=torch.tensor([[[2], [5]]])))
    with pytest.raises(ConfigError, match=r"counts the positions of a sequence, at least 1, and is None"):
        OneHot(4, max_length=None)
    with pytest.raises(ShapeError, match="OneHot serves sequences"):
        positions(grid_set(2, 2, 4))


def test_relative_bias_is_the_table_entry_of_the_offset():
    relation = Relative2d(2, 4, max_distance=1)
    with torch.no_grad():
        relation.bias.copy_(torch.arange(18.0).view(9, 2))
    sets = grid_set(3, 2)
    bias = relation.to_score(torch.zeros(1, 2, 6, 4), Pair(sets, sets))
    places = sets.positions()[0].long().tolist()
    for i, (ri, ci) in enumerate(places):
        for j, (rj, cj) in enumerate(places):
            row, column = (max(-1, min(1, d)) + 1 for d in (rj - ri, cj - ci))
            assert bias[0, i, j].tolist() == relation.bias[row * 3 + column].tolist()


def test_convolution_start_makes_each_of_eight_heads_look_at_one_neighbour():
    relation = Relative2d(8, 4, start="convolution")
    sets = grid_set(5, 5)
    weights = attention_weights(*[torch.zeros(1, 8, 25, 4)] * 2, sets, sets, Full(), relation=relation)
    centre = weights[0, :, 12].view(8, 5, 5)
    seen = {tuple((head == head.max()).nonzero()[0].tolist()) for head in centre}
    assert seen == {(r, c) for r in (1, 2, 3) for c in (1, 2, 3)} - {(2, 2)}
    assert relation.bias.min() == -6.0 and relation.bias.max() == 0.0


def test_relative_bias_learns_and_needs_two_coordinates():
    layer = MultiHeadAttention(8, 2, relation=Relative2d)
    layer(VectorSet(torch.randn(1, 4, 8), layout="grid", grid=(2, 2))).x.square().sum().backward()
    assert layer.relation.bias.grad.abs().sum() > 0
    with pytest.raises(ShapeError, match="row, column"):
        layer(VectorSet(torch.randn(1, 4, 8), layout="sequence"))
    with pytest.raises(ConfigError, match="'zeros' or 'convolution'"):
        Relative2d(2, 4, start="ones")


def test_whole_numbers_and_wide_vectors_get_the_same_waves():
    counts = VectorSet(torch.zeros(1, 3, 4, dtype=torch.float64), pos=torch.arange(3)[None, :, None])
    expected = formula(np.arange(3), 4).double()
    torch.testing.assert_close(Sinusoidal(4)(counts).x[0], expected, atol=1e-6, rtol=0)
    with pytest.raises(ShapeError, match=r"positions 0 \.\. 2 do not lie within the 2 learned"):
        Learned(4, max_length=2).double()(counts)

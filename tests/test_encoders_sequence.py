"""The baselines for sequences: against torch's own layers, with padding, and how far each one sees."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vsattn.encoders import ConvEncoder, RecurrentEncoder, WindowMLP
from vsattn.errors import ConfigError, ShapeError
from vsattn.structure import Causal
from vsattn.tasks.lengths import ENCODERS, REACHES, reach
from vsattn.vectorset import VectorSet

MAKERS = {
    "lstm": lambda: RecurrentEncoder(8, 2),
    "gru from the left": lambda: RecurrentEncoder(8, 2, cell="gru", bidirectional=False),
    "wider lstm": lambda: RecurrentEncoder(8, 1, hidden_dim=12),
    "window": lambda: WindowMLP(8, 2, reach=2),
    "alone": lambda: WindowMLP(8, reach=0),
    "convolution": lambda: ConvEncoder(8, 2, kernel_size=5, dimensions=1),
}
LENGTHS = (7, 3, 5, 1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def sequences() -> list[VectorSet]:
    return [VectorSet(torch.randn(1, n, 8, dtype=torch.float64), layout="sequence") for n in LENGTHS]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("training", [False, True])
def test_a_sequence_alone_equals_itself_in_a_batch(name: str, training: bool) -> None:
    if training and name == "convolution":
        pytest.skip("batch statistics are of the batch")
    encoder, singles = MAKERS[name]().double().train(training), sequences()
    batch = encoder(VectorSet.from_list(singles))
    assert batch.layout == "sequence" and batch.mask is not None
    assert not batch.x[~batch.mask].any()
    for single, found in zip(singles, batch.unbind(), strict=True):
        assert torch.allclose(encoder(single).x, found.x, atol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_gradients_are_finite_also_for_an_empty_sequence(name: str) -> None:
    encoder = MAKERS[name]()
    x = torch.randn(2, 4, 8, requires_grad=True)
    mask = torch.tensor([[True, True, False, False], [False] * 4])
    encoder(VectorSet(x, mask, layout="sequence")).x.square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and not x.grad[~mask].any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize(("cell", "peer"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_each_sequence_is_read_as_torch_reads_it_alone(cell: str, peer: type[nn.RNNBase]) -> None:
    encoder = RecurrentEncoder(8, 2, cell=cell).double()
    other = peer(8, 4, 2, batch_first=True, bidirectional=True).double()
    other.load_state_dict(encoder.layers.state_dict())
    singles = sequences()
    for single, found in zip(singles, encoder(VectorSet.from_list(singles)).unbind(), strict=True):
        assert torch.allclose(other(single.x)[0], found.x, atol=1e-12)


def test_a_window_is_its_neighbours_joined() -> None:
    """Against the definition: a matrix times the vectors of the window, end to end, zeros beyond the ends."""
    encoder, x = WindowMLP(8, reach=2).double(), torch.randn(3, 6, 8, dtype=torch.float64)
    padded = F.pad(x, (0, 0, 2, 2))
    joined = torch.stack([padded[:, i : i + 5].flatten(1) for i in range(6)], 1)  # (B, N, 5 D)
    matrix = encoder.window.weight.transpose(1, 2).flatten(1)
    expected = encoder.layers(joined @ matrix.T + encoder.window.bias)
    assert torch.allclose(encoder(VectorSet(x, layout="sequence")).x, expected, atol=1e-12)


def test_one_convolution_over_a_sequence() -> None:
    encoder, x = ConvEncoder(8, 1, kernel_size=3, dimensions=1).double().eval(), torch.randn(2, 6, 8).double()
    peer = nn.Conv1d(8, 8, 3, padding=1, bias=False).double()
    peer.load_state_dict(encoder.convolutions[0].state_dict())
    scale = (1 + encoder.norms[0].eps) ** -0.5  # running averages are 0 and 1 so far
    expected = x + (peer(x.transpose(1, 2)) * scale).relu().transpose(1, 2)
    assert torch.allclose(encoder(VectorSet(x, layout="sequence")).x, expected, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [("attention", 128, 128), ("rnn", 128, 0), ("birnn", 128, 128), *((f"window_mlp, k = {k}", k, k) for k in REACHES)],
)
def test_how_far_each_encoder_sees(name: str, left: int, right: int) -> None:
    assert reach(ENCODERS[name](), 257, 128) == (left, right)


def test_what_baselines_refuse() -> None:
    grid = VectorSet(torch.randn(1, 4, 8), layout="grid", grid=(2, 2))
    sequence = VectorSet(torch.randn(1, 4, 8), layout="sequence")
    for name in ("lstm", "window", "convolution"):
        with pytest.raises(ShapeError, match="needs a sequence of vectors without prefix; this set is 'grid'"):
            MAKERS[name]()(grid)
        with pytest.raises(ShapeError, match="whatever Causal says"):
            MAKERS[name]()(sequence.replace(structure=Causal()))
    assert MAKERS["alone"]()(grid).grid == (2, 2)
    with pytest.raises(ShapeError, match="padded at their end only"):
        MAKERS["lstm"]()(VectorSet(sequence.x, torch.tensor([[True, False, True, True]]), layout="sequence"))
    for wrong, says in (
        (lambda: RecurrentEncoder(8, 1, cell="rnn"), "one of lstm, gru, not 'rnn'"),
        (lambda: RecurrentEncoder(7, 1), "7 is odd"),
        (lambda: WindowMLP(8, 0), "not 0 and 2"),
        (lambda: WindowMLP(8, reach=-1), "not 1 and -1"),
        (lambda: ConvEncoder(8, 1, dimensions=3), "1 \\(sequences\\) or 2 \\(grids\\), not 3"),
    ):
        with pytest.raises(ConfigError, match=says):
            wrong()

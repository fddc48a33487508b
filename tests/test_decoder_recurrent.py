"""The recurrent decoder against its equations, word by word, and step by step against at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_map_only

from vsattn.build import build
from vsattn.decoders import Decoder, RecurrentDecoder
from vsattn.encoders import RecurrentEncoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.structure import Causal
from vsattn.vectorset import VectorSet

DIM, MEMORY, HIDDEN = 6, 8, 5
SEEDS = st.integers(0, 2**20)


def made(**options):
    torch.manual_seed(0)
    model = RecurrentDecoder(DIM, memory_dim=MEMORY, hidden_dim=HIDDEN, attention_dim=7, **options)
    return model.double().eval()


def drawn(seed, lengths, width):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), width, generator=generator, dtype=torch.float64)
    return VectorSet(x, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None], layout="sequence")


def piece(target, rows):
    return VectorSet(target.x[:, rows], target.mask[:, rows], layout="sequence")


def by_the_equations(model, target, memory):
    """Bahdanau et al. 2015, A.2, for one sample: outputs (N, D), weights (N, M), and the last hidden vector."""
    cell = nn.GRUCell(DIM + MEMORY, HIDDEN).double()
    cell.load_state_dict(model.cell.state_dict())
    state = torch.tanh(model.first(torch.cat([memory[-1, : MEMORY // 2], memory[0, MEMORY // 2 :]])))
    outputs, weights = [], []
    for y in target:
        scores = [
            model.score.weight[0] @ torch.tanh(model.query_proj(state) + model.key_proj.weight @ h) for h in memory
        ]
        weights.append(torch.stack(scores).softmax(0))
        context = sum(w * h for w, h in zip(weights[-1], memory, strict=True))
        state = cell(torch.cat([y, context])[None], state[None])[0]
        pairs = model.output(torch.cat([state, context, y])).view(2, DIM)
        outputs.append(torch.stack([max(pair) for pair in pairs.T]))
    return torch.stack(outputs), torch.stack(weights), state


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4))
def test_it_is_what_its_equations_say(seed, sizes):
    model, (targets, sources) = made(), zip(*sizes, strict=True)
    target, memory = drawn(seed, targets, DIM), drawn(seed + 1, sources, MEMORY)
    output, weights = model(target, memory), model.attention(target, memory)
    _, state = model.advance(target, model.start(memory))
    assert weights.shape == (len(sizes), 1, 1, max(targets), max(sources)) and output.mask is target.mask
    for i, (count, length) in enumerate(sizes):
        expected, seen, hidden = by_the_equations(model, target.x[i, :count], memory.x[i, :length])
        torch.testing.assert_close(output.x[i, :count], expected, atol=1e-12, rtol=0)
        torch.testing.assert_close(weights[i, 0, 0, :count, :length], seen, atol=1e-12, rtol=0)
        torch.testing.assert_close(state.hidden[i], hidden, atol=1e-12, rtol=0)  # padding behind leaves it alone
        assert not output.x[i, count:].any() and not weights[i, ..., length:].any()


def test_its_gradients_are_those_of_the_equations():
    model, target, memory = made(), drawn(0, [4], DIM), drawn(1, [3], MEMORY)
    gradients = []
    for run in (lambda x, y: model(target.replace(x=x), memory.replace(x=y)).x[0], by_hand):
        x, y = (s.x.clone().requires_grad_() for s in (target, memory))
        output = run(x, y) if run is not by_hand else run(model, x, y)
        loss = (output * output.detach().cos()).sum()
        gradients.append(
            torch.autograd.grad(loss, [x, y, *(p for n, p in model.named_parameters() if "cell" not in n)])
        )
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)


def by_hand(model, x, y):
    return by_the_equations(model, x[0], y[0])[0]


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.lists(st.integers(0, 3), min_size=1, max_size=4), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_step_by_step_equals_at_once(seed, lengths, sources):
    model, start = made(), 0
    target = drawn(seed, [max(1, sum(lengths))] * len(sources), DIM)
    memory = drawn(seed, sources, MEMORY)
    expected, state = model(target, memory), model.start(memory)
    for length in lengths:
        output, state = model.advance(piece(target, slice(start, start + length)), state)
        torch.testing.assert_close(output.x, expected.x[:, start : start + length], atol=1e-12, rtol=0)
        start += length


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), max_size=3))
def test_a_search_goes_on_from_chosen_rows(seed, lines):
    model, memory = made(), drawn(seed, [4, 2], MEMORY)
    target, first = drawn(seed, [3] * 4, DIM), torch.tensor([[0, 0], [1, 1]])
    order = (torch.arange(len(lines)) % 2)[:, None] * 2 + torch.tensor(lines, dtype=torch.long).reshape(-1, 3)
    rows, state = order.flatten(), model.advance(piece(target, slice(0, 2)), model.start(memory).select(first))[1]
    assert state.memory.key.shape[0] == 2 and state.select(torch.tensor([[1, 0], [3, 3]])).memory is state.memory
    source = VectorSet(memory.x[rows // 2], memory.mask[rows // 2])
    chosen = VectorSet(target.x[rows], layout="sequence")
    expected = model(chosen, source).x[:, 2:]
    before, again = state.hidden.clone(), state.select(order)
    assert again.memory.key.shape[0] == len(lines)
    for found in (again, state.select(rows), tree_map_only(torch.Tensor, torch.clone, again)):
        output, _ = model.advance(VectorSet(chosen.x[:, 2:], layout="sequence"), found)
        torch.testing.assert_close(output.x, expected, atol=1e-12, rtol=0)
    assert torch.equal(state.hidden, before)


def test_keys_are_projected_once():
    model, seen = made(), []
    model.key_proj.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    model(drawn(0, [4, 3], DIM), drawn(0, [5, 2], MEMORY))
    assert seen == [(2, 5, MEMORY)]


def test_no_memory_gives_finite_outputs_and_gradients():
    model, target = made(), drawn(0, [3, 2], DIM)
    x = torch.randn(2, 4, MEMORY, dtype=torch.float64, requires_grad=True)
    output = model(target, VectorSet(x, torch.tensor([[True] * 4, [False] * 4]), layout="sequence"))
    torch.testing.assert_close(output.x[1:], model(target, VectorSet(x[:, :0], layout="sequence")).x[1:])
    output.x.square().sum().backward()
    assert output.x.isfinite().all() and torch.equal(x.grad[1], torch.zeros_like(x[1]))
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_dropout_is_of_training_alone():
    model, target, memory = made(dropout=0.5), drawn(0, [3], DIM), drawn(0, [4], MEMORY)
    torch.testing.assert_close(model(target, memory).x, made()(target, memory).x)
    assert not torch.equal(model.train()(target, memory).x, model(target, memory).x)


def test_half_precision_is_near():
    model, target, memory = made().float(), drawn(0, [3, 2], DIM), drawn(0, [4, 1], MEMORY)
    target, memory = target.to(torch.float32), memory.to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        first, state = model.advance(piece(target, slice(0, 1)), model.start(memory))
        later, _ = model.advance(piece(target, slice(1, 3)), state)
    found, expected = torch.cat([first.x, later.x], 1).float(), model(target, memory).x
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)


def test_it_compiles_without_a_graph_break():
    model, target, memory = made(), drawn(0, [3, 2], DIM), drawn(0, [4, 1], MEMORY)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(target, memory).x, model(target, memory).x)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_an_encoder_may_stay_wide(cell):
    wide = RecurrentEncoder(DIM, 1, cell=cell, hidden_dim=MEMORY, project=False).double()
    narrow = RecurrentEncoder(DIM, 1, cell=cell, hidden_dim=MEMORY).double()
    narrow.layers.load_state_dict(wide.layers.state_dict())
    source = drawn(0, [5, 2], DIM)
    memory = wide(source)
    torch.testing.assert_close(narrow.project(memory.x)[memory.mask], narrow(source).x[memory.mask])
    ends = [wide.layers(source.x[i : i + 1, :n])[1] for i, n in enumerate((5, 2))]  # the two last states of each
    state = made().start(memory).hidden
    for i, last in enumerate(ends):
        last = last if cell == "gru" else last[0]
        torch.testing.assert_close(state[i], made().first(last.flatten()).tanh())


def test_it_is_built_from_a_config_and_refuses_what_it_cannot_do():
    config = {"_target_": "vsattn.decoders.RecurrentDecoder", "hidden_dim": HIDDEN}
    assert build(config, Decoder, dim=DIM).memory_dim == DIM
    for wrong, says in (
        ({"memory_dim": 7}, "two halves, one from each end, not 7"),
        ({"hidden_dim": 0}, "at least 1, not 0 and 0"),
        ({"attention_dim": 0}, "at least 1, not 512 and 0"),
    ):
        with pytest.raises(ConfigError, match=says):
            RecurrentDecoder(DIM, **wrong)
    model, target, memory = made(), drawn(0, [3, 2], DIM), drawn(0, [4, 1], MEMORY)
    with pytest.raises(ShapeError, match="the memory has width 6; this decoder was made for 8"):
        model(target, target)
    with pytest.raises(ShapeError, match="'free' with 0 prefix vectors and Full"):
        model(VectorSet(target.x), memory)
    with pytest.raises(ShapeError, match="'sequence' with 0 prefix vectors and Causal"):
        model(target.replace(structure=Causal()), memory)
    with pytest.raises(ShapeError, match="does not go on from a state of 1 samples of width 6"):
        model.advance(target, model.start(memory).select(torch.tensor([0])))

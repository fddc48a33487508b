"""The recorder: nothing changes, every kernel's weights and their gradients, memory, and what it refuses."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from strategies import problems
from torch import nn

import vsattn
from vsattn import Edges, Full, MultiHeadAttention, Observable, TransformerEncoder, VectorSet, Window, record, silence
from vsattn.attention import attend, attention_weights
from vsattn.attention.functional import make_case
from vsattn.attention.kernels import KERNELS
from vsattn.decoders import TransformerDecoder
from vsattn.decoders.recurrent import RecurrentDecoder
from vsattn.encoders.diffusion import DiffusionEncoder
from vsattn.errors import ConfigError, RecordingError
from vsattn.heads import AttentionHead, PoolingHead
from vsattn.relations import Pair, RelativeVectors
from vsattn.scores import Additive, Bilinear, Cosine, ScaledDot, SplitAdditive


class Mixer(nn.Module, Observable):
    """A module of a user's own that calls `attend`."""

    def __init__(self, drawn, kernel):
        super().__init__()
        self.drawn, self.kernel, self.num_heads = drawn, kernel, drawn.heads

    def forward(self, q, k, v):
        drawn = self.drawn
        return attend(q, k, v, drawn.vectors, drawn.vectors, drawn.structure, score=drawn.score,
                      relation=drawn.relation, kernel=self.kernel, module=self)  # fmt: skip


def mixed(drawn, q, k, v, weights):
    """Mix values by given weights, from the definition."""
    output = weights @ v
    if drawn.relation is not None and "to_value" in drawn.relation.parts:
        pair = Pair(drawn.vectors, drawn.vectors, structure=drawn.structure)
        added = pair.without_prefix(drawn.relation.to_value(pair)).expand(len(q), -1, -1, drawn.heads, -1)
        output = output + torch.einsum("bhqk,bqkhd->bhqd", weights, added)
    return output


@settings(max_examples=150, deadline=None)
@given(problems(least=1))
def test_every_kernel_is_recorded_and_nothing_changes(drawn):
    batch, count = drawn.vectors.x.shape[:2]
    q, k, v = (drawn.randn(batch, drawn.heads, count, drawn.head_dim) for _ in range(3))
    case = make_case(q, k, v, drawn.vectors, drawn.vectors, drawn.structure, drawn.score, drawn.relation, 0.0)
    expected = attention_weights(
        q, k, drawn.vectors, drawn.vectors, drawn.structure, score=drawn.score, relation=drawn.relation
    ).detach()
    leaf = expected.clone().requires_grad_()
    objective = torch.cos(torch.arange(q.numel(), dtype=q.dtype)).view(q.shape)
    (gradient,) = torch.autograd.grad((mixed(drawn, q, k, v, leaf) * objective).sum(), leaf)
    for kernel in ("auto", *(name for name, entry in KERNELS.items() if entry.refuses(case) is None)):
        model = Mixer(drawn, kernel)
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        plain = model(*leaves)
        with record(model, gradients=True) as recording:
            output = model(*leaves)
        assert torch.equal(output, plain)
        (found,) = recording
        torch.testing.assert_close(found.dense(), expected, atol=1e-10, rtol=0)
        (output * objective).sum().backward()
        seen = expected != 0  # what is not allowed has no gradient
        torch.testing.assert_close(found.dense_gradient()[seen], gradient[seen], atol=1e-10, rtol=0)


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.bfloat16, 1e-6)])
def test_weights_are_exact_in_single_and_half_precision(dtype, bound):
    q, k, v = (torch.randn(2, 3, 40, 8).to(dtype) for _ in range(3))
    sets = VectorSet(torch.zeros(2, 40, 1), torch.arange(40) < torch.tensor([[40], [17]]), layout="sequence")
    with record(MultiHeadAttention(4, 1), layers=None) as recording:
        attend(q, k, v, sets, sets, Window(5, 3))
    expected = attention_weights(q.double(), k.double(), sets, sets, Window(5, 3))
    assert recording.paths == ["attend"] and recording["attend"].weights.dtype == torch.float32
    assert (recording["attend"].weights - expected).abs().max() < bound


def test_heads_queries_layers_and_reduced():
    torch.manual_seed(0)
    encoder = TransformerEncoder(16, num_layers=3, num_heads=4).eval()
    x = VectorSet(torch.randn(2, 11, 16), layout="sequence")
    with record(encoder) as whole:
        encoder(x)
    assert len(whole.paths) == 3 and whole[whole.paths[0]].kind == "self"
    path = whole.paths[1]
    with record(encoder, layers=[1], heads=[3, 0], queries=[7, 8, 2]) as part:
        encoder(x)
    assert part.paths == [path] and part[path].heads == (3, 0) and part[path].queries.tolist() == [7, 8, 2]
    torch.testing.assert_close(part[path].weights, whole[path].weights[:, [3, 0]][:, :, [7, 8, 2]])
    for reduce in ("mean", "max", "min"):
        with record(encoder, layers=[f"*{path[3:]}"], queries=slice(2, 9), reduce=reduce) as reduced:
            encoder(x)
        expected = getattr(whole[path].weights, {"mean": "mean"}.get(reduce, f"a{reduce}"))(1, keepdim=True)
        torch.testing.assert_close(reduced[path].weights, expected[:, :, 2:9])


def test_cross_attention_decoder_steps_and_pooling():
    torch.manual_seed(0)
    memory = VectorSet(torch.randn(2, 5, 16), torch.arange(5) < torch.tensor([[5], [3]]), layout="sequence")
    target = VectorSet(torch.randn(2, 4, 16), layout="sequence")
    decoder = TransformerDecoder(16, num_layers=2, num_heads=2).eval()
    with record(decoder) as whole:
        output = decoder(target, memory)
    crosses = [found for found in whole if found.kind == "cross"]
    assert len(whole) == 4 and [found.path.split(".")[-1] for found in crosses] == ["cross_attention"] * 2
    assert crosses[0].key_set.mask.tolist() == memory.mask.tolist() and crosses[0].weights.shape == (2, 2, 4, 5)
    with record(decoder) as steps:
        state = decoder.start(memory)
        for i in range(4):
            step = VectorSet(target.x[:, i : i + 1], pos=torch.full((1, 1, 1), float(i)), layout="sequence")
            made, state = decoder.advance(step, state)
    torch.testing.assert_close(made.x[:, 0], output.x[:, 3], atol=1e-5, rtol=0)
    for found in whole:
        assert len(steps.calls(found.path)) == 4
        torch.testing.assert_close(steps.joined(found.path), found.weights, atol=1e-6, rtol=0)
    with pytest.raises(RecordingError, match="called 4 times"):
        steps[whole.paths[0]]

    recurrent = RecurrentDecoder(16, hidden_dim=8).eval()
    with record(recurrent) as recording:
        recurrent(target, memory)
    weights = recording.joined("")
    assert weights.shape == (2, 1, 4, 5) and (weights[1, :, :, 3:] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 1, 4))

    for head in (AttentionHead(16, 3, num_heads=2), PoolingHead(16, 3, num_heads=2, num_seeds=2)):
        with record(head.eval()) as recording:
            head(memory)
        (found,) = [found for found in recording if found.key_set.num_vectors == 5]
        torch.testing.assert_close(found.weights.sum(-1), torch.ones(found.weights.shape[:-1]))
        assert (found.weights[1, ..., 3:] == 0).all()


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("teleport", [0.2, None])
def test_diffusion_has_the_gradient_of_all_hops(graph, teleport):
    torch.manual_seed(0)
    encoder = DiffusionEncoder(8, num_heads=(2, 2), hops=(1, 3), teleport=teleport).double().eval()
    edges = torch.stack([torch.arange(12) % 6, (torch.arange(12) * 5 + 1) % 6]).unique(dim=1)
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    vectors = VectorSet(x, structure=Edges(edges)) if graph else VectorSet(x)
    plain = encoder(vectors).x
    with record(encoder, gradients=True) as recording:
        output = encoder(vectors).x
    assert torch.equal(plain, output) and len(recording) == len(recording.paths)
    last = list(recording)[-1]
    output.pow(2).sum().backward()

    def again(weights):  # the last layer by the definition, then what follows it
        layer = encoder.get_submodule(last.path)
        stored = {}
        hook = layer.register_forward_hook(lambda module, given, made: stored.update(x=given[0].x))
        encoder(vectors)
        hook.remove()
        value = stored["x"].detach().unflatten(-1, (2, -1)).transpose(1, 2)
        mixed = total = value
        for _ in range(3):
            mixed = weights @ mixed if teleport is None else (1 - teleport) * weights @ mixed + teleport * value
            total = total + mixed
        result = total / 4 if teleport is None else mixed
        x = result.transpose(1, 2).flatten(2)
        swap = layer.register_forward_hook(lambda module, given, made: made.replace(x=x))
        try:
            return encoder(vectors).x.pow(2).sum()
        finally:
            swap.remove()

    leaf = last.dense().clone().requires_grad_()
    (expected,) = torch.autograd.grad(again(leaf), leaf)
    seen = last.dense() != 0
    torch.testing.assert_close(last.dense_gradient()[seen], expected[seen], atol=1e-10, rtol=1e-8)


def test_edges_and_weights_stay_together():
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2).eval()
    first = VectorSet(torch.randn(1, 3, 8), structure=Edges(torch.tensor([[0, 1, 2], [1, 1, 0]])))
    second = VectorSet(torch.randn(1, 2, 8), structure=Edges(torch.tensor([[1], [0]])))
    batch = VectorSet.from_list([first, second])
    with record(attention, queries=[0]) as recording:
        attention(batch)
    found = recording[""]
    assert found.edges.tolist() == [[2, 4], [0, 3]]  # only edges into vector 0 of each sample; 4 is padded-shifted
    torch.testing.assert_close(found.weights, torch.ones(2, 2))
    assert found.dense().shape == (2, 2, 1, 3) and found.dense()[0, 0, 0, 2] == 1


def test_a_budget_is_kept():
    attention = MultiHeadAttention(8, 2)
    x = VectorSet(torch.randn(1, 600, 8))
    with (
        pytest.raises(RecordingError, match=r"need \d.* MiB, and 1\.0 of budget_mb=1 .*reduce='mean'"),
        record(attention, budget_mb=1),
    ):
        attention(x)
    with record(attention, budget_mb=1, queries=slice(0, 50)) as recording:
        attention(x)
    assert recording[""].weights.shape == (1, 2, 50, 600)


PEAK = """
import re, torch
from vsattn import MultiHeadAttention, VectorSet, Window, record
def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
torch.set_num_threads(1)
torch.manual_seed(0)
attention = MultiHeadAttention(16, 8, structure=Window(20, 20)).eval()
x = VectorSet(torch.randn(1, 3000, 16), layout="sequence")
with torch.no_grad():
    attention(x)
    before = memory("VmRSS")
    with record(attention, budget_mb=400) as recording:
        attention(x)
assert recording[""].weights.shape == (1, 8, 3000, 3000)
print(memory("VmHWM") - before)
del recording
x = VectorSet(torch.randn(1, 1500, 16), layout="sequence")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = memory("VmRSS")
with record(attention, budget_mb=200, gradients=True) as recording:
    output = attention(x).x
for _ in range(2):
    output.sum().backward(retain_graph=True)
assert recording[""].gradient.shape == (1, 8, 1500, 1500)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux tells it")
def test_the_peak_of_memory_stays_under_the_budget():
    told = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, timeout=120)
    weights, gradients = map(float, told.stdout.split())
    assert 250 < weights < 400  # MiB; the weights alone are 275
    assert 130 < gradients < 200  # 69, and as much again


def test_off_it_costs_nothing_that_can_be_measured():
    attention = MultiHeadAttention(16, 2).eval()
    x = torch.randn(1, 8, 16)
    from vsattn.attention.observing import observed

    def fastest(work, count=200):
        times = []
        for _ in range(count):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        return min(times)

    with torch.no_grad():
        assert fastest(lambda: observed(x, None, attention)) < 0.05 * fastest(lambda: attention(x))


def test_weights_of_a_half_precision_module_are_exact():
    torch.manual_seed(0)
    for score in (ScaledDot, Additive, SplitAdditive, Bilinear, Cosine):
        attention = MultiHeadAttention(16, 4, score=score, relation=partial(RelativeVectors, max_distance=2)).bfloat16()
        x = VectorSet(torch.randn(2, 9, 16).bfloat16(), layout="sequence")
        plain = attention(x).x
        with record(attention, gradients=True) as recording:
            output = attention(x).x
        assert torch.equal(output, plain)
        output.float().pow(2).sum().backward()
        query_set, _, (q, k, _), structure = attention.prepare(x, None, None)
        parts = {name: deepcopy(getattr(attention, name)).double() for name in ("score", "relation")}
        expected = attention_weights(q.double(), k.double(), query_set, query_set, structure, **parts)
        assert recording[""].weights.dtype == recording[""].gradient.dtype == torch.float32
        torch.testing.assert_close(recording[""].weights.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_diffusion_over_rows_in_half_precision(dtype):
    torch.manual_seed(0)
    encoder = DiffusionEncoder(8, num_heads=(2,), hops=(2,)).to(dtype).eval()
    x = torch.randn(1, 6, 8)
    gradients = []
    for found in (encoder, deepcopy(encoder).double()):
        vectors = VectorSet(x.to(next(found.parameters()).dtype))
        with record(found, gradients=True) as recording:
            output = found(vectors).x
        output.double().sum().backward()
        gradients.append(next(iter(recording)).gradient.double())
    scale = gradients[1].abs().max()
    torch.testing.assert_close(gradients[0] / scale, gradients[1] / scale, atol=0.05, rtol=0)


def test_a_backward_under_autocast_is_not_rounded():
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 2)
    x, found = torch.randn(1, 7, 16), []
    for around in (False, True):
        with torch.autocast("cpu", torch.bfloat16), record(attention, gradients=True) as recording:
            output = attention(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            torch.autograd.backward(output, torch.ones_like(output))
        found.append(recording[""].gradient)
    assert found[0].dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("batch, queries, keys", [(2, 0, 0), (0, 4, 4), (2, 4, 0), (2, 0, 3)])
def test_empty_sets_are_recorded(graph, batch, queries, keys):
    structure = Edges(torch.zeros(2, 0, dtype=torch.long)) if graph else Full()
    attention = MultiHeadAttention(8, 2, structure=structure)
    with record(attention, gradients=True) as recording:
        output = attention(VectorSet(torch.randn(batch, queries, 8)), VectorSet(torch.randn(batch, keys, 8))).x
    output.sum().backward()
    assert recording[""].dense().shape == recording[""].dense_gradient().shape == (batch, 2, queries, keys)


def test_numbers_come_as_any_sequence_of_whole_numbers():
    attention, x = MultiHeadAttention(8, 4), torch.randn(1, 6, 8)
    for heads, queries in ((torch.tensor([3, 1]), range(4, -1, -2)), (iter([3, 1]), np.array([4, 2, 0]))):
        with record(attention, heads=heads, queries=queries) as recording:
            attention(x)
        assert recording[""].heads == (3, 1) and recording[""].queries.tolist() == [4, 2, 0]
        assert all(type(head) is int for head in recording[""].heads)
    with record(attention, queries=slice(None, None, -1)) as recording:
        attention(x)
    assert recording[""].queries.tolist() == [5, 4, 3, 2, 1, 0]
    for wrong in ([1.5], [True, False], torch.tensor([True, False]), 1, "12"):
        for name in ("heads", "queries"):
            with pytest.raises(ConfigError, match=f"{name} are whole numbers"), record(attention, **{name: wrong}):
                pass
    with pytest.raises(ConfigError, match="heads 0 to 3, each"), record(attention, heads=torch.tensor([1, 1])):
        attention(x)
    with pytest.raises(ConfigError, match="layers names none"), record(attention, layers=[]):
        pass


def test_a_record_keeps_no_vectors_and_no_budget_for_edges_it_leaves_out():
    x = VectorSet(torch.randn(1, 400, 64))
    attention = MultiHeadAttention(64, 2)
    with record(attention, queries=[0]) as recording:
        attention(x)
    kept = pickle.dumps(recording)
    assert len(kept) < 20_000 < x.x.nbytes
    assert torch.equal(pickle.loads(kept)[""].weights, recording[""].weights)

    edges = torch.cartesian_prod(torch.arange(400), torch.arange(400)).T
    attention, x = MultiHeadAttention(64, 2, structure=Edges(edges)), VectorSet(torch.randn(1, 400, 64))
    with record(attention, queries=[0], budget_mb=20) as recording:
        for _ in range(20):  # all edges would be 3.7 MiB each time
            attention(x)
    assert len(recording) == 20


def test_generators_that_end_in_another_order_leave_nothing_behind():
    attention, x = MultiHeadAttention(8, 2), torch.randn(1, 3, 8)
    found = []

    def recorded():
        with record(attention) as recording:
            found.append(recording)
            attention(x)
            yield
            attention(x)

    first, second = recorded(), recorded()
    next(first), next(second)
    list(first), list(second)
    attention(x)
    assert [len(recording) for recording in found] == [3, 3]  # each saw the other's call while both were open


def test_what_cannot_be_recorded_is_refused():
    attention = MultiHeadAttention(8, 2)
    x = torch.randn(1, 3, 8)
    with pytest.raises(RecordingError, match="nothing was recorded"), record(attention):
        pass
    with pytest.raises(ConfigError, match="Linear has no attention"), record(nn.Linear(2, 2)):
        pass
    with pytest.raises(ConfigError, match="there is no 'encoder'"), record(attention, layers=["encoder"]):
        pass
    with pytest.raises(ConfigError, match="heads 0 to 1"), record(attention, heads=[2]):
        attention(x)
    with pytest.raises(ConfigError, match="vectors 0 to 2"), record(attention, queries=[3]):
        attention(x)
    with pytest.raises(ConfigError, match="reduce is"), record(attention, reduce="sum"):
        pass
    with pytest.raises(ConfigError, match="is compiled"), record(torch.compile(attention, backend="eager")):
        pass
    with (
        pytest.raises(RecordingError, match="gradients=True needs"),
        torch.no_grad(),
        record(attention, gradients=True),
    ):
        attention(x)
    with record(attention) as recording:
        attention(x)
    with pytest.raises(RecordingError, match="has no gradient"):
        _ = recording[""].gradient
    with pytest.raises(RecordingError, match="was not recorded; what was"):
        recording["other"]
    with pytest.raises(RuntimeError, match="the body's own"), record(attention):
        raise RuntimeError("the body's own error, not that nothing was recorded")
    with record(attention) as recording:  # nothing is left behind
        attention(x)
    attention(x)
    assert len(recording) == 1


def test_silenced_heads_give_nothing():
    torch.manual_seed(0)
    attention = MultiHeadAttention(8, 2).eval()
    x = torch.randn(2, 5, 8)
    parts = attention.out_proj.weight.detach()
    with silence(attention, {"": [0]}):
        found = attention(x)
        with record(attention) as recording:
            assert torch.equal(attention(x), found)
    q, k, v = attention.project(x, x, x)
    heads = torch.softmax(q @ k.mT / 2, -1) @ v
    torch.testing.assert_close(found, heads[:, 1] @ parts[:, 4:].T + attention.out_proj.bias)
    torch.testing.assert_close(recording[""].weights, torch.softmax(q @ k.mT / 2, -1))
    with pytest.raises(ConfigError, match="heads 0 to 1, not 2"), silence(attention, {"": [2]}):
        pass
    with pytest.raises(ConfigError, match="x has no attention"), silence(attention, {"x": [0]}):
        pass


def test_a_silenced_head_has_no_gradient_in_whichever_order():
    attention, x = MultiHeadAttention(8, 2).eval(), torch.randn(2, 5, 8)
    found = []
    for outer, inner in ((0, 1), (1, 0)):
        contexts = record(attention, gradients=True), silence(attention, {"": [1]})
        with contexts[outer] as first, contexts[inner] as second:
            output = attention(x)
        output.pow(2).sum().backward()
        found.append((second if first is None else first)[""].gradient)
    torch.testing.assert_close(found[0], found[1])
    assert (found[0][:, 1] == 0).all() and (found[0][:, 0] != 0).any()


def test_a_compiled_graph_is_the_same_with_the_recorder_around():
    attention = MultiHeadAttention(8, 2).eval()
    x = torch.randn(1, 4, 8)
    compiled = torch.compile(lambda x: attention(x), backend="eager", fullgraph=True)
    with torch.no_grad():
        expected = compiled(x)
        with pytest.raises(RecordingError, match="nothing was recorded"), record(attention):
            assert torch.equal(compiled(x), expected)


def test_names_are_public():
    assert vsattn.record is record and vsattn.silence is silence

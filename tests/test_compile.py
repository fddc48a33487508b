"""The encoder under `torch.compile` and `torch.export`: whole graphs, few compilations, other lengths."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from vsattn.attention import MultiHeadAttention
from vsattn.encoders import TransformerEncoder
from vsattn.relations import Alibi, T5Buckets
from vsattn.structure import Causal, Full, Window
from vsattn.vectorset import VectorSet


def make(structure=Full(), **options):
    torch.manual_seed(0)
    attention = partial(MultiHeadAttention, structure=structure, **options)
    return TransformerEncoder(16, 2, 2, attention=attention).eval()


def batch(size, length, padded):
    mask = torch.arange(length) < torch.randint(length // 2, length + 1, (size, 1)) if padded else None
    return VectorSet(torch.randn(size, length, 16), mask, layout="sequence")


CASES = {
    "dense": (Full(), {}, (7, 12, 30, 31, 64)),
    "causal": (Causal(), {"relation": T5Buckets}, (7, 12, 30, 31, 64)),
    "banded": (Window(9, 4), {}, (600, 700, 1024, 1025)),
    "banded with a relation": (Window(9, 0), {"relation": Alibi}, (600, 700, 1024, 1025)),
    "both": (Window(9, 4) & Causal(), {}, (7, 12, 30)),
    "either": (Window(9, 4) | Window(0, 20), {}, (7, 12, 30)),
    "grouped heads": (Full(), {"num_key_value_heads": 1}, (7, 12, 30)),
}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_whole_graph_and_at_most_three_compilations_for_any_size(name, padded):
    structure, options, lengths = CASES[name]
    model, count = make(structure, **options), 0

    def counting(graph, inputs):
        nonlocal count
        count += 1
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=counting)
    for length in lengths:
        for size in (2, 3, 5):
            sets = batch(size, length, padded)
            torch.testing.assert_close(compiled(sets).x, model(sets).x, atol=1e-5, rtol=0)
    assert count <= 3, f"{count} compilations"


def test_gradients_of_the_compiled_encoder_are_those_of_the_plain_one():
    for structure, length in ((Full(), 20), (Window(9, 4), 600)):
        model = make(structure)
        sets, results = batch(2, length, True), []
        torch._dynamo.reset()
        for run in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
            model.zero_grad()
            run(sets).x.square().sum().backward()
            results.append([p.grad.clone() for p in model.parameters()])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


class Plain(nn.Module):
    """Tensors in, tensor out, as exported programs want it."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x, mask):
        return self.encoder(VectorSet(x, mask, layout="sequence")).x


@pytest.mark.parametrize("structure, first, second", [(Full(), 12, 40), (Causal(), 12, 40), (Window(9, 4), 600, 1400)])
def test_export_with_dynamic_length_serves_another_length(structure, first, second):
    model = Plain(make(structure))
    low = 2 if first < 512 else 512
    length = torch.export.Dim("length", min=low, max=4096)
    shapes = {"x": {1: length}, "mask": {1: length}}
    sets = batch(2, first, True)
    program = torch.export.export(
        model, (sets.x, sets.mask), dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=True
    )
    for other in (first, second):
        sets = batch(2, other, True)
        torch.testing.assert_close(program.module()(sets.x, sets.mask), model(sets.x, sets.mask), atol=1e-5, rtol=0)

"""Each sparse kernel where it differs: many chunks, many buckets, large graphs; and the choice of the table."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SCORES, SEQUENCE_RELATIONS

from vsattn.attention import attend, banded, explain_kernel, kernels, packed
from vsattn.errors import ShapeError
from vsattn.relations import EdgeFeatures, RelativeVectors
from vsattn.scores import Additive, ScaledDot
from vsattn.structure import Causal, Dense, Edges, Full, Segments, Window
from vsattn.vectorset import VectorSet


def tensors(batch, heads, count, width=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, heads, count, width, generator=generator, dtype=dtype) for _ in range(3)]


def same_as_reference(q, k, v, sets, structure, name, score=None, relation=None):
    """Compare a kernel with the reference, outputs and all gradients."""
    results = []
    for kernel in (name, "reference"):
        leaves = [t.clone().requires_grad_() for t in (q, k, v)]
        output = attend(*leaves, sets, sets, structure, score=score, relation=relation, kernel=kernel)
        parameters = [p for module in (score, relation) if module is not None for p in module.parameters()]
        gradients = torch.autograd.grad((output * v.cos()).sum(), [*leaves, *parameters], materialize_grads=True,
                                        allow_unused=True)  # fmt: skip
        results.append([output, *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 40), st.integers(0, 9), st.integers(0, 9), st.integers(1, 3), st.sampled_from(["mask", "none"]),
    st.sampled_from(["window", "causal", "segments", "either"]), st.sampled_from(sorted(SCORES)),
    st.sampled_from([None, "alibi", "t5", "vectors"]), st.integers(1, 5), st.sampled_from([1, 4, 11, 100]),
    st.integers(0, 2),
)  # fmt: skip
def test_band_of_many_chunks_equals_the_reference(
    count, left, right, batch, padding, kind, score, relation, chunk, slab, prefix):  # fmt: skip
    generator = torch.Generator().manual_seed(count)
    mask = torch.rand(batch, count, generator=generator) < 0.7 if padding == "mask" else None
    sets = VectorSet(torch.zeros(batch, count, 1), mask, layout="sequence")
    ids = torch.randint(0, 2, (batch, count), generator=generator)
    structure = {
        "window": Window(left, right),
        "causal": Window(left, right) & Causal(),
        "segments": Window(left, right) & Segments(ids),
        "either": Window(left, 0) | Window(0, right),
    }[kind]
    if prefix and kind in ("window", "either"):
        sets, count = sets.with_prefix(torch.zeros(prefix, 1)), count + prefix
    relation = None if relation is None else SEQUENCE_RELATIONS[relation](2, 4).double()
    kept, banded.MIN_CHUNK, banded.SLAB = (banded.MIN_CHUNK, banded.SLAB), chunk, slab
    try:
        same_as_reference(*tensors(batch, 2, count), sets, structure, "banded", SCORES[score](2, 4).double(), relation)
    finally:
        banded.MIN_CHUNK, banded.SLAB = kept


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 2), st.booleans(), st.booleans(),
       st.sampled_from(["segments", "causal", "window"]), st.sampled_from([None, "alibi", "vectors"]))  # fmt: skip
def test_packed_segments_of_many_lengths_equal_the_reference(count, segments, batch, sort, padded, kind, relation):
    generator = torch.Generator().manual_seed(count)
    ids = torch.randint(-3, segments - 3, (batch, count), generator=generator)
    ids = ids.sort(1).values if sort else ids
    mask = torch.rand(batch, count, generator=generator) < 0.7 if padded else None
    sets = VectorSet(torch.zeros(batch, count, 1), mask, layout="sequence")
    structure = {"segments": Full(), "causal": Causal(), "window": Window(2, 1)}[kind] & Segments(ids)
    relation = None if relation is None else SEQUENCE_RELATIONS[relation](2, 4).double()
    same_as_reference(*tensors(batch, 2, count), sets, structure, "packed", relation=relation)


def test_buckets_hold_each_vector_once_and_pad_little():
    lengths = torch.tensor([16, 500, 17, 90, 100, 33, 16])
    ids = torch.arange(7).repeat_interleave(lengths)[None]
    buckets = packed._buckets(ids)
    rows = torch.cat([rows[valid] for rows, valid in buckets])
    assert torch.equal(rows.sort().values, torch.arange(int(lengths.sum())))
    assert sum(rows.numel() for rows, _ in buckets) <= (1 + packed.MAX_PADDING) * int(lengths.sum())
    assert all(len(ids[0, rows[s][valid[s]]].unique()) == 1 for rows, valid in buckets for s in range(len(rows)))


def graph(nodes, edges, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, nodes * nodes, (edges,), generator=generator).unique()
    return Edges(torch.stack([codes % nodes, codes // nodes]))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("score", ["scaled_dot", "additive_leaky", "split_additive"])
def test_edges_equal_the_same_pairs_as_a_dense_mask(score, dtype, tolerance):
    torch.manual_seed(0)
    sets, structure = VectorSet(torch.zeros(1, 50, 1)), graph(50, 200)
    score, results = SCORES[score](2, 4).to(dtype), []
    for pairs in (structure, Dense(structure.allowed(sets, sets))):
        leaves = [t.requires_grad_() for t in tensors(1, 2, 50, dtype=dtype)]
        output = attend(*leaves, sets, sets, pairs, score=score, kernel="edges" if pairs is structure else "auto")
        results.append([output, *torch.autograd.grad(output.square().mean(), [*leaves, *score.parameters()])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def test_edges_of_cross_attention_and_batches():
    torch.manual_seed(0)
    queries, keys = VectorSet(torch.zeros(2, 3, 1)), VectorSet(torch.zeros(2, 5, 1))
    structure = Edges(torch.tensor([[0, 3, 4, 9, 5], [0, 0, 2, 3, 5]]))  # key of 2 x 5, query of 2 x 3
    q, k, v = (torch.randn(2, 2, n, 4).double() for n in (3, 5, 5))
    output = attend(q, k, v, queries, keys, structure, kernel="edges")
    torch.testing.assert_close(output, attend(q, k, v, queries, keys, structure, kernel="reference"))
    assert torch.equal(output[0, :, 1], torch.zeros(2, 4).double()) and not torch.equal(
        output[1, :, 0], output[1, :, 1]
    )


def test_permuting_the_edges_changes_nothing():
    sets, structure, (q, k, v) = VectorSet(torch.zeros(1, 20, 1)), graph(20, 80), tensors(1, 2, 20)
    order = torch.randperm(structure.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    permuted = Edges(structure.edge_index[:, order])
    run = lambda s: attend(q, k, v, sets, sets, s, kernel="edges")  # noqa: E731
    assert torch.equal(run(structure), run(permuted))
    with pytest.raises(ShapeError, match=r"given more than once \(first: key 1 -> query 0\)"):
        Edges(torch.tensor([[1, 0, 1], [0, 2, 0]]))


@pytest.mark.parametrize("relation", [None, "t5"])
def test_half_precision_over_few_keys_is_trained_in_single_precision(relation):
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    sets = VectorSet(torch.zeros(3, 5, 1), mask, layout="sequence")
    bias = None if relation is None else SEQUENCE_RELATIONS[relation](2, 4).float()
    leaves = [t.requires_grad_() for t in tensors(3, 2, 5, dtype=torch.bfloat16)]
    exact = [t.detach().float().requires_grad_() for t in leaves]
    outputs = [attend(*three, sets, sets, Causal(), relation=bias, kernel="dense") for three in (leaves, exact)]
    assert outputs[0].dtype == torch.bfloat16 and outputs[0][2].abs().max() == 0
    torch.testing.assert_close(outputs[0], outputs[1].bfloat16(), atol=0, rtol=0)
    gradients = [torch.autograd.grad(output.float().sum(), three) for output, three in zip(outputs, (leaves, exact))]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected.bfloat16(), atol=0, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(
            attend(*leaves, sets, sets, Causal(), relation=bias, kernel="dense"), outputs[0], atol=0.03, rtol=0.03
        )


def test_half_precision_edges_are_computed_in_single_precision():
    sets, structure = VectorSet(torch.zeros(1, 30, 1)), graph(30, 100)
    q, k, v = tensors(1, 2, 30, dtype=torch.bfloat16)
    output = attend(q, k, v, sets, sets, structure, kernel="edges")
    expected = attend(q.float(), k.float(), v.float(), sets, sets, structure, kernel="edges")
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected.bfloat16(), atol=0, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            attend(q.float(), k.float(), v.float(), sets, sets, structure, kernel="edges"), expected
        )


@pytest.mark.parametrize("kernel, structure", [("edges", graph(600, 3000)), ("dense", Full()), ("reference", Full())])
def test_dropout_of_weights_keeps_the_mean(kernel, structure):
    torch.manual_seed(0)
    sets, (q, k, v) = VectorSet(torch.zeros(1, 600, 1)), tensors(1, 2, 600)
    whole = attend(q, k, v, sets, sets, structure, kernel=kernel)
    dropped = [attend(q, k, v, sets, sets, structure, kernel=kernel, dropout=0.5) for _ in range(60)]
    assert not torch.equal(dropped[0], dropped[1])
    assert (torch.stack(dropped).mean(0) - whole).abs().mean() < 0.25 * (dropped[0] - whole).abs().mean()


def sequence(count):
    return VectorSet(torch.zeros(1, count, 1), layout="sequence")


def explained(structure, sets, score=None, relation=None, kernel="auto"):
    q = torch.zeros(1, 1, sets.num_vectors, 4)
    return explain_kernel(q, q, q, sets, sets, structure, score=score, relation=relation, kernel=kernel)


def test_the_table_chooses_by_structure_score_and_size():
    ids = torch.arange(400)[None] // 50
    free = VectorSet(torch.zeros(1, 400, 1))
    additive, sparse = Additive(1, 4), ScaledDot(1, 4, normalizer="sparsemax")
    assert explained(Full(), sequence(9)) == "dense: a dot score runs on PyTorch's fused kernel"
    assert explained(Full(), sequence(9), additive) == "reference: no fused kernel does this score or relation"
    assert explained(Window(8, 8), sequence(2000)).startswith("banded: a window over a long sequence is linear")
    assert explained(Window(8, 8), sequence(100)).startswith("dense:")  # too short to be worth it
    assert explained(Window(900, 900), sequence(2000)).startswith("dense:")  # as wide as the sequence
    assert explained(Window(8, 8) & Causal(), sequence(2000), additive).startswith("banded:")
    assert explained(Segments(ids), free).startswith("packed: segments are computed apart")
    assert explained(graph(400, 1000), free).startswith("edges: few pairs are edges")
    assert explained(graph(400, 1000), free, additive).startswith("edges:")
    assert explained(graph(400, 1000) & Segments(ids), free).startswith("edges:")
    assert explained(graph(40, 1000), VectorSet(torch.zeros(1, 40, 1))).startswith("dense:")
    assert explained(graph(400, 1000), free, sparse).startswith("reference:")
    assert explained(Window(8, 8), sequence(2000), relation=RelativeVectors(1, 4, values=True)).startswith("reference:")
    assert explained(Full(), sequence(9), kernel="reference") == "reference: asked for by name"


def test_a_forced_kernel_says_why_it_cannot():
    positions = sequence(9).replace(pos=torch.arange(9.0)[None, :, None], layout="sequence")
    ids = torch.zeros(1, 9, dtype=torch.long)
    for structure, sets, kernel, reason in (
        (Full(), sequence(9), "edges", "Full is no graph"),
        (Causal(), sequence(9), "banded", r"Causal has no limit on both sides; give Window\(left, right\)"),
        (Window(1, 1) & Dense(torch.ones(9, 9) > 0), sequence(9), "banded", "holds a mask or edges"),
        (Window(1, 1), VectorSet(torch.zeros(1, 9, 1), pos=positions.pos), "banded", "layout='sequence'"),
        (Full(), sequence(9), "packed", "Full is not Segments"),
        (Segments(ids) & Dense(torch.ones(9, 9) > 0), sequence(9), "packed", "Dense holds a mask or edges"),
        (Segments(ids, ids), sequence(9), "packed", "must be one set"),
    ):
        with pytest.raises(ShapeError, match=f"kernel '{kernel}' cannot do this: .*{reason}"):
            explained(structure, sets, kernel=kernel)
    with pytest.raises(ShapeError, match="did you mean 'banded'"):
        explained(Full(), sequence(9), kernel="bandit")


def test_nothing_quadratic_beyond_the_stated_size_unless_asked_for(monkeypatch):
    monkeypatch.setattr(kernels, "MAX_DENSE_PAIRS", 100)
    window = Window(1, 1)
    sets = VectorSet(torch.zeros(1, 21, 1), pos=torch.arange(21.0)[None, :, None])
    message = r"441 pairs would be computed with a dense mask \(limit 100\).*layout='sequence'"
    with pytest.raises(ShapeError, match=message):
        explained(window, sets)
    assert explained(window, sets, kernel="dense") == "dense: asked for by name"
    assert explained(graph(20, 60), VectorSet(torch.zeros(1, 20, 1))).startswith("edges:")  # dense, but too large


def test_the_band_grows_with_the_length_and_not_its_square(monkeypatch):
    """Counted, not timed: the pairs of queries and keys that are computed."""
    computed = []
    run = banded.small_dense

    def counting(case):
        computed.append(kernels.num_pairs(case))
        return run(case)

    monkeypatch.setattr(banded, "small_dense", counting)
    for count in (2048, 4096, 65_536):
        q, k, v = tensors(1, 1, count, dtype=torch.float32)
        attend(q, k, v, sequence(count), sequence(count), Window(64, 64))
    assert computed[1] < 2.1 * computed[0] and sum(computed[2:]) < 33 * computed[0]


def test_an_edge_list_never_goes_stale():
    """Found under no_grad or inference_mode, changed in place, asked for by other sizes: what the edges say now."""
    torch.manual_seed(0)
    sets, (q, k, v) = VectorSet(torch.zeros(1, 12, 1)), tensors(1, 2, 12)
    chain = torch.stack([torch.arange(12), (torch.arange(12) + 1) % 12])
    attr = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    relation, structure = EdgeFeatures(2, 4, edge_dim=3).double(), Edges(chain.clone(), attr)
    run = lambda kernel="edges": attend(q, k, v, sets, sets, structure, relation=relation, kernel=kernel)  # noqa: E731
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            run()
        run().sum().backward()
        assert attr.grad is not None and attr.grad.abs().sum() > 0
        attr.grad = None
    with torch.no_grad():
        attr.add_(1.0)
    torch.testing.assert_close(run(), run("reference"))
    structure.edge_index[0] = (structure.edge_index[0] + 5) % 12
    torch.testing.assert_close(run(), run("reference"))
    two = VectorSet(torch.zeros(2, 6, 1))
    with pytest.raises(ShapeError, match="joins two samples"):
        attend(*(t.view(2, 2, 6, 4) for t in (q, k, v)), two, two, structure, relation=relation, kernel="edges")
    for combined in (structure, structure | Edges(chain.flip(0)), structure & Full()):
        again = pickle.loads(pickle.dumps(copy.deepcopy(combined)))
        expected = attend(q, k, v, sets, sets, combined, relation=relation)
        torch.testing.assert_close(attend(q, k, v, sets, sets, again, relation=relation), expected)


@pytest.mark.parametrize("kernel", ["edges", "dense", "reference", "auto"])
def test_a_prefix_never_carries_the_future(kernel):
    sets = sequence(40).with_prefix(torch.zeros(1, 1))
    structure = graph(40, 60).shifted(1, 40) & Causal()
    with pytest.raises(ShapeError, match="would leak"):
        attend(*tensors(1, 2, 41), sets, sets, structure, kernel=kernel)


def test_frozen_scores_pass_gradients_on_and_swapped_ones_are_refused():
    sets, structure = VectorSet(torch.zeros(1, 20, 1)), graph(20, 60)
    score = Additive(2, 4).double().requires_grad_(False)
    leaves = [t.requires_grad_() for t in tensors(1, 2, 20)]
    for kernel in ("edges", "reference"):
        attend(*leaves, sets, sets, structure, score=score, kernel=kernel).sum().backward()
    swapped = score.weight.clone().requires_grad_()

    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.score = score

        def forward(self, kernel):
            return attend(*leaves, sets, sets, structure, score=self.score, kernel=kernel).sum()

    with pytest.raises(ShapeError, match=r"functional_call.*kernel='reference'"):
        torch.func.functional_call(Holder(), {"score.weight": swapped}, ("edges",)).backward()
    torch.func.functional_call(Holder(), {"score.weight": swapped}, ("reference",)).backward()
    assert swapped.grad.abs().sum() > 0


def test_integers_of_every_kind_serve_as_ids_and_indices():
    (q, k, v), sets = tensors(2, 1, 300), VectorSet(torch.zeros(2, 300, 1))
    ids = torch.where(torch.arange(300) < 100, 0, 255).expand(2, -1)
    expected = attend(q, k, v, sets, sets, Segments(ids), kernel="dense")
    torch.testing.assert_close(attend(q, k, v, sets, sets, Segments(ids.to(torch.uint8)), kernel="packed"), expected)
    with pytest.raises(ShapeError, match=r"integer \(B, N\), not torch.bool"):
        Segments(ids > 0)
    structure = graph(300, 900)
    one = VectorSet(torch.zeros(1, 300, 1))
    small = Edges(structure.edge_index.to(torch.int16))
    for kernel in ("edges", "dense"):
        found = attend(q[:1], k[:1], v[:1], one, one, small, kernel=kernel)
        torch.testing.assert_close(found, attend(q[:1], k[:1], v[:1], one, one, structure, kernel=kernel))


def test_positions_are_kept_exactly_and_a_band_asks_for_positions_that_count_on():
    late = VectorSet(torch.zeros(1, 2, 1), pos=torch.tensor([[[2**24], [2**24 + 1]]]))
    assert Causal().allowed(late, late)[0, 0].tolist() == [[True, False], [True, True]]
    count = 600
    q, k, v = tensors(1, 1, count)
    for pos, kernel in ((torch.arange(count) + 7, "banded"), (2 * torch.arange(count), "dense")):
        sets = VectorSet(torch.zeros(1, count, 1), pos=pos[None, :, None], layout="sequence")
        assert explained(Window(3, 3), sets).startswith(kernel)
        output = attend(q, k, v, sets, sets, Window(3, 3))
        torch.testing.assert_close(output, attend(q, k, v, sets, sets, Window(3, 3), kernel="reference"))


def test_pairs_that_a_relation_adds_vectors_to_are_limited_too(monkeypatch):
    monkeypatch.setattr(kernels, "MAX_PAIRWISE_ELEMENTS", 1000)
    with pytest.raises(ShapeError, match="RelativeVectors compares every pair, 1600 numbers at once"):
        explained(Full(), sequence(20), relation=RelativeVectors(1, 4, values=True))


def test_a_score_made_for_other_heads_is_refused():
    with pytest.raises(ShapeError, match="ScaledDot was made for 2 heads of width 64; these are 1 of width 4"):
        explained(Full(), sequence(3), ScaledDot(2, 64))

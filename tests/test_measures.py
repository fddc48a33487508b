"""Attention through the layers and head by head: cases computed by hand, and what published code gives."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vsattn import (
    AttentionHead,
    ClsHead,
    Dense,
    Edges,
    EncoderDecoder,
    InducedEncoder,
    LatentEncoder,
    MeanHead,
    Model,
    PoolingHead,
    Record,
    TransformerDecoder,
    TransformerEncoder,
    VectorHead,
    VectorSet,
    record,
)
from vsattn.encoders import RecurrentEncoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers import FeedForward
from vsattn.measures import Step, head_measures, relevance, rollout, rollouts, steps_of
from vsattn.measures.relevance import normalized, relevances
from vsattn.tokenizers.text_pairs import TokenEmbedder

DOUBLE = torch.float64

#: ``softmax(sin(0.37 k^2 + 1.7 k))``, k = 1 .. 96, as three layers of two heads of four vectors, the mean of the heads,
#: by ``compute_joint_attention`` of samiraabnar/attention_flow, attention_graph_util, commit 3e53e4c; the third layer's
#: is also what ``compute_rollout_attention`` of hila-chefer/Transformer-MM-Explainability, commit 14e55ee, gives.
ROLLED = {
    1: [
        [0.417089920936, 0.155521178046, 0.219095862362, 0.208293038656],
        [0.115191573041, 0.475163486461, 0.230830909479, 0.178814031019],
        [0.186720514001, 0.151407327575, 0.496488574435, 0.165383583989],
        [0.187713510547, 0.245241791963, 0.167983589523, 0.399061107968],
    ],
    2: [
        [0.327211285486, 0.210748333712, 0.246054207983, 0.215986172818],
        [0.177328623265, 0.345756793985, 0.287302037767, 0.189612544984],
        [0.194492905059, 0.213763876875, 0.395504671785, 0.196238546281],
        [0.204296489875, 0.25116441744, 0.238104345444, 0.306434747242],
    ],
}

#: What ``Generator.generate_ours(use_lrp=False)`` of hila-chefer/Transformer-MM-Explainability,
#: DETR/modules/ExplanationGenerator.py, commit 14e55ee, gives for :func:`published`, built of torch.nn layers anew:
#: ``R_i_i``, ``R_q_q`` and ``R_q_i`` for token 5 at place 3.
SOURCE = [
    [1.00038474314, 0.0018526191954, 0.00233960580773, 0.00288688600708, 0.00196287633486],
    [0.0133333758778, 1.00017149642, 0.00229465236649, 0.00100172801536, 0.0015177463268],
    [0.00291694715987, 0.00678797756213, 1.00418564669, 0.00949566381625, 0.00531033794601],
    [0.000300868127337, 0.0096429321845, 0.00714691602576, 1.01013375675, 0.00543488556029],
    [0.00266287819982, 0.036827916, 0.00473160042951, 0.0108332263106, 1.00853529711],
]
TARGET = [
    [1.02336613682, 0.0, 0.0, 0.0],
    [0.0113747935638, 1.00049558104, 0.0, 0.0],
    [0.00347568941387, 0.00119919449457, 1.00142809401, 0.0],
    [0.0303715556268, 0.00570912302298, 0.0135137055637, 1.01504051748],
]
CROSS = [
    [0.00242956689484, 0.00146135576159, 0.00354103753692, 0.00161762975602, 0.00177750108941],
    [7.32062858569e-05, 4.60820585751e-05, 0.000183927688043, 6.62129924783e-05, 3.90927470256e-05],
    [0.000432405649135, 0.000225783035313, 0.000846911883124, 0.000326830903142, 0.000195737919749],
    [0.000140671305415, 0.000251509185853, 0.00115586120955, 0.0003444478268, 0.000207870818332],
]
#: ``R_i_i`` of its encoder and head alone for class 5 of the first vector.
ALONE = [
    [1.0157901788, 0.198080601284, 0.11760783289, 0.184400035253, 0.139069156917],
    [0.00289327168774, 1.00376769484, 0.0176828615677, 0.0489916440435, 0.0175213708267],
    [0.00726282938444, 0.010916443569, 1.00227491807, 0.00934715630923, 0.0048281025465],
    [0.00168470291012, 0.00553970238629, 0.00247382958119, 1.00402574465, 0.0029043639816],
    [0.0168287737538, 0.0373093184813, 0.00132637709102, 0.00525801001487, 1.00582236045],
]


def tensor(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=DOUBLE)


def waves(count: int) -> Tensor:
    k = torch.arange(1, count + 1, dtype=DOUBLE)
    return (0.37 * k * k + 1.7 * k).sin()


class Given(nn.Module):
    """An embedder for batches that hold the set itself."""

    def forward(self, batch: dict[str, Any]) -> VectorSet:
        return batch["set"]


def model(encoder: nn.Module, head: nn.Module, seed: int = 0) -> Model:
    """A model of random weights in double precision, so large that heads look at something."""
    generator = torch.Generator().manual_seed(seed)
    made = Model(Given(), encoder, head).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=DOUBLE) * 0.5)
    return made


def published() -> EncoderDecoder:
    """The model whose relevances were computed by the published code, weights by :func:`waves`."""
    made = EncoderDecoder(
        TokenEmbedder("source", 9, 8, scale=False),
        TransformerEncoder(8, 2, 2, feed_forward=partial(FeedForward, ratio=2.0)),
        TransformerDecoder(8, 2, 2, feed_forward=partial(FeedForward, ratio=2.0)),
        VectorHead(8, 9),
        target_embedder=TokenEmbedder("target", 9, 8, scale=False),
    )
    made = made.double().eval()
    with torch.no_grad():
        for place, (name, parameter) in enumerate(sorted(made.named_parameters())):
            k = torch.arange(1, parameter.numel() + 1, dtype=DOUBLE)
            wave = (0.37 * k * k + 1.7 * k + place).sin().view(parameter.shape)
            is_scale = "norm" in name and name.endswith("weight")
            parameter.copy_(1 + 0.2 * wave if is_scale else 0.5 * wave)
    return made


# Rollout


def test_rollout_by_hand_goes_from_the_first_layer_to_the_last() -> None:
    first, last = tensor([[[[1, 0], [0.5, 0.5]]]]), tensor([[[[0, 1], [0, 1]]]])
    one, two = rollout([first, last])
    assert torch.equal(one[0], tensor([[1, 0], [0.25, 0.75]]))
    assert torch.equal(two[0], tensor([[0.625, 0.375], [0.25, 0.75]]))  # the other way round: 0.5, 0.5; 0.125, 0.875
    assert torch.equal(rollout([first, last], residual=0.0)[1][0], tensor([[0.5, 0.5], [0.5, 0.5]]))


def test_rollout_is_what_published_code_computes() -> None:
    weights = list(waves(96).view(3, 1, 2, 4, 4).softmax(-1))
    found = rollout(weights)
    for layer, rows in ROLLED.items():
        torch.testing.assert_close(found[layer][0], tensor(rows), atol=1e-11, rtol=0)


@pytest.mark.parametrize("heads", ["mean", "max", "min"])
def test_rows_of_real_vectors_sum_to_1_and_others_are_0(heads: Any) -> None:
    mask = torch.tensor([[True, True, True], [True, True, False]])
    weights = waves(2 * 2 * 2 * 9).view(2, 2, 2, 3, 3).masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
    weights[0, 0, :, 1] = 0.0  # a vector that sees nothing stays itself
    first, last = rollout(list(weights), heads=heads, mask=mask)
    torch.testing.assert_close(last.sum(-1), mask.double())
    assert not last[1, :, 2].any()
    assert torch.equal(first[0, 1], tensor([0, 1, 0]))
    alone = rollout([weights[0, 1:, :, :2, :2], weights[1, 1:, :, :2, :2]], heads=heads)[1]
    torch.testing.assert_close(alone[0], last[1, :2, :2])


def test_heads_are_fused_by_hand() -> None:
    weights = tensor([[[[1, 0], [0, 1]], [[0.5, 0.5], [0.5, 0.5]]]])
    assert torch.equal(rollout([weights], residual=0.0)[0][0], tensor([[0.75, 0.25], [0.25, 0.75]]))
    found = rollout([weights], residual=0.0, heads="max")[0][0]
    torch.testing.assert_close(found, tensor([[2 / 3, 1 / 3], [1 / 3, 2 / 3]]))
    assert torch.equal(rollout([weights], residual=0.0, heads="min")[0][0], tensor([[1, 0], [0, 1]]))


def test_what_rollout_refuses() -> None:
    weights = torch.full((1, 1, 2, 2), 0.5)
    with pytest.raises(ConfigError, match=r"residual is in \[0, 1\), not 1"):
        rollout([weights], residual=1.0)
    with pytest.raises(ConfigError, match="heads is 'mean', 'max' or 'min', not 'sum'"):
        rollout([weights], heads="sum")  # type: ignore[arg-type]
    for wrong in ([], [weights[0]], [weights, torch.full((1, 1, 3, 3), 1 / 3)]):
        with pytest.raises(ShapeError, match="of one layer or more, all alike"):
            rollout(wrong)


def test_rollout_over_several_sets_by_hand() -> None:
    own = Step("input", "input", tensor([[[[0, 1], [0, 1]]]]))  # becomes 0.5, 0.5; 0, 1
    written = Step("target", "target", tensor([[[[1, 0], [1, 0]]]]))  # nothing of the input yet
    cross = Step("target", "input", tensor([[[[1, 0], [0, 1]]]]))
    found = rollouts([own, written, cross, written])
    assert torch.equal(found["input"][0], tensor([[0.5, 0.5], [0, 1]]))
    assert torch.equal(found["target"][0], tensor([[0.5, 0.5], [0.25, 0.75]]))  # half of the second is the first


@pytest.mark.parametrize(
    "encoder",
    [
        partial(TransformerEncoder, 8, 2, 2, num_prefix=1),
        partial(LatentEncoder, 8, 2, 2, num_latents=3),
        partial(InducedEncoder, 8, 2, 2, num_inducing=3),
    ],
)
@pytest.mark.parametrize("head", [MeanHead, AttentionHead, partial(PoolingHead, num_heads=2, num_seeds=5)])
def test_rollout_of_whole_models_sums_to_1_over_real_vectors(encoder: Any, head: Any) -> None:
    made = model(encoder(), head(8, 3))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    batch = {"set": VectorSet(waves(80).view(2, 5, 8), mask, layout="sequence")}
    with record(made) as recording, torch.no_grad():
        made(batch)
    found = rollouts(steps_of(made, recording))
    prefix = found["input"].shape[-1] - 5
    assert not found["input"][1, :, prefix + 3 :].any()
    for name, rows in found.items():
        wanted = torch.cat([torch.ones(2, prefix), mask], 1).double() if name == "input" else torch.ones(rows.shape[:2])
        torch.testing.assert_close(rows.sum(-1), wanted.to(rows.dtype))


# Relevance


def test_relevance_by_hand() -> None:
    steps = [
        Step("input", "input", tensor([[[[0.5, 0.5], [0, 1]]]]), tensor([[[[1, -1], [2, 0.5]]]])),
        Step("input", "input", tensor([[[[0.25, 0.75], [0.5, 0.5]]]]), tensor([[[[2, 4], [1, 0]]]])),
        Step("target", "target", tensor([[[[1.0]]]]), tensor([[[[2.0]]]])),
        Step("target", "input", tensor([[[[0.2, 0.8]]]]), tensor([[[[5.0, 0.5]]]])),
        Step("target", "target", tensor([[[[1.0]]]]), tensor([[[[0.5]]]])),
    ]
    found = relevances(steps)
    torch.testing.assert_close(found["input", "input"][0], tensor([[2.25, 4.5], [0.75, 1.5]]))
    torch.testing.assert_close(found["target", "target"][0], tensor([[4.5]]))
    # norm(R_tt) = 2; norm(R_ii) = [1 + 1.25/5.75, 4.5/5.75], [0.75/1.25, 1 + 0.5/1.25]; A' = [1, 0.4]
    read = 2 * torch.tensor([1 + 1.25 / 5.75 + 0.4 * 0.6, 4.5 / 5.75 + 0.4 * 1.4], dtype=DOUBLE)
    torch.testing.assert_close(found["target", "input"][0, 0], 1.5 * read)


def test_what_was_read_and_is_read_back_is_added_by_hand() -> None:
    """Eq. 11, and a pool that reads both by way of the latents."""
    to_latent = Step("latent", "input", tensor([[[[0.5, 0.5]]]]), tensor([[[[2.0, 4.0]]]]))  # A' = [1, 2]
    back = Step("input", "latent", tensor([[[[1.0], [1.0]]]]), tensor([[[[3.0], [-1.0]]]]))  # A' = [3], [0]
    found = relevances([to_latent, back])
    torch.testing.assert_close(found["latent", "input"][0], tensor([[1, 2]]))
    torch.testing.assert_close(found["input", "input"][0], tensor([[1 + 3 * 1, 3 * 2], [0, 1]]))
    torch.testing.assert_close(found["input", "latent"][0], tensor([[3], [0]]))


def test_heads_of_both_signs_by_hand() -> None:
    weights = tensor([[[[0.5, 0.5], [1, 0]], [[0.5, 0.5], [0, 1]]]])
    gradient = tensor([[[[4, -4], [1, 1]], [[-4, 8], [1, 3]]]])
    (found,) = relevances([Step("input", "input", weights, gradient)]).values()
    torch.testing.assert_close(found[0], tensor([[1 + 1, 2], [0.5, 1 + 1.5]]))  # positive parts, then the mean


def test_normalized_by_hand_and_a_row_of_nothing_stays() -> None:
    found = normalized(tensor([[[2, 3], [0, 1]]]))
    torch.testing.assert_close(found, tensor([[[1.25, 0.75], [0, 1]]]))


def test_relevance_of_an_encoder_decoder_is_what_published_code_computes() -> None:
    batch = {"source": torch.tensor([[3, 5, 7, 4, 2]]), "target": torch.tensor([[1, 6, 8, 3, 5]])}
    made = published()
    found = relevance(made, batch, targets=torch.tensor([[3, 5]]))
    torch.testing.assert_close(found.source[0], tensor(SOURCE), atol=2e-11, rtol=0)
    assert found.target is not None and found.cross is not None
    torch.testing.assert_close(found.target[0], tensor(TARGET), atol=2e-11, rtol=0)
    torch.testing.assert_close(found.cross[0], tensor(CROSS), atol=1e-13, rtol=0)
    assert torch.equal(found.answer, found.cross[:, 3])
    assert all(parameter.grad is None for parameter in made.parameters())


def test_relevance_of_an_encoder_is_what_published_code_computes() -> None:
    whole = published()
    encoder = Model(whole.embedder, whole.encoder, whole.head).eval()
    found = relevance(encoder, {"source": torch.tensor([[3, 5, 7, 4, 2]])}, targets=torch.tensor([[0, 5]]))
    torch.testing.assert_close(found.source[0], tensor(ALONE), atol=2e-11, rtol=0)
    assert torch.equal(found.answer, found.source[:, 0]) and found.cross is None and found.target is None


def test_padding_and_company_change_no_relevance() -> None:
    made = published()
    alone = {"source": torch.tensor([[3, 5, 7, 4, 2]]), "target": torch.tensor([[1, 6, 8, 3, 5]])}
    both = {
        "source": torch.tensor([[3, 5, 7, 4, 2, 0, 0], [8, 7, 6, 5, 4, 3, 2]]),
        "target": torch.tensor([[1, 6, 8, 3, 5, 0], [1, 2, 3, 4, 5, 6]]),
    }
    one, two = relevance(made, alone), relevance(made, both)
    torch.testing.assert_close(two.source[:1, :5, :5], one.source)
    torch.testing.assert_close(two.answer[:1, :5], one.answer)
    assert not two.answer[0, 5:].any() and two.target is not None and one.target is not None
    torch.testing.assert_close(two.target[:1, :4, :4], one.target)


def test_edges_and_the_same_pairs_as_a_mask_have_one_relevance() -> None:
    allowed = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    query, key = allowed.nonzero().T
    sets = [
        VectorSet(waves(32).view(1, 4, 8), structure=structure)
        for structure in (Edges(torch.stack([key, query])), Dense(allowed))
    ]
    made = model(TransformerEncoder(8, 2, 2), VectorHead(8, 3))
    found = [relevance(made, {"set": one}, targets=torch.tensor([[1, 2]])).source for one in sets]
    torch.testing.assert_close(found[0], found[1])
    assert torch.equal(found[0][0, 3], tensor([0, 0, 0, 1]))  # it sees nothing
    assert not found[0][0][:3][~allowed[:3] & ~torch.eye(4, dtype=torch.bool)[:3]].all()


@pytest.mark.parametrize(
    ("head", "prefix", "row"),
    [
        (AttentionHead, 1, lambda found: found.cross[:, 0]),
        (partial(PoolingHead, num_heads=2, num_seeds=2), 1, lambda found: found.cross.mean(1)),
        (ClsHead, 2, lambda found: found.source[:, 0]),
        (MeanHead, 1, lambda found: torch.stack([found.source[0, 1:].mean(0), found.source[1, 1:4].mean(0)])),
    ],
)
def test_the_row_of_an_answer(head: Any, prefix: int, row: Any) -> None:
    made = model(TransformerEncoder(8, 2, 2, num_prefix=prefix), head(8, 3))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    batch = {"set": VectorSet(waves(80).view(2, 5, 8), mask, layout="sequence")}
    found = relevance(made, batch)
    torch.testing.assert_close(found.answer, row(found))
    assert not found.answer[1, prefix + 3 :].any() and bool((found.answer[:, prefix:] > 0).any())
    given = relevance(made, batch, targets=made(batch).argmax(-1))
    assert torch.equal(found.answer, given.answer)
    other = relevance(made, batch, targets=(made(batch).argmax(-1) + 1) % 3)
    assert not torch.allclose(found.answer, other.answer)


def test_what_relevance_refuses() -> None:
    batch = {"set": VectorSet(waves(40).view(1, 5, 8), layout="sequence")}
    with pytest.raises(ConfigError, match="RecurrentEncoder brings vectors together otherwise"):
        relevance(model(RecurrentEncoder(8, 1, hidden_dim=4), MeanHead(8, 3)), batch)
    made = model(TransformerEncoder(8, 1, 2), MeanHead(8, 3))
    with pytest.raises(ShapeError, match=r"targets are a class for each sample, \(1,\), not \(1, 2\)"):
        relevance(made, batch, targets=torch.tensor([[0, 1]]))
    with torch.inference_mode():  # where no gradient is, it makes its own
        assert relevance(made, batch).answer.shape == (1, 5)
    with pytest.raises(ConfigError, match=r"in training mode.*call model.eval\(\)"):
        relevance(made.train(), batch)
    with record(made, queries=[0]) as recording:
        made(batch)
    with pytest.raises(ShapeError, match="all queries are needed"):
        steps_of(made, recording)


# Heads


def recorded(weights: Tensor, vectors: VectorSet, **changes: Any) -> Record:
    """A record of self-attention."""
    held: dict[str, Any] = {
        "path": "a", "kind": "self", "heads": tuple(range(weights.shape[1])), "weights": weights,
        "queries": torch.arange(vectors.num_vectors), "query_set": vectors, "key_set": vectors,
    }  # fmt: skip
    return Record(**{**held, **changes})


def empty(*size: int, **fields: Any) -> VectorSet:
    return VectorSet(torch.zeros(*size, 0), **fields)


def values(found: dict[str, Tensor | None]) -> dict[str, Any]:
    return {name: None if value is None else value.tolist() for name, value in found.items()}


def test_measures_of_heads_by_hand() -> None:
    even, own = torch.full((3, 3), 1 / 3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE)
    found = head_measures(recorded(torch.stack([even, own])[None], empty(1, 3, layout="sequence")))
    assert values(found) == {
        "entropy": pytest.approx([math.log(3), 0.0]),
        "entropy_share": [pytest.approx(1.0), pytest.approx(math.nan, nan_ok=True)],  # one key has no choice
        "distance": pytest.approx([(1 + 2 / 3 + 1) / 3, 0.0]),
        "sink": pytest.approx([1 / 3, 1 / 3]),
    }


def test_distance_on_a_grid_and_prefix_vectors_by_hand() -> None:
    square = torch.full((1, 1, 4, 4), 0.25, dtype=DOUBLE)
    found = head_measures(recorded(square, empty(1, 4, layout="grid", grid=(2, 2))))
    assert values(found)["distance"] == pytest.approx([(2 + math.sqrt(2)) / 4])
    # Half of each vector's weight goes to the prefix, which has no place: the other half tells the distance.
    weights = tensor([[[[1, 0, 0], [0.5, 0.25, 0.25], [0.5, 0.5, 0.0]]]])
    found = head_measures(recorded(weights, empty(1, 3, layout="sequence", num_prefix=1)))
    assert values(found)["distance"] == pytest.approx([(0.5 + 1.0) / 2])
    assert values(found)["sink"] == pytest.approx([(1 + 0.5 + 0.5) / 3])


def test_measures_along_edges_by_hand() -> None:
    edges = torch.tensor([[0, 1, 2], [0, 0, 2]])  # the vector 1 sees nothing and is left out
    weights = tensor([[0.25], [0.75], [1.0]])
    found = head_measures(recorded(weights, empty(1, 3), edges=edges))
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert values(found) == {
        "entropy": pytest.approx([entropy / 2]),
        "entropy_share": pytest.approx([entropy / math.log(2)]),
        "distance": None,
        "sink": pytest.approx([0.125]),
    }


def test_edges_and_the_same_pairs_as_a_mask_measure_alike() -> None:
    allowed = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 1]], dtype=torch.bool)
    query, key = allowed.nonzero().T
    made = model(TransformerEncoder(8, 1, 2), VectorHead(8, 3))
    measured = []
    for structure in (Edges(torch.stack([key, query])), Dense(allowed)):
        with record(made) as recording, torch.no_grad():
            made({"set": VectorSet(waves(32).view(1, 4, 8), structure=structure)})
        measured.append(values(head_measures(*recording)))
    for name, value in measured[0].items():
        assert value is None or value == pytest.approx(measured[1][name], rel=1e-9)


def test_padding_changes_no_measure_and_batches_add_up() -> None:
    made = model(TransformerEncoder(8, 1, 2, num_prefix=1), MeanHead(8, 3))
    x, lengths = waves(80).view(2, 5, 8), (5, 3)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    batches = [VectorSet(x, mask, layout="sequence")]
    batches += [VectorSet(x[i : i + 1, :n], layout="sequence") for i, n in enumerate(lengths)]
    records = []
    for one in batches:
        with record(made) as recording, torch.no_grad():
            made({"set": one})
        records.append(next(iter(recording)))
    together, apart = values(head_measures(records[0])), values(head_measures(*records[1:]))
    assert {name: pytest.approx(value) for name, value in together.items()} == apart
    assert all(0 < share < 1 for share in together["entropy_share"])


def test_cross_attention_has_no_distance_and_other_heads_are_refused() -> None:
    weights = torch.full((1, 1, 2, 3), 1 / 3, dtype=DOUBLE)
    one = Record("a", "cross", (0,), torch.arange(2), weights, empty(1, 2, layout="sequence"), empty(1, 3))
    assert head_measures(one)["distance"] is None
    with pytest.raises(ShapeError, match="records of different heads"):
        head_measures(one, Record("b", "cross", (0,), one.queries, weights, one.query_set, one.key_set))

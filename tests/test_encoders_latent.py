"""Encoders through learned vectors: Set Transformer against torch-geometric's, Perceiver against torch's layers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch_geometric.nn.aggr.utils import InducedSetAttentionBlock

from vsattn.attention import MultiHeadAttention
from vsattn.build import build
from vsattn.compose import plain_config
from vsattn.encoders import Encoder, InducedEncoder, LatentEncoder, TransformerEncoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.layers import FeedForward
from vsattn.relations import Alibi
from vsattn.structure import Causal, Dense, Segments
from vsattn.vectorset import VectorSet

DIM = 12
MAKERS = {
    "induced": partial(InducedEncoder, DIM, 2, 3, num_inducing=4),
    "induced_pre": partial(InducedEncoder, DIM, 2, 3, num_inducing=4, norm_placement="pre"),
    "latent": partial(LatentEncoder, DIM, 2, 3, num_latents=4),
    "latent_wide": partial(LatentEncoder, DIM, 1, 3, num_latents=2, latent_dim=18),
}


def moved(model):
    """Move every parameter off its start, where many are 0 or 1, and use float64."""
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.double().eval()


def made(name, **options):
    torch.manual_seed(0)
    return moved(MAKERS[name](**options))


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention):
    """Copy the weights; queries, keys and values are packed in one matrix, or not when their widths differ."""
    theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    projections = (ours.query_proj, ours.key_proj, ours.value_proj)
    with torch.no_grad():
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        if theirs.in_proj_weight is not None:
            theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
            return
        for name, projection in zip("qkv", projections):
            getattr(theirs, f"{name}_proj_weight").copy_(projection.weight)


def test_induced_blocks_equal_torch_geometrics_forward_and_backward():
    torch.manual_seed(0)

    def one_linear(dim):  # torch-geometric's rFF
        return nn.Sequential(nn.Linear(dim, dim), nn.ReLU())

    ours = moved(InducedEncoder(DIM, 2, 3, num_inducing=4, feed_forward=one_linear))
    theirs = nn.ModuleList(InducedSetAttentionBlock(DIM, 4, heads=3) for _ in range(2)).double()
    for a, b in zip(ours.blocks, theirs, strict=True):
        b.ind.data.copy_(a.vectors[None])
        for block, mab in ((a.inducing, b.mab1), (a.outer, b.mab2)):
            copy_attention(block.attention, mab.attn)
            mab.lin.load_state_dict(block.feed_forward[0].state_dict())
            mab.layer_norm1.load_state_dict(block.attention_norm.state_dict())
            mab.layer_norm2.load_state_dict(block.feed_forward_norm.state_dict())
    x = torch.randn(3, 6, DIM, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(6) < torch.tensor([[6], [4], [1]])
    output, expected = ours(VectorSet(x, mask)).x, x
    for block in theirs:
        expected = block(expected, mask)
    torch.testing.assert_close(output[mask], expected[mask], atol=1e-12, rtol=0)
    probe = torch.randn_like(output)[mask]
    got = torch.autograd.grad((output[mask] * probe).sum(), [x, *(block.vectors for block in ours.blocks)])
    want = torch.autograd.grad((expected[mask] * probe).sum(), [x, *(block.ind for block in theirs)])
    torch.testing.assert_close(got[0][mask], want[0][mask], atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.stack(got[1:]), torch.cat(want[1:]), atol=1e-12, rtol=0)


def cross_attended(block, x, y, mask=None):
    """One cross-attention block of the Perceiver, with torch's attention."""
    layer = block.attention
    width, key_width = layer.embed_dim, layer.key_proj.in_features
    theirs = nn.MultiheadAttention(width, layer.num_heads, kdim=key_width, vdim=key_width, batch_first=True).double()
    copy_attention(layer, theirs)
    query, key = (
        nn.functional.layer_norm(vectors, vectors.shape[-1:], norm.weight, norm.bias)
        for vectors, norm in ((x, block.attention_norm), (y, block.key_norm))
    )
    x = x + theirs(query, key, key, key_padding_mask=None if mask is None else ~mask)[0]
    norm, feed_forward = block.feed_forward_norm, block.feed_forward
    hidden = nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)
    return x + feed_forward.down(nn.functional.gelu(feed_forward.up(hidden)))


@pytest.mark.parametrize("name", ["latent", "latent_wide"])
def test_latent_encoder_equals_torchs_layers(name):
    ours = made(name, feed_forward=partial(FeedForward, hidden_dim=20))
    x, mask = torch.randn(3, 6, DIM).double(), torch.arange(6) < torch.tensor([[6], [4], [1]])
    latents = cross_attended(ours.encode, ours.latents.expand(3, -1, -1), x, mask)
    for block in ours.process:
        layer = nn.TransformerEncoderLayer(
            latents.shape[-1], 3, 20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        ).double()
        copy_attention(block.attention, layer.self_attn)
        layer.linear1.load_state_dict(block.feed_forward.up.state_dict())
        layer.linear2.load_state_dict(block.feed_forward.down.state_dict())
        layer.norm1.load_state_dict(block.attention_norm.state_dict())
        layer.norm2.load_state_dict(block.feed_forward_norm.state_dict())
        latents = layer(latents)
    expected = ours.norm(cross_attended(ours.decode, x, latents))
    torch.testing.assert_close(ours(VectorSet(x, mask)).x[mask], expected[mask], atol=1e-12, rtol=0)


def test_pre_norm_induced_blocks_equal_torchs_layers():
    ours = made("induced_pre")
    x, mask = torch.randn(3, 6, DIM).double(), torch.arange(6) < torch.tensor([[6], [4], [1]])
    expected = x
    for block in ours.blocks:
        found = cross_attended(block.inducing, block.vectors.expand(3, -1, -1), expected, mask)
        expected = cross_attended(block.outer, expected, found)
    torch.testing.assert_close(ours(VectorSet(x, mask)).x[mask], ours.norm(expected)[mask], atol=1e-12, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), st.lists(st.integers(0, 5), min_size=1, max_size=4))
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_padding_changes_nothing_and_a_batch_equals_its_samples(name, seed, sizes):
    model, generator = made(name), torch.Generator().manual_seed(seed)
    singles = [
        VectorSet(torch.randn(1, n, DIM, generator=generator).double(), pos=torch.rand(1, n, 2, generator=generator))
        for n in sizes
    ]
    batch = VectorSet.from_list(singles)
    if batch.mask is not None:
        batch = batch.replace(x=batch.x.masked_fill(~batch.mask[..., None], float("nan")))
    output = model(batch)
    for one, single in zip(output.unbind(), singles, strict=True):
        torch.testing.assert_close(one.x, model(single).x, atol=1e-12, rtol=0)
    assert output.mask is batch.mask and torch.equal(output.pos, batch.pos)
    if output.mask is not None:
        assert not output.x[~output.mask].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 6), st.integers(0, 2))
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_permuting_the_vectors_permutes_the_output_and_a_prefix_is_vectors_like_others(name, seed, count, prefix):
    model, generator = made(name), torch.Generator().manual_seed(seed)
    x = torch.randn(2, count, DIM, generator=generator).double()
    mask = torch.rand(2, count, generator=generator) < 0.8
    front = torch.randn(prefix, DIM, generator=generator).double()
    order = torch.randperm(count, generator=generator)
    sets = VectorSet(x, mask, layout="sequence").with_prefix(front)
    output = model(sets)
    assert output.num_prefix == prefix and output.layout == "sequence"
    permuted = model(VectorSet(x[:, order], mask[:, order]).with_prefix(front)).x
    torch.testing.assert_close(permuted[:, prefix:], output.x[:, prefix:][:, order], atol=1e-12, rtol=0)
    torch.testing.assert_close(permuted[:, :prefix], output.x[:, :prefix], atol=1e-12, rtol=0)
    torch.testing.assert_close(model(VectorSet(sets.x, sets.mask)).x, output.x, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_vectors_meet_and_an_empty_set_has_finite_outputs_and_gradients(name):
    model = made(name)
    x = torch.randn(2, 4, DIM, dtype=torch.float64, requires_grad=True)
    output = model(VectorSet(x, torch.tensor([[True, True, True, False], [False] * 4]))).x
    (gradient,) = torch.autograd.grad(output[0, 0].sum() + output.square().sum(), x, retain_graph=True)
    assert gradient.isfinite().all() and not gradient[1].any() and not gradient[0, 3].any() and not output[1].any()
    (gradient,) = torch.autograd.grad(output[0, 0, 0], x, retain_graph=True)
    assert gradient[0, :3].any(-1).all()
    output.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def flops(model, count):
    """Count the work on ``count`` vectors; the fused kernel is not counted by torch, its definition in matrices is."""
    vectors = VectorSet(torch.randn(1, count, DIM).double(), torch.ones(1, count).bool())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(vectors)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_the_work_grows_linearly_with_the_vectors(name):
    model = made(name)
    work = [flops(model, count) for count in (50, 100, 150, 200)]
    assert work[1] - work[0] == work[2] - work[1] == work[3] - work[2] > 0
    quadratic = [flops(TransformerEncoder(DIM, 2, 3).double(), count) for count in (50, 100, 150)]
    assert quadratic[2] - quadratic[1] > quadratic[1] - quadratic[0]


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_training_differs_by_dropout_alone(name):
    sets = VectorSet(torch.randn(2, 5, DIM).double())
    model = made(name)
    assert torch.equal(model.train()(sets).x, model.eval()(sets).x)
    for dropped in (made(name, dropout=0.5), made(name, drop_path=0.9)):
        assert torch.equal(dropped(sets).x, model(sets).x)
        assert any(not torch.equal(dropped.train()(sets).x, model(sets).x) for _ in range(9))


def test_drop_path_grows_with_depth_and_spares_the_learned_vectors():
    induced = InducedEncoder(8, 3, 2, drop_path=0.2)
    assert [block.outer.drop_path.p for block in induced.blocks] == pytest.approx([0.0, 0.1, 0.2])
    assert [block.inducing.drop_path.p for block in induced.blocks] == [0.0] * 3
    latent = LatentEncoder(8, 3, 2, drop_path=0.2)
    assert [layer.drop_path.p for layer in latent.process] == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_it_compiles_without_a_graph_break(name):
    model = made(name)
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    for count in (3, 5):
        sets = VectorSet(torch.randn(2, count, DIM).double(), torch.rand(2, count) < 0.7)
        torch.testing.assert_close(compiled(sets).x, model(sets).x)


@pytest.mark.parametrize("name", ["induced", "latent"])
def test_its_config_builds_it_with_the_score_that_was_chosen(name):
    config, faults = plain_config([f"encoder={name}", "score=cosine", "dim=16"])
    encoder = build(config["encoder"], Encoder, path="encoder", dim=16)
    assert not faults and type(encoder).__name__.lower().startswith(name)
    scores = {type(m.score).__name__ for m in encoder.modules() if isinstance(m, MultiHeadAttention)}
    assert scores == {"Cosine"}
    assert "has no relation" in plain_config([f"encoder={name}", "relation=relative_2d"])[1][0]


@pytest.mark.parametrize("cls", [InducedEncoder, LatentEncoder])
def test_what_learned_vectors_cannot_do_is_refused(cls):
    sets = VectorSet(torch.randn(1, 4, 8), layout="sequence")
    for structure in (Causal(), Segments(torch.zeros(1, 4).long()), Dense(torch.ones(4, 4).bool())):
        with pytest.raises(ShapeError, match=f"{type(structure).__name__} says; give it a Full set"):
            cls(8, 1, 2)(sets.replace(structure=structure))
    for option, wrong in ({"relation": Alibi}, "Alibi"), ({"structure": Causal()}, "Causal"):
        with pytest.raises(ConfigError, match=f"leave out {wrong}"):
            cls(8, 1, 2, attention=partial(MultiHeadAttention, **option))
    with pytest.raises(ConfigError, match="num_layers is at least 1, not 0"):
        cls(8, 0, 2)
    count = "num_inducing" if cls is InducedEncoder else "num_latents"
    with pytest.raises(ConfigError, match="at least one learned vector"):
        cls(8, 1, 2, **{count: 0})
    with pytest.raises(ConfigError, match="'pre', 'post' or 'sandwich'"):
        InducedEncoder(8, 1, 2, norm_placement="middle")

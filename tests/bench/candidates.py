"""What is timed: for each problem, ours and its peers as functions without arguments, on the same inputs.

Every problem is a function ``(size) -> {name: function}`` of forward passes; :func:`both_ways` adds the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vsattn import Dense, Edges, MultiHeadAttention, Segments, TransformerEncoder, VectorSet, Window, attend
from vsattn.layers import FeedForward, LayerNorm, TransformerBlock
from vsattn.scores import Additive, SplitAdditive

Run = Callable[[], Tensor]


def both_ways(run: Run) -> Callable[[], None]:
    """Return the run with its backward pass."""

    def forward_and_backward() -> None:
        output = run()
        output.backward(torch.ones_like(output))

    return forward_and_backward


def agree(runs: dict[str, Run], tolerance: float) -> None:
    """Assert that all candidates compute the same."""
    first, *others = (run().detach().float() for run in runs.values())
    for other in others:
        torch.testing.assert_close(other.view_as(first), first, atol=tolerance, rtol=tolerance)


def dense(size: tuple[int, int, int, int], padded: bool = False) -> dict[str, Run]:
    """Self-attention with its projections, without biases (x-transformers has none); size is (B, N, D, H)."""
    from x_transformers import Attention

    batch, count, dim, heads = size
    x = torch.randn(batch, count, dim, requires_grad=True)
    mask = torch.arange(count) < torch.linspace(count // 2, count, batch)[:, None] if padded else None
    ours = MultiHeadAttention(dim, heads, bias=False)
    torchs = nn.MultiheadAttention(dim, heads, bias=False, batch_first=True)
    lucid = Attention(dim, heads=heads, dim_head=dim // heads, flash=True)

    def of_lucid() -> Tensor:
        output = lucid(x, mask=mask)
        return output[0] if isinstance(output, tuple) else output

    return {
        "vsattn": lambda: ours(VectorSet(x, mask)).x,
        "torch.nn.MultiheadAttention": lambda: torchs(
            x, x, x, key_padding_mask=None if mask is None else ~mask, need_weights=False
        )[0],
        "x-transformers": of_lucid,
    }


def layer(size: tuple[int, int, int, int], norm_first: bool = False) -> dict[str, Run]:
    """A whole encoder layer, feed-forward four times as wide, without dropout; the weights are the same."""
    from vsattn.convert import from_transformer_encoder

    batch, count, dim, heads = size
    x = torch.randn(batch, count, dim, requires_grad=True)
    theirs = nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, batch_first=True, norm_first=norm_first)
    ours = from_transformer_encoder(theirs)
    return {"vsattn": lambda: ours(VectorSet(x)).x, "torch.nn.TransformerEncoderLayer": lambda: theirs(x)}


def lucid_layer(size: tuple[int, int, int, int]) -> dict[str, Run]:
    """A pre-norm layer and a norm at the end, without attention biases, feed-forward four times as wide with GELU."""
    from x_transformers import Encoder

    batch, count, dim, heads = size
    x = torch.randn(batch, count, dim, requires_grad=True)
    attention, feed_forward = partial(MultiHeadAttention, bias=False), partial(FeedForward, ratio=4)
    ours = TransformerEncoder(dim, 1, heads, attention=attention, feed_forward=feed_forward)
    theirs = Encoder(dim=dim, depth=1, heads=heads, attn_dim_head=dim // heads, attn_flash=True, ff_mult=4)
    return {"vsattn": lambda: ours(VectorSet(x)).x, "x-transformers": lambda: theirs(x)}


def window(count: int, causal: bool = False) -> dict[str, Run]:
    """Attention to 64 neighbours on either side (128 before, if causal); 4 heads of width 32."""
    from local_attention import LocalAttention

    heads, width = 4, 32
    q, k, v = (torch.randn(1, heads, count, width, requires_grad=True) for _ in range(3))
    sets = VectorSet(torch.zeros(1, count, 1), layout="sequence")
    structure = Window(128, 0) if causal else Window(64, 64)
    peer = LocalAttention(
        window_size=128 if causal else 64, causal=causal, look_backward=1, look_forward=0 if causal else 1, dropout=0.0,
        exact_windowsize=True, use_rotary_pos_emb=False, autopad=True,
    )  # fmt: skip
    runs = {
        "vsattn": lambda: attend(q, k, v, sets, sets, structure),
        "local-attention": lambda: peer(q, k, v),
    }
    if count <= 8192:
        mask = structure.allowed(sets, sets)
        runs["a dense mask"] = lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return runs


#: Nodes, edges and how uneven the sources' degrees are (exponent of their weights by rank; 0 is even).
GRAPHS = {
    "Cora size": (2708, 13264, 0.0),
    "PubMed size": (19717, 108365, 0.0),
    "power law, a quarter": (50_000, 500_000, 0.6),
    "power law": (200_000, 2_000_000, 0.6),
}


def graph(name: str) -> Edges:
    """Return a random graph of about the size of the real one; row 0 are sources."""
    nodes, edges, exponent = GRAPHS[name]
    generator = torch.Generator().manual_seed(0)
    weights = torch.arange(1, nodes + 1, dtype=torch.float64) ** -exponent
    source = torch.randperm(nodes, generator=generator)[
        torch.multinomial(weights, edges, replacement=True, generator=generator)
    ]
    target = torch.randint(0, nodes, (edges,), generator=generator)
    codes = (target * nodes + source).unique()
    return Edges(torch.stack([codes % nodes, codes // nodes]))


def edges(size: tuple[str, int], score: str = "dot", heads: int = 8) -> dict[str, Run]:
    """Attention along edges without projections, the same mathematics as the peer's; size is (graph, head width)."""
    from torch_geometric.nn import GATConv, GATv2Conv, TransformerConv

    structure, width = graph(size[0]), size[1]
    nodes = GRAPHS[size[0]][0]
    index, sets = structure.edge_index, VectorSet(torch.zeros(1, nodes, 1))
    q, k, v = (torch.randn(nodes, heads, width, requires_grad=True) for _ in range(3))

    def ours(query: Tensor, key: Tensor, value: Tensor, score: nn.Module | None = None) -> Tensor:
        split = (t[None].transpose(1, 2) for t in (query, key, value))
        return attend(*split, sets, sets, structure, score=score, kernel="edges")[0].transpose(0, 1)

    if score == "dot":
        conv = TransformerConv(heads * width, width, heads, root_weight=False)
        runs: dict[str, Run] = {
            "vsattn": lambda: ours(q, k, v),
            "TransformerConv": lambda: conv.propagate(index, query=q, key=k, value=v, edge_attr=None),
        }
    elif score == "GAT":
        gat, split = GATConv(heads * width, width, heads, add_self_loops=False), SplitAdditive(heads, width)
        _share(split.key_weight, gat.att_src)
        _share(split.query_weight, gat.att_dst)

        def of_gat() -> Tensor:
            alpha = (v * gat.att_src).sum(-1), (v * gat.att_dst).sum(-1)
            alpha = gat.edge_updater(index, alpha=alpha, edge_attr=None)
            return gat.propagate(index, x=(v, v), alpha=alpha)

        runs = {"vsattn": lambda: ours(v, v, v, split), "GATConv": of_gat}
    else:
        v2 = GATv2Conv(heads * width, width, heads, add_self_loops=False)
        additive = Additive(heads, width, activation="leaky_relu")
        _share(additive.weight, v2.att)

        def of_v2() -> Tensor:
            alpha = v2.edge_updater(index, x=(k, q), edge_attr=None)
            return v2.propagate(index, x=(k, q), alpha=alpha)

        runs = {"vsattn": lambda: ours(q, k, k, additive), "GATv2Conv": of_v2}
    return runs


def _share(ours: nn.Parameter, theirs: nn.Parameter) -> None:
    with torch.no_grad():
        ours.copy_(theirs[0])


def graph_layer(size: tuple[str, int], heads: int = 8) -> dict[str, Run]:
    """A whole graph layer: three projections and an output projection here, three and a skip connection there."""
    from torch_geometric.nn import TransformerConv

    structure, dim = graph(size[0]), heads * size[1]
    x = torch.randn(GRAPHS[size[0]][0], dim, requires_grad=True)
    ours, conv = MultiHeadAttention(dim, heads), TransformerConv(dim, size[1], heads)
    return {
        "vsattn": lambda: ours(VectorSet(x[None], structure=structure)).x,
        "TransformerConv": lambda: conv(x, structure.edge_index),
    }


def packed(total: int) -> dict[str, Run]:
    """Samples of 16 to 512 vectors, lengths log-uniform, in one set; 4 heads of width 32."""
    generator = torch.Generator().manual_seed(0)
    lengths: list[int] = []
    while sum(lengths) < total:
        lengths.append(int(16 * 32 ** float(torch.rand((), generator=generator))))
    lengths[-1] -= sum(lengths) - total
    ids = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
    q, k, v = (torch.randn(1, 4, total, 32, requires_grad=True) for _ in range(3))
    sets, structure = VectorSet(torch.zeros(1, total, 1)), Segments(ids)
    block = Dense(structure.allowed(sets, sets))
    longest = max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    rows = mask.flatten().nonzero()[:, 0]

    def padded() -> Tensor:
        """Pad all to the longest, attend, and take the vectors out again."""
        parts = [
            torch.zeros(mask.numel(), 4, 32).index_copy(0, rows, t[0].transpose(0, 1)).view(*mask.shape, 4, 32)
            for t in (q, k, v)
        ]
        split = [t.transpose(1, 2) for t in parts]
        output = F.scaled_dot_product_attention(*split, attn_mask=mask[:, None, None])
        return output.transpose(1, 2).flatten(0, 1)[rows].transpose(0, 1)[None]

    runs = {
        "vsattn": lambda: attend(q, k, v, sets, sets, structure),
        "padded to the longest": padded,
        "a block-diagonal mask": lambda: attend(q, k, v, sets, sets, block, kernel="dense"),
    }
    return runs


def compiled(size: tuple[int, int, int, int], banded: bool = False) -> dict[str, Run]:
    """An encoder of four layers, plain and compiled; size is (B, N, D, H)."""
    batch, count, dim, heads = size
    attention = partial(MultiHeadAttention, structure=Window(64, 64)) if banded else MultiHeadAttention
    encoder = TransformerEncoder(dim, 4, heads, attention=attention, feed_forward=partial(FeedForward, ratio=4))
    fast = torch.compile(encoder, fullgraph=True)
    sets = VectorSet(torch.randn(batch, count, dim), layout="sequence")
    return {"vsattn": lambda: encoder(sets).x, "vsattn, compiled": lambda: fast(sets).x}


def half(size: tuple[int, int, int, int]) -> dict[str, Run]:
    """An encoder layer in float32 and under bfloat16 autocast."""
    batch, count, dim, heads = size
    x = torch.randn(batch, count, dim, requires_grad=True)
    block = TransformerBlock(MultiHeadAttention(dim, heads), FeedForward(dim), norm=partial(LayerNorm, dim))

    def in_bfloat16() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return block(VectorSet(x)).x

    return {"vsattn": lambda: block(VectorSet(x)).x, "vsattn, bfloat16": in_bfloat16}


def work_of(size: int | tuple) -> float:
    """Return what a size is plotted against: vectors, or edges times width; 0 for what is not plotted."""
    if isinstance(size, int):
        return size
    return GRAPHS[size[0]][1] * size[1] if isinstance(size[0], str) else 0


def title(size: int | tuple) -> str:
    """Return a size as a reader wants it."""
    if isinstance(size, int):
        return f"N = {size:,}"
    return f"{size[0]}, width {size[1]}" if isinstance(size[0], str) else " x ".join(str(part) for part in size)

"""Hypothesis strategies for sets, structures and scores; tensors come from a drawn seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies as st
from torch import nn

from vsattn.relations import Alibi, EdgeFeatures, Relative2d, RelativeVectors, T5Buckets
from vsattn.scores import Additive, Bilinear, Cosine, Dot, ScaledDot, SplitAdditive
from vsattn.structure import Causal, Dense, Edges, Full, Segments, Window
from vsattn.vectorset import VectorSet

SCORES = {
    "scaled_dot": ScaledDot,
    "dot": Dot,
    "bilinear": Bilinear,
    "cosine": Cosine,
    "additive": Additive,
    "additive_leaky": partial(Additive, activation="leaky_relu"),
    "split_additive": SplitAdditive,
    "sparsemax": partial(ScaledDot, normalizer="sparsemax"),
}
EDGE_DIM = 3
SEQUENCE_RELATIONS = {
    "alibi": Alibi,
    "t5": partial(T5Buckets, num_buckets=8, max_distance=5),
    "t5_causal": partial(T5Buckets, num_buckets=4, max_distance=5, bidirectional=False),
    "vectors": partial(RelativeVectors, max_distance=2),
    "vectors_values": partial(RelativeVectors, max_distance=2, values=True),
}
EDGE_RELATIONS = {to: partial(EdgeFeatures, edge_dim=EDGE_DIM, to=to) for to in ("score", "key", "key_value")}


@dataclass
class Drawn:
    """One random problem."""

    vectors: VectorSet
    structure: object
    score: object
    relation: object
    heads: int
    head_dim: int
    generator: torch.Generator

    def randn(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=self.vectors.x.dtype)


def random_edges(batch, count, generator):
    """Return each pair of each sample with probability 0.4, self-loops too, shuffled, ``(2, E)``."""
    chosen = torch.rand(batch, count, count, generator=generator) < 0.4
    sample, query, key = chosen.nonzero().T
    edges = torch.stack([sample * count + key, sample * count + query])
    return edges[:, torch.randperm(edges.shape[1], generator=generator)]


def make_structure(name, batch, count, generator):
    segments = torch.randint(0, 2, (batch, count), generator=generator)
    dense = torch.rand(batch, count, count, generator=generator) < 0.5
    edges, more = (random_edges(batch, count, generator) for _ in range(2))
    attributed = Edges(edges, torch.randn(edges.shape[1], EDGE_DIM, generator=generator, dtype=torch.float64))
    return {
        "full": lambda: Full(),
        "causal": lambda: Causal(),
        "window": lambda: Window(1, 2),
        "left": lambda: Window(2, 0),
        "segments": lambda: Segments(segments),
        "dense": lambda: Dense(dense),
        "edges": lambda: Edges(edges),
        "attributed": lambda: attributed,
        "edges_and": lambda: attributed & Dense(dense),
        "edges_or": lambda: attributed | Edges(more),
        "edges_window": lambda: Window(1, 1) & (Edges(edges) | Edges(more)),
        "and": lambda: Causal() & Segments(segments),
        "band": lambda: Window(2, 1) & Segments(segments),
        "or": lambda: Window(0, 0) | Dense(dense),
        "nested": lambda: (Window(1, 1) | Causal()) & Dense(dense),
    }[name]()


STRUCTURES = [
    "full", "causal", "window", "left", "segments", "dense", "edges", "attributed", "edges_and", "edges_or",
    "edges_window", "and", "band", "or", "nested",
]  # fmt: skip
#: Structures that do not ask for positions, so that a grid can have them; and those that take prefix vectors.
FOR_GRIDS = ("full", "segments", "dense", "edges", "attributed", "edges_and", "edges_or")
WITH_PREFIX = ("full", "window", "left", "dense", "edges", "attributed", "edges_and", "edges_or", "edges_window", "or")
WITH_ATTR = ("attributed", "edges_and", "edges_or")


@st.composite
def problems(draw, dtype=torch.float64, structures=tuple(STRUCTURES), scores=tuple(SCORES), relations=True, least=0):
    """Draw a set of vectors (padding anywhere, empty samples and N = 0 included) and what to do with it."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    batch, heads = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3]))
    grid = draw(st.sampled_from([None, None, None, (1, 3), (2, 2), (3, 2)])) if relations else None
    count = grid[0] * grid[1] if grid else draw(st.integers(least, 6))
    name = draw(st.sampled_from([n for n in structures if not grid or n in FOR_GRIDS]))
    structure = make_structure(name, batch, count, generator)
    mask = None
    if draw(st.booleans()):
        mask = torch.rand(batch, count, generator=generator) < draw(st.sampled_from([0.0, 0.5, 0.8]))
    x = torch.randn(batch, count, 6, generator=generator, dtype=dtype)
    vectors = VectorSet(x, mask, structure=structure, layout="grid" if grid else "sequence", grid=grid)
    if relations and name in WITH_PREFIX and (prefix := draw(st.sampled_from([0, 0, 1, 2]))):
        vectors = vectors.with_prefix(torch.ones(prefix, 6))
    score = SCORES[draw(st.sampled_from(scores))](heads, 4).to(dtype)
    relation = draw(st.sampled_from(relation_names(name, grid))) if relations else None
    if relation is not None:
        known = {**SEQUENCE_RELATIONS, **EDGE_RELATIONS, "grid": partial(Relative2d, max_distance=2)}
        relation = known[relation](heads, 4).to(dtype)
        for parameter in relation.parameters():
            nn.init.normal_(parameter, generator=generator)
    structure, vectors = vectors.structure, vectors.replace(structure=Full())
    return Drawn(vectors, structure, score, relation, heads, 4, generator)


def relation_names(structure, grid):
    names = [None, None, "grid"] if grid else [None, None, *SEQUENCE_RELATIONS]
    return names + list(EDGE_RELATIONS) if structure in WITH_ATTR else names

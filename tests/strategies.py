"""Hypothesis strategies for sets, structures and scores; tensors come from a drawn seed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies as st

from vsattn.relations import Relative2d
from vsattn.scores import Additive, Bilinear, Cosine, Dot, ScaledDot
from vsattn.structure import Causal, Dense, Edges, Full, Segments, Window
from vsattn.vectorset import VectorSet

SCORES = {
    "scaled_dot": ScaledDot,
    "dot": Dot,
    "bilinear": Bilinear,
    "cosine": Cosine,
    "additive": Additive,
    "additive_leaky": partial(Additive, activation="leaky_relu"),
}


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
    """Return each pair of each sample with probability 0.4, shuffled, ``(2, E)``."""
    chosen = torch.rand(batch, count, count, generator=generator) < 0.4
    sample, query, key = chosen.nonzero().T
    edges = torch.stack([sample * count + key, sample * count + query])
    return edges[:, torch.randperm(edges.shape[1], generator=generator)]


def make_structure(name, batch, count, generator):
    segments = torch.randint(0, 2, (batch, count), generator=generator)
    dense = torch.rand(batch, count, count, generator=generator) < 0.5
    return {
        "full": Full(),
        "causal": Causal(),
        "window": Window(1, 2),
        "left": Window(2, 0),
        "segments": Segments(segments),
        "dense": Dense(dense),
        "edges": Edges(random_edges(batch, count, generator)),
        "and": Causal() & Segments(segments),
        "or": Window(0, 0) | Dense(dense),
        "nested": (Window(1, 1) | Causal()) & Dense(dense),
    }[name]


STRUCTURES = ["full", "causal", "window", "left", "segments", "dense", "edges", "and", "or", "nested"]


@st.composite
def problems(draw, dtype=torch.float64, structures=tuple(STRUCTURES), scores=tuple(SCORES), relations=True, least=0):
    """Draw a set of vectors (padding anywhere, empty samples and N = 0 included) and what to do with it."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    batch, heads = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3]))
    grid = draw(st.sampled_from([None, (1, 3), (2, 2), (3, 2)])) if relations else None
    count = grid[0] * grid[1] if grid else draw(st.integers(least, 6))
    names = [n for n in structures if not grid or n in ("full", "segments", "dense", "edges")]
    structure = make_structure(draw(st.sampled_from(names)), batch, count, generator)
    mask = None
    if draw(st.booleans()):
        mask = torch.rand(batch, count, generator=generator) < draw(st.sampled_from([0.0, 0.5, 0.8]))
    x = torch.randn(batch, count, 6, generator=generator, dtype=dtype)
    vectors = VectorSet(x, mask, layout="grid" if grid else "sequence", grid=grid)
    score = SCORES[draw(st.sampled_from(scores))](heads, 4).to(dtype)
    relation = None
    if grid and draw(st.booleans()):
        relation = Relative2d(heads, 4, max_distance=2).to(dtype)
        with torch.no_grad():
            relation.bias.copy_(torch.randn(relation.bias.shape, generator=generator))
    return Drawn(vectors, structure, score, relation, heads, 4, generator)

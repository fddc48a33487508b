"""A graph, drawn with its nodes coloured by what was predicted for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsattn.tokenizers.graph import Graph, coalesce
from vsattn.viewing.fonts import shorten

from .classification import IGNORED
from .data.sampling import NeighborSampler
from .plots import save_figure

#: Nodes and edges of a drawing at most; of a larger graph a part around some judged nodes is drawn.
DRAWN_NODES, DRAWN_EDGES = 400, 4000


def draw_nodes(graph: Graph, predictions: Tensor, targets: Tensor, classes: Sequence[str], path: Path) -> Path:
    """Draw a graph, or a part of a large one around some of the judged nodes.

    Args:
        graph: of N nodes.
        predictions: classes ``(N,)``, `IGNORED` for nodes that were not judged, which are drawn small and grey.
        targets: the true classes ``(N,)``, `IGNORED` likewise; a wrong node has a red ring.
        classes: their names.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    part, nodes = _part(graph, predictions)
    guess, truth = predictions[nodes], targets[nodes]
    judged = guess != IGNORED
    wrong = judged & (guess != truth)
    place = _layout(part)
    figure = Figure(figsize=(9.0, 6.8), layout="constrained")
    axis = figure.subplots()
    x, y = place[part.edge_index.numpy()].transpose(2, 0, 1)  # each (2 ends, E)
    axis.plot(x, y, color="#b0b0b0", linewidth=0.4, alpha=0.6, zorder=1)

    def dots(which: Tensor, label: str, **style: Any) -> None:
        x, y = place[which.numpy()].T
        axis.scatter(x, y, label=label, **style)

    for label, (name, colour) in enumerate(zip(classes, _colours(len(classes)), strict=True)):
        dots(
            judged & (guess == label),
            shorten(name, 26),
            s=34,
            color=colour,
            edgecolors="white",
            linewidths=0.4,
            zorder=3,
        )
    dots(wrong, "wrong", s=80, facecolors="none", edgecolors="#c62828", linewidths=1.6, zorder=4)
    dots(~judged, "not judged", s=10, color="#c8c8c8", zorder=2)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, title="predicted")
    shown = "" if len(nodes) == len(graph.x) else f" of {len(graph.x):,}"
    axis.set_title(
        f"{len(nodes):,}{shown} nodes; {int(judged.sum()):,} judged, {int(wrong.sum()):,} of them wrong", fontsize=11
    )
    axis.set_axis_off()
    return save_figure(figure, path)


def _part(graph: Graph, predictions: Tensor) -> tuple[Graph, Tensor]:
    """Return what is drawn, and which nodes it holds."""
    if len(graph.x) <= DRAWN_NODES and graph.edge_index.shape[1] <= DRAWN_EDGES:
        return graph, torch.arange(len(graph.x))
    both, _ = coalesce(torch.cat([graph.edge_index, graph.edge_index.flip(0)], 1), None, len(graph.x))
    sampler = NeighborSampler(Graph(torch.zeros(len(graph.x), 1), both), [4, 3])
    judged = (predictions != IGNORED).nonzero()[:, 0]
    with torch.random.fork_rng(devices=[]):  # a drawing changes no random number of the run
        torch.manual_seed(0)
        seeds = judged[torch.randperm(len(judged))[: DRAWN_NODES // 10]]
        _, nodes = sampler.sample(seeds)
    nodes = nodes[:DRAWN_NODES]
    place = torch.full((len(graph.x),), -1)
    place[nodes] = torch.arange(len(nodes))
    inside = place[graph.edge_index]
    inside = inside[:, (inside >= 0).all(0)][:, :DRAWN_EDGES]
    return Graph(torch.zeros(len(nodes), 1), inside), nodes


def _layout(graph: Graph) -> np.ndarray:
    """Return places ``(N, 2)`` where joined nodes lie near each other."""
    import networkx as nx

    drawn = nx.Graph()
    drawn.add_nodes_from(range(len(graph.x)))
    drawn.add_edges_from(graph.edge_index.T.tolist())
    placed = nx.spring_layout(drawn, seed=0, k=2.2 / np.sqrt(len(graph.x)), iterations=80)
    return np.array([placed[i] for i in range(len(graph.x))])


def _colours(count: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    if count <= 10:  # grey, the eighth, is for nodes that were not judged
        return [colormaps["tab10"](i) if i != 7 else (0.1, 0.1, 0.1, 1.0) for i in range(count)]
    return [colormaps["turbo"]((i + 0.5) / count) for i in range(count)]

"""Parts of a large graph: the nodes of a batch with a drawn few of their neighbours, and of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vsattn.errors import ConfigError
from vsattn.tokenizers.graph import Graph, PreparedGraph


class NeighborSampler:
    """Draws around seed nodes, hop by hop, a few of the edges that come into each node: uniformly, none twice.

    A node with more edges than the fan-out k keeps each of its d edges with probability k / d, so that the mean over
    the drawn neighbours is an unbiased estimate of the mean over all. Self-loops are no neighbours: they are not drawn
    but always kept. The drawn numbers are torch's own.

    Args:
        graph: with its edges as attention takes them (:meth:`~vsattn.tokenizers.graph_nodes.GraphNodes.prepare`).
        fan_outs: how many edges of a node are drawn at hop 1, 2, ...; -1 takes all. With -1 throughout the seeds are
            given exactly what the whole graph gives them after as many hops as attention, GAT or SAGE has layers, one
            hop more for GCN (which divides by the degree of border nodes too), and for diffusion the sum of its
            ``hops``; never where a layer sees all nodes (``encoder.global_every``, prefix vectors) or positions are
            made from the graph.

    Raises:
        ConfigError: for no fan-out, or one that is neither -1 nor positive.

    Source: Hamilton et al. 2017, "Inductive Representation Learning on Large Graphs", section 3.1 and algorithm 2.
    """

    def __init__(self, graph: Graph, fan_outs: Sequence[int]) -> None:
        check_fan_outs(fan_outs, "NeighborSampler.fan_outs")
        self.graph, self.fan_outs = graph, tuple(fan_outs)
        source, target = graph.edge_index
        self.order = target.argsort(stable=True)  # edges by target
        self.order = self.order[(source != target)[self.order]]
        self.degree = target[self.order].bincount(minlength=len(graph.x))
        self.starts = self.degree.cumsum(0) - self.degree
        self.loop = torch.full((len(graph.x),), -1)  # the edge from each node to itself
        loops = (source == target).nonzero()[:, 0]
        self.loop[source[loops]] = loops
        self._place = torch.full((len(graph.x),), -1)  # where a node stands in the part being drawn
        self._filled = graph.x.indices()[0].bincount(minlength=len(graph.x)) if graph.x.is_sparse else None

    def sample(self, seeds: Tensor) -> tuple[PreparedGraph, Tensor]:
        """Return the part of the graph drawn around different nodes ``(n,)``, and its nodes ``(m,)``, seeds first."""
        nodes, frontier, edges = [seeds], seeds, []
        self._place[seeds] = torch.arange(len(seeds))
        found = len(seeds)
        for fan_out in self.fan_outs:
            drawn = self._draw(frontier, fan_out)
            source = self.graph.edge_index[0, drawn]
            frontier = source[self._place[source] < 0].unique()
            self._place[frontier] = torch.arange(found, found + len(frontier))
            found += len(frontier)
            nodes.append(frontier)
            edges.append(drawn)
        chosen = torch.cat(nodes)
        loops = self.loop[chosen]
        kept = torch.cat([*edges, loops[loops >= 0]])
        index = self._place[self.graph.edge_index[:, kept]]
        self._place[chosen] = -1
        attr = None if self.graph.edge_attr is None else self.graph.edge_attr[kept]
        return PreparedGraph(self._features(chosen), index, attr), chosen

    def _draw(self, nodes: Tensor, fan_out: int) -> Tensor:
        """Return edges ``(e,)`` that come into the nodes, at most ``fan_out`` of each.

        Floyd's algorithm for all nodes at once: in round r a number up to ``d - k + r`` is drawn; if it was drawn
        before, ``d - k + r`` itself is taken. Its work does not depend on the degrees (Bentley and Floyd 1987).
        """
        degree = self.degree[nodes]
        few = nodes if fan_out < 0 else nodes[degree <= fan_out]
        all_of_few = torch.repeat_interleave(self.starts[few], self.degree[few]) + _within(self.degree[few])
        if fan_out < 0:
            return self.order[all_of_few]
        many = nodes[degree > fan_out]
        picked = torch.empty(len(many), 0, dtype=torch.long)
        for last in (self.degree[many] - fan_out + r for r in range(fan_out)):
            number = (torch.rand(len(many), dtype=torch.float64) * (last + 1)).long()
            number = torch.where((picked == number[:, None]).any(1), last, number)
            picked = torch.cat([picked, number[:, None]], 1)
        return self.order[torch.cat([all_of_few, (self.starts[many, None] + picked).flatten()])]

    def _features(self, nodes: Tensor) -> Tensor:
        x = self.graph.x
        if self._filled is None:
            return x[nodes]
        count = self._filled[nodes]
        where = torch.repeat_interleave((self._filled.cumsum(0) - self._filled)[nodes], count) + _within(count)
        place = torch.stack([torch.repeat_interleave(count), x.indices()[1, where]])
        return torch.sparse_coo_tensor(place, x.values()[where], (len(nodes), x.shape[1]), check_invariants=False)


@dataclass(frozen=True, eq=False)
class Seed:
    """One node of a large graph, an item; what surrounds it is drawn when it is batched."""

    graph: Graph
    node: int
    fan_outs: tuple[int, ...]


class Seeds:
    """A split of ``(Seed, label)`` pairs."""

    def __init__(self, graph: Graph, nodes: Tensor, labels: Tensor, fan_outs: Sequence[int]) -> None:
        self.graph, self.nodes, self.labels, self.fan_outs = graph, nodes.tolist(), labels.tolist(), tuple(fan_outs)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, index: int) -> tuple[Seed, int]:
        return Seed(self.graph, self.nodes[index], self.fan_outs), self.labels[index]


def check_fan_outs(fan_outs: Sequence[int], name: str) -> None:
    """Raise ConfigError unless there is a fan-out, and each is -1 or positive."""
    if not fan_outs or any(k != -1 and k < 1 for k in fan_outs):
        raise ConfigError(
            f"{name} is a list of numbers of neighbours, one for each hop, -1 for all; not {list(fan_outs)}"
        )


def _within(counts: Tensor) -> Tensor:
    """Return ``0 .. c - 1`` for each count c, one after the other."""
    return torch.arange(int(counts.sum())) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)

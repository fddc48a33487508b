"""Graphs: what splits of nodes are, neighbours among scikit-learn's digits, and Zachary's karate club."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.graph import Graph

from ..classification import IGNORED
from .base import Data, split_off
from .sampling import Seeds, check_fan_outs

SPLITS = ("train", "val", "test")


class GraphData(Data):
    """Base: one graph, whose splits are labels of other nodes, or many graphs.

    Args:
        fan_outs: train on seed nodes with so many drawn neighbours at each hop
            (:class:`~vsattn.tasks.data.sampling.NeighborSampler`), ``batch_size`` seeds a batch; None trains on the
            whole graph at once. Many graphs are batched whole; positions that are made from the graph need it whole.
        evaluation_fan_outs: the same for validation and test. None judges on the whole graph at once; -1 at each of
            enough hops gives the same answers, where `NeighborSampler` says so.

    Raises:
        ConfigError: for fan-outs that are none.
    """

    def __init__(
        self, *, fan_outs: Sequence[int] | None = None, evaluation_fan_outs: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        for name, found in (("fan_outs", fan_outs), ("evaluation_fan_outs", evaluation_fan_outs)):
            if found is not None:
                check_fan_outs(found, f"data.{name}")
        self.fan_outs, self.evaluation_fan_outs = fan_outs, evaluation_fan_outs
        self._about = ""

    def describe(self) -> str:
        return f"{self.name}: {self._about}, {len(self.classes)} classes"

    def lengths(self, split: str) -> Sequence[int]:
        if isinstance(getattr(self, split), Seeds):  # how many neighbours will be drawn, nobody knows
            return super().lengths(split)
        return [len(graph.x) for graph, _ in getattr(self, split)]

    def split_nodes(self, graph: Graph, labels: Tensor, masks: dict[str, Tensor], how: str) -> None:
        """Make the splits of one graph.

        Args:
            graph: of N nodes.
            labels: classes ``(N,)``, `IGNORED` where a node has none.
            masks: by split, bool ``(N,)``.
            how: says for the report how the graph was split.

        Raises:
            DataError: for shapes that do not fit, an empty split, or a node in two splits.
        """
        count, known = len(graph.x), labels != IGNORED
        for name, mask in masks.items():
            if mask.dtype != torch.bool or mask.shape != labels.shape or len(mask) != count:
                raise DataError(
                    f"{self.name}: the {name} mask is {mask.dtype} {tuple(mask.shape)}; "
                    f"{count} nodes need bool ({count},)"
                )
            if not bool((mask & known).any()):
                raise DataError(f"{self.name}: the {name} split has no labelled node")
        twice = torch.stack(list(masks.values())).sum(0) > 1
        if bool(twice.any()):
            raise DataError(
                f"{self.name}: {int(twice.sum())} nodes are in two splits (first: node {int(twice.nonzero()[0])})"
            )
        for name, mask in masks.items():
            fan_outs = self.fan_outs if name == "train" else self.evaluation_fan_outs
            if fan_outs is None:
                split: Any = [(graph, labels.masked_fill(~mask, IGNORED))]
            else:
                nodes = (mask & known).nonzero()[:, 0]
                split = Seeds(graph, nodes, labels[nodes], fan_outs)
            setattr(self, name, split)
        sizes = ", ".join(f"{int((mask & known).sum()):,} {name}" for name, mask in masks.items())
        size = f"{count:,} nodes, {graph.edge_index.shape[1]:,} edges, {graph.x.shape[1]:,} features"
        self._about = f"{size}; {sizes} nodes ({how})"

    def fit_items(self, limit: int) -> Any:
        """Return the training graphs, at most ``limit``; of one graph all nodes, since their features are known."""
        return [self.train.graph] if isinstance(self.train, Seeds) else super().fit_items(limit)


class DigitsGraph(GraphData):
    """scikit-learn's 1,797 handwritten digits, each joined to the most like it; nothing is downloaded.

    Digits are nodes with 64 pixels in [0, 1] as features, and edges come into each from its nearest neighbours by
    Euclidean distance. A seeded draw labels a few nodes of each class; as many validate, and the rest tests.

    Args:
        neighbors: how many edges come into each node.
        labelled: how many nodes of each class train, and how many validate.
        fan_outs, evaluation_fan_outs: see :class:`GraphData`.
    """

    def __init__(
        self,
        *,
        neighbors: int = 8,
        labelled: int = 20,
        fan_outs: Sequence[int] | None = None,
        evaluation_fan_outs: Sequence[int] | None = None,
    ) -> None:
        super().__init__(fan_outs=fan_outs, evaluation_fan_outs=evaluation_fan_outs)
        if not 1 <= neighbors < 1797 or not 1 <= labelled <= 80:
            raise ConfigError(
                f"{self.name}: neighbors is in 1 .. 1796 and labelled in 1 .. 80, not {neighbors} and {labelled}"
            )
        self.neighbors, self.labelled = neighbors, labelled

    def setup(self, seed: int) -> None:
        from sklearn.datasets import load_digits
        from sklearn.neighbors import kneighbors_graph

        pixels, labels = load_digits(return_X_y=True)
        joined = kneighbors_graph(pixels, self.neighbors).tocoo()  # row i: the neighbours of i
        index = torch.from_numpy(joined.coords[1]).long(), torch.from_numpy(joined.coords[0]).long()
        target, order = torch.from_numpy(labels).long(), torch.randperm(len(labels), generator=_seeded(seed))
        masks = {name: torch.zeros(len(target), dtype=torch.bool) for name in SPLITS}
        for digit in range(10):
            own = order[target[order] == digit]
            for name, part in zip(SPLITS, own.tensor_split([self.labelled, 2 * self.labelled]), strict=True):
                masks[name][part] = True
        self.classes = [str(digit) for digit in range(10)]
        graph = Graph(torch.from_numpy(pixels).float() / 16, torch.stack(index))
        self.split_nodes(graph, target, masks, f"drawn with seed {seed}")


class Karate(GraphData):
    """The 34 members of Zachary's karate club and their friendships, in four communities; nothing is downloaded.

    A member's features are its row of the identity matrix. One member of each community is labelled, as in
    torch-geometric; a seeded draw of 10 others validates, and the remaining 20 test.

    Source: Zachary 1977, "An Information Flow Model for Conflict and Fission in Small Groups".
    """

    def setup(self, seed: int) -> None:
        from torch_geometric.datasets import KarateClub

        data = KarateClub()[0]
        others = (~data.train_mask).nonzero()[:, 0]
        others = others[torch.randperm(len(others), generator=_seeded(seed))]
        masks = {"train": data.train_mask} | {name: torch.zeros(34, dtype=torch.bool) for name in ("val", "test")}
        masks["val"][others[:10]], masks["test"][others[10:]] = True, True
        self.classes = [f"community {i}" for i in range(4)]
        self.split_nodes(Graph(data.x, data.edge_index), data.y, masks, f"drawn with seed {seed}")


def labelled_graph(split: Any) -> tuple[Graph, Tensor] | None:
    """Return the graph of a split of nodes and the labels ``(N,)`` of the split; None for a split of many graphs."""
    if isinstance(split, Seeds):
        target = torch.full((len(split.graph.x),), IGNORED)
        target[torch.tensor(split.nodes)] = torch.tensor(split.labels)
        return split.graph, target
    graph, target = split[0]
    return (graph, target) if len(split) == 1 and isinstance(target, Tensor) else None


def random_masks(labels: Tensor, val_fraction: float, test_fraction: float, seed: int) -> dict[str, Tensor]:
    """Return bool masks ``(N,)`` of a seeded split of each class; unlabelled nodes are in none."""
    rest, test = split_mask(labels != IGNORED, labels, test_fraction, seed)
    train, val = split_mask(rest, labels, val_fraction, seed)
    return {"train": train, "val": val, "test": test}


def split_mask(mask: Tensor, labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return bool masks ``(N,)`` of nodes of a mask: a seeded fraction of each class, after what is left."""
    nodes = mask.nonzero()[:, 0]
    _, part = split_off(labels[nodes].tolist(), fraction, seed)
    chosen = torch.zeros_like(mask).index_fill(0, nodes[part], True)
    return mask & ~chosen, chosen


def check_fractions(*fractions: float) -> None:
    """Raise ConfigError for a fraction that is not between 0 and 1."""
    if any(not 0 < fraction < 1 for fraction in fractions):
        raise ConfigError(f"data.val_fraction and data.test_fraction are between 0 and 1, not {fractions}")


def said(error: BaseException) -> str:
    """Return the kind of an error and the beginning of what it says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)

"""Classify the nodes of a graph, or whole graphs: one label per node, or one per graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vsattn.answers import Record
from vsattn.errors import ConfigError, DataError
from vsattn.positions.graphs import GraphPositions
from vsattn.predictor import Predictor
from vsattn.relations import EdgeFeatures
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.graph import Graph

from .answering import labelled
from .classification import IGNORED, ClassificationTask, Collate, joined
from .consistency import consistency
from .data.base import Data
from .data.sampling import NeighborSampler, Seed, Seeds
from .inputs import Question
from .plots import confusion
from .report import linear_floor

#: Of a sampled graph, logistic regression learns from and is judged by about so many nodes.
FLOOR_NODES = 10_000


class NodeCollate(Collate):
    """Batches graphs; of seed nodes of a large one it makes the one graph that is drawn around them.

    Args:
        tokenizer: `GraphNodes`, fitted.
        train: see :class:`~vsattn.tasks.classification.Collate`.
        whole: the model needs whole graphs: seed nodes are refused.

    Raises:
        ConfigError: in use, for seed nodes all the same.
    """

    def __init__(self, tokenizer: Tokenizer, *, train: bool = False, whole: bool = False) -> None:
        super().__init__(tokenizer, train=train)
        self.whole = whole
        # By graph: the sampler, and the tokenizer's state that its graph was prepared with.
        self._samplers: WeakKeyDictionary[Graph, tuple[NeighborSampler, dict[str, Any]]] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_samplers"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _samplers=WeakKeyDictionary())

    def __call__(self, pairs: list[Any]) -> dict[str, Tensor]:
        """Batch the pairs."""
        return super().__call__([self._drawn(pairs)] if isinstance(pairs[0][0], Seed) else pairs)

    def _drawn(self, pairs: list[tuple[Seed, int]]) -> tuple[Graph, Tensor]:
        if self.whole:
            raise ConfigError(
                "positions made from the graph differ on a drawn part of it, and data.fan_outs or "
                "data.evaluation_fan_outs draws parts: use positions=none, or leave both null"
            )
        seed, state = pairs[0][0], self.tokenizer.state
        sampler, fitted = self._samplers.get(seed.graph, (None, None))
        if sampler is None or sampler.fan_outs != seed.fan_outs or fitted is not state:
            sampler = NeighborSampler(self.tokenizer.prepare(seed.graph), seed.fan_outs)  # type: ignore[attr-defined]
            self._samplers[seed.graph] = sampler, state
        part, nodes = sampler.sample(torch.tensor([item.node for item, _ in pairs]))
        target = torch.full((len(nodes),), IGNORED)
        target[: len(pairs)] = torch.tensor([label for _, label in pairs])
        return part, target


class NodeTask(ClassificationTask):
    """One label per node (``head=vector``) or per graph, by cross-entropy.

    Args:
        model, tokenizer, classes, optimizer, schedule, recipe, label_smoothing: see
            :class:`~vsattn.tasks.classification.ClassificationTask`; the tokenizer is `GraphNodes`.
        consistency: weight of :func:`~vsattn.tasks.consistency.consistency` among the passes of a step, over all nodes,
            labelled or not; 0 passes once.
        draws: passes a step, each with its own dropout.
        temperature: of that target, in (0, 1].

    Raises:
        ConfigError: for values out of range.
    """

    floor_name = "logistic regression on the features, without the graph"
    extensions = (".pt",)

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        classes: Sequence[str],
        *,
        optimizer: Callable[..., Optimizer] | None = None,
        schedule: Callable[..., LRScheduler] | None = None,
        recipe: dict[str, Any] | None = None,
        label_smoothing: float = 0.0,
        consistency: float = 0.0,
        draws: int = 2,
        temperature: float = 0.5,
    ) -> None:
        if not 0 <= consistency < math.inf or draws < 2 or not 0 < temperature <= 1:
            raise ConfigError(
                "task.consistency is at least 0, task.draws at least 2 and task.temperature in (0, 1]; not "
                f"{consistency}, {draws} and {temperature}"
            )
        super().__init__(
            model,
            tokenizer,
            classes,
            optimizer=optimizer,
            schedule=schedule,
            recipe=recipe,
            label_smoothing=label_smoothing,
        )
        self.consistency, self.draws, self.temperature = consistency, draws, temperature

    def training_loss(self, output: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy, with `consistency` that of all passes and what they differ by."""
        if not self.consistency:
            return super().training_loss(output, batch)
        passes = [output, *(self(batch) for _ in range(self.draws - 1))]
        learned = sum(super(NodeTask, self).training_loss(one, batch) for one in passes) / self.draws
        mask = batch.get("mask") if output.ndim == 3 else None
        return learned + self.consistency * consistency(passes, temperature=self.temperature, mask=mask)

    def teach_plainly(self) -> None:
        """Smooth no label, and ask for no consistency."""
        super().teach_plainly()
        self.consistency = 0.0

    def collator(self, train: bool) -> NodeCollate:
        """Return the function that batches."""
        whole = isinstance(getattr(self.model, "positions", None), GraphPositions)
        return NodeCollate(self.tokenizer, train=train, whole=whole)

    def unused(self, batch: dict[str, Tensor]) -> str:
        """Tell of features of edges that no relation reads."""
        if "edge_attr" not in batch or any(isinstance(module, EdgeFeatures) for module in self.model.modules()):
            return ""
        width = batch["edge_attr"].shape[1]
        return (
            f"edges have {width} features, which this model does not look at; a Transformer does with "
            f"relation=edge_features relation.edge_dim={width}"
        )

    def floor(self, data: Data) -> np.ndarray | None:
        """Judge logistic regression on the features of the nodes, or on their mean over each graph."""
        train, test = (_tabled(split) for split in (data.train, data.test))
        return linear_floor(*train, *test)

    def draw(self, folder: Path, data: Data) -> list[Path]:
        """Draw the confusion matrix and, of nodes, their graph or a part of it, coloured by what was predicted."""
        from .data.graphs import labelled_graph
        from .node_plots import draw_nodes

        logits, targets = joined(self.remembered)
        predictions = logits.argmax(-1)
        files = [confusion(targets.numpy(), predictions.numpy(), self.classes, folder / "confusion.png")]
        found = labelled_graph(data.test)
        if found is not None:
            graph, target = found
            nodes = (target != IGNORED).nonzero()[:, 0][: len(predictions)]  # a limited test has seen the first alone
            answers = torch.full_like(target, IGNORED)
            answers[nodes] = predictions
            files.append(draw_nodes(graph, answers, target, self.classes, folder / "graph.png"))
        return files

    @classmethod
    def questions(cls, predictor: Predictor, inputs: Sequence[Path] | None) -> Iterator[Question]:
        """Yield graphs saved as ``.pt``, those of folders too, and tables ``nodes.csv`` each followed by ``edges.csv``.

        Features are known by their place: the same columns in the same order as in training.
        """
        return _graphs(list(super().questions(predictor, inputs)))

    @classmethod
    def records(cls, predictor: Predictor, question: Question, answer: Any) -> list[Record]:
        """Return one record for each node, or one for the graph."""
        named = zip(question.about, answer, strict=True) if isinstance(answer, list) else [("", answer)]
        return [{"graph": question.name, "node": node, **labelled(found)} for node, found in named]


def _graphs(files: list[Question]) -> Iterator[Question]:
    from .data.own_graph import read_graphs

    while files:
        tables = [getattr(file.item, "suffix", None) for file in files[:2]] == [".csv", ".csv"]
        (first, *_), paths, files = files, [file.item for file in files[: 1 + tables]], files[1 + tables :]
        if isinstance(first.item, DataError):
            yield first
            continue
        try:
            ((_, found),) = read_graphs(paths)
            yield Question(first.name, found.graph, found.names)
        except DataError as error:
            yield Question(first.name, error)


def _tabled(split: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return features ``(n, F)`` and classes ``(n,)`` of the labelled nodes of a split, or of its graphs."""
    if isinstance(split, Seeds):
        step = max(1, len(split) // FLOOR_NODES)
        nodes = torch.tensor(split.nodes[::step])
        return split.graph.x.index_select(0, nodes).to_dense().numpy(), np.array(split.labels[::step])
    rows, labels = [], []
    for graph, target in split:
        x, target = graph.x.to_dense(), torch.as_tensor(target)
        known = target != IGNORED  # of a whole graph a single one, which indexes as a mask of one row
        rows.append((x if target.ndim else x.mean(0))[known])
        labels.append(target[known])
    return torch.cat(rows).numpy(), torch.cat(labels).numpy()

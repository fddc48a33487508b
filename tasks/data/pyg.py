"""Graphs of torch-geometric: any data set with one class per node or per graph, and Planetoid's citations."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vsattn.errors import ConfigError, DataError, VsattnError
from vsattn.saved import read_saved
from vsattn.tokenizers.graph import Graph

from ..classification import IGNORED
from .base import split_off
from .graphs import SPLITS, GraphData, check_fractions, random_masks, said, split_mask

#: The classes of the Planetoid graphs, in the order of their labels.
PLANETOID = {
    "Cora": ("theory", "reinforcement learning", "genetic algorithms", "neural networks", "probabilistic methods",
             "case based", "rule learning"),
    "CiteSeer": ("AI", "machine learning", "information retrieval", "databases", "agents",
                 "human-computer interaction"),
    "PubMed": ("diabetes, experimental", "diabetes type 1", "diabetes type 2"),
}  # fmt: skip


class PyG(GraphData):
    """Any data set of torch-geometric with one class per node or per graph.

    One graph is split by its own masks, or at random: of each class ``test_fraction`` tests, of the rest
    ``val_fraction`` validates. Masks that are there are kept. Without ``val_mask`` alone, ``val_fraction`` of each
    class is drawn out of the nodes that train; without ``test_mask`` too, out of those that do not. Without
    ``test_mask`` the nodes in no other split test. Many graphs, with a class each or a class per node, are split at
    random as wholes.

    Args:
        dataset: a partial of the data set's class, called without further arguments; it downloads what it lacks.
        mask_column: which of several public splits, where masks are ``(N, S)``.
        val_fraction, test_fraction: of what is drawn.
        fan_outs, evaluation_fan_outs: see :class:`GraphData`.

    Raises:
        ConfigError: for fractions outside (0, 1), and in `setup` for a split that masks do not have, and for fan-outs
            with many graphs.
        DataError: in `setup`, when the data set cannot be made, has no such labels, or masks but no ``train_mask``.
    """

    plain = False

    def __init__(
        self,
        dataset: Callable[..., Dataset],
        *,
        mask_column: int = 0,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        fan_outs: Sequence[int] | None = None,
        evaluation_fan_outs: Sequence[int] | None = None,
    ) -> None:
        super().__init__(fan_outs=fan_outs, evaluation_fan_outs=evaluation_fan_outs)
        check_fractions(val_fraction, test_fraction)
        self.dataset, self.mask_column = dataset, mask_column
        self.val_fraction, self.test_fraction = val_fraction, test_fraction

    @property
    def name(self) -> str:
        return getattr(getattr(self.dataset, "func", self.dataset), "__name__", "PyG")

    def setup(self, seed: int) -> None:
        graphs: list[Any] = list(self._load())  # type: ignore[call-overload]
        if not graphs:
            raise DataError(f"{self.name} holds no graph")
        targets = [self._target(data) for data in graphs]
        per_node = [len(t) == data.num_nodes for t, data in zip(targets, graphs, strict=True)]
        per_graph = [len(t) == 1 for t in targets]
        if not all(per_node) and (len(graphs) == 1 or not all(per_graph)):
            raise DataError(
                f"{self.name} has {len(targets[0])} labels for a graph of {graphs[0].num_nodes} nodes; one "
                "per node or one per graph is needed"
            )
        self.classes = [str(c) for c in range(int(max(t.max() for t in targets)) + 1)]
        if len(graphs) > 1:
            if self.fan_outs is not None or self.evaluation_fan_outs is not None:
                raise ConfigError(
                    f"data.fan_outs and data.evaluation_fan_outs draw parts of one large graph; {self.name} has "
                    f"{len(graphs):,} graphs, which are batched whole: leave both null"
                )
            items = [(Graph.of(d), int(t) if all(per_graph) else t) for d, t in zip(graphs, targets, strict=True)]
            self._split_graphs(items, seed)
            return
        masks, how = self._masks(graphs[0], targets[0], seed)
        self.split_nodes(Graph.of(graphs[0]), targets[0], masks, how)

    def _masks(self, data: Any, labels: Tensor, seed: int) -> tuple[dict[str, Tensor], str]:
        """Return bool masks ``(N,)`` by split, and how they came about."""
        found = {name: getattr(data, f"{name}_mask", None) for name in SPLITS}
        public = {name: mask for name, mask in found.items() if mask is not None}
        columns = min((mask.shape[1] for mask in public.values() if mask.ndim == 2), default=1)
        if not 0 <= self.mask_column < columns:
            there = f"{columns} public splits, 0 .. {columns - 1}" if columns > 1 else "no several public splits, use 0"
            raise ConfigError(f"data.mask_column is {self.mask_column}; {self.name} has {there}")
        masks = {name: mask if mask.ndim == 1 else mask[:, self.mask_column] for name, mask in public.items()}
        if not masks:
            return random_masks(labels, self.val_fraction, self.test_fraction, seed), f"drawn with seed {seed}"
        if "train" not in masks:
            raise DataError(f"{self.name} has {', '.join(f'{name}_mask' for name in masks)} but no train_mask")
        if len(masks) == len(SPLITS):
            return masks, "public split"
        others = (labels != IGNORED) & ~torch.stack(list(masks.values())).any(0)
        drawn = f"drawn with seed {seed}"
        if "val" in masks:
            return {**masks, "test": others}, "public train and val masks, the others test"
        if "test" in masks:
            known = masks["train"] & (labels != IGNORED)
            train, val = split_mask(known, labels, self.val_fraction, seed)
            how = f"public train and test masks, val {drawn} out of train"
            return {"train": train, "val": val, "test": masks["test"]}, how
        test, val = split_mask(others, labels, self.val_fraction, seed)
        return {"train": masks["train"], "val": val, "test": test}, f"public train mask, val and test {drawn}"

    def _target(self, data: Any) -> Tensor:
        y = getattr(data, "y", None)
        y = y.squeeze(-1) if isinstance(y, Tensor) and y.ndim == 2 and y.shape[1] == 1 else y
        if not isinstance(y, Tensor) or y.ndim != 1 or y.is_floating_point():
            raise DataError(
                f"{self.name} has no single class per node or graph: y is {getattr(y, 'dtype', y)} "
                f"{tuple(getattr(y, 'shape', ()))}"
            )
        return y.long().masked_fill(y < 0, IGNORED)

    def _split_graphs(self, items: list[tuple[Graph, Any]], seed: int) -> None:
        labels = [label if isinstance(label, int) else 0 for _, label in items]
        rest, test = split_off(labels, self.test_fraction, seed)
        kept, val = split_off([labels[i] for i in rest], self.val_fraction, seed)
        parts = {"train": [rest[i] for i in kept], "val": [rest[i] for i in val], "test": test}
        for name, part in parts.items():
            setattr(self, name, [items[i] for i in part])
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in parts.items())
        nodes = sum(len(graph.x) for graph, _ in items)
        self._about = (
            f"{len(items):,} graphs of {nodes / len(items):.1f} nodes; {sizes} graphs (drawn with seed {seed})"
        )

    def _load(self) -> Dataset:
        try:
            return self.dataset()
        except VsattnError:
            raise
        except Exception as error:  # whatever the network, the server, the disk or a damaged file says
            raise DataError(f"{self.name} could not be read or downloaded ({said(error)})") from error


#: What Planetoid's pickles are made of.
HARMLESS = {
    ("numpy", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"), ("scipy", "csr_matrix"),
    ("collections", "defaultdict"), ("__builtin__", "list"), ("builtins", "list"), ("_codecs", "encode"),
}  # fmt: skip


class _Arrays(pickle.Unpickler):
    """Reads arrays and lists, and nothing that runs code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".")[0], name) not in HARMLESS:
            raise DataError(f"it holds {module}.{name}, which is no array; delete it, and the next run downloads it")
        return super().find_class(module, name)


def _check_pickles(raw: Sequence[Path], processed: Path) -> None:
    """Raise DataError, naming the file, where torch-geometric would run what a file holds."""
    from torch_geometric.data.data import Data, DataEdgeAttr, DataTensorAttr
    from torch_geometric.data.storage import GlobalStorage

    for path in (path for path in raw if path.is_file()):
        try:
            with path.open("rb") as file:
                _Arrays(file, encoding="latin1").load()
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        except Exception:  # damage is told where the file is read
            continue
    for path in sorted(processed.glob("*.pt")):
        try:
            with torch.serialization.safe_globals([Data, DataEdgeAttr, DataTensorAttr, GlobalStorage]):
                read_saved(path)
        except Exception as error:
            raise DataError(f"{path} cannot be read ({said(error)}); delete the folder {processed}") from error


class Planetoid(PyG):
    """Citations among papers, with their words as features, on the public split: 20 papers a class, 500 and 1,000.

    Args:
        root: the folder that holds ``NAME/raw/``; what is missing is downloaded there. Where it cannot be written to,
            the files are processed in a temporary folder.
        name: the graph.
        fan_outs, evaluation_fan_outs: see :class:`GraphData`.

    Source: Yang et al. 2016, "Revisiting Semi-Supervised Learning with Graph Embeddings", section 5.
    """

    plain = True

    def __init__(
        self,
        root: str | Path,
        *,
        name: Literal["Cora", "CiteSeer", "PubMed"] = "Cora",
        fan_outs: Sequence[int] | None = None,
        evaluation_fan_outs: Sequence[int] | None = None,
    ) -> None:
        if name not in PLANETOID:
            raise ConfigError(f"Planetoid.name is one of {', '.join(PLANETOID)}, not {name!r}")
        super().__init__(self._found, fan_outs=fan_outs, evaluation_fan_outs=evaluation_fan_outs)
        self.root, self.graph_name = Path(root).expanduser(), name

    @property
    def name(self) -> str:
        return self.graph_name

    def setup(self, seed: int) -> None:
        super().setup(seed)
        self.classes = list(PLANETOID[self.graph_name])

    def _found(self) -> Dataset:
        from torch_geometric.datasets import Planetoid as Citations

        raw = self.root / self.graph_name / "raw"
        files = [
            raw / f"ind.{self.graph_name.lower()}.{end}"
            for end in ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
        ]
        lacking = [file.name for file in files if not file.is_file()]
        _check_pickles(files[:-1], raw.parent / "processed")
        folder = raw.parent
        while not folder.exists():
            folder = folder.parent
        try:
            if os.access(folder, os.W_OK):
                return Citations(str(self.root), self.graph_name)
            if lacking:
                raise OSError(f"{folder} cannot be written to")
            with tempfile.TemporaryDirectory(prefix="vsattn-") as scratch:
                shutil.copytree(raw, Path(scratch) / self.graph_name / "raw", copy_function=shutil.copyfile)
                return Citations(scratch, self.graph_name)
        except Exception as error:
            state = f"lacks {', '.join(lacking)}" if lacking else "has every file, and one may be damaged: delete it"
            raise DataError(
                f"{self.graph_name} could not be read or downloaded ({said(error)}). {raw} {state}; "
                "point VSATTN_DATA or paths.data at a folder that holds planetoid/, or put the files there by hand, "
                "from https://github.com/kimiyoung/planetoid/tree/master/data"
            ) from error

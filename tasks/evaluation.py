"""Judge a trained model again: on any split, and on other data of the same kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vsattn.build import build
from vsattn.ensemble import Ensemble
from vsattn.errors import ConfigError, DataError
from vsattn.predictor import Predictor

from .base import Task
from .classification import IGNORED
from .data.audio import Segment
from .data.base import Data, Split, of_checkpoint
from .data.tagged import Labels
from .experiment import prepare
from .loading import make_loaders
from .telling import plain_errors, quiet
from .training import SHARED, make_trainer, test


class Renumbered:
    """A split whose targets have other numbers.

    Args:
        pairs: the split.
        numbers: the new number of each class.
        beside: where each further column stands in the targets, -1 if nowhere, and the new number of each label.
    """

    def __init__(self, pairs: Split, numbers: Sequence[int], beside: Sequence[tuple[int, Sequence[int]]] = ()) -> None:
        self.pairs, self.numbers, self.beside = pairs, torch.tensor(numbers), beside

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        item, target = self.pairs[index]
        return item, self._renumbered(target)

    def _renumbered(self, target: Any) -> Any:
        if isinstance(target, Segment):
            return target._replace(label=int(self.numbers[target.label]))
        if isinstance(target, Labels):
            rows = [
                [IGNORED if k < 0 or row[k] == IGNORED else new[row[k]] for k, new in self.beside]
                for row in target.beside
            ]
            return Labels([self._renumbered(one) for one in target], rows)
        if isinstance(target, (list, tuple)):
            return [self._renumbered(one) for one in target]
        numbers = torch.as_tensor(target)
        renumbered = torch.where(numbers == IGNORED, numbers, self.numbers[numbers.clamp(min=0)])
        return renumbered if isinstance(target, (Tensor, np.ndarray)) else int(renumbered)


def evaluate(
    predictor: Predictor, config: dict[str, Any], *, split: str = "test", named: bool = False
) -> dict[str, float]:
    """Judge a model on one split as a run judges its test split, and print what is judged.

    Args:
        predictor: as :func:`vsattn.load` gives it, or an ensemble.
        config: that of the run, with its ``data`` and ``batch_size`` as they are wanted now.
        split: ``"test"``, ``"val"`` or ``"train"``.
        named: a person has named the data, not the checkpoint alone.

    Returns:
        What a run reports as ``test/...``, by those names.

    Raises:
        ConfigError: for a config that cannot be built, or a device that is not there;
            also for an ensemble whose members were trained beside other splits than is judged, unless data are named.
        DataError: for data that are missing, cannot be read, or have targets that the model does not know.
    """
    prepare(config)
    data: Data = build(config["data"], Data, path="data") if named else of_checkpoint(config["data"])
    data.setup(config["seed"])
    pairs: Split = getattr(data, split)
    print(f"data      {data.describe()}\nsplit     {split}, {len(pairs)} items", flush=True)
    members = predictor.members if isinstance(predictor, Ensemble) else [predictor]
    if not named:
        _same_items(members, config, pairs, split)
    if predictor.tokenizer.writes is None:
        pairs = by_name(data, split, predictor.classes, predictor.beside)
    data.test = pairs
    tasks = [_tested(member, config, data, in_ensemble=len(members) > 1) for member in members]
    first = tasks[0]
    if len(tasks) > 1:
        first.remembered = first.together([task.remembered for task in tasks])
    with quiet(), plain_errors():
        return first.evaluate(first.remembered, data, seed=config["seed"])


def _same_items(members: Sequence[Predictor], config: dict[str, Any], pairs: Split, split: str) -> None:
    """Raise ConfigError where a member was trained on other data than the first, or on another split by its seed.

    Some of what is judged could then be among what it was trained on.
    """
    judged = ""
    for number, member in enumerate(members[1:], start=2):
        own = member.config
        if (own["data"], own["seed"]) == (config["data"], config["seed"]):
            continue
        judged = judged or _fingerprint(pairs)
        others: Data = of_checkpoint(own["data"])
        others.setup(own["seed"])
        if _fingerprint(getattr(others, split)) != judged:
            raise ConfigError(
                f"member {number} of the ensemble was trained beside another {split} split of {others.name} than the "
                "first, and may know what would be judged: name data that none has seen, by data=OPTION or data.KEY="
            )


def _fingerprint(pairs: Split) -> str:
    """Return what two splits share only if their items and targets are the same, in the same order."""
    found = sha256()

    def add(value: Any) -> None:
        if isinstance(value, (list, tuple)):
            found.update(f"{len(value)} of ".encode())
            for part in value:
                add(part)
        elif hasattr(value, "edge_index"):
            add([value.x, value.edge_index])
        elif isinstance(value, Tensor) and value.layout != torch.strided:
            add(value.to_sparse_coo().coalesce().indices())
        elif isinstance(value, (Tensor, np.ndarray)):
            found.update(f"{tuple(value.shape)} ".encode() + np.ascontiguousarray(value).tobytes())
        else:
            found.update(value.tobytes() if hasattr(value, "tobytes") else repr(value).encode())

    for index in range(len(pairs)):
        add(pairs[index])
    return found.hexdigest()


def _tested(predictor: Predictor, config: dict[str, Any], data: Data, *, in_ensemble: bool) -> Task:
    """Test one model, and return its task, which remembers the outputs."""
    given = {"model": predictor.model, "tokenizer": predictor.tokenizer, "classes": predictor.classes}
    given["beside_labels"] = predictor.beside
    task: Task = build(config["task"], Task, path="task", **given, recipe=config)
    task.in_ensemble = in_ensemble
    loader = make_loaders(
        task,
        data,
        batch_size=config["batch_size"],
        batch_vectors=config.get("batch_vectors"),
        num_workers=config.get("num_workers", 0),
        seed=config["seed"],
        splits=("test",),
    )["test"]
    whole = {*SHARED} - {"fast_dev_run", "limit_test_batches"}  # all of the split, however the run tested
    arguments = {name: value for name, value in config["trainer"].items() if name in whole}
    devices = config["trainer"].get("devices")
    arguments["devices"] = devices[:1] if isinstance(devices, list) else 1  # it may have trained on several
    with quiet():
        trainer = make_trainer(arguments, folder=Path(), callbacks=[], loggers=[], enable_progress_bar=False)
        with plain_errors():
            test(task, loader, trainer, arguments)
    return task


def by_name(data: Data, split: str, classes: Sequence[str], beside: Mapping[str, Sequence[str]] | None = None) -> Split:
    """Return a split with the numbers that a model has for its classes, and for the labels of further columns.

    Args:
        data: set up; its classes may stand in another order than the model's, or be others.
        split: one of its splits.
        classes: the model's.
        beside: the model's labels of each further column; those of the data that are not among them have no number.

    Raises:
        DataError: naming the classes of targets that the model does not know, and how many there are of each.
    """
    pairs: Split = getattr(data, split)
    own, known = getattr(data, "beside_labels", {}), beside or {}
    if list(data.classes) == list(classes) and list(own.items()) == list(known.items()):
        return pairs
    columns: list[tuple[int, list[int]]] = []
    for name in [name for name in known if own]:
        place = {label: i for i, label in enumerate(known[name])}
        where = list(own).index(name) if name in own else -1
        columns.append((where, [place.get(label, IGNORED) for label in own.get(name, ())]))
    number = {name: i for i, name in enumerate(classes)}
    numbers = [number.get(name, -1) for name in data.classes]
    if -1 in numbers:
        counts = Counter(label for i in range(len(pairs)) for label in _labels(pairs[i][1]))
        unknown = [f"{name} ({counts[i]})" for i, name in enumerate(data.classes) if numbers[i] < 0 and counts[i]]
        if unknown:
            raise DataError(
                f"the {split} split of {data.name} has targets that the model does not know: {', '.join(unknown)}; "
                f"it knows {', '.join(classes)}"
            )
    return Renumbered(pairs, numbers, columns)


def _labels(target: Any) -> list[int]:
    """Return the numbers of the classes in a target."""
    if isinstance(target, Segment):
        return [target.label]
    if isinstance(target, (list, tuple)):
        return [label for one in target for label in _labels(one)]
    return torch.as_tensor(target).flatten().tolist()

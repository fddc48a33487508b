"""Training that does not start from nothing: weights of an earlier run or of a peer's model, some of them frozen."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from vsattn.build import build
from vsattn.depth import by_reason, freeze
from vsattn.initial import (
    COMPARED,
    Origin,
    agree,
    differences,
    initialise,
    own_run,
    ready_tokenizer,
)
from vsattn.positions import Learned
from vsattn.tokenizers.base import Tokenizer

from .base import Task
from .data.base import Data

#: The settings of a config that are explained here.
SETTINGS = ("init_from", "init_tokenizer", "freeze", "layer_decay")


def faults(config: dict[str, Any]) -> list[str]:
    """Return what is wrong with the settings, one line each."""
    start, tokenizer, frozen, decay = (config.get(name) for name in SETTINGS)
    found = []
    if start is not None and not isinstance(start, str):
        found.append(f"init_from: a path or null is expected, not {start!r}")
    if tokenizer not in (None, "take", "fit"):
        found.append(f"init_tokenizer: take, fit or null is expected, not {tokenizer!r}")
    if tokenizer is not None and start is None:
        found.append("init_tokenizer: without init_from there is nothing to take; leave it out")
    number = isinstance(frozen, int) and not isinstance(frozen, bool) and frozen >= 0
    names = isinstance(frozen, list) and frozen and all(isinstance(name, str) for name in frozen)
    if frozen is not None and not number and not names:
        found.append(
            f"freeze: a number of layers, names of parts such as [embedder,encoder.blocks.0], or null is expected, "
            f"not {frozen!r}"
        )
    if decay is not None and not (type(decay) in (int, float) and 0 < decay <= 1):
        found.append(f"layer_decay: a number above 0 and up to 1, or null, is expected, not {decay!r}")
    return found


def find_origin(config: dict[str, Any]) -> Origin | None:
    """Read what ``init_from`` names: a run's folder or checkpoint, or the files of a peer's model.

    Raises:
        CheckpointError: when it is missing, damaged, more than plain data, or not known.
        ConfigError: when it needs a package that is missing, or heads that the config does not give it.
    """
    if config.get("init_from") is None:
        return None
    path = Path(os.path.expanduser(config["init_from"]))
    if os.path.isdir(path) and (path / "config.json").is_file():
        from vsattn.convert.origins import bert

        return bert(path)
    if os.path.isdir(path) or not os.path.exists(path):
        return own_run(path)
    from vsattn.convert.files import peer_of, weights_of

    held = weights_of(path)
    return own_run(path) if "vsattn" in held else peer_of(path, held, config)


def first_tokenizer(
    tokenizer: Tokenizer, config: dict[str, Any], origin: Origin | None, items: Iterable[Any]
) -> Tokenizer:
    """Return the tokenizer, with the origin's state or fitted on the training items, see `ready_tokenizer`."""
    if origin is None:
        return tokenizer.fit(items)
    return ready_tokenizer(tokenizer, config["tokenizer"], origin, items, config.get("init_tokenizer"))


def start(task: Task, origin: Origin | None, config: dict[str, Any], data: Data) -> dict[str, str]:
    """Give a task's model its first weights, freeze what is to be frozen, and return lines to print.

    Raises:
        CheckpointError: when the weights do not fit the model.
        ConfigError: when it has no such part to freeze, or nothing is left to train.
    """
    lines = {} if origin is None else _initialised(task, origin, config, data)
    task.layer_decay = config.get("layer_decay")
    if config.get("freeze") is not None:
        task.frozen = freeze(task.model, config["freeze"])
        kept = [p.numel() for p in task.model.parameters() if not p.requires_grad]
        lines["frozen"] = f"{sum(kept):,} parameters: {', '.join(task.frozen)}"
    return lines


def _initialised(task: Task, origin: Origin, config: dict[str, Any], data: Data) -> dict[str, str]:
    changed = differences(origin.tokenizer, config["tokenizer"], "tokenizer", whole=origin.config is not None)
    same = task.tokenizer.state == origin.tokenizer_state
    suits = same or not changed
    places = same or same_grid(task.model, origin)
    found = initialise(task.model, origin, classes=task.classes, suits=suits, same_state=same, same_grid=places)
    own = task.model.state_dict()
    numbers = sum(own[name].numel() for name in found.taken)
    lines = {"init": f"{len(found.taken)} tensors of {numbers:,} numbers from {origin.name}"}
    lines |= {"new": "; ".join(by_reason(found.new, own))} if found.new else {}
    left = {name: reason for name, reason in found.left.items() if name not in found.new}  # both sides told already
    lines |= {"left": "; ".join(by_reason(left, origin.weights))} if left else {}
    batch = task.collate([data.train[i] for i in range(min(2, len(data.train)))])
    if origin.encode is not None:
        apart = agree(task.model, origin, batch)
        lines["checked"] = f"two items become the peer's own vectors, to {apart:.0e} of the largest number"
    elif origin.config is not None:
        parts = (*COMPARED, "head") if any(name.startswith("head.") for name in found.taken) else COMPARED
        others = [line for part in parts for line in differences(origin.config.get(part), config.get(part), part)]
        lines |= {"differs": "; ".join(others)} if others else {}
    return lines | resampled(task.model, batch)


def same_grid(model: Any, origin: Origin) -> bool:
    """Tell whether learned positions of a grid stand for the cells that they stood for there, in rows of equal length.

    Raises:
        VsattnError: when what the origin's tokenizer had learned is not its state.
    """
    positions = getattr(model, "positions", None)
    if not isinstance(positions, Learned) or positions.grid is None:
        return True
    there: Tokenizer = build(origin.tokenizer, Tokenizer, path="tokenizer")
    return there.load_state(origin.tokenizer_state).sizes.get("grid") == positions.grid


def resampled(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, str]:
    """Say when learned positions of one grid will be read for another."""
    positions = getattr(model, "positions", None)
    if not isinstance(positions, Learned) or positions.grid is None:
        return {}
    with torch.no_grad():
        grid = model.embedder(batch).grid
    there, here = (" x ".join(map(str, sides or ())) for sides in (positions.grid, grid))
    return {} if grid == positions.grid else {"positions": f"of a grid of {there}, interpolated for {here}"}

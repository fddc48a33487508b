"""All faults of a run's config at once, before anything is built."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vsattn import signatures
from vsattn.build import build, check, parameters_of, unknown
from vsattn.decoders import Decoder
from vsattn.encoders import Encoder
from vsattn.errors import ConfigError, nearest
from vsattn.heads import Head
from vsattn.positions import Positions, Rotary
from vsattn.relations import Relation
from vsattn.scores import Score
from vsattn.structure import Structure
from vsattn.tokenizers.base import Tokenizer

from . import finetune
from .base import Task
from .data.base import Data
from .optim import make_optimizer, make_schedule
from .strategies import strategy_faults

_SIZES = ("dim", "num_classes", "grid", "max_length", "dimensions")
_TASK = ("model", "tokenizer", "classes", "optimizer", "schedule", "recipe")

#: Each part of a config that is one component: its base class, what the run gives it, whether null will do.
PARTS: dict[str, tuple[type, tuple[str, ...], bool]] = {
    "data": (Data, (), False),
    "tokenizer": (Tokenizer, (), False),
    "positions": (Positions, _SIZES, True),
    "structure": (Structure, (), True),
    "score": (Score, (), True),
    "relation": (Relation, (), True),
    "rotary": (Rotary, (), True),
    "norm": (nn.Module, ("dim",), True),
    "encoder": (Encoder, _SIZES, False),
    "decoder": (Decoder, _SIZES, True),
    "head": (Head, _SIZES, False),
    "task": (Task, _TASK, False),
    "optimizer": (Optimizer, ("params",), False),
    "schedule": (LRScheduler, ("optimizer",), True),
}
#: Parts of which there are several, by name; null entries are left out.
NAMED_PARTS: dict[str, tuple[type, tuple[str, ...]]] = {
    "callbacks": (Callback, ("dirpath",)),
    "logger": (Logger, ("save_dir",)),
}
#: Loggers whose packages are extras of the same name.
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
#: Whole numbers and the least that each may be; None where null will do.
NUMBERS: dict[str, tuple[int, bool]] = {
    "seed": (0, False),
    "num_threads": (1, True),
    "dim": (1, False),
    "batch_size": (1, False),
    "batch_vectors": (1, True),
    "num_workers": (0, False),
}
#: Whole numbers that the machine sets a bound to: more processes or threads would only stop it.
MOST = {"num_workers": 256, "num_threads": 1024}
#: The least of numbers that Lightning's callbacks take unchecked.
LEAST = {"patience": 0, "update_every_n_steps": 1, "update_starting_at_step": 0, "update_starting_at_epoch": 0}
#: The least of arguments that Lightning's Trainer takes unchecked, and whether that itself is too little.
TRAINER_LEAST = {
    "limit_train_batches": (0, True),
    "limit_val_batches": (0, True),
    "limit_test_batches": (0, True),
    "accumulate_grad_batches": (1, False),
    "check_val_every_n_epoch": (1, False),
    "log_every_n_steps": (0, False),
    "num_sanity_val_steps": (-1, False),
    "min_epochs": (0, False),
    "min_steps": (0, False),
    "gradient_clip_val": (0, False),
}
#: Parts that a run makes only later, with sizes that are not known yet.
_FACTORIES = ("score", "relation", "rotary", "norm", "optimizer", "schedule")
_OWN_ARGUMENTS = ("callbacks", "logger", "default_root_dir")


def faults(config: dict[str, Any]) -> list[str]:
    """Return what is wrong with a plain, resolved config, one line each, before anything but an optimizer is built.

    A part that is not in the config at all is not judged.
    """
    known = {*PARTS, *NAMED_PARTS, *NUMBERS, "trainer", "paths", "compare", *finetune.SETTINGS}
    found = [f"{key}: there is no such setting; {nearest(key, known)}" for key in config if key not in known]
    found += [fault for name in NUMBERS if name in config and (fault := _number_fault(name, config[name]))]
    found += finetune.faults(config)
    seen: list[str] = []
    for name, (slot, given, optional) in PARTS.items():
        part = config.get(name)
        if part is None:
            found += [] if optional or name not in config else [f"{name}: is null; choose one with {name}=OPTION"]
            continue
        seen += check(part, slot, path=name, injected=given) + _factory_fault(name, part)
        if name in ("task", "optimizer", "schedule") and isinstance(part, dict):
            found += [f"{name}.{key}: the run gives this itself; leave it out" for key in given if key in part]
    # Encoder and decoder repeat structure, score, relation, rotary and norm: their faults are told once.
    for line in seen:
        if not any(re.sub(r"^(en|de)coder\.(attention\.)?", "", line) == other for other in seen if other is not line):
            found.append(line)
    for group, (slot, given) in NAMED_PARTS.items():
        for name, part in (config.get(group) or {}).items():
            found += [] if part is None else check(part, slot, path=f"{group}.{name}", injected=given)
            found += _least_faults(part, f"{group}.{name}") + _package_faults(part, f"{group}.{name}")
    found += trainer_faults(config["trainer"]) if "trainer" in config else []
    if config.get("optimizer") and not any(line.startswith(("optimizer", "schedule")) for line in found):
        found += _optimizer_faults(config["optimizer"], config.get("schedule"))
    return [line if not line.startswith("encoder.num_prefix: ") else _prefix_fault(line) for line in found]


def trainer_faults(settings: Any) -> list[str]:
    """Return what is wrong with the keyword arguments of Lightning's Trainer."""
    if not isinstance(settings, dict):
        return [f"trainer: is a mapping of arguments of lightning.pytorch.Trainer, not {settings!r}"]
    parameters, hints = parameters_of(Trainer), signatures.hints(Trainer)
    found = []
    for key, value in settings.items():
        if key in _OWN_ARGUMENTS:
            found.append(f"trainer.{key}: the run sets this itself; use the groups callbacks and logger")
        elif key not in parameters:
            found.append(f"trainer.{key}: {unknown(key, parameters, 'Trainer')}")
        elif key in ("strategy", "plugins"):
            continue
        elif key == "max_time" and isinstance(value, str) and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value):
            found.append(f"trainer.max_time: is days:hours:minutes:seconds, such as 00:00:10:00, not {value!r}")
        elif not signatures.fits(value, hints.get(key, Any)):
            found.append(f"trainer.{key}: {signatures.describe(hints[key])} is expected, not {value!r}")
        elif key in TRAINER_LEAST and value is not None:
            least, above = TRAINER_LEAST[key]
            if value < least or (above and value == least):
                bound = f"{'above' if above else 'from'} {least}"
                found.append(f"trainer.{key}: a number {bound} is expected, not {value}")
    return found + strategy_faults(settings)


def _optimizer_faults(optimizer: dict[str, Any], schedule: dict[str, Any] | None) -> list[str]:
    """Try optimizer and schedule on one weight: only torch knows which numbers they take."""
    weight, name = nn.ParameterList([nn.Parameter(torch.zeros(2, 2))]), "optimizer"
    try:
        made = make_optimizer(weight, build(optimizer, Optimizer, path=name))
        if schedule is not None:
            name = "schedule"
            make_schedule(made, build(schedule, LRScheduler, path=name), total_steps=1000)
    except ConfigError as error:
        return str(error).splitlines()
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        return [f"{name}: {error}"]
    return []


def _prefix_fault(line: str) -> str:
    start = line.split(";")[0]
    return f"{start}, and head=cls reads a prefix vector; choose head=mean or head=attention with this encoder"


def _package_faults(part: Any, path: str) -> list[str]:
    """Return a fault for a logger whose package is not installed, which its class says only when it is made."""
    package = PACKAGES.get(str((part or {}).get("_target_", "")).rsplit(".", 1)[-1]) if isinstance(part, dict) else None
    if package is None or find_spec(package) is not None:
        return []
    return [f"{path}: needs the package {package}; pip install 'vsattn[{package}]'"]


def _number_fault(name: str, value: Any) -> str:
    least, optional = NUMBERS[name]
    if value is None and optional:
        return ""
    most = MOST.get(name, 2**32 - 1)
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return ""
    bounds = f"from {least} to {most:,}" if isinstance(value, int) and value > most else f"of at least {least}"
    return f"{name}: a whole number {bounds}{' or null' if optional else ''} is expected, not {value!r}"


def _least_faults(part: Any, path: str) -> list[str]:
    given = part if isinstance(part, dict) else {}
    return [
        f"{path}.{key}: a whole number of at least {least} is expected, not {given[key]}"
        for key, least in LEAST.items()
        if isinstance(given.get(key), int) and given[key] < least
    ]


def _factory_fault(name: str, part: Any) -> list[str]:
    partial = part.get("_partial_", False) if isinstance(part, dict) else False
    if name in _FACTORIES and partial is False:
        return [f"{name}: is made only when its sizes are known; add _partial_: true to it"]
    if name not in _FACTORIES and partial is True:
        return [f"{name}: is made at once, so _partial_ must go"]
    return []

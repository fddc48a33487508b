"""Optimizers and schedules: torch's own classes, given parameter groups and lengths."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from vsattn.positions import Positions
from vsattn.relations import Relation


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Cut the parameters into those that decay and those that do not.

    Matrices and convolution kernels decay; biases, norms and other 1-D parameters, learned positions and
    relation tables do not.
    """
    plain = {
        id(p) for module in model.modules() if isinstance(module, (Positions, Relation)) for p in module.parameters()
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1 and id(p) not in plain]
    kept = [p for p in trained if p.ndim <= 1 or id(p) in plain]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(factory: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """Call an optimizer's partial with the parameter groups of ``model``."""
    weight_decay = getattr(factory, "keywords", {}).get("weight_decay", 0.0)
    return factory(parameter_groups(model, weight_decay))


def make_schedule(factory: Callable[..., Any], optimizer: Optimizer, total_steps: int) -> Any:
    """Call a schedule's partial; ``total_steps``, ``T_max`` and ``max_lr`` are supplied where it has such a parameter."""
    known = {
        "total_steps": total_steps,
        "T_max": total_steps,
        "max_lr": [group["lr"] for group in optimizer.param_groups],
    }
    wanted = inspect.signature(factory).parameters
    given = getattr(factory, "keywords", {})
    return factory(optimizer, **{k: v for k, v in known.items() if k in wanted and given.get(k) is None})

"""The optimizer and its schedule: which weights decay, and sizes that only the run knows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vsattn.errors import ConfigError
from vsattn.layers import BatchNorm
from vsattn.positions import Positions
from vsattn.relations import Relation

NORMS = (BatchNorm, _BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable weights into those that decay and those that do not.

    Norms, biases, everything else with one axis longer than 1, positions and relations do not decay: pulling
    them to zero does not make the function smoother (Loshchilov and Hutter 2019 leave the choice open; this is
    the usual one for Transformers).
    """
    kept: dict[int, nn.Parameter] = {}
    decayed: dict[int, nn.Parameter] = {}
    spared_modules = (*NORMS, Positions, Relation)
    spared = {id(p) for m in model.modules() if isinstance(m, spared_modules) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        flat = sum(size > 1 for size in parameter.shape) <= 1
        alone = id(parameter) in spared or flat or name.rsplit(".", 1)[-1] == "bias"
        (kept if alone else decayed)[id(parameter)] = parameter
    groups = [
        {"params": list(decayed.values()), "weight_decay": weight_decay},
        {"params": list(kept.values()), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, optimizer: Callable[..., Optimizer] | None) -> Optimizer:
    """Call a partial of a torch optimizer on the model's weights; None means AdamW with its defaults."""
    factory = AdamW if optimizer is None else optimizer
    parameters = inspect.signature(factory).parameters
    if "weight_decay" not in parameters:
        return factory([p for p in model.parameters() if p.requires_grad])
    return factory(parameter_groups(model, parameters["weight_decay"].default))


def make_schedule(
    optimizer: Optimizer, schedule: Callable[..., LRScheduler], total_steps: float, monitor: str = "val/loss"
) -> dict[str, Any]:
    """Call a partial of a torch schedule and describe it to Lightning, one step per batch.

    ``total_steps`` (or ``T_max``) and ``max_lr`` are filled in where the schedule takes them and they are not given.

    Raises:
        ConfigError: when the schedule needs the number of steps and training has no end.
    """
    known: dict[str, Any] = {"total_steps": total_steps, "T_max": total_steps, "max_lr": optimizer.defaults["lr"]}
    parameters = inspect.signature(schedule).parameters
    given = getattr(schedule, "keywords", {})
    missing = [name for name in known if name in parameters and given.get(name) is None]
    steps_missing = [name for name in missing if name != "max_lr"]
    if steps_missing and not math.isfinite(total_steps) and given.get("epochs") is None:
        raise ConfigError(
            f"schedule.{steps_missing[0]} is the number of training steps, which is not known here: "
            "set trainer.max_epochs or trainer.max_steps, or give it, or use schedule=null"
        )
    made = schedule(optimizer, **{name: known[name] for name in missing if not _epochs_given(name, given)})
    if isinstance(made, ReduceLROnPlateau):
        return {"scheduler": made, "interval": "epoch", "monitor": monitor}
    return {"scheduler": made, "interval": "step"}


def _epochs_given(name: str, given: dict[str, Any]) -> bool:
    return name == "total_steps" and given.get("epochs") is not None

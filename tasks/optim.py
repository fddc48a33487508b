"""The optimizer and its schedule: which weights decay, and sizes that only the run knows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vsattn.depth import depth_of, sections
from vsattn.errors import ConfigError
from vsattn.layers import BatchNorm
from vsattn.positions import Positions
from vsattn.relations import Relation

from .schedules import Noam

NORMS = (BatchNorm, _BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def parameter_groups(model: nn.Module, weight_decay: float | None = None) -> list[dict[str, Any]]:
    """Split the trainable weights into those that decay and those that do not; without ``weight_decay``, none does.

    Norms, biases, everything else with one axis longer than 1, positions and relations do not decay: pulling
    them to zero does not make the function smoother (Loshchilov and Hutter 2019 leave the choice open; this is
    the usual one for Transformers). The weights of a module with a number as its ``weight_decay`` decay by that.

    Raises:
        ConfigError: for such a module and no ``weight_decay``.
    """
    trained = {id(p): (name, p) for name, p in model.named_parameters() if p.requires_grad}
    own: dict[int, float] = {}
    for module in model.modules():
        if isinstance(decay := getattr(module, "weight_decay", None), float):
            own |= {id(p): decay for p in module.parameters()}
    if weight_decay is None:
        if own:
            raise ConfigError("parts of this model have a weight decay of their own; choose an optimizer that has one")
        return [{"params": [p for _, p in trained.values()]}]
    spared_modules = (*NORMS, Positions, Relation)
    spared = {id(p) for m in model.modules() if isinstance(m, spared_modules) for p in m.parameters()}
    kept: list[nn.Parameter] = []
    decayed: dict[float, list[nn.Parameter]] = {weight_decay: []}
    for name, parameter in trained.values():
        flat = sum(size > 1 for size in parameter.shape) <= 1
        alone = id(parameter) in spared or flat or name.rsplit(".", 1)[-1] == "bias"
        (kept if alone else decayed.setdefault(own.get(id(parameter), weight_decay), [])).append(parameter)
    groups = [{"params": members, "weight_decay": share} for share, members in decayed.items()]
    groups.append({"params": kept, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def by_layer(
    groups: list[dict[str, Any]], model: nn.Module, lr: float | Tensor, layer_decay: float
) -> list[dict[str, Any]]:
    """Split groups by layer, highest first: at depth l of L a weight has the rate ``lr * layer_decay^(L - l)``.

    The head and what follows the last layer have depth L, the embedder 0, see :func:`vsattn.depth.sections`
    (Clark et al. 2020, "ELECTRA", appendix B; Bao et al. 2022, "BEiT", appendix H).
    """
    depths = sections(model)
    top = max(depths.values())
    depth = {id(p): depth_of(name, depths) for name, p in model.named_parameters()}
    split = []
    for at in range(top, -1, -1):
        for group in groups:
            if members := [p for p in group["params"] if depth[id(p)] == at]:
                split.append({**group, "params": members, "lr": lr * layer_decay ** (top - at)})
    return split


def make_optimizer(
    model: nn.Module, optimizer: Callable[..., Optimizer] | None, layer_decay: float | None = None
) -> Optimizer:
    """Call a partial of a torch optimizer on the model's weights; None means AdamW with its defaults.

    Args:
        model: only what is trainable in it is handed over.
        optimizer: the partial.
        layer_decay: of the rate from each layer to the one below it, see :func:`by_layer`; None: one rate for all.

    Raises:
        ConfigError: for ``layer_decay`` and an optimizer without a rate.
    """
    factory = AdamW if optimizer is None else optimizer
    parameters = inspect.signature(factory).parameters
    groups = parameter_groups(model, parameters["weight_decay"].default if "weight_decay" in parameters else None)
    if layer_decay is not None and layer_decay != 1:
        if "lr" not in parameters:
            raise ConfigError(
                f"layer_decay: {getattr(factory, 'func', factory).__name__} has no lr; use optimizer=adamw"
            )
        groups = by_layer(groups, model, parameters["lr"].default, layer_decay)
    return factory(groups)


def make_schedule(
    optimizer: Optimizer, schedule: Callable[..., LRScheduler], total_steps: float, monitor: str = "val/loss"
) -> dict[str, Any]:
    """Call a partial of a torch schedule and describe it to Lightning, one step per batch.

    ``total_steps`` (or ``T_max``) and ``max_lr`` are filled in where the schedule takes them and they are not given.

    Raises:
        ConfigError: when the schedule needs the number of steps and training has no end.
    """
    own = [group["lr"] for group in optimizer.param_groups]
    known: dict[str, Any] = {"total_steps": total_steps, "T_max": total_steps, "max_lr": own}
    parameters = inspect.signature(schedule).parameters
    given = getattr(schedule, "keywords", {})
    if len(set(own)) > 1:  # rates that a schedule is given are those of the highest layer
        top = {name: given[name] for name in ("max_lr", "base_lr") if isinstance(given.get(name), (int, float))}
        schedule = partial(schedule, **{name: [value * lr / max(own) for lr in own] for name, value in top.items()})
    missing = [name for name in known if name in parameters and given.get(name) is None]
    steps_missing = [name for name in missing if name != "max_lr"]
    if steps_missing and not math.isfinite(total_steps) and given.get("epochs") is None:
        raise ConfigError(
            f"schedule.{steps_missing[0]} is the number of training steps, which is not known here: "
            "set trainer.max_epochs or trainer.max_steps, or give it, or use schedule=null"
        )
    made = schedule(optimizer, **{name: known[name] for name in missing if not _epochs_given(name, given)})
    if len(set(own)) > 1 and isinstance(made, Noam):
        raise ConfigError("layer_decay: schedule=noam gives all layers one rate; choose another, such as inverse_sqrt")
    if isinstance(made, ReduceLROnPlateau):
        return {"scheduler": made, "interval": "epoch", "monitor": monitor}
    return {"scheduler": made, "interval": "step"}


def _epochs_given(name: str, given: dict[str, Any]) -> bool:
    return name == "total_steps" and given.get("epochs") is not None

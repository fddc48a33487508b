"""The parts of a trainer that say on how many devices it trains, and how: checked, and built."""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins import ClusterEnvironment
from lightning.pytorch.plugins import CheckpointIO, Precision
from lightning.pytorch.strategies import Strategy, StrategyRegistry

from vsattn.build import build, check
from vsattn.errors import nearest

#: What may stand in ``trainer.plugins``.
PLUGINS = (ClusterEnvironment, Precision, CheckpointIO)


def strategies() -> list[str]:
    """Return the names that ``trainer.strategy`` may have."""
    ddp = [name for name in StrategyRegistry.available_strategies() if name.startswith("ddp")]
    return ["auto", "single_device", *ddp]


def strategy_faults(settings: dict[str, Any]) -> list[str]:
    """Return what is wrong with the parts of a trainer that are components, or names of them."""
    found, strategy = [], settings.get("strategy", "auto")
    if isinstance(strategy, dict):
        found += check(strategy, Strategy, path="trainer.strategy")
        if not found and strategy["_target_"].endswith(".ModelParallelStrategy"):
            found += [
                f"trainer.strategy.{name}: weights are shared among all processes; leave it out"
                for name in ("data_parallel_size", "tensor_parallel_size")
                if strategy.get(name, "auto") != "auto"
            ]
            if strategy.get("save_distributed_checkpoint") is not False:
                found.append("trainer.strategy.save_distributed_checkpoint: is false; a checkpoint is one file")
    elif str(strategy).startswith(("fsdp", "deepspeed")):
        found.append(f"trainer.strategy: {strategy} is not among what this package trains with; use trainer=fsdp")
    elif strategy not in strategies():
        found.append(f"trainer.strategy: there is no {strategy!r}; {nearest(str(strategy), strategies())}")
    plugins = settings.get("plugins") or []
    for plugin in plugins if isinstance(plugins, list) else [plugins]:
        if isinstance(plugin, dict):
            tried = [check(plugin, slot, path="trainer.plugins") for slot in PLUGINS]
            found += [] if [] in tried else tried[0]
    return found


def with_parts(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a trainer with its strategy and plugins built."""
    made = dict(settings)
    if isinstance(made.get("strategy"), dict):
        made["strategy"] = build(made["strategy"], Strategy, path="trainer.strategy")
    plugins = made.get("plugins")
    if plugins is not None:
        parts = [p for p in (plugins if isinstance(plugins, list) else [plugins]) if p is not None]
        made["plugins"] = [_plugin(p) if isinstance(p, dict) else p for p in parts]
    return made


def _plugin(part: dict[str, Any]) -> Any:
    slot = next((slot for slot in PLUGINS if check(part, slot) == []), ClusterEnvironment)
    return build(part, slot, path="trainer.plugins")

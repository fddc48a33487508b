"""Weights spread over processes, each with its part of every layer (Rajbhandari et al. 2020, "ZeRO", stage 3)."""

from __future__ import annotations

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from vsattn.depth import LAYERED


def shard(model: nn.Module) -> None:
    """Spread the weights over all processes, layer by layer: a whole layer exists only while it is used."""
    if isinstance(model, FSDPModule):
        return
    for parameter in model.parameters():  # weights of convolutions may lie with the channels last
        parameter.data = parameter.data.contiguous()
    for part in (getattr(model, name, None) for name in LAYERED):
        for child in part.children() if part is not None else ():
            for layer in child if isinstance(child, nn.ModuleList) else ():
                fully_shard(layer)
    fully_shard(model)


def gather(model: nn.Module) -> None:
    """Have all weights in each process, until :func:`release`.

    For what calls parts of a model one by one, and in each process as often as its own items need, such as a search.
    """
    for module in _spread(model):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()


def release(model: nn.Module) -> None:
    """Let each process keep only its part again."""
    for module in _spread(model):
        module.set_reshard_after_forward(module is not model, recurse=False)
        module.reshard()


def _spread(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]

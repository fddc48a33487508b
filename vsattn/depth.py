"""The layers of a model from the lowest to the highest: how deep each weight lies, what stays, and short names."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from vsattn.decoders import Decoder
from vsattn.encoders import Encoder
from vsattn.errors import ConfigError, nearest

#: The parts of a model that are made of layers, and all parts below its head; lowest first.
LAYERED = ("encoder", "decoder")
PARTS = ("embedder", "positions", "target_embedder", "target_positions", *LAYERED)


def sections(model: nn.Module) -> dict[str, int]:
    """Return the sections of a model and their depths: 0 below its first layer, then a number for each layer.

    What comes after the last layer, norm and head, has one number more (as in BEiT, Bao et al. 2022, and ELECTRA,
    Clark et al. 2020). An encoder that is not made of several layers is one.
    """
    found: dict[str, int] = {}
    top = 0
    for part in (name for name in PARTS if getattr(model, name, None) is not None):
        names, high = _layers(getattr(model, part), part, top)
        found |= names
        top = max(top, high)
    return {**found, "head": top + 1}


def depth_of(name: str, depths: dict[str, int]) -> int:
    """Return the depth of the section to which a weight belongs; of none that is known, the highest."""
    return next((d for section, d in depths.items() if within(name, section)), max(depths.values()))


def freeze(model: nn.Module, what: int | list[str]) -> list[str]:
    """Keep weights from being trained, and return the names of what is frozen, modules without weights included.

    Args:
        model: changed in place.
        what: 0 is everything below the first layer, n the n lowest layers too; or names of parts, such as
            ``["embedder", "encoder.blocks.0"]``.

    Raises:
        ConfigError: for a part or a layer that the model does not have, or when nothing is left to train.
    """
    depths = sections(model)
    if isinstance(what, int):
        layers = max(depths.values()) - 1
        if not 0 <= what <= layers:
            raise ConfigError(f"freeze: the model has {layers} layers, so a number from 0 to {layers}, not {what}")
        names = [section for section, depth in depths.items() if depth <= what]
    else:
        every = (model.named_modules(), model.named_parameters(remove_duplicate=False))
        known = {name for found in every for name, _ in found if name}
        unknown = [name for name in what if name not in known]
        if unknown:
            parts = sorted({*depths, *(n.split(".")[0] for n in known)})
            raise ConfigError(f"freeze: the model has no part {', '.join(unknown)}; {nearest(unknown[0], parts)}")
        names = list(what)
    for name, parameter in model.named_parameters(remove_duplicate=False):  # a weight that two parts share too
        if any(within(name, section) for section in names):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"freeze: with {what} nothing is left to train")
    return names


def keep_frozen(model: nn.Module, names: Iterable[str]) -> None:
    """Put what is frozen into evaluation mode, so that neither dropout nor running statistics change it."""
    for name, module in model.named_modules():
        if any(within(name, section) for section in names):
            module.eval()


def within(name: str, section: str) -> bool:
    """Tell whether a dotted name is that of a section or of something in it."""
    return name == section or name.startswith(f"{section}.")


def grouped(names: Iterable[str], every: Iterable[str]) -> str:
    """Return names as few words as possible: a part all of whose weights are named stands for them."""
    wanted, others = list(names), [*every]
    rest = set(others) - set(wanted)
    found: dict[str, None] = {}
    for name in wanted:
        words = name.split(".")
        prefixes = (".".join(words[:n]) for n in range(1, len(words) + 1))
        found[next(p for p in prefixes if p == name or not any(within(other, p) for other in rest))] = None
    return ", ".join(found)


def by_reason(names: dict[str, str], every: Iterable[str]) -> list[str]:
    """Return weights with the reason of each, those of one reason together, such as ``head (other classes)``."""
    every, groups = list(every), dict[str, list[str]]()
    for name, reason in names.items():
        groups.setdefault(reason, []).append(name)
    return [f"{grouped(group, every)} ({reason})" for reason, group in groups.items()]


def _layers(part: nn.Module, path: str, base: int) -> tuple[dict[str, int], int]:
    """Return the sections of a part of a model above depth ``base``, and the depth of its highest layer.

    An encoder or decoder has layers; an embedder has them where it has an encoder within, such as BERT.
    """
    direct = {f"{path}.{name}": base for name, _ in part.named_parameters(recurse=False)}
    if not isinstance(part, (Encoder, Decoder)):
        if not any(isinstance(module, Encoder) for module in part.modules()):
            return {path: 0}, 0
        found, top = direct, base
        for name, child in part.named_children():
            inner, high = _layers(child, f"{path}.{name}", base)
            found, top = found | inner, max(top, high)
        return found, top
    lists = [name for name, child in part.named_children() if isinstance(child, nn.ModuleList)]
    if not lists:
        count = int(any(True for _ in part.parameters()))
        return {path: base + count}, base + count
    top = base + max(len(getattr(part, name)) for name in lists)
    found, seen = direct, False
    for name, child in part.named_children():
        if name in lists:
            found |= {f"{path}.{name}.{i}": base + 1 + i for i in range(len(child))}  # type: ignore[arg-type]
            seen = True
        else:
            found[f"{path}.{name}"] = top + 1 if seen else base
    return found, top

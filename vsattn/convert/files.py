"""Files of peers' weights: reading them without running any of it, and telling whose they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vsattn.convert.origins import Weights, vit, wav2vec2
from vsattn.errors import CheckpointError, ConfigError
from vsattn.initial import Origin
from vsattn.saved import read_saved, real_weights, why

#: A weight by which a model is known, its name, and what takes it over.
KINDS: list[tuple[str, str, Callable[[str, Weights, dict[str, Any]], Origin]]] = [
    ("class_token", "torchvision's vision transformer", vit),
    ("feature_extractor.conv_layers.0.conv.weight", "torchaudio's wav2vec 2.0", wav2vec2),
]


def weights_of(path: Path) -> dict[str, Any]:
    """Read a file of tensors, a ``state_dict`` saved by ``torch.save`` or ``.safetensors``, running none of it.

    Raises:
        CheckpointError: when it is damaged, holds more than plain data, or is no mapping.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        held = read_saved(path)
    except ImportError:
        raise CheckpointError(f"{path} needs a package: pip install safetensors") from None
    except Exception as error:  # foreign bytes can fail in any way
        raise CheckpointError(
            f"{path} cannot be read as weights: damaged, incomplete, or more than plain data ({why(error)}); of a "
            "whole model, save its state_dict()"
        ) from None
    if not isinstance(held, dict):
        raise CheckpointError(f"{path} holds a {type(held).__name__}; weights are a state_dict: names and tensors")
    return dict(held)


def peer_of(path: Path, held: dict[str, Any], config: dict[str, Any]) -> Origin:
    """Tell a peer's model by the names of its weights, and take it over.

    Args:
        path: for messages.
        held: as :func:`weights_of` read it.
        config: of the run; weights do not show how many heads there are, nor the strides of convolutions.

    Raises:
        CheckpointError: when no known model has such weights.
        ConfigError: for another number of heads than all published models of this width have.
    """
    found = next(((kind, take) for sign, kind, take in KINDS if sign in held), None)
    if found is None:
        names = ", ".join(list(map(str, held))[:3]) or "nothing"
        known = ", ".join(kind for _, kind, _ in KINDS)
        raise CheckpointError(
            f"{path} holds {names}, ...: neither a checkpoint of vsattn nor weights of {known}. Of other models, use "
            "vsattn.convert in Python"
        )
    kind, take = found
    weights = real_weights(held, f"{kind} {path}")
    try:
        return take(f"{kind} {path}", weights, config)
    except (KeyError, IndexError, AttributeError, TypeError, RuntimeError, ValueError, StopIteration) as error:
        if isinstance(error, (ConfigError, CheckpointError)):
            raise
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} looks like {kind} and is not complete: {reason}") from None

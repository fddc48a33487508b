"""Checkpoints that stand alone: weights, config and tokenizer state in plain types, read without running code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vsattn import __version__, signatures
from vsattn.errors import CheckpointError, ConfigError, VsattnError
from vsattn.saved import read_saved, why

if TYPE_CHECKING:
    from vsattn.predictor import Predictor
    from vsattn.tokenizers.base import Tokenizer

#: The version of the layout of ``checkpoint["vsattn"]``; raised when old files need another reading.
SCHEMA = 1

#: What stands in ``checkpoint["vsattn"]``, and its types.
FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "version": str,
    "config": (dict, type(None)),
    "tokenizer_state": dict,
    "classes": list,
}

#: The parts of a config that a model is built from.
MODEL_PARTS = ("dim", "tokenizer", "encoder", "head")


def plain(value: Any, path: str = "config") -> Any:
    """Return a copy in plain types: dict, list, str, int, float, bool and None; paths become strings.

    Raises:
        ConfigError: naming the place of anything else, which a checkpoint could not hold safely.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): plain(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{path}.{i}") for i, item in enumerate(value)]
    raise ConfigError(f"{path} is a {type(value).__name__}; a checkpoint keeps plain values only")


def payload(config: dict[str, Any] | None, tokenizer: Tokenizer, classes: Sequence[str]) -> dict[str, Any]:
    """Return what a checkpoint holds beside the weights; without a config it can be read, but not loaded alone."""
    return {
        "schema": SCHEMA,
        "version": __version__,
        "config": None if config is None else plain(config),
        "tokenizer_state": plain(tokenizer.state, "tokenizer_state"),
        "classes": [str(name) for name in classes],
    }


def locate(path: str | Path) -> Path:
    """Return the checkpoint file that a path means: the file itself, or the best one of a run's folder.

    Raises:
        CheckpointError: when there is none.
    """
    path = Path(os.path.expanduser(path))
    if os.path.isfile(path):  # False too for names that no file can have
        return path
    if not os.path.isdir(path):
        raise CheckpointError(f"there is no checkpoint {path}; give a .ckpt file or the folder of a run")
    for candidate in (path / "checkpoints" / "best.ckpt", path / "best.ckpt"):
        if candidate.is_file():
            return candidate
    found = ", ".join(str(file.relative_to(path)) for file in sorted(path.rglob("*.ckpt"))) or "none"
    raise CheckpointError(f"{path} holds no checkpoints/best.ckpt; checkpoints in it: {found}")


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint into memory as plain types and tensors, running none of its contents.

    Raises:
        CheckpointError: when it is missing, damaged, foreign, or of a newer version.
    """
    path = locate(path)
    try:
        checkpoint = read_saved(path)
    except Exception as error:  # foreign bytes can fail in any way
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: damaged, incomplete, or more than plain data ({why(error)})"
        ) from None
    held = checkpoint.get("vsattn") if isinstance(checkpoint, dict) else None
    if not isinstance(held, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError(f"{path} was not written by vsattn: it has no 'vsattn' entry beside a 'state_dict'")
    schema = held.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise CheckpointError(
            f"{path} has schema {schema} (vsattn {held.get('version')}) and this is vsattn {__version__}, "
            f"which reads up to {SCHEMA}: install a newer vsattn"
        )
    wrong = [name for name, kind in FIELDS.items() if not isinstance(held.get(name), kind)]
    if "classes" not in wrong and not all(isinstance(name, str) for name in held["classes"]):
        wrong.append("classes")
    beside = held.get("beside", {})
    if not isinstance(beside, dict) or not all(isinstance(labels, list) for labels in beside.values()):
        wrong.append("beside")
    if wrong:
        raise CheckpointError(f"{path} is damaged: its 'vsattn' entry lacks a valid {', '.join(wrong)}")
    if not all(isinstance(name, str) for name in checkpoint["state_dict"]):
        raise CheckpointError(f"{path} is damaged: its 'state_dict' has keys that are no names")
    return checkpoint


def model_weights(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the model's own state, without the task's prefix."""
    prefix = "model."
    return {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Predictor:
    """Load a trained model, ready to predict, from a checkpoint file or the folder of a run.

    Only classes of the allowed packages are built (see :mod:`vsattn.build`), and nothing else of the file is run.

    Raises:
        CheckpointError: when the file is missing, damaged, foreign, of a newer version, or its parts do not fit.
    """
    from vsattn.build import build
    from vsattn.encoder_decoder import EncoderDecoder
    from vsattn.model import build_model
    from vsattn.predictor import Predictor
    from vsattn.tokenizers.base import Tokenizer
    from vsattn.translator import Translator

    path = locate(path)
    checkpoint = read(path)
    held = checkpoint["vsattn"]
    config = held["config"]
    missing = [name for name in MODEL_PARTS if name not in (config or {})]
    if missing:
        raise CheckpointError(
            f"{path} holds no config.{missing[0]} to build the model from; build it yourself and load "
            "vsattn.checkpoint.model_weights(vsattn.checkpoint.read(path)) into it"
        )
    weights = model_weights(checkpoint)
    if impossible := _impossible(config, weights):
        raise CheckpointError(f"the model in {path} cannot be rebuilt here: {impossible}")
    try:
        tokenizer = build(config["tokenizer"], Tokenizer, path="tokenizer").load_state(held["tokenizer_state"])
        model = build_model(config, tokenizer, num_classes=len(held["classes"]))
    except VsattnError as error:
        raise CheckpointError(f"the model in {path} cannot be rebuilt here: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as error:
        reason = f"its config or tokenizer state is not valid ({type(error).__name__}: {str(error)[:400]})"
        raise CheckpointError(f"the model in {path} cannot be rebuilt here: {reason}") from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        raise CheckpointError(f"the weights in {path} do not fit the model of its config: {' '.join(lines)}") from None
    kind = Translator if isinstance(model, EncoderDecoder) else Predictor
    predictor = kind(model.to(device), tokenizer, held["classes"], config=config)
    predictor.beside = held.get("beside", {})
    return predictor


def _impossible(config: dict[str, Any], weights: dict[str, Any]) -> str:
    """Say why no model of this config has these weights, where that shows before a huge one is built; "" otherwise."""
    sizes = [size for weight in weights.values() if isinstance(weight, torch.Tensor) for size in weight.shape]
    bounds = {"dim": max(sizes, default=0), "num_layers": len(weights)}
    given = [("dim", "dim", config["dim"])]
    for name in ("tokenizer", "positions", "encoder", "decoder", "head"):
        part = config.get(name)
        given += [(key, f"{name}.{key}", part[key]) for key in bounds if isinstance(part, dict) and key in part]
    for name in ("task", "data"):
        if not isinstance(config.get(name), (dict, type(None))):
            return f"{name}: a component is a mapping with a _target_, not {signatures.shown(config[name])}"
    for key, place, value in given:
        if isinstance(value, int) and value > bounds[key]:
            return f"{place} is {value}, and its weights allow at most {bounds[key]}"
    return ""

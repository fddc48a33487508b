"""Checkpoints that stand alone: read one back into a model, without its config, Lightning or Hydra."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from vsattn import __version__
from vsattn.build import build
from vsattn.errors import CheckpointError, ConfigError, DataError
from vsattn.model import build_model
from vsattn.predictor import Predictor
from vsattn.tokenizers.base import Tokenizer

#: Version of what :func:`payload` writes; raised when older code could not read it.
SCHEMA = 1


def payload(config: dict[str, Any], tokenizer: Tokenizer, classes: list[str]) -> dict[str, Any]:
    """Return what a checkpoint keeps beside the weights, in plain types alone.

    Args:
        config: the whole resolved config.
        tokenizer: fitted; its state is its vocabulary or preprocessing.
        classes: names of the classes.
    """
    return {
        "schema": SCHEMA,
        "version": __version__,
        "config": config,
        "tokenizer_state": tokenizer.state,
        "classes": list(classes),
    }


def read(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file, or the best one of a run folder, to the CPU; nothing in it can run code.

    Raises:
        CheckpointError: for a file that is missing, truncated, foreign, or of a newer schema.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "checkpoints" / "best.ckpt"
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is no readable checkpoint (truncated, or not one at all): {reason}") from None
    if not isinstance(content, dict) or not {"vsattn", "state_dict"} <= content.keys():
        raise CheckpointError(f"{path} is a torch file, but not a vsattn checkpoint")
    schema = content["vsattn"].get("schema") if isinstance(content["vsattn"], dict) else None
    if not isinstance(schema, int) or schema > SCHEMA:
        raise CheckpointError(
            f"{path} has checkpoint schema {schema}; this vsattn {__version__} reads up to {SCHEMA}: upgrade vsattn"
        )
    return content


def load(path: str | Path) -> Predictor:
    """Return the trained model of a checkpoint file or run folder, ready to predict.

    Only classes of allowed packages are built (see `vsattn.build`); of a checkpoint with your own classes, call
    ``vsattn.build.allow_package`` with their package first.

    Raises:
        CheckpointError: when the file cannot be read, or its config and weights do not make a model.
    """
    content = read(path)
    kept = content["vsattn"]
    try:
        config, classes = kept["config"], list(kept["classes"])
        tokenizer = build(config["tokenizer"], Tokenizer, path="tokenizer").load_state(kept["tokenizer_state"])
        model = build_model(config, tokenizer, num_classes=len(classes))
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error}") from None
    except (ConfigError, DataError) as error:
        raise CheckpointError(f"the config kept in {path} makes no model:\n{error}") from None
    prefix = "model."
    weights = {k[len(prefix) :]: v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {path} do not fit its config: {error}") from None
    return Predictor(model, tokenizer, classes)

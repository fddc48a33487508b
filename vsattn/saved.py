"""Files of `torch.save`, read without running anything that they hold, and only when they are as they were written."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from vsattn.errors import CheckpointError


def read_saved(path: str | Path) -> Any:
    """Return plain types and tensors, on the CPU.

    torch itself looks at no checksum, so that a flipped bit would be another weight.

    Raises:
        ValueError: for a part whose checksum is wrong, or that is compressed, which torch never does: it could stand
            for more than the memory holds.
        Exception: whatever `torch.load` raises for bytes that are no such file, or for more than plain types.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            packed = next(
                (part.filename for part in parts.infolist() if part.compress_type != zipfile.ZIP_STORED), None
            )
            if packed is not None:
                raise ValueError(f"its part {packed} is compressed")
            damaged = parts.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of its part {damaged} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def why(error: Exception) -> str:
    """Return in one line what kept a file from being read; torch's own words tell how to run it all the same."""
    if isinstance(error, UnpicklingError):
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f"it asks for {asked[1]}" if asked else "it is no file of tensors"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def real_weights(held: dict[str, Any], name: str) -> dict[str, Tensor]:
    """Return weights, numbers with a point in float32, whatever precision they were saved in.

    Raises:
        CheckpointError: naming the first that is no dense tensor of real numbers.
    """
    for key, value in held.items():
        dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if not isinstance(key, str) or not dense or value.is_complex() or value.is_quantized:
            raise CheckpointError(
                f"{name} holds {key!r}, which is no tensor of real numbers; save a state_dict() alone"
            )
    return {key: value.float() if value.is_floating_point() else value for key, value in held.items()}

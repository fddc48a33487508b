"""Files of `torch.save`, read without running anything that they hold, and only when they are as they were written."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch


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

"""Files of `torch.save`, read without running anything that they hold, and only when they are as they were written."""

from __future__ import annotations

import zipfile
from pathlib import Path
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

"""Tokenizers: from raw items to vectors, one file per modality, each loading its own library when it is used."""

from __future__ import annotations

import importlib
from typing import Any

_HOME_OF = {
    "Tokenizer": "vsattn.tokenizers.base",
    "Pixels": "vsattn.tokenizers.pixels",
    "Patches": "vsattn.tokenizers.patches",
    "ConvStem": "vsattn.tokenizers.conv_stem",
}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'vsattn.tokenizers' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

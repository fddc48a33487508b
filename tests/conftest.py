"""What all tests share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")  # before torch is loaded: small models gain nothing from more
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

settings.register_profile("vsattn", deadline=None, print_blob=True)
settings.load_profile("vsattn")


@pytest.fixture
def root() -> Path:
    """The top folder of the repository."""
    return ROOT


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the data sets that a person happens to have."""
    monkeypatch.delenv("VSATTN_DATA", raising=False)

"""Fetching torchvision's data sets so that a broken download leaves nothing half-made behind."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vsattn.errors import DataError

#: A server that is silent for so many seconds is given up.
TIMEOUT = 60.0


def load_split(kind: Any, root: Path, files: Sequence[str], *, train: bool) -> Any:
    """Return a torchvision data set, read from ``root``, or downloaded there first when files are missing.

    Args:
        kind: the class, such as `torchvision.datasets.FashionMNIST`.
        root: holds the set's own folder, or will.
        files: what the set is made of, relative to ``root``.
        train: the training split, or the test split.

    Raises:
        DataError: saying what went wrong and which files belong where.
    """
    if not all((root / name).is_file() for name in files):
        try:
            _download(kind, root, files)
        except Exception as error:  # whatever the network, the server or the disk says
            raise DataError(
                f"{kind.__name__} is not complete under {root} and could not be downloaded ({_one_line(error)}). "
                f"Point VSATTN_DATA or paths.data at a folder that holds it, or put these files there:\n"
                f"{_listing(root, files)}"
            ) from error
    try:
        return kind(str(root), train=train, download=False)
    except Exception as error:  # torchvision checks little, so that damage shows in many ways
        raise DataError(
            f"{kind.__name__} under {root} cannot be read ({_one_line(error)}). Delete the damaged file "
            f"and the next run downloads it:\n{_listing(root, files)}"
        ) from error


def _download(kind: Any, root: Path, files: Sequence[str]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".download-", dir=root))
    try:
        for folder in {(root / name).parent for name in files} | {root}:  # archives already fetched by hand
            for archive in sorted((*folder.glob("*.gz"), *folder.glob("*.tgz"))):
                copy = staging / archive.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(archive, copy)
        with _timeout(TIMEOUT):
            kind(str(staging), train=True, download=True)
        for name in files:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / name, root / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _listing(root: Path, files: Sequence[str]) -> str:
    paths = [root / name for name in files]
    return "\n".join(f"  {p} ({f'{p.stat().st_size:,} bytes' if p.is_file() else 'missing'})" for p in paths)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__

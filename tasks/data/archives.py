"""Fetching a data set that is one archive, so that a broken download leaves nothing half-made behind."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from vsattn.errors import DataError

#: What a network, a server, a disk or a damaged archive can answer with.
FAILURES = (OSError, EOFError, ValueError, http.client.HTTPException, tarfile.TarError, zlib.error)

#: A server that is silent for so many seconds is given up.
TIMEOUT = 60.0


def fetch_archive(
    url: str,
    folder: Path,
    *,
    place: Callable[[PurePosixPath], str | None],
    check: Callable[[Path], None],
    sha256: str | None = None,
) -> None:
    """Download a ``.tar.gz`` and unpack part of it into ``folder``, all or nothing.

    An archive of that name that already lies beside ``folder`` is taken instead of the download.

    Args:
        url: of the archive; ``https``, or ``file`` and loopback addresses in tests.
        folder: made here; must not exist yet.
        place: from a member's path to the path below ``folder`` where it goes; None leaves it out. Only plain files
            are unpacked, links and devices are not.
        check: called with the unpacked folder before it gets its name; raises DataError when it is not complete.
        sha256: of the archive, in hexadecimal; None where its maker packs it anew now and then.

    Raises:
        DataError: saying what went wrong and what belongs where.
    """
    by_hand = folder.parent / url.rsplit("/", 1)[-1]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".download-", dir=folder.parent, ignore_cleanup_errors=True) as staging:
            archive = by_hand if by_hand.is_file() else download(url, Path(staging, "archive"))
            if sha256 is not None and (found := sha256_of(archive)) != sha256:
                raise DataError(f"the SHA-256 of {archive.name} is {found}, not {sha256}")
            unpacked = Path(staging, "unpacked")
            unpacked.mkdir()
            _unpack(archive, unpacked, place)
            check(unpacked)
            os.replace(unpacked, folder)
    except FAILURES as error:  # DataError is a ValueError
        raise DataError(
            f"{folder} is not there and could not be made from {url} ({' '.join(str(error).split())[:400]}). "
            f"Point VSATTN_DATA or paths.data at a folder that holds it, or put the archive at {by_hand}"
        ) from error


def download(url: str, path: Path) -> Path:
    """Fetch a file whole.

    Raises:
        DataError: when fewer bytes arrive than were promised; what ``urllib`` raises otherwise.
    """
    print(f"downloading {url}", flush=True)
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer, path.open("wb") as file:
        shutil.copyfileobj(answer, file, 1 << 20)
        promised = answer.headers.get("Content-Length")
    if promised is not None and path.stat().st_size != int(promised):
        raise DataError(f"only {path.stat().st_size:,} of {int(promised):,} bytes arrived")
    return path


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _unpack(archive: Path, folder: Path, place: Callable[[PurePosixPath], str | None]) -> None:
    with tarfile.open(archive, "r:gz") as members:
        for member in members:
            name = place(PurePosixPath(member.name)) if member.isfile() else None
            if name is None:
                continue
            path, parts = folder / name, PurePosixPath(name).parts
            if ".." in parts or PurePosixPath(name).is_absolute():
                raise DataError(f"the archive holds a file outside of itself: {member.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            source = members.extractfile(member)
            assert source is not None
            with source, path.open("wb") as file:
                shutil.copyfileobj(source, file)

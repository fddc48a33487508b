"""Text files, read whole: UTF-8 and nothing else, with every fault named by file and line."""

from __future__ import annotations

import zlib
from pathlib import Path

from vsattn.errors import DataError

#: With these bytes a gzip file begins, whatever its name.
GZIP = b"\x1f\x8b"

#: No text is larger, packed or not: a small packed file can stand for more than the memory holds.
MAX_BYTES = 4 << 30

BYTE_ORDER_MARK = "\N{ZERO WIDTH NO-BREAK SPACE}"


def read_text(path: str | Path, *, unpack: bool = False) -> str:
    """Return what a text file holds, a byte order mark and the ends of lines included.

    Args:
        path: of the file; ``~`` is the home folder.
        unpack: read a gzip file too, known by its first bytes.

    Raises:
        DataError: naming the file, and the line where there is one, when it is missing, damaged, empty, not UTF-8, or
            holds a NUL, as UTF-16 and what is no text do.
    """
    try:
        path = Path(path).expanduser()
        content = path.read_bytes()
        if unpack and content.startswith(GZIP):
            content = _unpacked(content)
    except (OSError, EOFError, zlib.error, RuntimeError, ValueError) as error:  # an unknown ~NAME, a NUL in the name
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason}); convert the file") from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{path}, line {line}: holds a NUL, which no text does; if it is UTF-16, convert it to UTF-8")
    if not text.removeprefix(BYTE_ORDER_MARK).strip():
        raise DataError(f"{path} is empty")
    return text


def _unpacked(content: bytes) -> bytes:
    """Return what gzip packed, in one part or in several."""
    parts, size = [], 0
    while content.strip(b"\0"):
        unpacker = zlib.decompressobj(wbits=31)
        parts.append(unpacker.decompress(content, MAX_BYTES + 1 - size))
        size, content = size + len(parts[-1]), unpacker.unused_data
        if size > MAX_BYTES:
            raise EOFError(f"it unpacks to more than {MAX_BYTES:,} bytes")
        if not unpacker.eof:
            raise EOFError("it is a gzip file that is cut short")
    return b"".join(parts)

"""Damaged files in great number: a reader must be right, or name the file in an error of ours.

A `Reader` writes a valid input, damages it by a seed, reads it, and knows from another library what is right. `judge`
says what is wrong with one case, and `Reader.damage` may be called again with the seed that a failure names.
"""

from __future__ import annotations

import random
import re
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vsattn.errors import VsattnError

Damage = Callable[[bytes, random.Random], bytes]

#: Seconds that no case may take.
LIMIT = 10


class Wrong(Exception):
    """What an independent parser says of an input that nobody should accept."""


class Reader:
    """A reader of files, with valid ones, what damages them, and another reader to compare with.

    Attributes:
        name: for seeds and messages.
        damages: of one file's bytes.
        below: the folder in which the files lie.
        place: an error names the file and, unless all of it is meant, a place that this pattern finds.
    """

    name: str
    damages: Sequence[Damage]
    place = r""
    below = ""

    def aliases(self, name: str) -> list[str]:
        """Return what else an error may call a file."""
        return []

    def files(self, chance: random.Random) -> dict[str, bytes]:
        """Return valid content by file name."""
        raise NotImplementedError

    def read(self, folder: Path) -> Any:
        """Read the files by what is tested."""
        raise NotImplementedError

    def expected(self, folder: Path) -> Any:
        """Return what `read` must return; raise `Wrong` when nothing is right."""
        raise NotImplementedError

    def damage(self, seed: int, folder: Path) -> str:
        """Write the files of a case, one of them damaged; return that one's name."""
        chance = random.Random(f"{self.name} {seed}")
        files, folder = self.files(chance), folder / self.below
        folder.mkdir(exist_ok=True)
        victim = chance.choice(sorted(files))
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if seed % 20 == 0:
            PLACES[seed // 20 % len(PLACES)](folder / victim)
            return victim
        content = files[victim]
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            content = chance.choice(self.damages)(content, chance)
        (folder / victim).write_bytes(content)
        return victim


def judge(reader: Reader, seed: int, folder: Path) -> tuple[str, str | None]:
    """Try one case.

    Returns:
        ``"refused"`` or ``"read"``, and what is wrong with that, or None.
    """
    folder.mkdir()
    victim = reader.damage(seed, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with limited(LIMIT):
                found = reader.read(folder)
        except VsattnError as error:
            return "refused", _silent(reader, str(error), victim)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return "refused", f"{type(error).__name__}: {error}"
        try:
            wanted = reader.expected(folder)
        except Wrong as why:
            return "read", f"{victim} was read, although {why}"
    return "read", None if found == wanted else f"{victim} was read as {_short(found)}, and is {_short(wanted)}"


def _silent(reader: Reader, message: str, victim: str) -> str | None:
    if not any(name in message for name in (victim, *reader.aliases(victim))):
        return f"the error does not name {victim}: {message}"
    whole = re.search(r"is empty|cannot be read|there is no|is missing|[Nn]o such file|holds no|has no", message)
    if not whole and not re.search(reader.place, message):
        return f"the error does not say where in {victim}: {message}"
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 300 else f"{text[:300]}..."


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"it takes longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# What stands where a file should.


def missing(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(4096))


PLACES = [missing, directory, loop, dangling, empty, zeros]


# Damage to any bytes.


def flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def behead(content: bytes, chance: random.Random) -> bytes:
    return content[chance.randrange(min(len(content), 64) + 1) :]


def lose(content: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(content) + 1)
    return content[:start] + content[start + chance.randrange(1, 40) :]


def insert(content: bytes, chance: random.Random) -> bytes:
    piece = chance.choice((b"\0", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x1a", b"\x80"))
    place = chance.randrange(len(content) + 1)
    return content[:place] + piece + content[place:]


def junk(content: bytes, chance: random.Random) -> bytes:
    return content + chance.randbytes(chance.randrange(1, 200))


def huge_number(content: bytes, chance: random.Random) -> bytes:
    """Put an extreme number into four bytes, near the start, where headers are."""
    number = chance.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**24))
    place = 2 * chance.randrange(max(1, min(len(content), 64) // 2))
    return content[:place] + number.to_bytes(4, chance.choice(("little", "big"))) + content[place + 4 :]


BYTES: list[Damage] = [flip, cut, behead, lose, insert, junk, huge_number]


# Damage to text.


def byte_order_mark(content: bytes, chance: random.Random) -> bytes:
    return b"\xef\xbb\xbf" + content


def other_encoding(content: bytes, chance: random.Random) -> bytes:
    return content.decode("utf-8", "replace").encode(
        chance.choice(("utf-16", "utf-16-le", "utf-32", "latin-1")), "replace"
    )


def _lines(change: Callable[[list[bytes], int, random.Random], None]) -> Damage:
    def damage(content: bytes, chance: random.Random) -> bytes:
        lines = content.split(b"\n")
        change(lines, chance.randrange(len(lines)), chance)
        return b"\n".join(lines)

    return damage


def _mixed_ends(lines: list[bytes], index: int, chance: random.Random) -> None:
    lines[:] = [line + b"\r" if chance.random() < 0.5 else line for line in lines]


def old_mac(content: bytes, chance: random.Random) -> bytes:
    return content.replace(b"\n", b"\r")


def _odd_end(lines: list[bytes], index: int, chance: random.Random) -> None:
    sign = chance.choice(("\u2028", "\x0b", "\x0c", "\x85", "\r", "\u00a0", "\x1c", " "))
    line = lines[index]
    place = chance.randrange(len(line) + 1)
    lines[index] = line[:place] + sign.encode() + line[place:]


def _long(lines: list[bytes], index: int, chance: random.Random) -> None:
    lines[index] += b"x" * 200_000


def _blank(lines: list[bytes], index: int, chance: random.Random) -> None:
    lines.insert(index, chance.choice((b"", b"  ", b"\t")))


def _repeat(lines: list[bytes], index: int, chance: random.Random) -> None:
    lines.insert(index, lines[index])


def _drop(lines: list[bytes], index: int, chance: random.Random) -> None:
    del lines[index]


def _swap(lines: list[bytes], index: int, chance: random.Random) -> None:
    other = chance.randrange(len(lines))
    lines[index], lines[other] = lines[other], lines[index]


LINES: list[Damage] = [
    byte_order_mark,
    other_encoding,
    old_mac,
    *map(_lines, (_mixed_ends, _odd_end, _long, _blank, _repeat, _drop, _swap)),
]

#: What may stand in a cell, and mostly should not.
CELLS = (
    "", "-1", "0", "1e400", "1e39", "nan", "inf", "-inf", "99999999999999999999", "1_000", "٣", "0x10",
    "1,5", '"', '"a', "a\"b",
    "_", "#", "train", "é", "\x00", " ", "3-1", "1.1", "2-3", "1-", "a=b|c", "'", "1.0.0", "𝟏", "True", "id", "∞",
)  # fmt: skip


def cells(separator: bytes) -> list[Damage]:
    """Return what damages a table."""

    def change(lines: list[bytes], index: int, chance: random.Random) -> None:
        fields = lines[index].split(separator)
        fields[chance.randrange(len(fields))] = chance.choice(CELLS).encode()
        lines[index] = separator.join(fields)

    def drop(lines: list[bytes], index: int, chance: random.Random) -> None:
        fields = lines[index].split(separator)
        del fields[chance.randrange(len(fields))]
        lines[index] = separator.join(fields)

    def add(lines: list[bytes], index: int, chance: random.Random) -> None:
        fields = lines[index].split(separator)
        fields.insert(chance.randrange(len(fields) + 1), chance.choice(CELLS).encode())
        lines[index] = separator.join(fields)

    def column(content: bytes, chance: random.Random) -> bytes:
        rows = [line.split(separator) for line in content.split(b"\n")]
        place = chance.randrange(max(map(len, rows)))
        return b"\n".join(separator.join(row[:place] + row[place + 1 :]) for row in rows)

    def other(content: bytes, chance: random.Random) -> bytes:
        return content.replace(separator, chance.choice((b" ", b";", b"  ", b"\t\t")))

    return [*map(_lines, (change, change, drop, add)), column, other]

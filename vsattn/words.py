"""The words of a command: settings written ``key=value``, options, numbers, and the folder that results go to."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vsattn.errors import ConfigError, DataError, nearest

SPLITS = ("test", "val", "train")


def read_words(words: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    """Return settings that are written ``key=value``.

    Raises:
        ConfigError: naming everything that is no setting, is unknown, is given twice or is missing.
    """
    given: dict[str, str] = {}
    faults = []
    for word in words:
        key, sign, value = word.partition("=")
        if key in (*required, *optional) and sign and not value:
            faults.append(f"{word}: nothing stands after the =")
        elif not sign or not value:
            faults.append(f"{word}: settings are written key=value, such as ckpt=FOLDER")
        elif key in given:
            faults.append(f"{word}: {key} is given twice; several files are written {key}=a,b")
        elif key not in (*required, *optional):
            faults.append(f"{word}: there is no setting '{key}'; {nearest(key, (*required, *optional))}")
        else:
            given[key] = value
    faults += [f"{key}: is missing; add {key}=PATH" for key in required if key not in given]
    if faults:
        raise ConfigError("\n".join(faults))
    return given


def option(words: list[str], short: str, long: str) -> tuple[list[str], str | None]:
    """Take an option and its value out of the words.

    Raises:
        ConfigError: when the value is missing.
    """
    for i, word in enumerate(words):
        if word.startswith(f"{long}="):
            return [*words[:i], *words[i + 1 :]], word.split("=", 1)[1]
        if word in (short, long):
            if i + 1 == len(words):
                raise ConfigError(f"{word} needs a folder")
            return [*words[:i], *words[i + 2 :]], words[i + 1]
    return words, None


def split_of(given: Mapping[str, str], usual: str) -> str:
    """Return the split of the data that settings name, or the usual one.

    Raises:
        ConfigError: for another word.
    """
    split = given.get("split", usual)
    if split not in SPLITS:
        raise ConfigError(f"split={split}: there is no such split; {nearest(split, SPLITS)}")
    return split


def count(name: str, text: str, least: int) -> int:
    """Return the whole number that a setting is given.

    Raises:
        ConfigError: for anything else.
    """
    if not text.isdecimal() or len(text) > 9 or int(text) < least:
        raise ConfigError(f"{name}={text[:20]}: a whole number of at least {least} and at most 999999999 is expected")
    return int(text)


def free_folder(given: str | None, *default: str) -> Path:
    """Return the whole path of the folder that ``-o`` names, or of one of this moment in ``outputs``; it is not made.

    Raises:
        DataError: when it holds something.
    """
    folder = Path(given) if given else Path("outputs", *default, time.strftime("%Y-%m-%d_%H-%M-%S"))
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} holds something already; choose another folder with -o FOLDER")
    return folder.resolve()


def quoted(path: Path) -> str:
    """Return a path as a word of Hydra's, which reads quotes and backslashes before them."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def numbers(name: str, text: str) -> list[int]:
    """Return what ``1,3-5`` names, counted from 0.

    Raises:
        ConfigError: for anything else.
    """
    found: list[int] = []
    for part in text.split(","):
        span = re.fullmatch(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?", part.strip(), re.ASCII)
        first, last = (int(span[1]), int(span[2] or span[1])) if span else (1, 0)
        if last < first:
            raise ConfigError(f"{name}={text}: numbers from 1 are expected, such as {name}=1,3-5")
        found += range(first - 1, last)
    return sorted(set(found))


def megabytes(text: str) -> float:
    """Return the number of a budget.

    Raises:
        ConfigError: for anything but a number above 0.
    """
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e4:
        raise ConfigError(f"budget_mb={text}: a number above 0 is expected, such as 4.8")
    return found

"""Errors a user can act on: each message says what was seen, what is allowed, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VsattnError(Exception):
    """Base of every error that vsattn raises on purpose."""


class ConfigError(VsattnError, ValueError):
    """A configuration that cannot be built: unknown key or class, wrong type, impossible combination."""


class ShapeError(VsattnError, ValueError):
    """Tensors or vector sets whose shapes, layouts or devices do not fit together."""


class DataError(VsattnError, ValueError):
    """Input data that is missing, malformed or empty; the message names the file or the item."""


class CheckpointError(VsattnError, ValueError):
    """A checkpoint that is missing, truncated, foreign, or written by a newer version."""


class RecordingError(VsattnError, RuntimeError):
    """Attention that could not be recorded: nothing was seen, or more than the memory allowed."""


class Stopped(VsattnError):
    """A training that ended because a signal asked it to; the message says how to go on.

    Args:
        message: for the user.
        number: the signal.
    """

    def __init__(self, message: str, number: int = 2) -> None:
        super().__init__(message)
        self.number = number


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'image'? (choices: image, speech)``."""
    options = sorted(set(choices))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    listed = f"choices: {', '.join(options)}" if options else "there are no choices"
    return f"did you mean '{close[0]}'? ({listed})" if close else listed

"""How a training that is asked to end does so where it can go on: SIGINT (Ctrl-C) and SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Notes the first SIGINT or SIGTERM, so that training ends between two batches; the second ends it at once.

    Attributes:
        number: the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.number = 0
        self._speaks = True

    def listen(self, *, speaks: bool = True) -> None:
        """Take the signals over, where this is the main thread; elsewhere Python lets nobody.

        Args:
            speaks: say on standard error that the signal was heard.
        """
        self._speaks = speaks
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.number = number
        if self._speaks:
            again = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            os.write(2, f"\nending after this batch, or this validation ({again} again: at once)\n".encode())


@contextmanager
def signals_given_back() -> Iterator[None]:
    """Leave signals as they were before, whoever took them over meanwhile."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)

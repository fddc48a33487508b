"""What a user hears of a training: no noise, and errors in plain words."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import sys
import warnings
from collections.abc import Iterator

from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from vsattn.environment import loggers_at
from vsattn.errors import ConfigError, VsattnError

#: What Lightning warns of and no user of this package can or need change.
NOISE = (
    r".*does not have many workers.*",
    r".*smaller than the logging interval.*",
    r".*LeafSpec.*is deprecated.*",
    r".*exists and is not empty.*",
    r".*`tensorboardX` has been removed.*",
    r".*in eval mode at the start of training.*",  # what is frozen
    r".*callbacks used to create the checkpoint need to be provided.*",  # what a run that goes on is to leave out
    r".*WeightAveraging callback with a model that overrides the configure_model.*",  # it shards only if told to
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back Lightning's tips and the warnings listed in `NOISE`; everything else is shown."""
    with warnings.catch_warnings(), loggers_at(logging.WARNING, "lightning.pytorch", "lightning.fabric"):
        for message in NOISE:
            warnings.filterwarnings("ignore", message=message)
        yield


#: What fails when nothing (more) can be written: a full disk or quota, a file that may be no larger, no permission.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EIO)


@contextlib.contextmanager
def written() -> Iterator[None]:
    """Say what cannot be written, and why, as an error of ours."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        place = f"{error.filename} cannot be written" if error.filename else "a file cannot be written"
        raise VsattnError(
            f"{place}: {error.strerror}; what was written before is whole. Make room or choose another folder; "
            "a training that had begun goes on with resume=FOLDER"
        ) from error


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Give an error of ours that comes out of a loader's process its own message back, without the traceback's text.

    What Lightning finds wrong with its settings only when it uses them (``monitor``, say) is a `ConfigError`. Where it
    hears signals itself, it would leave with 1 after Ctrl-C and with 0 after SIGTERM.
    """
    try:
        yield
    except SIGTERMException as stop:
        print("terminated", file=sys.stderr)
        stop.code = 143
        raise
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise
    except MisconfigurationException as error:
        raise ConfigError(str(error)) from None
    except RuntimeError as error:
        if str(error).startswith("Early stopping conditioned on metric"):
            raise ConfigError(
                f"{str(error).splitlines()[0].split('.')[0]}: training ended before the first validation; set "
                "callbacks.early_stopping=null, or let an epoch end"
            ) from None
        if not re.match(r"DataLoader worker .*(killed|exited)", str(error)):
            raise
        raise VsattnError(
            f"a process that reads the data has died ({str(error).splitlines()[0].rstrip('. ')}): memory may have run "
            "out; try fewer num_workers or a smaller batch_size. What was written is whole, and resume=FOLDER goes on"
        ) from error
    except VsattnError as error:
        text, name = str(error), f"{type(error).__module__}.{type(error).__qualname__}: "
        if not text.startswith("Caught ") or name not in text:
            raise
        raise type(error)(text.rsplit(name, 1)[1].strip()) from None

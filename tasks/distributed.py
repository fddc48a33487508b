"""Training in several processes, each with its share of every batch: by Lightning's own strategies."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from torch import multiprocessing
from torch.distributed import TCPStore
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from vsattn import errors
from vsattn.errors import ConfigError, Stopped, VsattnError

if TYPE_CHECKING:
    from .base import Task

#: Processes wait so long for the first, which tests and reports alone.
PATIENCE = timedelta(days=7)
#: By which the first process lets the others know that it failed.
FAILED = "vsattn/failed"


class Peerless(VsattnError):
    """This process cannot go on, because another one of the same training ended; that one has said why."""


def parallel() -> bool:
    """Tell whether this is one of several processes that train together."""
    available = torch.distributed.is_available() and torch.distributed.is_initialized()
    return available and torch.distributed.get_world_size() > 1


def seen_by_any(counts: list[int], device: torch.device) -> list[bool]:
    """Tell of each measure whether any process has seen something, since all must then add up what they have."""
    told = torch.tensor(counts, device=device)
    if parallel():
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
    return [count > 0 for count in told.tolist()]


class Together(Callback):
    """Sees to it that all processes begin with the same model and data, and draw different random numbers.

    Args:
        fingerprint: what must be the same everywhere, by name; see :func:`fingerprint`.
        seed: of the run.
    """

    def __init__(self, fingerprint: dict[str, str], seed: int) -> None:
        self.fingerprint, self.seed = fingerprint, seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare.

        Raises:
            VsattnError: in every process, naming what differs between them.
        """
        if not parallel():
            return
        every: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(every, self.fingerprint)
        wrong = [name for name in self.fingerprint if len({one[name] for one in every}) > 1]
        if wrong:
            raise VsattnError(
                f"the processes disagree about {' and '.join(wrong)}: all must read the same data, with the same "
                "versions of all packages"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw dropout in each process by its own random numbers; those of the first are as if it were alone."""
        if trainer.global_rank > 0:
            torch.manual_seed(self.seed + trainer.global_rank)


def fingerprint(task: Task, sizes: dict[str, int]) -> dict[str, str]:
    """Return digests of what all processes must have alike: the tokenizer, the classes, the weights and the data."""
    weights = hashlib.sha256()
    for name, value in task.model.state_dict().items():
        weights.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    texts = {"the tokenizer": task.tokenizer.state, "the classes": task.classes, "the data": sizes}
    digests = {name: hashlib.sha256(json.dumps(text).encode()).hexdigest() for name, text in texts.items()}
    return {**digests, "the weights": weights.hexdigest()}


class Returned(Callback):
    """Brings back what a training in processes of its own (``ddp_spawn``) has learned beside the weights.

    Lightning itself brings back the weights and the best checkpoint's path; this brings the state of all callbacks,
    such as the table of epochs, and of the loop, which counts epochs and steps.
    """

    def __init__(self, noise: tuple[str, ...] = ()) -> None:
        self.folder, self.noise = Path(tempfile.mkdtemp(prefix="vsattn-")), noise

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Keep back, in a process that starts with this, what the one that started it keeps back."""
        self.__dict__.update(state)
        for message in self.noise:
            warnings.filterwarnings("ignore", message=message)
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave it."""
        if trainer.is_global_zero:
            states = [callback.state_dict() for callback in trainer.callbacks]  # type: ignore[attr-defined]
            torch.save({"callbacks": states, "loop": trainer.fit_loop.state_dict()}, self.folder / "state.pt")

    def restore(self, trainer: pl.Trainer) -> None:
        """Take it over, in the process that waited."""
        state = torch.load(self.folder / "state.pt", weights_only=True)
        for callback, own in zip(trainer.callbacks, state["callbacks"], strict=True):  # type: ignore[attr-defined]
            callback.load_state_dict(own)
        trainer.fit_loop.load_state_dict(state["loop"])
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def joined(trainer: pl.Trainer, noise: tuple[str, ...]) -> Iterator[None]:
    """Train inside, in as many processes as the trainer starts, and bring back into this one what they found.

    Raises:
        Peerless: when another process has ended.
        VsattnError: what a process that was started for the training alone raised.
    """
    apart = isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)
    returned = Returned(noise) if apart else None
    sharing = multiprocessing.get_sharing_strategy()
    if returned is not None:
        trainer.callbacks.append(returned)  # type: ignore[attr-defined]
        multiprocessing.set_sharing_strategy("file_system")  # by file descriptors, Python refuses some models and data
    try:
        with _told_once(trainer):
            try:
                yield
            except RuntimeError as error:
                raise _lost_peer(error) or _unused(error) or error from error
    except ProcessRaisedException as error:
        raise _own(str(error)) or error from None
    except ProcessExitedException as error:
        raise VsattnError(f"a process of the training was ended ({error}); memory may have run out") from error
    finally:
        multiprocessing.set_sharing_strategy(sharing)
    if returned is not None:
        returned.restore(trainer)


@contextlib.contextmanager
def _told_once(trainer: pl.Trainer) -> Iterator[None]:
    """Let an error that all processes meet be told by the first alone, and one that another meets by that one."""
    try:
        yield
    except VsattnError as error:
        if not parallel():
            raise
        shared = not isinstance(error, (Peerless, Stopped))
        if trainer.is_global_zero:
            if shared:
                _store().set(FAILED, "")
            raise
        silent = not shared or _failed_too()
        if isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher):
            # Who was started by the first process lets it end before: Lightning would kill it for a child that failed.
            atexit.register(_outlive, os.getppid())
        if silent:
            raise SystemExit(1) from None
        torch.distributed.destroy_process_group()  # so that the first, which waits for this process, goes on
        raise


def _store() -> TCPStore:
    """Return what all processes of the training can read and write."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(address, port, is_master=False, timeout=timedelta(seconds=3))


def _failed_too() -> bool:
    """Tell whether the first process fails within some seconds, so that it tells what all have met."""
    limit = time.monotonic() + 3
    try:
        store = _store()
        while time.monotonic() < limit:
            if store.check([FAILED]):
                return True
            time.sleep(0.1)
    except torch.distributed.DistError:  # it has ended
        return True
    return False


def _outlive(parent: int) -> None:
    """Wait some seconds for the process that has started this one to end."""
    limit = time.monotonic() + 10
    while time.monotonic() < limit and os.getppid() == parent:
        time.sleep(0.1)


def judged_by_first(trainer: pl.Trainer, judge: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Let the first process alone judge the trained model, on one device; the others wait, and are told the result."""
    if trainer.world_size == 1 or isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        return judge()
    waiting = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    found: list[Any] = [judge() if trainer.is_global_zero else None]
    try:
        torch.distributed.broadcast_object_list(found, 0, group=waiting)
    except RuntimeError as error:
        raise _lost_peer(error) or error from error
    return found[0]


def spread(trainer: pl.Trainer) -> bool:
    """Tell whether each process has only its part of the weights."""
    return isinstance(trainer.strategy, ModelParallelStrategy)


def require_whole_weights(trainer: pl.Trainer) -> None:
    """Raise ConfigError when averages of weights, which need them whole, go with weights that are spread."""
    averages = [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
    if averages and spread(trainer):
        raise ConfigError(
            f"{type(averages[0]).__name__} needs the whole weights, which trainer=fsdp spreads over the processes: "
            "leave it out, or use trainer=ddp"
        )


def _own(text: str) -> VsattnError | None:
    """Return the error of ours that a process died of, from the text of its traceback."""
    found = re.search(r"^vsattn\.(?:tasks\.)?(\w+)\.(\w+): (.*)", text, re.MULTILINE | re.DOTALL)
    kind = getattr(errors, found[2], VsattnError) if found else None
    return kind(found[3].strip()) if found and kind else None


def _lost_peer(error: RuntimeError) -> VsattnError | None:
    """Return what it means that another process does not answer."""
    named = isinstance(error, torch.distributed.DistError) or "gloo" in str(error).lower()
    if not named and not re.search("[Cc]onnection (closed|reset)", str(error)):
        return None
    return Peerless(
        "another process of this training has ended, which has said why above"
        if "imed out" not in str(error)
        else f"the processes wait for each other in vain ({str(error).splitlines()[0]})"
    )


def _unused(error: RuntimeError) -> VsattnError | None:
    if "find_unused_parameters=True" not in str(error):
        return None
    return ConfigError(
        "some weights of this model took no part in the loss of a batch, which trainer.strategy=ddp does not allow "
        "for: use trainer.strategy=ddp_find_unused_parameters_true, or freeze them"
    )

"""Processes that torchrun or Slurm starts, all at once; and how Slurm's jobs go on where they ended."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch.distributed import TCPStore

from vsattn.errors import Stopped

#: Under this name the first process tells the others the run's folder; seconds between two looks at it.
KEY, PAUSE = "vsattn/folder", 0.2

_store: TCPStore | None = None  # of the first process it may be the server, which must live as long
_folder = ""


def is_parallel(settings: dict[str, Any]) -> bool:
    """Tell whether the arguments of a trainer are for several processes, or may be."""
    strategy, devices = settings.get("strategy") or "auto", settings.get("devices", 1)
    one = devices in (1, "1") or (isinstance(devices, list) and len(devices) == 1)
    alone = strategy == "single_device" or (strategy == "auto" and one and settings.get("num_nodes", 1) == 1)
    return not alone


def starts_again(settings: dict[str, Any]) -> bool:
    """Tell whether Lightning starts the command once more for each further process."""
    strategy = str(settings.get("strategy") or "auto")
    return is_parallel(settings) and not re.search("spawn|fork|notebook", strategy) and not _together()


def command_faults(settings: Any, *, several_runs: str) -> list[str]:
    """Return why a command cannot train with these arguments of a trainer.

    Args:
        settings: of the trainer.
        several_runs: what lets this command train several times, or "".
    """
    if not isinstance(settings, dict):
        return []
    world, devices = int(os.environ.get("WORLD_SIZE", "1")), settings.get("devices", 1)
    if by_torchrun() and several_runs:
        return [f"torchrun: {several_runs} trains several times; without torchrun, use trainer.strategy=ddp_spawn"]
    if by_torchrun() and not is_parallel(settings):
        return [f"trainer: torchrun has started {world} processes, and this is for one; add trainer=ddp"]
    if by_torchrun() and isinstance(devices, int) and devices * settings.get("num_nodes", 1) != world:
        return [f"trainer.devices: torchrun has started {world} processes, so leave trainer.devices={devices} out"]
    if several_runs and starts_again(settings):
        strategy = settings.get("strategy") or "auto"
        name = strategy["_target_"].rsplit(".", 1)[-1] if isinstance(strategy, dict) else strategy
        return [
            f"trainer.strategy: {name} starts this command again for each device, so the runs would mix; "
            f"with {several_runs} use trainer.strategy=ddp_spawn"
        ]
    if starts_again(settings) and not _is_command():
        return ["trainer.strategy: it starts this command again, which was called from Python: use trainer=ddp_spawn"]
    return []


def words_of_rank(words: Sequence[str]) -> list[str]:
    """Return by which words this process of torchrun's joins the first one's run, which it waits for.

    Raises:
        SystemExit: when the first has ended; it has said why.
    """
    if not by_torchrun():
        return []
    if os.environ["RANK"] == "0":
        lead()
        return []
    folder = folder_of_first()
    return [] if any(word.startswith("resume=") for word in words) else [f'hydra.run.dir="{folder}"']


def _is_command() -> bool:
    """Tell whether this process is a command of ours, as Lightning would start it again."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", "") or ""
    return name.startswith("vsattn") or Path(sys.argv[0]).stem == "vsattn"


def number_of_processes(settings: dict[str, Any]) -> int | None:
    """Return how many processes the arguments of a trainer are for; None where that is the machine's choice."""
    devices = settings.get("devices", 1)
    count = len(devices) if isinstance(devices, list) else int(devices) if str(devices).isdigit() else None
    return 1 if not is_parallel(settings) else None if count is None else count * settings.get("num_nodes", 1)


def rank(settings: dict[str, Any]) -> int:
    """Return this process's number among those of a training, as far as its environment tells before it begins."""
    if not is_parallel(settings):
        return 0
    for name in ("RANK", "SLURM_PROCID") if _together() else ():
        if name in os.environ:
            return int(os.environ[name])
    return int(os.environ.get("LOCAL_RANK", "0")) or int(os.environ.get("NODE_RANK", "0") != "0")


def by_torchrun() -> bool:
    """Tell whether torchrun has started this process and others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def folder_of_first() -> str:
    """Wait until the first process has prepared everything, and return the run's folder.

    So the data are downloaded once, and what is wrong is told once.

    Raises:
        SystemExit: when it has ended; it has said why.
    """
    global _folder
    if _folder:
        return _folder
    try:
        store = _meeting(first=False)
        while not store.check([KEY]):
            time.sleep(PAUSE)
        folder = store.get(KEY).decode()
    except torch.distributed.DistError:  # its server has gone
        folder = ""
    if not folder:
        raise SystemExit(1)
    _folder = folder
    return folder


def lead() -> None:
    """Let those who wait for this process know when it ends without training."""
    store = _meeting(first=True)
    atexit.register(lambda: None if store.check([KEY]) else store.set(KEY, ""))


def proceed(settings: dict[str, Any], folder: Path) -> None:
    """Let the others begin, in this folder, where they wait."""
    if is_parallel(settings) and _together():
        _meeting(first=True).set(KEY, str(folder.absolute()))


def waits(settings: dict[str, Any]) -> bool:
    """Tell whether this process must wait for the first."""
    return _together() and rank(settings) > 0


def _together() -> bool:
    tasks = 0 if by_torchrun() or not SLURMEnvironment.detect() else int(os.environ["SLURM_NTASKS"])
    return by_torchrun() or tasks > 1


def _meeting(*, first: bool) -> TCPStore:
    """Return what the processes of one training can all read: torchrun has one, of Slurm's the first serves it."""
    global _store
    if _store is None:
        found = TorchElasticEnvironment() if by_torchrun() else SLURMEnvironment()
        port = found.main_port + (0 if by_torchrun() else 1)  # the port itself is for training
        serves = first and not by_torchrun()
        _store = TCPStore(found.main_address, port, is_master=serves, wait_for_workers=False)
    return _store


def restarted() -> bool:
    """Tell whether Slurm has started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def unfinished(folder: Path) -> Path | None:
    """Return the checkpoint from which a job that Slurm has started again goes on, if it had written one."""
    last = folder / "checkpoints" / "last.ckpt"
    return last if restarted() and last.is_file() else None


@contextlib.contextmanager
def requeueing(trainer: pl.Trainer) -> Iterator[None]:
    """On Slurm's warning signal, end inside as after SIGTERM, and put the job back into the queue.

    Lightning's own handler would write a checkpoint wherever the signal finds each process, amid a step too.
    """
    environment = trainer._accelerator_connector.cluster_environment
    alone = threading.current_thread() is not threading.main_thread()
    if not isinstance(environment, SLURMEnvironment) or not environment.auto_requeue or alone:
        yield
        return
    warning = environment.requeue_signal
    assert warning is not None
    asked = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # else what is left takes seconds
            asked = True
            signal.raise_signal(signal.SIGTERM)

    before = signal.signal(warning, hear)
    try:
        yield
    except (Stopped, SIGTERMException):
        if asked and trainer.is_global_zero:
            requeue()
        raise
    finally:
        signal.signal(warning, before)


def requeue() -> None:
    """Put this job back into Slurm's queue, and say so."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        done = subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0
    except FileNotFoundError:
        done = False
    if done:
        print(f"job {job} is in the queue again and goes on from checkpoints/last.ckpt", flush=True)
    else:
        print(f"job {job} could not be put back into the queue: scontrol requeue {job} failed", file=sys.stderr)

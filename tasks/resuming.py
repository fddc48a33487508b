"""What a checkpoint holds beside Lightning's own state, so that a training that goes on equals one never stopped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.loops import _FitLoop, _Loop
from torch import Tensor
from torchmetrics import Metric

from vsattn.checkpoint import read
from vsattn.errors import CheckpointError

if TYPE_CHECKING:
    from .base import Task


def resumable(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that training can go on from.

    Raises:
        CheckpointError: for one that it cannot.
    """
    checkpoint = read(path)
    lacking = [name for name in ("optimizer_states", "loops", "vsattn_training") if name not in checkpoint]
    if lacking:
        raise CheckpointError(
            f"{path} has weights, but not what training needs to go on ({', '.join(lacking)}); "
            "a new run starts from them with init_from=PATH"
        )
    return checkpoint


def training_state(task: Task) -> dict[str, Any]:
    """Return random numbers, measures of the epoch so far, and the measure that a plateau waits for."""
    own = {"random": random_state(), "meters": _meters(task)}
    trainer = task.trainer
    every: list[Any] = [own]
    if trainer.world_size > 1:
        every = [None] * trainer.world_size
        torch.distributed.all_gather_object(every, own)
    # Lightning saves this too, but loads it only where nothing has asked for the number of steps before.
    loader: Any = trainer.train_dataloader
    by_process = {name: [one[name] for one in every] for name in own}
    return {**by_process, "loader": loader.state_dict(), "plateau": _plateau(task)}


def restore_training_state(task: Task, state: dict[str, Any]) -> None:
    """Go on from what `training_state` gave, at the start of training."""
    trainer = task.trainer
    loader: Any = trainer.train_dataloader
    loader.load_state_dict(state["loader"])
    if len(state["random"]) == trainer.world_size:
        set_random_state(state["random"][trainer.global_rank])
    elif trainer.is_global_zero:
        print(
            f"written by {len(state['random'])} processes, not {trainer.world_size}: dropout is drawn anew", flush=True
        )
    for meters in state["meters"][trainer.global_rank :: trainer.world_size]:  # several, where processes are fewer now
        for name, (values, count) in meters.items():
            meter = task.train_meters[name]
            assert isinstance(meter, Metric)
            for key, value in values.items():
                before = getattr(meter, key) if meter.update_count else _moved(value, task.device) * 0
                setattr(meter, key, before + _moved(value, task.device))
            meter._update_count, meter._computed = meter.update_count + count, None
    for config, measure in zip(_plateaus(task), state["plateau"]):
        config.scheduler.step(measure)
    _leave_ended_epoch(trainer.fit_loop)


def random_state() -> dict[str, Any]:
    """Return the state of all random numbers that training draws, in plain types."""
    name, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    numpy = [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *(float(number) for number in rest)]
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": numpy, "python": random.getstate()}


def set_random_state(state: dict[str, Any]) -> None:
    """Go on with the random numbers from there."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), cached))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def _leave_ended_epoch(loop: _FitLoop) -> None:
    """Begin a new epoch where the checkpoint was written at an epoch's end.

    Lightning does so by itself unless training is limited by ``max_steps``: then it would go through the ended epoch
    again, without batches.
    """
    if loop.restarted_on_epoch_end and loop._iteration_based_training():
        loop.epoch_progress.increment_completed()
        loop.reset_restart_stage()
        _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]


def _meters(task: Task) -> dict[str, Any]:
    """Return what the training measures hold; of an epoch that has ended they hold nothing that is still wanted."""
    found = {}
    for name, meter in task.train_meters.items():
        assert isinstance(meter, Metric)
        values = {key: _moved(value, torch.device("cpu")) for key, value in meter.metric_state.items()}
        found[name] = (values, meter._update_count)
    return found


def _plateaus(task: Task) -> list[Any]:
    return [config for config in task.trainer.lr_scheduler_configs if config.reduce_on_plateau]


def _plateau(task: Task) -> list[float]:
    """Return the measures that Lightning would give `ReduceLROnPlateau` only after the checkpoint of an epoch's end."""
    progress: Any = task.trainer.fit_loop.epoch_progress.current
    if progress.processed == progress.completed:
        return []
    return [float(task.trainer.callback_metrics[config.monitor]) for config in _plateaus(task)]


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else [item.to(device) for item in value]

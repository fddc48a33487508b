"""How ``python -m vsattn.run resume=FOLDER`` goes on with a run that was stopped, by its checkpoint alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsattn.errors import CheckpointError, ConfigError

#: What may be changed of a run that goes on: how long and on what it trains, and what is shown of it.
CHANGEABLE = (
    "trainer",
    "num_workers",
    "num_threads",
    "callbacks.early_stopping",
    "callbacks.checkpoint.within_epoch_every",
)
#: What of these says when training ends.
ENDS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "callbacks.early_stopping")


def resume(words: Sequence[str], *, started: float | None = None) -> None:
    """Go on with the run that the word ``resume=...`` names: ``last`` is the newest below ``outputs``.

    Raises:
        ConfigError: for words that mean nothing, or would change more than may be changed.
        CheckpointError: when there is no checkpoint to go on from.
        VsattnError: see :func:`vsattn.tasks.experiment.run`.
    """
    named = [word.partition("=")[2] for word in words if word.startswith("resume=")]
    others = [word for word in words if not word.startswith("resume=")]
    if len(named) > 1:
        raise ConfigError(f"resume: one run goes on at a time, not {len(named)}")
    path = find(named[0])
    from vsattn.tasks.experiment import run
    from vsattn.tasks.resuming import resumable

    config = resumable(path)["vsattn"]["config"]
    if config is None:
        raise CheckpointError(f"{path} holds no config: its run was made in Python, and goes on there, by resume=PATH")
    changed = changed_by(config, others)
    past_its_end = any(_is_below(word.lstrip("+").split("=")[0], ENDS) for word in others)
    run(changed, path.parent.parent, started=started, resume=path, past_its_end=past_its_end)


def find(name: str) -> Path:
    """Return the ``last.ckpt`` that a word means: the newest below ``outputs``, that of a folder, or the file itself.

    Raises:
        CheckpointError: when there is none.
    """
    if name == "last":
        found = sorted(Path("outputs").glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise CheckpointError(
                f"no run below {Path('outputs').absolute()} has a checkpoints/last.ckpt; resume=FOLDER"
            )
        return found[-1].absolute()
    path = Path(name).expanduser().absolute()
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise CheckpointError(f"there is no {path} to go on from; give the folder of a run that was stopped")
    if path.name != "last.ckpt":
        raise CheckpointError(f"training goes on from last.ckpt, not {path.name}: resume={path.parent.parent}")
    return path


def changed_by(config: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return a config with the values that words change.

    Raises:
        ConfigError: naming every word that cannot be read, or changes what must stay.
    """
    from vsattn.compose import overlay

    kept = [word for word in words if not _is_below(word.lstrip("+~").split("=")[0], CHANGEABLE)]
    changed, faults = overlay(config, [word for word in words if word not in kept])
    faults = [
        f"{word}: a run that goes on keeps its parts; what may change is {', '.join(CHANGEABLE)}. "
        "A new run starts from its weights with init_from=FOLDER"
        for word in kept
    ] + faults
    faults = faults or _schedule_faults(config, changed)
    if faults:
        raise ConfigError("\n".join(faults))
    return changed


def _is_below(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _schedule_faults(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what is wrong with training longer than the schedule was drawn up for."""
    schedule = before.get("schedule")
    if schedule is None:
        return []
    from vsattn.build import parameters_of, resolve

    faults = []
    for name in ("max_epochs", "max_steps"):
        old, new = before["trainer"].get(name), after["trainer"].get(name)
        longer = old not in (None, -1) and (new in (None, -1) or new > old)
        if longer and {"total_steps", "T_max"} & set(parameters_of(resolve(schedule["_target_"]))):
            planned = schedule["_target_"].rsplit(".", 1)[-1]
            faults.append(
                f"trainer.{name}={new}: the rate of {planned} was planned for {old} and comes to its end there; "
                "a new run starts from these weights with init_from=FOLDER"
            )
    return faults

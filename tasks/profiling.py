"""Where the time of training goes: a step's parts by Lightning's profiler, and operators by PyTorch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import SimpleProfiler

from vsattn.errors import ConfigError

from .report import aligned

#: Operators that are printed; the file has all.
SHOWN = 8


class Clock(SimpleProfiler):
    """Lightning's profiler, which on a GPU waits until what was asked for is done, or it would time the asking."""

    def start(self, action_name: str) -> None:
        """Start an action's clock."""
        _wait()
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        """Stop it."""
        _wait()
        super().stop(action_name)

    def total(self, ending: str) -> float:
        """Return the seconds of all actions whose names end so."""
        return sum(sum(times) for name, times in self.recorded_durations.items() if name.endswith(ending))


class Profile(Callback):
    """Prints where the time of a training step goes, and writes ``profile/`` into the run's folder.

    ``steps.txt`` has the parts of a step, ``operators.txt`` what PyTorch did in some more steps, which are slower for
    being watched, and ``trace.json`` the same over time, for https://ui.perfetto.dev.

    Args:
        warmup: first steps, which are not timed.
        steps: that are timed.
        operators: steps after them that PyTorch's profiler watches; 0 for none.

    Raises:
        ConfigError: for numbers out of range.
    """

    def __init__(self, *, warmup: int = 5, steps: int = 20, operators: int = 3) -> None:
        if warmup < 0 or steps < 1 or operators < 0:
            raise ConfigError(
                "Profile.warmup and operators are at least 0 and steps at least 1, "
                f"not {warmup}, {operators} and {steps}"
            )
        self.warmup, self.steps, self.operators = warmup, steps, operators
        self._done = 0
        self._watch: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the clock in the place of the profiler that does nothing."""
        trainer.profiler = Clock()  # type: ignore[attr-defined]
        self._done = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start watching operators when their steps come."""
        if self.operators and self._done == self.warmup + self.steps:
            activities = [torch.profiler.ProfilerActivity.CPU]
            activities += [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self._watch = torch.profiler.profile(activities=activities, acc_events=True)
            self._watch.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report what is complete."""
        self._done += 1
        clock: Any = trainer.profiler  # type: ignore[attr-defined]
        folder = Path(trainer.default_root_dir) / "profile"
        if self._done == self.warmup:
            clock.recorded_durations.clear()
        elif self._done == self.warmup + self.steps:
            _write(parts_of_step(clock, self.steps), folder / "steps.txt", clock.summary())
        elif self._watch is not None and self._done == self.warmup + self.steps + self.operators:
            self._watch.stop()
            found = self._watch.key_averages()
            _write(operators_of_step(found, self.operators), folder / "operators.txt", found.table(row_limit=-1))
            self._watch.export_chrome_trace(str(folder / "trace.json"))
            self._watch = None
            print(f"steps.txt, operators.txt and trace.json lie in {folder}\n", flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so when training was too short.

        Raises:
            ConfigError: when there were too few steps to report any.
        """
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        if self._done < self.warmup + self.steps:
            needed = self.warmup + self.steps + self.operators
            raise ConfigError(f"Profile needs {needed} steps, but training had {self._done}; raise trainer.max_epochs")


def parts_of_step(clock: Clock, steps: int) -> list[list[str]]:
    """Return heading and rows: milliseconds a step and shares of what a step consists of."""
    data = clock.total(".train_dataloader_next") + clock.total(".batch_to_device")
    forward, backward = clock.total(".training_step"), clock.total(".backward")
    optimizer = clock.total("run_training_batch") - forward - backward
    seconds = {"data": data, "forward, loss, metrics": forward, "backward": backward, "optimizer, clipping": optimizer}
    whole = sum(seconds.values())
    rows = [[name, f"{1000 * part / steps:.2f}", f"{100 * part / whole:.1f}"] for name, part in seconds.items()]
    return [["a training step", "ms", "%"], *rows, ["in all", f"{1000 * whole / steps:.2f}", "100.0"]]


def operators_of_step(found: Any, steps: int) -> list[list[str]]:
    """Return heading and rows: the operators that take most time by themselves, of a GPU where there is one."""
    device = "device" if torch.cuda.is_available() else "cpu"
    spent = {event.key: (getattr(event, f"self_{device}_time_total"), event.count) for event in found}
    whole = sum(time for time, _ in spent.values())
    top = sorted(spent.items(), key=lambda item: -item[1][0])[:SHOWN]
    rows = [
        [name, f"{time / 1000 / steps:.2f}", f"{100 * time / whole:.1f}", f"{count / steps:.0f}"]
        for name, (time, count) in top
    ]
    return [["operator", "ms", "%", "calls"], *rows]


def _write(table: list[list[str]], path: Path, details: str) -> None:
    text = "\n".join(aligned(table))
    print(f"\n{text}\n", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n\n{details}\n", encoding="utf-8")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

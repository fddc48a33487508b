"""Jobs: one run of a command, or the many of a sweep, with what each leaves behind and what a search goes by."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep
from hydra.errors import HydraException

from vsattn.compose import hydra_settings, resolve
from vsattn.errors import ConfigError, ShapeError, Stopped, VsattnError
from vsattn.extensions import VARIABLE
from vsattn.run import fail
from vsattn.words import quoted

#: What Optuna calls the modes of a checkpoint's measure.
DIRECTIONS = {"min": "minimize", "max": "maximize"}


@dataclass
class Sweep:
    """What Hydra will do with the words of a sweep.

    Args:
        folder: of all its runs.
        words: the user's, after those of ``hydra.sweeper.params``.
        searches: whether a sampler chooses the values by what the jobs return, as Optuna's do.
        direction: of a search, where the user gave one.
        more: what is added to the command line.
        exit_code: the worst of its jobs', when they are done.
    """

    folder: Path
    words: list[str]
    searches: bool = False
    direction: str | None = None
    more: list[str] = field(default_factory=list)
    exit_code: int = 0

    def faults(self) -> list[str]:
        """Return what this sweeper cannot do with the words, one line each."""
        found = []
        for word in self.words:
            with contextlib.suppress(HydraException):  # what cannot be read is told where configs are checked
                override = OverridesParser.create().parse_override(word)
                value = override.value() if override.is_sweep_override() else None
                if isinstance(value, IntervalSweep) and not self.searches:
                    found.append(f"{word}: an interval is for a search, which needs hydra/sweeper=optuna")
                if isinstance(value, Glob) and self.searches:
                    found.append(f"{word}: a search needs the options themselves, as in {override.key_or_group}=A,B")
        return found

    def aim(self, config: dict[str, Any]) -> list[str]:
        """Let a search go by the measure that chooses the best checkpoint; return what is wrong with that.

        A failed job is a failed trial, and the search goes on.
        """
        if not self.searches:
            return []
        checkpoint = (config.get("callbacks") or {}).get("checkpoint") or {}
        monitor, mode = checkpoint.get("monitor"), checkpoint.get("mode", "min")
        if not monitor or mode not in DIRECTIONS:
            return ["callbacks.checkpoint: a search goes by its monitor and mode, so it is needed"]
        if self.direction is None:
            self.more.append(f"hydra.sweeper.direction={DIRECTIONS[mode]}")
        elif self.direction != DIRECTIONS[mode]:
            return [
                f"hydra.sweeper.direction={self.direction}: jobs return {monitor}, whose mode is {mode}; leave this "
                "out, or choose another callbacks.checkpoint.monitor and mode"
            ]
        return []

    @contextlib.contextmanager
    def summarized(self) -> Iterator[None]:
        """Run the jobs inside; then, interrupted or not, write and print the summary, and note the exit code."""
        from vsattn.tasks.sweep import collect, summarize

        logging.getLogger("alembic").setLevel(logging.WARNING)  # which Optuna loads, and which lists its own parts
        before = signal.signal(signal.SIGTERM, _leave)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
            runs = collect(self.folder)
            self.exit_code = max((run.exit_code for run in runs), default=0)
            if runs:
                summarize(runs, self.folder)


def find_sweep(
    overrides: list[str], multirun: bool, config_dir: str | None = None, config_name: str = "config"
) -> Sweep | None:
    """Return the sweep that words mean, or None for a single run.

    Raises:
        ConfigError: for settings that Hydra refuses, a package that is not installed, a folder that is not empty.
    """
    settings = hydra_settings(overrides, config_dir=config_dir, config_name=config_name)
    if not multirun and (settings.mode is None or settings.mode.name != "MULTIRUN"):
        return None
    folder = Path(settings.sweep.dir).absolute()
    if any(folder.glob("*/job.json")):
        raise ConfigError(f"{folder} holds an earlier sweep; choose another folder with hydra.sweep.dir=FOLDER")
    sweeper = settings.sweeper
    words = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()] + overrides
    sweep = Sweep(folder, words, searches="optuna" in sweeper._target_, more=[f"hydra.sweep.dir={quoted(folder)}"])
    given = {word.split("=")[0] for word in overrides}
    if sweep.searches:
        if "hydra.sweeper.direction" in given:
            sweep.direction = str(getattr(sweeper.direction, "name", sweeper.direction))
        if "hydra.sweeper.max_failure_rate" not in given:
            sweep.more.append("hydra.sweeper.max_failure_rate=1.0")
    return sweep


def run_job(config: Any, *, started: float | None) -> tuple[int, float | None]:
    """Run one job, alone or of a sweep.

    Returns:
        The exit code, and the measure that chose the best checkpoint, never one of the test: what a search goes by.

    Raises:
        VsattnError: when a job of a search failed, which its sampler must know.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    words = list(settings.overrides.task)

    def train() -> float | None:
        plain, faults = resolve(config, [word.lstrip("+~").split("=")[0] for word in words])
        if VARIABLE in settings.job.env_set:
            faults.append(f"hydra.job.env_set.{VARIABLE}: only a person names this folder, whose files are run")
        if faults:
            raise ConfigError("\n".join(faults))
        from vsattn.tasks.experiment import run

        result = run(plain, folder, started=started)
        monitor = ((plain.get("callbacks") or {}).get("checkpoint") or {}).get("monitor")
        return result.metrics.get(monitor) if monitor else None

    if settings.mode is None or settings.mode.name != "MULTIRUN":
        code, value, _ = _attempt(train)
        return code, value
    from vsattn.tasks.sweep import Job

    job = Job(folder, number=settings.job.num, words=words)
    job.write()
    began = time.time()
    apart = "BasicLauncher" not in settings.launcher._target_
    try:
        with _own_log(folder) if apart else contextlib.nullcontext():
            job.exit_code, value, job.error = _attempt(train, every=True)
    except KeyboardInterrupt:
        job.exit_code, job.error = 130, "interrupted"
        raise
    except SystemExit as stop:
        job.exit_code, job.error = stop.code if isinstance(stop.code, int) else 1, str(stop.__cause__ or "stopped")
        raise
    finally:
        job.write()
    if apart:
        told = f"failed ({job.error.splitlines()[0]}); see {folder / 'log.txt'}" if job.exit_code else "done"
        print(f"job {job.number}  {' '.join(words)}: {told}, {time.time() - began:.0f} s", flush=True)
    if job.exit_code and "BasicSweeper" not in settings.sweeper._target_:
        raise VsattnError(f"job {job.number}: {job.error}")
    return job.exit_code, value


def _attempt(action: Callable[[], float | None], *, every: bool = False) -> tuple[int, float | None, str]:
    """Return the exit code, what the action returned, and what went wrong, which is printed.

    Args:
        action: a training.
        every: hold errors back that are not ours too, so that the jobs after this one are done.
    """
    try:
        return 0, action(), ""
    except (ConfigError, ShapeError) as error:
        return fail(error, 2), None, str(error)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        raise SystemExit(128 + stop.number) from stop
    except VsattnError as error:
        return fail(error, 1), None, str(error)
    except Exception as error:
        if not every:
            raise
        traceback.print_exc()
        return 1, None, f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _own_log(folder: Path) -> Iterator[None]:
    """Let what a job says go to its own ``log.txt``: jobs that run at the same time would talk across each other."""
    with (
        (folder / "log.txt").open("a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def _leave(*_: Any) -> None:
    """Leave by an exception when terminated, so that a launcher ends the processes it has started."""
    raise SystemExit(143)

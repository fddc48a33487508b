"""The command: ``python -m vsattn.run task=image``."""

from __future__ import annotations

import sys
import time

STARTED = time.time()

import argparse  # noqa: E402
import contextlib  # noqa: E402
import os  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from importlib import resources  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from vsattn import __version__  # noqa: E402
from vsattn.errors import ConfigError, ShapeError, Stopped, VsattnError  # noqa: E402
from vsattn.extensions import config_dir, groups, using  # noqa: E402

if TYPE_CHECKING:
    from vsattn.jobs import Sweep

USAGE = """\
Train and test a model that attends over sets of vectors.

  python -m vsattn.run task=image                          the digits of scikit-learn, about a minute
  python -m vsattn.run task=labeling                       tokens of Python's own library by what they are there for
  python -m vsattn.run task=speech                         synthetic vowels; task=recognition: strings of them
  python -m vsattn.run task=node                           the digits as a graph of nearest neighbours
  python -m vsattn.run task=labeling encoder=birnn         a baseline; python -m vsattn.compare task=... trains them all
  python -m vsattn.run task=image tokenizer=pixels         each pixel one vector
  python -m vsattn.run task=image score=additive positions=learned optimizer.lr=0.001
  python -m vsattn.run experiment=ud_ewt paths.data=FOLDER the recipe of a standard data set
  python -m vsattn.run task=image data=image_folder data.root=FOLDER
  python -m vsattn.run task=image debug=fast               one batch of everything
  python -m vsattn.run -m task=image seed=0,1,2            three runs, and a table and a plot of what came of them
  python -m vsattn.run resume=last                         go on with the run that was stopped last; resume=FOLDER

Choose an option of a group with GROUP=OPTION (* is chosen otherwise):

{groups}

Change a value with KEY=VALUE: seed=1, num_threads=1, batch_size=128, dim=128, encoder.num_layers=6,
trainer.max_epochs=10, trainer.max_time=00:00:10:00 (days:hours:minutes:seconds), trainer.precision=bf16-mixed.
A setting that a part takes but that its file does not list is added by +KEY=VALUE.

Options:
  -h, --help             show this and exit
  --version              show the version and exit
  -m, --multirun         one run for each combination of values separated by commas
  -c job, --cfg job      show the whole config instead of running (with --resolve: references filled in)
  -cd, --config-dir DIR  a folder of your own files, such as DIR/experiment/mine.yaml, which `vsattn init DIR` makes;
                         otherwise the folder that the variable VSATTN_CONFIG_DIR names
  --hydra-help           more, about Hydra's own options

Results go to outputs/TASK/DATE_TIME in the current folder; hydra.run.dir=FOLDER chooses another.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Returns:
        0 when all is well; 2 for a config that cannot be run; 1 for any other failure; 130 when interrupted,
        143 when terminated.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        return guarded(lambda: print(USAGE.format(groups=_groups_table())), "vsattn.run")
    if "--version" in words:
        print(f"vsattn {__version__}")
        return 0
    return guarded(lambda: _launch(words), "vsattn.run", refused=(ConfigError, ShapeError))


def _launch(words: list[str]) -> int:
    options = _parse(words)
    with using(options.config_dir) as folder:
        if folder is not None:
            options.config_dir, words = str(folder), [*words, "--config-dir", str(folder)]
        if any(word.startswith("resume=") for word in options.overrides):
            return _go_on(options)
        return _start(words, options)


def _go_on(options: argparse.Namespace) -> int:
    from vsattn.resume import resume

    if options.multirun:
        raise ConfigError("resume: one run goes on at a time; leave --multirun out")
    resume(options.overrides, started=STARTED)
    return 0


def _start(words: list[str], options: argparse.Namespace) -> int:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from vsattn.tasks.cluster import words_of_rank

        words = [*words, *words_of_rank(options.overrides)]
    asks = options.hydra_help or options.shell_completion or options.info or options.experimental_rerun
    sweep = None if asks else _check(options)
    import hydra

    codes: list[int] = []
    started = STARTED if sweep is None else None

    @hydra.main(version_base="1.3", config_path="pkg://vsattn.conf", config_name="config")
    def job(config: Any) -> float | None:
        from vsattn.jobs import run_job

        code, value = run_job(config, started=started)
        codes.append(code)
        return value

    # Hydra's parser wants settings side by side.
    after = max((i + 1 for i, word in enumerate(words) if word in (options.overrides or ())), default=len(words))
    more = [] if sweep is None else sweep.more
    given, sys.argv = sys.argv, [sys.argv[0], *words[:after], *more, *words[after:]]
    try:
        with contextlib.nullcontext() if sweep is None else sweep.summarized():
            job()
    except SystemExit as stop:  # Hydra has said why
        codes.append(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
    finally:
        sys.argv = given
    return max([*codes, *([] if sweep is None else [sweep.exit_code])], default=0)


def _check(options: argparse.Namespace) -> Sweep | None:
    """Compose what will be run, raise ConfigError with all that is wrong with it, and return the sweep if it is one."""
    from vsattn.compose import jobs, plain_config
    from vsattn.jobs import find_sweep

    faults: list[str] = []
    name = options.config_name or "config"
    sweep = None if options.cfg else find_sweep(options.overrides, options.multirun, options.config_dir, name)
    faults += [] if sweep is None else sweep.faults()
    for overrides in [options.overrides] if sweep is None else jobs(sweep.words, options.config_dir):
        config, found = plain_config(overrides, config_dir=options.config_dir, config_name=name)
        faults += found
        from vsattn.tasks.checks import faults as faults_of

        faults += faults_of(config)
        from vsattn.tasks.cluster import command_faults

        faults += command_faults(config.get("trainer"), several_runs="--multirun" if sweep else "")
    faults += [] if sweep is None else sweep.aim(config)
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    return sweep


def _parse(words: list[str]) -> argparse.Namespace:
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()

    def refuse(message: str) -> None:
        unknown = [w for w in words if w.startswith("--") and "=" in w]
        hint = f"; settings are written without dashes: {unknown[0].lstrip('-')}" if unknown else ""
        raise ConfigError(f"{message}{hint}; --help lists what there is")

    parser.error = refuse  # type: ignore[method-assign, assignment]
    options = parser.parse_intermixed_args(words)
    if options.config_path is not None:
        raise ConfigError("--config-path would hide the configs of vsattn; add your own with --config-dir FOLDER")
    return options


def guarded(
    action: Callable[[], int | None], command: str, *, refused: tuple[type[VsattnError], ...] = (ConfigError,)
) -> int:
    """Do what a command does, say on standard error what is wrong, and return the exit code.

    Args:
        action: its exit code is returned; None is 0.
        command: its name in messages.
        refused: what means that the command's words cannot be done: 2. Any other error of ours is 1, an interruption
            130.
    """
    try:
        return action() or 0
    except refused as error:
        return fail(error, 2, command)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.number
    except VsattnError as error:
        return fail(error, 1, command)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who read the answers has left, as `head` does; nothing more can be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def fail(error: Exception, code: int, command: str = "vsattn.run") -> int:
    """Print what is wrong, and return the exit code."""
    lines = str(error).splitlines() or [type(error).__name__]
    command = command.replace(".", " ") if called_by_script() else command
    title = {2: "this cannot be run", 1: "the run failed"}[code]
    faults = sum(not line.startswith(" ") for line in lines)
    count = f" ({faults} faults)" if code == 2 and faults > 1 else ""
    print("\n".join([f"{command}: {title}{count}", *(f"  {line}" for line in lines)]), file=sys.stderr, flush=True)
    return code


def called_by_script() -> bool:
    """Tell whether the user wrote ``vsattn run`` (or ``python -m vsattn run``) rather than ``python -m vsattn.run``."""
    program = Path(sys.argv[0])
    return program.stem == "vsattn" or program.parts[-2:] == ("vsattn", "__main__.py")


def _groups_table() -> str:
    """List groups and options by the names of the files alone, which is quick."""
    import yaml

    chosen: dict[str, str] = {}
    for entry in yaml.safe_load(resources.files("vsattn.conf").joinpath("config.yaml").read_text("utf-8"))["defaults"]:
        chosen.update(entry if isinstance(entry, dict) else {})
    return "\n".join(
        f"  {group:11} {' '.join(f'*{o}' if o == chosen.get(group) else o for o in options)}"
        for group, options in groups(config_dir()).items()
    )


if __name__ == "__main__":
    sys.exit(main())

"""The command: ``python -m vsattn.lr_find task=image``, a search for the learning rate before training."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vsattn.errors import ConfigError, ShapeError
from vsattn.extensions import using
from vsattn.run import guarded
from vsattn.words import free_folder, option

USAGE = """\
Search for a learning rate: a hundred steps at rising rates, a picture of the loss, and where it falls fastest.

  python -m vsattn.lr_find task=image
  python -m vsattn.lr_find experiment=ud_ewt paths.data=FOLDER min_lr=1e-5 max_lr=0.1 steps=200

Words are those of python -m vsattn.run; these three are its own: min_lr=1e-7, max_lr=1 and steps=100. Nothing is
trained for good: start python -m vsattn.run with the optimizer.lr that suits, below where the loss turns. The schedule
is left out of the search; one_cycle and inverse_sqrt rise to optimizer.lr, noam follows schedule.factor alone.

Options:
  -h, --help             show this and exit
  -o FOLDER              where lr_find.csv and plots/lr_find.png go; outputs/lr_find/TASK/DATE_TIME otherwise
  -cd, --config-dir DIR  a folder of your own config files
"""

#: The command's own settings.
SETTINGS = {"min_lr": 1e-7, "max_lr": 1.0, "steps": 100}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for a config that cannot be run, 1 for any other failure, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _search(words), "vsattn.lr_find", refused=(ConfigError, ShapeError))


def _search(words: list[str]) -> None:
    words, given = option(words, "-o", "--output")
    words, config_dir = option(words, "-cd", "--config-dir")
    own = {word.partition("=")[0]: word.partition("=")[2] for word in words if word.partition("=")[0] in SETTINGS}
    words = [word for word in words if word.partition("=")[0] not in SETTINGS]
    from vsattn.compose import plain_config

    with using(config_dir) as folder:
        config, faults = plain_config(words, config_dir=folder)
        from vsattn.tasks.checks import faults as faults_of

        faults += faults_of(config) + [fault for name, value in own.items() if (fault := _number_fault(name, value))]
        if faults:
            raise ConfigError("\n".join(faults))
        from vsattn.tasks.lr_find import search

        target = free_folder(given, "lr_find", config["task"]["_target_"].split(".")[-2])
        numbers = {**SETTINGS, **{key: float(value) for key, value in own.items()}}
        search(config, target, min_lr=numbers["min_lr"], max_lr=numbers["max_lr"], steps=int(numbers["steps"]))


def _number_fault(name: str, value: str) -> str:
    kind = int if name == "steps" else float
    try:
        kind(value)
    except ValueError:
        return f"{name}={value}: a {'whole ' if kind is int else ''}number is expected, such as {SETTINGS[name]:g}"
    return ""


if __name__ == "__main__":
    sys.exit(main())

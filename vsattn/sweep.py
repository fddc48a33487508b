"""The command: ``python -m vsattn.sweep FOLDER``, the summary of a folder of runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vsattn.errors import ConfigError, DataError
from vsattn.run import guarded

USAGE = """\
Summarise the runs of a folder: what differs between them against what came of it.

  python -m vsattn.sweep FOLDER                            of a sweep (python -m vsattn.run -m ...), or of any runs
  python -m vsattn.sweep FOLDER test/f1_macro val/loss     with these numbers of metrics.json

A sweep does this itself when it ends. Runs that differ by their seed alone are one row: mean, standard deviation and
best. Written into the folder: sweep.md, sweep.csv, runs.csv (each run with all its numbers) and sweep.png.

Options:
  -h, --help  show this and exit
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for words that mean nothing, 1 for what cannot be read, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _summarize(words), "vsattn.sweep")


def _summarize(words: list[str]) -> None:
    if not words or words[0].startswith("-"):
        raise ConfigError("name the folder of the runs, such as outputs/sweeps/image/DATE_TIME; --help shows more")
    folder = Path(words[0])
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}")
    from vsattn.tasks.sweep import collect, summarize

    folder = folder.absolute()
    runs = collect(folder)
    if not runs:
        raise DataError(f"{folder} holds no runs: no folder in it has a job.json or a config.yaml")
    try:
        summarize(runs, folder, words[1:])
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())

"""The command: ``python -m vsattn.predict ckpt=FOLDER input=FILE``."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from vsattn.errors import ConfigError, DataError, nearest
from vsattn.run import guarded

USAGE = """\
Answer for files with a trained model.

  python -m vsattn.predict ckpt=outputs/labeling/DATE_TIME input=text.conllu > tagged.conllu
  python -m vsattn.predict ckpt=FOLDER/checkpoints/best.ckpt input=a.wav,b.flac output=answers.tsv

ckpt is a checkpoint or the folder of a run. What comes out depends on the model's task: CoNLL-U for words, lines of
labels or of text with times for sound, CSV for the nodes of a graph, a line a picture, a translation of each line of
text (python -m vsattn.translate does that with more to choose from).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for words that mean nothing, 1 for any other failure, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _predict(**read_words(words, ("ckpt", "input"), ("output",))), "vsattn.predict")


def read_words(words: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    """Return settings that are written ``key=value``.

    Raises:
        ConfigError: naming everything that is no setting, is unknown, is given twice or is missing.
    """
    given: dict[str, str] = {}
    faults = []
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not value:
            faults.append(f"{word}: settings are written key=value, such as ckpt=FOLDER")
        elif key in given:
            faults.append(f"{word}: {key} is given twice; several files are written {key}=a,b")
        elif key not in (*required, *optional):
            faults.append(f"{word}: there is no setting '{key}'; {nearest(key, (*required, *optional))}")
        else:
            given[key] = value
    faults += [f"{key}: is missing; add {key}=PATH" for key in required if key not in given]
    if faults:
        raise ConfigError("\n".join(faults))
    return given


def files(names: str) -> list[Path]:
    """Return the paths that ``input=a,b`` names.

    Raises:
        DataError: naming those that do not exist.
    """
    paths = [Path(name) for name in names.split(",")]
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise DataError(f"there is no {', '.join(missing)}")
    return paths


def _predict(ckpt: str, input: str, output: str | None = None) -> None:
    inputs = files(input)
    from vsattn.build import resolve
    from vsattn.checkpoint import load
    from vsattn.tasks.base import Task

    predictor = load(ckpt)
    target = (predictor.config.get("task") or {}).get("_target_")
    if target is None:
        raise DataError(f"{ckpt} does not say by which task it was trained; use vsattn.load(...).predict(items)")
    task: Any = resolve(target)
    if not issubclass(task, Task):
        raise DataError(f"{ckpt} was trained by {task.__name__}, which is no task")
    with opened(output) as out:
        task.write_predictions(predictor, inputs, out)


@contextlib.contextmanager
def opened(output: str | None) -> Iterator[TextIO]:
    """Yield where answers go: a file takes its place when all is answered, so that a failure leaves what was there.

    Raises:
        DataError: when the file cannot be written.
    """
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    part = Path(f"{output}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as out:
            yield out
        part.replace(output)
    except OSError as error:
        if error.filename not in (None, str(part)):  # of what is read meanwhile
            raise
        raise DataError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

"""The command: ``python -m vsattn.predict ckpt=FOLDER input=FILE``."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from vsattn.errors import ConfigError, DataError, VsattnError, nearest

USAGE = """\
Answer for files with a trained model.

  python -m vsattn.predict ckpt=outputs/labeling/DATE_TIME input=text.conllu > tagged.conllu
  python -m vsattn.predict ckpt=FOLDER/checkpoints/best.ckpt input=a.wav,b.flac output=answers.tsv

ckpt is a checkpoint or the folder of a run. What comes out depends on the model's task: CoNLL-U for words, lines of
labels or of text with times for sound, CSV for the nodes of a graph, a line a picture.
"""

KEYS = ("ckpt", "input", "output")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for words that mean nothing, 1 for any other failure, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    from vsattn.run import fail

    try:
        given = _read(words)
        _predict(given["ckpt"], [Path(name) for name in given["input"].split(",")], given.get("output"))
    except ConfigError as error:
        return fail(error, 2, "vsattn.predict")
    except VsattnError as error:
        return fail(error, 1, "vsattn.predict")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _read(words: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    faults = []
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not value:
            faults.append(f"{word}: settings are written key=value, such as ckpt=FOLDER")
        elif key in given:
            faults.append(f"{word}: {key} is given twice; several files are written {key}=a,b")
        elif key not in KEYS:
            faults.append(f"{word}: there is no setting '{key}'; {nearest(key, KEYS)}")
        else:
            given[key] = value
    faults += [f"{key}: is missing; add {key}=PATH" for key in ("ckpt", "input") if key not in given]
    if faults:
        raise ConfigError("\n".join(faults))
    return given


def _predict(ckpt: str, inputs: list[Path], output: str | None) -> None:
    missing = [str(path) for path in inputs if not path.exists()]
    if missing:
        raise DataError(f"there is no {', '.join(missing)}")
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
    with _open(output) as out:
        task.write_predictions(predictor, inputs, out)


@contextlib.contextmanager
def _open(output: str | None) -> Iterator[TextIO]:
    """Yield where answers go: a file takes its place when all is answered, so that a failure leaves what was there."""
    if output is None:
        yield sys.stdout
        return
    answers = io.StringIO()
    yield answers
    part = Path(f"{output}.part")
    try:
        part.write_text(answers.getvalue(), encoding="utf-8")
        part.replace(output)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{output} cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())

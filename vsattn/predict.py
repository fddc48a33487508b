"""The command: ``python -m vsattn.predict ckpt=FOLDER input=FILE``."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vsattn.answers import Aligned, JsonLines, Separated, Writer
from vsattn.errors import ConfigError, DataError, nearest
from vsattn.run import guarded
from vsattn.words import count, read_words

if TYPE_CHECKING:
    from vsattn.predictor import Predictor
    from vsattn.tasks.answering import Answering
    from vsattn.tasks.inputs import Question

USAGE = """\
Answer for files with a trained model.

  python -m vsattn.predict ckpt=outputs/image/DATE_TIME input=PICTURES               a folder, or a.png,b.jpg: CSV
  python -m vsattn.predict ckpt=FOLDER input=PICTURES output=answers.jsonl classes=all
  python -m vsattn.predict ckpt=outputs/speech/DATE_TIME input=a.wav,CLIPS format=table
  python -m vsattn.predict ckpt=outputs/recognition/DATE_TIME input=RECORDINGS       text, words and times: JSON lines
  python -m vsattn.predict ckpt=outputs/labeling/DATE_TIME input=text.conllu > tagged.conllu
  echo "we can fish" | python -m vsattn.predict ckpt=outputs/labeling/DATE_TIME format=csv
  python -m vsattn.predict ckpt=outputs/node/DATE_TIME input=nodes.csv,edges.csv     or graph.pt, or a folder of .pt
  python -m vsattn.predict ckpt=outputs/translation/DATE_TIME < in.txt > out.txt     (vsattn.translate can do more)

  ckpt=PATHS         a checkpoint, or the folder of a run; of several, a,b,c, the probabilities are averaged
  input=PATHS        files and folders, a,b,c; - is standard input, as is none (text only)
  output=FILE        there when all is answered; otherwise answers go to standard output
  format=NAME        jsonl, csv, tsv, table, and conllu for words, text for translations; else by the ending of output
  classes=all        JSON lines tell the probability of every class
  batch_size=N       answered at once (32); 1 answers each line of standard input before it reads the next
  num_workers=N      threads that read files and answer (one for each core; 0, none, for standard input)
  device=NAME        cpu, cuda, cuda:1, ... (cpu)

A file that cannot be read is named on standard error, the others are answered, and the exit code is 1.
"""

#: Forms of answers that every task has; ``conllu`` and ``text`` are the task's own.
FORMATS: dict[str, Callable[..., Writer]] = {
    "jsonl": JsonLines,
    "csv": Separated,
    "tsv": partial(Separated, dialect="excel-tab"),
    "table": Aligned,
}

#: Settings that may be left out.
OPTIONAL = ("input", "output", "format", "classes", "batch_size", "num_workers", "device")

#: Items that are answered at once, unless told otherwise, and the most threads that are started unasked.
BATCH_SIZE, MOST_WORKERS = 32, 16


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for words that mean nothing, 1 for any other failure, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _predict(read_words(words, ("ckpt",), OPTIONAL)), "vsattn.predict")


def files(names: str, *, some: bool = False) -> list[Path]:
    """Return the paths that ``input=a,b`` names.

    Args:
        names: with commas between them; one name may hold commas.
        some: it is enough that one exists.

    Raises:
        DataError: naming those that do not exist; when none is named.
    """
    whole = os.path.expanduser(names)  # of os.path, which takes names that are too long for those of nothing
    paths = [whole] if os.path.exists(whole) else [os.path.expanduser(name) for name in names.split(",") if name]
    missing = [path for path in paths if not os.path.exists(path)]
    if not paths or (missing and not (some and len(missing) < len(paths))):
        raise DataError(f"there is no {', '.join(missing) or names}")
    return [Path(path) for path in paths]


def move(predictor: Predictor, device: str) -> Predictor:
    """Put a model on a device, and return it.

    Raises:
        ConfigError: for a device that is not there.
    """
    if device.partition(":")[0] == "meta":
        raise ConfigError("device: meta holds no numbers")
    try:
        return predictor.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: {device} cannot be used here: {str(error).splitlines()[0]}") from None


def _predict(given: dict[str, str]) -> int:
    inputs = None if given.get("input", "-") == "-" else files(given["input"], some=True)
    options = {"batch_size": BATCH_SIZE, "num_workers": _cores() if inputs else 0}
    for name, least in (("batch_size", 1), ("num_workers", 0)):
        options[name] = count(name, given[name], least) if name in given else options[name]
    if (classes := given.get("classes", "all")) != "all":
        raise ConfigError(f"classes={classes}: only classes=all is known; it tells the probability of every class")
    from vsattn.ensemble import load_together

    predictor = load_together(given["ckpt"])
    task = task_of(predictor, given["ckpt"])
    form = _form(task, given)
    asked = _asked(move(predictor, given.get("device", "cpu")), task.questions(predictor, inputs), options)
    with opened(given.get("output")) as out:
        return _answer(asked, _Answers(predictor, task, form, out, every_class="classes" in given), live=inputs is None)


def _asked(
    predictor: Predictor, questions: Iterable[Question], options: dict[str, int]
) -> Iterator[tuple[Question, Any]]:
    """Yield each question with its answer or its error, in order."""
    waiting: deque[Question] = deque()

    def items() -> Iterator[Any]:
        for question in questions:
            waiting.append(question)
            yield question.item

    for answer in predictor.stream(items(), **options):
        yield waiting.popleft(), answer


class _Answers:
    """Where answers go, in the form that was chosen."""

    def __init__(
        self, predictor: Predictor, task: type[Answering], form: str, out: TextIO, *, every_class: bool
    ) -> None:
        self.predictor, self.task, self.out = predictor, task, out
        more = {"every_class": True} if every_class else {}
        self.writer = FORMATS[form](out, **more) if form in FORMATS else None

    def write(self, question: Question, answer: Any | None) -> None:
        """Write an answer; None is written where a form of text has something in its place."""
        if self.writer is None:
            self.out.write(self.task.written(self.predictor, question, answer))
        elif answer is not None:
            self.writer.write(self.task.records(self.predictor, question, answer))

    def close(self) -> None:
        """Write what was held back."""
        if self.writer is not None:
            self.writer.close()


def _answer(asked: Iterable[tuple[Question, Any]], answers: _Answers, *, live: bool) -> int:
    """Write all answers, name what failed on standard error, and return the exit code; ``live`` holds nothing back.

    Raises:
        DataError: when all failed.
    """
    total = failed = 0
    for question, answer in asked:
        total += 1
        if isinstance(answer, DataError):
            failed += 1
            reason = " ".join(str(answer).split())
            about = "" if question.name in reason else f"{question.name}: "
            print(f"vsattn.predict: {about}{reason}", file=sys.stderr)
        answers.write(question, None if isinstance(answer, DataError) else answer)
        if live:
            answers.out.flush()
    answers.close()
    if failed and failed == total:
        raise DataError(f"nothing was answered: {failed} of {total} failed")
    if failed:
        print(f"vsattn.predict: {failed} of {total} failed, the others are answered", file=sys.stderr)
    return int(failed > 0)


def task_of(predictor: Predictor, ckpt: str) -> type[Answering]:
    """Return the task that trained a model.

    Raises:
        DataError: when the checkpoint does not say which.
    """
    from vsattn.build import resolve
    from vsattn.tasks.base import Task

    target = (predictor.config.get("task") or {}).get("_target_")
    if target is None:
        raise DataError(f"{ckpt} does not say by which task it was trained; use vsattn.load(...).predict(items)")
    task: Any = resolve(target)
    if not issubclass(task, Task):
        raise DataError(f"{ckpt} was trained by {task.__name__}, which is no task")
    return task


def _form(task: type[Answering], given: dict[str, str]) -> str:
    """Return the form of the answers: the one that is named, that of the ending of the output, or the task's first."""
    if not task.formats:
        raise ConfigError(f"{task.__name__} writes no answers; use vsattn.load(...).predict(items)")
    ending = Path(given.get("output", "")).suffix.removeprefix(".")
    form = given.get("format", ending if ending in task.formats else task.formats[0])
    if form not in task.formats:
        raise ConfigError(f"format={form}: {task.__name__} has no such form; {nearest(form, task.formats)}")
    if "classes" in given and (form != "jsonl" or not task.tells_classes):
        wanted = "add format=jsonl" if task.tells_classes else f"{task.__name__} has no such probabilities"
        raise ConfigError(f"classes=all: {wanted}")
    return form


def _cores() -> int:
    """Return how many cores this process may use, up to a bound."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, usable)


@contextlib.contextmanager
def opened(output: str | None) -> Iterator[TextIO]:
    """Yield where answers go: a file takes its place when all is answered, so that a failure leaves what was there.

    A link stays one, and a pipe or a device is written to.

    Raises:
        DataError: when the file cannot be written.
    """
    if output is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
        yield sys.stdout
        return
    stays = os.path.exists(output) and not os.path.isfile(output)
    target = Path(output if stays else os.path.realpath(output))
    part = target if stays else Path(f"{target}.part")
    try:
        out = part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
        try:
            with out:
                yield out
            if not stays:
                part.replace(target)
        finally:
            if not stays:
                part.unlink(missing_ok=True)
    except OSError as error:
        if error.filename not in (None, str(part)):  # of what is read meanwhile
            raise
        raise DataError(f"{output} cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())

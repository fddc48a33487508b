"""The command: ``python -m vsattn.translate ckpt=FOLDER < in.txt > out.txt``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from vsattn.errors import ConfigError, DataError
from vsattn.predict import files, move, opened
from vsattn.run import guarded
from vsattn.words import read_words

if TYPE_CHECKING:
    from vsattn.hypotheses import Translation
    from vsattn.tasks.inputs import Question
    from vsattn.translator import Translator

USAGE = """\
Translate text, a line at a time, with a trained encoder-decoder.

  python -m vsattn.translate ckpt=outputs/translation/DATE_TIME < in.txt > out.txt
  python -m vsattn.translate ckpt=FOLDER input=a.txt,b.txt.gz output=out.txt
  python -m vsattn.translate ckpt=FOLDER                    on a terminal: asks for one line after the other
  python -m vsattn.translate ckpt=FOLDER,FOLDER2            the mean of several models

ckpt is a checkpoint or the folder of a run. Lines stay in order and empty ones empty. device=cuda uses a GPU.

  --beam W               hypotheses of the search; 1 is greedy (what the run was tested with)
  --length-penalty A     above 0 favours longer translations (what the run was tested with)
  --n-best K             K translations of each line; the number of the line stands before each
  --scores               before each translation its score and its log-probability
  --sample               draw translations instead, --n-best of each line, with
    --temperature T      below 1 more like the search (1)
    --top-k K, --top-p P only among the K likeliest tokens, or the likeliest of together P
    --seed N             the same seed draws the same (0)
  --attention FOLDER     a picture for each line: what each word looked at
  --buffer N             lines that are read before they are translated together (1000)
  --batch-size N         lines that are translated at once (64)

Columns are separated by tabs, the translation last.
"""

#: What only goes with ``--sample``, and what does not go with it.
DRAWN, SEARCHED = ("temperature", "top_k", "top_p", "seed"), ("beam", "length_penalty")

#: Lines that are read before they are translated together.
BUFFER = 1000

#: Texts and the number of the first to the translations of each, best first.
Translate = Callable[[list[str], int], "list[list[Translation]]"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for words that mean nothing, 1 for any other failure, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _run(words), "vsattn.translate")


def write(
    lines: Iterable[str],
    translate: Translate,
    out: TextIO,
    *,
    numbered: bool = False,
    scores: bool = False,
    buffer: int = BUFFER,
    draw: Callable[[int, str, Translation], None] | None = None,
) -> None:
    """Write the translations of lines as they come, and say on standard error how many were cut.

    Args:
        lines: ``buffer`` of them are read, translated together, written and flushed.
        translate: what translates them.
        out: where to.
        numbered, scores: columns before each translation.
        draw: is given the number of each line with words, the line and its best translation.
    """
    remaining, number, cut = iter(lines), 1, 0
    while chunk := list(islice(remaining, buffer)):
        for place, (line, found) in enumerate(zip(chunk, translate(chunk, number), strict=True), start=number):
            for one in found:
                columns = [str(place)] if numbered else []
                columns += [f"{one.score:.4f}", f"{one.log_prob:.4f}"] if scores else []
                out.write("\t".join([*columns, one.text]) + "\n")
                cut += not one.finished
            if draw is not None and found and found[0].source_pieces:
                draw(place, line, found[0])
        out.flush()
        number += len(chunk)
    if cut:
        print(f"{cut} translations were cut at the most tokens that they may have", file=sys.stderr)


def _run(words: list[str]) -> None:
    options = _parse(words)
    given = read_words(options.pop("words"), ("ckpt",), ("input", "output", "device"))
    inputs = files(given["input"]) if "input" in given else []
    folder = options.pop("attention")
    columns = {"numbered": options.get("n_best", 1) > 1, "scores": options.pop("scores")}
    translator = _load(given["ckpt"], given.get("device", "cpu"))
    draw = None if folder is None else _drawer(translator, Path(folder))
    from vsattn.tasks.inputs import STANDARD_INPUT, Question, decoded, each_line

    asks, buffer = not inputs and sys.stdin.isatty(), options.pop("buffer")
    translate = _translate(translator, options)
    named = [Question(str(path), path) for path in inputs] or None
    with opened(given.get("output")) as out:
        lines = _lines(decoded(_asked(), "-", STANDARD_INPUT) if asks else each_line(named))
        write(
            lines, _forgiving(translate) if asks else translate, out, buffer=1 if asks else buffer, draw=draw, **columns
        )


def _parse(words: list[str]) -> dict[str, Any]:
    """Return the options that are given, by their names in Python, and ``words``, which are all others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in ("beam", "n-best", "top-k", "batch-size"):
        parser.add_argument(f"--{name}", type=_count)
    for name in ("length-penalty", "temperature", "top-p"):
        parser.add_argument(f"--{name}", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--sample", action="store_true", default=False)
    parser.add_argument("--scores", action="store_true", default=False)
    parser.add_argument("--attention", default=None)
    parser.add_argument("--buffer", type=_count, default=BUFFER)
    parser.add_argument("words", nargs="*", default=[])

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists what there is")

    parser.error = refuse  # type: ignore[method-assign, assignment]
    options = vars(parser.parse_intermixed_args(words))
    draws = options.pop("sample")
    lost = [f"--{name.replace('_', '-')}" for name in (SEARCHED if draws else DRAWN) if name in options]
    if lost:
        raise ConfigError("\n".join(f"{name}: {'does not go with' if draws else 'needs'} --sample" for name in lost))
    if draws:
        options.setdefault("seed", 0)
    return options


def _count(text: str) -> int:
    """Read a number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is expected, not {text}")
    return int(text)


def _load(ckpt: str, device: str) -> Translator:
    from vsattn.checkpoint import load
    from vsattn.ensemble import names_of
    from vsattn.translator import Translator

    found = []
    for name in names_of(ckpt):
        one = load(name)
        if not isinstance(one, Translator):
            raise DataError(f"{name} does not translate: use python -m vsattn.predict ckpt={name} input=FILE")
        found.append(one)
    translator = Translator.ensemble(found) if len(found) > 1 else found[0]
    move(translator, device)
    return translator


def _translate(translator: Translator, options: dict[str, Any]) -> Translate:
    """Return what translates as the options say."""
    options = dict(options)
    several = options.pop("n_best", 1)
    if "seed" in options:
        import torch

        generator = torch.Generator().manual_seed(options.pop("seed"))
        options |= {"count": several, "generator": generator}
        ask: Callable[..., list[Any]] = translator.sample
    else:
        options |= {"n_best": several, "width": options.pop("beam", None)}
        ask = translator.predict

    def translate(lines: list[str], first: int) -> list[list[Translation]]:
        found = ask(lines, first=first, **options)
        return found if several > 1 else [[one] for one in found]

    return translate


def _forgiving(translate: Translate) -> Translate:
    """Return what says on standard error why a line cannot be translated, where a person can write another."""

    def attempt(lines: list[str], first: int) -> list[list[Translation]]:
        try:
            return translate(lines, first)
        except DataError as error:
            print(error, file=sys.stderr)
            return [[] for _ in lines]

    return attempt


def _drawer(translator: Translator, folder: Path) -> Callable[[int, str, Translation], None]:
    """Return what draws the attention of a translation as ``folder/NUMBER.png``."""
    from vsattn.tasks.translation_plots import Panel, alignments

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} cannot be a folder for pictures: {error.strerror or error}") from None

    def draw(number: int, line: str, found: Translation) -> None:
        source, target, weights = translator.alignment(line, found)
        alignments([Panel(source, target, weights.numpy())], folder / f"{number:06}.png")

    return draw


def _lines(questions: Iterable[Question]) -> Iterator[str]:
    """Yield lines, and stop at the first that cannot be read: the others would lose their places."""
    for question in questions:
        if isinstance(question.item, DataError):
            raise question.item
        yield question.item


def _asked() -> Iterator[bytes]:
    """Ask on a terminal for one line after the other, until the input ends."""
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.buffer.readline()
        if not line:
            print(file=sys.stderr)
            return
        yield line


if __name__ == "__main__":
    sys.exit(main())

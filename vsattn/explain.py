"""The command: ``python -m vsattn.explain ckpt=FOLDER input=FILE``."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence
from itertools import count as counting
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsattn.errors import ConfigError, DataError, nearest
from vsattn.predict import files, move, task_of
from vsattn.run import guarded
from vsattn.words import count, megabytes, numbers, read_words, split_of

if TYPE_CHECKING:
    from vsattn.predictor import Predictor
    from vsattn.tasks.answering import Answering
    from vsattn.tasks.inputs import Question
    from vsattn.viewing.looked import Item
    from vsattn.viewing.view import View

USAGE = """\
Show what a trained model's attention looks at: one page that works without a network.

  python -m vsattn.explain ckpt=outputs/labeling/DATE_TIME text="we can fish"
  python -m vsattn.explain ckpt=FOLDER text="it was too tired" other="it was too wide"      side by side
  python -m vsattn.explain ckpt=outputs/image/DATE_TIME split=test item=3                   of the run's own data
  python -m vsattn.explain ckpt=outputs/image/DATE_TIME input=a.png output=a.html
  python -m vsattn.explain ckpt=outputs/speech/DATE_TIME input=a.wav format=png scale=log
  python -m vsattn.explain ckpt=outputs/node/DATE_TIME input=nodes.csv,edges.csv node=17 hops=2
  echo "we can fish" | python -m vsattn.explain ckpt=outputs/translation/DATE_TIME

  ckpt=PATH          a checkpoint, or the folder of a run
  input=PATHS        what predict takes: a file, or a folder; - is standard input, as is none (text only)
  text=WORDS         the text itself, in place of a file; words that are to be labelled stand apart by spaces
  split=NAME         test, val or train: an item of the data that the model was trained on, in place of a file
  item=N             which of several items, sentences or lines (1)
  other=PATHS        a second one to compare with, given as the first is: PATHS, with text= a text, with split= a number
  format=NAME        html, png, svg, pdf, json; else by the ending of output
  output=FILE        replaced when all is written (explain.html, or the next free explain-2.html, ...)
  layers=A,B         numbers from 1 in the order of the model, or patterns of paths: 1,2 or "decoder*"
  heads=A,B          numbers from 1
  queries=A,B        vectors from 1, also 3-8; their rows alone are kept
  node=NAME          of a graph, whose neighbourhood is shown; a graph of more than 500 nodes shows one of the first
  hops=N             how far that reaches (2)
  relevance=yes|no   explain the answer too (yes, where it can be had)
  budget_mb=X        most megabytes of the page (4.8); weights are kept as exactly as it allows
  device=NAME        cpu, cuda, cuda:1, ... (cpu)

What a drawing (png, svg, pdf) shows; a page shows it all:

  map=NAME           a module's path, such as encoder.blocks.1.attention; a wrong one lists them
  head=N             from 1, or mean
  query=NAME         a vector, by its label or its number from 1
  scale=NAME         linear, log
"""

#: Settings that may be left out.
OPTIONAL = (
    "input", "text", "split", "item", "other", "format", "output", "layers", "heads", "queries", "node", "hops",
    "relevance", "budget_mb", "device", "map", "head", "query", "scale",
)  # fmt: skip

#: What messages begin with that name numbers.
COUNTED = ("layers: ", "heads: ", "queries: ")

FORMATS = ("html", "png", "svg", "pdf", "json")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 2 for words that mean nothing, 1 for any other failure, 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    return guarded(lambda: _explain(read_words(words, ("ckpt",), OPTIONAL)), "vsattn.explain")


def _explain(given: dict[str, str]) -> None:
    output = output_of(given.get("output"), given.get("format"))
    if len(said := [name for name in ("input", "text", "split") if name in given]) > 1:
        raise ConfigError(f"{said[1]}: is given beside {said[0]}; one of them says what is looked at")
    split_of(given, "test")
    if "text" in given and "item" in given:
        raise ConfigError("item: chooses from a file; text= is one item itself")
    chosen: dict[str, Any] = {name: numbers(name, given[name]) for name in ("heads", "queries") if name in given}
    chosen |= {"layers": layers(given["layers"])} if "layers" in given else {}
    if (relevance := given.get("relevance", "yes")) not in ("yes", "no"):
        raise ConfigError(f"relevance={relevance}: is yes or no")
    hops, number = count("hops", given.get("hops", "2"), 0), count("item", given.get("item", "1"), 1)
    budget = megabytes(given["budget_mb"]) if "budget_mb" in given else None
    from vsattn.checkpoint import load
    from vsattn.viewing.collect import require_attention
    from vsattn.viewing.looked import Choice
    from vsattn.viewing.view import BUDGET_MB, look

    predictor = move(load(given["ckpt"]), given.get("device", "cpu"))
    require_attention(predictor.model)
    task = task_of(predictor, given["ckpt"])
    questions = [_question(task, predictor, given, "input", number)]
    if "other" in given:
        questions.append(_question(task, predictor, given, "other", number))
    node = node_number(questions[0], given["node"]) if "node" in given else None
    choice = Choice(**chosen, relevance=relevance == "yes", node=node, hops=hops)
    try:
        view = look(predictor, [_item(one) for one in questions], choice, budget_mb=budget or BUDGET_MB)
    except ConfigError as error:
        if not str(error).startswith(COUNTED):
            raise
        raise ConfigError(f"{error} (here counted from 0; the words of the command count from 1)") from None
    with warnings.catch_warnings(record=True) as heard:  # such as characters that no font has
        view.save(output, **_drawing(view, given))
    for text in dict.fromkeys(str(warning.message) for warning in heard):
        print(f"vsattn.explain: {text}", file=sys.stderr)
    _tell(view, output, given["ckpt"])


def output_of(output: str | None, form: str | None) -> Path:
    """Return the file that is written: the one that is named, or ``explain.FORMAT``, or the next that is free.

    Raises:
        ConfigError: for a format that is not known or does not fit the name.
    """
    if form is not None and form not in FORMATS:
        raise ConfigError(f"format={form}: {nearest(form, FORMATS)}")
    if output is None:
        names = (f"explain{'' if i == 1 else f'-{i}'}.{form or 'html'}" for i in counting(1))
        return next(Path(name) for name in names if not Path(name).exists())
    path = Path(output).expanduser()
    ending = path.suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise ConfigError(f"output={output}: end it in .{', .'.join(FORMATS)}")
    if form not in (None, ending):
        raise ConfigError(f"output={output}: a file of format={form} ends in .{form}")
    if path.is_dir():
        raise ConfigError(f"output={output}: is a folder; name a file in it")
    return path


def layers(text: str) -> list[int | str]:
    """Return layers by numbers from 0, or patterns of paths."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [int(part) - 1 if re.fullmatch(r"[1-9]\d{0,5}", part, re.ASCII) else part for part in parts]


def node_number(question: Question, name: str) -> int:
    """Return which node of a graph has a name.

    Raises:
        ConfigError: for another name, or what is no graph.
    """
    names = _names(question)
    if names is None:
        raise ConfigError("node: belongs to graphs; queries= chooses vectors of anything else")
    if name not in names:
        some = nearest(name, names) if len(names) <= 20 else f"there are {len(names):,}: {', '.join(names[:5])}, ..."
        raise ConfigError(f"node={name}: no node of {question.name} has that name; {some}")
    return names.index(name)


def _question(task: type[Answering], predictor: Predictor, given: dict[str, str], name: str, number: int) -> Question:
    """Return the item that is looked at, or the other one.

    Raises:
        DataError: when there is none, or it cannot be read.
    """
    if "text" in given:
        return literal(predictor, given["text" if name == "input" else name])
    if "split" in given:
        return _of_split(predictor, given["split"], number if name == "input" else count(name, given[name], 1))
    paths = None if given.get(name, "-") == "-" else _files(predictor, given[name], name)
    if paths is None and name == "other" and given.get("input", "-") == "-":
        raise ConfigError("other: standard input is what is looked at; name a file")
    found = list(islice(task.questions(predictor, paths), number - 1, number + 1))
    if not found:
        raise DataError(f"item={number}: there are fewer in {given.get(name, 'standard input')}")
    if isinstance(found[0].item, DataError):
        raise found[0].item
    if len(found) > 1 and "item" not in given:
        print(f"vsattn.explain: {found[0].name} is shown, and there are more: item=N chooses", file=sys.stderr)
    return found[0]


def _of_split(predictor: Predictor, split: str, number: int) -> Question:
    """Return an item of the data that a model was trained on.

    Raises:
        DataError: when there are fewer; see :meth:`vsattn.tasks.judging.Judge.of`.
    """
    from vsattn.tasks.inputs import Question
    from vsattn.tasks.judging import Judge

    pairs = Judge.of(predictor, split).pairs
    if number > len(pairs):
        raise DataError(f"item={number}: the {split} split has {len(pairs):,}")
    item = pairs[number - 1][0]
    return Question(f"{split} {number}", item, range(len(item.x)) if hasattr(item, "edge_index") else None)


def _drawing(view: View, given: dict[str, str]) -> dict[str, Any]:
    """Return what a drawing shows, in the words of :func:`vsattn.viewing.static.draw`, which counts from 0."""
    chosen: dict[str, Any] = {name: given[name] for name in ("map", "scale") if name in given}
    if "head" in given:
        chosen["head"] = "mean" if given["head"] == "mean" else count("head", given["head"], 1) - 1
    if "query" in given:
        labels = {label for found in view.document.data["inputs"][0]["sets"].values() for label in found["labels"]}
        asked = given["query"]
        chosen["query"] = asked if asked in labels or not asked.isdecimal() else int(asked) - 1
    return chosen


def _files(predictor: Predictor, names: str, name: str) -> list[Path]:
    try:
        return files(names)
    except DataError as error:
        hint = "; write text=... for the text itself" if name == "input" else "; with text= it is the text itself"
        raise DataError(f"{name}: {error}{hint if _reads_text(predictor) else ''}") from None


def _reads_text(predictor: Predictor) -> bool:
    from vsattn.tokenizers.text_pairs import TextPairs
    from vsattn.tokenizers.words import WordTokenizer

    return isinstance(predictor.tokenizer, (WordTokenizer, TextPairs))


def literal(predictor: Predictor, text: str) -> Question:
    """Return a text that is given on the command line as what the model takes.

    Raises:
        ConfigError: for a model of something else.
    """
    from vsattn.tasks.inputs import Question
    from vsattn.tokenizers.words import WordTokenizer

    if not _reads_text(predictor):
        raise ConfigError(f"text: a model of {type(predictor.tokenizer).__name__} looks at files: input=PATH")
    return Question("text", text.split() if isinstance(predictor.tokenizer, WordTokenizer) else text)


def _names(question: Question) -> list[str] | None:
    graph = hasattr(question.item, "edge_index")
    return [str(name) for name in question.about] if graph and question.about else None


def _item(question: Question) -> Item:
    from vsattn.viewing.looked import Item
    from vsattn.viewing.view import caption_of

    text = isinstance(question.item, (str, list))
    return Item(question.item, caption_of(question.item) if text else question.name, _names(question))


def _tell(view: View, output: Path, ckpt: str) -> None:
    data = view.document.data
    for one in data["inputs"]:
        print(f"input    {_line(one['caption'])}")
        print(f"answer   {_line(one['answer'])}")
    print(f"shows    {_shown(data)}")
    for remark in data["remarks"]:
        print(f"remark   {_line(remark)}")
    print(f"written  {output} ({output.stat().st_size / 1e6:.2f} MB)")
    print("trust    weights say where layers looked, not why the model answered so; how far they can be trusted:")
    print(f"         python -m vsattn.measure ckpt={ckpt}")


def _shown(data: dict[str, Any]) -> str:
    maps = data["inputs"][0]["maps"]
    raw = [found for found in maps if found["mode"] == "raw"]
    modes = [mode for mode in ("rollout", "relevance") if any(found["mode"] == mode for found in maps)]
    heads = sum(len(found["heads"]) for found in raw)
    kind = data["precision"]
    exact = "exact" if kind["kind"] == "exact" else f"off by {kind['max_error']:g} at most"
    blocks = ", means of blocks" if any(found["blocks"] for found in maps) else ""
    said = f"{heads} head{'s' * (heads > 1)} of {len(raw)} layer{'s' * (len(raw) > 1)}"
    return f"{', '.join([said, *modes])}; weights {exact}{blocks}"


def _line(text: str) -> str:
    """Return a text in one line; what would move the cursor is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


if __name__ == "__main__":
    sys.exit(main())

"""All commands under one name: ``vsattn run task=image``, or ``python -m vsattn run task=image``."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import re
import sys
from collections.abc import Sequence

from vsattn import __version__
from vsattn.errors import ConfigError
from vsattn.run import fail

#: Each command is the module of that name in this package, whose ``main`` takes the words after it.
COMMANDS = {
    "run": "train and test a model",
    "evaluate": "judge a trained model on any split, or on other data of the same kind",
    "predict": "answer for files with a trained model",
    "translate": "translate text, a line at a time",
    "explain": "show what a trained model's attention looks at, in one page",
    "measure": "measure what attention says, and how far to believe it",
    "compare": "train a task's models under one budget, for one table and one picture",
    "sweep": "summarise the runs of a sweep",
    "lr_find": "search for a learning rate",
    "export": "write a trained model for use without vsattn",
    "init": "make a folder for configs and classes of your own",
    "completion": "print what lets bash, zsh or fish complete these commands",
}

USAGE = """\
Attention over sets of vectors: words, sound, pictures, graphs and what you add.

  vsattn run task=image                       train and test; vsattn task=image does the same
  vsattn evaluate ckpt=FOLDER split=val       FOLDER is the run's, such as outputs/image/DATE_TIME
  vsattn predict ckpt=FOLDER input=FILE
  vsattn init FOLDER                          configs of your own

Commands, each with a --help of its own (python -m vsattn.COMMAND is the same):

{commands}

Options:
  -h, --help   show this and exit
  --version    show the version and exit
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the words to the command that the first one names, and return its exit code; 2 when there is none."""
    words = list(sys.argv[1:] if argv is None else argv)
    name, rest = (words[0], words[1:]) if words else ("--help", [])
    if name in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items())), end="")
        return 0 if words else 2
    if name == "--version":
        print(f"vsattn {__version__}")
        return 0
    if name not in COMMANDS and (name.startswith("-") or "=" in name):  # a run needs no name
        name, rest = "run", words
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean '{close[0]}'? " if close else ""
        return fail(
            ConfigError(f"{name}: there is no such command; {meant}(commands: {', '.join(COMMANDS)})"), 2, "vsattn"
        )
    command = importlib.import_module(f"vsattn.{name}")
    if not any(word in ("-h", "--help") for word in rest):
        return command.main(rest)
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        code = command.main(rest)
    print(re.sub(r"python -m vsattn\.(?=[a-z])", "vsattn ", shown.getvalue()), end="")
    return code


if __name__ == "__main__":
    sys.exit(main())

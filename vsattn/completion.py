"""The command: ``python -m vsattn.completion bash``; and what to complete, by the names of files alone."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from importlib import resources

from vsattn.errors import ConfigError, nearest
from vsattn.extensions import config_dir, groups
from vsattn.run import guarded

USAGE = """\
Let the shell complete commands, group=option, settings and files.

  eval "$(vsattn completion bash)"                          now, or for good in ~/.bashrc
  eval "$(vsattn completion zsh)"                           in ~/.zshrc, after compinit
  vsattn completion fish > ~/.config/fish/completions/vsattn.fish

Options of your own are completed too, in the folder that --config-dir or the variable VSATTN_CONFIG_DIR names.
"""

BASH = """\
_vsattn() {
    local line="${COMP_LINE:0:COMP_POINT}" word found
    local -a words
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word="${words[${#words[@]}-1]}"
    COMPREPLY=()
    while IFS= read -r found; do
        # Where = divides words, bash replaces only what follows it.
        [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && found="${found#"${word%=*}="}"
        COMPREPLY+=("$found")
    done < <("${words[0]}" completion --words "${words[@]:1}" 2>/dev/null)
    # After group= comes an option without a space.
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && type compopt &>/dev/null; then compopt -o nospace; fi
}
complete -o default -F _vsattn vsattn
"""

ZSH = """\
#compdef vsattn
_vsattn() {
    local -a found open
    found=("${(@f)$("$words[1]" completion --words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    found=("${(@)found:#}")
    if (( ! $#found )); then
        compset -P '*='
        _files
        return
    fi
    open=("${(@M)found:#*=}")
    compadd -S '' -a open
    found=("${(@)found:#*=}")
    compadd -a found
}
compdef _vsattn vsattn
"""

FISH = """\
function __vsattn_words
    set -l words (commandline -opc) (commandline -ct)
    $words[1] completion --words $words[2..-1] 2>/dev/null
end
complete -c vsattn -a '(__vsattn_words)'
"""

SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

#: Commands that take the words of a config; the others take what their help shows.
COMPOSING = ("run", "compare", "lr_find")
#: Settings with few values.
VALUES = {
    "split": ("test", "val", "train"),
    "device": ("cpu", "cuda"),
    "classes": ("all",),
    "what": ("heads", "ablation", "faithfulness", "alignment", "pointing"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for words that mean nothing."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--words"]:  # what the shells' functions call
        return guarded(lambda: print("".join(f"{word}\n" for word in complete(words[1:])), end=""), "vsattn.completion")
    if not words or any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0 if words else 2
    return guarded(lambda: _print(words), "vsattn.completion")


def _print(words: list[str]) -> None:
    if len(words) != 1 or words[0] not in SHELLS:
        raise ConfigError(f"{' '.join(words)}: one shell is expected; {nearest(words[0], SHELLS)}")
    print(SHELLS[words[0]], end="")


def complete(words: Sequence[str]) -> list[str]:
    """Return what the last word can become, given those before it; [] leaves it to the shell, which knows files.

    Args:
        words: of the command line up to the cursor, without the program; the last is "" after a space.
    """
    from vsattn.__main__ import COMMANDS

    *before, word = words or [""]
    if not before and "=" not in word:
        return _starting(word, [*COMMANDS, "--help", "--version"])
    command = before[0] if before and before[0] in COMMANDS else "run"
    if before[-1:] in (["--config-dir"], ["-cd"]):
        return []
    options = groups(config_dir(_config_dir(before)))
    key, sign, value = word.partition("=")
    name = key.lstrip("+~")
    if sign:
        *chosen, last = value.split(",")
        values = _starting(
            last, options[name] if _composes(command, name) and name in options else VALUES.get(name, ())
        )
        return [f"{key}={','.join([*chosen, one])}" for one in values if one not in chosen]
    return _starting(word, _words(command, options))


def _words(command: str, options: dict[str, list[str]]) -> list[str]:
    """Return the words that a command takes: groups and settings of a config, and what its help shows."""
    usage = getattr(importlib.import_module(f"vsattn.{command}"), "USAGE", "")
    if command == "completion":
        return [*SHELLS, "--help"]
    settings = "" if command == "init" else "|[a-z_]+="
    found = {"--help", *re.findall(rf"(?<![\w.:/+-])(--[a-z][a-z-]+{settings})", usage)}
    if command in COMPOSING:
        found |= {f"{name}=" for name in (*options, *_top_level())}
    return sorted(found)


def _top_level() -> list[str]:
    """Return the settings of a config that belong to no group."""
    text = resources.files("vsattn.conf").joinpath("config.yaml").read_text(encoding="utf-8")
    return [key for key in re.findall(r"^(\w+):", text, re.MULTILINE) if key not in ("defaults", "hydra", "paths")]


def _composes(command: str, group: str) -> bool:
    return command in COMPOSING or (command == "evaluate" and group == "data")


def _config_dir(words: Sequence[str]) -> str | None:
    """Return the folder that the words before name."""
    for index, word in enumerate(words):
        if word in ("--config-dir", "-cd"):
            return "".join(words[index + 1 : index + 2])
        if word.startswith("--config-dir="):
            return word.partition("=")[2]
    return None


def _starting(start: str, words: Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith(start)]


if __name__ == "__main__":
    sys.exit(main())

"""Cutting a text into words, and putting words together as they are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vsattn.errors import ConfigError

#: How a text is cut, and what does it.
SPLITS = {
    "raw": "not at all",
    "spaces": "at spaces, for text that is tokenised already",
    "moses": "by the rules of the Moses toolkit (Koehn et al. 2007), in the package sacremoses",
    "spacy": "by spaCy's rules, without a trained model",
}

#: What may stand inside of a word, where spaCy cuts some languages' words and not others'.
INSIDE = ("-", "/")


class Cutter:
    """Cuts by one of `SPLITS`; picklable, because the rules are loaded when they are first used.

    Args:
        split: a key of `SPLITS`.
        language: code such as ``"de"``, which ``"moses"`` and ``"spacy"`` need.

    Raises:
        ConfigError: when rules lack their language.
    """

    def __init__(self, split: str, language: str | None) -> None:
        if split in ("moses", "spacy") and not language:
            raise ConfigError(f"Text.split={split} needs Text.language, such as de or en")
        self.split, self.language = split, language
        self._rules: Callable[[str], list[str]] | None = None
        self._joiner: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rules": None, "_joiner": None}

    def cut(self, text: str) -> str:
        """Return the words of a tidy text, one space between them.

        Raises:
            ConfigError: without the package, or for a language that it does not know.
        """
        if self.split in ("raw", "spaces"):
            return text
        return " ".join(self._loaded(text))

    def joined(self, words: Sequence[str]) -> str:
        """Return the text that cuts into these words, as it is written."""
        if self.split in ("raw", "spaces"):
            return " ".join(words)
        if self._joiner is None:
            from sacremoses import MosesDetokenizer

            self._joiner = MosesDetokenizer(self.language)
        return self._joiner.detokenize(self._whole(words) if self.split == "spacy" else list(words), unescape=False)

    @property
    def _loaded(self) -> Callable[[str], list[str]]:
        if self._rules is None:
            self._rules = _moses(self.language) if self.split == "moses" else _spacy(self.language)
        return self._rules

    def _whole(self, words: Sequence[str]) -> list[str]:
        """Undo what spaCy cuts and Moses does not: don't, and words with a hyphen or slash in them."""
        whole: list[str] = []
        follows = False
        for left, word, right in zip(["", *words], words, [*words[1:], ""]):
            inside = word in INSIDE and left != "" != right and self._loaded(left + word + right) == [left, word, right]
            if whole and (follows or inside or word.lower() in ("n't", "n’t")):
                whole[-1] += word
            else:
                whole.append(word)
            follows = inside
        return whole


def _moses(language: str | None) -> Callable[[str], list[str]]:
    from sacremoses import MosesTokenizer
    from sacremoses.corpus import NonbreakingPrefixes

    known = sorted(set(NonbreakingPrefixes().available_langs.values()))
    if language not in known:  # it would cut by the rules of no language, and by English abbreviations
        raise ConfigError(f"Text.language={language}: Moses has rules for {', '.join(known)}; or choose split=spacy")
    rules = MosesTokenizer(language)
    return lambda text: rules.tokenize(text, escape=False)


def _spacy(language: str | None) -> Callable[[str], list[str]]:
    try:
        import spacy
    except ImportError:
        raise ConfigError(
            "Text.split=spacy needs the package spacy: pip install 'vsattn[spacy]', or choose split=moses"
        ) from None
    try:
        rules = spacy.blank(str(language)).tokenizer
    except ImportError as error:
        raise ConfigError(f"Text.language={language}: {' '.join(str(error).split())}") from None
    return lambda text: [token.text for token in rules(text) if not token.is_space]

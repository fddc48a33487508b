"""Raw text to rows of a vocabulary and back: words, byte-pair or unigram pieces, by Hugging Face ``tokenizers``."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from vsattn.environment import variable
from vsattn.errors import ConfigError, DataError
from vsattn.tokenizers.cutting import SPLITS, Cutter
from vsattn.tokenizers.words import frequent

if TYPE_CHECKING:
    import tokenizers

#: Rows 0 to 3 of every vocabulary, and their names.
PADDING, BOS, EOS, UNKNOWN = 0, 1, 2, 3
SPECIALS = ["<pad>", "<bos>", "<eos>", "<unk>"]

#: Stands for a space inside pieces (SentencePiece's sign), so that joined pieces give the text again.
SPACE = "▁"

#: Raw text is cut at spaces, and each of these is a word of its own: an English ending such as 's, or one sign that is
#: no letter, with the space before it.
ALONE = rf"(?<=\p{{L}})['’](?:[sdmt]|ll|re|ve)(?![\p{{L}}\p{{M}}])|{SPACE}?[^\p{{L}}\p{{M}}{SPACE}]"

#: What is read as a plain space, as nothing, and as another sign: control characters, invisible signs, half characters.
_PLAIN: dict[int, str | None] = {
    **dict.fromkeys([*range(0x00, 0x20), *range(0x7F, 0xA0)], " "),
    **dict.fromkeys([0xAD, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF], None),
    **dict.fromkeys(range(0xD800, 0xE000), "\N{REPLACEMENT CHARACTER}"),
    ord(SPACE): "_",
}


class Text:
    """Texts of one language, or of several in one vocabulary, to ids and back; plain and picklable.

    A text is made plain (see :func:`tidy`), cut into words, lower-cased if wished, and its words become pieces. All of
    that is one path, in training and in use.

    Args:
        model: pieces are ``"words"``, or parts of words: ``"bpe"`` (Sennrich et al. 2016, "Neural machine translation
            of rare words with subword units") or ``"unigram"`` (Kudo 2018, "Subword regularization").
        vocab_size: most rows, the four special ones included; None, for words alone, sets no bound.
        min_count: a word seen less often is unknown; of pieces: a character seen less often is unknown, and so often
            a pair must be seen to become a piece.
        lower: make no difference between cases.
        split: how a text is cut into words, see :data:`~vsattn.tokenizers.cutting.SPLITS`. With ``"raw"`` decoding
            gives the tidy text back exactly.
        language: code such as ``"de"``, which ``"moses"`` and ``"spacy"`` need.

    Raises:
        ConfigError: for values out of range.
    """

    def __init__(
        self,
        *,
        model: Literal["bpe", "unigram", "words"] = "bpe",
        vocab_size: int | None = 8000,
        min_count: int = 2,
        lower: bool = False,
        split: Literal["raw", "spaces", "moses", "spacy"] = "raw",
        language: str | None = None,
    ) -> None:
        if model not in ("bpe", "unigram", "words"):
            raise ConfigError(f"Text.model is bpe, unigram or words, not {model!r}")
        if vocab_size is None and model != "words":
            raise ConfigError(f"Text.vocab_size: model={model} needs a number; only words can do without")
        if vocab_size is not None and vocab_size <= len(SPECIALS):
            raise ConfigError(f"Text.vocab_size is above {len(SPECIALS)}, the special rows, not {vocab_size}")
        if min_count < 1:
            raise ConfigError(f"Text.min_count is at least 1, not {min_count}")
        if split not in SPLITS:
            raise ConfigError(f"Text.split is one of {', '.join(SPLITS)}, not {split!r}")
        self.model, self.vocab_size, self.min_count, self.lower = model, vocab_size, min_count, lower
        self.cutter = Cutter(split, language)
        self._tokenizer: tokenizers.Tokenizer | None = None

    def fit(self, texts: Iterable[str]) -> Text:
        """Learn the vocabulary from training texts, the same from the same texts, and return self.

        Raises:
            DataError: when they hold no words, or too many different characters for ``vocab_size`` rows.
        """
        lines = [self._prepared(text) for text in texts]
        if not any(lines):
            raise DataError("Text.fit got no words")
        fit = self._fit_words if self.model == "words" else self._fit_pieces
        return self._take(fit(lines))

    @property
    def state(self) -> dict[str, Any]:
        """What `fit` learned, as plain JSON values: the tokenizer's own JSON.

        Raises:
            DataError: before `fit` or `load_state`.
        """
        return {"tokenizer": self._fitted.to_str()}

    def load_state(self, state: dict[str, Any]) -> Text:
        """Take over what another one learned, and return self.

        Raises:
            DataError: for the state of something else.
        """
        import tokenizers

        try:
            found = tokenizers.Tokenizer.from_str(state["tokenizer"])
        except Exception as error:  # the library raises Exception itself
            raise DataError(f"this is no state of Text ({type(error).__name__}: {error})") from None
        if [found.id_to_token(row) for row in range(len(SPECIALS))] != SPECIALS:
            raise DataError(f"this is no state of Text: its first rows are not {', '.join(SPECIALS)}")
        if json.loads(found.to_str()) != json.loads(self._made(found.model).to_str()):
            raise DataError(f"this is no state of Text with split={self.cutter.split}: it has rules of its own")
        return self._take(found)

    def __len__(self) -> int:
        """Return the number of rows, special ones included."""
        return self._fitted.get_vocab_size()

    @property
    def names(self) -> list[str]:
        """The name of each row; `SPACE` stands where a space goes before it."""
        return [self._name(row) for row in range(len(self))]

    def encode(self, text: str) -> list[int]:
        """Return the rows of a text's pieces, without `BOS` and `EOS`; a text without words has none."""
        tokenizer, line = self._fitted, self._prepared(text)
        # A word spelled like a special row is a word, not an order to end.
        return [row if row > EOS else UNKNOWN for row in tokenizer.encode(line).ids] if line else []

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of rows, as it is written: what `split` cut is together again; special rows have none.

        An unknown piece is ``<unk>``.
        """
        names = [SPECIALS[UNKNOWN] if row == UNKNOWN else self._name(row) for row in ids if row > EOS]
        if self.cutter.split == "raw" and self.model == "words":  # where an unknown word stood, a space is likelier
            names = [SPACE + name if name == SPECIALS[UNKNOWN] else name for name in names]
        if self.cutter.split != "raw" and self.model == "words":
            return self.cutter.joined(names)
        return self.cutter.joined("".join(names).replace(SPACE, " ").split())  # a model may write two spaces

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the name of each row, to be shown."""
        return [self._name(row) for row in ids]

    def unknown(self, text: str) -> int:
        """Return how many pieces of a text have no row of their own."""
        return self.encode(text).count(UNKNOWN)

    @property
    def _fitted(self) -> tokenizers.Tokenizer:
        if self._tokenizer is None:
            raise DataError("Text has not seen data yet: call fit(texts) or load_state(state)")
        return self._tokenizer

    def _name(self, row: int) -> str:
        name = self._fitted.id_to_token(row)
        if name is None:
            raise DataError(f"there is no row {row}; the vocabulary has {len(self)}")
        return name

    def _take(self, tokenizer: tokenizers.Tokenizer) -> Text:
        self._tokenizer = tokenizer
        return self

    def _prepared(self, text: str) -> str:
        """Return a tidy text with one space between what `split` calls words, lower-cased if wished."""
        if not isinstance(text, str):
            raise DataError(f"{str(text)[:40]!r} ({type(text).__name__}) is no text; a text is a string")
        line = self.cutter.cut(tidy(text))
        return unicodedata.normalize("NFC", line.lower()) if self.lower else line

    def _made(self, model: Any) -> tokenizers.Tokenizer:
        """Return a tokenizer around a model; it has no added tokens, which would be found inside of texts."""
        from tokenizers import Regex, Tokenizer, pre_tokenizers

        made = Tokenizer(model)
        spaces = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
        if self.cutter.split == "raw":
            made.pre_tokenizer = pre_tokenizers.Sequence([spaces, pre_tokenizers.Split(Regex(ALONE), "isolated")])
        else:
            made.pre_tokenizer = pre_tokenizers.WhitespaceSplit() if self.model == "words" else spaces
        return made

    def _fit_words(self, lines: Sequence[str]) -> tokenizers.Tokenizer:
        from tokenizers.models import WordLevel

        cut = self._made(WordLevel({}, unk_token=SPECIALS[UNKNOWN])).pre_tokenizer.pre_tokenize_str
        counts = Counter(word for line in lines for word, _ in cut(line))
        words = [word for word in frequent(counts, self.min_count) if word not in SPECIALS]
        rows = [*SPECIALS, *words][: self.vocab_size]
        return self._made(WordLevel({word: row for row, word in enumerate(rows)}, unk_token=SPECIALS[UNKNOWN]))

    def _fit_pieces(self, lines: Sequence[str]) -> tokenizers.Tokenizer:
        from tokenizers import models, trainers

        characters = Counter("".join(lines).replace(" ", SPACE))
        rare = [character for character, count in characters.items() if count < self.min_count]
        least = len(characters) - len(rare) + len(SPECIALS)
        assert self.vocab_size is not None
        if least > self.vocab_size:
            raise DataError(
                f"Text.vocab_size is {self.vocab_size}, and the training texts need {least} rows for their characters "
                "alone: raise vocab_size or min_count"
            )
        lines = [line.translate(dict.fromkeys(map(ord, rare), None)) for line in lines] if rare else lines
        sizes: dict[str, Any] = {"vocab_size": self.vocab_size, "special_tokens": SPECIALS, "show_progress": False}
        if self.model == "bpe":
            trained = self._made(models.BPE(unk_token=SPECIALS[UNKNOWN]))
            trainer: Any = trainers.BpeTrainer(min_frequency=self.min_count, **sizes)
        else:
            trained = self._made(models.Unigram())
            trainer = trainers.UnigramTrainer(unk_token=SPECIALS[UNKNOWN], **sizes)
        # No threads: after them, loader workers could not be forked without a warning.
        with variable("TOKENIZERS_PARALLELISM", "false"):
            trained.train_from_iterator(lines, trainer)
        if self.model == "bpe":
            return self._made(trained.model)
        pieces = json.loads(trained.to_str())["model"]["vocab"][len(SPECIALS) :]
        # So unlikely that a text which spells a special name is never cut into that.
        vocabulary = [*((name, -1e9) for name in SPECIALS), *_ordered([(piece, score) for piece, score in pieces])]
        return self._made(models.Unigram(vocabulary, UNKNOWN))


def tidy(text: str) -> str:
    """Return a text in Unicode's NFC, with single plain spaces and without control and invisible characters."""
    return " ".join(unicodedata.normalize("NFC", text.translate(_PLAIN)).split())


def _ordered(pieces: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return pieces and their log-probabilities, likeliest first, without what differs from one training to another.

    The library adds up counts in the order of a hash table, and in that order sets characters that are no likely piece
    a step of 1e-4 apart, from the least likely piece on.
    """
    lowest = min(score for _, score in pieces)
    last = lowest + 1e-4 * len(pieces)
    scores = {piece: lowest if len(piece) == 1 and score < last else score for piece, score in pieces}
    return sorted(((p, round(score, 6)) for p, score in scores.items()), key=lambda found: (-found[1], found[0]))

"""How well the attention of a translation model aligns words, where it is known which words belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vsattn.encoder_decoder import EncoderDecoder
from vsattn.errors import ConfigError, DataError
from vsattn.measures.alignment import Links, align, alignment_error_rate, between_words, diagonal
from vsattn.predictor import Predictor
from vsattn.tokenizers.text import SPACE, tidy
from vsattn.tokenizers.text_pairs import TextPairs

from .data.base import Split
from .data.number_links import Linked, Part, number_links
from .data.numbers import NumberPhrases
from .judging import Judge

#: Which row of weights belongs to a target piece: of the step that writes it, or of the one after, which is given it.
READINGS = ("written", "given")


@dataclass(frozen=True)
class Aligned:
    """The alignment error rate of one way to read alignments.

    Args:
        layer, head: numbers from 0; head is None for the mean of all; layer too for the diagonal.
        reading: see `READINGS`.
        val, rate: on the items that choose the best, and on those that judge.
    """

    layer: int | None
    head: int | None
    reading: str
    val: float
    rate: float


def alignment_rates(predictor: Predictor, split: str, *, count: int, seed: int) -> tuple[list[Aligned], int, int]:
    """Measure every head of a decoder, and the mean of each layer, on pairs of numbers in words.

    The texts of the data are given to the decoder, not what it writes. A target word's link goes to the source part
    that it looks at most.

    Args:
        predictor: with an `EncoderDecoder`.
        split: that is judged; what is best is chosen on the validation split.
        count: of pairs of each.
        seed: chooses them.

    Returns:
        The diagonal, and then all readings, the best in validation first; the number of pairs that are judged, and of
        those left out because their parts are not known.

    Raises:
        ConfigError: for another model, or data whose alignments are not known.
    """
    model, texts = predictor.model, predictor.tokenizer
    target = (predictor.config.get("data") or {}).get("_target_", "")
    known = f"{NumberPhrases.__module__}.{NumberPhrases.__name__}"
    if not isinstance(model, EncoderDecoder) or not isinstance(texts, TextPairs) or target != known:
        raise ConfigError("alignment: which words belong together is known of data=numbers in task=translation alone")
    parts = {name: _Pairs.of(texts, Judge.of(predictor, name).pairs, count, seed) for name in {"val", split}}
    rates = {name: part.rates(model) for name, part in parts.items()}
    found = [Aligned(*way, val=rates["val"][way], rate=rates[split][way]) for way in rates["val"]]
    found.sort(key=lambda one: one.val)
    flat = Aligned(None, None, "diagonal", parts["val"].diagonal(), parts[split].diagonal())
    return [flat, *found], len(parts[split].linked), parts[split].left_out


class _Pairs:
    """Pairs of texts with their links, and which letters their pieces cover."""

    def __init__(self, texts: TextPairs, pairs: Sequence[tuple[str, str]], linked: list[Linked], left_out: int) -> None:
        self.texts, self.pairs, self.linked, self.left_out = texts, pairs, linked, left_out

    @classmethod
    def of(cls, texts: TextPairs, split: Split, count: int, seed: int) -> _Pairs:
        drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count].tolist()
        pairs = [split[i] for i in sorted(drawn)]
        both = [(pair, number_links(*pair)) for pair in pairs]
        known = [(pair, links) for pair, links in both if links is not None]
        if not known:
            raise DataError("alignment: of no pair is it known which parts belong together")
        return cls(texts, [pair for pair, _ in known], [links for _, links in known], len(both) - len(known))

    @property
    def gold(self) -> tuple[list[Links], list[Links]]:
        return [one.sure for one in self.linked], [one.possible for one in self.linked]

    def diagonal(self) -> float:
        """Return the error rate of texts that are read side by side."""
        found = [diagonal(len(one.target), len(one.source)) for one in self.linked]
        return alignment_error_rate(found, *self.gold)

    @torch.no_grad()
    def rates(self, model: EncoderDecoder, batch_size: int = 64) -> dict[tuple[int, int | None, str], float]:
        """Return the error rate by layer, head (None: the mean) and reading."""
        found: dict[tuple[int, int | None, str], list[Links]] = {}
        for start in range(0, len(self.pairs), batch_size):
            pairs = self.pairs[start : start + batch_size]
            batch: dict[str, Any] = self.texts.collate([source for source, _ in pairs])
            batch["target"] = self.texts.targets([target for _, target in pairs])
            weights = model.attention(batch).double()  # (B, L, H, M, N)
            weights = torch.cat([weights, weights.mean(2, keepdim=True)], 2)
            for row, links in enumerate(self.linked[start : start + batch_size]):
                source = self._letters(0, batch["source"][row], pairs[row][0], links.source)
                target = self._letters(1, batch["target"][row, 1:], pairs[row][1], links.target)
                for shift, reading in enumerate(READINGS):
                    rows = weights[row, :, :, shift : shift + target.shape[1], : source.shape[1]]
                    for layer, of_layer in enumerate(rows):
                        for head, one in enumerate(of_layer):
                            way = layer, head if head < len(of_layer) - 1 else None, reading
                            found.setdefault(way, []).append(align(between_words(one, target, source)))
        return {way: alignment_error_rate(links, *self.gold) for way, links in found.items()}

    def _letters(self, side: int, ids: Tensor, text: str, parts: Sequence[Part]) -> Tensor:
        """Return what share of each piece's letters belongs to each part of a text, ``(parts, pieces)``."""
        tokenizer = (self.texts.source, self.texts.target)[side]
        names = tokenizer.pieces(tokenizer.encode(text))
        if "".join(names).replace(SPACE, " ").strip() != tidy(text) or len(names) > len(ids):
            raise ConfigError(f"alignment: the pieces of {text!r} do not spell it: use a tokenizer that keeps all")
        shares = torch.zeros(len(parts), len(names), dtype=torch.float64)
        end = -1 if names[0].startswith(SPACE) else 0  # the space before the first word is not in the text
        for column, name in enumerate(names):
            start, end = end, end + len(name)
            for row, part in enumerate(parts):
                shares[row, column] = max(0, min(end, part.stop) - max(start, part.start)) / len(name)
        return shares

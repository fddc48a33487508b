"""A trained encoder-decoder with its text: source texts in, translations out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vsattn.encoder_decoder import EncoderDecoder
from vsattn.errors import ConfigError, DataError
from vsattn.hypotheses import Alignment, Ensemble, Hypothesis, MaxLength, Translation, Writer
from vsattn.model import Model
from vsattn.predictor import WINDOW, Predictor, listed, several
from vsattn.search import beam_search, forced, sample
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.text import BOS, EOS, PADDING
from vsattn.tokenizers.text_pairs import TextPairs

#: The search of a model whose task does not say how it searches.
BEAM_WIDTH, LENGTH_PENALTY = 4, 0.6

#: A batch ``{"source" (B, N)}`` and the number of each text's tokens to the hypotheses of each.
Search = Callable[[dict[str, Tensor], list[int]], list[list[Hypothesis]]]


class Translator(Predictor):
    """Translations of texts, whatever their number and their order: batches change nothing.

    Args:
        model, tokenizer, classes, config: see :class:`~vsattn.predictor.Predictor`.

    Raises:
        ConfigError: for another kind of model or tokenizer.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, classes: Sequence[str], *, config: dict[str, Any] | None = None
    ) -> None:
        if not isinstance(model, EncoderDecoder) or not isinstance(tokenizer, TextPairs):
            names = f"{type(model).__name__} and {type(tokenizer).__name__}"
            raise ConfigError(f"only an EncoderDecoder with TextPairs translates, not {names}")
        super().__init__(model, tokenizer, classes, config=config)
        self.texts, self.models = tokenizer, [model]

    @classmethod
    def ensemble(cls, translators: Sequence[Translator]) -> Translator:
        """Return several as one, by the mean of their probabilities; all else is as in the first.

        Raises:
            ConfigError: for none, or for models whose texts do not become the same tokens.
        """
        if not translators:
            raise ConfigError("an ensemble has at least one model")
        first = translators[0]
        for number, other in enumerate(translators[1:], start=2):
            settings = [one.config.get("tokenizer") for one in (first, other)]
            if settings[0] != settings[1] or first.texts.state != other.texts.state:
                raise ConfigError(
                    f"model {number} of the ensemble has another vocabulary than model 1, or cuts text otherwise: "
                    "train all with the same data and the same tokenizer settings"
                )
        whole = cls(first.model, first.texts, first.classes, config=first.config)
        whole.models = [model for one in translators for model in one.models]
        return whole

    def predict(
        self,
        items: Iterable[str],
        *,
        batch_size: int = 64,
        width: int | None = None,
        length_penalty: float | None = None,
        n_best: int = 1,
        first: int = 0,
        num_workers: int = 0,
        errors: Literal["raise", "return"] = "raise",
    ) -> list[Any]:
        """Translate texts; one without words becomes an empty text.

        Args:
            items: source texts.
            batch_size: how many are translated at once; they are sorted by length for that.
            width, length_penalty: of the beam, see :func:`vsattn.search.beam_search`; None is what the task that
                trained the model tests with, and at least ``n_best``.
            n_best: how many translations of each are wished.
            first: the number of the first text in messages.
            num_workers: changes nothing, since each step of a search needs the one before.
            errors: ``"return"`` gives a `DataError` in the place of a translation that cannot be given.

        Returns:
            For each text a `Translation`, or, with ``n_best`` above 1, a list of up to so many, best first.

        Raises:
            DataError: naming a text that is too long for the model, or is no string, unless errors are returned.
        """
        if errors != "raise":
            chosen: dict[str, Any] = {"width": width, "length_penalty": length_penalty, "n_best": n_best}
            found = self._beside_faults(items, lambda good: self.predict(good, batch_size=batch_size, **chosen))
            return listed(found, errors)
        width = max(n_best, self._setting("beam_width", BEAM_WIDTH)) if width is None else width
        penalty = self._penalty(length_penalty)
        options: dict[str, Any] = {"length_penalty": penalty, "max_length": MaxLength(limit=self.texts.max_length)}

        def search(batch: dict[str, Tensor], lengths: list[int]) -> list[list[Hypothesis]]:
            return beam_search(self._writer, batch, lengths=lengths, width=width, n_best=n_best, **options)

        found = self._searched(items, search, batch_size, first)
        return found if n_best > 1 else [best for (best,) in found]

    def stream(self, items: Iterable[Any], *, batch_size: int = 64, num_workers: int = 0) -> Iterator[Any]:
        """Yield the translation of each text, or its error, see :meth:`~vsattn.predictor.Predictor.stream`."""
        remaining, window = iter(items), batch_size * WINDOW if batch_size > 1 else 1
        while chunk := list(islice(remaining, window)):
            yield from self._beside_faults(chunk, lambda good: self.predict(good, batch_size=batch_size))

    def sample(
        self,
        items: Iterable[str],
        *,
        batch_size: int = 64,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        count: int = 1,
        generator: torch.Generator | None = None,
        first: int = 0,
    ) -> list[Any]:
        """Draw translations, see :func:`vsattn.search.sample`; the same generator gives the same, in any batches.

        Returns:
            For each text a `Translation`, or, with ``count`` above 1, a list of so many, as they were drawn.

        Raises:
            DataError: see :meth:`predict`.
        """
        limit, penalty = MaxLength(limit=self.texts.max_length), self._penalty(None)

        def search(batch: dict[str, Tensor], lengths: list[int]) -> list[list[Hypothesis]]:
            return sample(
                self._writer, batch, lengths=lengths, temperature=temperature, top_k=top_k, top_p=top_p, count=count,
                generator=generator, length_penalty=penalty, max_length=limit,
            )  # fmt: skip

        found = self._searched(items, search, batch_size, first)
        return found if count > 1 else [best for (best,) in found]

    def score(self, sources: Iterable[str], targets: Iterable[str], *, batch_size: int = 64) -> list[Translation]:
        """Return given translations with what the model thinks of them; the n-th of ``targets`` is of the n-th source.

        Raises:
            DataError: for a different number of the two, or see :meth:`predict`.
        """
        given = list(targets)
        written = [self._tokens(text, i, lambda text: self.texts.targets([text])) for i, text in enumerate(given)]
        sources = list(sources)
        if len(sources) != len(given):
            raise DataError(f"{len(sources)} sources cannot be scored with {len(given)} translations")
        read = self._sources(sources, 0)
        found: list[Translation | None] = [None] * len(given)
        for chosen in _batches([len(ids) for ids in written], batch_size):
            batch = self._batch([read[i] for i in chosen])
            padded = pad_sequence([written[i] for i in chosen], True, PADDING)
            penalty = self._penalty(None)
            for i, hypothesis in zip(chosen, forced(self._writer, batch, padded, length_penalty=penalty), strict=True):
                found[i] = self._translation(hypothesis, read[i])
        return [one for one in found if one is not None]

    @torch.inference_mode()
    def alignment(self, source: str, target: str | Translation | Hypothesis, *, layer: int = -1) -> Alignment:
        """Return what each token of a translation looked at: the mean over heads of one layer, and over models.

        Raises:
            DataError: for a text that is too long.
        """
        read = self.texts.collate([source])["source"]
        if isinstance(target, str):
            ids = self.texts.targets([target])[0].tolist()
        else:
            ids = [BOS, *target.ids, *([EOS] if target.finished else [])]
        batch = {"source": read.to(self._device), "target": torch.tensor([ids], device=self._device)}
        weights = torch.stack([model.attention(batch)[0, layer].mean(0) for model in self.models]).mean(0)
        names = self.texts.source.pieces(read[0].tolist()), self.texts.target.pieces(ids[1:])
        return Alignment(*names, weights.float().cpu())

    def logits(self, items: Iterable[Any], *, batch_size: int = 64) -> Tensor | list[Tensor]:
        """Refuse: there are none before something is written.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a translation has no logits of its source alone: use score(sources, targets)")

    def to(self, device: str | torch.device) -> Translator:
        """Move all models, and return self."""
        for model in self.models:
            model.to(device)
        return self

    @property
    def _writer(self) -> Writer:
        return self.models[0] if len(self.models) == 1 else Ensemble(self.models)

    @property
    def _device(self) -> torch.device:
        return self.models[0].target_embedder.table.weight.device

    def _setting(self, name: str, otherwise: Any) -> Any:
        return (self.config.get("task") or {}).get(name, otherwise)

    def _penalty(self, given: float | None) -> float:
        return self._setting("length_penalty", LENGTH_PENALTY) if given is None else given

    def _searched(self, items: Iterable[str], search: Search, batch_size: int, first: int) -> list[list[Translation]]:
        """Search for each text, similar lengths together; what has no words is not searched."""
        read = self._sources(items, first)
        wordless = Translation("", 0.0, 0.0, (), (), (), True)
        found = [[wordless] for _ in read]
        for chosen in _batches([len(ids) for ids in read], batch_size):
            chosen = [i for i in chosen if len(read[i]) > 1]
            if chosen:
                hypotheses = search(self._batch([read[i] for i in chosen]), [len(read[i]) for i in chosen])
                for i, of_one in zip(chosen, hypotheses, strict=True):
                    found[i] = [self._translation(hypothesis, read[i]) for hypothesis in of_one]
        return found

    def _beside_faults(self, items: Iterable[Any], translate: Callable[[list[str]], list[Any]]) -> list[Any]:
        """Return the translations of the texts that have one, and errors in the places of the others."""
        texts = list(several(items))
        faults = [self._fault(text) for text in texts]
        found = iter(translate([text for text, fault in zip(texts, faults, strict=True) if fault is None]))
        return [next(found) if fault is None else fault for fault in faults]

    def _fault(self, item: Any) -> DataError | None:
        try:
            self.texts.collate([item])
        except DataError as error:
            return item if isinstance(item, DataError) else error
        return None

    def _sources(self, items: Iterable[str], first: int) -> list[Tensor]:
        """Return the ids ``(N_i,)`` of each text, end included."""
        read = enumerate(several(items), start=first)
        return [self._tokens(text, i, lambda text: self.texts.collate([text])["source"]) for i, text in read]

    def _tokens(self, text: str, index: int, tokens: Callable[[str], Tensor]) -> Tensor:
        try:
            return tokens(text)[0]
        except DataError as error:
            raise DataError(f"text {index} cannot be translated: {error}") from None

    def _batch(self, sources: list[Tensor]) -> dict[str, Tensor]:
        return {"source": pad_sequence(sources, True, PADDING).to(self._device)}

    def _translation(self, found: Hypothesis, read: Tensor) -> Translation:
        pieces = tuple(self.texts.target.pieces(found.ids)), tuple(self.texts.source.pieces(read[:-1].tolist()))
        text = self.texts.target_text(found.ids)
        return Translation(text, found.score, found.log_prob, found.ids, *pieces, found.finished)


def _batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return the indices of texts, similar lengths together.

    Raises:
        DataError: for a batch size below 1.
    """
    if batch_size < 1:
        raise DataError(f"batch_size is at least 1, not {batch_size}")
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

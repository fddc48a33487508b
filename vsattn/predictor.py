"""A trained model with its tokenizer and the names of its answers: raw items in, answers out."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from vsattn.errors import ConfigError, DataError, ShapeError
from vsattn.heads import CtcHead, VectorHead
from vsattn.model import Model
from vsattn.tokenizers.base import Tokenizer

#: Items of so many batches are sorted by size at a time, so that batches hold like sizes and little is padded.
WINDOW = 8

#: A batch of several items holds at most so many bytes, as files or in memory: long recordings come in small batches.
BATCH_BYTES = 32 << 20

#: Items that are answered together, each with its number.
Job = list[tuple[int, Any]]


@dataclass(frozen=True)
class Prediction:
    """One answer: the label, its probability, and the probability of every label."""

    label: str
    probability: float
    probabilities: dict[str, float]


class Predictor:
    """Answers for raw items, whatever their number: batches change nothing.

    Attributes:
        beside: the labels of further columns that were learned beside the classes, by column, in their order.

    Args:
        model: put into evaluation mode.
        tokenizer: fitted.
        classes: the C names.
        config: what the run was made from, where that is known.
    """

    beside: Mapping[str, Sequence[str]] = MappingProxyType({})

    def __init__(
        self, model: Model, tokenizer: Tokenizer, classes: Sequence[str], *, config: dict[str, Any] | None = None
    ) -> None:
        self.model, self.tokenizer, self.classes = model.eval(), tokenizer, list(classes)
        self.config = config or {}

    def predict(
        self,
        items: Iterable[Any],
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        errors: Literal["raise", "return"] = "raise",
    ) -> list[Any]:
        """Answer for items, such as image paths, lists of words, sound files or graphs.

        Args:
            items: of the kind that the model was trained on; files are given by their paths.
            batch_size: most items that are answered at once.
            num_workers: threads that read and answer, each on one core; 0 is none but the caller's, where torch
                decides how many cores a single operation uses.
            errors: ``"return"`` gives a `DataError` in the place of an answer that cannot be given.

        Returns:
            For each item one `Prediction`; a list of them, one a vector, from a head that answers per vector; or a
            :class:`~vsattn.ctc.Transcript` from a head for CTC, by the search of the task that trained it.

        Raises:
            DataError: naming the item that cannot be read, unless errors are returned; for numbers out of range.
            ConfigError: for another word than those.
        """
        return listed(self.stream(items, batch_size=batch_size, num_workers=num_workers), errors)

    def stream(self, items: Iterable[Any], *, batch_size: int = 64, num_workers: int = 0) -> Iterator[Any]:
        """Yield what `predict` returns, errors included, in the order of the items, which are taken as they are needed.

        At most ``batch_size * (WINDOW + 2 * num_workers + 1)`` items are taken before they are answered; with
        ``batch_size=1`` and no threads, one. An item that is a `DataError` already is given back in its place.

        Raises:
            DataError: for a single item, or numbers out of range.
        """
        return self._stream(items, batch_size, num_workers, self._answer)

    def logits(self, items: Iterable[Any], *, batch_size: int = 64) -> Tensor | list[Tensor]:
        """Return the model's output on the CPU: ``(n, C)`` for n items, or n times ``(N_i, C)``, without padding."""
        parts = listed(self._stream(items, batch_size, 0, lambda logits: logits), "raise")
        if isinstance(self.model.head, VectorHead):
            return parts
        return torch.stack(parts) if parts else torch.empty(0, len(self.classes))

    def to(self, device: str | torch.device) -> Predictor:
        """Move the model, and return self."""
        self.model.to(device)
        return self

    def _answer(self, logits: Tensor) -> Any:
        if not bool((logits < torch.inf).all()):
            raise DataError("the model's answer is no number (NaN or infinity)")
        if isinstance(self.model.head, CtcHead):
            from vsattn.ctc import transcript

            settings = self.config.get("task") or {}
            search = {name: settings[name] for name in ("beam_width", "length_bonus") if name in settings}
            borders = self.tokenizer.borders(len(logits)).tolist() if hasattr(self.tokenizer, "borders") else None
            return transcript(logits, self.classes, borders=borders, **search)
        head = self.model.head
        labels: Any = head.labels(logits[None])[0].tolist()
        probabilities = head.probabilities(logits[None])[0].tolist()
        if logits.ndim == 1:
            return self._prediction(labels, probabilities)
        return [self._prediction(label, row) for label, row in zip(labels, probabilities, strict=True)]

    def _prediction(self, label: int, probabilities: list[float]) -> Prediction:
        named = dict(zip(self.classes, probabilities, strict=True))
        return Prediction(self.classes[label], probabilities[label], named)

    def _stream(
        self, items: Iterable[Any], batch_size: int, num_workers: int, finish: Callable[[Tensor], Any]
    ) -> Iterator[Any]:
        """Yield in order what ``finish`` makes of the logits of each item, ``(C,)`` or ``(N_i, C)``, or its error."""
        several(items)
        if batch_size < 1 or num_workers < 0:
            raise DataError(f"batch_size is at least 1 and num_workers at least 0, not {batch_size} and {num_workers}")
        self.model.eval()
        found: dict[int, Any] = {}
        place = 0
        for part in _ahead(lambda job: self._run(job, finish), _jobs(items, batch_size), num_workers):
            found |= part
            while place in found:
                yield found.pop(place)
                place += 1

    def _run(self, job: Job, finish: Callable[[Tensor], Any]) -> dict[int, Any]:
        """Answer for a batch; one that fails is halved until it is known which items are at fault."""
        known = {number: item for number, item in job if isinstance(item, DataError)}
        if known:
            rest = [pair for pair in job if pair[0] not in known]
            return known | self._run(rest, finish) if rest else known
        numbers, items = zip(*job, strict=True)
        try:
            return dict(zip(numbers, map(finish, self._outputs(items)), strict=True))
        except (DataError, ShapeError) as error:
            if len(job) == 1:
                return {numbers[0]: error if isinstance(error, DataError) else DataError(str(error))}
        half = len(job) // 2
        return self._run(job[:half], finish) | self._run(job[half:], finish)

    @torch.inference_mode()
    def _outputs(self, items: Sequence[Any]) -> list[Tensor]:
        """Return the logits of each item, ``(C,)`` or ``(N_i, C)``."""
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        batch = {key: value.to(device) for key, value in self.tokenizer.collate(items).items()}
        vector_set = self.model.encode(batch)
        output = self.model.head(vector_set).float().cpu()
        if output.ndim == 2 or vector_set.mask is None:
            return list(output)
        real = vector_set.mask[:, vector_set.num_prefix :].cpu()
        return [logits[mask] for logits, mask in zip(output, real, strict=True)]


def several(items: Iterable[Any]) -> Iterable[Any]:
    """Return items as they are.

    Raises:
        DataError: for a single item.
    """
    if isinstance(items, (str, bytes, Path)) or hasattr(items, "edge_index"):
        raise DataError(f"this takes a list of items, not one: use [{items!r}]")
    return items


def listed(found: Iterable[Any], errors: str) -> list[Any]:
    """Return answers as a list; an error among them gets the number of its item, and is raised unless it may stay.

    Raises:
        DataError: the first, with ``errors="raise"``.
        ConfigError: for another word than ``"raise"`` and ``"return"``.
    """
    if errors not in ("raise", "return"):
        raise ConfigError(f"errors is 'raise' or 'return', not {errors!r}")
    answers: list[Any] = []
    for number, answer in enumerate(found):
        if isinstance(answer, DataError):
            answer = DataError(f"item {number} cannot be predicted: {answer}")
            if errors == "raise":
                raise answer from None
        answers.append(answer)
    return answers


def _jobs(items: Iterable[Any], batch_size: int) -> Iterator[Job]:
    """Yield batches of like size: a window of items at a time, in the order of their sizes."""
    numbered = enumerate(items)
    window = batch_size * WINDOW if batch_size > 1 else 1
    while held := list(islice(numbered, window)):
        sizes = {number: _size(item) for number, item in held}
        job: Job = []
        total = 0
        for number, item in sorted(held, key=lambda pair: sizes[pair[0]]):
            if job and (len(job) == batch_size or total + sizes[number] > BATCH_BYTES):
                yield job
                job, total = [], 0
            job.append((number, item))
            total += sizes[number]
        yield job


def _size(item: Any) -> int:
    """Return about how many bytes an item is, or for words how many there are."""
    if isinstance(item, (str, Path)):
        try:
            return os.stat(item).st_size
        except (OSError, ValueError):  # no file, or text that is no name of one
            return len(str(item))
    if isinstance(item, tuple):  # samples and their rate
        return max(map(_size, item), default=0)
    if hasattr(item, "edge_index"):
        return _size(item.x) + _size(item.edge_index)
    return int(getattr(item, "nbytes", 0)) or (len(item) if hasattr(item, "__len__") else 0)


def _ahead(work: Callable[[Job], Any], jobs: Iterable[Job], num_workers: int) -> Iterator[Any]:
    """Yield ``work(job)`` of each job in order, by so many threads at a time, with a bounded number of jobs ahead."""
    if not num_workers:
        yield from map(work, jobs)
        return
    cores = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_workers, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[Any]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # what a thread sets, threads begin with that are made later

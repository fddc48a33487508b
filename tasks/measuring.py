"""What attention says of a trained model, and what it is worth, measured on a split of the data it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vsattn.ctc import greedy
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.errors import DataError
from vsattn.heads import CtcHead, VectorHead
from vsattn.measures.ablation import Ablated, ablation
from vsattn.measures.faithfulness import Curves, Verdict, faithfulness, verdicts
from vsattn.measures.heads import Sums, means, sums
from vsattn.measures.removal import Questions, ask
from vsattn.model import Model
from vsattn.predictor import Predictor
from vsattn.recording import record
from vsattn.search import MaxLength, beam_search
from vsattn.tokenizers.text import BOS, EOS, PADDING
from vsattn.tokenizers.words import padded

from .classification import IGNORED
from .judging import Judge
from .recognition import Judged, RecognitionTask
from .translation import TranslationTask

#: Questions about nodes of one graph that are asked together: each has its own part of the graph.
NODES = 32


@dataclass(frozen=True)
class Subject:
    """A model and some items of a split, as batches.

    Args:
        judge: the task and the whole split.
        model: in evaluation mode.
        batches: of the chosen items, with their targets.
        count: of items; of one graph, of its labelled nodes.
        seed: chose them.
    """

    judge: Judge
    model: Model
    batches: list[dict[str, Any]]
    count: int
    seed: int

    @classmethod
    def of(cls, predictor: Predictor, split: str, *, count: int, seed: int) -> Subject:
        """Choose ``count`` items of a split at random, or all if there are fewer; of one graph, of its nodes.

        Raises:
            ConfigError, DataError: see :meth:`~vsattn.tasks.judging.Judge.of`.
        """
        judge = Judge.of(predictor, split)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(judge.pairs), generator=generator)[:count].sort().values.tolist()
        parts = [chosen[i : i + judge.batch_size] for i in range(0, len(chosen), judge.batch_size)]
        batches = [judge.task.collate([judge.pairs[i] for i in part]) for part in parts]
        found = len(chosen)
        if len(batches) == 1 and one_graph(batches[0]):
            (batch,) = batches
            labelled = (batch["target"][0] != IGNORED).nonzero()[:, 0]
            kept = labelled[torch.randperm(len(labelled), generator=generator)[:count].sort().values]
            target = torch.full_like(batch["target"], IGNORED)
            target[0, kept] = batch["target"][0, kept]
            batches, found = [{**batch, "target": target}], len(kept)
        if not found:
            raise DataError(f"no item of the {split} split has a label to be judged by")
        return cls(judge, predictor.model, batches, found, seed)

    @property
    def score(self) -> str:
        """What :meth:`right` counts."""
        if isinstance(self.judge.task, RecognitionTask):
            return "word accuracy (1 - word error rate, greedy)"
        return "token accuracy, given the tokens before" if isinstance(self.model, EncoderDecoder) else "accuracy"

    @torch.no_grad()
    def right(self) -> tuple[Tensor, Tensor]:
        """Return what each item adds to the score, and by how many answers it is judged, ``(n,)`` each."""
        parts = [_right(self.judge.task, self.model, self.model(batch), batch) for batch in self.batches]
        right, total = (torch.cat(values) for values in zip(*parts, strict=True))
        return right, total

    def questions(self) -> Iterator[Questions]:
        """Yield the answers that the model gives for the items, see :func:`vsattn.measures.ask`.

        Where each vector has an answer, one labelled vector of each item is drawn and asked about; of one graph, each
        chosen node; with CTC a vector that says a label.
        """
        generator = torch.Generator().manual_seed(self.seed)
        for batch in self.batches:
            if isinstance(self.judge.task, TranslationTask):
                yield from self._written(batch)
            elif not isinstance(self.model.head, VectorHead):
                yield ask(self.model, batch)
            elif one_graph(batch):
                nodes = (batch["target"][0] != IGNORED).nonzero()[:, 0]
                for part in nodes.split(NODES):
                    yield ask(self.model, batch, vector=part)
            else:
                yield self._one_of_each(batch, generator)

    def heads(self) -> dict[str, dict[str, Tensor | None]]:
        """Return :func:`vsattn.measures.head_measures` of each attention module, over all items."""
        found: dict[str, list[Sums]] = {}
        for batch in self.batches:
            with torch.no_grad(), record(self.model) as recording:
                self.model(batch)
            for one in recording:
                found.setdefault(one.path, []).append(sums(one))
        return {path: means(parts) for path, parts in found.items()}

    def ablation(self) -> tuple[float, list[Ablated]]:
        """Silence each head in turn, see :func:`vsattn.measures.ablation`."""
        return ablation(self.model, self.right, seed=self.seed)

    def faithfulness(self, methods: Sequence[str]) -> tuple[Curves, list[Verdict]]:
        """Draw the curves of each method, with three random orders, and judge them."""
        seeds = range(self.seed, self.seed + 3)
        curves = faithfulness(self.model, self.questions(), methods=methods, seeds=seeds)
        return curves, verdicts(curves, seed=self.seed)

    def _written(self, batch: dict[str, Any]) -> Iterator[Questions]:
        """Ask about what the model writes by itself, for texts of which it writes something."""
        task = self.judge.task
        assert isinstance(task, TranslationTask)
        lengths = (batch["source"] != PADDING).sum(1).tolist()
        found = beam_search(
            task.writer,
            batch,
            lengths=lengths,
            width=task.beam_width,
            length_penalty=task.length_penalty,
            max_length=MaxLength(limit=task.texts.max_length),
        )
        rows = [i for i, length in enumerate(lengths) if length > 1]
        texts = [[BOS, *found[i][0].ids, *([EOS] if found[i][0].finished else [])] for i in rows]
        if rows:
            yield ask(self.model, {"source": batch["source"][rows], "target": padded(texts, max(map(len, texts)))})

    def _one_of_each(self, batch: dict[str, Any], generator: torch.Generator) -> Questions:
        """Ask about one labelled vector of each set, with CTC one that says a label; where there is none, any real."""
        with torch.no_grad():
            vectors = self.model.encode(batch)
            logits = self.model.head(vectors)
        real = vectors.real[:, vectors.num_prefix :]
        says = logits.argmax(-1) < logits.shape[-1] - 1 if isinstance(self.model.head, CtcHead) else None
        asked = real & (batch["target"] != IGNORED if says is None else says)
        asked = torch.where(asked.any(1, keepdim=True), asked, real)
        drawn = torch.rand(asked.shape, generator=generator).masked_fill(~asked, -1.0).argmax(1)
        return ask(self.model, batch, vector=drawn)


def one_graph(batch: dict[str, Any]) -> bool:
    """Tell whether a batch is one graph whose nodes have labels."""
    return "edge_index" in batch and batch["target"].ndim == 2 and len(batch["target"]) == 1


def _right(task: Any, model: Model, output: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    if isinstance(task, RecognitionTask):
        judged = [Judged(true, greedy(logits)) for logits, true in task.remember(output, batch)]
        words = torch.tensor([len(one.true) for one in judged])
        return words - torch.tensor([sum(one.errors) for one in judged]), words
    if isinstance(model, EncoderDecoder):
        target = batch["target"][:, 1:]
        real, answers = target != PADDING, output.argmax(-1)
    else:
        target = batch["target"]
        real = target != IGNORED
        answers = model.head.labels(output, real if target.ndim == 2 else None)
    right = (answers == target) & real
    if one_graph(batch):
        return right[real].long(), real[real].long()
    return (right.sum(1), real.sum(1)) if target.ndim == 2 else (right.long(), real.long())

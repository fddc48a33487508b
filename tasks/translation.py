"""The task: one sequence of tokens is read and another is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric

from vsattn.answers import Record
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.errors import ConfigError, DataError
from vsattn.predictor import Predictor
from vsattn.search import Hypothesis, MaxLength, beam_search
from vsattn.tokenizers.base import Tokenizer
from vsattn.tokenizers.text import PADDING
from vsattn.tokenizers.text_pairs import TextPairs
from vsattn.translator import Translator

from .base import Task
from .bleu import Bleu, scores, signatures
from .data.base import Data
from .data.parallel import ParallelData
from .distributed import spread
from .inputs import Question, each_line
from .report import bootstrap

#: How many test sentences the pictures show, and how many tokens of each at most.
SHOWN, SHOWN_TOKENS = 6, 30

#: What a text without words becomes.
NOTHING = Hypothesis((), 0.0, 0.0, (), True)


class TranslationCollate:
    """``(source, target)`` texts to a batch with ``"source" (B, N)`` and ``"target" (B, M + 1)``.

    Outside training ``"reference"`` has the target texts as they are, since token ids may not hold all of them.
    """

    def __init__(self, tokenizer: TextPairs, *, train: bool = False) -> None:
        self.tokenizer, self.train = tokenizer, train

    def __call__(self, pairs: list[Any]) -> dict[str, Any]:
        """Batch the pairs."""
        batch: dict[str, Any] = self.tokenizer.collate([source for source, _ in pairs], train=self.train)
        targets = [target for _, target in pairs]
        batch["target"] = self.tokenizer.targets(targets)
        return batch if self.train else {**batch, "reference": targets}


class TranslationTask(Task):
    """Cross-entropy of every target token given those before it; judged by what the model writes on its own.

    Args:
        model: an `EncoderDecoder`.
        tokenizer: fitted `TextPairs`.
        classes: the target's tokens.
        optimizer, schedule, recipe: see :class:`Task`.
        label_smoothing: probability given to all tokens alike, in training (Vaswani et al. 2017, section 5.4).
        teacher_forcing: the probability that a training step is given the true token before it.
        beam_width, length_penalty: of the search in the test, see :func:`vsattn.search.beam_search`; validation is
            greedy.

    Raises:
        ConfigError: for numbers out of range, or a model or tokenizer of another kind.
    """

    floor_name = "translation of the most similar training sentence"
    formats = ("text", "jsonl", "csv", "tsv", "table")
    extensions = (".txt", ".gz")

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        classes: Sequence[str],
        *,
        optimizer: Callable[..., Optimizer] | None = None,
        schedule: Callable[..., LRScheduler] | None = None,
        recipe: dict[str, Any] | None = None,
        label_smoothing: float = 0.1,
        teacher_forcing: float = 1.0,
        beam_width: int = 4,
        length_penalty: float = 0.6,
    ) -> None:
        if not 0 <= label_smoothing < 1 or not 0 <= teacher_forcing <= 1 or beam_width < 1:
            raise ConfigError(
                "task.label_smoothing is in [0, 1), teacher_forcing in [0, 1] and beam_width at least 1, not "
                f"{label_smoothing}, {teacher_forcing} and {beam_width}"
            )
        if not isinstance(model, EncoderDecoder) or not isinstance(tokenizer, TextPairs):
            raise ConfigError(
                f"task=translation needs text and a decoder: choose tokenizer=subwords and decoder=transformer, not "
                f"{type(tokenizer).__name__} and {type(model).__name__}"
            )
        super().__init__(model, tokenizer, classes, optimizer=optimizer, schedule=schedule, recipe=recipe)
        self.texts = tokenizer
        self.label_smoothing, self.teacher_forcing = label_smoothing, teacher_forcing
        self.beam_width, self.length_penalty = beam_width, length_penalty
        self.longest = MaxLength(limit=tokenizer.max_length)
        self.found: list[Hypothesis] = []
        self.hypotheses: list[str] = []
        self.judged_by = 0  # the seed of the test's intervals

    @property
    def writer(self) -> EncoderDecoder:
        """The model."""
        assert isinstance(self.model, EncoderDecoder)
        return self.model

    def collator(self, train: bool) -> TranslationCollate:
        """Return the function that batches."""
        return TranslationCollate(self.texts, train=train)

    def lengths(self, data: Data, split: str) -> Sequence[int]:
        """Return the tokens of each pair, of its longer side.

        Raises:
            DataError: naming the split, for pairs that are too long.
        """
        try:
            return self.texts.lengths(getattr(data, split))
        except DataError as error:
            raise DataError(f"{split} of {data.name}: {error}") from None

    def check(self, data: Data, split: str) -> None:
        """Stop before training when a pair is too long, in whatever split and however batches are made."""
        self.lengths(data, split)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Return logits ``(B, M, V)``."""
        return self.writer(batch, teacher_forcing=self.teacher_forcing if self.training else 1.0)

    def loss(self, output: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return the mean cross-entropy of the target's tokens, EOS included; its exponential is the perplexity."""
        return self._cross_entropy(output, batch, 0.0)

    def training_loss(self, output: Tensor, batch: dict[str, Any]) -> Tensor:
        """Return the same with label smoothing."""
        return self._cross_entropy(output, batch, self.label_smoothing)

    def teach_plainly(self) -> None:
        """Smooth no label."""
        self.label_smoothing = 0.0

    def count(self, batch: dict[str, Any]) -> int:
        """Return how many tokens are to be written."""
        return int((batch["target"][:, 1:] != PADDING).sum())

    def metrics(self) -> dict[str, Metric]:
        """Return the accuracy of tokens, and in validation BLEU and exact matches of what is written."""
        return {"accuracy": MeanMetric(), "bleu": Bleu(), "exact": MeanMetric()}

    def measure(self, metrics: dict[str, Metric], output: Tensor, batch: dict[str, Any]) -> None:
        """Compare tokens; outside training write and compare texts."""
        right, real = _right(output, batch)
        metrics["accuracy"].update(right[real].float())
        if "reference" in batch and not self.training:
            written = self._texts(self._search(batch, 1))
            metrics["bleu"].update(written, batch["reference"])
            same = [text == reference for text, reference in zip(written, batch["reference"], strict=True)]
            metrics["exact"].update(torch.tensor(same, dtype=torch.float))

    def on_validation_epoch_start(self) -> None:
        """Have all weights in each process, since searches take as many steps as their own sentences need."""
        super().on_validation_epoch_start()
        if spread(self.trainer):
            from .sharding import gather

            gather(self.model)

    def on_validation_epoch_end(self) -> None:
        """Let each process keep its part of them again."""
        super().on_validation_epoch_end()
        if spread(self.trainer):
            from .sharding import release

            release(self.model)

    def remember(self, output: Tensor, batch: dict[str, Any]) -> dict[str, Any]:
        """Search, and keep what was written, what should be, and sums over tokens."""
        right, real = _right(output, batch)
        best = self._search(batch, self.beam_width)
        loss = float(self.loss(output, batch)) * self.count(batch)
        sums = np.array([loss, int(right[real].sum()), int(real.sum()), sum(not h.finished for h in best)])
        return {"found": best, "sums": sums}

    def evaluate(self, remembered: list[Any], data: Data, *, seed: int) -> dict[str, float]:
        """Return BLEU, chrF, exact matches, perplexity and the accuracy of tokens; intervals are 95% by bootstrap."""
        assert isinstance(data, ParallelData)
        self.judged_by = seed
        self.found = [one for batch in remembered for one in batch["found"]]
        self.hypotheses = self._texts(self.found)
        references = [data.test[i][1] for i in range(len(self.hypotheses))]
        loss, right, tokens, unfinished = sum(batch["sums"] for batch in remembered)
        exact = np.array([written == true for written, true in zip(self.hypotheses, references, strict=True)])
        low, high = bootstrap(exact, seed=seed)
        result = scores(self.hypotheses, references, language=data.target_language, tokenised=data.tokenised, seed=seed)
        result |= {"exact": float(exact.mean()), "exact_low": low, "exact_high": high}
        result |= {"loss": loss / tokens, "perplexity": math.exp(loss / tokens), "token_accuracy": right / tokens}
        result |= {"unfinished": unfinished, "unknown_words": self._unknown(data)}
        return {f"test/{name}": float(value) for name, value in result.items()}

    def floor(self, data: Data) -> np.ndarray:
        """Return which test sentences are translated right by the nearest training source in trigrams of letters."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.neighbors import NearestNeighbors

        train, test = ([split[i] for i in range(len(split))] for split in (data.train, data.test))
        vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3)).fit([source for source, _ in train])
        index = NearestNeighbors(n_neighbors=1).fit(vectors.transform([source for source, _ in train]))
        nearest = index.kneighbors(vectors.transform([source for source, _ in test]), return_distance=False)[:, 0]
        return np.array([train[place][1] == true for place, (_, true) in zip(nearest, test, strict=True)])

    @classmethod
    def questions(cls, predictor: Predictor, inputs: Sequence[Path] | None) -> Iterator[Question]:
        """Yield the lines of text files, plain or gzip, or of standard input."""
        return each_line(None if inputs is None else super().questions(predictor, inputs))

    @classmethod
    def records(cls, predictor: Predictor, question: Question, answer: Any) -> list[Record]:
        """Return the line, its translation, and what :class:`~vsattn.translator.Translation` says of it."""
        path, line = question.about
        said = {"score": answer.score, "log_prob": answer.log_prob, "finished": answer.finished}
        return [{"path": path, "line": line, "source": question.item, "translation": answer.text, **said}]

    @classmethod
    def written(cls, predictor: Predictor, question: Question, answer: Any | None) -> str:
        """Return the translation as a line; an empty one stands for a line that cannot be translated."""
        if question.about is None:  # a file that cannot be read
            return ""
        return "\n" if answer is None else f"{answer.text}\n"

    def keep(self, folder: Path, data: Data) -> list[Path]:
        """Write sources, references and hypotheses of the test, one sentence a line, and how they were scored."""
        assert isinstance(data, ParallelData)
        pairs = [data.test[i] for i in range(len(self.hypotheses))]
        texts = {
            "source": [source for source, _ in pairs],
            "reference": [target for _, target in pairs],
            "hypothesis": self.hypotheses,
            "signature": [f"{name} {text}" for name, text in self._signatures(data).items()],
        }
        files = []
        for name, lines in texts.items():
            files.append(folder / f"test.{name}.txt")
            files[-1].write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return files

    def draw(self, folder: Path, data: Data) -> list[Path]:
        """Draw what each written token of some test sentences looks at in the source."""
        from .translation_plots import Panel, alignments

        translator = Translator(self.writer, self.texts, self.classes, config=self.recipe)
        panels = []
        for index, (hypothesis, written) in enumerate(zip(self.found, self.hypotheses, strict=True)):
            source, reference = data.test[index]
            found = translator.alignment(source, hypothesis)
            if max(len(found.source), len(found.target)) <= SHOWN_TOKENS:
                caption = "" if written == reference else "unlike the reference"
                panels.append(Panel(found.source, found.target, found.weights.numpy(), caption))
            if len(panels) == SHOWN:
                break
        return [alignments(panels, folder / "alignment.png")] if panels else []

    def _signatures(self, data: ParallelData) -> dict[str, str]:
        return signatures(tokenised=data.tokenised, seed=self.judged_by)

    def _search(self, batch: dict[str, Any], width: int) -> list[Hypothesis]:
        """Return what a trained model's :class:`Translator` writes, too."""
        lengths = (batch["source"] != PADDING).sum(1).tolist()  # end included
        options: dict[str, Any] = {"length_penalty": self.length_penalty, "max_length": self.longest}
        found = beam_search(self.writer, batch, lengths=lengths, width=width, **options)
        return [best if length > 1 else NOTHING for (best, *_), length in zip(found, lengths, strict=True)]

    def _texts(self, hypotheses: Sequence[Hypothesis]) -> list[str]:
        return [self.texts.target_text(hypothesis.ids) for hypothesis in hypotheses]

    def _unknown(self, data: Data) -> int:
        """Count the words of the test sources that the vocabulary does not have."""
        return sum(self.texts.source.unknown(data.test[i][0]) for i in range(len(self.hypotheses)))

    def _cross_entropy(self, output: Tensor, batch: dict[str, Any], smoothing: float) -> Tensor:
        logits, target = output.flatten(0, 1).float(), batch["target"][:, 1:].flatten()
        return F.cross_entropy(logits, target, ignore_index=PADDING, label_smoothing=smoothing)


def _right(output: Tensor, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return which tokens are guessed right, given those before, and which are real, both bool ``(B, M)``."""
    target = batch["target"][:, 1:]
    return output.argmax(-1) == target, target != PADDING

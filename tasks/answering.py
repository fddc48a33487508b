"""How a task is asked by the command `predict`, and what its answers become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vsattn.answers import EVERY_CLASS, Record
from vsattn.errors import ConfigError

from .inputs import Question, each_file

if TYPE_CHECKING:
    from vsattn.predictor import Prediction, Predictor


class Answering:
    """What a task says about its questions and answers; it writes nothing itself."""

    #: Forms in which answers can be written, see :data:`vsattn.predict.FORMATS`; the first unless another is chosen.
    formats: tuple[str, ...] = ()
    #: Endings of the files that are looked for in folders; () is any.
    extensions: tuple[str, ...] = ()
    #: Whether records have the probability of every class.
    tells_classes = False

    @classmethod
    def questions(cls, predictor: Predictor, inputs: Sequence[Path] | None) -> Iterator[Question]:
        """Return what files and folders ask, in order; without ``inputs``, what standard input asks.

        Raises:
            ConfigError: for a task that does not read standard input.
            DataError: when there is nothing to be read at all.
        """
        if inputs is None:
            raise ConfigError("input: is missing; this model answers for files: add input=PATH")
        return each_file(inputs, cls.extensions)

    @classmethod
    def records(cls, predictor: Predictor, question: Question, answer: Any) -> list[Record]:
        """Return an answer as one record or several, all with the same keys: the label, or that of each vector."""
        if isinstance(answer, list):
            return [{"path": question.name, "index": i, **labelled(one)} for i, one in enumerate(answer)]
        return [{"path": question.name, **labelled(answer)}]

    @classmethod
    def written(cls, predictor: Predictor, question: Question, answer: Any | None) -> str:
        """Return an answer in the task's own form of text, or what stands in its place where there is none."""
        raise NotImplementedError(f"{cls.__name__} has no form of its own")


def labelled(answer: Prediction) -> Record:
    """Return the keys that every record of a label has."""
    return {"label": answer.label, "probability": answer.probability, EVERY_CLASS: answer.probabilities}

"""What becomes of a model's answer when some of its vectors are taken away: they are no longer in the set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vsattn.crf import CrfHead
from vsattn.encoder_decoder import EncoderDecoder
from vsattn.encoders import InducedEncoder, LatentEncoder, TransformerEncoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.measures.flow import logits_of, ordinary, require_evaluation
from vsattn.model import Model
from vsattn.structure import Edges, Full
from vsattn.tokenizers.text import PADDING
from vsattn.vectorset import VectorSet

#: Encoders that take a set with holes: those that look at the mask alone, not at where it ends.
WITH_HOLES = (TransformerEncoder, LatentEncoder, InducedEncoder)


@dataclass(frozen=True, eq=False)
class Questions:
    """Answers that a model gave for whole sets.

    Args:
        vectors: as the encoder is given them, ``(R, N, D)``; one set for each question.
        answer: the class ``(R,)``, or for a decoder what was written ``(R, M + 1)``, begin and end included.
        vector: the number of the vector that the answer is of, prefix aside, ``(R,)``; None for answers per set.
    """

    vectors: VectorSet
    answer: Tensor
    vector: Tensor | None = None

    def __len__(self) -> int:
        return len(self.vectors.x)

    @property
    def real(self) -> Tensor:
        """Which vectors are real, bool ``(R, N)``."""
        return self.vectors.real

    @cached_property
    def candidates(self) -> Tensor:
        """Which vectors may be taken away: real ones but for prefix vectors and the one that is asked about."""
        free = self.real.clone()
        free[:, : self.vectors.num_prefix] = False
        if self.vector is not None:
            free[torch.arange(len(self), device=free.device), self.vector + self.vectors.num_prefix] = False
        return free

    @property
    def targets(self) -> Tensor | None:
        """The answers as :func:`vsattn.measures.relevance` takes them."""
        if self.vector is not None:
            return torch.stack([self.vector, self.answer], 1)
        return self.answer if self.answer.ndim == 1 else None


@torch.inference_mode(False)
@torch.no_grad()
def ask(model: Model, batch: dict[str, Tensor], *, vector: Tensor | None = None) -> Questions:
    """Let a model answer for whole sets.

    Args:
        model: in evaluation mode.
        batch: as a tokenizer collates it; for a decoder with ``"target"``, what it wrote.
        vector: where each vector has an answer, which is asked for, prefix aside: ``(B,)``. Of a single graph any
            number ``(R,)``: each gets a set of its own, of the vectors that can reach it along edges.

    Raises:
        ConfigError: for a model in training mode, or one that cannot do without some of a set's vectors.
        ShapeError: for a vector where the answer is one per set, or none where it is one per vector.
    """
    require_evaluation(model)
    _require_holes(model)
    batch = ordinary(batch)
    vectors = model.embed(batch)
    if isinstance(model, EncoderDecoder):
        return Questions(vectors, batch["target"])
    if vector is not None and isinstance(vectors.structure, Edges) and len(vectors.x) == 1:
        vectors, vector = _neighbourhoods(model, vectors, vector)
    logits = logits_of(model, vectors)
    if (logits.ndim == 3) != (vector is not None) or (vector is not None and len(vector) != len(logits)):
        raise ShapeError(
            f"{type(model.head).__name__} answers {'per vector' if logits.ndim == 3 else 'per set'}: vector is "
            f"{'(B,), one number for each set' if logits.ndim == 3 else 'None'}"
        )
    rows = logits if vector is None else logits[torch.arange(len(logits)), vector]
    return Questions(vectors, model.head.labels(rows), vector)


@torch.no_grad()
def log_probability(model: Model, questions: Questions, keep: Tensor | None = None) -> Tensor:
    """Return the natural logarithm of the answers' probability ``(R,)``, of written text the mean over its tokens.

    Args:
        model: in evaluation mode.
        questions: see :func:`ask`.
        keep: bool ``(R, N)``; other vectors are taken out of the set, whose positions stay what they were.
    """
    vectors = questions.vectors
    if keep is not None:
        vectors = vectors.replace(mask=vectors.real & keep)
    if isinstance(model, EncoderDecoder):
        given, wanted = questions.answer[:, :-1], questions.answer[:, 1:]
        found = logits_of(model, vectors, given).double().log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
        real = wanted != PADDING
        return (found * real).sum(1) / real.sum(1).clamp(min=1)
    logits = logits_of(model, vectors)
    rows = torch.arange(len(logits), device=logits.device)
    logits = logits if questions.vector is None else logits[rows, questions.vector]
    return logits.double().log_softmax(-1)[rows, questions.answer]


def _require_holes(model: Model) -> None:
    if not isinstance(model.encoder, WITH_HOLES):
        names = ", ".join(kind.__name__ for kind in WITH_HOLES)
        raise ConfigError(
            f"{type(model.encoder).__name__} cannot do without vectors in the midst of a set; {names} can"
        )
    if isinstance(model.head, CrfHead):
        raise ConfigError("CrfHead finds all labels of a whole sequence together, which a hole would cut in two")


def _neighbourhoods(model: Model, vectors: VectorSet, nodes: Tensor) -> tuple[VectorSet, Tensor]:
    """Return for each node the vectors that reach it through all layers, as a set each, and its number there."""
    hops = _hops(model)
    size, edges = vectors.num_vectors, vectors.structure
    assert isinstance(edges, Edges)
    sets, places = [], []
    for node in nodes.tolist():
        reached = torch.ones(size, dtype=torch.bool) if hops is None else _within(edges, node, hops, size)
        keep = reached.nonzero()[:, 0]
        pos = None if vectors.pos is None else vectors.pos[:, keep]
        part = VectorSet(vectors.x[:, keep], pos=pos, structure=edges.select(0, keep, size))
        sets.append(part)
        places.append(int((keep == node).nonzero()))
    return VectorSet.from_list(sets), torch.tensor(places)


def _hops(model: Model) -> int | None:
    """Return over how many edges a vector can reach another, or None where layers leave the edges."""
    encoder = model.encoder
    if type(encoder) is not TransformerEncoder or encoder.prefix is not None:
        return None
    attentions = [block.attention for block in encoder.blocks]
    bound = all(not one.is_global and isinstance(one.structure, Full) for one in attentions)  # type: ignore[union-attr]
    return len(attentions) if bound else None


def _within(edges: Edges, node: int, hops: int, size: int) -> Tensor:
    key, query = edges.edge_index
    reached = torch.zeros(size, dtype=torch.bool)
    reached[node] = True
    for _ in range(hops):
        reached = reached.index_fill(0, key[reached[query]], True)
    return reached

"""The encoder-decoder: one set is encoded, and a decoder that looks at it writes a sequence of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vsattn.decoders import Decoder
from vsattn.encoders import Encoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.heads import TiedHead, VectorHead
from vsattn.model import Model
from vsattn.positions import Positions
from vsattn.tokenizers.text import PADDING
from vsattn.vectorset import VectorSet

if TYPE_CHECKING:
    from vsattn.tokenizers.text_pairs import TokenEmbedder


@dataclass(frozen=True, eq=False)
class WritingState:
    """Where writing stands: the decoder's own state, and how many tokens it was given."""

    decoder: Any
    length: int

    def select(self, rows: Tensor) -> WritingState:
        """Take sequences ``rows (n,)`` of the batch, in this order and as often as named."""
        return WritingState(self.decoder.select(rows), self.length)


class EncoderDecoder(Model):
    """``P(y_t | y_<t, x)``: a source is encoded once, a decoder attends to it for every token (Sutskever et al. 2014;
    Bahdanau et al. 2015; Vaswani et al. 2017).

    A batch has ``"source" (B, N)`` and, for training, ``"target" (B, M + 1)``, token ids that start with BOS and end
    with EOS; padding is 0 in both.

    Args:
        embedder: source ids to a set.
        encoder: a set to the memory, whose width is the decoder's ``memory_dim``.
        decoder: writes.
        head: a `VectorHead`, one answer per written vector; with a `TiedHead` the answers are scored by the rows of the
            target's embedding.
        target_embedder: target ids to a set.
        positions, target_positions: add position vectors to the one and the other, or None.
    """

    def __init__(
        self,
        embedder: TokenEmbedder,
        encoder: Encoder,
        decoder: Decoder,
        head: VectorHead,
        *,
        target_embedder: TokenEmbedder,
        positions: Positions | None = None,
        target_positions: Positions | None = None,
    ) -> None:
        if type(head) not in (VectorHead, TiedHead):
            raise ConfigError(
                f"a decoder needs one answer per written vector, not {type(head).__name__}: choose head=vector or "
                "head=tied"
            )
        super().__init__(embedder, encoder, head, positions=positions)
        self.decoder, self.target_embedder, self.target_positions = decoder, target_embedder, target_positions
        if isinstance(head, TiedHead):
            head.tie(target_embedder.table)

    def forward(self, batch: dict[str, Tensor], *, teacher_forcing: float = 1.0) -> Tensor:
        """Return logits ``(B, M, V)`` of the tokens 1 .. M of the target, each given those before it.

        Args:
            batch: with source and target.
            teacher_forcing: the probability that a step is given the true token before it; otherwise all sequences
                are given what the model itself would say (Bengio et al. 2015, "Scheduled sampling").

        Raises:
            ShapeError: without a target.
        """
        target, memory = self._inputs(batch), self.encode(batch)
        if teacher_forcing >= 1.0:
            return self.head(self.decoder(self._embedded(target), memory))
        state, given = WritingState(self.decoder.start(memory), 0), target[:, 0]
        logits = []
        for place in range(target.shape[1]):
            step, state = self._advance(given, state)
            logits.append(step)
            own = bool(torch.rand(()) >= teacher_forcing)
            if place + 1 < target.shape[1]:
                given = _likeliest(step) if own else target[:, place + 1]
        return torch.stack(logits, 1)

    def start(self, batch: dict[str, Tensor]) -> WritingState:
        """Encode the source and return the state before the first token."""
        return WritingState(self.decoder.start(self.encode(batch)), 0)

    def step(self, ids: Tensor, state: WritingState) -> tuple[Tensor, WritingState]:
        """Give each sequence its next token ``ids (R,)``; return ``log P (R, V)`` of the one after it, and a state."""
        logits, state = self._advance(ids, state)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        return exact.log_softmax(-1), state

    def attention(self, batch: dict[str, Tensor]) -> Tensor:
        """Return what each target token, when it was given, looked at: ``(B, L, H, M, N)`` over layers and heads.

        What prefix vectors of the memory are given is left out.
        """
        memory = self.encode(batch)
        return self.decoder.attention(self._embedded(self._inputs(batch)), memory)[..., memory.num_prefix :]

    def _advance(self, ids: Tensor, state: WritingState) -> tuple[Tensor, WritingState]:
        x = self.target_embedder.embed(ids[:, None])
        place = torch.full((1, 1, 1), state.length, device=ids.device)
        step = VectorSet(x, pos=place, layout="sequence")
        step = step if self.target_positions is None else self.target_positions(step)
        written, decoder = self.decoder.advance(step, state.decoder)
        return self.head(written)[:, 0], WritingState(decoder, state.length + 1)

    def _inputs(self, batch: dict[str, Tensor]) -> Tensor:
        if "target" not in batch:
            raise ShapeError("the batch has no target; start(batch) and step(ids, state) write without one")
        return batch["target"][:, :-1]

    def _embedded(self, target: Tensor) -> VectorSet:
        target_set = self.target_embedder({"target": target})
        return target_set if self.target_positions is None else self.target_positions(target_set)


def _likeliest(logits: Tensor) -> Tensor:
    """Return the token ``(B,)`` that each row would write; padding is none."""
    return logits.detach()[:, PADDING + 1 :].argmax(-1) + PADDING + 1

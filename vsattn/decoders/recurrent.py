"""The recurrent decoder with additive attention, and what it remembers between two steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

from vsattn.attention import KeyValue
from vsattn.attention.functional import make_case, run_case
from vsattn.attention.observing import Observable
from vsattn.decoders.base import Decoder
from vsattn.errors import ConfigError, ShapeError
from vsattn.scores import Additive
from vsattn.structure import Full
from vsattn.vectorset import VectorSet


@dataclass(frozen=True, eq=False)
class RecurrentState:
    """The hidden vectors ``(R, hidden_dim)``, and keys and values of the memory, of which W rows in a row share one."""

    hidden: Tensor
    memory: KeyValue

    def select(self, rows: Tensor) -> RecurrentState:
        """Take rows ``(n,)``, in this order and as often as named; ``(n, W)`` shares one memory in each line."""
        return RecurrentState(self.hidden[rows.flatten()], self.memory.of_rows(rows, len(self.hidden)))


class RecurrentDecoder(Decoder, Observable):
    """A GRU that looks at the memory before each step (Bahdanau et al. 2015, appendix A.2).

    ``s_0 = tanh(W_s [h->_N; h<-_1])``; ``c_i = sum_j a_ij h_j`` with ``a_i = softmax_j v.tanh(W_a s_(i-1) + U_a h_j)``;
    ``s_i = GRU([y_i; c_i], s_(i-1))``; the output is the greater of each two of ``W_o [s_i; c_i; y_i]`` (maxout), which
    A.2.2 gives s_(i-1) instead of s_i. A padded vector of the target leaves s as it is.

    Args:
        dim: D, of the target's vectors in and out.
        memory_dim: width of the memory, of which the first half was read from the left and the second from the right;
            None is ``dim``.
        hidden_dim: of s.
        attention_dim: of what is inside tanh; None is ``hidden_dim``.
        dropout: on the vectors in and out.
    """

    def __init__(
        self,
        dim: int,
        *,
        memory_dim: int | None = None,
        hidden_dim: int = 512,
        attention_dim: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        attention_dim = hidden_dim if attention_dim is None else attention_dim
        memory_dim = dim if memory_dim is None else memory_dim
        if hidden_dim < 1 or attention_dim < 1:
            raise ConfigError(
                f"RecurrentDecoder.hidden_dim and attention_dim are at least 1, not {hidden_dim} and {attention_dim}"
            )
        if memory_dim < 2 or memory_dim % 2:
            raise ConfigError(f"RecurrentDecoder.memory_dim is two halves, one from each end, not {memory_dim}")
        self.dim, self.memory_dim, self.hidden_dim = dim, memory_dim, hidden_dim
        self.first = nn.Linear(memory_dim, hidden_dim)
        self.query_proj = nn.Linear(hidden_dim, attention_dim)
        self.key_proj = nn.Linear(memory_dim, attention_dim, bias=False)
        self.num_heads, self.score = 1, Additive(1, attention_dim)
        self.cell = nn.GRUCell(dim + memory_dim, hidden_dim)
        self.output = nn.Linear(hidden_dim + memory_dim + dim, 2 * dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, target: VectorSet, memory: VectorSet) -> VectorSet:
        """Map the target ``(B, N, D)`` to ``(B, N, D)``, given the memory ``(B, M, memory_dim)``.

        Raises:
            ShapeError: for a target that is no sequence, or has prefix vectors or a structure of its own, or a memory
                of another width.
        """
        return self.advance(target, self.start(memory))[0]

    def start(self, memory: VectorSet) -> RecurrentState:
        """Make the first state of both ends of the memory, and project its keys, once."""
        if memory.x.shape[-1] != self.memory_dim:
            raise ShapeError(f"the memory has width {memory.x.shape[-1]}; this decoder was made for {self.memory_dim}")
        value = memory.x[:, None]  # (B, 1, M, memory_dim)
        key_set = memory.replace(x=memory.x[..., :0], structure=Full())
        return RecurrentState(
            self.first(_ends(memory)).tanh(), KeyValue(self.key_proj(memory.x)[:, None], value, key_set)
        )

    def advance(self, step: VectorSet, state: RecurrentState) -> tuple[VectorSet, RecurrentState]:
        """Map the next vectors ``(B, n, D)`` to ``(B, n, D)``, as :meth:`forward` would behind the earlier ones."""
        step = step.replace(x=self.dropout(step.x))
        _, contexts, hidden = self._read(step, state)
        last = hidden[:, -1] if step.num_vectors else state.hidden
        first, second = self.output(torch.cat([hidden, contexts, step.x], -1)).chunk(2, -1)
        output = step.replace(x=self.dropout(torch.maximum(first, second)))
        return output, RecurrentState(last, state.memory)

    def _read(self, step: VectorSet, state: RecurrentState) -> tuple[Tensor, Tensor, Tensor]:
        """Return the hidden vectors before each step, what each step read off the memory, and those after it."""
        self._check(step, state)
        hidden, cell = state.hidden, self.cell
        of_input = F.linear(step.x, cell.weight_ih[:, : self.dim], cell.bias_ih)  # (B, n, 3 hidden_dim), all at once
        to_gates = cell.weight_ih[:, self.dim :].to(of_input.dtype)  # under autocast once, not at every step
        before, contexts, after = [], [], []
        for i in range(step.num_vectors):
            context = self._context(hidden, state.memory)
            moved = _gru(
                of_input[:, i] + F.linear(context, to_gates), F.linear(hidden, cell.weight_hh, cell.bias_hh), hidden
            )
            before.append(hidden)
            contexts.append(context)
            hidden = moved if step.mask is None else torch.where(step.mask[:, i, None], moved, hidden)
            after.append(hidden)
        if not after:
            nothing = hidden[:, None, :][:, :0]
            return nothing, hidden.new_zeros(len(hidden), 0, self.memory_dim), nothing
        return torch.stack(before, 1), torch.stack(contexts, 1), torch.stack(after, 1)

    def _context(self, hidden: Tensor, memory: KeyValue) -> Tensor:
        """Return ``c (R, memory_dim)`` for ``s (R, hidden_dim)``; rows that share a memory are its queries."""
        samples = memory.key.shape[0]
        width = len(hidden) // max(1, samples)
        query = self.query_proj(hidden).view(samples, 1, width, self.score.head_dim)  # (S, 1, W, attention_dim)
        query_set = VectorSet(query[:, 0, :, :0])
        case = make_case(query, memory.key, memory.value, query_set, memory.key_set, None, self.score, None, 0.0)
        return run_case(case, module=self).reshape(len(hidden), self.memory_dim)

    def _check(self, step: VectorSet, state: RecurrentState) -> None:
        if step.layout != "sequence" or step.num_prefix or not isinstance(step.structure, Full):
            raise ShapeError(
                "RecurrentDecoder writes a sequence without prefix vectors and without a structure of its own; "
                f"this set is {step.layout!r} with {step.num_prefix} prefix vectors and {type(step.structure).__name__}"
            )
        if step.x.shape[0] != len(state.hidden) or step.x.shape[-1] != self.dim:
            raise ShapeError(
                f"a step of {tuple(step.x.shape)} does not go on from a state of {len(state.hidden)} samples of width "
                f"{self.dim}; state.select(rows) takes samples"
            )


def _gru(of_input: Tensor, of_hidden: Tensor, hidden: Tensor) -> Tensor:
    """Return the next hidden vectors, as `torch.nn.GRUCell`, of what its matrices give ``(R, 3 hidden_dim)``."""
    reset, update, new = of_input.chunk(3, -1)
    hidden_reset, hidden_update, hidden_new = of_hidden.chunk(3, -1)
    proposed = (new + (reset + hidden_reset).sigmoid() * hidden_new).tanh()
    return torch.lerp(proposed, hidden, (update + hidden_update).sigmoid())


def _ends(memory: VectorSet) -> Tensor:
    """Return ``[first half at the last real vector; second half at the first] (B, memory_dim)``, 0 without any."""
    x, half = memory.x, memory.x.shape[-1] // 2
    if not memory.num_vectors:
        return x.new_zeros(x.shape[0], 2 * half)
    if memory.mask is None:
        return torch.cat([x[:, -1, :half], x[:, 0, half:]], -1)
    place = torch.arange(memory.num_vectors, device=x.device)
    last, first = (place * memory.mask).argmax(1), memory.mask.int().argmax(1)
    sample = torch.arange(len(x), device=x.device)
    return torch.cat([x[sample, last, :half], x[sample, first, half:]], -1)


register_pytree_node(
    RecurrentState,
    lambda state: ([state.hidden, state.memory], None),
    lambda values, _: RecurrentState(*values),
    serialized_type_name="vsattn.RecurrentState",
)

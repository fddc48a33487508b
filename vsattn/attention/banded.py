"""The kernel for windows over long sequences: linear in N."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vsattn.attention.case import Case
from vsattn.attention.regroup import goes_by_place, placed, regrouped, small_dense
from vsattn.structure import Full
from vsattn.vectorset import VectorSet

#: Chunks of queries are this long at least; a shorter window does not pay for shorter ones.
MIN_CHUNK = 64
#: So many queries are computed at a time.
SLAB = 4096


def banded_refuses(case: Case) -> str | None:
    """Say why a case has no band, or return None."""
    structure, sets = case.structure, case.query_set
    left, right = structure.reach()
    if left is None or right is None:
        return f"{type(structure).__name__} has no limit on both sides; give Window(left, right)"
    if not goes_by_place(structure):
        return f"{type(structure).__name__} holds a mask or edges, which are not cut into a band"
    if not _counts_on(sets) or not (sets is case.key_set or (sets.pos is None and case.key_set.pos is None)):
        return "queries and keys have positions of their own; a band needs one sequence that counts on by 1"
    if not sets.layout == case.key_set.layout == "sequence" or sets.num_vectors != case.key_set.num_vectors:
        return "a band needs layout='sequence' and as many keys as queries"
    if sets.num_prefix != case.key_set.num_prefix:
        return "queries and keys have different prefix vectors"
    if case.adds("to_key") or case.adds("to_value"):
        return f"{type(case.relation).__name__} adds to keys or values"
    return None


def _counts_on(vectors: VectorSet) -> bool:
    """Tell whether positions follow each other by 1, so that places in the sequence say the same."""
    if vectors.pos is None:
        return True
    if torch.compiler.is_compiling():
        return False
    pos, mask = vectors.pos[:, vectors.num_prefix :, 0], vectors.mask
    follows = pos[:, 1:] - pos[:, :-1] == 1
    if mask is not None:
        real = mask[:, vectors.num_prefix :]
        follows = follows | ~(real[:, 1:] & real[:, :-1])
    return bool(follows.all())


def banded(case: Case) -> Tensor:
    """Let each chunk of queries attend to the keys it can reach; ``(B, H, N, dv)``.

    A chunk of C queries meets ``left + C + right`` keys (Beltagy et al. 2020, "Longformer", section 3.1), each chunk
    as one small dense set, under the same structure by position. Prefix vectors join every chunk's keys, and see all.
    Long sequences are computed in slabs, whose intermediate results a processor's cache can hold.
    """
    prefix, length = case.query_set.num_prefix, case.query_set.num_vectors - case.query_set.num_prefix
    left, right = case.structure.reach()
    assert left is not None and right is not None
    slab = length if torch.compiler.is_compiling() else max(SLAB, left, right)
    parts = [t[:, :, prefix:].transpose(1, 2) for t in (case.query, case.key, case.value)]  # (B, N, H, d)
    if torch.compiler.is_compiling() or length <= slab:
        output = _band(case, _Cutter(0, length, length, left, right), *parts)
    else:
        split = [part.split(slab, 1) for part in parts]  # (a split has a cheap gradient, overlapping slices have not)
        outputs = []
        for i, query in enumerate(split[0]):
            cutter = _Cutter(i * slab, i * slab + query.shape[1], length, left, right)
            outputs.append(_band(case, cutter, query, *(_with_neighbours(part, i, left, right) for part in split[1:])))
        output = torch.cat(outputs, 2)
    return torch.cat([_seeing_all(case, prefix), output], 2) if prefix else output


@dataclass(frozen=True)
class _Cutter:
    """Cuts the queries ``start .. stop`` of ``length`` into chunks, and what they reach into spans."""

    start: int
    stop: int
    length: int
    left: int
    right: int

    @property
    def chunk(self) -> int:
        reach = -(-(self.left + self.right) // (2 * MIN_CHUNK)) * MIN_CHUNK
        return max(MIN_CHUNK, reach)  # half as long as what they see beside

    @property
    def count(self) -> int:
        if torch.compiler.is_compiling():  # one too many for some lengths, so that all lengths share one graph
            return (self.stop - self.start) // self.chunk + 1
        return max(1, -(-(self.stop - self.start) // self.chunk))

    @property
    def span(self) -> int:
        return self.left + self.chunk + self.right

    def chunks(self, values: Tensor) -> Tensor:
        """Cut the queries' ``(B, stop - start, ...)`` into ``(B * count, chunk, ...)``."""
        after = self.count * self.chunk - (self.stop - self.start)
        return _padded(values, 0, after).unflatten(1, (self.count, self.chunk)).flatten(0, 1)

    def spans(self, values: Tensor) -> Tensor:
        """Cut what is in reach, ``(B, start - left .. stop + right, ...)``, into ``(B * count, span, ...)``."""
        before = self.left - min(self.left, self.start)
        after = (self.count - 1) * self.chunk + self.span - before - values.shape[1]
        return _padded(values, before, after).unfold(1, self.span, self.chunk).movedim(-1, 2).flatten(0, 1)

    def own(self, values: Tensor) -> Tensor:
        """Cut chunks out of a whole ``(B, length, ...)``."""
        return self.chunks(values[:, self.start : self.stop])

    def near(self, values: Tensor) -> Tensor:
        """Cut spans out of a whole ``(B, length, ...)``."""
        return self.spans(values[:, max(0, self.start - self.left) : self.stop + self.right])


def _band(case: Case, cut: _Cutter, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute the queries of one cutter, given what they reach, all ``(B, n, H, d)``; ``(B, H, n, dv)``."""
    prefix, batch = case.query_set.num_prefix, len(query)
    mask = case.key_set.mask
    real = query.new_ones(batch, prefix + cut.length, dtype=torch.bool) if mask is None else mask

    def after_prefix(first: Tensor, spans: Tensor) -> Tensor:
        """Put the prefix ``(B, prefix, ...)`` before each chunk's keys."""
        return torch.cat([first.repeat_interleave(cut.count, 0), spans], 1) if prefix else spans

    def near(values: Tensor) -> Tensor:
        return after_prefix(values[:, :prefix], cut.near(values[:, prefix:]))

    small_query = cut.chunks(query).transpose(1, 2)  # (B * count, H, chunk, d)
    small_key, small_value = (
        after_prefix(whole[:, :, :prefix].transpose(1, 2), cut.spans(part)).transpose(1, 2)
        for whole, part in ((case.key, key), (case.value, value))
    )
    place = torch.arange(-prefix, cut.span, device=query.device)[None, :, None]  # the same for every chunk
    first = prefix + cut.left
    small = dataclasses.replace(
        case,
        query=small_query,
        key=small_key,
        value=small_value,
        query_set=placed(small_query, None, place[:, first : first + cut.chunk]),
        key_set=placed(small_key, near(real), place, prefix),
        structure=regrouped(case.structure, lambda ids: cut.own(ids[:, prefix:]), near),
    )
    output = small_dense(small).transpose(1, 2)  # (B * count, chunk, H, dv)
    output = output.unflatten(0, (batch, cut.count)).flatten(1, 2)
    return output[:, : cut.stop - cut.start].transpose(1, 2)


def _with_neighbours(parts: Sequence[Tensor], i: int, left: int, right: int) -> Tensor:
    """Return a slab with the ends of the slabs beside it that its queries reach."""
    pieces = [parts[i]]
    if i and left:
        pieces.insert(0, parts[i - 1][:, -left:])
    if i + 1 < len(parts):
        pieces.append(parts[i + 1][:, :right])
    return torch.cat(pieces, 1)


def _padded(values: Tensor, before: int, after: int) -> Tensor:
    return F.pad(values, (*(0, 0) * (values.ndim - 2), before, after))


def _seeing_all(case: Case, prefix: int) -> Tensor:
    """Return the outputs of the prefix vectors, ``(B, H, prefix, dv)``."""
    query = case.query[:, :, :prefix]
    sets = placed(query, None, torch.zeros(1, prefix, 1, device=query.device))
    return small_dense(dataclasses.replace(case, query=query, query_set=sets, structure=Full(), relation=None))

"""Keys and values that were projected once, for decoding one vector at a time and for a memory read many times."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import register_pytree_node

from vsattn.errors import ShapeError
from vsattn.vectorset import VectorSet


@dataclass(frozen=True, eq=False)
class KeyValue:
    """What attention needs to know of the vectors it attends to.

    Args:
        key: projected ``(B, H, N, d)``, rotated if the attention rotates.
        value: projected ``(B, H, N, dv)``.
        key_set: their mask, positions and layout; its ``x`` is ``(B, N, 0)``.
    """

    key: Tensor
    value: Tensor
    key_set: VectorSet

    def append(self, other: KeyValue) -> KeyValue:
        """Put more vectors behind these; both need positions if either has them.

        Raises:
            ShapeError: for another batch size, other heads, or vectors that bring prefix vectors or no positions.
        """
        first, second = self.key_set, other.key_set
        if first.x.shape[0] != second.x.shape[0] or second.num_prefix:
            raise ShapeError(
                f"append takes vectors for the same {first.x.shape[0]} samples, without prefix; "
                f"these are for {second.x.shape[0]}, with {second.num_prefix} prefix vectors"
            )
        if self.key.shape[1::2] != other.key.shape[1::2] or self.value.shape[1::2] != other.value.shape[1::2]:
            shapes = [tuple(t.shape) for t in (self.key, self.value, other.key, other.value)]
            raise ShapeError(f"append takes keys and values of the same heads and widths, not {shapes}")
        if first.num_vectors and second.layout != "free" and second.pos is None:
            raise ShapeError(
                f"vectors that go on a {second.layout} need pos, where they stand in it; without it they start at 0"
            )
        batch, pos, mask = first.x.shape[0], None, None
        if not (first.layout == second.layout == "free" and first.pos is None and second.pos is None):
            places = [s.positions() for s in (first, second)]
            same = all(len(place) == 1 for place in places)
            pos = torch.cat([place if same else place.expand(batch, -1, -1) for place in places], dim=1)
        if first.mask is not None or second.mask is not None:
            mask = torch.cat([s.real for s in (first, second)], dim=1)
        x = torch.cat([first.x, second.x], dim=1)
        joined = first.replace(x=x, mask=mask, pos=pos, layout="free", grid=None)
        key, value = (torch.cat(two, dim=2) for two in ((self.key, other.key), (self.value, other.value)))
        return KeyValue(key, value, joined)

    def select(self, rows: Tensor) -> KeyValue:
        """Take samples ``rows (n,)`` of the batch, in this order and as often as named (beam search)."""
        kept = self.key_set
        mask = None if kept.mask is None else kept.mask[rows]
        pos = kept.pos if kept.pos is None or len(kept.pos) == 1 else kept.pos[rows]
        x = kept.x.new_empty(len(rows), kept.num_vectors, 0)
        chosen = kept.replace(x=x, mask=mask, pos=pos, layout=kept.layout, grid=kept.grid)
        return KeyValue(self.key.index_select(0, rows), self.value.index_select(0, rows), chosen)

    def contiguous(self) -> KeyValue:
        """Lay the numbers of each head side by side, for what is read many times: twice as fast."""
        return KeyValue(self.key.contiguous(), self.value.contiguous(), self.key_set)

    def of_rows(self, rows: Tensor, count: int) -> KeyValue:
        """Take the memory of rows of a search, where every ``count / B`` rows in a row read one sample of this.

        Args:
            rows: ``(n,)``, and each will have a memory of its own, or ``(n, W)``, and the W rows of a line, which come
                from one sample, go on to share it.
            count: how many rows there are now.
        """
        batch = self.key.shape[0]
        samples = (rows if rows.ndim == 1 else rows[:, 0]) // max(1, count // max(1, batch))
        if torch.equal(samples, torch.arange(batch, device=rows.device)):
            return self  # rows of one sample changed places: nothing to copy
        return self.select(samples)


register_pytree_node(
    KeyValue,
    lambda c: ([c.key, c.value, c.key_set], None),
    lambda values, _: KeyValue(*values),
    serialized_type_name="vsattn.KeyValue",
)

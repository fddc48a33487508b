"""What kind of looking each head does: how spread it is, how far it looks, how much it leaves at the first vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vsattn.errors import ShapeError
from vsattn.recording import Record
from vsattn.vectorset import VectorSet

#: By measure, a sum over queries and their number, ``(H,)`` each; None where the measure means nothing.
Sums = dict[str, tuple[Tensor, Tensor] | None]


def head_measures(record: Record, *more: Record) -> dict[str, Tensor | None]:
    """Measure the heads of one attention module over all real queries that see anything.

    Args:
        record: of a module, see :func:`vsattn.record`.
        more: other records of the same module, such as those of other batches.

    Returns:
        Of each head ``(H,)``, in float64: ``"entropy"`` ``-sum_j a_j log a_j`` in nats; ``"entropy_share"``, the same
        by its highest value, the logarithm of the number of keys whose weight is not 0, over queries with two keys and
        more; ``"distance"``, the mean of ``|pos_i - pos_j|`` under the weights, in index units of a sequence or cells
        of a grid, prefix vectors aside, and None for graphs, free sets and attention to another set; ``"sink"``, the
        weight of the prefix vectors, or without any of the first real vector. What no query tells is NaN.

    Raises:
        ShapeError: for records of different modules or heads.

    Source: of the distance, Dosovitskiy et al. 2021, section 4.5; of the sink, Xiao et al. 2024, "Efficient Streaming
    Language Models with Attention Sinks", section 3.1.
    """
    records = (record, *more)
    if len({(one.path, one.heads) for one in records}) > 1:
        raise ShapeError(f"these are records of different heads: {sorted({(r.path, r.heads) for r in records})}")
    return means([sums(one) for one in records])


def means(parts: Sequence[Sums]) -> dict[str, Tensor | None]:
    """Return the measures of :func:`head_measures` of what :func:`sums` returned for each record."""
    found: dict[str, Tensor | None] = {}
    for name in parts[0]:
        told = [pair for pair in (part[name] for part in parts) if pair is not None]
        total, count = (sum(values) for values in zip(*told)) if told else (0, 0)
        found[name] = total / count if isinstance(total, Tensor) else None
    return found


def sums(record: Record) -> Sums:
    """Return for each measure its sum over the queries of a record that tell it, and their number, ``(H,)`` each."""
    pairs = _Pairs(record)
    weights = record.weights.double()
    entropy, keys = pairs.summed(-torch.xlogy(weights, weights)), pairs.summed((weights > 0).double())
    real = pairs.of_queries(record.query_set.real) & (keys > 0)  # (B, n, H)
    several = real & (keys > 1)
    share = entropy / torch.where(several, keys, 2.0).log()
    found: Sums = {
        "entropy": _over(entropy, real),
        "entropy_share": _over(share, several),
        "distance": None,
        "sink": _over(pairs.summed(weights * pairs.of_keys(_sink(record.key_set))), real),
    }
    if record.kind == "self" and record.edges is None and record.query_set.layout in ("sequence", "grid"):
        placed = torch.arange(record.query_set.num_vectors) >= record.query_set.num_prefix
        places = record.query_set.positions().double()
        far = torch.cdist(places[:, record.queries], places)[:, None]  # (B|1, 1, n, N)
        inside = weights * placed
        mass = pairs.summed(inside)
        tells = real & pairs.of_queries(placed.expand(len(weights), -1)) & (mass > 0)
        found["distance"] = _over(pairs.summed(inside * far) / torch.where(mass > 0, mass, 1.0), tells)
    return found


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The pairs of a record's weights, ``(B, H, n, Nk)`` or along edges ``(E, H)``."""

    record: Record

    def summed(self, values: Tensor) -> Tensor:
        """Sum over the keys of each query: ``(B, n, H)``."""
        if self.record.edges is None:
            return values.sum(-1).transpose(1, 2)
        batch, size = self.record.query_set.x.shape[:2]
        rows = values.new_zeros(batch * size, values.shape[1]).index_add_(0, self.record.edges[1], values)
        return rows.view(batch, size, -1)[:, self.record.queries]

    def of_keys(self, marked: Tensor) -> Tensor:
        """Spread what is said of keys, ``(B, Nk)``, over the pairs."""
        if self.record.edges is None:
            return marked[:, None, None].double()
        return marked.flatten()[self.record.edges[0]][:, None].double()

    def of_queries(self, marked: Tensor) -> Tensor:
        """Return what is said of all vectors of the query set, ``(B, N)``, for those recorded, ``(B, n, 1)``."""
        return marked[:, self.record.queries, None]


def _sink(vectors: VectorSet) -> Tensor:
    """Return which vectors weights drain to, bool ``(B, N)``: the prefix, or the first real one."""
    if vectors.num_prefix:
        return (torch.arange(vectors.num_vectors) < vectors.num_prefix).expand(len(vectors.x), -1)
    mask = vectors.real
    return mask & (mask.long().cumsum(1) == 1)


def _over(values: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    told = told.expand_as(values)
    return values.masked_fill(~told, 0.0).sum((0, 1)), told.sum((0, 1)).double()

"""The recorder: what every head looks at, taken down while the model runs as it always does."""

from __future__ import annotations

import contextlib
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vsattn.attention.case import Case
from vsattn.attention.edges import edges_refuses
from vsattn.attention.observing import Call, observables, watching
from vsattn.attention.rows import EdgeWeights, RowWeights
from vsattn.errors import ConfigError, RecordingError
from vsattn.structure import Full
from vsattn.vectorset import VectorSet

Reduce = Literal["mean", "max", "min"]

#: The path of calls of `attend` that do not say which module makes them.
NAMELESS = "attend"

MEGABYTE = 2**20


@dataclass(frozen=True, eq=False)
class Record:
    """The weights of one call of attention.

    Args:
        path: of the module, as ``model.named_modules()`` has it.
        kind: ``"self"`` when queries and keys are the same set, else ``"cross"``, as also for the steps of a decoder,
            whose keys were kept from earlier steps.
        heads: the numbers of the heads that were recorded, in this order; of all that ``reduce`` put into one.
        queries: numbers ``(n,)`` of the recorded queries in their set.
        weights: on the CPU: ``(B, H, n, Nk)``, each row of which sums to 1 or is 0; along the edges of a graph
            ``(E, H)``; H is 1 when heads were reduced.
        query_set, key_set: mask, positions, layout, grid and prefix as attention saw them; ``x`` is ``(B, N, 0)``.
        edges: ``(2, E)``, row 0 the key and row 1 the query, indices into the flattened ``B * N``; None where there
            is no graph. The pairs of prefix vectors are among them, pairs that were not allowed are not.
    """

    path: str
    kind: Literal["self", "cross"]
    heads: tuple[int, ...]
    queries: Tensor
    weights: Tensor
    query_set: VectorSet
    key_set: VectorSet
    edges: Tensor | None = None
    _gradient: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def gradient(self) -> Tensor:
        """The gradient of what was last differentiated with respect to the weights, of their shape.

        It is of each head's weights; when heads were reduced it is the mean, maximum or minimum of their gradients.

        Raises:
            RecordingError: before ``backward``, or when it was not asked for.
        """
        if not self._gradient:
            raise RecordingError(
                f"{self.path} has no gradient: use record(model, gradients=True), outside torch.no_grad(), and call "
                "backward on something that depends on it"
            )
        return self._gradient[0]

    def dense(self) -> Tensor:
        """Return the weights as ``(B, H, n, Nk)``, 0 where there is no edge."""
        return self.weights if self.edges is None else self._spread(self.weights)

    def dense_gradient(self) -> Tensor:
        """Return the gradient as ``(B, H, n, Nk)``, 0 where there is no edge."""
        return self.gradient if self.edges is None else self._spread(self.gradient)

    def _spread(self, along: Tensor) -> Tensor:
        assert self.edges is not None
        batch, num_queries = self.query_set.x.shape[:2]
        (key, query), num_keys = self.edges, self.key_set.num_vectors
        row = torch.full((num_queries,), -1).scatter_(0, self.queries, torch.arange(len(self.queries)))
        dense = along.new_zeros(batch, len(self.queries), num_keys, along.shape[1])
        place = query // num_queries, row[query % num_queries], key % num_keys
        return dense.index_put(place, along).permute(0, 3, 1, 2)


class Recording:
    """What was recorded: every call of attention in its order, also found by the path of its module."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    @property
    def paths(self) -> list[str]:
        """The paths of what was recorded, in the order of their first calls."""
        return list(dict.fromkeys(record.path for record in self._records))

    def calls(self, path: str) -> list[Record]:
        """Return all calls of a module, such as the steps of a decoder, in order."""
        found = [record for record in self._records if record.path == path]
        if not found:
            raise RecordingError(f"{path} was not recorded; what was: {', '.join(self.paths) or 'nothing'}")
        return found

    def __getitem__(self, path: str) -> Record:
        """Return the only call of a module."""
        found = self.calls(path)
        if len(found) > 1:
            raise RecordingError(f"{path} was called {len(found)} times; use calls(path), or joined(path) for steps")
        return found[0]

    def joined(self, path: str) -> Tensor:
        """Return the weights of the steps of a decoder one below the other, ``(B, H, steps, Nk)``.

        Fewer keys, as early steps of self-attention have, are filled up with weights of 0.

        Raises:
            RecordingError: when the calls were not of the same samples and heads.
        """
        parts = [record.dense() for record in self.calls(path)]
        if len({part.shape[:2] for part in parts}) > 1:
            shapes = Counter(tuple(part.shape[:2]) for part in parts)
            raise RecordingError(f"{path} was called with other samples or heads (B, H) each time: {dict(shapes)}")
        widest = max(part.shape[-1] for part in parts)
        return torch.cat([nn.functional.pad(part, (0, widest - part.shape[-1])) for part in parts], dim=2)


@contextlib.contextmanager
def record(
    model: nn.Module,
    *,
    layers: Sequence[int | str] | None = None,
    heads: Sequence[int] | None = None,
    queries: Sequence[int] | slice | None = None,
    reduce: Reduce | None = None,
    budget_mb: float = 512.0,
    gradients: bool = False,
) -> Iterator[Recording]:
    """Record attention weights: ``with record(model) as recording: model(batch)``.

    The model computes what it always does, by the same kernels, so its outputs are the same to the last bit. Beside it
    the weights are computed once more, a few queries at a time, in single precision at least. Dropout is not in them.

    Args:
        model: whose modules are watched.
        layers: which of them: paths, patterns such as ``"encoder.*"``, or numbers in the order of the model; None is
            all.
        heads: which heads, from 0; None is all.
        queries: which vectors of the query set, prefix vectors first; None is all.
        reduce: put the recorded heads into one by their mean, maximum or minimum.
        budget_mb: most that all weights and what their computation needs may take, in MiB.
        gradients: also compute, in ``backward``, the gradient with respect to each weight, see :attr:`Record.gradient`.

    Raises:
        ConfigError: for layers, heads or queries that are not there, a compiled model, or one without attention.
        RecordingError: at the end when nothing was recorded; before weights are computed that pass the budget.
    """
    known = observables(model)
    if reduce not in (None, "mean", "max", "min"):
        raise ConfigError(f"reduce is 'mean', 'max', 'min' or None, not {reduce!r}")
    heads = heads if heads is None else _numbers("heads", heads)
    queries = queries if queries is None or isinstance(queries, slice) else _numbers("queries", queries)
    if not budget_mb > 0:
        raise ConfigError(f"budget_mb is above 0, not {budget_mb}")
    recording = Recording()
    paths = {known[path]: path for path in _chosen(list(known), layers)}
    recorder = _Recorder(recording, paths, layers is None, heads, queries, reduce, budget_mb, gradients)
    with watching(recorder, first=True):  # what the heads gave, before any of them is silenced
        yield recording
    if not len(recording):
        raise RecordingError(
            f"nothing was recorded: none of {', '.join(paths.values())} was called inside `with record(...)`, in the "
            "thread that it was entered in"
        )


def _chosen(paths: list[str], layers: Sequence[int | str] | None) -> list[str]:
    """Return the paths that are named, in the order of the model."""
    if layers is None:
        return paths
    found: set[str] = set()
    for layer in [layers] if isinstance(layers, (int, str)) else layers:
        if isinstance(layer, str):
            named = [path for path in paths if fnmatchcase(path, layer)]
        else:
            named = paths[layer : layer + 1] if 0 <= layer < len(paths) else []
        if not named:
            raise ConfigError(f"layers: there is no {layer!r}; numbers 0 to {len(paths) - 1} are: {', '.join(paths)}")
        found.update(named)
    if not found:
        raise ConfigError(f"layers names none; None is all of {', '.join(paths)}")
    return [path for path in paths if path in found]


def _numbers(name: str, given: Any) -> list[int]:
    """Return what was given, a tensor or range too, as a list of int."""
    try:
        numbers = given.tolist() if hasattr(given, "tolist") else list(given)
        if any(isinstance(number, bool) for number in numbers):
            raise TypeError
        return [operator.index(number) for number in numbers]
    except TypeError:
        raise ConfigError(f"{name} are whole numbers in a sequence, such as [0, 2], not {given!r}") from None


class _Recorder:
    """The observer behind :func:`record`."""

    def __init__(
        self,
        recording: Recording,
        paths: dict[nn.Module, str],
        nameless: bool,
        heads: list[int] | None,
        queries: list[int] | slice | None,
        reduce: Reduce | None,
        budget_mb: float,
        gradients: bool,
    ) -> None:
        self.recording, self.paths, self.nameless = recording, paths, nameless
        self.heads, self.queries, self.reduce, self.gradients = heads, queries, reduce, gradients
        self.budget_mb, self.left = budget_mb, budget_mb * MEGABYTE

    def see(self, call: Call, output: Tensor) -> Tensor:
        path = NAMELESS if call.module is None else self.paths.get(call.module)
        if path is None or (call.module is None and not self.nameless):
            return output
        case = call.case
        heads, queries = self._heads(path, case), self._queries(path, case)
        kind = RowWeights if edges_refuses(case) else EdgeWeights
        work = kind(call, heads, queries, self.reduce, limit=self.left, gradients=self.gradients)
        needed = work.num_bytes * (2 if self.gradients else 1)
        if needed + work.overhead > self.left:
            raise RecordingError(
                f"the weights of {path} need {(needed + work.overhead) / MEGABYTE:.1f} MiB, and "
                f"{max(0, self.left) / MEGABYTE:.1f} of budget_mb={self.budget_mb:g} are left: record fewer layers=, "
                "heads= or queries=, put heads into one by reduce='mean', or raise budget_mb"
            )
        self.left -= needed
        weights, edges = work.weights()
        gradient: list[Tensor] = []
        if self.gradients:
            self._follow(path, case, output, work, gradient)
        which: Literal["self", "cross"] = "self" if case.query_set is case.key_set else "cross"
        sets = _bare(case.query_set), _bare(case.key_set)
        found = Record(path, which, tuple(heads), queries, weights, *sets, edges, gradient)
        self.recording._records.append(found)
        return output

    def _follow(self, path: str, case: Case, output: Tensor, work: Any, gradient: list[Tensor]) -> None:
        """Have the gradient of the weights computed as soon as that of the heads' output is known."""
        if not output.requires_grad:
            raise RecordingError(f"{path}: gradients=True needs grad mode, and what requires gradients")
        if case.dropout:
            raise RecordingError(f"{path}: with dropout the weights in use are others: call model.eval() first")

        def hook(grad: Tensor) -> None:
            gradient.clear()  # first, so that there are never two
            gradient.append(work.gradient(grad))

        output.register_hook(hook)

    def _heads(self, path: str, case: Case) -> list[int]:
        count = case.query.shape[1]
        heads = list(range(count)) if self.heads is None else self.heads
        if not heads or not all(0 <= head < count for head in heads) or len(set(heads)) < len(heads):
            raise ConfigError(f"heads: {path} has heads 0 to {count - 1}, each of which is named once; not {heads}")
        return heads

    def _queries(self, path: str, case: Case) -> Tensor:
        every = torch.arange(case.query.shape[2])
        if self.queries is None:
            return every
        chosen = list(range(len(every))[self.queries]) if isinstance(self.queries, slice) else self.queries
        if not chosen or not all(0 <= query < len(every) for query in chosen) or len(set(chosen)) < len(chosen):
            raise ConfigError(
                f"queries: {path} has vectors 0 to {len(every) - 1}, each of which is named once; not {self.queries} "
                "(layers= chooses the layers they are recorded in)"
            )
        return torch.tensor(chosen, dtype=torch.long)


def _bare(vector_set: VectorSet) -> VectorSet:
    """Return a set without its vectors and its structure, on the CPU."""
    bare = vector_set.x.new_empty(*vector_set.x.shape[:2], 0)  # (a view would keep all vectors alive)
    return vector_set.replace(x=bare, structure=Full()).to("cpu")

"""Where a node stands in its graph: eigenvectors of the Laplacian, and return probabilities of a random walk."""

from __future__ import annotations

import hashlib
import threading

import torch
from torch import Tensor, nn

from vsattn.errors import ConfigError, ShapeError
from vsattn.positions.base import Positions
from vsattn.structure import Edges
from vsattn.vectorset import VectorSet

#: Components up to this many nodes are decomposed densely (0.3 s at the limit), larger ones by Lanczos iteration.
MAX_DENSE_NODES = 2048
#: Restarts of the Lanczos iteration before it is given up.
MAX_RESTARTS = 1000
#: Most multiplications (steps * edges * nodes) that the walks on one graph may take: some six minutes on one core.
MAX_WALK_WORK = 10**12
#: Numbers that a module keeps of graphs it has seen (128 MiB); the oldest graphs go first.
MAX_KEPT = 2**25
#: Held while what is kept changes, since several threads may answer with one model.
LOCK = threading.Lock()


class GraphPositions(Positions):
    """Base: ``features W`` for the features ``(n, F)`` of each node, which depend on the graph's edges alone.

    The graph is the one `Edges` in the set's structure, without edges of padded vectors; `edge_attr` is not read.
    Features are computed once for each graph (known again by its edges), on the CPU and without gradients;
    `torch.compile` leaves that part out, so ``fullgraph=True`` and export are refused.
    """

    def __init__(self, dim: int, num_features: int) -> None:
        super().__init__()
        self.proj = nn.Linear(num_features, dim, bias=False)  # no bias: a node without features gets no position
        self._kept: dict[bytes, Tensor] = {}
        self._kept_numbers = 0

    def describe(self, edge_index: Tensor) -> Tensor:
        """Return the features ``(n, F)`` of nodes ``0 .. n - 1`` of one graph; nodes from n on have none."""
        raise NotImplementedError(f"{type(self).__name__} must define describe(edge_index)")

    def features(self, vector_set: VectorSet) -> Tensor:
        """Return the features of all nodes of the batch, ``(B, N, F)``, zeros for padding and isolated nodes.

        Raises:
            ShapeError: when the set's structure does not hold one graph.
        """
        # A decorator would load the compiler together with this module.
        look_up = torch.compiler.disable(self._batch) if torch.compiler.is_compiling() else self._batch
        return look_up(vector_set).to(vector_set.x.device)

    def encode(self, vector_set: VectorSet) -> Tensor:
        return self.proj(self.features(vector_set).to(self.proj.weight.dtype))

    @torch.no_grad()
    def _batch(self, vector_set: VectorSet) -> Tensor:
        leaves = vector_set.structure.leaves()
        graphs = [leaf for leaf in leaves if isinstance(leaf, Edges)]
        if len(graphs) != 1:
            raise ShapeError(
                f"{type(self).__name__} describes nodes of a graph and needs one Edges in the set's structure, which "
                f"holds {[type(leaf).__name__ for leaf in leaves]}; use other positions for these vectors"
            )
        batch, count = vector_set.x.shape[:2]
        index = graphs[0].edge_list(vector_set, vector_set).edge_index.cpu()  # sorted: a graph has one form
        if vector_set.mask is not None:
            index = index[:, vector_set.mask.flatten().cpu()[index].all(0)]
        edges_of_each = (index[1] // count).bincount(minlength=batch).tolist()
        found = [self._known(edges) for edges in (index % count).split(edges_of_each, dim=1)]
        return torch.stack([nn.functional.pad(rows, (0, 0, 0, count - len(rows))) for rows in found])

    def _known(self, edge_index: Tensor) -> Tensor:
        key = hashlib.blake2b(edge_index.contiguous().numpy().data, digest_size=16).digest()
        found = self._kept.get(key)
        if found is None:
            found = self.describe(edge_index)
            with LOCK:
                self._kept_numbers += 0 if key in self._kept else found.numel()
                self._kept[key] = found
                while self._kept_numbers > MAX_KEPT and len(self._kept) > 1:
                    self._kept_numbers -= self._kept.pop(next(iter(self._kept))).numel()
        return found


class LaplacianEigenvectors(GraphPositions):
    """``[u_1 .. u_k] W`` with the eigenvectors u of ``I - D^-1/2 A D^-1/2`` that have the least eigenvalues above 0.

    A is symmetrised and without loops. Each connected component has eigenvectors of its own, so that
    a graph is told the same alone as beside others; where it has fewer than k, and for an isolated node, zeros stand.
    Eigenvectors have no sign: in training each is flipped with probability 1/2, in evaluation its largest entry
    is positive.

    Args:
        dim: D.
        num_eigenvectors: k.

    Raises:
        ShapeError: in use, when the set's structure does not hold one graph, or a component of more than
            ``MAX_DENSE_NODES`` nodes has eigenvalues too close to each other to be told apart.

    Source: Dwivedi and Bresson 2021, "A Generalization of Transformer Networks to Graphs", section 2.2.
    """

    def __init__(self, dim: int, *, num_eigenvectors: int) -> None:
        if num_eigenvectors < 1:
            raise ConfigError(f"LaplacianEigenvectors.num_eigenvectors is at least 1, not {num_eigenvectors}")
        super().__init__(dim, num_eigenvectors)
        self.num_eigenvectors = num_eigenvectors

    def features(self, vector_set: VectorSet) -> Tensor:
        table = super().features(vector_set)
        vectors, component = table[..., :-1], table[..., -1:].long()
        if not self.training:
            return vectors
        sign = 2 * torch.randint(0, 2, vectors.shape, device=vectors.device) - 1  # rows: at most N components
        return vectors * sign.gather(1, component.expand_as(vectors))

    def describe(self, edge_index: Tensor) -> Tensor:
        """Return ``(n, k + 1)``: the eigenvectors, and at the end the number of the node's component."""
        import numpy as np
        from scipy import sparse
        from scipy.sparse.csgraph import connected_components

        directed = _adjacency(edge_index[:, edge_index[0] != edge_index[1]])
        adjacency = directed.maximum(directed.T)
        scale = sparse.diags_array(1 / np.sqrt(np.maximum(adjacency.sum(0), 1)))
        number, component = connected_components(adjacency, directed=False)
        order, sizes = component.argsort(kind="stable"), np.bincount(component, minlength=number)
        walk = (scale @ adjacency @ scale).tocsr()[order][:, order]  # components are diagonal blocks now
        table = np.zeros((len(component), self.num_eigenvectors + 1), dtype=np.float32)
        table[:, -1] = component
        for end, size in zip(sizes.cumsum(), sizes):
            if size > 1:
                block = slice(end - size, end)
                vectors = _leading_eigenvectors(walk[block, block], min(self.num_eigenvectors, size - 1))
                table[order[block], : vectors.shape[1]] = vectors
        return torch.from_numpy(table)


class RandomWalk(GraphPositions):
    """``[P_ii, (P^2)_ii .. (P^K)_ii] W``: how probably a walk from node i is back after 1 .. K steps.

    ``P = D^-1 A`` goes along the edges, from row 0 of ``edge_index`` to row 1, loops included; an isolated node has
    zeros.

    Args:
        dim: D.
        num_steps: K.

    Raises:
        ShapeError: in use, when the set's structure does not hold one graph, or one whose walks take more than
            ``MAX_WALK_WORK`` multiplications.

    Source: Dwivedi et al. 2022, "Graph Neural Networks with Learnable Structural and Positional Representations",
    section 3.1.
    """

    def __init__(self, dim: int, *, num_steps: int) -> None:
        if num_steps < 1:
            raise ConfigError(f"RandomWalk.num_steps is at least 1, not {num_steps}")
        super().__init__(dim, num_steps)
        self.num_steps = num_steps

    def describe(self, edge_index: Tensor) -> Tensor:
        import numpy as np
        from scipy import sparse

        adjacency = _adjacency(edge_index)
        nodes = adjacency.shape[0]
        work = self.num_steps * edge_index.shape[1] * nodes
        if work > MAX_WALK_WORK:
            raise ShapeError(
                f"{self.num_steps} steps on {nodes} nodes and {edge_index.shape[1]} edges take {work:.1e} "
                f"multiplications, more than {MAX_WALK_WORK:.0e}; lower num_steps or use LaplacianEigenvectors"
            )
        step = (sparse.diags_array(1 / np.maximum(adjacency.sum(1), 1)) @ adjacency).tocsr()
        table = np.zeros((nodes, self.num_steps), dtype=np.float32)
        for start in range(0, nodes, 64):  # 64 columns of P^k at a time stay within a processor's cache
            own = np.arange(start, min(start + 64, nodes))
            columns = step[:, own].toarray()  # (n, 64)
            for k in range(self.num_steps):
                columns = step @ columns if k else columns
                table[own, k] = columns[own, own - start]
        return torch.from_numpy(table)


def _adjacency(edge_index: Tensor):  # type: ignore[no-untyped-def]  # scipy is imported only where it is used
    """Return the ``(n, n)`` adjacency matrix, rows are sources, in float64; n is one more than the largest index."""
    import numpy as np
    from scipy import sparse

    nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
    return sparse.coo_array((np.ones(edge_index.shape[1]), tuple(edge_index.numpy())), shape=(nodes, nodes)).tocsr()


def _leading_eigenvectors(walk, count: int):  # type: ignore[no-untyped-def]
    """Return ``(n, count)``: eigenvectors of the greatest eigenvalues of ``D^-1/2 A D^-1/2`` but the first."""
    import numpy as np
    from scipy.linalg import eigh
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    nodes = walk.shape[0]
    if nodes <= MAX_DENSE_NODES:
        vectors = eigh(np.eye(nodes) - walk.toarray(), subset_by_index=[1, count])[1]
    else:
        start = np.random.default_rng(0).standard_normal(nodes)  # the same eigenvectors in every run
        width = min(max(64, 4 * (count + 1)), nodes)
        try:
            values, vectors = eigsh(walk, count + 1, which="LA", v0=start, ncv=width, maxiter=MAX_RESTARTS)
        except ArpackNoConvergence as error:
            raise ShapeError(
                f"{count} eigenvectors of a graph of {nodes} nodes were not found in {MAX_RESTARTS} restarts: its "
                "eigenvalues lie too close together (a long chain?); ask for fewer, or use RandomWalk"
            ) from error
        vectors = vectors[:, (-values).argsort()[1:]]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], 0)
    return vectors * np.where(largest < 0, -1.0, 1.0)

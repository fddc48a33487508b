"""Sets that are the nodes of a graph: which of them are shown, and where they are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vsattn.viewing.sets import Shown

#: A larger graph is shown as the neighbourhood of one node.
MOST_NODES = 500


def graph_set(shown: Shown) -> dict[str, Any]:
    """Describe the nodes of a graph, or of a part of it: names, classes, who attends to whom, places in a picture."""
    index, count = shown.edge_index, shown.num_vectors
    assert index is not None, "the embedder of nodes makes edges"
    names = [str(name) for name in shown.names or range(count)]
    nodes = np.arange(count) if shown.kept is None else shown.kept
    place = np.full(count, -1)
    place[nodes] = np.arange(len(nodes))
    edges = place[index[:, (place[index] >= 0).all(0)]]
    classes = None if shown.classes is None else [str(shown.classes[node]) for node in nodes.tolist()]
    own = {"xy": layout(len(nodes), edges), "edges": edges.T.tolist(), "classes": classes}
    return {"kind": "graph", "labels": [names[node] for node in nodes], **own}


def neighbourhood(index: np.ndarray, count: int, node: int, hops: int, most: int = MOST_NODES) -> np.ndarray:
    """Return which nodes lie at most so many steps from one, ascending: what its answer can depend on.

    Args:
        index: ``(2, E)``, row 0 the key and row 1 the query, who looks at the key.
        count: N.
        node: from which the steps go, from queries to their keys.
        hops: how many.
        most: nearer ones, and of those as far the ones with lower numbers, are kept first.
    """
    near = np.zeros(count, bool)
    near[node] = True
    found = [np.array([node])]
    for _ in range(hops):
        reached = np.zeros(count, bool)
        reached[index[0, near[index[1]]]] = True
        found.append(np.flatnonzero(reached & ~near))
        near |= reached
    return np.sort(np.concatenate(found)[:most])


def layout(count: int, edges: np.ndarray) -> list[list[float]]:
    """Return places in ``[0, 1] x [0, 1]`` by springs along edges ``(2, E)`` (Fruchterman and Reingold 1991)."""
    import networkx

    graph = networkx.Graph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(edge for edge in edges.T.tolist() if edge[0] != edge[1])
    found = networkx.spring_layout(graph, seed=0, iterations=100)
    places = np.array([found[node] for node in range(count)])
    low, high = places.min(0), places.max(0)
    scaled = np.where(high > low, (places - low) / np.where(high > low, high - low, 1), 0.5)
    return [[round(float(x), 4), round(float(y), 4)] for x, y in scaled]

// Which nodes and edges of a graph are drawn: the neighbourhood of the chosen node, and at most so many in full.

const GRAPH_FULL = 500;   // so many nodes are drawn with shape, label and focus
const GRAPH_NEAR = 120;   // of more, those nearest to the chosen one, and the others as dots
const GRAPH_LINES = 2000; // weights drawn as lines when those of all nodes are asked for
const WHOLE = 1e9; // a limit that no side of a matrix passes
const GRAPH_HOPS = ['0', '1', '2', '3', 'all'];

const GRAPH_NEIGHBOURS = new Map();

/** The neighbours of each vector of a set, whichever way the edge points; loops are left out. */
function graphNeighbours(set) {
  if (!GRAPH_NEIGHBOURS.has(set)) {
    const lists = set.labels.map(() => new Set());
    for (const [key, query] of set.edges) {
      if (key === query) continue;
      lists[key].add(query);
      lists[query].add(key);
    }
    GRAPH_NEIGHBOURS.set(set, lists);
  }
  return GRAPH_NEIGHBOURS.get(set);
}

/** Steps from a node to each node within so many hops, nearest first. */
function graphSteps(set, from, most) {
  const neighbours = graphNeighbours(set), steps = new Map([[from, 0]]);
  for (const [node, step] of steps) { // a Map gives what is added while it is read
    if (step >= most) continue;
    for (const next of neighbours[node]) if (!steps.has(next)) steps.set(next, step + 1);
  }
  return steps;
}

/** The nodes to show: {shown, full, dots}, numbers of vectors; `query` is null where no node is chosen. */
function graphShown(set, query, hops, weights) {
  const nodes = set.xy.map((_, i) => i + set.num_prefix);
  const steps = query === null ? new Map() : graphSteps(set, query, hops === 'all' ? Infinity : Number(hops));
  const shown = query === null || hops === 'all' ? nodes : nodes.filter((node) => steps.has(node));
  if (shown.length <= GRAPH_FULL) return { shown, full: shown, dots: [] };
  const strength = (node) => (weights ? Math.abs(weights.values[node]) : 0);
  const far = (node) => (steps.has(node) ? steps.get(node) : Infinity);
  const nearer = (a, b) => (far(a) === far(b) ? 0 : far(a) - far(b)); // infinite ones are alike
  const order = [...shown].sort((a, b) => nearer(a, b) || strength(b) - strength(a) || a - b);
  const full = new Set(order.slice(0, GRAPH_NEAR));
  return { shown, full: shown.filter((node) => full.has(node)), dots: shown.filter((node) => !full.has(node)) };
}

/** The chosen vector's weights as edges [key, query, weight] between places; `role` says which end the others are. */
function graphQueryEdges(nodes, query, weights) {
  return nodes.filter((node) => node !== query && weights.values[node] !== 0)
    .map((node) => (weights.role === 'key' ? [node, query, weights.values[node]] : [query, node, weights.values[node]]));
}

/** The strongest weights of a whole map, as edges between different nodes. */
function graphMapEdges(view, set) {
  const list = view.edges(), edges = [], prefix = set.num_prefix;
  if (list) list.weights.forEach((weight, e) => edges.push([list.key[e], list.query[e], weight]));
  else {
    const map = view.map(), whole = view.matrix(map, view.head, WHOLE);
    whole.values.forEach((weight, i) => {
      if (whole.step[0] > 1 || whole.step[1] > 1) return; // means of blocks have no nodes of their own
      const line = Math.floor(i / whole.columns);
      edges.push([i % whole.columns, map.queries ? map.queries[line] : line, weight]);
    });
  }
  return edges.filter(([key, query, weight]) => key !== query && key >= prefix && query >= prefix && weight !== 0)
    .sort((a, b) => Math.abs(b[2]) - Math.abs(a[2])).slice(0, GRAPH_LINES);
}

// A graph: its nodes where they were laid out, and over its edges the weights, by width and opacity.

const GRAPH_MARGIN = 26;

const graphCount = (n, word) => `${Number(n).toLocaleString('en')} ${word}${Number(n) === 1 ? '' : 's'}`;

/** The choices above the graph: how far from the chosen node, and whether the weights of all nodes are drawn. */
function graphTools(view, setName) {
  const list = make('select', { onchange: () => view.change({ hops: list.value }) },
    ...GRAPH_HOPS.map((hops) => make('option', { value: hops }, hops === 'all' ? 'all nodes' : graphCount(hops, 'hop'))));
  const scale = svgNode('svg', { height: 34, width: 250, 'aria-hidden': 'true', class: 'scale' });
  const drawing = () => {
    const weights = view.weights(setName);
    return weights ? graphScale(view, weights) : { node: svgNode('g'), height: 0 };
  };
  function update() {
    list.value = graphHops(view);
    scale.replaceChildren(drawing().node);
  }
  return { element: make('div', { class: 'dials' }, make('label', {}, 'Neighbourhood', list), scale), update, drawing };
}

const graphHops = (view) => (GRAPH_HOPS.includes(String(view.state.hops)) ? String(view.state.hops) : 'all');

/** Where the graph is looked at: `place` puts a node's xy on the screen, `zoom`, `move` and `fit` change it. */
function graphLens(set) {
  const lens = { size: [640, 420], factor: 1, shift: [0, 0] };
  const xy = (node) => set.xy[node - set.num_prefix]
    .map((part, i) => GRAPH_MARGIN + part * (lens.size[i] - 2 * GRAPH_MARGIN));
  lens.place = (node) => xy(node).map((part, i) => part * lens.factor + lens.shift[i]);
  lens.move = (dx, dy) => { lens.shift = [lens.shift[0] + dx, lens.shift[1] + dy]; };
  lens.zoom = (by, [x, y] = [lens.size[0] / 2, lens.size[1] / 2]) => {
    const factor = Math.min(Math.max(lens.factor * by, 0.5), 60), ratio = factor / lens.factor;
    lens.shift = [x - (x - lens.shift[0]) * ratio, y - (y - lens.shift[1]) * ratio];
    lens.factor = factor;
  };
  lens.fit = (nodes) => {
    const places = nodes.map(xy);
    const most = (pick, i) => places.reduce((found, place) => pick(found, place[i]), places[0][i]);
    const [low, high] = [Math.min, Math.max].map((pick) => [most(pick, 0), most(pick, 1)]);
    const inner = lens.size.map((side) => side - 2 * GRAPH_MARGIN);
    lens.factor = Math.min(60, ...[0, 1].map((i) => inner[i] / Math.max(high[i] - low[i], 1e-9)));
    if (high[0] - low[0] < 1 && high[1] - low[1] < 1) lens.factor = 1; // one node, or all in one place
    lens.shift = [0, 1].map((i) => lens.size[i] / 2 - (lens.factor * (low[i] + high[i])) / 2);
  };
  return lens;
}

/** Under the nodes drawn in full: all edges between shown nodes as one faint path, and the other nodes as dots. */
function graphGround(set, lens, signs, { shown, dots }) {
  const seen = new Set(shown), point = (node) => lens.place(node).map((part) => part.toFixed(1)).join(' ');
  const lines = set.edges.filter(([key, query]) => key !== query && seen.has(key) && seen.has(query))
    .map(([key, query]) => `M${point(key)}L${point(query)}`);
  const faint = svgNode('path', { d: lines.join('') || null, stroke: 'currentColor', fill: 'none',
    'stroke-opacity': lines.length > 2000 ? 0.12 : 0.3 });
  const byColour = new Map();
  for (const node of dots) {
    const { colour } = graphSign(signs, set, node);
    byColour.set(colour, `${byColour.get(colour) || ''}M${point(node)}h0`); // a round line of no length is a dot
  }
  const rest = [...byColour].map(([colour, d]) =>
    svgNode('path', { d, stroke: colour, 'stroke-width': 3.5, 'stroke-linecap': 'round' }));
  return svgNode('g', { class: 'ground' }, faint, ...rest);
}

/** The weights as lines, the strongest last; dashed where the graph itself has no such edge. */
function graphWeights(view, set, lens, edges, max, signed, radius) {
  const own = graphNeighbours(set);
  return [...edges].sort((a, b) => Math.abs(a[2]) - Math.abs(b[2])).map(([key, query, weight]) => {
    const part = Math.abs(scaled(weight, max, view.state.scale));
    const arrow = graphArrow(lens.place(key), lens.place(query), part, radius, {
      colour: css(svgHue(weight, signed)), dashed: !own[key].has(query),
    });
    return svgSet(arrow, { class: 'weight', 'data-key': key, 'data-query': query, 'data-weight': weight });
  });
}

/** Rings round the nodes for the weights that have no line: of the node itself, and where the query has no place. */
function graphHalos(view, lens, nodes, weights, radius) {
  return nodes.filter((node) => weights.values[node] !== 0).map((node) => {
    const part = svgPart(view, weights.values[node], weights), [x, y] = lens.place(node);
    return svgNode('circle', { cx: x, cy: y, r: radius + 2 + 2 * part, fill: 'none', class: 'weight', 'data-key': node,
      stroke: css(svgHue(weights.values[node], weights.signed)),
      'stroke-width': (1 + 5 * part).toFixed(2), opacity: (0.15 + 0.85 * part).toFixed(3) });
  });
}

/** What is shown, and how much weight lies on nodes that are not. */
function graphSummary(view, set, { shown, full, dots }, query, weights, dashed) {
  const hops = graphHops(view), total = set.xy.length;
  const parts = [`${graphCount(total, 'node')}, ${graphCount(set.edges.length, 'directed edge')}.`];
  if (shown.length < total) {
    parts.push(`Shown: ${graphCount(shown.length, 'node')} within ${graphCount(hops, 'hop')} of ${set.labels[query]}.`);
  } else if (hops !== 'all' && query === null) parts.push('No node is chosen, so all are shown.');
  if (dots.length) {
    parts.push(`${full.length} are drawn in full, nearest the chosen node and strongest first; the others are dots, `
      + 'to be clicked.');
  }
  if (weights && shown.length < total) {
    const seen = new Set(shown);
    const hidden = set.xy.map((_, i) => i + set.num_prefix)
      .filter((node) => !seen.has(node) && weights.values[node] !== 0);
    const lost = hidden.reduce((sum, node) => sum + Math.abs(weights.values[node]), 0);
    const what = `${lost.toFixed(4)} of the ${weights.signed ? 'differences' : 'weight'}`;
    if (hidden.length) parts.push(`${graphCount(hidden.length, 'node')} not shown ${hidden.length === 1 ? 'has' : 'have'} ${what}.`);
  }
  if (dashed) parts.push('Dashed lines: weights where the graph has no edge.');
  return parts.join(' ');
}

/** The chosen vector if it is a node with a place, else null. */
function graphCentre(view, setName, set) {
  const query = svgQuery(view, setName);
  return query !== null && query >= set.num_prefix ? query : null;
}

/** The picture at a lens: {svg, options: [[number of the vector, element]]}. */
function graphPicture(view, setName, set, lens, nodes, every) {
  const weights = view.weights(setName), query = svgQuery(view, setName), centre = graphCentre(view, setName, set);
  const signs = graphSigns(set), seen = new Set(nodes.shown);
  const radius = nodes.dots.length ? 5 : nodes.full.length <= 60 ? 9 : nodes.full.length <= 200 ? 6.5 : 5;
  const edges = every ? every.filter(([key, other]) => seen.has(key) && seen.has(other))
    : weights && centre !== null ? graphQueryEdges(nodes.shown, centre, weights) : [];
  const max = every ? edges.reduce((most, edge) => Math.max(most, Math.abs(edge[2])), 0) : weights ? weights.max : 0;
  const signed = view.name === 'difference';
  const ringed = !weights || every ? [] : centre === null ? nodes.full : nodes.full.includes(centre) ? [centre] : [];
  const options = nodes.full.map((node) => {
    const sign = graphSign(signs, set, node), [x, y] = lens.place(node);
    return [node, svgNode('path', { role: 'option', tabindex: -1, class: 'node', 'data-index': node, fill: sign.colour,
      d: graphShape(sign.shape, x, y, radius), stroke: 'currentColor', 'stroke-width': node === query ? 3.5 : 1 })];
  });
  const rank = (node) => (node === query ? Infinity : weights ? Math.abs(weights.values[node]) : 0);
  const room = nodes.dots.length ? 25 : Math.round((lens.size[0] * lens.size[1]) / 4000);
  const first = [...nodes.full].sort((a, b) => rank(b) - rank(a) || a - b).slice(0, room);
  const labels = graphLabels(first.map((node) => {
    const [x, y] = lens.place(node);
    return { words: svgShort(set.labels[node], 18), x, y, bold: node === query };
  }), radius, lens.size);
  const [wide, high] = lens.size;
  const svg = svgNode('svg', { viewBox: `0 0 ${wide} ${high}`, width: wide, height: high, role: 'none', class: 'graph' },
    graphGround(set, lens, signs, nodes), ...graphWeights(view, set, lens, edges, max, signed, radius),
    ...(weights ? graphHalos(view, lens, ringed, weights, radius) : []), ...options.map(([, node]) => node), ...labels);
  const own = graphNeighbours(set), dashed = edges.some(([key, other]) => !own[key].has(other));
  return { svg, options, signs, summary: graphSummary(view, set, nodes, query, weights, dashed) };
}

/** Buttons for those who have no wheel, and the wheel and the hand for those who have. */
function graphHandles(holder, lens, redraw, home) {
  const act = (change) => () => { change(); redraw(); };
  const button = (sign, name, change) =>
    make('button', { type: 'button', 'aria-label': name, title: name, onclick: act(change) }, sign);
  const bar = make('div', { class: 'lens', role: 'group', 'aria-label': 'Part of the graph' },
    button('+', 'Nearer', () => lens.zoom(1.5)), button('−', 'Farther', () => lens.zoom(1 / 1.5)),
    button('←', 'To the left', () => lens.move(80, 0)), button('→', 'To the right', () => lens.move(-80, 0)),
    button('↑', 'Up', () => lens.move(0, 80)), button('↓', 'Down', () => lens.move(0, -80)),
    button('whole', 'All that is shown', home));
  const where = (event) => {
    const frame = holder.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  // The wheel alone scrolls the page; it zooms with Ctrl, or when the focus is in the graph.
  holder.addEventListener('wheel', (event) => {
    if (!event.ctrlKey && !holder.contains(document.activeElement)) return;
    event.preventDefault();
    lens.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, where(event));
    redraw();
  }, { passive: false });
  let from = null, dragged = false;
  holder.addEventListener('pointerdown', (event) => {
    if (event.pointerType !== 'touch' && event.button === 0) from = where(event);
    dragged = false;
  });
  holder.addEventListener('pointermove', (event) => {
    if (!from || !(event.buttons & 1)) return;
    const to = where(event);
    if (!dragged && Math.hypot(to[0] - from[0], to[1] - from[1]) < 4) return;
    dragged = true;
    lens.move(to[0] - from[0], to[1] - from[1]);
    from = to;
    redraw();
  });
  window.addEventListener('pointerup', () => { from = null; });
  // The click that ends a drag chooses nothing.
  holder.addEventListener('click', (event) => {
    if (dragged) event.stopPropagation();
    dragged = false;
  }, true);
  return { bar, where };
}

function graphSide(view, setName, set, point) {
  const lens = graphLens(set), chips = svgChips(view, setName, set), prefix = set.num_prefix;
  const holder = make('div', { role: 'none', class: 'plane' });
  const list = make('div', { role: 'listbox', class: 'options', 'aria-label': graphCount(set.xy.length, 'node') },
    chips.element, holder);
  const summary = make('p', { class: 'quiet' });
  const all = make('input', { type: 'checkbox', onchange: () => redraw() });
  const every = make('label', { class: 'every' }, all, ' weights of all nodes');
  let picture = null, options = [], nodes = null, fitted = null, rebuilding = false;

  const words = (i) => svgWords(set, i, view.weights(setName), i < prefix || !set.classes ? '' : set.classes[i - prefix]);
  const elements = () => options.map(([, element]) => element);
  const tell = (at) => { if (!rebuilding) point(at === null ? null : options[at][0]); };
  svgRoving(list, { options: elements, point: tell, enter: (at) => view.choose(setName, options[at][0]) });
  const handles = graphHandles(holder, lens, () => redraw(), () => lens.fit(nodes.shown));

  function redraw() {
    const focused = elements().indexOf(document.activeElement), at = focused < 0 ? null : options[focused][0];
    rebuilding = true; // the focus goes and comes back: not worth telling
    picture = graphPicture(view, setName, set, lens, nodes, all.checked ? graphMapEdges(view, set) : null);
    options = [...chips.chips.map((chip, i) => [i, chip]), ...picture.options];
    holder.replaceChildren(picture.svg);
    const query = options.findIndex(([index]) => index === svgQuery(view, setName));
    svgState(elements(), query < 0 ? null : query, (i) => words(options[i][0]));
    const again = options.find(([index]) => index === at);
    if (again) again[1].focus({ preventScroll: true });
    rebuilding = false;
    summary.textContent = picture.summary;
  }
  function update() {
    const map = view.map(), own = map && map.query === setName && map.key === setName;
    every.hidden = !own;
    all.checked = all.checked && own;
    chips.update(view.weights(setName));
    nodes = graphShown(set, graphCentre(view, setName, set), graphHops(view), view.weights(setName));
    // Another neighbourhood is looked at as a whole; a change of head or scale leaves the eye where it is.
    const now = nodes.shown.length === set.xy.length ? 'all' : nodes.shown.join();
    if (now !== fitted) lens.fit(nodes.shown);
    fitted = now;
    redraw();
  }
  // A click beside the nodes drawn in full chooses the nearest, which may be a dot.
  holder.addEventListener('click', (event) => {
    if (event.target.closest('[role=option]')) return;
    const [x, y] = handles.where(event);
    const far = (node) => Math.hypot(lens.place(node)[0] - x, lens.place(node)[1] - y);
    const nearest = nodes.shown.reduce((best, node) => (far(node) < far(best) ? node : best), nodes.shown[0]);
    if (far(nearest) < 14) view.choose(setName, nearest);
  });
  new ResizeObserver(([entry]) => {
    const width = Math.floor(Math.min(Math.max(entry.contentRect.width, 240), 900));
    if (!entry.contentRect.width || lens.size[0] === width) return;
    lens.size = [width, Math.round(Math.min(Math.max(width * 0.75, 300), 480))];
    if (!nodes) return;
    lens.fit(nodes.shown);
    redraw();
  }).observe(list);

  function drawing() {
    const above = chips.drawing(view.weights(setName)), [width, height] = lens.size;
    const copy = svgSet(svgCopy(picture.svg), { y: above.height });
    const below = set.classes ? graphLegend(picture.signs, width) : { node: svgNode('g'), height: 0 };
    svgSet(below.node, { transform: `translate(0 ${above.height + height + 6})` });
    return { node: svgNode('g', {}, above.node, copy, below.node), width: Math.max(width, above.width),
      height: above.height + height + 6 + below.height };
  }
  function hover(index) {
    for (const [i, element] of options) element.classList.toggle('pointed', i === index);
  }
  const key = make('p', { class: 'signs' }, ...(set.classes ? graphKey(graphSigns(set)) : []));
  return { element: make('div', {}, handles.bar, list, key, every, summary), update, words, drawing, hover };
}

PANELS.graph = svgPanel('xy', graphSide, graphTools);

// The signs of a graph's classes: a shape and a colour each, so that neither is needed to tell them apart.

// Okabe and Ito's colours, without the vermilion that is the weights' own.
const GRAPH_COLOURS = ['#56b4e9', '#f0e442', '#009e73', '#cc79a7', '#0072b2', '#e69f00', '#999999'];

const GRAPH_SIDES = {
  square: [4, Math.PI / 4], triangle: [3, -Math.PI / 2], diamond: [4, 0], pentagon: [5, -Math.PI / 2], hexagon: [6, 0],
};
const GRAPH_SHAPES = ['circle', 'square', 'triangle', 'diamond', 'star', 'hexagon', 'cross', 'pentagon'];

function graphPolygon(x, y, points) {
  return points.map(([angle, r], i) =>
    `${i ? 'L' : 'M'}${(x + r * Math.cos(angle)).toFixed(2)} ${(y + r * Math.sin(angle)).toFixed(2)}`).join('') + 'Z';
}

/** The outline of a shape of about the area of a circle of radius r. */
function graphShape(shape, x, y, r) {
  if (shape === 'circle') return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
  if (shape === 'cross') {
    const a = r * 0.42, b = r * 1.15;
    const c = b - a;
    return `M${x - a} ${y - b}h${2 * a}v${c}h${c}v${2 * a}h${-c}v${c}h${-2 * a}v${-c}h${-c}v${-2 * a}h${c}Z`;
  }
  if (shape === 'star') {
    const corners = Array.from({ length: 10 }, (_, i) => [(i * Math.PI) / 5 - Math.PI / 2, i % 2 ? 0.6 * r : 1.4 * r]);
    return graphPolygon(x, y, corners);
  }
  const [count, turn] = GRAPH_SIDES[shape], size = { 3: 1.45, 4: 1.25 }[count] || 1.1;
  return graphPolygon(x, y, Array.from({ length: count }, (_, i) => [turn + (i * 2 * Math.PI) / count, size * r]));
}

/** Class names in order, each with its sign; a graph without classes has one sign. */
function graphSigns(set) {
  const order = (a, b) => a.localeCompare(b, 'en', { numeric: true });
  const names = set.classes ? [...new Set(set.classes)].sort(order) : [''];
  return new Map(names.map((name, i) => [name, {
    shape: GRAPH_SHAPES[i % GRAPH_SHAPES.length], colour: GRAPH_COLOURS[i % GRAPH_COLOURS.length],
  }]));
}

const graphSign = (signs, set, node) => signs.get(set.classes ? set.classes[node - set.num_prefix] : '');

/** The classes and their signs as the page shows them below the graph. */
function graphKey(signs) {
  return [...signs].map(([name, { shape, colour }]) => make('span', {},
    svgNode('svg', { width: 18, height: 18, viewBox: '0 0 18 18', 'aria-hidden': 'true' },
      svgNode('path', { d: graphShape(shape, 9, 9, 6), fill: colour, stroke: 'currentColor' })), svgPlain(name)));
}

/** The same for a file: classes and signs in a row that breaks where the width ends, {node, height}. */
function graphLegend(signs, width) {
  const node = svgNode('g');
  let x = 8, y = 12;
  for (const [name, sign] of signs) {
    const words = svgShort(name, 40), wide = 26 + 7 * words.length;
    if (x > 8 && x + wide > width) { x = 8; y += 20; }
    node.append(svgNode('path', { d: graphShape(sign.shape, x, y, 6), fill: sign.colour, stroke: 'currentColor' }));
    node.append(svgText(x + 12, y + 4, words));
    x += wide;
  }
  return { node, height: y + 14 };
}

/** A line from key to query with a small arrow at the query, wider and less transparent for more weight. */
function graphArrow([x1, y1], [x2, y2], part, radius, { colour, dashed }) {
  const length = Math.hypot(x2 - x1, y2 - y1) || 1, ux = (x2 - x1) / length, uy = (y2 - y1) / length;
  const tip = [x2 - ux * (radius + 1), y2 - uy * (radius + 1)], size = Math.min(4 + 3 * part, length / 3);
  const wing = (side) => `L${tip[0] - ux * size - side * uy * size * 0.6} ${tip[1] - uy * size + side * ux * size * 0.6}`;
  const opacity = 0.12 + 0.88 * part;
  return svgNode('g', { opacity: opacity.toFixed(3) },
    svgNode('path', { d: `M${x1} ${y1}L${tip[0] - ux * size * 0.7} ${tip[1] - uy * size * 0.7}`, stroke: colour,
      fill: 'none', 'stroke-width': (0.8 + 5.2 * part).toFixed(2), 'stroke-dasharray': dashed ? '5 4' : null }),
    svgNode('path', { d: `M${tip[0]} ${tip[1]}${wing(1)}${wing(-1)}Z`, fill: colour }));
}

/** What the widths and opacities of the lines stand for. */
function graphScale(view, weights) {
  const node = svgNode('g'), log = view.state.scale === 'log';
  [0.25, 0.5, 1].forEach((part, i) => {
    const value = weights.max * (log ? LOG_FLOOR ** (1 - part) : part), x = 60 * i;
    node.append(graphArrow([x, 8], [x + 48, 8], part, 0, { colour: css(svgHue(1, weights.signed)) }),
      svgText(x + 24, 28, value.toFixed(4), { 'text-anchor': 'middle' }));
  });
  node.append(svgText(185, 12, log ? 'logarithmic' : 'linear'));
  if (weights.signed) node.append(svgText(185, 28, 'blue: more in A, orange: more in B'));
  return { node, height: 34 };
}

/** Labels where they do not lie on one another, the most important first. */
function graphLabels(wanted, radius, [width, height]) {
  const taken = [];
  return wanted.flatMap(({ words, x, y, bold }) => {
    const half = 3.4 * words.length + 2;
    const centre = Math.min(Math.max(x, half), width - half);
    const spot = [y + radius + 11, y - radius - 4].find((base) => base > 10 && base < height &&
      !taken.some(([cx, cb, ch]) => Math.abs(cx - centre) < half + ch && Math.abs(cb - base) < 12));
    if (spot === undefined) return [];
    taken.push([centre, spot, half]);
    return [svgText(centre, spot, words, { 'text-anchor': 'middle', 'font-size': 11, 'font-weight': bold ? 'bold' : null,
      stroke: '#fff', 'stroke-width': 3, 'paint-order': 'stroke', 'stroke-linejoin': 'round', class: 'halo',
      'pointer-events': 'none' })];
  });
}

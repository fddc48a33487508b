// Lines from the chosen word to the words it is tied to most strongly, over and between the panels of words.

const CURVE_WORDS = 200; // longer texts scroll inside their box, where lines would point at nothing
const CURVE_COUNT = 12;
const CURVE_LEAST = 0.02; // of the strongest

const hasWords = (set) => set && (set.kind === 'text' || set.kind === 'vectors') && set.labels.length <= CURVE_WORDS;

function mayCurve(app) {
  const map = app.map();
  return Boolean(map && hasWords(app.set(map.query)) && hasWords(app.set(map.key)));
}

const drawsCurves = (app) => app.state.curves === 'yes' && mayCurve(app);

/** The path between two boxes: an arc above words of one line, an S between lines or panels. */
function curvePath(from, to, cross) {
  const [x1, x2] = [from.left + from.width / 2, to.left + to.width / 2];
  if (cross) {
    const down = to.top > from.top;
    const [y1, y2] = down ? [from.bottom, to.top] : [from.top, to.bottom];
    const middle = (y1 + y2) / 2;
    return `M${x1} ${y1}C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}`;
  }
  const height = Math.min(10 + 0.12 * Math.abs(x2 - x1), 46);
  return `M${x1} ${from.top}C${x1} ${from.top - height} ${x2} ${to.top - height} ${x2} ${to.top}`;
}

/** The strongest ties, strongest last, so that they lie on top. */
function strongestTies(found, own) {
  return [...found.values.keys()]
    .filter((i) => i !== own && Math.abs(found.values[i]) > CURVE_LEAST * found.max)
    .sort((a, b) => Math.abs(found.values[b]) - Math.abs(found.values[a])).slice(0, CURVE_COUNT).reverse();
}

function makeCurves(app, { left, anchor }) {
  const svg = svgNode('svg', { class: 'curves', 'aria-hidden': 'true' });
  left.append(svg);

  function update() {
    const map = app.map();
    svg.replaceChildren();
    if (!drawsCurves(app) || !app.query) return;
    const target = app.state.direction === 'keys' ? map.key : map.query;
    const found = app.weights(target);
    const start = anchor(app.query.set, app.query.index);
    if (!found || !start) return;
    const frame = left.getBoundingClientRect();
    const place = (element) => {
      const box = element.getBoundingClientRect();
      return { left: box.left - frame.left, top: box.top - frame.top, bottom: box.bottom - frame.top, width: box.width };
    };
    const cross = target !== app.query.set;
    for (const index of strongestTies(found, cross ? -1 : app.query.index)) {
      const part = Math.abs(scaled(found.values[index], found.max, app.state.scale));
      svg.append(svgNode('path', {
        d: curvePath(place(start), place(anchor(target, index)), cross), fill: 'none', 'stroke-linecap': 'round',
        class: found.values[index] < 0 ? 'less' : 'more', 'stroke-dasharray': found.values[index] < 0 ? '5 5' : null,
        'stroke-width': (1 + 4 * part).toFixed(2), 'stroke-opacity': (0.2 + 0.7 * part).toFixed(2),
      }));
    }
  }
  new ResizeObserver(update).observe(left);
  return { update };
}

PARTS.curves = { make: makeCurves };

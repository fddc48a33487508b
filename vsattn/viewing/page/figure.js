// One figure of what the page shows, for PNG and SVG: title, pictures, words, matrix, legend, and the note.

const FIGURE = { width: 960, margin: 20, family: 'system-ui, "Noto Sans", "DejaVu Sans", sans-serif', labels: 40 };
const FIGURE_PAPER = { light: ['#ffffff', '#16181d'], dark: ['#15171c', '#eceef2'] };

const figurePen = document.createElement('canvas').getContext('2d');

function figureLength(text, size, bold) {
  figurePen.font = `${bold ? 'bold ' : ''}${size}px ${FIGURE.family}`;
  return figurePen.measureText(text).width;
}

/** A paragraph broken into lines: {node, width, height}. */
function figureText(text, { size = 13, bold = false, width = FIGURE.width } = {}) {
  const lines = [''];
  for (const piece of svgPlain(text).split(/(?<=\s)|(?<=\p{Script=Han})/u)) {
    const last = lines.length - 1;
    if (lines[last] && figureLength(lines[last] + piece, size, bold) > width) lines.push(piece);
    else lines[last] += piece;
  }
  const high = size * 1.4;
  const font = { 'font-size': size, 'font-weight': bold ? 'bold' : null };
  const node = svgNode('g', {}, ...lines.map((line, i) => svgText(0, ((i + 0.8) * high).toFixed(1), line.trim(), font)));
  return { node, width, height: lines.length * high + 4 };
}

/** The words of a set in lines, each on its colour, the chosen one framed. */
function figureWords(view, setName) {
  const set = view.set(setName), weights = view.weights(setName), node = svgNode('g');
  let x = 0, y = 0;
  set.labels.forEach((label, i) => {
    const words = svgShort(svgPlain(shownLabel(label)), 60), wide = Math.max(14, figureLength(words, 13) + 10);
    if (x && x + wide > FIGURE.width) { x = 0; y += 28; }
    const colour = weights && view.colour(weights.values[i], weights.max, weights.signed);
    node.append(svgNode('g', {},
      svgNode('title', {}, svgPlain(svgWords(set, i, weights, ''))),
      svgNode('rect', { x: x + 1, y: y + 1, width: wide, height: 22, rx: 3, fill: colour ? css(colour) : 'none',
        stroke: 'currentColor', 'stroke-width': svgIsQuery(view, setName, i) ? 3 : 0.5 }),
      svgText(x + 1 + wide / 2, y + 16.5, words, { 'font-size': 13, 'text-anchor': 'middle',
        fill: colour ? inkOn(colour) : 'currentColor' })));
    x += wide + 5;
  });
  return { node, width: FIGURE.width, height: y + 28 };
}

/** The cells of a matrix as one picture, a pixel each. */
function figureCells(view, found, max) {
  const canvas = make('canvas', { width: found.columns, height: found.rows }), pen = canvas.getContext('2d');
  const pixels = pen.createImageData(found.columns, found.rows);
  found.values.forEach((value, i) => pixels.data.set([...view.colour(value, max, found.signed), 255], 4 * i));
  pen.putImageData(pixels, 0, 0);
  return canvas.toDataURL('image/png');
}

/** The whole map, queries down and keys to the right, with labels where they have room; nothing for edge lists. */
function figureMatrix(view) {
  const map = view.map();
  if (map.edges) return [];
  const found = view.matrix(map, view.head, 512), max = view.peak(map, view.head) ?? found.max;
  const names = { rows: view.set(map.query).labels, columns: view.set(map.key).labels };
  const pooled = found.step[0] > 1 || found.step[1] > 1;
  const single = !pooled && !map.queries && Math.max(found.rows, found.columns) <= FIGURE.labels;
  const label = (text) => svgShort(svgPlain(shownLabel(text)), 16);
  const left = single ? 8 + Math.max(...names.rows.map((text) => figureLength(label(text), 11))) : 24;
  const top = single ? 8 + Math.max(...names.columns.map((text) => figureLength(label(text), 11))) : 24;
  const side = Math.max(1, Math.min(22, (FIGURE.width * 0.6 - left) / Math.max(found.rows, found.columns)));
  const [wide, high] = [side * found.columns, side * found.rows];
  const frame = { x: left, y: top, width: wide, height: high }, font = { 'font-size': 11 };
  const node = svgNode('g', {}, svgNode('image', { href: figureCells(view, found, max), ...frame,
    preserveAspectRatio: 'none', 'image-rendering': 'pixelated' }),
  svgNode('rect', { ...frame, fill: 'none', stroke: 'currentColor' }));
  if (single) {
    names.rows.forEach((text, i) =>
      node.append(svgText(left - 5, top + side * (i + 0.5) + 4, label(text), { ...font, 'text-anchor': 'end' })));
    names.columns.forEach((text, i) => {
      const x = left + side * (i + 0.5) + 4;
      node.append(svgText(x, top - 5, label(text), { ...font, transform: `rotate(-90 ${x} ${top - 5})` }));
    });
  } else {
    const step = pooled ? `, ${found.pooled} of ${found.step[0]} x ${found.step[1]} to a cell` : '';
    const words = `keys (${names.columns.length}) to the right, queries (${map.queries ? found.rows : names.rows.length}) down`;
    node.append(svgText(left, 16, words + step, font));
  }
  return [{ node, width: left + wide, height: top + high + 4 }, figureLegend(view, max, found.signed, 'the matrix')];
}

/** The colours from the smallest to the largest weight, with the scale in words. */
function figureLegend(view, max, signed, of) {
  const steps = 64, wide = 240, node = svgNode('g');
  for (let i = 0; i < steps; i += 1) {
    const place = (i + 0.5) / steps, part = signed ? 2 * place - 1 : place;
    const value = view.state.scale === 'log' ? Math.sign(part) * LOG_FLOOR ** (1 - Math.abs(part)) : part;
    node.append(svgNode('rect', { x: (wide * i) / steps, width: wide / steps + 0.5, height: 14,
      fill: css(view.colour(value * max, max, signed)) }));
  }
  const name = ANCHORS[view.theme()].names[signed ? 'diverging' : 'sequential'];
  const scale = view.state.scale === 'log' ? 'logarithmic' : 'linear';
  node.append(svgText(0, 30, legendStart(view.state.scale, max, signed)), svgText(wide, 30, max.toFixed(4), { 'text-anchor': 'end' }),
    svgText(wide + 12, 12, `${scale} scale, ${name}; ${signed ? 'difference A − B' : 'weight'} of ${of}`));
  return { node, width: FIGURE.width, height: 40 };
}

/** A label that keeps its own direction among others' (Unicode's first strong isolate). */
const figureApart = (label) => `\u2068${label}\u2069`;

/** What one view shows, in a line of words. */
function figureWhat(view) {
  const map = view.map(), name = view.head === 'mean' ? 'mean' : map.heads[view.head];
  const head = { mean: 'mean of the heads', all: 'all heads' }[name] || `head ${name}`;
  const shown = `${map.name}, ${head}, ${MODE_WORDS[map.mode].toLowerCase()}`;
  if (!view.query) return shown;
  const { set, index } = view.query, label = figureApart(view.set(set).labels[index]);
  return `${shown}; chosen: “${label}” (vector ${index + 1} of ${set}), ${ASKS[map.mode][view.state.direction]}`;
}

/** The strongest weights in words, since a PNG has no pointer. */
function figureStrongest(view) {
  const map = view.map(), setName = view.state.direction === 'keys' ? map.key : map.query;
  const weights = view.weights(setName);
  if (!weights) return null;
  const { labels } = view.set(setName), strength = (i) => Math.abs(weights.values[i]);
  const order = [...weights.values.keys()].sort((a, b) => strength(b) - strength(a)).slice(0, 8);
  const words = order.map((i) => `${figureApart(labels[i])} ${signText(weights.values[i], weights.signed)}`);
  return figureText(`Strongest: ${words.join(' · ')}`);
}

function figureOfView(app, view) {
  const input = view.input(), map = view.map(), parts = [];
  for (const one of view.name === 'difference' ? app.inputs : [input]) {
    const name = app.inputs.length > 1 ? `${one.name}: ` : '', answer = one.answer ? ` → ${one.answer}` : '';
    parts.push(figureText(name + one.caption + answer, { size: 14, bold: true }));
  }
  parts.push(figureText(figureWhat(view)));
  for (const [name, set] of Object.entries(input.sets)) {
    const panel = app.panels().find((one) => one.drawing && one.view === view && one.setName === name);
    const weights = view.weights(name);
    if (panel) parts.push(panel.drawing());
    else if (set.kind !== 'vectors' || name === map.query || name === map.key) {
      parts.push(figureWords(view, name), weights && figureLegend(view, weights.max, weights.signed, 'the words'));
    }
  }
  return [...parts, figureStrongest(view), ...figureMatrix(view)].filter(Boolean);
}

/** The figure as an SVG element that stands alone. */
function figureMake(app) {
  const [paper, ink] = FIGURE_PAPER[app.theme()], { margin } = FIGURE;
  const said = [app.fontLine, precisionText(app.doc), app.doc.note, ...(app.doc.remarks || [])].filter(Boolean);
  const parts = [figureText(app.doc.title, { size: 20, bold: true }),
    ...app.views().filter((view) => view.map()).flatMap((view) => figureOfView(app, view)),
    ...said.map((text) => figureText(text, { size: 12 }))];
  const width = Math.ceil(Math.max(FIGURE.width, ...parts.map((part) => part.width)) + 2 * margin);
  const body = svgNode('g');
  let y = margin;
  for (const part of parts) {
    body.append(svgNode('g', { transform: `translate(${margin} ${y.toFixed(1)})` }, part.node));
    y += part.height + 10;
  }
  const height = Math.ceil(y + margin);
  for (const text of body.querySelectorAll('text[paint-order]')) text.setAttribute('stroke', paper);
  return svgNode('svg', { width, height, viewBox: `0 0 ${width} ${height}`, color: ink, 'font-family': FIGURE.family },
    svgNode('title', {}, svgPlain(app.doc.title)), svgNode('rect', { width, height, fill: paper }), body);
}

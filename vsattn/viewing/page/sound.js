// A spectrogram with its axes; over it each frame in the colour of its weight, and below it the weights as bars.

const SOUND = { left: 60, right: 12, top: 6, picture: 170, gap: 6, bars: 52, axis: 34 };

/** Where each frame is drawn, in seconds: overlapping frames meet halfway between their centres. */
function soundCells(times) {
  const centre = ([start, end]) => (start + end) / 2;
  return times.map((time, i) => {
    const before = times[i - 1], after = times[i + 1];
    const start = before && before[1] > time[0] ? (centre(before) + centre(time)) / 2 : time[0];
    const end = after && after[0] < time[1] ? (centre(time) + centre(after)) / 2 : time[1];
    return end > start ? [start, end] : time;
  });
}

/** Round steps of 1, 2 or 5, so many that their labels do not touch. */
function soundTicks(duration, width) {
  const most = Math.max(1, Math.floor(width / 56));
  const ten = 10 ** Math.floor(Math.log10(duration / most));
  const step = [1, 2, 5, 10].map((part) => part * ten).find((size) => duration / size <= most);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const count = Math.floor(duration / step + 1e-9);
  return Array.from({ length: count + 1 }, (_, i) => [i * step, (i * step).toFixed(digits)]);
}

/** The frequencies whose labels have room, from below. */
function soundHertz(ticks, height) {
  let last = -Infinity;
  return [...ticks].sort((a, b) => a[1] - b[1]).filter(([, part]) => {
    const fits = part * height - last >= 13;
    if (fits) last = part * height;
    return fits;
  });
}

/** The axes: Hz at the left of the spectrogram, the largest weight at the left of the bars, seconds below. */
function soundAxes(set, width, most) {
  const { left, top, picture, gap, bars } = SOUND, inner = width - left - SOUND.right;
  const below = top + picture + gap + bars, line = { stroke: 'currentColor', 'stroke-width': 1 };
  const node = svgNode('g', { 'pointer-events': 'none' });
  for (const [hertz, part] of soundHertz(set.ticks, picture)) {
    const y = top + picture * (1 - part);
    node.append(svgNode('line', { x1: left - 4, x2: left, y1: y, y2: y, ...line }));
    const base = Math.min(Math.max(y + 4, top + 8), top + picture);
    node.append(svgText(left - 6, base, Math.round(hertz), { 'text-anchor': 'end', 'font-size': 11 }));
  }
  for (const [time, label] of soundTicks(set.duration, inner)) {
    const x = left + (inner * time) / set.duration;
    node.append(svgNode('line', { x1: x, x2: x, y1: below, y2: below + 4, ...line }));
    node.append(svgText(x, below + 16, label, { 'text-anchor': 'middle', 'font-size': 11 }));
  }
  node.append(svgNode('rect', { x: left, y: top, width: inner, height: picture, fill: 'none', ...line }));
  node.append(svgNode('line', { x1: left, x2: left + inner, y1: below, y2: below, ...line }));
  node.append(svgText(left + inner / 2, below + 30, 'time (s)', { 'text-anchor': 'middle', 'font-size': 11 }));
  node.append(svgText(12, top + picture / 2, 'frequency (Hz)',
    { 'text-anchor': 'middle', 'font-size': 11, transform: `rotate(-90 12 ${top + picture / 2})` }));
  const high = most === null ? '' : most >= 0.01 || most === 0 ? most.toFixed(2) : most.toExponential(0);
  node.append(svgText(left - 6, top + picture + gap + 10, high, { 'text-anchor': 'end', 'font-size': 11 }));
  return node;
}

/** All of it at one width: the SVG, its frames, and `paint` for weights and query. */
function soundPlot(view, set, width) {
  const { left, right, top, picture, gap, bars, axis } = SOUND, inner = width - left - right, prefix = set.num_prefix;
  const floor = top + picture + gap + bars, height = floor + axis;
  const at = (time) => left + (inner * Math.min(time, set.duration)) / set.duration;
  const boxes = soundCells(set.times)
    .map(([start, end]) => [at(start), top, Math.max(0.5, at(end) - at(start)), picture]);
  const frames = boxes.map(([x, y, w, h]) =>
    svgNode('rect', { role: 'option', tabindex: -1, class: 'frame', x, y, width: w, height: h }));
  const columns = boxes.map(([x, , w]) => svgNode('rect', { x, width: Math.max(1, w), 'pointer-events': 'none' }));
  const chosen = svgRing(null), pointed = svgRing('4 3'), axes = svgNode('g');
  const mark = svgNode('path', { fill: 'currentColor', 'pointer-events': 'none' });
  const svg = svgNode('svg', { viewBox: `0 0 ${width} ${height}`, width, height, role: 'none', class: 'sound' },
    svgNode('image', { href: set.spectrogram, x: left, y: top, width: inner, height: picture,
      preserveAspectRatio: 'none' }),
    ...frames, axes, ...columns, ...chosen.rings, ...pointed.rings, mark);
  const box = (i) => (i === null || i < prefix ? null : boxes[i - prefix]);

  function bar(column, i, weights) {
    const value = weights ? weights.values[i + prefix] : 0;
    const high = weights ? bars * svgPart(view, value, weights) : 0;
    svgSet(column, { y: floor - high, height: high, 'stroke-width': boxes[i][2] > 4 ? 0.5 : 0, stroke: 'currentColor',
      fill: css(svgHue(value, weights && weights.signed)) });
  }
  function paint(weights, query) {
    frames.forEach((frame, i) => svgShade(view, frame, weights, i + prefix));
    columns.forEach((column, i) => bar(column, i, weights));
    axes.replaceChildren(soundAxes(set, width, weights ? weights.max : null));
    chosen.move(box(query));
    const middle = box(query) ? box(query)[0] + box(query)[2] / 2 : null;
    svgSet(mark, { d: middle === null ? null : `M${middle} ${top + picture}l5 ${gap}h-10z` });
  }
  return { svg, frames, paint, width, height, point: (i) => pointed.move(box(i)) };
}

function soundSide(view, setName, set, point) {
  const prefix = set.num_prefix, chips = svgChips(view, setName, set);
  const holder = make('div', { role: 'none' });
  const element = make('div', { role: 'listbox', class: 'options', 'aria-label': 'Frames in time',
    'aria-orientation': 'horizontal' }, chips.element, holder);
  let plot = null, options = [];

  const span = ([start, end], digits) => `${start.toFixed(digits)} to ${end.toFixed(digits)} s`;
  // A label that is the time says it once.
  function words(i) {
    const time = set.times[i - prefix], known = i < prefix || set.labels[i] === span(time, 2);
    return svgWords(set, i, view.weights(setName), known ? '' : span(time, 3));
  }
  const choose = (i) => view.choose(setName, i);
  const step = (i) => view.choose(setName, i, { replace: true });
  svgRoving(element, { options: () => options, point, enter: choose, moved: step });
  function build(width) {
    const focused = options.indexOf(document.activeElement);
    plot = soundPlot(view, set, width);
    options = [...chips.chips, ...plot.frames];
    holder.replaceChildren(plot.svg);
    if (focused >= 0) options[focused].focus({ preventScroll: true });
  }
  function update() {
    if (!plot) build(640);
    chips.update(view.weights(setName));
    plot.paint(view.weights(setName), svgQuery(view, setName));
    svgState(options, svgQuery(view, setName), words);
  }
  // Drawn anew for the width there is, so that the labels keep their size on a narrow screen.
  new ResizeObserver(([entry]) => {
    const width = Math.floor(Math.min(Math.max(entry.contentRect.width, 240), 900));
    if (!entry.contentRect.width || (plot && plot.width === width)) return;
    build(width);
    update();
  }).observe(element);

  function drawing() {
    const still = soundPlot(view, set, 640), above = chips.drawing(view.weights(setName));
    still.paint(view.weights(setName), svgQuery(view, setName));
    still.frames.forEach((frame, i) => svgSet(frame, { 'aria-label': words(i + prefix) }));
    const copy = svgSet(svgCopy(still.svg), { y: above.height });
    return { node: svgNode('g', {}, above.node, copy), width: Math.max(640, above.width),
      height: still.height + above.height };
  }
  return { element, update, words, drawing, hover: (i) => plot && plot.point(i) };
}

PANELS.sound = svgPanel('spectrogram', soundSide, svgOpacity);

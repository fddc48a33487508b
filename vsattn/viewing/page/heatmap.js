// A whole map as a picture of cells: rows ask, columns answer. Long inputs: blocks, and the vectors of one field.

const HEAT_LABELS = 64;   // more rows or columns than this have numbers in place of labels
const HEAT_FIELD = 32;    // vectors along a side of the field that is looked at closely
const HEAT_SIDE = 560;    // pixels
const HEAT_CELLS = 160;   // along a side: a cell of one pixel could not be seen
const HEAT_BLOCKS = 512;  // the largest of several means would say little

const vectorsOfRow = (map, row, step) => (map.queries ? map.queries.slice(row * step, (row + 1) * step)
  : [...Array(step).keys()].map((i) => row * step + i));

/** Cell size in pixels for so many cells in so much room. */
function cellSize(data, room) {
  const labelled = Math.max(data.rows, data.columns) <= HEAT_LABELS;
  const [least, most] = labelled ? [16, 40] : [1, 8];
  const fit = Math.min(room / data.columns, labelled ? most : HEAT_SIDE / data.rows);
  return Math.max(least, Math.min(most, fit >= 1 ? Math.floor(fit) : fit));
}

/** Names along an axis: all of them where there is room, else a number now and then. */
function axisLabels(data, count, name, size) {
  const every = Math.max(data.rows, data.columns) <= HEAT_LABELS ? 1 : Math.max(1, Math.ceil(40 / size));
  return Array.from({ length: Math.ceil(count / every) }, (_, i) => [i * every, name(i * every)]);
}

/** One picture of cells with a cursor that arrows move; `tell(r, c)` says a cell in words, `pick(r, c)` chooses it. */
function makeCells(app, name, { tell, pick }) {
  const canvas = make('canvas', { class: 'cells', 'aria-hidden': 'true' });
  const cursor = make('button', { type: 'button', class: 'cursor' });
  const band = make('div', { class: 'band' });
  const field = make('div', { class: 'field' }, canvas, band, cursor);
  const [top, side] = [make('div', { class: 'over', 'aria-hidden': 'true' }), make('div', { class: 'beside', 'aria-hidden': 'true' })];
  const frame = make('div', { class: 'axes' }, make('div', { class: 'corner' }), top, side, field);
  const told = make('p', { class: 'told' }, '\u00a0');
  const element = make('div', { role: 'group', 'aria-label': name }, make('div', { class: 'heat' }, frame), told);
  let data = null, size = 1, at = [0, 0];

  function move(r, c) {
    at = [Math.max(0, Math.min(data.rows - 1, r)), Math.max(0, Math.min(data.columns - 1, c))];
    Object.assign(cursor.style, { left: `${at[1] * size}px`, top: `${at[0] * size}px`, width: `${size}px`, height: `${size}px` });
    cursor.setAttribute('aria-label', tell(...at));
  }
  const under = (event) => {
    const box = canvas.getBoundingClientRect();
    const [r, c] = [Math.floor((event.clientY - box.top) / size), Math.floor((event.clientX - box.left) / size)];
    return r >= 0 && c >= 0 && r < data.rows && c < data.columns ? [r, c] : null;
  };
  field.addEventListener('pointermove', (event) => { told.textContent = under(event) ? tell(...under(event)) : '\u00a0'; });
  field.addEventListener('pointerleave', () => { told.textContent = '\u00a0'; });
  field.addEventListener('click', (event) => {
    // A key's click on the cursor has no place of its own.
    const place = event.detail ? under(event) : at;
    if (!place) return;
    move(...place);
    pick(...place);
  });
  cursor.addEventListener('keydown', (event) => {
    const [r, c] = at, far = event.shiftKey ? 10 : 1;
    const to = { ArrowUp: [r - far, c], ArrowDown: [r + far, c], ArrowLeft: [r, c - far], ArrowRight: [r, c + far],
      Home: event.ctrlKey ? [0, 0] : [r, 0], End: event.ctrlKey ? [data.rows, data.columns] : [r, data.columns],
      PageUp: [r - 10, c], PageDown: [r + 10, c] }[event.key];
    if (!to) return;
    event.preventDefault();
    move(...to);
    cursor.scrollIntoView({ block: 'nearest', inline: 'nearest' });
    told.textContent = tell(...at);
    app.note(told.textContent);
  });
  cursor.addEventListener('focus', () => { told.textContent = tell(...at); });
  cursor.addEventListener('blur', () => { told.textContent = '\u00a0'; });

  function paint() {
    [canvas.width, canvas.height] = [data.columns, data.rows];
    const picture = new ImageData(data.columns, data.rows);
    for (let i = 0; i < data.values.length; i += 1) {
      const [r, g, b] = app.colour(data.values[i], data.max, data.signed);
      picture.data.set([r, g, b, 255], 4 * i);
    }
    canvas.getContext('2d').putImageData(picture, 0, 0);
    Object.assign(canvas.style, { width: `${data.columns * size}px`, height: `${data.rows * size}px` });
  }

  /** The row or column of the chosen vector, `data.chosen` {r or c: its number}. */
  function mark() {
    const { r = -1, c = -1 } = data.chosen;
    band.hidden = r < 0 && c < 0;
    const [top, left, high, wide] = r >= 0 ? [r, 0, 1, data.columns] : [0, c, data.rows, 1];
    Object.assign(band.style, { top: `${top * size}px`, left: `${left * size}px`, height: `${high * size}px`, width: `${wide * size}px` });
  }

  /** Turned names need as much height as the longest of them, and those at the side as much width. */
  function fitNames() {
    const longest = (box) => Math.max(0, ...[...box.children].map((name) => name.scrollWidth));
    const turned = Math.max(data.rows, data.columns) <= HEAT_LABELS;
    top.style.height = turned ? `${Math.round(0.79 * longest(top)) + 14}px` : '22px';
    side.style.width = `${longest(side) + 12}px`;
  }

  function label(box, labels, way) {
    box.replaceChildren(...labels.map(([i, words]) => {
      const mark = make('span', { dir: 'auto', class: data.chosen[way] === i ? 'asked' : null }, make('bdi', {}, words));
      mark.style[way === 'r' ? 'top' : 'left'] = `${(i + 0.5) * size}px`;
      return mark;
    }));
  }

  return { element, move, update(next) {
    data = next;
    size = cellSize(data, Math.max(120, element.clientWidth - 190));
    frame.classList.toggle('numbers', Math.max(data.rows, data.columns) > HEAT_LABELS);
    paint();
    label(side, axisLabels(data, data.rows, data.rowName, size), 'r');
    label(top, axisLabels(data, data.columns, data.columnName, size), 'c');
    fitNames();
    mark();
    move(...at);
  } };
}

function makeHeatmap(app) {
  const legend = makeLegend(app);
  const words = make('p', { class: 'quiet' });
  const whole = makeCells(app, 'The whole map: arrows move, Enter chooses the row', { tell: tellWhole, pick: pickWhole });
  const near = makeCells(app, 'The vectors of one field: arrows move, Enter chooses the row', { tell: tellNear, pick: pickNear });
  const title = make('h3');
  const close = make('button', { type: 'button', onclick: () => app.change({ zoom: null }) }, 'Close');
  const closer = make('div', { class: 'closer' }, make('div', { class: 'line' }, title, close), near.element);
  const element = make('div', {}, words, whole.element, legend.element, closer);
  let all = null, part = null, drawn = null;

  const long = () => Math.max(all.rows * all.step[0], all.columns * all.step[1]) > HEAT_LABELS;
  const names = () => [app.set(app.map().query), app.set(app.map().key)];
  const range = (start, step, count) => (step > 1 ? `${start + 1} to ${Math.min(start + step, count)}` : String(start + 1));

  /** Where the chosen vector lies in the whole map. */
  function chosenCells() {
    const map = app.map();
    if (!app.query) return {};
    if (app.state.direction === 'queries') return { c: Math.floor(app.query.index / all.step[1]) };
    const place = map.queries ? map.queries.indexOf(app.query.index) : app.query.index;
    return { r: Math.floor(place / all.step[0]) };
  }

  function tellWhole(r, c) {
    const [queries, keys] = names();
    const asking = vectorsOfRow(app.map(), r, all.step[0]);
    if (all.pooled) {
      const what = all.pooled === 'mean' ? 'mean weight' : 'largest weight';
      return `queries ${range(asking[0], all.step[0], queries.labels.length)}, keys ${range(c * all.step[1], all.step[1], keys.labels.length)}: `
        + `${what} ${signText(all.values[r * all.columns + c], all.signed)}`;
    }
    return tellPair(asking[0], c);
  }

  function tellPair(query, key) {
    const [queries, keys] = names();
    const line = app.row(query);
    return `query ${vectorText(queries, query)}, key ${vectorText(keys, key)}: `
      + (line ? weightText({ ...line, signed: all.signed }, key) : 'not recorded');
  }
  function pickWhole(r, c) {
    const query = vectorsOfRow(app.map(), r, all.step[0])[0];
    const zoom = long() ? { zoom: `${r * all.step[0]}-${c * all.step[1]}` } : {};
    app.change({ query: { set: app.map().query, index: query }, direction: 'keys', ...zoom });
  }
  function tellNear(r, c) {
    return tellPair(part.asking[r], part.first + c);
  }
  function pickNear(r) {
    app.change({ query: { set: app.map().query, index: part.asking[r] }, direction: 'keys' });
  }

  function drawWhole() {
    const map = app.map();
    const [queries, keys] = names();
    const key = [map.id, app.head, app.name].join();
    if (drawn !== key) all = app.matrix(map, app.head, map.blocks ? HEAT_BLOCKS : HEAT_CELLS);
    const shared = app.inputs.length > 1 && app.name !== 'difference';
    if (drawn !== key && shared) all.max = app.peak(map, app.head);
    drawn = key;
    whole.update({ ...all, chosen: chosenCells(),
      rowName: (r) => (all.rows > HEAT_LABELS || all.pooled ? String(vectorsOfRow(map, r, all.step[0])[0] + 1) : shownLabel(queries.labels[vectorsOfRow(map, r, 1)[0]])),
      columnName: (c) => (all.columns > HEAT_LABELS || all.pooled ? String(c * all.step[1] + 1) : shownLabel(keys.labels[c])) });
    legend.update(all.max, all.signed, `the largest weight of this map${shared ? ' in A or B' : ''}`);
    const cells = all.pooled ? ` Each cell is the ${all.pooled === 'mean' ? 'mean' : 'largest'} weight of ${all.step[0]} ${all.step[0] === 1 ? 'query' : 'queries'} × ${all.step[1]} keys.` : '';
    words.textContent = `Rows are queries (${setTitle(map.query).toLowerCase()}), columns are keys (${setTitle(map.key).toLowerCase()}).${cells}`
      + (long() ? ' Choose a cell to see its vectors one by one.' : '');
  }

  /** The field of vectors around the chosen cell; of long inputs only the strongest weights are known one by one. */
  function drawNear() {
    const map = app.map();
    const [queries, keys] = names();
    const [row, column] = app.state.zoom.split('-').map(Number);
    const sides = all.step.map((step) => Math.ceil(HEAT_FIELD / step) * step);
    const place = Math.floor(row / sides[0]) * sides[0];
    const asking = vectorsOfRow(map, 0, all.rows * all.step[0]).slice(place, place + sides[0]).filter((i) => i < queries.labels.length);
    const first = Math.floor(column / sides[1]) * sides[1];
    const columns = Math.min(sides[1], keys.labels.length - first);
    if (!asking.length || columns < 1) return false;
    const values = new Float32Array(asking.length * columns);
    asking.forEach((query, r) => values.set(app.row(query).values.subarray(first, first + columns), r * columns));
    part = { asking, first, rows: asking.length, columns, values, max: all.pooled ? largest(values) : all.max, signed: all.signed };
    const chosen = !app.query ? {} : app.state.direction === 'keys' ? { r: asking.indexOf(app.query.index) }
      : { c: app.query.index < first + columns ? app.query.index - first : -1 };
    near.update({ ...part, chosen,
      rowName: (r) => `${asking[r] + 1} ${shownLabel(queries.labels[asking[r]])}`, columnName: (c) => `${first + c + 1} ${shownLabel(keys.labels[first + c])}` });
    title.textContent = `Queries ${asking[0] + 1} to ${asking[asking.length - 1] + 1}, keys ${first + 1} to ${first + columns}, up to ${legendNumber(part.max)}`
      + (store(map).block[1] > 1 ? ': the strongest exact, the others means of blocks' : '');
    return true;
  }

  return { element, update() {
    drawWhole();
    closer.hidden = !(app.state.zoom && long());
    if (!closer.hidden) closer.hidden = !drawNear();
  } };
}

PARTS.heatmap = { title: 'Heat map', make: makeHeatmap };

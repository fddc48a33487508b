// Every head of every layer as a small picture with a measure: where to look first.

const THUMB = 48; // cells along a side
const MEASURES = {
  entropy: ['entropy', 'Entropy in nats: 0 where one key gets all, larger where many share.'],
  distance: ['mean distance', 'Mean distance between query and key, in the units of their positions.'],
  sink: ['sink mass', 'Part of the weight that the first vector gets.'],
  ablation: ['ablation', 'Change of the score when the head is silenced.'],
};

const measureOf = (map, head, name) => {
  const found = map.measures && map.measures[name];
  return found && found[head] !== null && found[head] !== undefined ? found[head] : null;
};
const measureText = (value) => (value === null ? '–' : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(3).replace('-', '−'));

/** Draws waiting pictures a few at a time, so that the page answers while it fills. */
function makeQueue() {
  let waiting = [], running = false;
  function work() {
    const end = performance.now() + 12;
    while (waiting.length && performance.now() < end) waiting.shift()();
    running = waiting.length > 0;
    if (running) setTimeout(work, 0);
  }
  return (jobs) => {
    waiting = jobs;
    if (!running) setTimeout(work, 0);
    running = true;
  };
}

function paintThumb(app, canvas, map, head) {
  const found = app.matrix(map, head, THUMB);
  [canvas.width, canvas.height] = [found.columns, found.rows];
  const picture = new ImageData(found.columns, found.rows);
  found.values.forEach((value, i) => picture.data.set([...app.colour(value, found.max, found.signed), 255], 4 * i));
  canvas.getContext('2d').putImageData(picture, 0, 0);
}

function makeThumb(app, map, head) {
  const canvas = make('canvas', { 'aria-hidden': 'true' });
  const number = make('span', { class: 'measure' });
  const bar = make('span', { class: 'bar' });
  const button = make('button', { type: 'button', class: 'thumb', tabindex: -1, 'data-map': map.id, 'data-head': head,
    onclick: () => app.change({ map: map.id, head }) },
  canvas, make('span', { class: 'track' }, bar), make('span', { class: 'line' }, make('span', { class: 'name' }), number));
  return { map, head, button, canvas, number, bar, name: button.querySelector('.name') };
}

/** Arrows move through the grid by rows and columns; one of its buttons is in the order of Tab. */
function moveInGrid(event, lines) {
  const r = lines.findIndex((line) => line.includes(event.target.closest('.thumb')));
  if (r < 0) return;
  const c = lines[r].indexOf(event.target.closest('.thumb'));
  const to = { ArrowRight: [r, c + 1], ArrowLeft: [r, c - 1], ArrowDown: [r + 1, c], ArrowUp: [r - 1, c], Home: [r, 0], End: [r, lines[r].length - 1] }[event.key];
  if (!to) return;
  event.preventDefault();
  const line = lines[Math.max(0, Math.min(lines.length - 1, to[0]))];
  const next = line[Math.max(0, Math.min(line.length - 1, to[1]))];
  for (const button of lines.flat()) button.tabIndex = button === next ? 0 : -1;
  next.focus();
}

function makeGrid(app) {
  const measure = make('select', { id: 'measure', onchange: () => app.change({ measure: measure.value }) });
  const order = make('select', { id: 'order', onchange: () => app.change({ order: order.value }) },
    ...[['layer', 'by layer'], ['up', 'smallest first'], ['down', 'largest first']].map(([value, words]) => make('option', { value }, words)));
  const words = make('p', { class: 'quiet' });
  const choices = make('div', { class: 'line choices' }, make('label', { for: 'measure' }, 'Measure'), measure, make('label', { for: 'order' }, 'Order'), order);
  const board = make('div', { class: 'board', role: 'group', 'aria-label': 'Heads: arrows move, Enter chooses' });
  const element = make('div', {}, choices, words, board);
  const queue = makeQueue();
  const thumbs = new Map();
  let painted = null, lines = [], arranged = null;
  board.addEventListener('keydown', (event) => moveInGrid(event, lines));

  function ofMaps(maps) {
    return maps.map((map) => map.heads.map((_, head) => {
      if (!thumbs.has(map)) thumbs.set(map, map.heads.map((__, h) => makeThumb(app, map, h)));
      return thumbs.get(map)[head];
    }));
  }

  function arrange(rows, name) {
    const key = [app.name, app.state.mode, app.state.order, app.state.order === 'layer' ? '' : name].join();
    if (key === arranged) return;
    arranged = key;
    if (app.state.order === 'layer') {
      board.replaceChildren(...rows.map((row) => make('div', { class: 'layer' }, make('span', { class: 'rowname', title: row[0].map.path }, row[0].map.name),
        make('div', { class: 'thumbs' }, ...row.map((thumb) => thumb.button)))));
      lines = rows.map((row) => row.map((thumb) => thumb.button));
      return;
    }
    const sign = app.state.order === 'up' ? 1 : -1;
    const value = (thumb) => measureOf(thumb.map, thumb.head, name) ?? sign * Infinity;
    const flat = rows.flat().sort((a, b) => sign * (value(a) - value(b)));
    board.replaceChildren(make('div', { class: 'thumbs' }, ...flat.map((thumb) => thumb.button)));
    lines = [flat.map((thumb) => thumb.button)];
  }

  function label(thumb, name, most) {
    const value = measureOf(thumb.map, thumb.head, name);
    const chosen = thumb.map.id === app.state.map && (thumb.head === app.state.head || thumb.map.heads.length === 1);
    thumb.name.textContent = app.state.order === 'layer' ? thumb.map.heads[thumb.head] : `${thumb.map.name} · ${thumb.map.heads[thumb.head]}`;
    thumb.number.textContent = name ? measureText(value) : '';
    thumb.bar.parentElement.hidden = !name;
    thumb.bar.style.width = `${most ? 100 * Math.abs(value || 0) / most : 0}%`;
    thumb.bar.className = value < 0 ? 'bar less' : 'bar';
    const all = Object.entries(MEASURES).map(([key, [title]]) => [title, measureOf(thumb.map, thumb.head, key)]).filter(([, found]) => found !== null);
    thumb.button.setAttribute('aria-label', [`${thumb.map.name}, head ${thumb.map.heads[thumb.head]}`, ...all.map(([title, found]) => `${title} ${measureText(found)}`)].join(', '));
    thumb.button.setAttribute('aria-pressed', String(chosen));
    return chosen;
  }

  return { element, update() {
    const view = app.views()[0];
    const maps = view.input().maps.filter((map) => map.mode === app.state.mode);
    const rows = ofMaps(maps);
    const given = Object.keys(MEASURES).filter((name) => rows.flat().some(({ map, head }) => measureOf(map, head, name) !== null));
    const name = given.includes(app.state.measure) ? app.state.measure : given[0] || null;
    measure.replaceChildren(...given.map((key) => make('option', { value: key }, MEASURES[key][0])));
    [measure.value, order.value, choices.hidden] = [name, app.state.order, !name];
    const whose = app.inputs.length > 1 ? ` Measured on ${view.input().name}.` : '';
    words.textContent = `${name ? `${MEASURES[name][1]} ` : ''}Each picture has its own scale; rows are queries, columns keys.${whose}`;
    arrange(rows, name);
    const most = Math.max(...rows.flat().map(({ map, head }) => Math.abs(measureOf(map, head, name) || 0)));
    const chosen = rows.flat().filter((thumb) => label(thumb, name, most));
    if (!board.contains(document.activeElement)) {
      const stop = (chosen[0] || rows.flat()[0]).button;
      for (const button of lines.flat()) button.tabIndex = button === stop ? 0 : -1;
    }
    const key = [view.name, app.state.mode, app.theme(), app.state.scale].join();
    if (key !== painted) queue(rows.flat().map((thumb) => () => paintThumb(view, thumb.canvas, thumb.map, thumb.head)));
    painted = key;
  } };
}

PARTS.grid = { title: 'All heads', whole: true, make: makeGrid };

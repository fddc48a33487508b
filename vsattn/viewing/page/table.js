// The chosen vector in numbers: its weights in order, to four decimals, each with how sure it is.

const FIRST_ROWS = 15;

/** The numbers of the vectors to list: of an edge list those with an edge, of block means those known exactly. */
function listed(found) {
  const all = [...found.values.keys()];
  const known = found.error.includes(Infinity);
  return all.filter((i) => (!found.present || found.present[i]) && (!known || found.error[i] < Infinity));
}

/** Means of the blocks along the line, [first, last, mean] each. */
function blockMeans(app, found) {
  const map = app.map();
  const s = store(map);
  const width = s.block[found.role === 'key' ? 1 : 0];
  const line = app.query.index;
  const heads = app.head === 'mean' ? [...Array(s.heads).keys()] : [app.head];
  const count = found.role === 'key' ? s.columns : s.rows;
  return Array.from({ length: count }, (_, i) => {
    const [r, c] = found.role === 'key' ? [rowOf(s, line), i] : [i, Math.floor(line / s.block[1])];
    const mean = heads.reduce((sum, h) => sum + cell(s, h, r, c), 0) / heads.length;
    return [i * width, Math.min((i + 1) * width, found.values.length) - 1, mean];
  });
}

/** A field to choose a vector by its number, for long inputs and for keyboards. */
function makePicker(app) {
  const field = make('input', { type: 'number', min: 1, 'aria-label': 'Number of the chosen vector' });
  const total = make('span', { class: 'quiet' });
  const go = (index) => {
    const size = app.set(app.query.set).labels.length;
    if (Number.isInteger(index)) app.choose(app.query.set, Math.max(0, Math.min(size - 1, index)));
  };
  field.addEventListener('change', () => go(field.valueAsNumber - 1));
  const step = (label, name, by) => make('button', { type: 'button', 'aria-label': name, onclick: () => go(app.query.index + by) }, label);
  const element = make('div', { class: 'picker' }, step('‹', 'Previous vector', -1), field, step('›', 'Next vector', 1), total);
  return { element, update() {
    const size = app.set(app.query.set).labels.length;
    field.max = size;
    field.value = app.query.index + 1;
    total.textContent = `of ${size}`;
  } };
}

/** A table whose columns can be put in order; [key, words, className] for each column. */
function makeRows(app, caption, columns, sortable) {
  const body = make('tbody');
  const heads = columns.map(([key, words, className]) => make('th', { scope: 'col', class: className, 'data-key': key },
    sortable.includes(key) ? make('button', { type: 'button', onclick: () => { order = key; open = false; redraw(); } }, words) : words));
  const more = make('button', { type: 'button', class: 'more', onclick: () => { open = true; redraw(); } });
  const title = make('caption', {}, caption);
  const element = make('div', { class: 'scroll' }, make('table', {}, title, make('thead', {}, make('tr', {}, ...heads)), body), more);
  let order = sortable[0], open = false, items = [], rowFor = null;

  function redraw() {
    const sorted = [...items].sort((a, b) => (order === 'weight' ? Math.abs(b.weight) - Math.abs(a.weight) : 0) || a.index - b.index);
    const shown = open ? sorted : sorted.slice(0, FIRST_ROWS);
    body.replaceChildren(...shown.map(rowFor));
    more.hidden = shown.length === sorted.length;
    more.textContent = `Show all ${sorted.length}`;
    for (const head of heads) {
      const key = head.dataset.key;
      if (sortable.includes(key)) head.setAttribute('aria-sort', key !== order ? 'none' : key === 'weight' ? 'descending' : 'ascending');
    }
  }
  return { element, title, update(found, toRow) {
    [items, rowFor, open] = [found, toRow, false];
    redraw();
  } };
}

function weightCell(app, value, found) {
  const bar = make('span', { class: 'bar' });
  bar.style.width = `${(100 * Math.abs(scaled(value, found.max, app.state.scale))).toFixed(1)}%`;
  bar.style.backgroundColor = css(app.colour(value, found.max, found.signed));
  return make('td', { class: 'number' }, make('span', { class: 'value' }, signText(value, found.signed)), make('span', { class: 'track' }, bar));
}

function makeTable(app) {
  const said = make('p', { class: 'readout' });
  const picker = makePicker(app);
  const legend = makeLegend(app);
  const rows = makeRows(app, 'Exact weights', [['index', 'No.', 'count'], ['label', 'Vector', 'label'], ['weight', 'Weight', 'number'],
    ['sure', 'How sure', 'sure']], ['weight', 'index']);
  const limit = make('p', { class: 'quiet limit' });
  const blocks = makeRows(app, 'Means of blocks', [['index', 'Vectors', 'label'], ['weight', 'Mean', 'number']], ['weight', 'index']);
  const element = make('div', {}, said, picker.element, legend.element, rows.element, limit, blocks.element);

  function keyRow(set, name, found) {
    return ({ index, weight }) => make('tr', { 'data-index': index, onpointerenter: () => app.hover(name, index), onpointerleave: () => app.hover(name, null) },
      make('td', { class: 'count' }, String(index + 1)),
      make('th', { scope: 'row', class: 'label' }, make('button', { type: 'button', class: 'link', dir: 'auto', onclick: () => app.choose(name, index) },
        shownLabel(set.labels[index])), set.details && set.details[index] ? make('small', {}, set.details[index]) : null),
      weightCell(app, weight, found), make('td', { class: 'sure' }, sureText(found.error[index])));
  }

  function blockRow(found) {
    return ({ index, last, weight }) => make('tr', {}, make('th', { scope: 'row', class: 'label' }, `${index + 1} to ${last + 1}`), weightCell(app, weight, found));
  }

  function limitText(found) {
    if (!found.error.includes(Infinity)) return '';
    const bound = Math.max(...found.bound.filter((_, i) => found.error[i] === Infinity));
    const most = Number.isFinite(bound) ? ` Every other weight is at most ${small(bound)}.` : '';
    return `Only the strongest weights of a long input are kept one by one.${most}`;
  }

  return { element, update() {
    const map = app.map();
    if (!app.query) return;
    const name = app.state.direction === 'keys' ? map.key : map.query;
    const [set, found] = [app.set(name), app.weights(name)];
    picker.update();
    said.textContent = `${vectorText(app.set(app.query.set), app.query.index)}${modelText(app)}: ${found ? directionText(app) : 'its weights were not recorded.'}`;
    for (const part of [legend, rows, blocks]) part.element.hidden = !found;
    limit.textContent = found ? limitText(found) : '';
    if (!found) return;
    legend.update(found.max, found.signed, app.inputs.length > 1 && !found.signed ? 'the largest weight of this vector in A or B' : 'the largest weight of this vector');
    rows.title.textContent = found.signed ? 'A − B, largest first' : found.role === 'key' ? 'Keys' : 'Queries';
    rows.update(listed(found).map((index) => ({ index, weight: found.values[index] })), keyRow(set, name, found));
    const means = found.error.includes(Infinity) && !found.signed ? blockMeans(app, found) : [];
    blocks.element.hidden = !means.length;
    if (means.length) blocks.title.textContent = `Means of blocks of ${map.blocks[0]} × ${map.blocks[1]} (queries × keys)`;
    blocks.update(means.map(([index, last, weight]) => ({ index, last, weight })), blockRow({ ...found, max: largest(means.map((mean) => mean[2])) }));
  } };
}

/** What the model said of the chosen vector, in brackets. */
function modelText(app) {
  const { details } = app.set(app.query.set);
  return details && details[app.query.index] ? ` (${details[app.query.index]})` : '';
}

function directionText(app) {
  return ASKS[app.map().mode][app.state.direction];
}

/** The chosen vector and its strongest ties in one sentence, for the live region. */
function spokenText(app) {
  const map = app.map();
  const name = map && (app.state.direction === 'keys' ? map.key : map.query);
  const found = map && app.weights(name);
  if (!found) return '';
  const best = listed(found).sort((a, b) => Math.abs(found.values[b]) - Math.abs(found.values[a])).slice(0, 3);
  const list = best.map((i) => `${shownLabel(app.set(name).labels[i])} ${signText(found.values[i], found.signed)}`).join(', ');
  return `${vectorText(app.set(app.query.set), app.query.index)}, ${directionText(app)}: ${list}.`;
}

PARTS.table = { title: 'Chosen vector', side: true, make: makeTable };

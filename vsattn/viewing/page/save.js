// Saving what is shown: a figure as PNG or SVG, the numbers as JSON.

const SAVE_PIXELS = 8000; // no side of a PNG is longer, for browsers refuse larger canvases

/** A float32 in as few digits as bring the same float32 back. */
const saveNumber = (value) => Number(value.toPrecision(9));

/** All weights of the chosen map and head: rows of a matrix, or the list of its edges. */
function saveMatrix(view) {
  const map = view.map(), edges = view.edges();
  const labels = { query_labels: view.set(map.query).labels, key_labels: view.set(map.key).labels };
  const numbers = (values) => Array.from(values, saveNumber);
  if (edges) return { ...labels, key: [...edges.key], query: [...edges.query], weights: numbers(edges.weights) };
  const found = view.matrix(map, view.head, WHOLE);
  const rows = Array.from({ length: found.rows }, (_, i) =>
    numbers(found.values.subarray(i * found.columns, (i + 1) * found.columns)));
  return { ...labels, queries: map.queries, blocks: map.blocks, weights: rows };
}

function saveView(app, view) {
  const map = view.map(), { state, query } = view, inputs = view.name === 'difference' ? app.inputs : [view.input()];
  const asked = state.direction === 'keys' ? map.key : map.query, line = view.weights(asked);
  return {
    shown: view.name === 'difference' ? 'A - B' : view.name,
    inputs: inputs.map(({ name, caption, answer }) => ({ name, caption, answer })),
    map: { id: map.id, name: map.name, path: map.path, part: map.part, layer: map.layer, mode: map.mode,
      query: map.query, key: map.key },
    head: view.head === 'mean' ? 'mean' : map.heads[view.head],
    chosen: query && { set: query.set, index: query.index, label: view.set(query.set).labels[query.index] },
    direction: state.direction,
    row: line && { set: asked, labels: view.set(asked).labels, weights: Array.from(line.values, saveNumber) },
    matrix: saveMatrix(view),
  };
}

function saveData(app) {
  const { title, note, model, precision } = app.doc;
  const shown = app.views().filter((view) => view.map()).map((view) => saveView(app, view));
  return { schema: 1, title, note, model, precision, shown };
}

function saveSvg(app) {
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(figureMake(app))}`;
}

/** The figure drawn on a canvas, twice as fine as the screen where that is not too large. */
async function savePng(app) {
  const picture = new Image();
  const url = URL.createObjectURL(new Blob([saveSvg(app)], { type: 'image/svg+xml' }));
  try {
    picture.src = url;
    await picture.decode();
    const { naturalWidth: wide, naturalHeight: high } = picture, fine = Math.min(2, SAVE_PIXELS / Math.max(wide, high));
    const canvas = make('canvas', { width: Math.round(wide * fine), height: Math.round(high * fine) });
    canvas.getContext('2d').drawImage(picture, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => { canvas.toBlob(done, 'image/png'); });
    if (!blob) throw new Error('the browser made no PNG of this size; save SVG instead');
    return blob;
  } finally {
    URL.revokeObjectURL(url);
  }
}

const SAVE_KINDS = {
  PNG: savePng,
  SVG: (app) => new Blob([saveSvg(app)], { type: 'image/svg+xml' }),
  JSON: (app) => new Blob([JSON.stringify(saveData(app), null, 1)], { type: 'application/json' }),
};

/** A file name of plain letters from the title and the map. */
function saveName(app, kind) {
  const head = findMap(app.doc, app.state.map).heads[app.state.head] ?? 'mean';
  const plain = (text, most) => text.normalize('NFKD').replace(/[^\w]+/g, '-').slice(0, most).replace(/^-+|-+$/g, '');
  return `${plain(app.doc.title, 40) || 'attention'}-${plain(`${app.state.map} ${head}`, 60)}.${kind.toLowerCase()}`;
}

async function saveFile(app, kind) {
  const name = saveName(app, kind);
  try {
    const url = URL.createObjectURL(await SAVE_KINDS[kind](app));
    make('a', { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000); // the browser reads it after the click
    app.note(`Saved ${name}`);
  } catch (error) {
    app.note(`${kind} was not saved: ${error.message}`);
    throw error;
  }
}

TOOLS.save = { make(app) {
  const buttons = Object.keys(SAVE_KINDS).map((kind) =>
    make('button', { type: 'button', 'data-kind': kind, title: `Save what is shown as ${kind}`,
      onclick: () => saveFile(app, kind) }, kind));
  const element = make('div', { class: 'save', role: 'group', 'aria-label': 'Save what is shown' },
    make('span', { class: 'quiet' }, 'Save '), ...buttons);
  return { element, update() {} };
} };

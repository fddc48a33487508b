// Reading the arrays: weights of one query (a row) or of one key (a column), each with how sure it is.

const TYPES = { float32: Float32Array, uint8: Uint8Array, uint16: Uint16Array, int32: Int32Array };
const STORES = new Map();
let BUFFER = null;

async function inflate(base64) {
  const bytes = typeof Uint8Array.fromBase64 === 'function'
    ? Uint8Array.fromBase64(base64)
    : Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  BUFFER = await new Response(stream).arrayBuffer();
}

function array(reference) {
  const Type = TYPES[reference.dtype];
  return new Type(BUFFER, reference.offset, reference.length / Type.BYTES_PER_ELEMENT);
}

/** The arrays of a map, opened once. An edge list counts as one row of E cells. */
function store(map) {
  if (STORES.has(map)) return STORES.get(map);
  const [heads, n, m] = map.edges ? [map.shape[0], 1, map.shape[1]] : map.shape;
  const opened = {
    heads, rows: n, columns: m,
    values: array(map.weights.values),
    levels: map.weights.levels || 0,
    rowMax: map.weights.row_max ? array(map.weights.row_max) : null,
    block: map.blocks || [1, 1],
    position: map.queries ? new Map(map.queries.map((query, i) => [query, i])) : null,
    key: map.edges ? array(map.edges.key) : null,
    query: map.edges ? array(map.edges.query) : null,
    top: map.top ? { k: map.top.k, index: array(map.top.index), weight: array(map.top.weight) } : null,
  };
  if (opened.top) opened.topRows = opened.top.index.length / (heads * opened.top.k);
  STORES.set(map, opened);
  return opened;
}

/** Weight of a stored cell; the square root is what was rounded to a level, so small weights keep more digits. */
function cell(s, head, row, column) {
  const level = s.values[(head * s.rows + row) * s.columns + column];
  return s.levels ? s.rowMax[head * s.rows + row] * (level / s.levels) ** 2 : level;
}

/** How far a stored cell can be from the truth: half the gap to the next level; infinite for the mean of a block. */
function cellError(s, head, row, column) {
  if (s.block[0] > 1 || s.block[1] > 1) return Infinity;
  if (!s.levels) return 0;
  const level = s.values[(head * s.rows + row) * s.columns + column];
  return s.rowMax[head * s.rows + row] * (level + 0.5) / (s.levels * s.levels);
}

/** Row of a query among those stored, or -1 when it was not recorded. */
function rowOf(s, query) {
  const place = s.position ? s.position.get(query) : query;
  if (place === undefined || query < 0) return -1;
  const row = Math.floor(place / s.block[0]);
  return row < s.rows ? row : -1;
}

function emptyLine(length) {
  return { values: new Float32Array(length), error: new Float32Array(length), bound: new Float32Array(length).fill(Infinity), present: null };
}

function edgeLine(s, head, length, own, other, index) {
  const line = emptyLine(length);
  line.present = new Uint8Array(length);
  for (let e = 0; e < s.columns; e += 1) {
    if (own[e] !== index) continue;
    line.values[other[e]] += cell(s, head, 0, e);
    line.error[other[e]] += cellError(s, head, 0, e);
    line.present[other[e]] = 1;
  }
  return line;
}

function headRow(s, head, query, length) {
  if (s.key) return edgeLine(s, head, length, s.query, s.key, query);
  const row = rowOf(s, query);
  if (row < 0) return null;
  const line = emptyLine(length);
  const start = topStart(s, head, query, row);
  for (let key = 0; key < length; key += 1) fillCell(s, line, key, head, row, Math.floor(key / s.block[1]), start);
  for (let i = start; s.top && i < start + s.top.k; i += 1) {
    line.values[s.top.index[i]] = s.top.weight[i];
    line.error[s.top.index[i]] = 0;
  }
  return line;
}

/** A key that is not among the strongest k weighs at most as much as the k-th; the mean of its block may be more. */
function fillCell(s, line, at, head, row, column, start) {
  line.error[at] = cellError(s, head, row, column);
  if (s.top && line.error[at] === Infinity) line.bound[at] = s.top.weight[start + s.top.k - 1];
  line.values[at] = Math.min(cell(s, head, row, column), line.bound[at]);
}

function topStart(s, head, query, row) {
  if (!s.top) return 0;
  const place = s.position && s.topRows === s.position.size ? s.position.get(query) : query;
  return (head * s.topRows + place) * s.top.k;
}

function headColumn(s, head, key, length) {
  if (s.key) return edgeLine(s, head, length, s.key, s.query, key);
  const line = emptyLine(length);
  const column = Math.floor(key / s.block[1]);
  if (s.position) line.present = new Uint8Array(length);
  for (let query = 0; query < length; query += 1) {
    const row = rowOf(s, query);
    if (row < 0) continue;
    if (line.present) line.present[query] = 1;
    const start = topStart(s, head, query, row);
    fillCell(s, line, query, head, row, column, start);
    for (let i = start; s.top && i < start + s.top.k; i += 1) {
      if (s.top.index[i] !== key) continue;
      line.values[query] = s.top.weight[i];
      line.error[query] = 0;
    }
  }
  return line;
}

/** How far a value can be from the truth, where a bound is known also for a value that stands for its block. */
function farthest(line, i) {
  return line.error[i] < Infinity ? line.error[i] : Math.max(line.values[i], line.bound[i] - line.values[i]);
}

/** Mean of the lines of all heads, or the line of one; of a vector that no head knows exactly only the bound is kept. */
function overHeads(s, head, read) {
  if (head !== 'mean') return read(head);
  const lines = Array.from({ length: s.heads }, (_, h) => read(h));
  if (lines.includes(null)) return null;
  const total = emptyLine(lines[0].values.length);
  total.present = lines[0].present;
  for (let i = 0; i < total.values.length; i += 1) {
    let known = false, bound = 0;
    for (const line of lines) {
      total.values[i] += line.values[i] / s.heads;
      total.error[i] += farthest(line, i) / s.heads;
      bound += line.bound[i] / s.heads;
      known = known || line.error[i] < Infinity;
    }
    if (!known) total.error[i] = Infinity;
    total.bound[i] = bound;
  }
  return total;
}

const sizeOf = (input, name) => input.sets[name].labels.length;

/** What a query gives to each key: {values, error (0 exact, Infinity mean of a block), bound, present} or null. */
function rowLine(input, map, head, query) {
  const s = store(map);
  return overHeads(s, head, (h) => headRow(s, h, query, sizeOf(input, map.key)));
}

/** What each query gives to a key, in the same form. */
function columnLine(input, map, head, key) {
  const s = store(map);
  return overHeads(s, head, (h) => headColumn(s, h, key, sizeOf(input, map.query)));
}

function row(input, map, head, query) {
  const line = rowLine(input, map, head, query);
  return line && line.values;
}

function minusLine(a, b) {
  if (!a || !b) return null;
  const line = emptyLine(a.values.length);
  for (let i = 0; i < line.values.length; i += 1) {
    line.values[i] = a.values[i] - b.values[i];
    line.error[i] = a.error[i] + b.error[i];
  }
  if (a.present && b.present) line.present = a.present.map((known, i) => known | b.present[i]);
  return line;
}

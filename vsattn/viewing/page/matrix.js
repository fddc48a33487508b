// Whole maps, for pictures: cells are vectors, blocks of vectors, or (for edge lists and small pictures) maxima.

/** Numbers of the queries (or blocks of them) of a map's stored rows, counted in vectors. */
function extent(input, map) {
  const s = store(map);
  const rows = s.position ? s.position.size : sizeOf(input, map.query);
  return { rows, columns: sizeOf(input, map.key) };
}

function plain(rows, columns, step, pooled) {
  return { rows, columns, step, pooled, values: new Float32Array(rows * columns), max: 0, signed: false };
}

/** A map at its stored size, or smaller by the maximum of each field when a side would pass `limit` cells. */
function matrix(input, map, head, limit = 512) {
  const s = store(map);
  const size = extent(input, map);
  const stored = s.key ? size : { rows: s.rows, columns: s.columns };
  const pool = [Math.ceil(stored.rows / limit), Math.ceil(stored.columns / limit)];
  const step = [pool[0] * s.block[0], pool[1] * s.block[1]];
  const out = plain(Math.ceil(stored.rows / pool[0]), Math.ceil(stored.columns / pool[1]), step,
    pool[0] > 1 || pool[1] > 1 ? 'max' : s.block[0] > 1 || s.block[1] > 1 ? 'mean' : null);
  const heads = head === 'mean' ? [...Array(s.heads).keys()] : [head];
  for (const h of heads) {
    const layer = heads.length > 1 ? new Float32Array(out.values.length) : out.values;
    if (s.key) poolEdges(s, h, pool, out.columns, layer);
    else poolCells(s, h, pool, out.columns, layer);
    if (heads.length > 1) layer.forEach((value, i) => { out.values[i] += value / heads.length; });
  }
  out.max = largest(out.values);
  return out;
}

function poolCells(s, head, pool, columns, out) {
  for (let r = 0; r < s.rows; r += 1) {
    const base = (head * s.rows + r) * s.columns;
    const scale = s.levels ? s.rowMax[head * s.rows + r] / (s.levels * s.levels) : 1;
    const line = Math.floor(r / pool[0]) * columns;
    for (let c = 0; c < s.columns; c += 1) {
      const level = s.values[base + c];
      const value = s.levels ? level * level * scale : level;
      const at = line + (pool[1] > 1 ? Math.floor(c / pool[1]) : c);
      if (value > out[at]) out[at] = value;
    }
  }
}

function poolEdges(s, head, pool, columns, out) {
  for (let e = 0; e < s.columns; e += 1) {
    const at = Math.floor(s.query[e] / pool[0]) * columns + Math.floor(s.key[e] / pool[1]);
    out[at] = Math.max(out[at], cell(s, head, 0, e));
  }
}

function largest(values) {
  let max = 0;
  for (let i = 0; i < values.length; i += 1) max = Math.max(max, Math.abs(values[i]));
  return max;
}

function minusMatrix(a, b) {
  const out = plain(a.rows, a.columns, a.step, a.pooled);
  for (let i = 0; i < out.values.length; i += 1) out.values[i] = a.values[i] - b.values[i];
  out.max = largest(out.values);
  out.signed = true;
  return out;
}

/** All edges of a map with their weights, or null for a dense map. */
function edgeList(map, head) {
  const s = store(map);
  if (!s.key) return null;
  const weights = new Float32Array(s.columns);
  const heads = head === 'mean' ? [...Array(s.heads).keys()] : [head];
  for (let e = 0; e < s.columns; e += 1) {
    for (const h of heads) weights[e] += cell(s, h, 0, e) / heads.length;
  }
  return { key: s.key, query: s.query, weights };
}

// What is shown, kept in the address, so that a link or the Back button brings it again.

const WORDS = {
  map: 'm', head: 'h', query: 'q', direction: 'd', scale: 's', compare: 'c', opacity: 'o', zoom: 'z', hops: 'n',
  curves: 'a', theme: 't', measure: 'e', order: 'g',
};
const CHOICES = {
  direction: ['keys', 'queries'], scale: ['linear', 'log'], compare: ['A', 'B', 'both', 'difference'],
  curves: ['yes', 'no'], theme: ['auto', 'light', 'dark'], measure: ['entropy', 'distance', 'sink', 'ablation'],
  order: ['layer', 'up', 'down'],
};

const allModes = (doc) => [...new Set(doc.inputs[0].maps.map((map) => map.mode))];
const findMap = (doc, id) => doc.inputs.flatMap((input) => input.maps).find((map) => map.id === id);

/** The map that a page opens with: what a translation looked at, else the last layer. */
function firstMap(doc, mode) {
  const maps = doc.inputs[0].maps.filter((map) => map.mode === (mode || allModes(doc)[0]));
  const cross = maps.filter((map) => map.part === 'cross');
  return (cross.length ? cross : maps).slice(-1)[0];
}

function firstQuery(doc, map) {
  return { set: map.query, index: map.queries ? map.queries[0] : Math.min(doc.inputs[0].sets[map.query].num_prefix,
    doc.inputs[0].sets[map.query].labels.length - 1) };
}

/** Of a long input no mean of heads is known exactly, for each head keeps its own strongest keys. */
const firstHead = (map) => (map.heads.length > 1 && !map.blocks ? 'mean' : 0);

function startState(doc) {
  const map = firstMap(doc);
  return {
    mode: map.mode, map: map.id, head: firstHead(map), query: firstQuery(doc, map),
    direction: 'keys', scale: 'linear', compare: 'A', opacity: 0.7, zoom: null, hops: 'all', curves: 'yes',
    theme: 'auto', measure: 'entropy', order: 'layer',
  };
}

function toWord(key, value) {
  if (key === 'query') return value ? `${value.set}:${value.index}` : null;
  return value === null || value === undefined ? null : String(value);
}

/** The value that a word of the address stands for, or undefined where it means nothing here. */
function fromWord(doc, key, word, map) {
  if (CHOICES[key]) return CHOICES[key].includes(word) ? word : undefined;
  if (key === 'map') return findMap(doc, word) ? word : undefined;
  if (key === 'head') return word === 'mean' ? word : map && Number(word) in map.heads ? Number(word) : undefined;
  if (key === 'opacity') return Number(word) >= 0 && Number(word) <= 1 ? Number(word) : undefined;
  if (key === 'query') {
    const at = word.lastIndexOf(':');
    const set = word.slice(0, at), index = Number(word.slice(at + 1));
    const longest = Math.max(...doc.inputs.map((input) => (input.sets[set] ? input.sets[set].labels.length : 0)));
    return Number.isInteger(index) && index >= 0 && index < longest ? { set, index } : undefined;
  }
  if (key === 'zoom') return /^\d+-\d+$/.test(word) ? word : undefined;
  return word;
}

/** A page inside another (a notebook's cell) has no address of its own. */
const hasAddress = () => location.protocol !== 'about:' && location.protocol !== 'data:';

function makeState(doc) {
  const listeners = [];
  const start = startState(doc);
  const state = { ...start };
  const faults = [];

  /** Parts of the state follow one another: a map decides the mode, the heads and which vectors can ask. */
  function settle() {
    const map = findMap(doc, state.map);
    state.mode = map.mode;
    if (map.heads.length === 1) state.head = 0;
    else if (state.head !== 'mean' && !(state.head in map.heads)) state.head = 'mean';
    const sides = [map.query, map.key];
    if (!state.query || !sides.includes(state.query.set)) state.query = firstQuery(doc, map);
    if (map.query !== map.key) state.direction = state.query.set === map.query ? 'keys' : 'queries';
    if (doc.inputs.length < 2) state.compare = 'A';
    else if (state.compare === 'difference' && differenceFault(doc, state.map)) state.compare = 'both';
  }

  function write(replace) {
    if (!hasAddress()) return;
    const words = new URLSearchParams();
    for (const [key, short] of Object.entries(WORDS)) {
      const word = toWord(key, state[key]);
      if (word !== null && (word !== toWord(key, start[key]) || 'mhq'.includes(short))) words.set(short, word);
    }
    const hash = `#${words}`;
    if (hash !== location.hash) history[replace ? 'replaceState' : 'pushState'](null, '', hash);
  }

  function read() {
    faults.length = 0;
    const words = new URLSearchParams(location.hash.slice(1));
    const next = { ...start };
    for (const [key, short] of Object.entries(WORDS)) {
      if (!words.has(short)) continue;
      const value = fromWord(doc, key, words.get(short), findMap(doc, next.map));
      if (value === undefined) faults.push(`${short}=${words.get(short)}`);
      else next[key] = value;
    }
    Object.assign(state, next);
    settle();
  }

  function tell(changed) {
    for (const listener of listeners) listener(changed);
  }

  function change(patch, { replace = false } = {}) {
    const before = { ...state };
    Object.assign(state, patch);
    faults.length = 0;
    settle();
    write(replace);
    tell(Object.keys(state).filter((key) => toWord(key, before[key]) !== toWord(key, state[key])));
  }

  read();
  window.addEventListener('popstate', () => {
    read();
    tell(Object.keys(state));
  });
  return { state, change, faults, listen: (listener) => listeners.push(listener) };
}

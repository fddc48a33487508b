// What panels see: one input (or the difference of two), the chosen map, head and query, and what each vector gets.

const PANELS = {};
const PARTS = {};
const TOOLS = {};

const sameKind = (a, b) => a.mode === b.mode && a.part === b.part && a.layer === b.layer && a.query === b.query
  && a.key === b.key;

/** The map of another input that shows the same place in the model. */
function counterpart(input, map) {
  return input.maps.find((other) => other.id === map.id) || input.maps.find((other) => sameKind(other, map)) || null;
}

/** Why A minus B cannot be shown for a map, or null where it can. */
function differenceFault(doc, id) {
  const [a, b] = doc.inputs;
  const [mapA, mapB] = [a, b].map((input) => counterpart(input, findMap(doc, id)));
  if (!mapA || !mapB) return 'only one of the inputs has this map';
  for (const name of new Set([mapA.query, mapA.key])) {
    const [one, two] = [sizeOf(a, name), sizeOf(b, name)];
    if (one !== two) return `“${name}” has ${one} vectors in ${a.name} and ${two} in ${b.name}, so none stands for another`;
  }
  const alike = String(mapA.shape) === String(mapB.shape) && String(mapA.blocks) === String(mapB.blocks)
    && String(mapA.queries) === String(mapB.queries) && !mapA.edges === !mapB.edges;
  return alike ? null : 'the two inputs have other edges or other recorded queries';
}

/** The set of A with the labels of B beside its own where they differ. */
function mergedSet(a, b) {
  const labels = a.labels.map((label, i) => (label === b.labels[i] ? label : `${label} / ${b.labels[i]}`));
  return { ...a, labels, details: null };
}

function makeView(app, which) {
  const { doc, state } = app;
  const own = doc.inputs[which === 'B' ? 1 : 0];
  const merged = new Map();
  let cached = { key: null };

  const view = Object.create(app, {
    head: { get: () => {
      const map = view.map();
      return !map || map.heads.length === 1 ? 0 : state.head === 'mean' || state.head in map.heads ? state.head : 'mean';
    } },
    query: { get: () => (state.query && view.set(state.query.set)
      && state.query.index < view.set(state.query.set).labels.length ? state.query : null) },
  });

  /** A row (or column) of one input's map: null where it has no such map, vector or recorded query. */
  function lineOf(input, direction, set, index) {
    const map = counterpart(input, findMap(doc, state.map));
    if (!map || index >= sizeOf(input, set)) return null;
    return (direction === 'keys' ? rowLine : columnLine)(input, map, view.head, index);
  }

  /** The line of the chosen query, read once for each state. */
  function line() {
    const key = [state.map, view.head, toWord('query', state.query), state.direction, state.compare].join();
    if (cached.key === key) return cached;
    const lines = doc.inputs.map((input) => view.query && lineOf(input, state.direction, view.query.set, view.query.index));
    const mine = which === 'difference' ? minusLine(lines[0], lines[1]) : lines[which === 'B' ? 1 : 0];
    // A and B share one scale, or the same colour would stand for two weights.
    const max = which === 'difference' ? (mine ? largest(mine.values) : 0)
      : Math.max(...lines.map((found) => (found ? largest(found.values) : 0)));
    cached = { key, line: mine, max };
    return cached;
  }

  return Object.assign(view, {
    name: which,
    input: () => own,
    map: () => counterpart(own, findMap(doc, state.map)),
    set(name) {
      if (which !== 'difference' || !own.sets[name]) return own.sets[name];
      if (!merged.has(name)) merged.set(name, mergedSet(own.sets[name], doc.inputs[1].sets[name] || own.sets[name]));
      return merged.get(name);
    },
    weights(setName) {
      const map = view.map();
      if (!map || !view.query) return null;
      const role = state.direction === 'keys' ? 'key' : 'query';
      const { line: found, max } = line();
      if (setName !== map[role] || !found) return null;
      return { role, ...found, signed: which === 'difference', max };
    },
    /** What any query gives to each key, whatever vector is chosen. */
    row(index) {
      const set = view.map().query;
      if (which !== 'difference') return lineOf(own, 'keys', set, index);
      return minusLine(...doc.inputs.map((input) => lineOf(input, 'keys', set, index)));
    },
    matrix(map, head, limit) {
      const mine = matrix(own, map, head, limit);
      if (which !== 'difference') return mine;
      const other = doc.inputs[1];
      return minusMatrix(mine, matrix(other, counterpart(other, map), head, limit));
    },
    /** The largest weight of a map: of A and B together, or their colours could not be compared. */
    peak(map, head) {
      return Math.max(...doc.inputs.map((input) => (counterpart(input, map) ? matrix(input, counterpart(input, map), head).max : 0)));
    },
    edges() {
      const map = view.map();
      const mine = map && edgeList(map, view.head);
      if (!mine || which !== 'difference') return mine;
      const other = edgeList(counterpart(doc.inputs[1], map), view.head).weights;
      return { ...mine, weights: mine.weights.map((weight, e) => weight - other[e]) };
    },
  });
}

/** What every view shares: the document, the state, and what a click, a pointer or an announcement does. */
function makeApp(doc, { state, change, faults, listen }) {
  const live = document.getElementById('live');
  const dark = window.matchMedia('(prefers-color-scheme: dark)');
  const app = {
    doc, state, change, faults, listen, inputs: doc.inputs, hovered: null,
    theme: () => (state.theme === 'auto' ? (dark.matches ? 'dark' : 'light') : state.theme),
    note(text) { live.textContent = text; },
    colour: (value, max, signed) => colourOf(app.theme(), state.scale, value, max, signed),
    choose: (set, index, options) => chooseVector(app, set, index, options),
    hover(set, index) {
      app.hovered = index === null ? null : { set, index };
      for (const panel of app.panels()) if (panel.hover) panel.hover(set, index);
    },
    panels: () => [],
  };
  const views = { A: makeView(app, 'A') };
  if (doc.inputs.length > 1) Object.assign(views, { B: makeView(app, 'B'), difference: makeView(app, 'difference') });
  app.views = () => (state.compare === 'both' ? [views.A, views.B] : [views[state.compare]]);
  for (const name of ['input', 'map', 'set', 'weights', 'row', 'matrix', 'edges']) {
    app[name] = (...words) => app.views()[0][name](...words);
  }
  for (const name of ['head', 'query']) Object.defineProperty(app, name, { get: () => app.views()[0][name] });
  app.allViews = views;
  dark.addEventListener('change', () => change({}, { replace: true }));
  return app;
}

/** A click on a vector: it asks where its set asks in this map, is asked about where its set is looked at. */
function chooseVector(app, set, index, options) {
  const map = findMap(app.doc, app.state.map);
  const patch = { query: { set, index } };
  if (set !== map.query && set !== map.key) {
    const others = app.doc.inputs[0].maps.filter((other) => other.mode === map.mode && other.query === set);
    if (!others.length) return app.note('No attention of this vector was recorded.');
    patch.map = (others.find((other) => other.layer === map.layer) || others.slice(-1)[0]).id;
  }
  return app.change(patch, options);
}

const small = (number) => (number < 5e-5 ? number.toExponential(0) : number.toFixed(4));
const sureText = (error) => (error === 0 ? 'exact' : error === Infinity ? 'block mean' : `± ${small(error)}`);
const signText = (value, signed) => (signed && value > 0 ? '+' : '') + value.toFixed(4).replace('-', '−');

/** A weight to four decimals, with how sure it is where it is not exact. */
function weightText(line, index) {
  if (line.present && !line.present[index]) return 'no weight between the two';
  const [value, error] = [signText(line.values[index], line.signed), line.error[index]];
  return error === 0 ? value : error === Infinity ? `about ${value} (block mean)` : `${value} ${sureText(error)}`;
}

/** A label that can be seen: blanks by their sign. */
const shownLabel = (label) => (/^\s*$/.test(label) ? '␣' : label);
const vectorText = (set, index) => `“${shownLabel(set.labels[index])}”, vector ${index + 1}`;

// The choices above the views: native radio buttons and lists, so that keyboards and screen readers know them.

// What is asked of the chosen vector, in the words of what is shown: rollout and relevance are no weights of a head.
const ASKS = {
  raw: { keys: 'what it attends to', queries: 'what attends to it' },
  rollout: { keys: 'what reaches it', queries: 'what it reaches' },
  relevance: { keys: 'what is relevant to it', queries: 'what it is relevant to' },
};
const MODE_WORDS = { raw: 'Weights', rollout: 'Rollout', relevance: 'Relevance' };
const COMPARE_WORDS = { A: 'A', B: 'B', both: 'A and B', difference: 'A − B' };

/** A row of radio buttons; `entries` gives [value, label, title] each time, for they may change with the state. */
function radios(app, legend, key, entries, pick) {
  const row = make('div', { class: 'row' });
  const field = make('div', { class: 'choice', role: 'radiogroup', 'aria-label': legend }, make('span', { class: 'legend-name' }, legend), row);
  let before = null;
  return { element: field, update() {
    const found = entries();
    field.hidden = found.length < 2;
    if (JSON.stringify(found) !== before) {
      before = JSON.stringify(found);
      row.replaceChildren(...found.map(([value, label, title, off]) => make('label', { title },
        make('input', { type: 'radio', name: key, value: String(value), disabled: Boolean(off), onchange: () => pick(value) }),
        make('span', {}, label))));
    }
    for (const input of row.querySelectorAll('input')) input.checked = input.value === String(app.state[key]);
  } };
}

function choose(app, legend, key, entries) {
  return radios(app, legend, key, entries, (value) => app.change({ [key]: value }));
}

function mapsOfMode(app) {
  const found = app.inputs.flatMap((input) => input.maps).filter((map) => map.mode === app.state.mode);
  return found.filter((map, i) => found.findIndex((other) => other.id === map.id || sameKind(other, map)) === i);
}

function modeChoice(app) {
  return radios(app, 'Shows', 'mode', () => allModes(app.doc).map((mode) => [mode, MODE_WORDS[mode] || mode]), (mode) => {
    const now = findMap(app.doc, app.state.map);
    const maps = app.inputs[0].maps.filter((map) => map.mode === mode);
    const same = maps.filter((map) => map.part === now.part);
    const next = same.find((map) => map.layer === now.layer) || same.slice(-1)[0] || firstMap(app.doc, mode);
    app.change({ map: next.id });
  });
}

function mapChoice(app) {
  const list = make('select', { id: 'map', onchange: () => app.change({ map: list.value }) });
  const element = make('div', { class: 'choice' }, make('label', { for: 'map' }, 'Layer'), list);
  let before = null;
  return { element, update() {
    const maps = mapsOfMode(app);
    const key = maps.map((map) => map.id).join('\n');
    if (key !== before) list.replaceChildren(...maps.map((map) => make('option', { value: map.id, title: map.path }, map.name)));
    before = key;
    const now = findMap(app.doc, app.state.map);
    list.value = (maps.find((map) => map.id === now.id) || maps.find((map) => sameKind(map, now))).id;
    element.hidden = maps.length < 2;
  } };
}

function headEntries(app) {
  const { heads } = findMap(app.doc, app.state.map);
  return heads.length < 2 ? [] : [['mean', 'mean'], ...heads.map((name, i) => [i, name, `head ${name}`])];
}

function directionEntries(app) {
  const map = findMap(app.doc, app.state.map);
  if (map.query !== map.key) return [];
  return Object.entries(ASKS[map.mode]);
}

function compareEntries(app) {
  if (app.inputs.length < 2) return [];
  const fault = differenceFault(app.doc, app.state.map);
  return Object.entries(COMPARE_WORDS).map(([value, label]) => (value === 'difference'
    ? [value, label, fault ? `No difference: ${fault}.` : null, Boolean(fault)] : [value, label]));
}

/** Why there is no difference stands on the page, for a switched-off button says nothing to a screen reader. */
function compareReason(app) {
  const element = make('p', { class: 'reason quiet' });
  return { element, update() {
    const fault = app.inputs.length > 1 ? differenceFault(app.doc, app.state.map) : null;
    element.hidden = !fault;
    element.textContent = fault ? `No A − B: ${fault}.` : '';
  } };
}

/** Lines from the query to its strongest keys, over texts only. */
function curvesChoice(app) {
  const input = make('input', { type: 'checkbox', id: 'curves', onchange: () => app.change({ curves: input.checked ? 'yes' : 'no' }) });
  const element = make('div', { class: 'choice check' }, make('label', { for: 'curves' }, input, make('span', {}, 'Curves')));
  return { element, update() {
    element.hidden = !mayCurve(app);
    input.checked = app.state.curves === 'yes';
  } };
}

const SCALES = [['linear', 'linear'], ['log', 'log']];
const THEMES = [['auto', 'auto'], ['light', 'light'], ['dark', 'dark']];

function buildControls(app) {
  const form = document.getElementById('controls');
  form.addEventListener('submit', (event) => event.preventDefault());
  const parts = [
    choose(app, 'Input', 'compare', () => compareEntries(app)), modeChoice(app), mapChoice(app),
    choose(app, 'Head', 'head', () => headEntries(app)),
    choose(app, 'Chosen vector', 'direction', () => directionEntries(app)),
    choose(app, 'Scale', 'scale', () => SCALES), curvesChoice(app),
    compareReason(app),
  ];
  form.append(...parts.map((part) => part.element));
  const theme = choose(app, 'Colours', 'theme', () => THEMES);
  document.getElementById('tools').append(theme.element);
  return { element: form, update: () => [...parts, theme].forEach((part) => part.update()) };
}

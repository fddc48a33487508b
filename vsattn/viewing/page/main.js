// Starting the page: read, build what this document needs, and draw again after every change of state.

/** An element with its attributes set and its children put in; text is only ever text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const SET_TITLES = { input: 'Input', source: 'Source', target: 'Target', written: 'Written so far', pieces: 'Pieces', answer: 'Answer', pool: 'Answer' };
const setTitle = (name) => SET_TITLES[name] || name.charAt(0).toUpperCase() + name.slice(1);
// Others (latent vectors, pieces, pooled answers) are shown only where the chosen map is about them.
const MAIN_SETS = ['input', 'source', 'target'];

/** A titled box around what a panel made. */
function box(title, panel, className) {
  return make('section', { class: `box ${className}`, 'aria-label': title }, make('h2', {}, title), panel.element);
}

function buildView(app, view, several) {
  const input = view.input();
  const panels = [];
  const left = make('div', { class: 'column' });
  const right = make('div', { class: 'column side' });
  const anchors = new Map();
  const anchor = (name, index) => anchors.get(name) && anchors.get(name)(index);
  for (const [name, set] of Object.entries(input.sets)) {
    const panel = (PANELS[set.kind] || PANELS.vectors).make(view, name);
    const element = box(setTitle(name), panel, `panel ${set.kind}`);
    const needed = () => MAIN_SETS.includes(name) || [view.map().query, view.map().key].includes(name);
    if (panel.anchor) anchors.set(name, panel.anchor);
    panels.push({ ...panel, box: element, needed });
    left.append(element);
  }
  for (const [name, part] of Object.entries(PARTS)) {
    if (part.whole) continue;
    const panel = part.make(view, { left, anchor });
    if (panel.element) {
      const element = box(part.title, panel, name);
      (part.side ? right : left).append(element);
      panels.push({ ...panel, box: element });
    } else panels.push(panel);
  }
  const name = view.name === 'difference' ? 'A − B' : several ? input.name : null;
  const captions = view.name === 'difference' ? app.inputs : [input];
  const element = make('section', { class: 'view', 'aria-label': name || 'Attention' },
    make('header', { class: 'caption' }, ...captions.map((one) => make('p', {},
      several ? make('b', { class: 'badge' }, one.name) : null,
      make('span', { class: 'said', dir: 'auto' }, one.caption), one.answer ? make('span', { class: 'answer', dir: 'auto' }, one.answer) : null))),
    make('div', { class: 'columns' }, left, right));
  return { view, element, panels };
}

const counted = (number, word) => number && `${number} ${word}${number === 1 ? '' : 's'}`;

function drawMessages(app) {
  const box = document.getElementById('messages');
  const words = [];
  if (app.faults.length) words.push(`The address says ${app.faults.join(', ')}, which means nothing here and is left out.`);
  for (const view of app.views()) {
    const label = app.views().length > 1 ? `${view.name}: ` : '';
    if (!view.map()) words.push(`${label}this input has no such map.`);
    else if (!view.query) words.push(`${label}this input has no vector of that number.`);
    else if (app.state.direction === 'keys' && !view.weights(view.map().key)) {
      words.push(`${label}the weights of this vector were not recorded; recorded are ${view.map().queries.join(', ')}.`);
    }
  }
  box.replaceChildren(...words.map((word) => make('p', {}, word)));
}

function precisionText(doc) {
  if (doc.precision.kind === 'exact') return 'Weights are stored as computed (32-bit numbers).';
  return `Weights are stored in ${doc.precision.levels} levels of each query's maximum; none is off by more than `
    + `${doc.precision.max_error.toPrecision(2)}. The strongest keys of each query are stored as computed.`;
}

function start(doc) {
  const app = makeApp(doc, makeState(doc));
  const main = document.getElementById('views');
  const built = new Map();
  const { task, name, layers, heads } = doc.model;
  document.getElementById('model').textContent = [task, name, counted(layers, 'layer'), counted(heads, 'head')]
    .filter(Boolean).join(' · ');
  document.getElementById('note').append(make('p', {}, doc.note), ...(doc.remarks || []).map((remark) => make('p', {}, remark)));
  // An address of its own would lead out of a notebook's frame.
  document.querySelector('.skip').addEventListener('click', (event) => {
    event.preventDefault();
    main.focus();
  });
  document.getElementById('foot').append(make('p', {}, precisionText(doc)));
  const controls = buildControls(app);
  const tools = Object.values(TOOLS).map((tool) => tool.make(app));
  document.getElementById('tools').append(...tools.map((tool) => tool.element).filter(Boolean));
  const whole = Object.entries(PARTS).filter(([, part]) => part.whole).map(([key, part]) => {
    const panel = part.make(app);
    return { ...panel, box: box(part.title, panel, key) };
  });
  const stage = make('div', { class: 'stage' });
  main.replaceChildren(stage, ...whole.map((panel) => panel.box));

  function draw() {
    const root = document.documentElement;
    root.dataset.theme = app.theme();
    const shown = app.views();
    for (const view of shown) {
      if (built.has(view)) continue;
      built.set(view, buildView(app, view, doc.inputs.length > 1));
      stage.append(built.get(view).element);
    }
    stage.classList.toggle('double', shown.length > 1);
    const drawn = [];
    for (const [view, { element, panels }] of built) {
      element.hidden = !shown.includes(view) || !view.map();
      if (element.hidden) continue;
      for (const panel of panels) {
        const wanted = !panel.needed || panel.needed();
        if (panel.box) panel.box.hidden = !wanted;
        if (wanted) drawn.push(panel);
      }
    }
    app.panels = () => [...drawn, ...whole];
    drawMessages(app);
    for (const panel of [controls, ...tools, ...drawn, ...whole]) panel.update();
  }
  app.listen((changed) => {
    draw();
    if (changed.some((key) => ['query', 'map', 'head', 'direction', 'compare'].includes(key))) app.note(spokenText(app));
  });
  draw();
  Object.assign(document.documentElement.dataset, { ready: 'yes', ms: Math.round(performance.now()) });
}

async function main() {
  try {
    if (typeof DecompressionStream === 'undefined') throw new Error('this browser cannot unpack the weights (DecompressionStream is missing); use a version of 2023 or later');
    await inflate(document.getElementById('buffer').textContent);
    start(JSON.parse(document.getElementById('document').textContent));
  } catch (error) {
    document.getElementById('views').replaceChildren(make('p', { class: 'messages' }, `The page could not be shown: ${error.message}`));
    document.documentElement.dataset.ready = 'no';
    throw error;
  }
}

main();

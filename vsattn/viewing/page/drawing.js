// What the drawn panels share: SVG nodes, words for a weight, the roving focus, and views of one or two inputs.

const SVG_SPACE = 'http://www.w3.org/2000/svg';

/** An SVG element; attributes that are null or undefined are left out. */
function svgNode(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG_SPACE, name);
  svgSet(node, attributes);
  node.append(...children.filter((child) => child !== null));
  return node;
}

function svgSet(node, attributes) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) node.removeAttribute(key);
    else node.setAttribute(key, value);
  }
  return node;
}

/** Text that XML may hold: characters it forbids are shown by their number. */
function svgPlain(text) {
  return String(text).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|\p{Surrogate}/gu,
    (char) => '\\u' + char.charCodeAt(0).toString(16).padStart(4, '0'));
}

function svgText(x, y, text, attributes = {}) {
  return svgNode('text', { x, y, 'font-size': 12, fill: 'currentColor', ...attributes }, svgPlain(text));
}

const svgShort = (text, length) => (text.length > length ? [...text].slice(0, length - 1).join('') + '…' : text);

/** One vector in words: its label, where it is, what the model said of it, its weight and how sure that is. */
function svgWords(set, index, weights, place) {
  const said = set.details && set.details[index], known = weights && (!weights.present || weights.present[index]);
  const weight = weights && `${known ? (weights.signed ? 'difference ' : 'weight ') : ''}${weightText(weights, index)}`;
  return [shownLabel(set.labels[index]), place, said, weight].filter(Boolean).join(', ');
}

/** The number of the chosen vector if it is in this set, else null. */
const svgQuery = (view, setName) => (view.query && view.query.set === setName ? view.query.index : null);
const svgIsQuery = (view, setName, index) => svgQuery(view, setName) === index;

/** Where the keys move the focus from the item of this number, or null for a key that moves nothing. */
function svgMove(key, from, count, columns) {
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[key];
  if (key === 'Home') return 0;
  if (key === 'End') return count - 1;
  if (step === undefined) return null;
  const to = from + step;
  return to < 0 || to >= count ? from : to;
}

/**
 * A list of which Tab reaches one option, and the arrows, Home and End the others. `options()` gives the elements in
 * order, `columns(i)` the step of the arrows up and down; `enter(i)` is called by Enter, Space and click, `moved(i)`
 * after an arrow, `point(i)` for the option under the pointer or with the focus, null for none.
 */
function svgRoving(list, { options, columns = () => 1, enter, moved = () => {}, point }) {
  const number = (event) => options().indexOf(event.target.closest('[role=option]'));
  const on = (name, act) => list.addEventListener(name, (event) => {
    const at = number(event);
    if (at >= 0) act(at, event);
  });
  on('keydown', (at, event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const to = svgMove(event.key, at, options().length, columns(at));
    if (event.key === 'Enter' || event.key === ' ') enter(at);
    else if (to === null) return;
    else {
      options()[to].focus();
      moved(to);
    }
    event.preventDefault();
  });
  on('click', (at) => {
    options()[at].focus({ preventScroll: true });
    enter(at);
  });
  on('focusin', (at) => {
    options().forEach((option, i) => option.setAttribute('tabindex', i === at ? 0 : -1));
    point(at);
  });
  on('pointerover', (at) => point(at));
  list.addEventListener('pointerleave', () => point(null));
  list.addEventListener('focusout', () => point(null));
}

/** Tell readers of the screen each option's words and which one is chosen; keep one option in the order of Tab. */
function svgState(options, query, words) {
  const current = options.includes(document.activeElement) ? options.indexOf(document.activeElement) : query;
  options.forEach((option, i) => svgSet(option, {
    'aria-selected': i === query, 'aria-label': words(i), tabindex: i === (current ?? 0) ? 0 : -1,
  }));
}

/** The pictures of a set: one; or for a difference A's and B's, where they are not the same, under the same colours. */
function svgSides(view, setName, picture) {
  const set = view.set(setName);
  if (view.name !== 'difference') return [{ name: '', set }];
  const sides = view.inputs.map((input) => ({
    name: input.name, set: { ...set, ...input.sets[setName], labels: set.labels, details: null },
  }));
  return String(sides[0].set[picture]) === String(sides[1].set[picture]) ? [{ name: '', set }] : sides;
}

/**
 * A panel of pictures by `makeSide(view, setName, set, point) -> {element, update(), hover(index), words(index),
 * drawing()}`, the choices above them by `makeTools(view, setName) -> {element, update(), drawing()}`, and a line of
 * words below.
 */
function svgPanel(picture, makeSide, makeTools) {
  return { make(view, setName) {
    const point = (index) => view.hover(setName, index);
    const sides = svgSides(view, setName, picture)
      .map(({ name, set }) => ({ name, ...makeSide(view, setName, set, point) }));
    const line = make('p', { class: 'told' }, '\u00a0');
    const tools = makeTools(view, setName);
    const figures = sides.map(({ name, element }) =>
      make('figure', {}, name ? make('figcaption', {}, name) : null, element));
    let pointed = null;
    /** The vector under the pointer or with the focus in words, or else the chosen one. */
    function tell(at) {
      const query = svgQuery(view, setName);
      const hint = view.weights(setName) ? 'Point at a place for its weight.' : '\u00a0';
      const chosen = query === null ? hint : `Chosen: ${sides[0].words(query)}`;
      line.textContent = svgPlain(at === null ? chosen : sides[0].words(at));
    }
    return {
      view, setName,
      element: make('div', { class: 'drawn' }, tools.element, make('div', { class: 'sides' }, ...figures), line),
      update() {
        for (const part of [tools, ...sides]) part.update();
        tell(pointed);
      },
      hover(set, index) {
        const at = set === setName && index !== null && index < view.set(setName).labels.length ? index : null;
        for (const side of sides) side.hover(at);
        pointed = at;
        tell(at);
      },
      drawing() {
        const pictures = svgRow(sides.map((side) => ({ name: side.name, ...side.drawing() }))), legend = tools.drawing();
        svgSet(legend.node, { transform: `translate(1 ${pictures.height + 6})` });
        return { node: svgNode('g', {}, pictures.node, legend.node), width: pictures.width,
          height: pictures.height + 6 + legend.height };
      },
    };
  } };
}

/** A slider for how much of the colours covers the picture, beside what they stand for. */
function svgOpacity(view, setName) {
  const range = make('input', { type: 'range', min: 0, max: 1, step: 0.05,
    oninput: () => view.change({ opacity: Number(range.value) }, { replace: true }) });
  const scale = svgNode('svg', { height: 34, width: 220, 'aria-hidden': 'true', class: 'scale' });
  function update() {
    range.value = view.state.opacity;
    scale.replaceChildren(svgNode('g', { transform: 'translate(1 1)' }, drawing().node));
  }
  const drawing = () => {
    const weights = view.weights(setName);
    return weights ? svgScale(view, weights) : { node: svgNode('g'), height: 0 };
  };
  const label = make('label', {}, 'Opacity of the colours', range);
  return { element: make('div', { class: 'dials' }, label, scale), update, drawing };
}

/** Drawings side by side, each below its name; a drawing is {node, width, height}. */
function svgRow(drawings) {
  const node = svgNode('g');
  let x = 0, height = 0;
  for (const part of drawings) {
    const top = part.name ? 18 : 0;
    if (part.name) node.append(svgText(x, 12, part.name, { 'font-weight': 'bold' }));
    node.append(svgNode('g', { transform: `translate(${x} ${top})` }, part.node));
    x += part.width + 16;
    height = Math.max(height, part.height + top);
  }
  return { node, width: Math.max(0, x - 16), height };
}

/** Two outlines, dark under light, seen on any picture. */
function svgRing(dashes) {
  const line = { fill: 'none', 'vector-effect': 'non-scaling-stroke', 'pointer-events': 'none',
    'stroke-dasharray': dashes };
  const rings = [svgNode('rect', { ...line, stroke: '#000', 'stroke-width': 5, 'stroke-dasharray': null }),
    svgNode('rect', { ...line, stroke: '#fff', 'stroke-width': 2 })];
  const move = (box) => rings.forEach((ring) => svgSet(ring, box
    ? { x: box[0], y: box[1], width: box[2], height: box[3], visibility: null }
    : { visibility: 'hidden' }));
  move(null);
  return { rings, move };
}

// Over a picture, light or dark, one hue is laid on the more densely the larger the weight; where nothing is attended
// to, the picture stays as it is. Differences have two hues, as everywhere on the page.
const SVG_HUES = { weight: [213, 94, 0], plus: [46, 128, 214], minus: [224, 130, 20] };
const svgHue = (value, signed) => SVG_HUES[signed ? (value < 0 ? 'minus' : 'plus') : 'weight'];
const svgPart = (view, value, weights) => Math.abs(scaled(value, weights.max, view.state.scale));

/** The colour of one vector over its place in the picture; none where the chosen map is not about its set. */
function svgShade(view, place, weights, index) {
  const value = weights ? weights.values[index] : 0;
  svgSet(place, { fill: css(svgHue(value, weights && weights.signed)),
    'fill-opacity': weights ? (view.state.opacity * svgPart(view, value, weights)).toFixed(4) : 0 });
}

/** The same colour, opaque, on the paper of the page. */
function svgTint(view, weights, index) {
  const paper = view.theme() === 'dark' ? [26, 31, 38] : [255, 255, 255];
  if (!weights) return paper;
  const part = svgPart(view, weights.values[index], weights), hue = svgHue(weights.values[index], weights.signed);
  return paper.map((one, i) => Math.round(one + part * (hue[i] - one)));
}

/** What the hues stand for, on black and on white: from zero, or from the most negative, to the largest weight. */
function svgScale(view, weights) {
  const steps = 40, wide = 150, node = svgNode('g'), low = weights.signed ? -1 : 0;
  node.append(svgNode('rect', { width: wide, height: 7 }), svgNode('rect', { y: 7, width: wide, height: 7, fill: '#fff' }));
  for (let i = 0; i < steps; i += 1) {
    const at = low + ((1 - low) * (i + 0.5)) / steps;
    node.append(svgNode('rect', { x: (wide * i) / steps, width: wide / steps, height: 14,
      fill: css(svgHue(at, weights.signed)), 'fill-opacity': (view.state.opacity * Math.abs(at)).toFixed(3) }));
  }
  const scale = view.state.scale === 'log' ? ', logarithmic' : ', linear';
  node.append(svgNode('rect', { width: wide, height: 14, fill: 'none', stroke: 'currentColor', 'stroke-width': 0.5 }),
    svgText(0, 28, legendStart(view.state.scale, weights.max, weights.signed)),
    svgText(wide, 28, `${signText(weights.max, weights.signed)}${scale}`, { 'text-anchor': 'middle' }));
  return { node, width: wide + 70, height: 34 };
}

/** A copy for a file of its own: what is said to screen readers becomes a title. */
function svgCopy(node) {
  const copy = node.cloneNode(true);
  copy.querySelectorAll('[visibility=hidden]').forEach((part) => part.remove());
  for (const part of [copy, ...copy.querySelectorAll('*')]) {
    const words = part.getAttribute('aria-label');
    if (words) part.append(svgNode('title', {}, svgPlain(words))); // shown by a viewer under the pointer
    for (const { name } of [...part.attributes]) {
      if (/^(aria-|role$|tabindex$|class$|style$|data-)/.test(name)) part.removeAttribute(name);
    }
  }
  return copy;
}

/** The prefix vectors ([CLS], registers), which have no place in the picture, as chips; also drawn for a file. */
function svgChips(view, setName, set) {
  const chips = Array.from({ length: set.num_prefix }, (_, i) =>
    make('span', { role: 'option', tabindex: '-1', class: 'chip' }, set.labels[i]));
  const element = make('div', { class: 'chips', role: 'none' }, ...chips);
  element.hidden = !chips.length;
  function update(weights) {
    chips.forEach((chip, i) => {
      const colour = svgTint(view, weights, i);
      chip.style.background = css(colour);
      chip.style.color = inkOn(colour);
    });
  }
  function drawing(weights) {
    const node = svgNode('g');
    let x = 0;
    chips.forEach((chip, i) => {
      const colour = svgTint(view, weights, i);
      const words = set.labels[i] + (weights ? ' ' + signText(weights.values[i], weights.signed) : '');
      const wide = 12 + 7.2 * words.length;
      const border = svgIsQuery(view, setName, i) ? 3 : 1;
      node.append(svgNode('rect', { x: x + 1, y: 1, width: wide, height: 20, rx: 4, fill: css(colour),
        stroke: 'currentColor', 'stroke-width': border }));
      node.append(svgText(x + 7, 15, words, { fill: inkOn(colour) }));
      x += wide + 8;
    });
    return { node, width: x, height: chips.length ? 28 : 0 };
  }
  return { chips, element, update, drawing };
}

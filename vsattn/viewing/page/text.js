// The vectors of a set as words in a row: shaded by what they get, chosen by a click or a key.

function makeText(app, setName) {
  const set = app.set(setName);
  const list = make('div', { class: 'tokens', role: 'listbox', 'aria-label': `${setTitle(setName)}: ${set.labels.length} vectors` });
  const tokens = set.labels.map((label, i) => make('span', {
    class: i < set.num_prefix ? 'token prefix' : 'token', role: 'option', dir: 'auto', 'data-index': i, tabindex: -1,
  }, shownLabel(label)));
  list.append(...tokens);
  const told = make('p', { class: 'told' }, '\u00a0');
  const element = make('div', {}, list, told);
  let tab = -1;
  let marked = null;

  function focusable(index) {
    if (tab >= 0) tokens[tab].tabIndex = -1;
    tab = index;
    if (tokens[tab]) tokens[tab].tabIndex = 0;
  }

  function lineMove(step) {
    // The next or previous line, at the nearest place, for the words wrap.
    const here = tokens[tab].getBoundingClientRect();
    let best = tab, gap = Infinity;
    for (let i = tab + step; i >= 0 && i < tokens.length; i += step) {
      const there = tokens[i].getBoundingClientRect();
      if (Math.abs(there.top - here.top) < 4) continue;
      if (gap < Infinity && Math.abs(there.top - tokens[best].getBoundingClientRect().top) > 4) break;
      if (Math.abs(there.left - here.left) < gap) [best, gap] = [i, Math.abs(there.left - here.left)];
    }
    return best;
  }

  list.addEventListener('keydown', (event) => {
    const moves = {
      ArrowRight: () => tab + 1, ArrowLeft: () => tab - 1, Home: () => 0, End: () => tokens.length - 1,
      ArrowDown: () => lineMove(1), ArrowUp: () => lineMove(-1),
    };
    if (event.key === 'Enter' || event.key === ' ') app.choose(setName, tab);
    else if (moves[event.key]) {
      focusable(Math.max(0, Math.min(tokens.length - 1, moves[event.key]())));
      tokens[tab].focus();
    } else return;
    event.preventDefault();
  });
  const indexAt = (event) => {
    const token = event.target.closest('.token');
    return token ? Number(token.dataset.index) : null;
  };
  list.addEventListener('click', (event) => {
    if (indexAt(event) === null) return;
    focusable(indexAt(event));
    tokens[tab].focus({ preventScroll: true });
    app.choose(setName, tab);
  });
  list.addEventListener('pointerover', (event) => app.hover(setName, indexAt(event)));
  list.addEventListener('pointerleave', () => app.hover(setName, null));
  list.addEventListener('focusin', (event) => app.hover(setName, indexAt(event)));

  function wordsOf(i, found) {
    const words = [vectorText(set, i)];
    if (found) words.push(`${found.signed ? 'difference' : 'weight'} ${weightText(found, i)}`);
    if (set.details && set.details[i]) words.push(set.details[i]);
    return words.join(', ');
  }

  function paint(token, i, found) {
    const rgb = found ? app.colour(found.values[i], found.max, found.signed) : null;
    token.style.backgroundColor = rgb ? css(rgb) : '';
    token.style.color = rgb ? inkOn(rgb) : '';
    token.setAttribute('aria-label', wordsOf(i, found));
  }

  return {
    element,
    anchor: (index) => tokens[index],
    hover(name, index) {
      if (marked !== null) tokens[marked].classList.remove('pointed');
      marked = name === setName && tokens[index] ? index : null;
      if (marked !== null) tokens[marked].classList.add('pointed');
      told.textContent = marked === null ? '\u00a0' : wordsOf(marked, app.weights(setName));
    },
    update() {
      const map = app.map();
      list.classList.toggle('roomy', drawsCurves(app) && map.query === map.key && map.key === setName);
      list.classList.toggle('long', tokens.length > CURVE_WORDS);
      const found = app.weights(setName);
      const chosen = app.query && app.query.set === setName ? app.query.index : -1;
      tokens.forEach((token, i) => {
        paint(token, i, found);
        token.setAttribute('aria-selected', String(i === chosen));
      });
      if (!list.contains(document.activeElement)) focusable(chosen >= 0 ? chosen : Math.max(tab, 0));
    },
  };
}

PANELS.text = { title: 'Text', make: makeText };
PANELS.vectors = { title: 'Vectors', make: makeText };

// A picture and, over it, each patch in the colour of its weight.

const IMAGE_SMALL = 400, IMAGE_LARGE = 480; // a small picture is shown at least so wide, a large one at most

/** How many CSS pixels wide a picture is shown: small ones by a whole factor, so that each pixel stays a square. */
function imageWidth([width, height]) {
  const longest = Math.max(width, height);
  const factor = longest < IMAGE_SMALL ? Math.floor(IMAGE_SMALL / longest) : Math.min(1, IMAGE_LARGE / longest);
  return width * factor;
}

function imageSide(view, setName, set, point) {
  const [width, height] = set.size, [rows, columns] = set.grid, prefix = set.num_prefix;
  const small = Math.max(width, height) < IMAGE_SMALL;
  const picture = svgNode('image', { href: set.picture, width, height, preserveAspectRatio: 'none',
    'image-rendering': small ? 'pixelated' : 'auto' });
  const patches = set.boxes.map(([x, y, w, h]) =>
    svgNode('rect', { role: 'option', tabindex: -1, class: 'patch', x, y, width: w, height: h }));
  const chosen = svgRing(null), pointed = svgRing('4 3');
  const svg = svgNode('svg', { viewBox: `0 0 ${width} ${height}`, role: 'none', class: 'picture', overflow: 'visible' },
    picture, ...patches, ...chosen.rings, ...pointed.rings);
  svg.style.maxWidth = `${imageWidth(set.size)}px`;
  const chips = svgChips(view, setName, set);
  const element = make('div', { role: 'listbox', class: 'options', 'aria-label': `Patches, ${rows} rows of ${columns}` },
    chips.element, svg);
  const options = [...chips.chips, ...patches];

  // A label that says the place says it once.
  function place(i) {
    const row = 1 + Math.floor((i - prefix) / columns), column = 1 + ((i - prefix) % columns);
    return set.labels[i].startsWith('row ') ? '' : `row ${row}, column ${column}`;
  }
  const words = (i) => svgWords(set, i, view.weights(setName), i < prefix ? '' : place(i));
  const box = (i) => (i === null || i < prefix ? null : set.boxes[i - prefix]);
  const choose = (i) => view.choose(setName, i);
  const step = (i) => view.choose(setName, i, { replace: true });
  const down = (i) => (i < prefix ? 1 : columns);
  svgRoving(element, { options: () => options, columns: down, point, enter: choose, moved: step });

  function update() {
    const weights = view.weights(setName), query = svgQuery(view, setName);
    chips.update(weights);
    patches.forEach((patch, i) => svgShade(view, patch, weights, i + prefix));
    svgState(options, query, words);
    chosen.move(box(query));
  }
  function drawing() {
    const wide = imageWidth(set.size), high = (wide * height) / width, above = chips.drawing(view.weights(setName));
    const copy = svgSet(svgCopy(svg), { y: above.height, width: wide, height: high });
    return { node: svgNode('g', {}, above.node, copy), width: Math.max(wide, above.width), height: high + above.height };
  }
  return { element, update, words, drawing, hover: (i) => pointed.move(box(i)) };
}

PANELS.image = svgPanel('picture', imageSide, svgOpacity);

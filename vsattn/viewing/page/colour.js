// Colours that stay apart for people who see few of them: lightness alone orders each map.

const ANCHORS = {
  light: {
    // ColorBrewer's Blues: light to dark in one hue.
    sequential: ['#f7fbff', '#deebf7', '#c6dbef', '#9ecae1', '#6baed6', '#4292c6', '#2171b5', '#08519c', '#08306b'],
    diverging: ['#7f3b08', '#b35806', '#e08214', '#fdb863', '#fee0b6', '#f7f7f7',
      '#d1e5f0', '#92c5de', '#4393c3', '#2166ac', '#053061'],
    names: { sequential: 'Blues', diverging: 'orange to blue' },
  },
  dark: {
    // Cividis (Nunez, Anderton and Renslow 2018), ten anchors: dark blue to yellow.
    sequential: ['#00204d', '#00336f', '#39486b', '#575c6d', '#707173', '#8a8779', '#a69d75', '#c4b56c', '#e4cf5b',
      '#ffea46'],
    diverging: ['#ffd9a8', '#f5a742', '#b96d10', '#6b4316', '#22252c', '#1f4466', '#2f79b5', '#6cb0e6', '#c4e3ff'],
    names: { sequential: 'cividis', diverging: 'orange to blue' },
  },
};
// On the logarithmic scale everything below this part of the maximum has the colour of zero.
const LOG_FLOOR = 1e-4;

function parseColour(text) {
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}

const LADDERS = {};
for (const [theme, maps] of Object.entries(ANCHORS)) {
  LADDERS[theme] = { sequential: ladder(maps.sequential), diverging: ladder(maps.diverging) };
}

/** 256 colours between the anchors, so that a canvas of many cells needs only a look-up. */
function ladder(anchors) {
  const stops = anchors.map(parseColour);
  return Array.from({ length: 256 }, (_, i) => {
    const place = i / 255 * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    return stops[low].map((part, c) => Math.round(part + (stops[low + 1][c] - part) * (place - low)));
  });
}

/** Place of a weight on the scale, 0..1 (signed: -1..1). */
function scaled(value, max, scale) {
  if (!(max > 0)) return 0;
  const part = Math.min(Math.abs(value) / max, 1);
  const place = scale === 'log' ? Math.max(0, 1 - Math.log(Math.max(part, LOG_FLOOR)) / Math.log(LOG_FLOOR)) : part;
  return value < 0 ? -place : place;
}

function colourOf(theme, scale, value, max, signed) {
  const place = scaled(value, max, scale);
  const map = LADDERS[theme][signed ? 'diverging' : 'sequential'];
  return map[Math.round((signed ? (place + 1) / 2 : Math.max(place, 0)) * 255)];
}

/** Relative luminance (WCAG 2), to choose black or white letters. */
function luminance(rgb) {
  const [r, g, b] = rgb.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// At a luminance of 0.179 black and white letters contrast equally, by 4.58 to 1.
const inkOn = (rgb) => (luminance(rgb) > 0.179 ? '#000000' : '#ffffff');
const css = (rgb) => `rgb(${rgb[0]},${rgb[1]},${rgb[2]})`;

/** A bar of the colours in use, with the numbers at its ends and middle, and words for scale and map. */
function makeLegend(app) {
  const bar = make('canvas', { class: 'ramp', width: 256, height: 1, 'aria-hidden': 'true' });
  const numbers = make('div', { class: 'numbers' });
  const words = make('p', { class: 'quiet' });
  const element = make('div', { class: 'legend' }, bar, numbers, words);
  return { element, update(max, signed, whose) {
    const log = app.state.scale === 'log';
    const paint = bar.getContext('2d');
    for (let i = 0; i < 256; i += 1) {
      const place = signed ? i / 127.5 - 1 : i / 255;
      paint.fillStyle = css(LADDERS[app.theme()][signed ? 'diverging' : 'sequential'][Math.round((signed ? (place + 1) / 2 : place) * 255)]);
      paint.fillRect(i, 0, 1, 1);
    }
    const middle = log ? max * Math.sqrt(LOG_FLOOR) : max / 2;
    const ends = signed ? [-max, -middle, 0, middle, max] : [log ? max * LOG_FLOOR : 0, middle, max];
    numbers.replaceChildren(...ends.map((end) => make('span', {}, legendNumber(end, signed))));
    const scale = log ? `Logarithmic: each step of equal width multiplies; below ${legendNumber(max * LOG_FLOOR)} as zero.` : 'Linear.';
    const name = ANCHORS[app.theme()].names[signed ? 'diverging' : 'sequential'];
    words.textContent = `${scale} The end is ${whose}. Colours: ${name}.`;
  } };
}

/** The number at the start of a bar of colours: a logarithmic one does not begin at zero. */
function legendStart(scale, max, signed) {
  return legendNumber(signed ? -max : scale === 'log' ? max * LOG_FLOOR : 0);
}

function legendNumber(value, signed) {
  const size = Math.abs(value);
  const text = size === 0 ? '0' : size < 1e-3 ? size.toExponential(1) : size.toFixed(4);
  return (value < 0 ? '−' : signed && value > 0 ? '+' : '') + text;
}

// Characters for which this system has no font: they would be boxes, all alike, so the page names them.

// The same box is drawn for every one of these: code points that no font has, for Unicode gives them no character.
const FONT_MISSING = ['\u{10ffff}', '\uffff', '\u0378'];
const FONT_SIZE = 20;
const FONT_NAMED = 24; // characters named one by one
const FONT_ADVICE = [
  [/[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\p{Script=Bopomofo}]/u, 'Noto Sans CJK'],
  [/\p{Extended_Pictographic}/u, 'Noto Color Emoji'],
];

/** Characters that are drawn: not spaces, controls, lone surrogates, or what only changes its neighbours. */
const fontDrawn = (char) => char.codePointAt(0) > 0x7f
  && !/[\p{Z}\p{Cc}\p{Cs}\p{Default_Ignorable_Code_Point}]/u.test(char);

/** A function from a character to its picture as a string, in the page's own fonts. */
function fontPen() {
  const canvas = make('canvas', { width: 2 * FONT_SIZE, height: 2 * FONT_SIZE });
  const pen = canvas.getContext('2d', { willReadFrequently: true });
  pen.font = `${FONT_SIZE}px ${getComputedStyle(document.body).fontFamily}`;
  pen.textBaseline = 'middle';
  return (char) => {
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.fillText(char, FONT_SIZE / 2, FONT_SIZE);
    return pen.getImageData(0, 0, canvas.width, canvas.height).data.join();
  };
}

/** The distinct characters of the texts that no font of the system has, in order. */
function fontMissing(texts) {
  const found = [...new Set(texts.join(''))].filter(fontDrawn);
  if (!found.length) return [];
  const pen = fontPen(), boxes = new Set(FONT_MISSING.map(pen));
  return found.filter((char) => boxes.has(pen(char))).sort((a, b) => a.codePointAt(0) - b.codePointAt(0));
}

/** Every text of the document that the page shows. */
function fontTexts(doc) {
  const sets = doc.inputs.flatMap((input) => Object.values(input.sets));
  return [doc.title, doc.note, ...doc.inputs.flatMap((input) => [input.caption, input.answer]),
    ...sets.flatMap((set) => [...set.labels, ...(set.details || []), ...(set.classes || [])])].map(String);
}

function fontWords(chars) {
  const number = (char) => char.codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
  const named = chars.slice(0, FONT_NAMED).map((char) => `${char} (U+${number(char)})`);
  const more = chars.length > FONT_NAMED ? ` and ${chars.length - FONT_NAMED} more` : '';
  const advise = (char) => FONT_ADVICE.find(([script]) => script.test(char))?.[1] ?? 'the Noto font of their script';
  const advice = [...new Set(chars.map(advise))].join(' and ');
  return `This system has no font for: ${named.join(', ')}${more}. They are drawn as boxes; install ${advice} to see them.`;
}

TOOLS.fonts = { make(app) {
  const chars = fontMissing(fontTexts(app.doc));
  if (chars.length) {
    app.fontLine = fontWords(chars); // a saved figure has the same boxes
    document.getElementById('messages').after(make('p', { class: 'messages', id: 'fonts' }, app.fontLine));
  }
  return { element: null, update() {} };
} };

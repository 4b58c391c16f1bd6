/**
 * The conversation as it is seen: words that light up when they are heard, and what was never heard struck through.
 */

const TOKEN = /\[[^\][<>|\n]{1,80}\]|<\|speaker:\d{1,4}\|>|\s+|[^\s[<]+|[[<]/gu;

const BELOW_PX = 12;

/**
 * @typedef {object} Piece
 * @property {string} text
 * @property {number} start  code points
 * @property {number} end
 * @property {"word" | "space" | "tag" | "speaker"} kind
 */

/**
 * Text cut into words, tags and what lies between. Together the pieces are the text.
 * @param {string} text
 * @param {number} [start]  code points before it
 * @returns {Piece[]}
 */
export function pieces(text, start = 0) {
  return (text.match(TOKEN) ?? []).map((one) => {
    const from = start;
    start += Array.from(one).length;
    return { text: one, start: from, end: start, kind: kindOf(one) };
  });
}

/** @param {string} piece */
function kindOf(piece) {
  if (/^\s/u.test(piece)) return "space";
  if (/^\[.+\]$/u.test(piece)) return "tag";
  return /^<\|speaker:\d+\|>$/u.test(piece) ? "speaker" : "word";
}

/**
 * How a turn that is over is shown: neighbours that share a fate are one piece, so that a long conversation stays a small document.
 * @param {string} text
 * @param {number} heard  code points of it
 * @returns {{heard: Piece[], cut: Piece[]}}
 */
export function settled(text, heard) {
  /** @type {{heard: Piece[], cut: Piece[]}} */
  const found = { heard: [], cut: [] };
  for (const piece of pieces(text)) {
    const side = piece.start < heard ? found.heard : found.cut;
    const last = side.at(-1);
    const plain = piece.kind === "word" || piece.kind === "space";
    // What is cut off begins with its first word: a line through the space before it looks like a dash.
    if (last && plain && (last.kind === "word" || (last.kind === "space" && side === found.heard))) {
      last.text += piece.text;
      last.end = piece.end;
      last.kind = "word";
    } else {
      side.push({ ...piece });
    }
  }
  return found;
}

/** Without tags and speaker tokens: what is said, and nothing else. @param {string} text */
export function spokenText(text) {
  return text.replace(/\[[^\][\n]{1,80}\]|<\|speaker:\d+\|>/gu, " ").replace(/\s+/gu, " ").trim();
}

/** @param {Piece} piece */
function spanOf({ text, kind }) {
  const node = document.createElement("span");
  node.textContent = kind === "speaker" ? `speaker ${text.match(/\d+/u)?.[0]}` : text;
  if (kind !== "word") node.classList.add(kind);
  return node;
}

/** One utterance of Parley's. */
export class Said {
  /** @param {import("./parley.js").Turn} turn */
  constructor(turn) {
    this.turn = turn;
    this.element = document.createElement("li");
    this.element.className = "said parley";
    this.line = document.createElement("p");
    this.meta = document.createElement("div");
    this.meta.className = "meta";
    this.element.append(this.line, this.meta);
    /** @type {{node: HTMLElement, start: number, end: number}[]} */
    this.spans = []; // of each word, as long as it may still light up
    this.shown = ""; // text that has spans
    this.lit = 0; // spans that are heard
    this.chars = 0;
    this.settledAs = ""; // what `settle` has shown
  }

  /** Show text that has come since. */
  grow() {
    const { text } = this.turn;
    if (text === this.shown) return;
    // The last piece may go on: a word that was cut, a tag that is not closed.
    const kept = this.spans.slice(0, -1);
    const from = this.spans.at(-1)?.start ?? 0;
    for (const { node } of this.spans.slice(kept.length)) node.remove();
    this.spans = kept;
    this.lit = Math.min(this.lit, kept.length);
    const rest = Array.from(text).slice(from).join("");
    for (const piece of pieces(rest, from)) {
      const node = spanOf(piece);
      this.spans.push({ node, start: piece.start, end: piece.end });
      this.line.append(node);
    }
    this.shown = text;
    this.light(this.chars);
  }

  /**
   * So many code points have begun to sound.
   * @param {number} chars
   * @returns {HTMLElement | null} the word that sounds now, where it is another one than before
   */
  light(chars) {
    this.chars = chars;
    const before = this.lit;
    while (this.lit < this.spans.length && this.spans[this.lit].start < chars) this.lit += 1;
    if (this.lit === before) return null;
    for (const { node } of this.spans.slice(Math.max(0, before - 2), this.lit)) {
      node.classList.add("heard");
      node.classList.remove("now");
    }
    const last = this.spans.slice(0, this.lit).findLast(({ node }) => /[\p{L}\p{N}]/u.test(node.textContent ?? ""));
    if (!last || this.turn.over) return null;
    last.node.classList.add("now");
    return last.node;
  }

  /** It is over: what was heard stands, the rest is struck through. */
  settle() {
    const { heard, text } = this.turn;
    if (!heard) return this.grow();
    const until = heard.remaining.trim() ? heard.char_end : Infinity;
    if (this.settledAs === `${until}:${text}`) return;
    this.settledAs = `${until}:${text}`;
    this.spans = [];
    const { heard: stands, cut } = settled(text, until);
    const spans = stands.map(spanOf);
    for (const node of spans) node.classList.add("heard");
    this.line.replaceChildren(...spans);
    if (!cut.length) return;
    const hint = document.createElement("span");
    hint.className = "hidden";
    hint.textContent = " (not heard:) ";
    const struck = document.createElement("del");
    struck.append(hint, ...cut.map(spanOf));
    this.line.append(struck);
  }
}

/**
 * Scroll a list, and nothing around it, so that something in it is seen.
 * @param {HTMLElement} list
 * @param {HTMLElement} inside
 */
export function show(list, inside) {
  const [box, wanted] = [list.getBoundingClientRect(), inside.getBoundingClientRect()];
  if (wanted.bottom > box.bottom - BELOW_PX) list.scrollTop += wanted.bottom - box.bottom + BELOW_PX;
  else if (wanted.top < box.top) list.scrollTop += wanted.top - box.top;
}

/** What somebody typed or said. @param {string} text */
export function youSaid(text) {
  const element = document.createElement("li");
  element.className = "said you";
  const line = document.createElement("p");
  line.textContent = text;
  element.append(line);
  return element;
}

/**
 * The text of every turn that is not over, so that what a lost socket swallowed can be sent again.
 *
 * Counts in code points, as the protocol does. Does not know sockets.
 */

const APPEND_CHARS = 4096; // of one text.append

/** @typedef {{type: string, [field: string]: unknown}} Command */
/** @typedef {{fields: object, text: string, ended: boolean}} Entry */
/** @typedef {{turn: string, text_chars: number, text_ended: boolean}} Known  of session.created's `turns` */

export class Journal {
  constructor() {
    /** @type {Map<string, Entry>} */
    this.entries = new Map();
  }

  /**
   * @param {string} turn
   * @param {object} fields  of turn.start
   * @returns {Command[]} what to send
   */
  start(turn, fields) {
    this.entries.set(turn, { fields, text: "", ended: false });
    return [{ type: "turn.start", turn, ...fields }];
  }

  /**
   * @param {string} turn
   * @param {string} text
   * @returns {Command[]}
   */
  append(turn, text) {
    const entry = this.entries.get(turn);
    if (!entry || entry.ended || !text) return [];
    entry.text += text;
    return appends(turn, text);
  }

  /**
   * @param {string} turn
   * @returns {Command[]}
   */
  end(turn) {
    const entry = this.entries.get(turn);
    if (!entry || entry.ended) return [];
    entry.ended = true;
    return [{ type: "turn.end", turn }];
  }

  /** The server has said the last about it. @param {string} turn */
  done(turn) {
    this.entries.delete(turn);
  }

  /**
   * What a session that goes on lacks of the turns that it knows.
   * @param {Known[]} known
   * @returns {Command[]}
   */
  missing(known) {
    return known.flatMap(({ turn, text_chars, text_ended }) => {
      const entry = this.entries.get(turn);
      if (!entry || text_ended) return [];
      const rest = Array.from(entry.text).slice(text_chars).join("");
      return [...appends(turn, rest), ...(entry.ended ? [{ type: "turn.end", turn }] : [])];
    });
  }

  /**
   * Whole turns that a session has never heard of, or all of them for a new one.
   * @param {Iterable<string>} [turns]
   * @returns {Command[]}
   */
  again(turns = this.entries.keys()) {
    return [...turns].flatMap((turn) => {
      const entry = this.entries.get(turn);
      if (!entry) return [];
      const start = { type: "turn.start", turn, ...entry.fields };
      return [start, ...appends(turn, entry.text), ...(entry.ended ? [{ type: "turn.end", turn }] : [])];
    });
  }
}

/**
 * In pieces as large as one message may be, never through the middle of a character.
 * @param {string} turn
 * @param {string} text
 * @returns {Command[]}
 */
function appends(turn, text) {
  if (text.length <= APPEND_CHARS) return text ? [{ type: "text.append", turn, text }] : [];
  const characters = Array.from(text);
  const pieces = [];
  for (let at = 0; at < characters.length; at += APPEND_CHARS) {
    pieces.push({ type: "text.append", turn, text: characters.slice(at, at + APPEND_CHARS).join("") });
  }
  return pieces;
}

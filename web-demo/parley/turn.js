/**
 * One utterance: its text, where its words are in the sound, and how far it was heard.
 */

/** @typedef {{start: number, end: number, startMs: number, endMs: number, speaker: number | null}} Word  start, end: code points */
/** @typedef {{ms: number, text: string, remaining: string, char_end: number, source: string}} HeardText */

/** What is measured of a turn; times are performance.now(), in ms. */
export class Trace {
  constructor() {
    this.began = performance.now(); // its first text was sent, or it was opened
    /** @type {[number, number][]} */
    this.texts = []; // when, characters so far
    /** @type {[number, number][]} */
    this.arrivals = []; // when, ms of audio so far
    /** @type {[number, number][]} */
    this.leads = []; // when, ms that were here and not played
    /** @type {number[]} */
    this.underruns = []; // sound was missing although there was text
    /** @type {number[]} */
    this.waits = []; // what had come of the text was said, and the rest was awaited
    /** @type {[number, number | null][]} */
    this.pauses = []; // by request
    /** @type {[number, number | null][]} */
    this.gaps = []; // of both kinds above
    /** @type {number | null} */
    this.firstPacket = null;
    /** @type {number | null} */
    this.firstSound = null;
    /** @type {number | null} */
    this.cancelled = null; // somebody wanted silence
    /** @type {number | null} */
    this.silent = null; // there was
    /** @type {number | null} */
    this.confirmed = null; // the server said what was heard
    /** @type {number | null} */
    this.ended = null;
  }

  /** Nothing is left to play. */
  gap() {
    this.gaps.push([performance.now(), null]);
  }

  /** There is sound. */
  goesOn() {
    const last = this.gaps.at(-1);
    if (last) last[1] ??= performance.now();
  }

  /** @param {number} at @param {number} leadMs */
  lead(at, leadMs) {
    const last = this.leads.at(-1);
    if (!last || at - last[0] >= 40) this.leads.push([at, leadMs]);
  }
}

export class Turn extends EventTarget {
  /** @param {string} id */
  constructor(id) {
    super();
    this.id = id;
    /** @type {number | null} */
    this.n = null; // the server's number, once it speaks
    this.text = ""; // all that was sent
    this.ended = false; // no more text comes
    /** @type {"open" | "speaking" | "played" | "cut" | "failed"} */
    this.state = "open";
    /** @type {Map<number, Word>} */
    this.words = new Map(); // by `start`
    this.heardMs = 0; // what is known so far
    /** @type {HeardText | null} */
    this.heard = null; // the server's last word about it
    /** @type {any} */
    this.done = null; // turn.done
    this.received = 0; // samples, without a gap
    this.sampleRate = 48000;
    this.trace = new Trace();
    /** @type {Promise<Turn>} */
    this.finished = new Promise((resolve) => (this.finish = () => resolve(this))); // played to the end, cut or failed
  }

  get over() {
    return this.state === "played" || this.state === "cut" || this.state === "failed";
  }

  /** @param {any[]} items  of an alignment event */
  align(items) {
    for (const [, startMs, endMs, start, end, speaker] of items) this.words.set(start, { startMs, endMs, start, end, speaker });
  }

  /**
   * How many code points have begun to sound after so many ms.
   * @param {number} ms
   */
  charsAt(ms) {
    let chars = 0;
    for (const word of this.words.values()) if (word.startMs <= ms && word.end > chars) chars = word.end;
    return chars;
  }

  /** Whether more could have been spoken by now: all text is there, or a sentence beyond what has sounded. */
  get hasText() {
    let spoken = 0;
    for (const { end } of this.words.values()) spoken = Math.max(spoken, end);
    return this.ended || /[.!?\u2026]\s/u.test(Array.from(this.text).slice(spoken).join("").trimStart());
  }

  /** It was heard so far and no further; what the server says of that, now or later, goes before. @param {number} ms */
  stopAt(ms) {
    this.heardMs = ms;
    this.ended = true;
    const chars = Array.from(this.text);
    const heard = this.charsAt(ms);
    this.heard ??= { ms, text: chars.slice(0, heard).join(""), remaining: chars.slice(heard).join(""), char_end: heard, source: "client" };
  }

  /** It is over. @param {"played" | "cut" | "failed"} state */
  conclude(state) {
    this.state = state;
    this.trace.ended = performance.now();
    if (state === "played") {
      this.heard = { ms: this.heardMs, text: this.text, remaining: "", char_end: Array.from(this.text).length, source: "client" };
    }
    this.finish?.();
  }

  /** For a page that is loaded again. */
  toJSON() {
    const { id, n, text, ended, state, heardMs, heard, done } = this;
    return { id, n, text, ended, state, heardMs, heard, done, words: [...this.words.values()] };
  }

  /** @param {any} stored */
  static fromJSON(stored) {
    const turn = new Turn(stored.id);
    const { words, ...rest } = stored;
    Object.assign(turn, rest);
    for (const word of words) turn.words.set(word.start, word);
    turn.received = Math.floor((turn.heardMs * turn.sampleRate) / 1000);
    if (turn.over) turn.finish?.();
    return turn;
  }
}

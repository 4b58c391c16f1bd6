/**
 * The conversation as the page has it: its utterances one below the other, what is kept of them for a file and for a language model, and
 * lines for who listens to the page instead of looking at it.
 */

import { Said, show, spokenText, youSaid } from "./transcript.js";

const SHOWN = 60; // utterances on the page; what is saved has all
const LINES = 20; // for who listens

/** @typedef {import("./parley.js").Turn} Turn */
/** @typedef {import("./keeping.js").Entry} Entry */

export class Talk {
  /**
   * @param {{list: HTMLElement, log: HTMLElement, empty: HTMLElement}} places
   * @param {(turn: Turn) => HTMLElement[]} offers  what can be done with a turn that is over
   */
  constructor({ list, log, empty }, offers) {
    this.list = list;
    this.log = log;
    this.empty = empty;
    this.offers = offers;
    /** @type {Map<string, Said>} */
    this.said = new Map(); // what is on the page, by turn
    /** @type {Entry[]} */
    this.entries = [];
    /** @type {Map<string, Entry>} */
    this.entryOf = new Map();
  }

  /** A turn has begun, or has changed. @param {Turn} turn @returns {boolean} whether it is a new one */
  follow(turn) {
    const known = this.said.get(turn.id);
    if (!known && turn.over) return false; // it was let go
    const said = known ?? this.begin(turn);
    if (turn.over) this.settle(turn, said);
    else said.grow();
    return !known;
  }

  /** @param {Turn} turn */
  begin(turn) {
    const said = new Said(turn);
    this.said.set(turn.id, said);
    const entry = { who: /** @type {const} */ ("parley"), text: turn.text, at: Date.now() };
    this.entryOf.set(turn.id, entry);
    this.entries.push(entry);
    this.append(said.element);
    return said;
  }

  /** Somebody has written. @param {string} text */
  hear(text) {
    this.entries.push({ who: "you", text, at: Date.now() });
    this.append(youSaid(text));
  }

  /** @param {HTMLElement} element */
  append(element) {
    this.list.append(element);
    this.empty.hidden = true;
    while (this.list.children.length > SHOWN) this.list.firstElementChild?.remove();
    for (const [id, said] of this.said) {
      if (said.element.isConnected) continue;
      this.said.delete(id);
      this.entryOf.delete(id);
    }
    show(this.list, element);
  }

  /** A turn is over. @param {Turn} turn */
  end(turn) {
    const said = this.said.get(turn.id);
    if (said) {
      this.settle(turn, said);
      show(this.list, said.meta);
    }
    const heard = spokenText(turn.heard?.text ?? "");
    const rest = spokenText(turn.heard?.remaining ?? "");
    if (heard || rest) this.announce(rest ? `Parley, cut off after: ${heard || "nothing"}. Not heard: ${rest}` : `Parley: ${heard}`);
  }

  /** @param {Turn} turn @param {Said} said */
  settle(turn, said) {
    said.settle();
    const entry = this.entryOf.get(turn.id);
    if (entry) Object.assign(entry, { text: turn.text, heard: turn.heard?.text, remaining: turn.heard?.remaining, ms: turn.heardMs });
    const words = document.createElement("span");
    words.textContent = outcome(turn);
    if (turn.state !== "played") words.className = "reason";
    said.meta.replaceChildren(words, ...said.meta.querySelectorAll(".warning"), ...this.offers(turn));
  }

  /** A remark under a turn. @param {string | undefined} turn @param {string} message @returns {boolean} whether it is there to have one */
  remark(turn, message) {
    const said = turn ? this.said.get(turn) : undefined;
    if (!said) return false;
    const remark = document.createElement("span");
    remark.className = "warning";
    remark.textContent = message;
    said.meta.append(remark);
    return true;
  }

  /** So far a turn is heard. @param {Turn} turn @param {number} ms */
  light(turn, ms) {
    const word = this.said.get(turn.id)?.light(turn.charsAt(ms));
    if (word) show(this.list, word);
  }

  /** @param {string} text */
  announce(text) {
    const line = document.createElement("p");
    line.textContent = text;
    this.log.append(line);
    while (this.log.children.length > LINES) this.log.firstElementChild?.remove();
  }

  /** For a page that is loaded again. */
  toJSON() {
    return { entries: this.entries, turns: [...this.entryOf].map(([id, entry]) => [id, this.entries.indexOf(entry)]) };
  }

  /** @param {any} stored @param {Map<string, Turn>} turns  that may still go on */
  restore(stored, turns) {
    this.entries = stored.entries;
    const ids = new Map(stored.turns.map((/** @type {[string, number]} */ [id, index]) => [index, id]));
    const first = Math.max(0, this.entries.length - SHOWN);
    this.entries.slice(first).forEach((entry, i) => {
      if (entry.who === "you") return this.append(youSaid(entry.text));
      const id = /** @type {string | undefined} */ (ids.get(first + i)) ?? crypto.randomUUID();
      const turn = turns.get(id) ?? pastTurn(entry, id);
      const said = new Said(turn);
      this.said.set(turn.id, said);
      this.entryOf.set(turn.id, entry);
      this.append(said.element);
      this.follow(turn);
    });
  }
}

/** What became of it, in words. @param {Turn} turn */
function outcome({ text, state, heardMs }) {
  const seconds = (heardMs / 1000).toFixed(1);
  if (!text.trim()) return "no answer";
  if (state === "failed") return "could not be spoken";
  return state === "cut" ? `cut off after ${seconds} s` : `heard, ${seconds} s`;
}

/** A turn that is only remembered. @param {Entry} entry @param {string} id @returns {any} */
function pastTurn({ text, heard = text, remaining = "", ms = 0 }, id) {
  const state = remaining.trim() ? "cut" : "played";
  return { id, text, over: true, state, heardMs: ms, heard: { text: heard, remaining, char_end: Array.from(heard).length } };
}

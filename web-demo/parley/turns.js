/**
 * The turns of a conversation, in the order in which they were begun: which one sounds, how far they have come, and what of them is
 * kept for a page that is loaded again.
 */

import { Turn } from "./turn.js";

/** By id. @extends {Map<string, Turn>} */
export class Turns extends Map {
  constructor() {
    super();
    /** @type {Map<number, Turn>} */
    this.byNumber = new Map(); // those that the server has begun to speak
  }

  /** The server speaks it, as its turn `n`. @param {Turn} turn @param {number} n */
  number(turn, n) {
    turn.n = n;
    this.byNumber.set(n, turn);
  }

  /** The turn that sounds, or would next; null: none. @returns {Turn | null} */
  get current() {
    for (const turn of this.values()) if (!turn.over) return turn;
    return null;
  }

  /** Up to where all samples are here. */
  have() {
    let last = null;
    for (const [n, turn] of this.byNumber) if (turn.received) last = { n, position: turn.received };
    return last;
  }

  /** Let go of turns that are over, but the last ones. @param {number} kept */
  forget(kept) {
    for (const turn of [...this.values()].slice(0, -kept)) {
      if (!turn.over) continue;
      this.delete(turn.id);
      if (turn.n !== null) this.byNumber.delete(turn.n);
    }
  }

  /**
   * @param {any[]} stored  turns as JSON; what only waited to be played was lost with the page, and comes again
   * @param {import("./journal.js").Journal} journal
   */
  restore(stored, journal) {
    for (const one of stored) {
      const turn = Turn.fromJSON(one);
      this.set(turn.id, turn);
      if (turn.n !== null) this.byNumber.set(turn.n, turn);
      // A text that was still being written gets no more.
      if (!turn.over && !turn.done) journal.entries.set(turn.id, { fields: {}, text: turn.text, ended: true });
      if (!turn.over) turn.done = null; // it is told again
    }
  }
}

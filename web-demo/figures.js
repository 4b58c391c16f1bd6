/** What is measured of one turn: its timeline, and the figures below it. */

import { drawTimeline } from "./timeline.js";

const EDGE = 8; // reports of the player, some 0.4 s: at the start and at the end of a turn there is no lead to have

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

export class Figures {
  constructor() {
    /** @type {import("./parley.js").Turn | null} */
    this.turn = null; // the one that is measured
    /** @type {number | null} */
    this.cancelMs = null; // until there was silence, when it was last wanted
  }

  /** @param {{turn: number | null, ms: number}} heard */
  draw(heard) {
    const { turn } = this;
    drawTimeline($("timeline"), turn);
    const trace = turn?.trace;
    const rtf = turn?.done?.metrics?.rtf;
    const first = trace?.firstSound ? trace.firstSound - trace.began : null;
    const leads = trace?.leads.slice(EDGE, turn?.done ? -EDGE : undefined).map(([, ms]) => ms) ?? [];
    const ms = turn && !turn.over && heard.turn === turn.n ? heard.ms : turn?.heardMs ?? 0;
    write("f-first", first === null ? "–" : `${Math.round(first)} ms`);
    write("f-rtf", rtf == null ? "–" : rtf.toFixed(2));
    write("f-cancel", this.cancelMs === null ? "–" : `${Math.round(this.cancelMs)} ms`);
    write("f-lead", leads.length ? `${Math.round(Math.min(...leads))} ms` : "–");
    write("f-underruns", turn ? String(trace?.underruns.length) : "–");
    write("f-heard", turn ? `${(ms / 1000).toFixed(1)} s` : "–");
  }
}

/** @param {string} id @param {string} value */
function write(id, value) {
  if ($(id).textContent !== value) $(id).textContent = value;
}

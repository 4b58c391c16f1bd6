/**
 * The caller's side: what the microphone hears goes to the server, and whoever speaks is given way to.
 *
 * The server hears that speech begins and pauses the turn; then all is silent here. Whether it was meant is decided here: after so much
 * speech it is an interruption, and what ends before was a cough, after which the turn goes on.
 */

import { FIRST, LAST, pack } from "./frame.js";
import { Microphone } from "./microphone.js";
import { VoiceJudge } from "./voice.js";

const RATE_HZ = 16000;
const LATEST_VERDICT_MS = 700; // the server tells the end of speech 0.4 s after it: who is not told to have ended by then goes on
const RESUME_AFTER_MS = 1500; // where this page is gone, the server lets the turn go on by itself

/** @typedef {{confirmMs?: number, minSpeechMs?: number, constraints?: MediaTrackConstraints}} ListenOptions */

/** Events: "hop" (of the microphone), "meant" (it is an interruption), "cough" (it was none), "lost" (the microphone was taken away). */
export class Uplink extends EventTarget {
  /**
   * @param {import("./live.js").Live} live
   * @param {AudioContext} context
   * @param {ListenOptions} options
   */
  static async open(live, context, { confirmMs = 200, minSpeechMs = 64, constraints } = {}) {
    const microphone = await Microphone.open(context, constraints);
    return new Uplink(live, microphone, confirmMs, minSpeechMs);
  }

  /** @param {import("./live.js").Live} live @param {Microphone} microphone @param {number} confirmMs @param {number} minSpeechMs */
  constructor(live, microphone, confirmMs, minSpeechMs) {
    super();
    this.live = live;
    this.microphone = microphone;
    this.judge = new VoiceJudge(confirmMs);
    this.input = { format: "pcm_s16le", rate: RATE_HZ, barge_in: "pause", min_speech_ms: minSpeechMs, resume_after_ms: RESUME_AFTER_MS };
    this.position = 0;
    this.flags = FIRST;
    /** @type {number | null} */
    this.doubtSince = null; // somebody speaks over a turn, and whether it is meant is open
    microphone.addEventListener("hop", (/** @type {any} */ { detail }) => this.hear(detail));
    microphone.addEventListener("lost", () => this.dispatchEvent(new Event("lost")));
    this.announce();
  }

  /** Tell the server what comes: now, and to each session and socket after this one. */
  announce() {
    this.position = 0;
    this.flags = FIRST;
    this.live.send("audio.input", this.input);
  }

  /** @param {{samples: Int16Array, level: number, voiced: boolean}} hop */
  hear(hop) {
    if (this.live.open) {
      this.live.sendBinary(pack(hop.samples, this.position, this.flags));
      this.position += hop.samples.length;
      this.flags = 0;
    }
    this.judge.hear(hop);
    this.dispatchEvent(new CustomEvent("hop", { detail: hop }));
    if (this.doubtSince === null) return;
    if (this.judge.confirmed || performance.now() - this.doubtSince > LATEST_VERDICT_MS) this.decide("meant");
  }

  /** The server has paused a turn because somebody speaks. */
  doubt() {
    this.doubtSince = performance.now();
    if (this.judge.confirmed) this.decide("meant");
  }

  /** The server hears nobody any more. */
  quiet() {
    if (this.doubtSince !== null) this.decide("cough");
  }

  /** Somebody else has decided. */
  settle() {
    this.doubtSince = null;
  }

  /** @param {"meant" | "cough"} verdict */
  decide(verdict) {
    this.doubtSince = null;
    this.dispatchEvent(new Event(verdict));
  }

  close() {
    this.microphone.close();
    this.live.sendBinary(pack(new Int16Array(0), this.position, LAST));
  }
}

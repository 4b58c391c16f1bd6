/**
 * The audio thread of the player: messages in, quanta out, and a clock that counts what was handed out.
 *
 * In:  {type: "audio", turn, samples: Float32Array, position}   in order
 *      {type: "end", turn}      nothing more of this turn
 *      {type: "drop", turn}     leave out what is still here of it
 *      {type: "hold", on}       be silent and keep everything, or go on
 *      {type: "stop"}           fade out and drop everything; answered by a clock with "stopped"
 * Out: {type: "clock", happened, turn, played, at, running, buffered, underruns, overflows, levels}
 *      `at`: seconds of the context's clock at which sample `played` was, or will be, handed out; levels: RMS of each 20 ms since the last message
 */

import { Ring } from "./ring.js";

const CAPACITY_S = 45; // the server sends 30 s again at most after a lost socket, and some seconds ahead
const PREBUFFER_S = 0.1; // two frames of the model: with one, a hiccup of 60 ms anywhere is heard
const FADE_S = 0.008; // shorter clicks, longer is heard as a fade
const REPORT_S = 0.05;
const LEVEL_S = 0.02;

class PlayerProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.ring = new Ring(CAPACITY_S * sampleRate, PREBUFFER_S * sampleRate, Math.round(FADE_S * sampleRate));
    this.unreported = 0; // samples of time
    this.at = 0; // s, of the context's clock: when the sample behind the last one that was handed out would follow
    this.power = 0;
    this.counted = 0;
    /** @type {number[]} */
    this.levels = [];
    /** @type {any[]} */
    this.late = []; // what came while all was fading out, and is not to be dropped with it
    this.port.onmessage = ({ data }) => (this.ring.stopping ? this.late.push(data) : this.receive(data));
  }

  /** @param {any} message */
  receive(message) {
    if (message.type === "audio") this.ring.push(message.turn, message.samples, message.position);
    else if (message.type === "end") this.ring.end(message.turn);
    else if (message.type === "drop") this.ring.drop(message.turn);
    else if (message.type === "hold") this.ring.held = message.on;
    else this.ring.stop();
  }

  /**
   * @param {Float32Array[][]} _inputs
   * @param {Float32Array[][]} outputs
   */
  process(_inputs, [[output]]) {
    const { turn, played } = this.ring;
    const happened = this.ring.render(output);
    if (this.ring.filled) this.at = (currentFrame + output.length) / sampleRate;
    this.measure(output);
    this.unreported += output.length;
    if (happened.length || this.unreported >= REPORT_S * sampleRate) {
      const stopped = happened.includes("stopped");
      this.report(happened, stopped ? turn : this.ring.turn, stopped && turn !== null ? Math.max(played, this.ring.played) : this.ring.played);
    }
    if (!this.ring.stopping && this.late.length) this.late.splice(0).forEach((message) => this.receive(message));
    return true;
  }

  /** @param {Float32Array} output */
  measure(output) {
    for (let i = 0; i < output.length; i++) this.power += output[i] * output[i];
    this.counted += output.length;
    if (this.counted < LEVEL_S * sampleRate) return;
    this.levels.push(Math.sqrt(this.power / this.counted));
    this.power = this.counted = 0;
  }

  /**
   * @param {string[]} happened
   * @param {number | null} turn
   * @param {number} played
   */
  report(happened, turn, played) {
    this.unreported = 0;
    const { running, held, gain, buffered, underruns, overflows } = this.ring;
    const at = this.at;
    const moving = running && !(held && gain === 0);
    this.port.postMessage({ type: "clock", happened, turn, played, at, running: moving, buffered, underruns, overflows, levels: this.levels });
    this.levels = [];
  }
}

registerProcessor("parley-player", PlayerProcessor);

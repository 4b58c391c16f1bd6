/**
 * Plays the samples of one turn after another on the audio clock. Knows which turn each sample belongs to and how many of it were
 * played. Does not know the network.
 *
 * In:  {type: "audio", turn, samples: Float32Array}   in order
 *      {type: "end", turn}                            no more audio of this turn
 *      {type: "stop"}                                 drop everything, now; answered by "stopped"
 * Out: {type: "played", turn, samples, buffered}      some 20 times a second while there is something to play
 *      {type: "ended", turn}                          its last sample was played
 *      {type: "stopped", turn, samples}               what was played of the turn that sounded (turn null: none)
 */

const PREBUFFER_S = 0.08; // two frames of the model: less runs dry at the first hiccup, and after a gap it is collected again
const REPORT_S = 0.05;

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = []; // {turn, samples} or {turn, end: true}
    this.offset = 0; // samples of queue[0] that were played
    this.buffered = 0; // samples in the queue
    this.turn = null; // that sounds
    this.played = 0; // samples of it
    this.running = false; // false while the buffer fills
    this.unreported = 0;
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  receive(message) {
    if (message.type === "stop") {
      this.port.postMessage({ type: "stopped", turn: this.turn, samples: this.played });
      this.queue = [];
      this.offset = this.buffered = this.played = 0;
      this.turn = null;
      this.running = false;
    } else if (message.type === "audio") {
      this.queue.push({ turn: message.turn, samples: message.samples });
      this.buffered += message.samples.length;
    } else {
      this.queue.push({ turn: message.turn, end: true });
    }
    const complete = this.queue.some((item) => item.end);
    if (complete || this.buffered >= PREBUFFER_S * sampleRate) this.running = true;
  }

  process(_inputs, [[output]]) {
    let filled = 0;
    while (this.running && filled < output.length && this.queue.length) {
      const item = this.queue[0];
      if (item.turn !== this.turn) {
        this.turn = item.turn;
        this.played = 0;
      }
      if (item.end) {
        this.queue.shift();
        this.report();
        this.port.postMessage({ type: "ended", turn: item.turn });
        this.turn = null;
        this.played = 0;
        continue;
      }
      const count = Math.min(output.length - filled, item.samples.length - this.offset);
      output.set(item.samples.subarray(this.offset, this.offset + count), filled);
      filled += count;
      this.offset += count;
      this.played += count;
      this.buffered -= count;
      if (this.offset === item.samples.length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    if (!this.queue.length) this.running = false;
    this.unreported += filled;
    if (this.unreported >= REPORT_S * sampleRate) this.report();
    return true;
  }

  report() {
    this.unreported = 0;
    this.port.postMessage({ type: "played", turn: this.turn, samples: this.played, buffered: this.buffered });
  }
}

registerProcessor("player", Player);

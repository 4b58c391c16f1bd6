/**
 * What is to be played, and exactly how much of it was: a ring buffer of samples that knows which turn each belongs to.
 *
 * Runs in the audio thread, so nothing is allocated per quantum but messages. Does not know the network, codecs or clocks: `render` is
 * called for each quantum, and counting what it hands out is the clock.
 */

/**
 * @typedef {object} Run  samples of one turn that follow each other
 * @property {number} turn
 * @property {number} position  within the turn, of the next sample to be played
 * @property {number} count     samples in the ring
 * @property {boolean} ended    nothing of the turn follows
 * @property {boolean} dropped  to be passed over
 */

const MOST = 6;

export class Ring {
  /**
   * @param {number} capacity   samples
   * @param {number} prebuffer  samples that are gathered before anything sounds; twice as many after each gap, up to `MOST` times,
   *   and fewer again after each turn without one
   * @param {number} fade       samples to go from full volume to silence and back
   */
  constructor(capacity, prebuffer, fade) {
    this.data = new Float32Array(capacity);
    this.prebuffer = prebuffer;
    this.gathered = prebuffer; // the present number of them
    this.gapless = true; // the turn that sounds has had no gap
    this.fade = fade;
    this.read = 0; // index of the next sample to be played
    this.buffered = 0;
    /** @type {Run[]} */
    this.runs = [];
    /** @type {number | null} */
    this.turn = null; // that sounds
    this.played = 0; // samples of it: the position behind the last one that was handed out
    this.running = false; // false while samples are gathered
    this.held = false; // silent by request; what is here stays
    this.stopping = false; // fading out, then all is dropped
    this.gain = 1;
    this.underruns = 0; // times that samples were missing although the turn went on
    this.overflows = 0; // samples that found no place
    this.filled = 0; // samples of the last quantum that are of a turn
  }

  /**
   * Samples of a turn, in order.
   * @param {number} turn
   * @param {Float32Array} samples
   * @param {number} position  of the first of them; where it is not the next one, what lies between is left out
   */
  push(turn, samples, position) {
    let run = this.runs.at(-1);
    if (!run || run.turn !== turn || run.position + run.count !== position || run.ended || run.dropped) {
      run = { turn, position, count: 0, ended: false, dropped: false };
      this.runs.push(run);
    }
    const free = this.data.length - this.buffered;
    const taken = samples.length <= free ? samples : samples.subarray(0, free);
    this.overflows += samples.length - taken.length;
    const start = (this.read + this.buffered) % this.data.length;
    const first = taken.subarray(0, Math.min(taken.length, this.data.length - start));
    this.data.set(first, start);
    this.data.set(taken.subarray(first.length), 0);
    run.count += taken.length;
    this.buffered += taken.length;
    if (this.buffered >= this.gathered) this.running = true;
  }

  /**
   * Nothing of this turn follows.
   * @param {number} turn
   */
  end(turn) {
    const run = this.runs.findLast((one) => one.turn === turn);
    if (run) run.ended = true;
    else this.runs.push({ turn, position: 0, count: 0, ended: true, dropped: false });
    this.running = true;
  }

  /**
   * Leave out what is still here of a turn that does not sound yet.
   * @param {number} turn
   */
  drop(turn) {
    for (const run of this.runs) if (run.turn === turn) run.dropped = true;
  }

  /** Fade out and drop everything. `render` returns "stopped" when that is done. */
  stop() {
    this.stopping = true;
  }

  /**
   * Fill a quantum.
   * @param {Float32Array} output
   * @returns {string[]} what happened in it, in order: "started", "ended:N", "stalled", "stopped"
   */
  render(output) {
    const happened = [];
    let filled = 0;
    const silent = this.gain === 0 && (this.held || this.stopping);
    while (this.running && !silent && filled < output.length) {
      const run = this.runs[0];
      if (!run) break;
      if (run.dropped) {
        this.skip(run.count);
        this.runs.shift();
        continue;
      }
      if (run.turn !== this.turn) {
        this.turn = run.turn;
        this.played = run.position;
        happened.push("started");
      }
      if (run.count === 0) {
        if (!run.ended && this.runs.length === 1) break;
        this.runs.shift();
        if (run.ended) this.finish(run.turn, happened);
        continue;
      }
      filled += this.copy(run, output, filled);
    }
    this.filled = filled;
    this.shape(output, filled);
    if (filled < output.length && this.running && !silent) this.runDry(happened);
    if (this.stopping && (this.gain === 0 || filled === 0)) {
      this.clear();
      happened.push("stopped");
    }
    return happened;
  }

  /** @param {number} turn @param {string[]} happened */
  finish(turn, happened) {
    happened.push(`ended:${turn}`);
    if (this.gapless) this.gathered = Math.max(this.prebuffer, this.gathered / 2);
    this.gapless = true;
  }

  /** @param {string[]} happened */
  runDry(happened) {
    const open = this.runs[0];
    this.running = false;
    if (open && !open.ended && !this.stopping) {
      this.underruns += 1;
      this.gapless = false;
      this.gathered = Math.min(2 * this.gathered, MOST * this.prebuffer);
      happened.push("stalled");
    } else if (!open) {
      this.turn = null;
    }
  }

  /**
   * @param {Run} run
   * @param {Float32Array} output
   * @param {number} filled
   */
  copy(run, output, filled) {
    const count = Math.min(output.length - filled, run.count, this.data.length - this.read);
    output.set(this.data.subarray(this.read, this.read + count), filled);
    this.skip(count);
    run.count -= count;
    run.position += count;
    this.played = run.position;
    return count;
  }

  /** @param {number} count */
  skip(count) {
    this.read = (this.read + count) % this.data.length;
    this.buffered -= count;
  }

  /**
   * Volume, which moves in a straight line so that nothing clicks.
   * @param {Float32Array} output
   * @param {number} filled
   */
  shape(output, filled) {
    const goal = this.held || this.stopping ? 0 : 1;
    if (this.gain === 1 && goal === 1) return;
    const step = (goal - this.gain > 0 ? 1 : -1) / this.fade;
    for (let i = 0; i < filled; i++) {
      output[i] *= this.gain;
      if (this.gain !== goal) this.gain = Math.min(1, Math.max(0, this.gain + step));
    }
    if (filled === 0) this.gain = goal; // nothing sounds: there is nothing to fade
  }

  /** Forget everything, at once. */
  clear() {
    this.read = this.buffered = 0;
    this.runs = [];
    this.turn = null;
    this.running = this.held = this.stopping = false;
    this.gain = 1;
  }
}

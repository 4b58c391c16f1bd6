/**
 * The page's side of the player: samples go to the audio thread, and what was heard comes back.
 *
 * Heard is not handed out: a sample leaves the loudspeaker some time after the worklet gave it to the system, and that time is taken off.
 */

/**
 * @typedef {object} Clock
 * @property {string[]} happened
 * @property {number | null} turn   that sounds
 * @property {number} played        samples of it
 * @property {number} at            s, of the context's clock
 * @property {boolean} running
 * @property {number} buffered      samples
 * @property {number} underruns
 * @property {number} overflows
 * @property {number[]} levels
 */

/** @typedef {{turn: number | null, ms: number}} Heard */

export class Player extends EventTarget {
  /**
   * Make a player. Until `unlock` was called from a person's gesture most browsers keep it silent, and its clock stands still.
   * @param {number} sampleRate
   */
  static async open(sampleRate) {
    const context = new AudioContext({ sampleRate, latencyHint: "interactive" });
    await context.audioWorklet.addModule(new URL("player-worklet.js", import.meta.url));
    return new Player(context);
  }

  /** @param {AudioContext} context */
  constructor(context) {
    super();
    this.context = context;
    this.node = new AudioWorkletNode(context, "parley-player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.node.connect(context.destination);
    /** @type {Clock} */
    this.clock = { happened: [], turn: null, played: 0, at: 0, running: false, buffered: 0, underruns: 0, overflows: 0, levels: [] };
    this.held = false;
    /** @type {((heard: Heard) => void)[]} */
    this.stopping = [];
    this.node.port.onmessage = ({ data }) => this.receive(data);
    context.onstatechange = () => this.dispatchEvent(new Event("state"));
  }

  /** Whether sound can be heard now. */
  get unlocked() {
    return this.context.state === "running";
  }

  /** Let it sound. Resolves whether it does: without a person's gesture before it, browsers refuse. */
  async unlock() {
    if (!this.unlocked) await Promise.race([this.context.resume(), new Promise((resolve) => setTimeout(resolve, 300))]);
    return this.unlocked;
  }

  /** Seconds from the audio thread to the ear. */
  get latency() {
    return (this.context.outputLatency || 0) + (this.context.baseLatency || 0);
  }

  /**
   * @param {number} turn
   * @param {Float32Array} samples  given away
   * @param {number} position
   */
  play(turn, samples, position) {
    this.node.port.postMessage({ type: "audio", turn, samples, position }, [samples.buffer]);
  }

  /** @param {number} turn */
  end(turn) {
    this.node.port.postMessage({ type: "end", turn });
  }

  /** @param {number} turn */
  drop(turn) {
    this.node.port.postMessage({ type: "drop", turn });
  }

  /**
   * Be silent and keep everything, or go on.
   * @param {boolean} on
   */
  hold(on) {
    this.held = on;
    this.node.port.postMessage({ type: "hold", on });
  }

  /**
   * Silence, and nothing of what was here sounds any more.
   * @returns {Promise<Heard>} once it is silent: what was heard of the turn that sounded; turn null: none did
   */
  stop() {
    this.held = false;
    if (!this.unlocked) {
      const heard = this.heard();
      this.node.port.postMessage({ type: "stop" });
      return Promise.resolve(heard);
    }
    return new Promise((resolve) => {
      this.stopping.push(resolve);
      this.node.port.postMessage({ type: "stop" });
    });
  }

  /** What is heard at this moment. @returns {Heard} */
  heard() {
    const { turn, played, at, running, buffered } = this.clock;
    const rate = this.context.sampleRate;
    const now = played + (this.context.currentTime - at - this.latency) * rate;
    const most = played + (running ? Math.min(buffered, 0.2 * rate) : 0);
    return { turn, ms: Math.max(0, Math.round((Math.min(now, most) / rate) * 1000)) };
  }

  /** @param {Clock} clock */
  receive(clock) {
    this.clock = clock;
    this.dispatchEvent(new CustomEvent("clock", { detail: clock }));
    for (const one of clock.happened) {
      if (one === "stopped") {
        // What was handed out cannot be called back: it is heard.
        const ms = Math.round((clock.played / this.context.sampleRate) * 1000);
        this.stopping.splice(0).forEach((resolve) => resolve({ turn: clock.turn, ms }));
      } else if (one.startsWith("ended:")) {
        const turn = Number(one.slice(6));
        setTimeout(() => this.dispatchEvent(new CustomEvent("ended", { detail: { turn } })), this.latency * 1000);
      } else {
        this.dispatchEvent(new CustomEvent(one, { detail: { turn: clock.turn } }));
      }
    }
  }

  async close() {
    this.node.disconnect();
    await this.context.close();
  }
}

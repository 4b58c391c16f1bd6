/**
 * The page's side of the player: from little-endian 16-bit samples to the worklet, and from played samples to what was heard.
 */

export class Player extends EventTarget {
  /** Call it from a user's gesture: browsers keep a context silent that was made without one. */
  static async open(sampleRate) {
    const context = new AudioContext({ sampleRate });
    await context.audioWorklet.addModule(new URL("player-worklet.js", import.meta.url));
    await context.resume();
    return new Player(context);
  }

  constructor(context) {
    super();
    this.context = context;
    this.stopping = null; // resolves with what was played
    this.node = new AudioWorkletNode(context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.node.connect(context.destination);
    this.node.port.onmessage = ({ data }) => this.receive(data);
  }

  /** Samples of a turn, as they came in one message. */
  play(turn, payload) {
    const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
    const samples = new Float32Array(payload.byteLength / 2);
    for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
    this.node.port.postMessage({ type: "audio", turn, samples }, [samples.buffer]);
  }

  /** No audio of this turn follows. */
  end(turn) {
    this.node.port.postMessage({ type: "end", turn });
  }

  /** Silence at once. Resolves with {turn, ms}: how much was heard of the turn that sounded; turn null: none did. */
  stop() {
    this.stopping ??= Promise.withResolvers ? Promise.withResolvers() : withResolvers();
    this.node.port.postMessage({ type: "stop" });
    return this.stopping.promise;
  }

  receive(message) {
    if (message.type === "ended") {
      this.dispatchEvent(new CustomEvent("ended", { detail: { turn: message.turn } }));
      return;
    }
    const heard = { turn: message.turn, ms: this.heardMs(message.samples) };
    if (message.type === "stopped") {
      this.stopping?.resolve(heard);
      this.stopping = null;
    } else {
      this.dispatchEvent(new CustomEvent("heard", { detail: heard }));
    }
  }

  /** What the worklet has handed out is heard a little later. */
  heardMs(samples) {
    const latency = (this.context.outputLatency || 0) + (this.context.baseLatency || 0);
    return Math.max(0, Math.round((samples / this.context.sampleRate - latency) * 1000));
  }
}

function withResolvers() {
  const made = {};
  made.promise = new Promise((resolve) => (made.resolve = resolve));
  return made;
}

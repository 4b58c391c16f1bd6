/**
 * The microphone, with the browser's echo cancellation. Knows why it may be refused, in words. Does not know the server.
 */

/** Why there is no sound from the microphone; `message` is for people. */
export class MicrophoneRefused extends Error {}

/** @type {Record<string, string>} */
const REASONS = {
  NotAllowedError: "The microphone was refused. Allow it for this page in the browser's address bar, then try again.",
  NotFoundError: "There is no microphone.",
  NotReadableError: "Another program has the microphone.",
};

export class Microphone extends EventTarget {
  /**
   * Ask for it and listen. Events: "hop" and "raw" (see microphone-worklet.js), "lost" when it was taken away.
   * @param {AudioContext} context
   * @param {MediaTrackConstraints} [constraints]
   * @param {boolean} [raw]  whether "raw" is wanted
   * @returns {Promise<Microphone>} rejects with MicrophoneRefused
   */
  static async open(context, constraints = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 }, raw = false) {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new MicrophoneRefused("Browsers give the microphone only to pages on https or localhost.");
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: constraints });
    } catch (error) {
      const { name, message } = /** @type {DOMException} */ (error);
      throw new MicrophoneRefused(REASONS[name] ?? `The microphone cannot be used: ${message}`);
    }
    await context.audioWorklet.addModule(new URL("microphone-worklet.js", import.meta.url));
    return new Microphone(context, stream, raw);
  }

  /**
   * @param {AudioContext} context
   * @param {MediaStream} stream
   * @param {boolean} raw
   */
  constructor(context, stream, raw) {
    super();
    this.stream = stream;
    this.source = context.createMediaStreamSource(stream);
    this.node = new AudioWorkletNode(context, "parley-microphone", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit", processorOptions: { raw } });
    this.source.connect(this.node);
    this.node.port.onmessage = ({ data }) => this.dispatchEvent(new CustomEvent(data.raw ? "raw" : "hop", { detail: data }));
    for (const track of stream.getTracks()) track.onended = () => this.dispatchEvent(new Event("lost"));
  }

  close() {
    this.node.port.onmessage = null;
    this.source.disconnect();
    for (const track of this.stream.getTracks()) track.stop();
  }
}

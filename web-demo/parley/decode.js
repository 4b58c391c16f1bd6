/**
 * From audio messages to samples: PCM as it is, Opus by the browser's own decoder, or, where it has none, by libopus in WebAssembly
 * (vendor/). A turn has a decoder of its own, as it has an encoder of its own at the server.
 */

import { fromPcm16 } from "./frame.js";

const PACKET_SAMPLES = 960; // 20 ms: the frame_ms that we ask for
const WASM_PATIENCE_MS = 5000; // without 'wasm-unsafe-eval' in the page's policy it never gets ready, and does not say so

/** @typedef {(samples: Float32Array, position: number) => void} Sink */

/**
 * @typedef {object} Decoder
 * @property {string} kind  "pcm", "webcodecs" or "wasm": what does it
 * @property {(payload: Uint8Array, position: number) => void} push  one message, in order
 * @property {() => Promise<void>} flush  resolves once all samples are out
 * @property {() => void} close
 */

/** Which way Opus can be decoded here: "webcodecs", "wasm" or null. */
export async function opusSupport() {
  if (typeof AudioDecoder === "function") {
    const { supported } = await AudioDecoder.isConfigSupported(OPUS);
    if (supported) return "webcodecs";
  }
  return typeof WebAssembly === "object" ? "wasm" : null;
}

const OPUS = { codec: "opus", sampleRate: 48000, numberOfChannels: 1 };

/**
 * @param {string} format    "opus" or "pcm_s16le"
 * @param {number} preSkip   samples that the decoder of a turn drops first
 * @param {Sink} sink
 * @param {string | null} opus  how, see `opusSupport`
 * @returns {Decoder}
 */
export function decoder(format, preSkip, sink, opus) {
  if (format === "pcm_s16le") return pcm(sink);
  return opus === "webcodecs" ? webCodecs(preSkip, sink) : wasm(preSkip, sink);
}

/** Samples of the turn that an Opus packet at this position brings. */
export function opusSamples(/** @type {number} */ position, /** @type {number} */ preSkip) {
  return position === 0 ? PACKET_SAMPLES - preSkip : PACKET_SAMPLES;
}

/** @param {Sink} sink @returns {Decoder} */
function pcm(sink) {
  return { kind: "pcm", push: (payload, position) => sink(fromPcm16(payload), position), flush: async () => {}, close() {} };
}

/**
 * @param {number} preSkip
 * @param {Sink} sink
 * @returns {Decoder}
 */
function webCodecs(preSkip, sink) {
  // A packet's place travels through the decoder as its time stamp, in the decoder's own time, which counts the pre-skip: some decoders
  // count from the first stamp on and do not look at the others.
  const made = new AudioDecoder({
    output: (frame) => {
      const samples = new Float32Array(frame.numberOfFrames);
      frame.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
      const decoded = Math.round((frame.timestamp * OPUS.sampleRate) / 1e6);
      frame.close();
      place(samples, Math.max(0, decoded - preSkip), preSkip, sink);
    },
    error: (error) => console.error("Opus", error),
  });
  made.configure(OPUS);
  return {
    kind: "webcodecs",
    push: (data, position) => {
      const timestamp = Math.round(((position && position + preSkip) * 1e6) / OPUS.sampleRate);
      made.decode(new EncodedAudioChunk({ type: "key", timestamp, duration: 20000, data }));
    },
    flush: async () => {
      try {
        if (made.state === "configured") await made.flush();
      } catch (error) {
        if (made.state !== "closed") throw error; // whoever closed it meanwhile wants nothing more of it
      }
    },
    close: () => {
      if (made.state !== "closed") made.close();
    },
  };
}

/**
 * The first packet of a turn begins with what is no part of it.
 * @param {Float32Array} samples
 * @param {number} position
 * @param {number} preSkip
 * @param {Sink} sink
 */
function place(samples, position, preSkip, sink) {
  const wanted = opusSamples(position, preSkip);
  sink(samples.length > wanted ? samples.slice(samples.length - wanted) : samples, position);
}

/**
 * @param {number} preSkip
 * @param {Sink} sink
 * @returns {Decoder}
 */
function wasm(preSkip, sink) {
  /** @type {any} */
  let libopus = null;
  let closed = false;
  const ready = libopusDecoder().then((made) => (libopus = made));
  let last = ready; // packets that come before it is ready wait in order
  return {
    kind: "wasm",
    push: (payload, position) => {
      const packet = payload.slice();
      last = last.then(() => {
        if (!closed) place(libopus.decodeFrame(packet).channelData[0], position, preSkip, sink);
      });
    },
    flush: async () => void (await last),
    close: () => {
      closed = true;
      ready.then((made) => made.free());
    },
  };
}

async function libopusDecoder() {
  await import(new URL("../vendor/opus-decoder.min.js", import.meta.url).href); // a classic script: it leaves a global
  const { OpusDecoder } = /** @type {any} */ (globalThis)["opus-decoder"];
  const made = new OpusDecoder({ channels: 1, preSkip: 0 });
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error("WebAssembly is not allowed here")), WASM_PATIENCE_MS));
  await Promise.race([made.ready, late]);
  return made;
}

/**
 * Sound on its way from the socket to the player: a decoder for each turn, nothing twice, and exactly as much as belongs to the turn.
 */

import { decoder, opusSamples } from "./decode.js";
import { LAST } from "./frame.js";

/** @typedef {import("./turn.js").Turn} Turn */
/** @typedef {{decoder: import("./decode.js").Decoder, last: {payload: Uint8Array, position: number} | null}} Stream */

export class Incoming {
  /**
   * @param {string | null} opus  how to decode it, see `opusSupport`
   * @param {number} rate         samples a second
   * @param {(turn: Turn, n: number, samples: Float32Array, position: number) => void} sink
   */
  constructor(opus, rate, sink) {
    this.opus = opus;
    this.rate = rate;
    this.sink = sink;
    /** @type {Map<number, Stream>} */
    this.streams = new Map(); // by number of the turn
    this.formats = [{ from: 0, format: "opus", preSkip: 0 }]; // as the server said, from which turn on
  }

  /** A session tells its format. @param {any} created  session.created */
  begin({ config, pre_skip }) {
    this.formats = [{ from: 0, format: config.audio.output.format, preSkip: pre_skip }];
  }

  /** The format changes. @param {any} updated  session.updated */
  change({ config, pre_skip, from_turn }) {
    this.formats.push({ from: from_turn, format: config.audio.output.format, preSkip: pre_skip });
  }

  /** That of turns that are still to come. */
  get format() {
    return this.formats[this.formats.length - 1].format;
  }

  /**
   * @param {Turn} turn
   * @param {import("./frame.js").AudioMessage} message
   */
  push(turn, { flags, n, position, payload }) {
    const { format, preSkip } = this.formats.findLast((one) => one.from <= n) ?? this.formats[0];
    const count = format === "opus" ? opusSamples(position, preSkip) : payload.byteLength / 2;
    if (position + count <= turn.received) return; // sent again after a lost socket, and here already
    turn.received = position + count;
    turn.trace.firstPacket ??= performance.now();
    turn.trace.arrivals.push([performance.now(), (turn.received / this.rate) * 1000]);
    let stream = this.streams.get(n);
    if (!stream) this.streams.set(n, (stream = this.stream(turn, n, format, preSkip)));
    // The last packet is filled up: how much of it belongs to the turn is said by turn.done, which follows it.
    if (flags & LAST) stream.last = { payload: payload.slice(), position };
    else stream.decoder.push(payload, position);
  }

  /** @param {Turn} turn @param {number} n @param {string} format @param {number} preSkip @returns {Stream} */
  stream(turn, n, format, preSkip) {
    const sink = (/** @type {Float32Array} */ samples, /** @type {number} */ position) => {
      const end = turn.done && format === "opus" ? Math.round((turn.done.audio_ms * this.rate) / 1000) : Infinity;
      const kept = position + samples.length > end ? samples.slice(0, Math.max(0, end - position)) : samples;
      if (kept.length && !turn.over) this.sink(turn, n, kept, position);
    };
    return { decoder: decoder(format, preSkip, sink, this.opus), last: null };
  }

  /** All of a turn has come: resolves once all of it went on. @param {number} n */
  async finish(n) {
    const stream = this.streams.get(n);
    if (stream?.last) stream.decoder.push(stream.last.payload, stream.last.position);
    await stream?.decoder.flush();
    this.release(n);
  }

  /** @param {number} n */
  release(n) {
    this.streams.get(n)?.decoder.close();
    this.streams.delete(n);
  }

  close() {
    for (const n of [...this.streams.keys()]) this.release(n);
  }
}

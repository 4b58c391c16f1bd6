/**
 * The 16 bytes in front of sound, both ways. Source: protocol/PROTOCOL.md, "Audio messages".
 */

export const HEADER_BYTES = 16;
export const SPEECH = 1; // from the server
const SOUND = 2; // from us
export const FIRST = 1;
export const LAST = 2;

/**
 * @typedef {object} AudioMessage
 * @property {number} flags    1 first of the turn, 2 last, 4 samples were dropped before
 * @property {number} n        the turn's number
 * @property {number} position its first sample within the turn, at output rate
 * @property {Uint8Array} payload
 */

/**
 * @param {ArrayBuffer} data
 * @returns {AudioMessage | null} null: a kind of a later version
 */
export function unpack(data) {
  if (data.byteLength < HEADER_BYTES) return null;
  const header = new DataView(data);
  if (header.getUint8(0) !== SPEECH) return null;
  return {
    flags: header.getUint8(1),
    n: header.getUint32(4, true),
    position: Number(header.getBigUint64(8, true)),
    payload: new Uint8Array(data, HEADER_BYTES),
  };
}

/**
 * A message with what the microphone heard.
 * @param {Int16Array} samples
 * @param {number} position  of the first of them since the recording began
 * @param {number} flags     FIRST: a recording begins; LAST: the microphone is closed
 * @returns {ArrayBuffer}
 */
export function pack(samples, position, flags) {
  const data = new ArrayBuffer(HEADER_BYTES + 2 * samples.length);
  const view = new DataView(data);
  view.setUint8(0, SOUND);
  view.setUint8(1, flags);
  view.setBigUint64(8, BigInt(position), true);
  for (let i = 0; i < samples.length; i++) view.setInt16(HEADER_BYTES + 2 * i, samples[i], true);
  return data;
}

/**
 * Little-endian 16-bit samples as floats in [-1, 1).
 * @param {Uint8Array} payload
 * @returns {Float32Array<ArrayBuffer>}
 */
export function fromPcm16(payload) {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const samples = new Float32Array(payload.byteLength >> 1);
  for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(2 * i, true) / 32768;
  return samples;
}

/** Samples as a WAV file, and samples of one rate as those of another. */

/** @param {Float32Array} samples */
export function toPcm16(samples) {
  return Int16Array.from(samples, (one) => Math.max(-32768, Math.min(32767, Math.round(one * 32768))));
}

/**
 * 44 bytes in front of 16-bit samples.
 * @param {number} bytes  of the samples
 * @param {number} rate
 * @param {number} [channels]
 */
export function wavHeader(bytes, rate, channels = 1) {
  const view = new DataView(new ArrayBuffer(44));
  const text = (/** @type {number} */ at, /** @type {string} */ value) => Array.from(value).forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, channels, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 2 * channels, true);
  view.setUint16(32, 2 * channels, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, bytes, true);
  return view.buffer;
}

const FACTOR = 3;
export const REACH = 8; // samples before and after that have a say
const KERNEL = Float32Array.from({ length: 2 * REACH * FACTOR + 1 }, (_, i) => {
  const t = i - REACH * FACTOR;
  const x = (0.93 * Math.PI * t) / FACTOR; // a little below half the lower rate: what is above would be its mirror
  const window = 0.54 + 0.46 * Math.cos((Math.PI * t) / (REACH * FACTOR));
  return 0.93 * (t ? Math.sin(x) / x : 1) * window;
});

/**
 * Sound at three times its rate.
 * @param {Int16Array} samples
 * @param {number} first  of the samples that are wanted, counted at the higher rate from `samples[0]` on
 * @param {number} count
 * @returns {Int16Array}
 */
export function tripled(samples, first, count) {
  const reach = REACH * FACTOR;
  return Int16Array.from({ length: count }, (_, i) => {
    const n = first + i;
    let sum = 0;
    const last = Math.min(samples.length - 1, Math.floor((n + reach) / FACTOR));
    for (let m = Math.max(0, Math.ceil((n - reach) / FACTOR)); m <= last; m++) sum += samples[m] * KERNEL[n - FACTOR * m + reach];
    return Math.max(-32768, Math.min(32767, Math.round(sum)));
  });
}

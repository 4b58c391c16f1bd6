/**
 * Is it somebody who wants to speak, or a cough? The server hears that speech has begun; whether 200 ms of it came is decided here, where
 * the sound is, without waiting for the network.
 *
 * Knows the level of each hop of the microphone and whether it has a pitch. Does not know audio or time: hops are counted.
 */

export const HOP_MS = 16;
const KEPT_HOPS = 64; // 1 s: speech is noticed by the server well within it
const ABOVE_FLOOR_DB = 12;
const LEAST_DB = -55; // quieter is nobody, however quiet the room
const FALL_DB = 3; // a hop: the floor follows silence at once ...
const RISE_DB = 0.05; // ... and noise within seconds
const GAP_HOPS = 6; // between two syllables
const VOICED_SHARE = 0.35; // a cough, a chair or a key has next to none; of speech two thirds have a pitch

/** @typedef {{level: number, voiced: boolean}} Hop  level in dB of full scale */

export class VoiceJudge {
  /** @param {number} confirmMs  so much speech is meant */
  constructor(confirmMs) {
    this.confirmMs = confirmMs;
    this.floor = -70; // dB
    /** @type {{loud: boolean, voiced: boolean}[]} */
    this.hops = [];
  }

  /** @param {Hop} hop */
  hear({ level, voiced }) {
    this.floor = level < this.floor ? Math.max(level, this.floor - FALL_DB) : Math.min(level, this.floor + RISE_DB);
    const loud = level > Math.max(this.floor + ABOVE_FLOOR_DB, LEAST_DB);
    this.hops.push({ loud, voiced: loud && voiced });
    if (this.hops.length > KEPT_HOPS) this.hops.shift();
  }

  /** Speech that lasts, or has just ended: ms of it without its gaps, and the share that has a pitch. */
  get speech() {
    let loud = 0;
    let voiced = 0;
    let gap = 0;
    for (let i = this.hops.length - 1; i >= 0 && gap <= GAP_HOPS; i--) {
      gap = this.hops[i].loud ? 0 : gap + 1;
      loud += Number(this.hops[i].loud);
      voiced += Number(this.hops[i].voiced);
    }
    return { ms: loud * HOP_MS, voiced: loud ? voiced / loud : 0 };
  }

  /** Whether so much was said that it is meant. */
  get confirmed() {
    const { ms, voiced } = this.speech;
    return ms >= this.confirmMs && voiced >= VOICED_SHARE;
  }
}

/**
 * Whether sound has a pitch of a human voice: it repeats itself after 2.5 to 12.5 ms.
 * @param {Float32Array} samples  32 ms at 8 kHz
 */
export function isVoiced(samples) {
  const [shortest, longest] = [20, 100];
  const length = samples.length - longest;
  let best = 0;
  let here = 1e-9;
  for (let i = 0; i < length; i++) here += samples[i] * samples[i];
  for (let lag = shortest; lag <= longest; lag++) {
    let product = 0;
    let there = 1e-9;
    for (let i = 0; i < length; i++) {
      product += samples[i] * samples[i + lag];
      there += samples[i + lag] * samples[i + lag];
    }
    best = Math.max(best, product / Math.sqrt(here * there));
  }
  return best > 0.6;
}

/** Takes sound down by a whole factor: a windowed sinc, whose state goes on from piece to piece. */
export class Decimator {
  /** @param {number} factor */
  constructor(factor) {
    this.factor = factor;
    const taps = 16 * factor + 1;
    const cutoff = 0.45 / factor;
    const middle = (taps - 1) / 2;
    this.taps = Float32Array.from({ length: taps }, (_, i) => {
      const x = i - middle;
      const sinc = x === 0 ? 2 * cutoff : Math.sin(2 * Math.PI * cutoff * x) / (Math.PI * x);
      return sinc * (0.54 - 0.46 * Math.cos((2 * Math.PI * i) / (taps - 1)));
    });
    this.past = new Float32Array(taps);
    this.at = 0;
    this.phase = 0;
  }

  /**
   * @param {Float32Array} input
   * @param {(sample: number) => void} output
   */
  push(input, output) {
    const { taps, past } = this;
    for (let i = 0; i < input.length; i++) {
      past[this.at] = input[i];
      this.at = (this.at + 1) % taps.length;
      this.phase += 1;
      if (this.phase < this.factor) continue;
      this.phase = 0;
      let sum = 0;
      for (let k = 0; k < taps.length; k++) sum += taps[k] * past[(this.at + k) % taps.length];
      output(sum);
    }
  }
}

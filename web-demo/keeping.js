/**
 * What is kept of a conversation: its sound, its words, and enough to go on after the page was loaded again.
 */

const RATE = 48000;
const BETWEEN_S = 0.35; // silence between two turns of a saved conversation

/** The sound of each turn. Samples lie in blobs, which the browser keeps outside of the page's memory. */
export class Tape {
  constructor() {
    /** @type {Map<string, {parts: Blob[], pending: Int16Array[], samples: number}>} */
    this.turns = new Map();
  }

  /** @param {string} turn @param {Float32Array} samples */
  add(turn, samples) {
    let one = this.turns.get(turn);
    if (!one) this.turns.set(turn, (one = { parts: [], pending: [], samples: 0 }));
    const pcm = toPcm16(samples);
    one.pending.push(pcm);
    one.samples += pcm.length;
    if (one.pending.length >= 50) this.file(one);
  }

  /** @param {{parts: Blob[], pending: Int16Array[]}} one */
  file(one) {
    if (one.pending.length) one.parts.push(new Blob(/** @type {BlobPart[]} */ (one.pending)));
    one.pending = [];
  }

  /**
   * A turn is over: only what was heard stays.
   * @param {string} turn
   * @param {number} ms
   */
  close(turn, ms) {
    const one = this.turns.get(turn);
    if (!one) return;
    this.file(one);
    const samples = Math.min(one.samples, Math.round((ms * RATE) / 1000));
    one.parts = [new Blob(one.parts).slice(0, 2 * samples)];
    one.samples = samples;
  }

  /** Seconds of a turn. @param {string} turn */
  seconds(turn) {
    return (this.turns.get(turn)?.samples ?? 0) / RATE;
  }

  /** One turn, or all of them one after the other, as a WAV file. @param {string} [turn] */
  wav(turn) {
    const kept = turn ? [this.turns.get(turn)] : [...this.turns.values()];
    const silence = new Blob([new Int16Array(Math.round(BETWEEN_S * RATE))]);
    const sound = kept.flatMap((one, i) => (one ? [...(i ? [silence] : []), ...one.parts] : []));
    const bytes = sound.reduce((sum, part) => sum + part.size, 0);
    return new Blob([wavHeader(bytes, RATE), ...sound], { type: "audio/wav" });
  }

  clear() {
    this.turns.clear();
  }
}

/** @param {Float32Array} samples */
export function toPcm16(samples) {
  return Int16Array.from(samples, (one) => Math.max(-32768, Math.min(32767, Math.round(one * 32768))));
}

/**
 * 44 bytes in front of 16-bit mono samples.
 * @param {number} bytes  of the samples
 * @param {number} rate
 */
export function wavHeader(bytes, rate) {
  const view = new DataView(new ArrayBuffer(44));
  const text = (/** @type {number} */ at, /** @type {string} */ value) => Array.from(value).forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, bytes, true);
  return view.buffer;
}

/** @typedef {{who: "you" | "parley", text: string, heard?: string, remaining?: string, at: number}} Entry */

/** The conversation in words. @param {Entry[]} entries */
export function transcript(entries) {
  const lines = entries.map(({ who, text, heard, remaining, at }) => {
    const time = new Date(at).toLocaleTimeString();
    if (who === "you") return `[${time}] You: ${text}`;
    const cut = remaining?.trim() ? `\n           (not heard: ${remaining.trim()})` : "";
    return `[${time}] Parley: ${heard ?? text}${cut}`;
  });
  return `${lines.join("\n")}\n`;
}

/** Let the browser save a file. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const PLACE = "parley-conversation"; // in this tab only: it holds the secret that resumes the session

/** @param {unknown} value */
export function remember(value) {
  try {
    sessionStorage.setItem(PLACE, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden: a reload begins anew.
  }
}

export function recall() {
  try {
    return JSON.parse(sessionStorage.getItem(PLACE) ?? "null");
  } catch {
    return null;
  }
}

export function forgetAll() {
  try {
    sessionStorage.removeItem(PLACE);
  } catch {
    // As above.
  }
}

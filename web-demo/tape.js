/**
 * The sound of a conversation, both sides of it, and when each piece of it was heard.
 *
 * Saved it is one file: Parley on the left, whoever spoke into the microphone on the right, as they were heard, so that an interruption
 * is where it was; each side can still be had alone. Without a microphone it has one channel. Times are seconds of any one clock.
 * Samples lie in blobs, which the browser keeps outside of the page's memory.
 */

import { REACH, toPcm16, tripled, wavHeader } from "./wav.js";

const RATE = 48000;
const CALLER_RATE = 16000;
const SILENCE_S = 1; // of both sides: longer silence is not saved
const OFF_S = 0.002; // a place that is less wrong is right
const FILED = 50; // pieces: about a second
const BLOCK_S = 10; // of a file at a time: a long conversation does not fit into memory

// Nobody wants an hour of an empty room: the microphone is kept around what is loud, and while Parley speaks.
const LOUD_DB = -50;
const BEFORE = 20; // pieces of 16 ms
const AFTER = 60;
const LONGEST = 600; // pieces of one run: each is stored anew while it grows

/** Samples, as they come. */
class Strip {
  /** @param {Blob[]} parts */
  constructor(parts = []) {
    this.parts = parts;
    /** @type {Int16Array[]} */
    this.pending = [];
    this.samples = parts.reduce((sum, part) => sum + part.size, 0) / 2;
  }

  /** @param {Int16Array} pcm @returns {boolean} whether it was a good moment to store it */
  push(pcm) {
    this.pending.push(pcm);
    this.samples += pcm.length;
    if (this.pending.length < FILED) return false;
    this.file();
    return true;
  }

  file() {
    if (this.pending.length) this.parts.push(new Blob(/** @type {BlobPart[]} */ (this.pending)));
    this.pending = [];
    return this.parts;
  }

  /** Keep the first ones. @param {number} samples */
  cut(samples) {
    const kept = Math.max(0, Math.min(this.samples, samples));
    this.parts = [new Blob(this.file()).slice(0, 2 * kept)];
    this.samples = kept;
  }

  /** @param {number} from @param {number} to */
  async read(from, to) {
    return new Int16Array(await new Blob(this.file()).slice(2 * from, 2 * to).arrayBuffer());
  }
}

/**
 * @typedef {object} Take  what came of a turn
 * @property {Strip} strip
 * @property {number} from    position of its first sample
 * @property {number | null} begins  position of the first sample since the page was loaded
 * @property {{position: number, at: number}[]} places  from this position on it was heard from this time on, without a gap
 * @property {{position: number, at: number} | null} last  what the player said last
 */

/** @typedef {{at: number, strip: Strip, pieces: number}} Run  of the microphone */
/** @typedef {{channel: number, at: number, strip: Strip, first: number, samples: number, start: number}} Piece  samples: at RATE; start: in the file */

export class Tape {
  /** @param {(key: string, record: object) => void} [store]  called with what has changed; `restore` takes it again */
  constructor(store = () => {}) {
    this.store = store;
    /** @type {Map<string, Take>} */
    this.takes = new Map();
    /** @type {Run[]} */
    this.runs = [];
    /** @type {{samples: Int16Array, at: number}[]} */
    this.before = []; // what the microphone heard last that was not kept
    this.quiet = Infinity; // pieces since it heard something
  }

  /** Sound of a turn has come. @param {string} turn @param {Float32Array} samples @param {number} position */
  add(turn, samples, position) {
    let take = this.takes.get(turn);
    if (!take) this.takes.set(turn, (take = { strip: new Strip(), from: position, begins: null, places: [], last: null }));
    take.begins ??= position;
    const { strip, from } = take;
    const missing = position - from - strip.samples;
    if (missing < 0) strip.cut(position - from); // it had come before the page was loaded again, and was not heard
    if (missing > 0) strip.push(new Int16Array(missing));
    if (strip.push(toPcm16(samples))) this.keep(turn, take);
  }

  /** The player says that this sample of a turn was heard then. @param {string} turn @param {number} position @param {number} at */
  place(turn, position, at) {
    const take = this.takes.get(turn);
    if (take?.begins == null) return;
    const last = take.last ?? { position: take.begins, at: -Infinity };
    const begun = at - (position - last.position) / RATE; // without a gap, the last sample was heard then
    // A gap lies where the player was when it spoke last: it speaks at once where samples are missing, and all the time while it is held.
    if (Math.abs(begun - last.at) > OFF_S) take.places.push({ position: last.position, at: begun });
    take.last = { position, at };
  }

  /**
   * The microphone has heard something.
   * @param {Int16Array} samples
   * @param {number} level  dB
   * @param {number} at     when it began
   * @param {boolean} speaking  whether Parley does
   */
  hear(samples, level, at, speaking) {
    this.quiet = speaking || level > LOUD_DB ? 0 : this.quiet + 1;
    this.before.push({ samples, at });
    if (this.quiet > AFTER) {
      if (this.before.length > BEFORE) this.before.shift();
      return;
    }
    for (const one of this.before.splice(0)) this.append(one.samples, one.at);
  }

  /** @param {Int16Array} samples @param {number} at */
  append(samples, at) {
    let run = this.runs.at(-1);
    const follows = run && Math.abs(run.at + run.strip.samples / CALLER_RATE - at) < 0.02;
    if (!run || !follows || run.pieces >= LONGEST) {
      // One that goes on does so to the sample.
      const begins = run && follows ? run.at + run.strip.samples / CALLER_RATE : at;
      if (run) this.keepRun(run);
      this.runs.push((run = { at: begins, strip: new Strip(), pieces: 0 }));
    }
    run.pieces += 1;
    if (run.strip.push(samples)) this.keepRun(run);
  }

  /** A turn is over: only what was heard stays. @param {string} turn @param {number} ms */
  close(turn, ms) {
    const take = this.takes.get(turn);
    if (!take) return;
    take.strip.cut(Math.round((ms * RATE) / 1000) - take.from);
    this.keep(turn, take);
  }

  /** Seconds of a turn. @param {string} turn */
  seconds(turn) {
    return (this.takes.get(turn)?.strip.samples ?? 0) / RATE;
  }

  /** One turn as a WAV file. @param {string} turn */
  wav(turn) {
    const parts = this.takes.get(turn)?.strip.file() ?? [];
    const bytes = parts.reduce((sum, part) => sum + part.size, 0);
    return new Blob([wavHeader(bytes, RATE), ...parts], { type: "audio/wav" });
  }

  /** All of it as one WAV file. */
  async conversation() {
    const pieces = arranged([...this.spoken(), ...this.said()]);
    const channels = this.runs.length ? 2 : 1;
    const length = Math.max(0, ...pieces.map((one) => one.start + one.samples));
    const blocks = [];
    for (let at = 0; at < length; at += BLOCK_S * RATE) {
      const block = new Int16Array(channels * Math.min(BLOCK_S * RATE, length - at));
      for (const piece of pieces) await write(piece, block, channels, at);
      blocks.push(new Blob([block]));
    }
    return new Blob([wavHeader(2 * channels * length, RATE, channels), ...blocks], { type: "audio/wav" });
  }

  /** @returns {Piece[]} */
  spoken() {
    return [...this.takes.values()].flatMap(({ strip, from, places }) =>
      places.map(({ position, at }, i) => {
        const first = Math.max(0, position - from);
        const end = Math.min(strip.samples, places[i + 1] ? places[i + 1].position - from : Infinity);
        return { channel: 0, at, strip, first, samples: Math.max(0, end - first), start: 0 };
      }),
    );
  }

  /** Runs that follow each other are one piece: where one ends, the samples of the next have a say. @returns {Piece[]} */
  said() {
    /** @type {{at: number, strip: Strip}[]} */
    const joined = [];
    for (const { at, strip } of this.runs) {
      const last = joined.at(-1);
      if (last && Math.abs(last.at + last.strip.samples / CALLER_RATE - at) < OFF_S) last.strip = new Strip([...last.strip.parts, ...strip.file()]);
      else joined.push({ at, strip: new Strip([...strip.file()]) });
    }
    return joined.map(({ at, strip }) => ({ channel: 1, at, strip, first: 0, samples: (RATE / CALLER_RATE) * strip.samples, start: 0 }));
  }

  /** @param {string} turn @param {Take} take */
  keep(turn, { strip, from, places }) {
    this.store(`turn ${turn}`, { turn, parts: strip.file(), from, places });
  }

  /** @param {Run} run */
  keepRun({ at, strip, pieces }) {
    this.store(`run ${at}`, { at, parts: strip.file(), pieces });
  }

  /** What another page's tape stored, in any order. @param {any[]} records */
  restore(records) {
    for (const { turn, parts, from, places, at, pieces } of records) {
      if (turn) this.takes.set(turn, { strip: new Strip(parts), from, begins: null, places, last: null });
      else this.runs.push({ at, strip: new Strip(parts), pieces });
    }
    this.runs.sort((a, b) => a.at - b.at);
  }
}

/**
 * Where in a file each piece begins: as far from the others as it was, but no silence is longer than SILENCE_S.
 * @param {Piece[]} pieces
 */
function arranged(pieces) {
  const sorted = pieces.filter((one) => one.samples).sort((a, b) => a.at - b.at);
  let passed = sorted[0]?.at ?? 0; // s that are left out
  let end = passed;
  for (const piece of sorted) {
    passed += Math.max(0, piece.at - end - SILENCE_S);
    piece.start = Math.round((piece.at - passed) * RATE);
    end = Math.max(end, piece.at + piece.samples / RATE);
  }
  return sorted;
}

/**
 * Write what of a piece lies in a block.
 * @param {Piece} piece
 * @param {Int16Array} block
 * @param {number} channels
 * @param {number} at  of the block in the file
 */
async function write({ channel, strip, first, samples, start }, block, channels, at) {
  const from = Math.max(start, at);
  const to = Math.min(start + samples, at + block.length / channels);
  if (from >= to) return;
  const pcm = channel ? await caller(strip, from - start, to - start) : await strip.read(first + from - start, first + to - start);
  for (let i = 0; i < pcm.length; i++) block[(from - at + i) * channels + channel] = pcm[i];
}

/** @param {Strip} strip @param {number} from @param {number} to  at RATE */
async function caller(strip, from, to) {
  const ratio = RATE / CALLER_RATE;
  const first = Math.max(0, Math.floor(from / ratio) - REACH);
  return tripled(await strip.read(first, Math.ceil(to / ratio) + REACH), from - ratio * first, to - from);
}

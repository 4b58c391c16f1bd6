/** Both sides' level, the last seconds, drawn as two mirrored rows of bars: Parley above, the microphone below. */

import { colors } from "./timeline.js";

const KEPT = 400; // bars
const BAR = 2.5; // px

/** Of a bar, of all there is room for. @param {number} db */
function height(db) {
  return Math.min(1, Math.max(0, (db + 52) / 40) ** 1.4);
}

export class Levels {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    /** @type {number[]} */
    this.theirs = []; // Parley's: RMS of 20 ms
    /** @type {number[]} */
    this.ours = [];
    this.pending = -100; // dB: the loudest of the microphone since the last bar
  }

  /** @param {number[]} rms  each 20 ms */
  parley(rms) {
    for (const one of rms) {
      this.theirs.push(height(20 * Math.log10(one + 1e-6)));
      this.ours.push(height(this.pending));
    }
    if (rms.length) this.pending = -100;
    this.theirs.splice(0, this.theirs.length - KEPT);
    this.ours.splice(0, this.ours.length - KEPT);
  }

  /** @param {number} level  dB */
  you(level) {
    this.pending = Math.max(this.pending, level);
  }

  draw() {
    const { canvas } = this;
    const box = canvas.getBoundingClientRect();
    const scale = window.devicePixelRatio || 1;
    if (!box.width) return;
    if (canvas.width !== Math.round(box.width * scale)) canvas.width = Math.round(box.width * scale);
    if (canvas.height !== Math.round(box.height * scale)) canvas.height = Math.round(box.height * scale);
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    const color = colors();
    const middle = box.height / 2;
    pen.fillStyle = color.line;
    pen.fillRect(0, middle - 0.5, box.width, 1);
    const bars = Math.min(this.theirs.length, Math.floor(box.width / BAR));
    for (let i = 0; i < bars; i++) {
      const x = box.width - (i + 1) * BAR;
      const up = this.theirs[this.theirs.length - 1 - i] * (middle - 1);
      const down = this.ours[this.ours.length - 1 - i] * (middle - 1);
      pen.fillStyle = color.accent;
      if (up > 0.4) pen.fillRect(x, middle - up, BAR - 1, up);
      pen.fillStyle = color.you;
      if (down > 0.4) pen.fillRect(x, middle, BAR - 1, down);
    }
  }
}

/**
 * What happened in a turn, drawn on one axis of time: text in, sound in, sound heard, how much was ahead, and when it was stopped.
 */

const ROWS = ["text in", "sound in", "heard"];
const LEFT = 58;
const LABEL_PX = 13;

/**
 * @param {HTMLCanvasElement} canvas
 * @param {import("./parley.js").Turn | null} turn
 */
export function drawTimeline(canvas, turn) {
  const box = canvas.getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [box.width, box.height];
  if (!width) return;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  new Drawing(pen, width, height, colors()).draw(turn);
}

/** @type {{quiet: string, line: string, accent: string, wash: string, you: string, cut: string, ink: string} | null} */
let known = null; // to ask for them takes longer than to draw
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (known = null));

/** Of the page, light or dark. */
export function colors() {
  return (known ??= readColors());
}

function readColors() {
  const style = getComputedStyle(document.documentElement);
  const of = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
  return { quiet: of("quiet"), line: of("line"), accent: of("accent"), wash: of("wash"), you: of("you"), cut: of("cut"), ink: of("ink") };
}

class Drawing {
  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {number} width
   * @param {number} height
   * @param {ReturnType<typeof colors>} color
   */
  constructor(pen, width, height, color) {
    Object.assign(this, { pen, width, height, color });
    this.pen = pen;
    this.width = width;
    this.height = height;
    this.color = color;
    this.row = 17;
    this.leadTop = ROWS.length * this.row + 10;
    this.leadBottom = height - 17;
    this.began = 0;
    this.span = 1;
    this.labels = [0, 0, 0]; // where the last one of each line ends
  }

  /** @param {import("./parley.js").Turn | null} turn */
  draw(turn) {
    const { pen } = this;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    if (turn) {
      const { trace } = turn;
      this.began = trace.began;
      const last = trace.ended ?? performance.now();
      this.span = Math.max(2500, (last - this.began) * 1.04);
    }
    this.axes();
    if (!turn) return;
    const { trace } = turn;
    for (const [at] of trace.texts) this.tick(at, 0, this.color.you);
    for (const [at] of trace.arrivals) this.tick(at, 1, this.color.accent);
    this.heard(turn);
    this.lead(trace.leads);
    if (trace.firstSound) this.mark(trace.firstSound, this.color.accent, `${Math.round(trace.firstSound - this.began)} ms`);
    trace.waits.forEach((at, i) => this.mark(at, this.color.you, i ? "" : "awaits text"));
    trace.underruns.forEach((at, i) => this.mark(at, this.color.cut, i ? "" : "underrun"));
    if (trace.cancelled) this.mark(trace.cancelled, this.color.cut, "stop");
  }

  /** @param {number} at */
  x(at) {
    return LEFT + ((at - this.began) / this.span) * (this.width - LEFT - 4);
  }

  axes() {
    const { pen, color, width } = this;
    pen.fillStyle = color.quiet;
    pen.strokeStyle = color.line;
    pen.textAlign = "left";
    [...ROWS, "ahead"].forEach((name, i) => pen.fillText(name, 0, i < ROWS.length ? i * this.row + 8 : (this.leadTop + this.leadBottom) / 2));
    const step = [500, 1000, 2000, 5000, 10000, 30000, 60000, 120000].find((one) => this.span / one <= 6) ?? 300000;
    pen.textAlign = "center";
    for (let t = 0; t < this.span; t += step) {
      const x = this.x(this.began + t);
      pen.beginPath();
      pen.moveTo(x, 0);
      pen.lineTo(x, this.leadBottom);
      pen.stroke();
      if (x < width - 14) pen.fillText(t < 1000 && t ? `${t / 1000} s` : `${Math.round(t / 100) / 10} s`, Math.max(x, LEFT + 8), this.height - 7);
    }
  }

  /** @param {number} at @param {number} row @param {string} color */
  tick(at, row, color) {
    this.pen.fillStyle = color;
    this.pen.fillRect(this.x(at), row * this.row + 2, 1.5, this.row - 5);
  }

  /** @param {import("./parley.js").Turn} turn */
  heard({ trace }) {
    if (!trace.firstSound) return;
    const end = trace.silent ?? trace.ended ?? performance.now();
    const { pen } = this;
    pen.fillStyle = this.color.accent;
    pen.fillRect(this.x(trace.firstSound), 2 * this.row + 3, Math.max(1, this.x(end) - this.x(trace.firstSound)), this.row - 7);
    pen.fillStyle = this.color.wash;
    for (const [from, to] of [...trace.pauses, ...trace.gaps]) pen.fillRect(this.x(from), 2 * this.row + 3, this.x(to ?? end) - this.x(from), this.row - 7);
  }

  /** @param {[number, number][]} leads */
  lead(leads) {
    if (!leads.length) return;
    const { pen } = this;
    const most = Math.max(1000, ...leads.map(([, ms]) => ms));
    const y = (/** @type {number} */ ms) => this.leadBottom - (ms / most) * (this.leadBottom - this.leadTop);
    pen.beginPath();
    pen.moveTo(this.x(leads[0][0]), this.leadBottom);
    for (const [at, ms] of leads) pen.lineTo(this.x(at), y(ms));
    pen.lineTo(this.x(leads.at(-1)?.[0] ?? 0), this.leadBottom);
    pen.fillStyle = this.color.wash;
    pen.fill();
    pen.beginPath();
    for (const [at, ms] of leads) pen.lineTo(this.x(at), y(ms));
    pen.strokeStyle = this.color.accent;
    pen.lineWidth = 1.5;
    pen.stroke();
    pen.lineWidth = 1;
  }

  /** @param {number} at @param {string} color @param {string} text */
  mark(at, color, text) {
    const { pen } = this;
    const x = this.x(at);
    pen.strokeStyle = pen.fillStyle = color;
    pen.beginPath();
    pen.moveTo(x, 0);
    pen.lineTo(x, this.leadBottom);
    pen.stroke();
    if (!text) return;
    const wide = pen.measureText(text).width + 8;
    const left = x + wide > this.width ? x - wide : x;
    const row = this.labels.findIndex((end) => end <= left);
    if (row < 0) return; // no room: the line and the figures say it
    this.labels[row] = left + wide;
    pen.textAlign = "left";
    pen.fillText(text, left + 4, this.leadTop + 4 + LABEL_PX * row);
  }
}

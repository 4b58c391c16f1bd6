/**
 * How far turns are heard: from the player's clock to the turns, and to the server, which keeps of a turn exactly that.
 */

const REPORT_MS = 250; // between two playback.update

/** @typedef {import("./turn.js").Turn} Turn */

/** Events: "clock" (the player's), "started", "stalled", "ended" {turn}: played to its end. */
export class Playback extends EventTarget {
  /**
   * @param {import("./player.js").Player} player
   * @param {import("./turns.js").Turns} turns
   * @param {import("./live.js").Live} live
   */
  constructor(player, turns, live) {
    super();
    this.player = player;
    this.turns = turns;
    this.live = live;
    this.reported = { at: 0, turn: "", ms: 0 };
    player.addEventListener("clock", (/** @type {any} */ { detail }) => this.onClock(detail));
    this.onTurn("started", (turn) => {
      turn.trace.firstSound ??= performance.now() + player.latency * 1000;
      this.report(turn, 0, "playing");
    });
    this.onTurn("stalled", (turn) => {
      (turn.hasText ? turn.trace.underruns : turn.trace.waits).push(performance.now());
      turn.trace.gap();
      this.report(turn, player.heard().ms, "stalled");
    });
    this.onTurn("ended", (turn) => {
      turn.heardMs = turn.done?.audio_ms ?? turn.heardMs;
      this.report(turn, turn.heardMs, "ended");
    });
  }

  /** @param {string} name  of an event of the player's that is about a turn @param {(turn: Turn) => void} act */
  onTurn(name, act) {
    this.player.addEventListener(name, (/** @type {any} */ { detail }) => {
      const turn = this.turns.byNumber.get(detail.turn);
      if (!turn || turn.over) return;
      act(turn);
      this.dispatchEvent(new CustomEvent(name, { detail: { turn } }));
    });
  }

  /** @param {import("./player.js").Clock} clock */
  onClock(clock) {
    const turn = clock.turn === null ? null : this.turns.byNumber.get(clock.turn);
    if (turn && !turn.over) {
      this.note(turn);
      turn.trace.lead(performance.now(), (clock.buffered / this.player.context.sampleRate) * 1000);
      if (clock.running) turn.trace.goesOn();
      if (clock.running && performance.now() - this.reported.at >= REPORT_MS) this.report(turn, turn.heardMs, "playing");
    }
    this.dispatchEvent(new CustomEvent("clock", { detail: clock }));
  }

  /** What of a turn is heard by now. @param {Turn} turn */
  note(turn) {
    const heard = this.player.heard();
    if (turn.n !== null && heard.turn === turn.n && !turn.over) turn.heardMs = Math.max(turn.heardMs, heard.ms);
  }

  /** Its sound has come, but the browser does not let it sound yet. @param {Turn} turn */
  locked(turn) {
    if (this.reported.turn !== turn.id) this.report(turn, turn.heardMs, "stalled");
  }

  /** @param {Turn} turn @param {number} ms @param {string} state */
  report(turn, ms, state) {
    const played_ms = this.reported.turn === turn.id ? Math.max(ms, this.reported.ms) : ms; // it never falls
    this.reported = { at: performance.now(), turn: turn.id, ms: played_ms };
    this.live.send("playback.update", { turn: turn.id, played_ms, state });
  }
}

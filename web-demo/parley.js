/**
 * A client of Parley for browsers: text out, sound in, the truth about what was heard. No dependencies; use it without the page:
 *
 *     import { Parley } from "./parley.js";
 *     const parley = await Parley.connect({ url: "ws://127.0.0.1:8300/v1/live" });
 *     button.onclick = async () => {
 *       await parley.unlock();                       // a browser wants a gesture before the first sound
 *       const turn = parley.say("Hello there.");     // or parley.say(asyncIterableOfDeltas)
 *       await turn.finished;                         // turn.heard.text, turn.heard.remaining
 *     };
 *     stop.onclick = () => parley.interrupt("user");
 *     await parley.listen();                         // the microphone: whoever speaks interrupts
 *
 * Events (all CustomEvents; `detail` in brackets):
 *   state      {state, code, message}  connecting, open, lost (it will try again) or closed (it will not)
 *   renewed    the server has forgotten the conversation; another one has begun
 *   turn       {turn}                  a turn changed: text, words, state, `heard`
 *   started    {turn}                  its first sample sounds
 *   ended      {turn}                  it is over: played, cut or failed
 *   stalled    {turn}                  samples were missing, see turn.trace.underruns and .waits
 *   paused, resumed {turn}             it is silent for now, or goes on
 *   speech     {speaking, ...}         somebody speaks into the microphone, or has stopped
 *   interrupted {turn, reason, silentMs}  silence, so many ms after it was wanted
 *   samples    {turn, samples, position} sound of a turn has come, at 48 kHz; the player is given it next, so copy what is kept
 *   hop        {samples, level, voiced, at} 16 ms of the microphone at 16 kHz, in dB, ending at that second of the player's context
 *   clock      player's clock, some 20 times a second
 *   warning, error, server             what the server says; `server` is every event
 */

import { opusSupport } from "./parley/decode.js";
import { Incoming } from "./parley/incoming.js";
import { Live, Refused } from "./parley/live.js";
import { MicrophoneRefused } from "./parley/microphone.js";
import { Playback } from "./parley/playback.js";
import { Player } from "./parley/player.js";
import { Turn } from "./parley/turn.js";
import { Turns } from "./parley/turns.js";
import { Uplink } from "./parley/uplink.js";

export { Live, MicrophoneRefused, Player, Refused, Turn };

const RATE = 48000; // of all sound here: nothing is resampled in the browser, and Opus has no other
const KEPT = 8; // turns that are over; a page may still be told how far they were heard
const PAUSE = "pause"; // event_id of what holds the player
const HELD_BACK = { lead_ms: 2000, burst_ms: 400 };

/**
 * @typedef {object} Options
 * @property {string | URL} url  ws://HOST/v1/live
 * @property {() => Promise<string | null>} [secret]  see Live
 * @property {string} [key]
 * @property {object} [settings]  of session.update, beyond the sound's format
 * @property {"opus" | "pcm_s16le"} [format]  default: opus where it can be decoded
 * @property {"webcodecs" | "wasm"} [opus]  how; default: the browser's own where it has one
 * @property {any} [snapshot]  of another page's `parley.snapshot()`, to go on in its conversation
 */

export class Parley extends EventTarget {
  /**
   * Begins to connect; resolves once the conversation is open. Rejects with Refused where it cannot be.
   * @param {Options} options
   */
  static async connect(options) {
    const parley = await Parley.create(options);
    await parley.open();
    return parley;
  }

  /** As `connect`, without connecting: for who wants to hear all events. @param {Options} options */
  static async create(options) {
    if (!globalThis.isSecureContext) {
      const { port } = new URL(options.url);
      const local = `http://localhost${port && `:${port}`}`;
      throw new Refused("insecure", `Browsers play live sound only from https or localhost. Open ${local} on the server's own machine, or give it a certificate (--tls-self-signed makes one).`);
    }
    const opus = options.opus ?? (await opusSupport());
    return new Parley(options, await Player.open(RATE), opus);
  }

  /** @param {Options} options @param {Player} player @param {string | null} opus */
  constructor(options, player, opus) {
    super();
    this.player = player;
    this.opus = opus;
    this.turns = new Turns(); // by id; of those that are over the last ones
    /** @type {Uplink | null} */
    this.uplink = null; // while the microphone is open
    this.incoming = new Incoming(opus, RATE, (turn, n, samples, position) => {
      this.tell("samples", { turn, samples, position });
      player.play(n, samples, position);
    });
    const format = options.format ?? (opus ? "opus" : "pcm_s16le");
    const settings = { alignment: "word", ...options.settings, pacing: { clock: "ack", ...HELD_BACK }, audio: { output: output(format) } };
    const have = () => this.turns.have();
    this.live = new Live({ ...options, settings, have, resumeToken: options.snapshot?.token });
    if (options.snapshot) this.turns.restore(options.snapshot.turns, this.live.journal);
    this.listenToServer();
    this.playback = new Playback(player, this.turns, this.live);
    this.listenToPlayback();
  }

  /** Connect. Resolves once it is open; rejects with Refused where it is refused for good. */
  open() {
    void this.live.connect();
    return new Promise((resolve, reject) => {
      const look = (/** @type {any} */ { detail }) => {
        if (detail.state !== "open" && detail.state !== "closed") return;
        this.live.removeEventListener("state", look);
        if (detail.state === "open") resolve(this);
        else reject(new Refused(detail.code, detail.message));
      };
      this.live.addEventListener("state", look);
    });
  }

  /** The turn that sounds, or would next; null: none. */
  get current() {
    return this.turns.current;
  }

  /** Let sound be heard; call it in a click or key handler. Resolves whether it is. */
  unlock() {
    return this.player.unlock();
  }

  /**
   * Speak, all of it or as it comes.
   * @param {string | AsyncIterable<string> | null} text  null: by `append` and `finish`
   * @param {object} [fields]  of turn.start
   * @returns {Turn}
   */
  say(text, fields = {}) {
    const turn = new Turn(crypto.randomUUID());
    this.turns.set(turn.id, turn);
    this.live.post(this.live.journal.start(turn.id, fields));
    this.tell("turn", { turn });
    if (typeof text === "string") {
      this.append(turn, text);
      this.finish(turn);
    } else if (text) {
      void this.follow(turn, text);
    }
    return turn;
  }

  /** @param {Turn} turn @param {AsyncIterable<string>} deltas */
  async follow(turn, deltas) {
    try {
      for await (const delta of deltas) {
        if (turn.over) return;
        this.append(turn, delta);
      }
    } finally {
      if (!turn.over) this.finish(turn);
    }
  }

  /** More of a turn's text, cut anywhere. @param {Turn} turn @param {string} text */
  append(turn, text) {
    if (turn.ended || turn.over || !text) return;
    if (!turn.text) turn.trace.began = performance.now();
    turn.text += text;
    turn.trace.texts.push([performance.now(), turn.text.length]);
    this.live.post(this.live.journal.append(turn.id, text));
    this.tell("turn", { turn });
  }

  /** No more text comes for it. @param {Turn} turn */
  finish(turn) {
    if (turn.ended) return;
    turn.ended = true;
    this.live.post(this.live.journal.end(turn.id));
    this.tell("turn", { turn });
  }

  /**
   * Silence, now; all that was to be said is over. The conversation keeps what was heard.
   * @param {string} [reason]
   * @returns {Promise<Turn | null>} once it is silent: the turn that was cut; null: nothing was to be said
   */
  async interrupt(reason = "user") {
    const wanted = performance.now();
    const first = this.current;
    this.uplink?.settle();
    const stopped = await this.player.stop();
    const silent = performance.now();
    const sounded = stopped.turn === null ? null : this.turns.byNumber.get(stopped.turn) ?? null;
    const turn = sounded && !sounded.over ? sounded : first;
    if (!turn || turn.over) return null;
    const played_ms = turn === sounded ? stopped.ms : 0;
    Object.assign(turn.trace, { cancelled: wanted, silent });
    this.live.send("turn.cancel", { turn: turn.id, played_ms, reason });
    let reached = false;
    for (const one of this.turns.values()) {
      reached ||= one === turn;
      if (reached && !one.over) this.cut(one, one === turn ? played_ms : 0);
    }
    this.tell("interrupted", { turn, reason, silentMs: silent - wanted });
    return turn;
  }

  /** Be silent for now and lose nothing. The server lets it wait for `pause_ttl_ms`. */
  pause() {
    const { turn, ms } = this.player.heard();
    const sounding = turn === null ? null : this.turns.byNumber.get(turn);
    if (!sounding || this.player.held) return;
    this.player.hold(true);
    this.live.send("turn.pause", { event_id: PAUSE, turn: sounding.id, played_ms: ms });
  }

  /** Go on. */
  resume() {
    const turn = this.current;
    this.uplink?.settle();
    if (turn && this.player.held) this.live.send("turn.resume", { event_id: PAUSE, turn: turn.id });
  }

  /** Change settings, from the next turn on. @param {object} settings  of session.update */
  configure(settings) {
    this.live.configure(settings);
  }

  /** Opus or PCM, from the next turn on. @param {"opus" | "pcm_s16le"} format */
  setFormat(format) {
    this.configure({ audio: { output: output(format) } });
  }

  /**
   * Open the microphone: whoever speaks is heard by the server, pauses what is being said, and after `confirmMs` of speech interrupts it.
   * @param {import("./parley/uplink.js").ListenOptions} [options]
   */
  async listen(options = {}) {
    if (this.uplink) return;
    const uplink = (this.uplink = await Uplink.open(this.live, this.player.context, options));
    uplink.addEventListener("hop", (/** @type {any} */ { detail }) => this.tell("hop", detail));
    uplink.addEventListener("meant", () => void this.interrupt("barge_in"));
    uplink.addEventListener("cough", () => this.resume());
    uplink.addEventListener("lost", () => {
      this.mute();
      this.tell("error", { code: "microphone", message: "The microphone was taken away." });
    });
  }

  /** Whether the microphone is open. */
  get listening() {
    return this.uplink !== null;
  }

  /** Close the microphone. */
  mute() {
    if (!this.uplink) return;
    this.uplink.close();
    this.uplink = null;
    this.tell("speech", { speaking: false });
  }

  /** What a page stores that wants to go on after it was loaded again: in its own tab only, it holds a secret. */
  snapshot() {
    for (const turn of this.turns.values()) this.playback.note(turn);
    return { token: this.live.token, turns: [...this.turns.values()] };
  }

  /** Leave for good. */
  async close() {
    this.mute();
    this.live.close();
    this.incoming.close();
    await this.player.close();
  }

  // What comes from the server

  listenToServer() {
    const { live } = this;
    live.addEventListener("state", (/** @type {any} */ { detail }) => {
      if (detail.state === "open") this.onOpen();
      this.tell("state", detail);
    });
    live.addEventListener("renewed", () => this.onRenewed());
    live.addEventListener("audio", (/** @type {any} */ { detail }) => this.onAudio(detail));
    live.addEventListener("event", (/** @type {any} */ { detail }) => {
      this.onEvent(detail);
      this.tell("server", detail);
    });
  }

  onOpen() {
    this.incoming.begin(this.live.session);
    this.uplink?.announce();
  }

  /** Turns of which something was heard ended with the old session; the others are said in the new one. */
  onRenewed() {
    this.turns.byNumber.clear();
    for (const turn of this.turns.values()) {
      if (turn.over) continue;
      if (turn.n !== null) {
        void this.player.stop();
        this.live.journal.done(turn.id);
        this.cut(turn, turn.heardMs);
      }
    }
    this.tell("renewed", {});
  }

  /** @param {any} event */
  onEvent(event) {
    const turn = this.turns.get(event.turn);
    switch (event.type) {
      case "session.updated":
        this.incoming.change(event);
        break;
      case "turn.started":
        if (turn) this.onStarted(turn, event);
        break;
      case "alignment":
        turn?.align(event.items);
        break;
      case "turn.paused":
        if (turn && !turn.over) this.onPaused(turn);
        break;
      case "turn.resumed":
        if (turn && !turn.over) this.onResumed(turn);
        break;
      case "turn.done":
        if (turn) this.onDone(turn, event);
        break;
      case "context.updated":
        if (turn && event.heard) this.onHeard(turn, event.heard);
        break;
      case "speech.started":
        this.onSpeech(event);
        break;
      case "speech.stopped":
        this.onQuiet(event);
        break;
      case "warning":
      case "error":
        if (event.event_id === PAUSE) this.player.hold(false); // nothing is paused at the server
        this.tell(event.type, event);
        break;
    }
    if (turn) this.tell("turn", { turn });
  }

  /** @param {Turn} turn @param {any} event */
  onStarted(turn, event) {
    this.turns.number(turn, event.n);
    if (turn.state === "open") turn.state = "speaking";
  }

  /** @param {import("./parley/frame.js").AudioMessage} message */
  onAudio(message) {
    const turn = this.turns.byNumber.get(message.n);
    if (!turn || turn.over || turn.done?.status === "cancelled") return;
    if (!this.player.unlocked) this.playback.locked(turn);
    this.incoming.push(turn, message);
  }

  /** @param {Turn} turn @param {any} event turn.done */
  onDone(turn, event) {
    turn.done = event;
    turn.ended = true;
    turn.trace.confirmed ??= performance.now();
    if (event.status === "completed") {
      void this.playOut(turn, event.n);
      if (!turn.over) turn.heard = null;
      return;
    }
    this.incoming.release(event.n);
    const sounds = this.player.clock.turn === event.n;
    turn.heard = event.heard;
    turn.heardMs = event.heard.ms;
    if (!turn.over) {
      if (sounds) void this.player.stop();
      else this.player.drop(event.n);
      this.conclude(turn, event.status === "failed" ? "failed" : "cut");
    }
  }

  /** All of a completed turn has come. @param {Turn} turn @param {number} n */
  async playOut(turn, n) {
    await this.incoming.finish(n);
    if (turn.over) return;
    if (turn.n === null) this.conclude(turn, "played"); // nothing in it could be spoken
    else this.player.end(n);
  }

  /** What the server says was heard of a turn that is over. @param {Turn} turn @param {any} heard */
  onHeard(turn, heard) {
    turn.heard = heard;
    turn.heardMs = heard.ms;
    turn.trace.confirmed = performance.now();
    if (turn.over) return;
    void this.player.stop(); // all of it had come, and the server has cut it all the same: it was paused for too long
    this.conclude(turn, "cut");
  }

  /** @param {Turn} turn */
  onPaused(turn) {
    if (!this.player.held) this.player.hold(true);
    turn.trace.pauses.push([performance.now(), null]);
    this.tell("paused", { turn });
  }

  /** @param {Turn} turn */
  onResumed(turn) {
    this.player.hold(false);
    const pause = turn.trace.pauses.at(-1);
    if (pause) pause[1] = performance.now();
    this.tell("resumed", { turn });
  }

  // What comes from the player

  listenToPlayback() {
    const { playback } = this;
    for (const name of ["clock", "started", "stalled"]) playback.addEventListener(name, (/** @type {any} */ { detail }) => this.tell(name, detail));
    playback.addEventListener("ended", (/** @type {any} */ { detail }) => this.conclude(detail.turn, "played"));
  }

  /** @param {Turn} turn @param {number} ms */
  cut(turn, ms) {
    turn.stopAt(ms);
    this.conclude(turn, "cut");
  }

  /** @param {Turn} turn @param {"played" | "cut" | "failed"} state */
  conclude(turn, state) {
    turn.conclude(state);
    if (turn.n !== null) this.incoming.release(turn.n);
    this.tell("turn", { turn });
    this.tell("ended", { turn });
    this.turns.forget(KEPT);
  }

  // What the caller does

  /** @param {any} event speech.started */
  onSpeech(event) {
    this.tell("speech", { speaking: true, ...event });
    const turn = this.turns.get(event.turn);
    if (event.action !== "paused" || !turn || turn.over) return;
    this.player.hold(true);
    this.uplink?.doubt();
  }

  /** @param {any} event speech.stopped */
  onQuiet(event) {
    this.tell("speech", { speaking: false, ...event });
    if (event.action === "resumed") this.uplink?.settle();
    else this.uplink?.quiet();
  }

  /** @param {string} type @param {unknown} detail */
  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {"opus" | "pcm_s16le"} format */
function output(format) {
  return { format, rate: RATE, frame_ms: 20 };
}

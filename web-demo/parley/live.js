/**
 * The socket of a conversation. It comes back by itself when it is lost, asks for the audio that is missing, and sends the text that
 * did not arrive; where the server has forgotten the conversation it begins another one and says so.
 *
 * Knows the protocol's connecting, resuming and closing. Does not know turns beyond their text, nor audio.
 */

import { unpack } from "./frame.js";
import { Journal } from "./journal.js";

const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 4000;
const BEGIN_ANEW = new Set([4404, 4410, 1012]); // the session is gone; another one may be had
const COME_LATER = new Set([4429, 4503]);
const THE_END = new Set([4400, 4401, 4403, 4408, 4409, 4413]); // nothing changes by trying again

/** A connection that cannot be; `code` is the protocol's, `message` for people. */
export class Refused extends Error {
  /** @param {string} code @param {string} message @param {number} [retryAfterMs] */
  constructor(code, message, retryAfterMs) {
    super(message);
    this.code = code;
    this.retryAfterMs = retryAfterMs;
  }
}

/**
 * @typedef {object} LiveOptions
 * @property {string | URL} url       ws://HOST/v1/live
 * @property {() => Promise<string | null>} [secret]  asked for before each new session; may throw Refused. null: none is needed
 * @property {string} [key]           shown in the first message; for trusted pages only
 * @property {object} settings        of session.update
 * @property {string} [resumeToken]   of a session to go on in
 * @property {() => {n: number, position: number} | null} have  up to where all samples have arrived
 */

/** Events: "state" {state, message, code}, "event" (the server's), "audio" (AudioMessage), "renewed". */
export class Live extends EventTarget {
  /** @param {LiveOptions} options */
  constructor(options) {
    super();
    this.options = options;
    this.settings = structuredClone(options.settings);
    this.journal = new Journal();
    this.token = options.resumeToken ?? null;
    /** @type {WebSocket | null} */
    this.socket = null;
    this.state = "connecting"; // "open", "lost": will try again, "closed": will not
    this.begun = this.token !== null; // there was a conversation
    /** @type {any} */
    this.session = null; // session.created of the present session
    /** @type {any} */
    this.fault = null; // the error event that explains a close
    /** @type {any} */
    this.closing = null; // session.closing
    this.tries = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.online = () => this.state === "lost" && this.retry(0);
    globalThis.addEventListener?.("online", this.online);
  }

  get open() {
    return this.state === "open" && this.socket?.readyState === WebSocket.OPEN; // a socket is lost before it says so
  }

  /** Begin, or begin again after an end. */
  async connect() {
    clearTimeout(this.timer);
    this.fault = this.closing = null;
    const address = new URL(this.options.url);
    try {
      if (this.token) {
        address.searchParams.set("resume", this.token);
        const have = this.options.have();
        if (have) address.searchParams.set("have", `${have.n}:${have.position}`);
      } else {
        const secret = await this.options.secret?.();
        if (secret) address.searchParams.set("token", secret);
      }
    } catch (error) {
      this.refused(/** @type {Refused} */ (error));
      return;
    }
    const socket = new WebSocket(address, "live.v1");
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      if (this.options.key && !this.token) this.write("session.update", { token: this.options.key });
    };
    socket.onmessage = ({ data }) => socket === this.socket && this.receive(data);
    socket.onclose = ({ code }) => socket === this.socket && this.lost(code);
  }

  /**
   * Send a command that means something now: while the socket is lost it is not sent.
   * @param {string} type
   * @param {object} [fields]
   * @returns {boolean} whether it was
   */
  send(type, fields = {}) {
    if (!this.open) return false;
    this.write(type, fields);
    return true;
  }

  /**
   * Send a turn's text, now or once the socket is back.
   * @param {import("./journal.js").Command[]} commands  of the journal
   */
  post(commands) {
    if (this.open) for (const command of commands) this.socket?.send(JSON.stringify(command));
  }

  /** @param {ArrayBuffer} message */
  sendBinary(message) {
    if (this.open) this.socket?.send(message);
  }

  /**
   * Change settings; they are kept for a session that has to begin anew.
   * @param {object} settings
   */
  configure(settings) {
    merge(this.settings, settings);
    this.send("session.update", settings);
  }

  /** Leave for good: the server forgets the session. */
  close() {
    clearTimeout(this.timer);
    globalThis.removeEventListener?.("online", this.online);
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
    this.turn("closed", "", "");
  }

  /** @param {string} type @param {object} fields */
  write(type, fields) {
    this.socket?.send(JSON.stringify({ type, ...fields }));
  }

  /** @param {string | ArrayBuffer} data */
  receive(data) {
    if (typeof data !== "string") {
      const message = unpack(data);
      if (message) this.tell("audio", message);
      return;
    }
    const event = JSON.parse(data);
    if (event.type === "session.created") this.created(event);
    else if (event.type === "error" && event.fatal) this.fault = event;
    else if (event.type === "session.closing") this.closing = event;
    else if (event.type === "pong" && event.t === this.settle) this.settled();
    else if (event.type === "turn.done") this.journal.done(event.turn);
    this.tell("event", event);
  }

  /** @param {any} event session.created */
  created(event) {
    const renewed = this.begun && !event.resumed;
    this.begun = true;
    this.session = event;
    this.token = event.resume_token ?? null;
    this.tries = 0;
    this.turn("open", "", "");
    if (event.resumed) {
      this.post(this.journal.missing(event.turns));
      // What the server does not name is over, or never reached it. What is over is told before the answer to this.
      this.unnamed = [...this.journal.entries.keys()].filter((turn) => !event.turns.some((/** @type {any} */ one) => one.turn === turn));
      this.settle = `settled-${Date.now()}`;
      this.write("ping", { t: this.settle });
      return;
    }
    this.write("session.update", this.settings);
    if (renewed) this.tell("renewed", event);
    this.post(this.journal.again());
  }

  settled() {
    this.post(this.journal.again(this.unnamed));
    this.settle = undefined;
  }

  /** @param {number} code */
  lost(code) {
    this.socket = null;
    const message = this.fault?.message ?? this.closing?.message ?? "";
    const name = this.fault?.code ?? String(code);
    if (BEGIN_ANEW.has(code)) {
      this.token = null;
      this.again(this.closing?.retry_after_ms ?? 0, name, message || "The server has restarted.");
    } else if (COME_LATER.has(code)) {
      this.again(this.fault?.retry_after_ms ?? LAST_RETRY_MS, name, message);
    } else if (THE_END.has(code)) {
      if (code === 4408) this.token = null;
      this.turn("closed", name, message);
    } else {
      this.again(0, name, message || "The connection was lost.");
    }
  }

  /** @param {Refused} refused */
  refused(refused) {
    const lasting = refused.code === "unauthorized" || refused.code === "forbidden";
    if (lasting) this.turn("closed", refused.code, refused.message);
    else this.again(refused.retryAfterMs ?? 0, refused.code, refused.message);
  }

  /** @param {number} afterMs @param {string} code @param {string} message */
  again(afterMs, code, message) {
    const backoff = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.tries) * (0.75 + Math.random() / 2);
    this.tries += 1;
    this.turn("lost", code, message);
    this.retry(Math.max(afterMs, this.tries === 1 && !afterMs ? 50 : backoff));
  }

  /** @param {number} ms */
  retry(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.connect(), ms);
  }

  /** @param {string} state @param {string} code @param {string} message */
  turn(state, code, message) {
    this.state = state;
    this.tell("state", { state, code, message });
  }

  /** @param {string} type @param {unknown} [detail] */
  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @param {any} into @param {any} from */
function merge(into, from) {
  for (const [name, value] of Object.entries(from)) {
    const both = isPlain(value) && isPlain(into[name]) && name !== "voices" && name !== "lexicon"; // which an update replaces
    if (both) merge(into[name], value);
    else into[name] = structuredClone(value);
  }
}

/** @param {unknown} value */
function isPlain(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

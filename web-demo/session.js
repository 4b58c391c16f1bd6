/**
 * A client of the native protocol, as small as it can be: JSON control in text messages, 16-byte headers in front of audio.
 */

const HEADER_BYTES = 16;
const SPEECH = 1;
export const APPEND_CHARS = 4096;

export class Session extends EventTarget {
  /** Resolves once the server has made a session. Rejects with an Error that has the server's `code`. */
  static connect(url, config) {
    const session = new Session(new WebSocket(url, "live.v1"));
    return new Promise((resolve, reject) => {
      session.socket.onopen = () => session.send("session.update", config);
      session.addEventListener("session.updated", () => resolve(session), { once: true });
      session.addEventListener("closed", ({ detail }) => reject(Object.assign(new Error(detail.message), detail)), { once: true });
    });
  }

  constructor(socket) {
    super();
    this.socket = socket;
    this.socket.binaryType = "arraybuffer";
    this.lastError = null; // the error event that explains a close
    this.socket.onmessage = ({ data }) => (typeof data === "string" ? this.control(JSON.parse(data)) : this.audio(data));
    this.socket.onclose = ({ code }) => {
      const message = this.lastError?.message ?? (code === 1012 ? "The server is restarting." : "The connection was lost.");
      this.tell("closed", { code: this.lastError?.code ?? String(code), message });
    };
  }

  get open() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  send(type, fields = {}) {
    this.socket.send(JSON.stringify({ type, ...fields }));
  }

  /** A whole turn. Its text goes in pieces as large as one message may be, never through the middle of a character. */
  speak(turn, text) {
    const characters = Array.from(text);
    for (let at = 0; at < characters.length; at += APPEND_CHARS) {
      this.send("text.append", { turn, text: characters.slice(at, at + APPEND_CHARS).join("") });
    }
    this.send("turn.end", { turn });
  }

  control(event) {
    if (event.type === "error" && event.fatal) this.lastError = event;
    this.tell(event.type, event);
  }

  audio(data) {
    const header = new DataView(data);
    if (data.byteLength < HEADER_BYTES || header.getUint8(0) !== SPEECH) return; // a kind of a later version
    this.tell("audio", { n: header.getUint32(4, true), payload: new Uint8Array(data, HEADER_BYTES) });
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

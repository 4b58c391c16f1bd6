/**
 * The page: what a person does becomes calls of `parley.js`, and what happens there becomes something to see.
 */

import { Composer } from "./composer.js";
import { offerDictation } from "./dictation.js";
import { Figures } from "./figures.js";
import { forgetAll, recall, remember, save, transcript } from "./keeping.js";
import { Levels } from "./levels.js";
import { EXAMPLES, ModelFailed, atPace } from "./llm.js";
import { ModelPanel } from "./model-panel.js";
import { Parley } from "./parley.js";
import { connectionWords, loadedModel, secret, untilReady } from "./server.js";
import { Shelf } from "./shelf.js";
import { Talk } from "./talk.js";
import { Tape } from "./tape.js";
import { spokenText } from "./transcript.js";
import { VoicePanel } from "./voice-panel.js";

const AT_ONCE = 61; // the pace slider's last stop
const DRAW_MS = 60; // between two drawings of levels and timeline: words light up with every frame
const NOTICE_MS = 9000;
const VOICE_S = 3; // what is shorter can be no voice

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

class Page {
  /** @param {Parley} parley @param {Tape} tape @param {Shelf | null} shelf @param {any} stored  by `keep` */
  constructor(parley, tape, shelf, stored) {
    this.parley = parley;
    this.tape = tape;
    this.shelf = shelf;
    this.epoch = Date.now() / 1000 - parley.player.context.currentTime; // the tape's clock goes on over a reload, the player's does not
    this.levels = new Levels($("levels"));
    this.figures = new Figures();
    this.talk = new Talk({ list: $("talk"), log: $("log"), empty: $("empty") }, (turn) => this.offers(turn));
    this.voices = new VoicePanel(parley, () => this.showModel());
    this.model = new ModelPanel();
    this.composer = new Composer($("text"), $("tag-list"), $("palette"));
    this.writing = new AbortController(); // of text that still comes
    this.dirty = true; // something changed since it was drawn
    this.drawn = 0;
    this.listenToParley();
    this.listenToPerson();
    if (stored) this.restore(stored);
    requestAnimationFrame(() => this.frame());
  }

  // What happens

  listenToParley() {
    const { parley } = this;
    const on = (/** @type {string} */ name, /** @type {(detail: any) => void} */ act) =>
      parley.addEventListener(name, (/** @type {any} */ { detail }) => act(detail));
    on("state", (detail) => this.showConnection(detail));
    on("renewed", () => this.notice("The server has begun a new conversation: it remembers nothing of the one before."));
    on("turn", ({ turn }) => this.onTurn(turn));
    on("started", ({ turn }) => this.measure(turn));
    on("ended", ({ turn }) => this.onEnded(turn));
    on("samples", ({ turn, samples, position }) => this.tape.add(turn.id, samples, position));
    on("interrupted", ({ turn, reason, silentMs }) => {
      this.figures.cancelMs = silentMs;
      this.writing.abort();
      this.measure(turn);
      if (reason === "barge_in") this.talk.announce("You interrupted.");
    });
    on("clock", (clock) => this.onClock(clock));
    on("hop", ({ samples, level, at }) => {
      this.levels.you(level);
      this.tape.hear(samples, level, this.epoch + at - samples.length / 16000, parley.player.clock.running);
    });
    on("speech", ({ speaking }) => document.body.classList.toggle("you-speak", speaking));
    for (const name of ["paused", "resumed", "speech", "started"]) on(name, () => this.buttons());
    on("warning", ({ code, turn, message }) => code === "underrun" || this.talk.remark(turn, message) || this.notice(message)); // the player counts underruns itself
    on("error", ({ message }) => {
      this.notice(message);
      this.buttons();
    });
  }

  /** @param {{state: string, code: string, message: string}} detail */
  showConnection({ state, code, message }) {
    $("connection").dataset.state = state;
    $("connection-text").textContent = connectionWords(state, code, message);
    $("key-form").hidden = code !== "unauthorized";
    if (code === "unauthorized") {
      $("key-form").closest("details").open = true;
      $("key").focus();
    }
    if (state === "open") {
      this.showFormat();
      void this.showModel();
    }
  }

  async showModel() {
    const model = await loadedModel();
    if (!model) return;
    $("model").textContent = `${model.id} on ${model.device}`;
    $("attribution").textContent = model.attribution ?? "";
    this.voices.offer(model.voices);
  }

  showFormat() {
    const { format } = this.parley.incoming;
    for (const radio of document.querySelectorAll("[name=format]")) {
      /** @type {HTMLInputElement} */ (radio).checked = /** @type {HTMLInputElement} */ (radio).value === format;
    }
    const how = { webcodecs: "decoded by the browser", wasm: "decoded by libopus in WebAssembly" }[this.parley.incoming.opus ?? ""];
    $("decoder").textContent = format === "opus" ? how ?? "" : "";
  }

  /** @param {import("./parley.js").Turn} turn */
  onTurn(turn) {
    const fresh = this.talk.follow(turn);
    if (fresh && (!this.figures.turn || this.figures.turn.over)) this.measure(turn);
    this.dirty = true;
    this.buttons();
  }

  /** @param {import("./parley.js").Turn} turn */
  measure(turn) {
    this.figures.turn = turn;
    this.dirty = true;
  }

  /** @param {import("./parley.js").Turn} turn */
  onEnded(turn) {
    this.tape.close(turn.id, turn.heardMs);
    this.talk.end(turn);
    this.buttons();
    this.keep();
  }

  /** @param {import("./parley/player.js").Clock} clock */
  onClock({ levels, turn, played, at }) {
    this.levels.parley(levels);
    this.dirty = true;
    const sounding = turn === null ? null : this.parley.turns.byNumber.get(turn);
    if (sounding) this.tape.place(sounding.id, played, this.epoch + at + this.parley.player.latency);
  }

  /** What can be done with a turn that is over. @param {import("./parley.js").Turn} turn */
  offers(turn) {
    if (this.tape.seconds(turn.id) < VOICE_S) return [];
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Keep as a voice";
    button.onclick = () => this.voices.propose(this.tape.wav(turn.id), this.tape.seconds(turn.id), spokenText(turn.heard?.text ?? turn.text));
    return [button];
  }

  /** @param {string} message */
  notice(message) {
    say(message);
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => ($("notice").hidden = true), NOTICE_MS);
  }

  buttons() {
    const { current, player, listening } = this.parley;
    const held = player.held && current !== null;
    $("interrupt").disabled = !current;
    $("pause").disabled = !current || current.n === null;
    $("pause").textContent = held ? "Go on" : "Pause";
    $("microphone").setAttribute("aria-pressed", String(listening));
    const yours = document.body.classList.contains("you-speak");
    const doing = held ? "paused" : current ? (current.n === null ? "thinking" : "speaking") : "";
    $("doing").textContent = [doing && `Parley: ${doing}`, listening && (yours ? "You: speaking" : "You: microphone on")].filter(Boolean).join(" · ");
  }

  frame() {
    const heard = this.parley.player.heard();
    const sounding = heard.turn === null ? null : this.parley.turns.byNumber.get(heard.turn);
    if (sounding && !sounding.over) this.talk.light(sounding, heard.ms);
    if (this.dirty && performance.now() - this.drawn >= DRAW_MS) {
      this.dirty = false;
      this.drawn = performance.now();
      this.levels.draw();
      this.figures.draw(heard);
    }
    requestAnimationFrame(() => this.frame());
  }

  // What a person does

  listenToPerson() {
    const { parley } = this;
    $("composer").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      void this.speak();
    });
    $("text").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (this.composer.key(event)) return;
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        void this.speak();
      }
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") void this.interrupt();
    });
    for (const gesture of ["pointerdown", "keydown"]) document.addEventListener(gesture, () => void parley.unlock(), { capture: true });
    $("interrupt").onclick = () => void this.interrupt();
    $("pause").onclick = () => (parley.player.held ? parley.resume() : parley.pause());
    $("microphone").onclick = () => void this.toggleMicrophone();
    $("pace").oninput = () => this.showPace();
    this.offerExamples();
    for (const radio of document.querySelectorAll("[name=format]")) {
      radio.addEventListener("change", () => {
        parley.setFormat(/** @type {any} */ (radio).value);
        $("decoder").textContent = "from the next turn on";
      });
    }
    $("save-wav").onclick = async () => save(await this.tape.conversation(), "parley.wav");
    $("save-text").onclick = () => save(new Blob([transcript(this.talk.entries)], { type: "text/plain" }), "parley.txt");
    $("anew").onclick = () => void this.beginAnew();
    addEventListener("pagehide", () => this.keep());
    document.addEventListener("securitypolicyviolation", (event) => {
      if (event.violatedDirective.startsWith("connect-src")) this.notice("This server does not let its page connect to that address.");
    });
    offerDictation($("dictate"), $("text"), () => void this.speak(), (message) => this.notice(message));
  }

  offerExamples() {
    $("example").append(...EXAMPLES.map(([name], i) => new Option(name, String(i))));
    $("example").onchange = () => {
      this.fill($("example").value);
      $("example").value = "";
      $("text").focus();
    };
    for (const [i, [name]] of EXAMPLES.entries()) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.onclick = () => {
        this.fill(String(i));
        void this.speak();
        $("speak").focus(); // the button itself is gone with the empty page
      };
      $("try").append(button);
    }
  }

  /** @param {string} index */
  fill(index) {
    if (index) $("text").value = EXAMPLES[Number(index)][1];
  }

  showPace() {
    const pace = Number($("pace").value);
    const words = pace >= AT_ONCE ? "at once" : `${pace} pieces a second`;
    $("pace-shown").textContent = words;
    $("pace").setAttribute("aria-valuetext", words);
  }

  async speak() {
    const text = $("text").value;
    if (!text.trim()) return;
    void this.parley.unlock().then((yes) => yes || this.notice("The browser does not let this page play sound yet: click somewhere on it."));
    if (this.parley.live.state === "closed") void this.parley.live.connect();
    if (this.parley.current) await this.parley.interrupt("superseded");
    this.writing = new AbortController();
    this.figures.cancelMs = null;
    if (this.model.answers) this.converse(text);
    else {
      const pace = Number($("pace").value);
      this.parley.say(pace >= AT_ONCE ? text : atPace(text, pace, this.writing.signal));
      if (document.activeElement === $("text")) $("text").select(); // whoever writes on writes something else
    }
  }

  /** @param {string} text */
  converse(text) {
    try {
      const endpoint = this.model.endpoint();
      this.talk.hear(text);
      $("text").value = "";
      this.parley.live.send("context.append", { text: text.slice(0, 4096) });
      const turn = this.parley.say(null);
      void this.follow(turn, this.model.answer(endpoint, this.talk.entries, this.writing.signal));
    } catch (error) {
      if (!(error instanceof ModelFailed)) throw error;
      this.notice(error.message);
    }
  }

  /** @param {import("./parley.js").Turn} turn @param {AsyncIterable<string>} deltas */
  async follow(turn, deltas) {
    try {
      await this.parley.follow(turn, deltas);
    } catch (error) {
      this.notice(error instanceof ModelFailed ? error.message : `The model's answer could not be read: ${error}`);
      if (!turn.text) void this.parley.interrupt("model_failed");
    }
  }

  async interrupt() {
    this.writing.abort();
    await this.parley.interrupt("user");
  }

  async toggleMicrophone() {
    try {
      if (this.parley.listening) this.parley.mute();
      else {
        await this.parley.unlock();
        await this.parley.listen();
      }
    } catch (error) {
      this.notice(/** @type {Error} */ (error).message);
    }
    this.buttons();
  }

  async beginAnew() {
    forgetAll();
    this.gone = true;
    this.parley.live.close();
    await this.shelf?.clear();
    location.reload();
  }

  // Over a reload

  keep() {
    if (this.gone || !this.parley.live.token) return;
    remember({ parley: this.parley.snapshot(), talk: this.talk, tape: this.shelf?.name });
  }

  /** @param {any} stored */
  restore(stored) {
    this.talk.restore(stored.talk, this.parley.turns);
    if (this.parley.current && !this.parley.player.unlocked) this.notice("The conversation goes on: press a key or click to hear it.");
  }
}

/** Above the text field. @param {string} message */
function say(message) {
  $("notice").textContent = message;
  $("notice").hidden = false;
}

/** The tape, and where it is kept. @param {string} name @returns {Promise<[Tape, Shelf | null]>} */
async function loadTape(name) {
  try {
    const shelf = await Shelf.open(name);
    const tape = new Tape((key, record) => shelf.put(key, record));
    tape.restore(await shelf.all());
    return [tape, shelf];
  } catch (error) {
    console.warn("The browser keeps nothing for this page: a reload loses the sound so far.", error);
    return [new Tape(), null];
  }
}

async function begin() {
  const stored = recall();
  const url = new URL("v1/live", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const wanted = new URLSearchParams(location.search).get("opus"); // ?opus=wasm tries the other decoder
  const opus = wanted === "wasm" ? "wasm" : undefined;
  const parley = await Parley.create({ url, secret: () => secret($("key").value), opus, snapshot: stored?.parley });
  const page = new Page(parley, ...(await loadTape(stored?.tape ?? crypto.randomUUID())), stored);
  Object.assign(window, { parley, page }); // for the console and for tests
  $("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    void parley.live.connect();
  });
  await untilReady(() => ($("connection-text").textContent = "The model is loading …"));
  await parley.open().catch(() => {}); // the page has said why
}

/** There will be no page. @param {Error} error */
function giveUp(error) {
  $("connection").dataset.state = "closed";
  $("connection-text").textContent = "Not connected";
  say(error.message);
  $("composer").inert = $("beside").inert = true;
  $("try").hidden = true;
}

begin().catch(giveUp);

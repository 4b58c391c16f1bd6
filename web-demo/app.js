/**
 * The page: what a person does becomes calls of `parley.js`, and what happens there becomes something to see.
 */

import { Composer } from "./composer.js";
import { offerDictation } from "./dictation.js";
import { Tape, forgetAll, recall, remember, save, transcript } from "./keeping.js";
import { EXAMPLES, ModelFailed, answer, atPace } from "./llm.js";
import { Parley } from "./parley.js";
import { connectionWords, loadedModel, secret, untilReady } from "./server.js";
import { Levels, drawTimeline } from "./timeline.js";
import { Said, show, youSaid } from "./transcript.js";
import { VoicePanel } from "./voice-panel.js";
import { spokenText } from "./voices.js";

const AT_ONCE = 61; // the pace slider's last stop
const PROMPT =
  "What you write is spoken aloud at once. Answer as in a conversation: short, plain sentences, no lists, no code. " +
  "You may use tags such as [laugh], [sigh], [whisper], [excited], [sad], [slow] and [normal] where they fit.";
const ADDRESS = "http://127.0.0.1:11434/v1"; // of a model, such as Ollama's
const DRAW_MS = 60; // between two drawings of levels and timeline: words light up with every frame
const SHOWN = 60; // utterances on the page; the saved transcript has all
const NOTICE_MS = 9000;

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

class Page {
  /** @param {Parley} parley @param {any} stored */
  constructor(parley, stored) {
    this.parley = parley;
    this.tape = new Tape();
    this.levels = new Levels($("levels"));
    /** @type {Map<string, Said>} */
    this.said = new Map();
    /** @type {import("./keeping.js").Entry[]} */
    this.entries = [];
    /** @type {Map<string, import("./keeping.js").Entry>} */
    this.entryOf = new Map();
    /** @type {import("./parley.js").Turn | null} */
    this.turn = null; // the one that is measured
    this.cancelMs = null;
    this.writing = new AbortController(); // of text that still comes
    this.dirty = true; // something changed since it was drawn
    this.drawn = 0;
    this.voices = new VoicePanel(parley, () => this.showModel());
    this.composer = new Composer($("text"), $("tag-list"), $("palette"));
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
    on("samples", ({ turn, samples }) => this.tape.add(turn.id, samples));
    on("interrupted", ({ turn, reason, silentMs }) => {
      this.cancelMs = silentMs;
      this.writing.abort();
      this.measure(turn);
      if (reason === "barge_in") this.announce("You interrupted.");
    });
    on("clock", ({ levels }) => {
      this.levels.parley(levels);
      this.dirty = true;
    });
    on("hop", ({ level }) => this.levels.you(level));
    on("speech", ({ speaking }) => document.body.classList.toggle("you-speak", speaking));
    on("paused", () => this.buttons());
    on("resumed", () => this.buttons());
    on("warning", (event) => event.code !== "underrun" && this.note(event.turn, event.message)); // the player counts them itself
    on("error", (event) => this.notice(event.message));
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
    let said = this.said.get(turn.id);
    if (!said) {
      said = new Said(turn);
      this.said.set(turn.id, said);
      $("talk").append(said.element);
      $("empty").hidden = true;
      const entry = { who: /** @type {const} */ ("parley"), text: turn.text, at: Date.now() };
      this.entryOf.set(turn.id, entry);
      this.entries.push(entry);
      if (!this.turn || this.turn.over) this.measure(turn);
      this.prune();
      show($("talk"), said.element);
    }
    if (turn.over) this.settle(turn, said);
    else said.grow();
    this.dirty = true;
    this.buttons();
  }

  /** Let go of what was said long ago. */
  prune() {
    const talk = $("talk");
    while (talk.children.length > SHOWN) talk.firstElementChild.remove();
    for (const [id, said] of this.said) {
      if (said.element.isConnected) continue;
      this.said.delete(id);
      this.entryOf.delete(id);
    }
  }

  /** @param {import("./parley.js").Turn} turn */
  measure(turn) {
    this.turn = turn;
    this.dirty = true;
  }

  /** @param {import("./parley.js").Turn} turn */
  onEnded(turn) {
    this.tape.close(turn.id, turn.heardMs);
    const said = this.said.get(turn.id);
    if (said) {
      this.settle(turn, said);
      show($("talk"), said.meta);
    }
    const heard = spokenText(turn.heard?.text ?? "");
    const rest = spokenText(turn.heard?.remaining ?? "");
    this.announce(rest ? `Parley, cut off after: ${heard || "nothing"}. Not heard: ${rest}` : `Parley: ${heard}`);
    this.buttons();
    this.keep();
  }

  /** @param {import("./parley.js").Turn} turn @param {Said} said */
  settle(turn, said) {
    said.settle();
    const entry = this.entryOf.get(turn.id);
    if (entry) Object.assign(entry, { text: turn.text, heard: turn.heard?.text, remaining: turn.heard?.remaining });
    const seconds = (turn.heardMs / 1000).toFixed(1);
    const words = document.createElement("span");
    words.textContent = turn.state === "cut" ? `cut off after ${seconds} s` : turn.state === "failed" ? "could not be spoken" : `heard, ${seconds} s`;
    if (turn.state !== "played") words.className = "reason";
    const notes = [...said.meta.querySelectorAll(".warning")];
    said.meta.replaceChildren(words, ...notes);
    if (this.tape.seconds(turn.id) >= 3) said.meta.append(this.keepButton(turn));
  }

  /** @param {import("./parley.js").Turn} turn */
  keepButton(turn) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Keep as a voice";
    button.onclick = () => this.voices.propose(this.tape.wav(turn.id), this.tape.seconds(turn.id), spokenText(turn.heard?.text ?? turn.text));
    return button;
  }

  /** A remark under a turn, or above the text field. @param {string | undefined} turn @param {string} message */
  note(turn, message) {
    const said = turn ? this.said.get(turn) : undefined;
    if (!said) return this.notice(message);
    const remark = document.createElement("span");
    remark.className = "warning";
    remark.textContent = message;
    said.meta.append(remark);
  }

  /** @param {string} message */
  notice(message) {
    $("notice").textContent = message;
    $("notice").hidden = false;
    clearTimeout(this.noticeTimer);
    this.noticeTimer = setTimeout(() => ($("notice").hidden = true), NOTICE_MS);
  }

  /** For who listens to the page instead of looking at it. @param {string} text */
  announce(text) {
    const line = document.createElement("p");
    line.textContent = text;
    $("log").append(line);
    while ($("log").children.length > 20) $("log").firstChild.remove();
  }

  buttons() {
    const current = this.parley.current;
    $("interrupt").disabled = !current;
    $("pause").disabled = !current || current.n === null;
    $("pause").textContent = this.parley.player.held && current ? "Go on" : "Pause";
  }

  // What is seen

  frame() {
    const heard = this.parley.player.heard();
    const sounding = heard.turn === null ? null : this.parley.turns.byNumber.get(heard.turn);
    const word = sounding && !sounding.over ? this.said.get(sounding.id)?.light(sounding.charsAt(heard.ms)) : null;
    if (word) show($("talk"), word);
    if (this.dirty && performance.now() - this.drawn >= DRAW_MS) {
      this.dirty = false;
      this.drawn = performance.now();
      this.levels.draw();
      drawTimeline($("timeline"), this.turn);
      this.figures(heard);
    }
    requestAnimationFrame(() => this.frame());
  }

  /** @param {{turn: number | null, ms: number}} heard */
  figures(heard) {
    const turn = this.turn;
    const set = (/** @type {string} */ id, /** @type {string} */ value) => {
      if ($(id).textContent !== value) $(id).textContent = value;
    };
    const trace = turn?.trace;
    const metrics = turn?.done?.metrics;
    const first = trace?.firstSound ? trace.firstSound - trace.began : null;
    const leads = trace?.leads.slice(0, turn?.done ? -8 : undefined).map(([, ms]) => ms) ?? [];
    const ms = turn && !turn.over && heard.turn === turn.n ? heard.ms : turn?.heardMs ?? 0;
    set("f-first", first === null ? "–" : `${Math.round(first)} ms`);
    set("f-rtf", metrics?.rtf == null ? "–" : metrics.rtf.toFixed(2));
    set("f-cancel", this.cancelMs === null ? "–" : `${Math.round(this.cancelMs)} ms`);
    set("f-lead", leads.length > 8 ? `${Math.round(Math.min(...leads.slice(8)))} ms` : "–");
    set("f-underruns", turn ? String(trace?.underruns.length) : "–");
    set("f-heard", turn ? `${(ms / 1000).toFixed(1)} s` : "–");
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
    $("example").onchange = () => this.fill($("example").value);
    $("example").append(...EXAMPLES.map(([name], i) => new Option(name, String(i))));
    for (const radio of document.querySelectorAll("[name=who]")) radio.addEventListener("change", () => this.showWho());
    for (const radio of document.querySelectorAll("[name=format]")) {
      radio.addEventListener("change", () => {
        parley.setFormat(/** @type {any} */ (radio).value);
        $("decoder").textContent = "from the next turn on";
      });
    }
    $("llm-url").placeholder = ADDRESS;
    $("save-wav").onclick = () => save(this.tape.wav(), "parley.wav");
    $("save-text").onclick = () => save(new Blob([transcript(this.entries)], { type: "text/plain" }), "parley.txt");
    $("anew").onclick = () => {
      forgetAll();
      this.gone = true;
      parley.live.close();
      location.reload();
    };
    addEventListener("pagehide", () => this.keep());
    document.addEventListener("securitypolicyviolation", (event) => {
      if (event.violatedDirective.startsWith("connect-src")) this.notice("This server does not let its page connect to that address.");
    });
    offerDictation($("dictate"), $("text"), () => void this.speak(), (message) => this.notice(message));
  }

  /** @param {string} index */
  fill(index) {
    if (index) $("text").value = EXAMPLES[Number(index)][1];
    $("example").value = "";
    $("text").focus();
  }

  showPace() {
    const pace = Number($("pace").value);
    const words = pace >= AT_ONCE ? "at once" : `${pace} pieces a second`;
    $("pace-shown").textContent = words;
    $("pace").setAttribute("aria-valuetext", words);
  }

  showWho() {
    const model = this.modelAnswers;
    $("text-label").textContent = model ? "Your message to the model" : "Text to be spoken";
    $("speak").textContent = model ? "Send" : "Speak";
    if (model && !$("llm-url").value) {
      $("llm").open = true;
      $("llm-url").focus();
    }
  }

  get modelAnswers() {
    return /** @type {any} */ (document.querySelector("[name=who]:checked")).value === "model";
  }

  async speak() {
    const text = $("text").value;
    if (!text.trim()) return;
    const unlocked = this.parley.unlock();
    void unlocked.then((yes) => yes || this.notice("The browser does not let this page play sound yet: click somewhere on it."));
    if (this.parley.live.state === "closed") void this.parley.live.connect();
    if (this.parley.current) await this.parley.interrupt("superseded");
    this.writing = new AbortController();
    this.cancelMs = null;
    if (this.modelAnswers) {
      this.converse(text);
      $("text").value = "";
      return;
    }
    const pace = Number($("pace").value);
    this.parley.say(pace >= AT_ONCE ? text : atPace(text, pace, this.writing.signal));
  }

  /** @param {string} text */
  converse(text) {
    const endpoint = { url: $("llm-url").value.trim(), model: $("llm-model").value.trim(), key: $("llm-key").value };
    if (!/^https?:\/\//u.test(endpoint.url)) {
      $("llm").open = true;
      this.notice(`Say at which address the model answers, such as ${ADDRESS}.`);
      return;
    }
    this.entries.push({ who: "you", text, at: Date.now() });
    const mine = youSaid(text);
    $("talk").append(mine);
    $("empty").hidden = true;
    show($("talk"), mine);
    this.parley.live.send("context.append", { text: text.slice(0, 4096) });
    const turn = this.parley.say(null);
    void this.follow(turn, answer(endpoint, this.messages(), this.writing.signal));
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

  /** The conversation for a model: of its own words those that were heard. */
  messages() {
    const said = this.entries.map(({ who, text, heard }) =>
      who === "you" ? { role: /** @type {const} */ ("user"), content: text } : { role: /** @type {const} */ ("assistant"), content: heard ?? text },
    );
    return [{ role: /** @type {const} */ ("system"), content: PROMPT }, ...said.filter(({ content }) => content.trim())];
  }

  async interrupt() {
    this.writing.abort();
    await this.parley.interrupt("user");
  }

  async toggleMicrophone() {
    const button = $("microphone");
    try {
      if (this.parley.listening) this.parley.mute();
      else {
        await this.parley.unlock();
        await this.parley.listen();
      }
    } catch (error) {
      this.notice(/** @type {Error} */ (error).message);
    }
    button.setAttribute("aria-pressed", String(this.parley.listening));
  }

  // Over a reload

  keep() {
    if (this.gone || !this.parley.live.token) return;
    remember({ parley: this.parley.snapshot(), entries: this.entries, turns: [...this.entryOf].map(([id, entry]) => [id, this.entries.indexOf(entry)]) });
  }

  /** @param {any} stored */
  restore(stored) {
    this.entries = stored.entries;
    const ids = new Map(stored.turns.map((/** @type {[string, number]} */ [id, index]) => [index, id]));
    this.entries.forEach((entry, index) => {
      if (entry.who === "you") return $("talk").append(youSaid(entry.text));
      const turn = this.parley.turns.get(/** @type {string} */ (ids.get(index))) ?? pastTurn(entry);
      const said = new Said(turn);
      this.said.set(turn.id, said);
      this.entryOf.set(turn.id, entry);
      $("talk").append(said.element);
      if (turn.over) this.settle(turn, said);
      else said.grow();
    });
    $("empty").hidden = this.entries.length > 0;
    if (this.parley.current && !this.parley.player.unlocked) this.notice("The conversation goes on: press a key or click to hear it.");
  }
}

/** A turn that is only remembered. @param {import("./keeping.js").Entry} entry @returns {any} */
function pastTurn({ text, heard, remaining }) {
  const charEnd = Array.from(heard ?? text).length;
  const state = remaining?.trim() ? "cut" : "played";
  return { id: crypto.randomUUID(), text, over: true, state, heardMs: 0, heard: { text: heard ?? text, remaining: remaining ?? "", char_end: charEnd } };
}

async function begin() {
  const stored = recall();
  const url = new URL("v1/live", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const wanted = new URLSearchParams(location.search).get("opus"); // ?opus=wasm tries the other decoder
  const opus = wanted === "wasm" ? "wasm" : undefined;
  try {
    const parley = await Parley.create({ url, secret: () => secret($("key").value), opus, snapshot: stored?.parley });
    const page = new Page(parley, stored);
    Object.assign(window, { parley, page }); // for the console and for tests
    $("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      void parley.live.connect();
    });
    await untilReady(() => ($("connection-text").textContent = "The model is loading …"));
    await parley.open();
  } catch (error) {
    $("connection").dataset.state = "closed";
    $("connection-text").textContent = connectionWords("closed", /** @type {any} */ (error).code, /** @type {Error} */ (error).message);
  }
}

void begin();

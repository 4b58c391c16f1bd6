/**
 * The page: what a person does becomes calls of `parley.js`, and what happens there becomes something to see.
 */

import { Composer } from "./composer.js";
import { Tape, forgetAll, recall, remember, save, transcript } from "./keeping.js";
import { EXAMPLES, ModelFailed, answer, atPace } from "./llm.js";
import { Parley, Refused } from "./parley.js";
import { Levels, drawTimeline } from "./timeline.js";
import { Said, youSaid } from "./transcript.js";
import { Casting, Recorder, spokenText, upload } from "./voices.js";

const AT_ONCE = 61; // the pace slider's last stop
const PROMPT =
  "What you write is spoken aloud at once. Answer as in a conversation: short, plain sentences, no lists, no code. " +
  "You may use tags such as [laugh], [sigh], [whisper], [excited], [sad], [slow] and [normal] where they fit.";
const ADDRESS = "http://127.0.0.1:11434/v1"; // of a model, such as Ollama's
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
    this.dirty = true;
    this.casting = new Casting($("voices"), (settings) => parley.configure(settings));
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
      void showModel(this.casting);
    }
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
    }
    if (turn.over) this.settle(turn, said);
    else said.grow();
    this.dirty = true;
    this.buttons();
    said.element.scrollIntoView({ block: "nearest" });
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
    if (said) this.settle(turn, said);
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
    button.onclick = () => {
      this.take = this.tape.wav(turn.id);
      $("voice-text").value = spokenText(turn.heard?.text ?? turn.text);
      $("recorded").textContent = `take of ${this.tape.seconds(turn.id).toFixed(1)} s`;
      $("new-voice").closest("details").open = true;
      $("voice-name").focus();
    };
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
    const sounding = heard.turn === null ? null : this.parley.byNumber.get(heard.turn);
    if (sounding && !sounding.over) this.said.get(sounding.id)?.light(sounding.charsAt(heard.ms));
    if (this.dirty || (this.turn && !this.turn.over)) {
      this.dirty = false;
      this.levels.draw();
      if (!this.drawn || performance.now() - this.drawn > 90) {
        this.drawn = performance.now();
        drawTimeline($("timeline"), this.turn);
        this.figures(heard);
      } else {
        this.dirty = true;
      }
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
    $("more-voices").onclick = () => this.toggleSpeakers();
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
    this.listenToVoices();
    this.offerDictation();
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
    $("talk").append(youSaid(text));
    $("empty").hidden = true;
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

  toggleSpeakers() {
    const on = $("more-voices").getAttribute("aria-expanded") !== "true";
    $("more-voices").setAttribute("aria-expanded", String(on));
    this.casting.showAll(on);
  }

  listenToVoices() {
    $("record").onclick = () => void this.record();
    $("voice-file").onchange = () => this.chose($("voice-file").files[0]);
    const drop = $("drop");
    drop.ondragover = (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      drop.classList.add("over");
    };
    drop.ondragleave = () => drop.classList.remove("over");
    drop.ondrop = (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      drop.classList.remove("over");
      this.chose(event.dataTransfer?.files[0]);
    };
    $("new-voice").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      void this.addVoice();
    });
  }

  /** @param {File | undefined} file */
  chose(file) {
    if (!file) return;
    this.take = file;
    $("recorded").textContent = file.name;
    if (!$("voice-name").value) $("voice-name").value = file.name.replace(/\.\w+$/u, "").replace(/[^A-Za-z0-9_-]+/gu, "-").slice(0, 64);
  }

  async record() {
    try {
      if (this.recorder) {
        this.take = this.recorder.stop();
        this.recorder = null;
        $("recorded").textContent = `recorded ${((this.take.size - 44) / 96000).toFixed(1)} s`;
      } else {
        await this.parley.unlock();
        this.recorder = await Recorder.start(this.parley.player.context);
        $("recorded").textContent = "recording …";
      }
    } catch (error) {
      $("recorded").textContent = /** @type {Error} */ (error).message;
    }
    $("record").setAttribute("aria-pressed", String(Boolean(this.recorder)));
    $("record").textContent = this.recorder ? "Stop recording" : "Record";
  }

  async addVoice() {
    const [name, text] = [$("voice-name").value.trim(), $("voice-text").value.trim()];
    const status = $("voice-status");
    if (!this.take) return (status.textContent = "Choose, drop or record something first.");
    if (!name || !text) return (status.textContent = "A voice needs a name, and every word that is said in its recording.");
    status.textContent = "The server listens to it …";
    try {
      await upload(name, this.take, text);
      await showModel(this.casting);
      this.casting.selects[0].value = name;
      this.parley.configure(this.casting.settings());
      status.textContent = `The next turn speaks with ${name}.`;
    } catch (error) {
      status.textContent = /** @type {Error} */ (error).message;
    }
  }

  /** Speaking instead of typing, where the browser can: some browsers send the sound to their maker for it. */
  offerDictation() {
    const Recognition = /** @type {any} */ (window).SpeechRecognition ?? /** @type {any} */ (window).webkitSpeechRecognition;
    if (!Recognition) return;
    const button = $("dictate");
    button.hidden = false;
    button.title = "Uses your browser's speech recognition, which may send what you say to the browser's maker";
    let recognition = /** @type {any} */ (null);
    button.onclick = () => {
      if (recognition) return recognition.stop();
      recognition = new Recognition();
      recognition.lang = navigator.language;
      recognition.interimResults = true;
      recognition.onresult = (/** @type {any} */ { results }) => {
        $("text").value = [...results].map((one) => one[0].transcript).join(" ");
        if ([...results].every((one) => one.isFinal)) void this.speak();
      };
      recognition.onerror = (/** @type {any} */ { error }) => this.notice(`Speech recognition failed: ${error}.`);
      recognition.onend = () => {
        recognition = null;
        button.setAttribute("aria-pressed", "false");
      };
      recognition.start();
      button.setAttribute("aria-pressed", "true");
    };
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

/** @param {string} state @param {string} code @param {string} message */
function connectionWords(state, code, message) {
  if (state === "open") return "Connected";
  if (state === "connecting") return "Connecting …";
  if (code === "too_many_sessions") return "The server is full. This page tries again by itself.";
  if (code === "warming_up") return "The model is loading …";
  if (code === "taken_over") return "This conversation goes on in another tab.";
  if (code === "unauthorized") return "This server wants a key.";
  if (state === "lost") return `${message || "The connection was lost."} Trying again …`;
  return message || "Disconnected.";
}

/** What the server has loaded. @param {Casting} casting */
async function showModel(casting) {
  const response = await fetch("v1/models");
  if (!response.ok) return;
  const [model] = (await response.json()).data;
  $("model").textContent = `${model.id} on ${model.device}`;
  $("attribution").textContent = model.attribution ?? "";
  casting.offer(model.voices);
}

/** A secret for one session: with it the page needs no key, and the server can say why it has none to give. */
async function secret() {
  let response;
  try {
    const key = $("key").value;
    response = await fetch("v1/sessions", { method: "POST", headers: key ? { Authorization: `Bearer ${key}` } : {} });
  } catch {
    throw new Refused("unreachable", "The server does not answer.");
  }
  if (response.ok) return (await response.json()).client_secret;
  const body = await response.json().catch(() => null);
  const retryMs = 1000 * Number(response.headers.get("Retry-After") ?? 3);
  throw new Refused(body?.error?.code ?? String(response.status), body?.error?.message ?? "The server refuses a session.", retryMs);
}

/** Whether a turn would be spoken now; says so where not. */
async function untilReady() {
  for (;;) {
    const response = await fetch("health/ready").catch(() => null);
    const body = await response?.json().catch(() => null);
    if (body?.status !== "warming_up") return;
    $("connection-text").textContent = "The model is loading …";
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function begin() {
  const stored = recall();
  const url = new URL("v1/live", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const wanted = new URLSearchParams(location.search).get("opus"); // ?opus=wasm tries the other decoder
  const opus = wanted === "wasm" ? "wasm" : undefined;
  try {
    const parley = await Parley.create({ url, secret, opus, snapshot: stored?.parley });
    const page = new Page(parley, stored);
    Object.assign(window, { parley, page }); // for the console and for tests
    $("key-form").addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      void parley.live.connect();
    });
    await untilReady();
    await parley.open();
  } catch (error) {
    $("connection").dataset.state = "closed";
    $("connection-text").textContent = connectionWords("closed", /** @type {any} */ (error).code, /** @type {Error} */ (error).message);
  }
}

void begin();

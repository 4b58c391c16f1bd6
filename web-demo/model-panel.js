/** The panel of a language model that answers: where it is, and what it is told of the conversation. */

import { ModelFailed, answer } from "./llm.js";

const PROMPT =
  "What you write is spoken aloud at once. Answer as in a conversation: short, plain sentences, no lists, no code. " +
  "You may use tags such as [laugh], [sigh], [whisper], [excited], [sad], [slow] and [normal] where they fit.";
const REMEMBERED = 100; // messages: what was said before them no model has room for
const ADDRESS = "http://127.0.0.1:11434/v1"; // such as Ollama's

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

export class ModelPanel {
  constructor() {
    $("llm-url").placeholder = ADDRESS;
    for (const radio of document.querySelectorAll("[name=who]")) radio.addEventListener("change", () => this.show());
  }

  /** Whether a model answers what is written; otherwise that is spoken itself. */
  get answers() {
    return /** @type {any} */ (document.querySelector("[name=who]:checked")).value === "model";
  }

  show() {
    $("text-label").textContent = this.answers ? "Your message to the model" : "Text to be spoken";
    $("text").placeholder = this.answers ? "Write to the model. Enter sends." : "Type or paste text. [ opens the tags, Enter speaks.";
    $("speak").textContent = this.answers ? "Send" : "Speak";
    if (this.answers && !$("llm-url").value) this.ask();
  }

  /** Let somebody say where it is. */
  ask() {
    $("llm").open = true;
    $("llm-url").focus();
  }

  /** Where it is. Throws ModelFailed where nobody has said it. */
  endpoint() {
    const endpoint = { url: $("llm-url").value.trim(), model: $("llm-model").value.trim(), key: $("llm-key").value };
    if (/^https?:\/\//u.test(endpoint.url)) return endpoint;
    this.ask();
    throw new ModelFailed(`Say at which address the model answers, such as ${ADDRESS}.`);
  }

  /**
   * The deltas of its answer to a conversation. Of its own words it is told those that were heard.
   * @param {import("./llm.js").Endpoint} endpoint
   * @param {import("./keeping.js").Entry[]} entries
   * @param {AbortSignal} signal
   */
  answer(endpoint, entries, signal) {
    const said = entries.slice(-REMEMBERED).map(({ who, text, heard }) =>
      who === "you" ? { role: /** @type {const} */ ("user"), content: text } : { role: /** @type {const} */ ("assistant"), content: heard ?? text },
    );
    const messages = [{ role: /** @type {const} */ ("system"), content: PROMPT }, ...said.filter(({ content }) => content.trim())];
    return answer(endpoint, messages, signal);
  }
}

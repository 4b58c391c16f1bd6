/**
 * Voices: which speaker has which, and how to add one from a recording, a file or a take.
 */

import { toPcm16, wavHeader } from "./wav.js";
import { Microphone } from "./parley/microphone.js";

const SPEAKERS = 8;

/** @param {string} name @param {Blob} audio @param {string} text  what is said in it. Throws an Error with words for people. */
export async function upload(name, audio, text) {
  const form = new FormData();
  form.set("name", name);
  form.set("audio_sample", audio, "recording");
  form.set("ref_text", text);
  const response = await fetch("v1/audio/voices", { method: "POST", body: form });
  if (response.ok) return;
  const body = await response.json().catch(() => null);
  throw new Error(body?.error?.message ?? `The server refused the voice with ${response.status}.`);
}

/** The selects of the voices panel. */
export class Casting {
  /**
   * @param {HTMLElement} place
   * @param {(settings: object) => void} changed  with fields of session.update
   */
  constructor(place, changed) {
    this.place = place;
    this.changed = changed;
    /** @type {HTMLSelectElement[]} */
    this.selects = [];
    for (let i = 0; i < SPEAKERS; i++) {
      const label = document.createElement("label");
      label.textContent = i ? `Speaker ${i}` : "Voice";
      const select = document.createElement("select");
      select.id = `voice-${i}`;
      select.onchange = () => this.changed(this.settings());
      label.append(select);
      label.hidden = i > 0;
      this.selects.push(select);
      place.append(label);
    }
  }

  /** @param {boolean} on */
  showAll(on) {
    this.selects.forEach((select, i) => {
      const label = /** @type {HTMLElement} */ (select.parentElement);
      label.hidden = i > 0 && !on;
      if (i === 0 && label.firstChild) label.firstChild.textContent = on ? "Speaker 0" : "Voice";
    });
  }

  /** @param {string[]} names  `default` first */
  offer(names) {
    for (const select of this.selects) {
      const chosen = select.value;
      select.replaceChildren(...names.map((name) => new Option(name === "default" ? "built in" : name, name === "default" ? "" : name)));
      select.value = names.includes(chosen) ? chosen : "";
    }
  }

  settings() {
    const chosen = this.selects.map(({ value }) => value);
    const others = chosen.slice(1).some(Boolean);
    const voices = others ? Object.fromEntries(chosen.flatMap((voice, i) => (voice ? [[String(i), voice]] : []))) : {};
    return { voice: chosen[0] || null, voices };
  }
}

/** A recording through the microphone, as it sounds: without the processing that calls need. */
export class Recorder {
  /** @param {AudioContext} context */
  static async start(context) {
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    return new Recorder(await Microphone.open(context, plain, true), context.sampleRate);
  }

  /** @param {Microphone} microphone @param {number} rate */
  constructor(microphone, rate) {
    this.microphone = microphone;
    this.rate = rate;
    /** @type {Int16Array[]} */
    this.parts = [];
    microphone.addEventListener("raw", (/** @type {any} */ { detail }) => this.parts.push(toPcm16(detail.raw)));
  }

  get seconds() {
    return this.parts.reduce((sum, part) => sum + part.length, 0) / this.rate;
  }

  /** The recording as a WAV file. */
  stop() {
    this.microphone.close();
    const bytes = this.parts.reduce((sum, part) => sum + part.byteLength, 0);
    return new Blob([wavHeader(bytes, this.rate), .../** @type {BlobPart[]} */ (this.parts)], { type: "audio/wav" });
  }
}

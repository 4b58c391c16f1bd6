/** The panel of voices: who speaks as whom, and a new voice from a recording, a file or a take. */

import { Casting, Recorder, upload } from "./voices.js";

/** @param {string} id @returns {any} */
const $ = (id) => document.getElementById(id);

export class VoicePanel {
  /**
   * @param {import("./parley.js").Parley} parley
   * @param {() => Promise<void>} reload  ask the server which voices there are, for `offer`
   */
  constructor(parley, reload) {
    this.parley = parley;
    this.reload = reload;
    this.casting = new Casting($("voices"), (settings) => parley.configure(settings));
    /** @type {Blob | null} */
    this.take = null; // the recording that a voice is to be made of
    /** @type {Recorder | null} */
    this.recorder = null;
    $("more-voices").onclick = () => this.toggleSpeakers();
    this.listenToVoices();
  }

  /** @param {string[]} names  `default` first */
  offer(names) {
    this.casting.offer(names);
  }

  /**
   * A take is to become a voice: its name is still wanted.
   * @param {Blob} take
   * @param {number} seconds
   * @param {string} text  what is said in it
   */
  propose(take, seconds, text) {
    this.take = take;
    $("voice-text").value = text;
    $("recorded").textContent = `take of ${seconds.toFixed(1)} s`;
    $("new-voice").closest("details").open = true;
    $("voice-name").focus();
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
        $("recorded").textContent = `recorded ${this.recorder.seconds.toFixed(1)} s`;
        this.recorder = null;
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
    clearInterval(this.counting);
    if (this.recorder) this.counting = setInterval(() => ($("seconds").textContent = `${Math.floor(this.recorder?.seconds ?? 0)} s`), 250);
    else $("seconds").textContent = "";
  }

  async addVoice() {
    const [name, text] = [$("voice-name").value.trim(), $("voice-text").value.trim()];
    const status = $("voice-status");
    if (!this.take) return (status.textContent = "Choose, drop or record something first.");
    if (!name || !text) return (status.textContent = "A voice needs a name, and every word that is said in its recording.");
    status.textContent = "The server listens to it …";
    try {
      await upload(name, this.take, text);
      await this.reload();
      this.casting.selects[0].value = name;
      this.parley.configure(this.casting.settings());
      status.textContent = `The next turn speaks with ${name}.`;
    } catch (error) {
      status.textContent = /** @type {Error} */ (error).message;
    }
  }
}

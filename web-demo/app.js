/**
 * The page: one text box, one voice, one turn at a time.
 */

import { Player } from "./player.js";
import { Session } from "./session.js";

const SAMPLE_RATE = 48000; // no resampling in the browser, whatever its sound card runs at

const $ = (id) => document.getElementById(id);
const form = $("speak");

let player = null;
let session = null;
let turn = null; // {id, n, text, words, warnings}: the one that speaks or spoke last
let sounding = false;

function say(status) {
  $("status").textContent = status;
}

/** What happened in the turn, and what was wrong with it: a warning may come just before the first audio, and stays. */
function sayOfTurn(status) {
  say([status, ...turn.warnings].join(" "));
}

function show(heard, remaining) {
  $("heard-text").textContent = heard;
  $("remaining-text").textContent = remaining;
}

function setSounding(now) {
  sounding = now;
  $("stop").disabled = !now;
}

/** The first `count` code points of the turn's text, and the rest: what the protocol counts in. */
function showHeard(count) {
  const characters = Array.from(turn.text);
  show(characters.slice(0, count).join(""), characters.slice(count).join(""));
}

function onHeard({ turn: n, ms }) {
  if (!turn || n !== turn.n) return;
  let count = 0;
  for (const [start, word] of turn.words) if (word.startMs <= ms) count = Math.max(count, start + word.length);
  showHeard(count);
}

function listen(made) {
  made.addEventListener("turn.started", ({ detail }) => {
    if (detail.turn !== turn?.id) return;
    turn.n = detail.n;
    setSounding(true);
    sayOfTurn(`First audio after ${detail.first_audio_ms} ms.`);
  });
  made.addEventListener("audio", ({ detail }) => {
    if (detail.n === turn?.n) player.play(detail.n, detail.payload);
  });
  made.addEventListener("alignment", ({ detail }) => {
    if (detail.turn !== turn?.id) return;
    for (const [, startMs, , start, end] of detail.items) turn.words.set(start, { startMs, length: end - start });
  });
  made.addEventListener("turn.done", ({ detail }) => {
    if (detail.turn !== turn?.id) return;
    if (detail.status === "completed" && turn.n !== null) player.end(turn.n);
    else onCut(detail.heard, detail.status);
  });
  made.addEventListener("context.updated", ({ detail }) => {
    if (detail.turn === turn?.id && detail.heard) onCut(detail.heard, "cancelled");
  });
  made.addEventListener("error", ({ detail }) => say(detail.message));
  made.addEventListener("warning", ({ detail }) => {
    if (detail.turn !== turn?.id) return say(detail.message);
    turn.warnings.push(`Warning: ${detail.message}.`);
    sayOfTurn("");
  });
  made.addEventListener("closed", ({ detail }) => {
    if (session === made) session = null;
    setSounding(false);
    say(detail.message);
  });
}

function onCut(heard, status) {
  setSounding(false);
  show(heard.text, heard.remaining);
  if (status === "cancelled") sayOfTurn(`Stopped after ${(heard.ms / 1000).toFixed(1)} s. The conversation keeps what you heard.`);
}

async function connect() {
  if (!window.isSecureContext) throw new Error("Browsers play live audio only over https or from localhost.");
  player ??= await Player.open(SAMPLE_RATE).then((made) => {
    made.addEventListener("heard", ({ detail }) => onHeard(detail));
    made.addEventListener("ended", ({ detail }) => {
      if (detail.turn !== turn?.n) return;
      setSounding(false);
      show(turn.text, "");
      sayOfTurn("Heard to the end.");
    });
    return made;
  });
  const address = new URL("v1/live", document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  const key = $("key").value;
  const made = await Session.connect(address, {
    ...(key ? { token: key } : {}),
    audio: { output: { format: "pcm_s16le", rate: SAMPLE_RATE } },
    alignment: "word",
  });
  listen(made);
  return made;
}

async function speak() {
  const text = $("text").value;
  if (!text.trim()) return;
  if (sounding) await stop();
  if (!session?.open) {
    say("Connecting …");
    session = await connect();
    $("key-row").hidden = true;
  }
  turn = { id: crypto.randomUUID(), n: null, text, words: new Map(), warnings: [] };
  show("", text);
  say("…");
  const voice = $("voice").value;
  session.send("turn.start", { turn: turn.id, ...(voice ? { voice } : {}) });
  session.speak(turn.id, text);
}

/** Silence first, then the truth about how far it got: the server keeps just that. */
async function stop() {
  const heard = await player.stop();
  if (session?.open && turn) session.send("turn.cancel", { turn: turn.id, played_ms: heard.turn === turn.n ? heard.ms : 0 });
  setSounding(false);
}

async function showModel() {
  const response = await fetch("v1/models");
  if (!response.ok) return;
  const [model] = (await response.json()).data;
  $("model").textContent = `Model: ${model.id}`;
  $("attribution").textContent = model.attribution ?? "";
  $("voice").replaceChildren(
    ...model.voices.map((name) => new Option(name, name === "default" ? "" : name)),
  );
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  speak().catch((error) => {
    $("key-row").hidden = error.code !== "unauthorized";
    if (error.code === "unauthorized") $("key").focus();
    say(error.message);
  });
});
$("stop").addEventListener("click", stop);
showModel();

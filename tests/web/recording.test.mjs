/** What the microphone hears: a voice, the other side of a saved conversation, and an interruption of the README's client. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { PATIENCE_MS, PYTHON, ROOT, browsing, lastTurn, saved, serving, sounds, speak } from "./harness.mjs";

const RATE = 48000;
const LONG = "And then they went on and on about it, for as long as anybody cared to listen. ".repeat(4);
let folder, server, chromium, plan, heard;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "parley-web-"));
  const file = join(folder, "microphone.wav");
  plan = JSON.parse(execFileSync(PYTHON, [join(ROOT, "tests/web/microphone.py"), file], { encoding: "utf8" }));
  [heard] = channels(await readFile(file));
  server = await serving("tones");
  chromium = await browsing({ microphone: file });
});
after(async () => {
  await chromium?.browser.close();
  await server?.stop();
  await rm(folder, { recursive: true });
});

/** Of a WAV file at RATE. */
function channels(bytes) {
  const count = bytes.readUInt16LE(22);
  assert.deepEqual([bytes.readUInt32LE(24), bytes.readUInt32LE(40)], [RATE, bytes.length - 44]);
  const samples = new Int16Array(bytes.buffer.slice(bytes.byteOffset + 44, bytes.byteOffset + bytes.length));
  return Array.from({ length: count }, (_, c) => samples.filter((_, i) => i % count === c));
}

/** The first sample that is loud, and the last. */
function loud(samples, from = 0) {
  const is = (one) => Math.abs(one) > 1500;
  return [from + samples.subarray(from).findIndex(is), samples.findLastIndex(is)];
}

/** How much alike two sounds are where they are most alike, the second moved by up to 40 ms. */
function alike(a, b, at) {
  let best = 0;
  for (let shift = -1920; shift <= 1920; shift += 1) {
    let [ab, aa, bb] = [0, 0, 0];
    for (let i = 0; i < a.length; i += 7) {
      const other = b[at + shift + i] ?? 0;
      ab += a[i] * other;
      aa += a[i] * a[i];
      bb += other * other;
    }
    best = Math.max(best, ab / Math.sqrt(aa * bb + 1));
  }
  return best;
}

/** The first word that the microphone hears. */
function word() {
  const at = Math.round(plan.interruptions[0] * RATE);
  return heard.subarray(at, at + 0.4 * RATE);
}

test("a voice is recorded through the microphone as it sounds, and the next turn speaks with it", async () => {
  const { page, faults, context } = await chromium.open(server.url);
  await page.click("summary:has-text('Voices')");
  await page.click("#record");
  await page.waitForFunction(() => document.querySelector("#record").textContent === "Stop recording");
  await page.waitForFunction((s) => globalThis.page.voices.recorder.seconds > s, plan.interruptions[0] + 1, { timeout: PATIENCE_MS });
  await page.click("#record");
  assert.match(await page.textContent("#recorded"), /^recorded \d+\.\d s$/u);
  const [recorded] = channels(Buffer.from(await page.evaluate(() => {
    const reader = new FileReader();
    const read = new Promise((resolve) => (reader.onload = () => resolve(reader.result.split(",")[1])));
    reader.readAsDataURL(globalThis.page.voices.take);
    return read;
  }), "base64"));
  const [first] = loud(recorded);
  assert.ok(alike(word(), recorded, first) > 0.9, "what was recorded is what was said");
  await page.fill("#voice-text", "Wait.");
  await page.fill("#voice-name", "caller");
  await page.click("#new-voice button[type=submit]");
  await page.waitForFunction(() => document.querySelector("#voice-status").textContent.includes("speaks with caller"), null, { timeout: PATIENCE_MS });
  await speak(page, "Hello.");
  assert.deepEqual([(await lastTurn(page)).state, faults], ["played", []]);
  await context.close();
});

test("a saved conversation has Parley on the left and whoever interrupted on the right, where it was", async () => {
  const { page, faults, context } = await chromium.open(server.url);
  await speak(page, LONG);
  await sounds(page);
  await page.evaluate(() => {
    const { parley } = globalThis;
    const log = (globalThis.log = {}); // s, of the audio clock
    parley.addEventListener("hop", ({ detail }) => detail.level > -45 && (log.spoke ??= detail.at - 0.016));
    parley.addEventListener("interrupted", () => (log.silent = parley.player.clock.at + parley.player.latency));
  });
  await page.click("#microphone");
  await page.waitForFunction(() => document.querySelector("#doing").textContent.includes("microphone on"));
  const turn = await lastTurn(page);
  await page.waitForFunction(() => globalThis.page.tape.quiet > 40, null, { timeout: PATIENCE_MS }); // the word is over
  await page.click("#microphone");
  const [left, right] = channels(await saved(page, "#save-wav"));
  const [spoke] = loud(right);
  const [, silent] = loud(left);
  assert.equal(turn.state, "cut");
  assert.ok(alike(word(), right, spoke) > 0.6, "what was said is on the right");
  const log = await page.evaluate(() => globalThis.log);
  const [saw, is] = [log.silent - log.spoke, (silent - spoke) / RATE];
  assert.ok(Math.abs(saw - is) < 0.15, `Parley fell silent ${saw} s after somebody spoke, and in the file after ${is}`);
  assert.deepEqual(faults, []);
  await context.close();
});

test("the README's client for browsers speaks, listens and is interrupted", async () => {
  const { page, faults, context } = await chromium.open(`${server.url}/health/live`, { connected: false });
  const [, example] = /```js\n(.*?)```/su.exec(await readFile(`${ROOT}README.md`, "utf8"));
  const code = example
    .replace('import { Parley } from "./parley.js"', 'const { Parley } = await import("/parley.js")')
    .replace(/ws:\/\/[\d.:]+/u, server.url.replace("http", "ws"));
  const run = `(async () => {
    const button = {};
    const deltas = async function* () { yield* ${JSON.stringify(LONG)}.split(/(?<= )/u); };
    ${code}
    const interrupted = new Promise((resolve) => parley.addEventListener("interrupted", ({ detail }) => resolve(detail)));
    await button.onclick();
    const { turn, reason } = await interrupted;
    await parley.close();
    return [turn.state, reason, turn.heard.text + turn.heard.remaining];
  })()`;
  assert.deepEqual([await page.evaluate(run), faults], [["cut", "barge_in", LONG], []]);
  await context.close();
});

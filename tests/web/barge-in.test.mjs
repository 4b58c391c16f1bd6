/** Somebody speaks into the microphone while the page speaks: from the first sound at the microphone to silence, on the audio clock. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { PATIENCE_MS, PYTHON, ROOT, browsing, serving, sounds, speak, tap } from "./harness.mjs";

const LONG = "And then they went on and on about it, for as long as anybody cared to listen. ".repeat(6);
const DUCK_MS = 150;
const DUCK_DB = -20;
const IDLE_MS = 5; // from the page to the server and back

let folder, server, chromium, plan;

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "parley-web-"));
  const file = join(folder, "microphone.wav");
  plan = JSON.parse(execFileSync(PYTHON, [join(ROOT, "tests/web/microphone.py"), file], { encoding: "utf8" }));
  server = await serving("tones");
  chromium = await browsing({ microphone: file });
});
after(async () => {
  await chromium?.browser.close();
  await server?.stop();
  await rm(folder, { recursive: true });
});

/** Let the page speak on and on, and write down what happens, in seconds of the audio clock. */
function record(page, long) {
  return page.evaluate((long) => {
    const { parley } = globalThis;
    const now = () => parley.player.context.currentTime;
    const log = (globalThis.log = { hops: [], events: [], rounds: [] });
    parley.live.addEventListener("event", ({ detail }) => detail.type === "pong" && log.rounds.push([now(), performance.now() - detail.t]));
    setInterval(() => parley.live.send("ping", { t: performance.now() }), 40);
    parley.addEventListener("hop", ({ detail }) => log.hops.push([detail.at - 0.016, detail.level]));
    for (const name of ["speech", "paused", "resumed", "interrupted", "stalled"]) {
      parley.addEventListener(name, ({ detail }) => log.events.push([now(), name, detail.reason ?? detail.action ?? ""]));
    }
    parley.addEventListener("speech", ({ detail }) => !detail.speaking && !parley.current && parley.say(long));
  }, long);
}

/** When sound begins at the microphone: the beginning of the first loud hop after half a second of quiet. */
function onsets(hops) {
  const found = [];
  let quiet = 1;
  for (const [at, level] of hops) {
    if (level > -45 && quiet > 0.5) found.push(at);
    quiet = level > -45 ? 0 : quiet + 0.016;
  }
  return found;
}

/** Seconds from `onset` until the output has been 20 dB below what it was for 20 ms; null: nothing sounded then. */
function ducked(powers, onset) {
  const before = powers.filter(([at]) => at > onset - 0.2 && at < onset).map(([, power]) => power);
  const loud = Math.max(...before);
  const low = loud * 10 ** (DUCK_DB / 10);
  if (before.some((power) => power <= low)) return null; // it stalled, or had not begun
  for (let i = 0; i < powers.length; i++) {
    if (powers[i][0] < onset || powers[i][1] > low) continue;
    if (powers.slice(i, i + 8).every(([, power]) => power <= low)) return powers[i][0] - onset;
  }
  return Infinity;
}

/** What a machine that is busy with something else adds: the longest round trip between two times, beyond what it takes on an idle one. */
function delay(rounds, from, to) {
  return Math.max(0, ...rounds.filter(([at, ms]) => at >= from && at - ms / 1000 <= to).map(([, ms]) => ms - IDLE_MS));
}

/** @param {number[]} values  linear between the nearest two */
function p95(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = 0.95 * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

test("whoever speaks is given way to at once, is meant after 200 ms, and a cough costs a moment", { timeout: 120_000 }, async () => {
  const { page, faults } = await chromium.open(server.url);
  await tap(page);
  await record(page, LONG);
  await speak(page, LONG);
  await sounds(page);
  await page.click("#microphone");
  const ends = plan.coughs.at(-1) + 2.2;
  await page.waitForFunction((s) => globalThis.log.hops.length * 0.016 > s, ends, { timeout: PATIENCE_MS + 1000 * ends });
  const { hops, events, rounds, powers, state } = await page.evaluate(() => ({ ...globalThis.log, powers: globalThis.tapped, state: globalThis.parley.current?.state }));
  const heard = onsets(hops);
  const meant = heard.slice(0, plan.interruptions.length);
  const after = (at, name) => events.find(([when, what]) => what === name && when >= at)?.[0] - at;
  const ducks = meant.map((at) => ducked(powers, at)).map((s) => (s === null ? null : Math.round(1000 * s)));
  const late = meant.map((at, i) => delay(rounds, at, at + (ducks[i] ?? 0) / 1000));
  const own = ducks.flatMap((ms, i) => (ms === null ? [] : [ms - late[i]]));
  const stops = meant.map((at) => Math.round(1000 * after(at, "interrupted")));
  if (process.env.PARLEY_VERBOSE) console.log(events.map(([at, ...what]) => [at.toFixed(2), ...what].join(" ")).join("\n"));
  console.log(JSON.stringify({ duck_ms: ducks, busy_ms: late.map(Math.round), duck_p95_ms: Math.round(p95(ducks.filter((ms) => ms !== null))), without_delays_p95_ms: Math.round(p95(own)), stop_ms: stops, coughs: heard.slice(meant.length).map((at) => [after(at, "paused"), after(at, "resumed")].map((s) => Math.round(1000 * s))) }));
  assert.equal(heard.length, plan.interruptions.length + plan.coughs.length, `onsets at ${heard}`);
  assert.ok(own.length >= 0.6 * meant.length, `sound was playing at ${own.length} of ${meant.length} onsets`);
  assert.ok(p95(own) <= DUCK_MS, `20 dB down after ${ducks} ms, of which the machine took ${late}`);
  assert.ok(stops.every((ms, i) => ms >= 180 && ms - late[i] <= 700), `stopped after ${stops} ms`);
  const first = heard[meant.length];
  assert.ok(after(first, "paused") < after(first, "resumed") && after(first, "resumed") < 3, "a cough pauses, and then it goes on");
  assert.ok(!events.some(([at, name]) => at >= first && name === "interrupted"), "a cough interrupts nothing");
  assert.deepEqual([state, faults], ["speaking", []]);
});

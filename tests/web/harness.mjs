/**
 * A server, a browser and a page for one test file. Nothing here sleeps for a guess: it waits for what the page says.
 */

import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const PYTHON = process.env.PARLEY_PYTHON ?? `${ROOT}.venv/bin/python`;
const CHROMIUM = process.env.PARLEY_CHROMIUM ?? "/usr/lib/chromium/chromium-headless-shell";
export const PATIENCE_MS = 60_000; // for what takes a second on a machine that does nothing else

/** The server's address, and how to end it. @param {"tones" | "mini"} kind @param {object} [settings]  of the tones' server */
export async function serving(kind, settings = {}) {
  const command = kind === "tones" ? ["-m", "tests.web.serve", JSON.stringify(settings)] : ["-m", "realtime.cli", "serve", "mini", "--port", "0"];
  const server = spawn(PYTHON, command, { cwd: ROOT, stdio: ["pipe", "pipe", "inherit"], env: { ...process.env, OMP_NUM_THREADS: "1" } });
  await new Promise((resolve, reject) => server.once("spawn", resolve).once("error", reject));
  for await (const line of createInterface({ input: server.stdout })) {
    const url = /https?:\/\/\S+/u.exec(line)?.[0];
    if (!url) continue;
    server.stdout.resume();
    const ended = new Promise((resolve) => server.once("exit", resolve));
    const stop = () => {
      server.stdin.end();
      if (kind === "mini") server.kill("SIGTERM");
      return ended;
    };
    return { url, stop, kill: () => (server.kill("SIGKILL"), ended) };
  }
  throw new Error("the server has ended");
}

/** @param {{microphone?: string, width?: number, height?: number, dark?: boolean, args?: string[]}} [wish]  microphone: a WAV file */
export async function browsing({ microphone, args = [], ...view } = {}) {
  const fake = microphone ? ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", `--use-file-for-fake-audio-capture=${microphone}%noloop`] : [];
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    args: ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1", ...fake, ...args],
  });
  return { browser, open: (/** @type {string} */ url, more = {}) => opened(browser, url, { ...view, ...more }) };
}

/** A page that has connected, with everything that went wrong in it. `before`: what is done to it before it loads. */
async function opened(browser, url, { width = 1280, height = 860, dark = false, connected = true, before = async () => {}, ...context }) {
  const made = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light", reducedMotion: "reduce", ...context });
  const page = await made.newPage();
  /** @type {string[]} */
  const faults = [];
  page.on("console", (message) => message.type() === "error" && faults.push(message.text()));
  page.on("pageerror", (error) => faults.push(String(error)));
  await page.addInitScript(() => {
    globalThis.violations = [];
    document.addEventListener("securitypolicyviolation", (event) => globalThis.violations.push(event.violatedDirective));
  });
  await before(page);
  await page.goto(url);
  if (connected) await isConnected(page);
  return { page, faults, context: made };
}

export function isConnected(page) {
  return page.waitForFunction(() => globalThis.parley?.live.open && document.querySelector("#connection").dataset.state === "open", null, { timeout: PATIENCE_MS });
}

/** Put a tap behind the player: `globalThis.tapped` has [seconds, power] of each quantum; samples too where they are to be kept. */
export function tap(page, keep = false) {
  return page.evaluate(async (keep) => {
    const { player } = globalThis.parley;
    await player.context.audioWorklet.addModule("/probes/tap.js");
    const node = new AudioWorkletNode(player.context, "tap", { outputChannelCount: [1] });
    globalThis.tapped = [];
    globalThis.samples = [];
    node.port.postMessage({ keep });
    node.port.onmessage = ({ data }) => {
      if (data.samples) globalThis.samples.push(data.samples);
      else data.powers.forEach((power, i) => globalThis.tapped.push([data.at + (i * 128) / player.context.sampleRate, power]));
    };
    player.node.disconnect();
    player.node.connect(node).connect(player.context.destination);
  }, keep);
}

/** Type a text and have it spoken, by a real click. */
export async function speak(page, text) {
  const last = await page.evaluate(() => [...globalThis.parley.turns.keys()].at(-1));
  await page.fill("#text", text);
  await page.click("#speak");
  await page.waitForFunction((last) => [...globalThis.parley.turns.keys()].at(-1) !== last, last, { timeout: PATIENCE_MS });
}

/** What the browser saves when a button is pressed. @returns {Promise<Buffer>} */
export async function saved(page, button) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(button)]);
  return readFile(await download.path());
}

/** Wait until the page's last turn is over; returns what it knows of it. */
export async function lastTurn(page) {
  await page.waitForFunction(() => [...globalThis.parley.turns.values()].at(-1)?.done && [...globalThis.parley.turns.values()].at(-1)?.over, null, { timeout: PATIENCE_MS });
  return page.evaluate(() => {
    const turn = [...globalThis.parley.turns.values()].at(-1);
    const { underruns, overflows } = globalThis.parley.player.clock;
    return { state: turn.state, text: turn.text, heard: turn.heard, heardMs: turn.heardMs, done: turn.done, received: turn.received, underruns, overflows };
  });
}

/** The last turn sounds. */
export function sounds(page, ms = 0) {
  return page.waitForFunction((ms) => {
    const heard = globalThis.parley.player.heard();
    const last = [...globalThis.parley.turns.values()].at(-1);
    return last && last.n !== null && heard.turn === last.n && heard.ms >= ms;
  }, ms, { timeout: PATIENCE_MS });
}

const TRIES = 3; // a machine that stands still for 100 ms is heard, and is not the page's fault

/** Speak a text until it was heard without a gap; what `lastTurn` says of the last try, with its own underruns. */
export async function speakGapless(page, text) {
  for (let i = 1; ; i++) {
    const before = await page.evaluate(() => globalThis.parley.player.clock.underruns);
    await speak(page, text);
    await sounds(page);
    const turn = await lastTurn(page);
    const underruns = turn.underruns - before;
    if (!underruns || i === TRIES) return { ...turn, underruns };
  }
}

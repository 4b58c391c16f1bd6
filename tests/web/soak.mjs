/**
 * A long conversation in the browser: counts underruns and looks whether memory stays flat. On a machine that does nothing else: where
 * the mini speaks slower than one listens (`rtf`), there are gaps whatever the page does; tones cost next to nothing.
 *
 *     PARLEY_PYTHON=.venv/bin/python node tests/web/soak.mjs [minutes] [mini|tones]
 *
 * Prints a line a minute and one line of JSON at the end; exits with 1 where samples were missing, memory grew or the document did.
 */

import { EXAMPLES } from "../../web-demo/llm.js";
import { browsing, serving, sounds } from "./harness.mjs";

const minutes = Number(process.argv[2] ?? 10);
const GROWTH = 1.25; // of the heap, from the second minute on
const NODES = 3000; // of the document: it grows until sixty utterances are on the page, and no further

const server = await serving(process.argv[3] === "tones" ? "tones" : "mini");
const { browser, open } = await browsing();
const { page, faults, context } = await open(server.url);
const tools = await context.newCDPSession(page);

async function memory() {
  await tools.send("HeapProfiler.enable");
  await tools.send("HeapProfiler.collectGarbage");
  const { metrics } = await tools.send("Performance.getMetrics");
  const of = (name) => metrics.find((one) => one.name === name).value;
  return { heap_mb: Number((of("JSHeapUsedSize") / 1e6).toFixed(2)), nodes: of("Nodes"), listeners: of("JSEventListeners") };
}

await tools.send("Performance.enable");
await page.evaluate(() => {
  globalThis.firsts = [];
  globalThis.over = 0;
  globalThis.rtfs = [];
  globalThis.parley.addEventListener("ended", ({ detail }) => {
    globalThis.over += 1;
    if (detail.turn.done) globalThis.rtfs.push(detail.turn.done.metrics.rtf);
  });
  globalThis.underruns = globalThis.waits = 0;
  globalThis.parley.addEventListener("stalled", ({ detail }) => (detail.turn.hasText ? (globalThis.underruns += 1) : (globalThis.waits += 1)));
  globalThis.parley.addEventListener("started", ({ detail }) => globalThis.firsts.push(Math.round(detail.turn.trace.firstSound - detail.turn.trace.began)));
});
const began = performance.now();
const looks = [];
let turns = 0;
await page.selectOption("#example", "0");
while (performance.now() - began < minutes * 60_000) {
  const [, text] = EXAMPLES[turns % EXAMPLES.length];
  await page.fill("#text", text);
  await page.evaluate((pace) => {
    const slider = document.querySelector("#pace");
    slider.value = String(pace);
    slider.dispatchEvent(new Event("input"));
  }, turns % 2 ? 25 : 61);
  await page.click("#speak");
  if (turns % 4 === 3) {
    await sounds(page, 1000);
    await page.keyboard.press("Escape");
  }
  turns += 1;
  await page.waitForFunction((turns) => globalThis.over >= turns, turns, { timeout: 120_000 });
  const minute = Math.floor((performance.now() - began) / 60_000);
  if (minute >= looks.length) {
    looks.push({ minute, ...(await memory()), ...(await page.evaluate(() => ({ underruns: globalThis.underruns, waits: globalThis.waits }))) });
    console.error(JSON.stringify({ ...looks.at(-1), turns }));
  }
}
looks.push({ minute: minutes, ...(await memory()), ...(await page.evaluate(() => ({ underruns: globalThis.underruns, waits: globalThis.waits }))) });
const rtfs = (await page.evaluate(() => globalThis.rtfs)).sort((a, b) => a - b);
const firsts = (await page.evaluate(() => globalThis.firsts)).sort((a, b) => a - b);
const [early, late] = [looks[Math.min(2, looks.length - 1)], looks.at(-1)];
const result = { minutes, turns, underruns: late.underruns, waits_for_text: late.waits, heap_mb: [early.heap_mb, late.heap_mb], nodes: [early.nodes, late.nodes], first_audio_p50_ms: firsts[firsts.length >> 1], first_audio_max_ms: firsts.at(-1), rtf_p50: rtfs[rtfs.length >> 1], rtf_max: rtfs.at(-1), faults };
console.log(JSON.stringify(result));
await browser.close();
await server.stop();
process.exit(late.underruns || late.heap_mb > GROWTH * early.heap_mb || late.nodes > NODES || faults.length ? 1 : 0);

/** The page in a real browser, against the real server, with tones instead of speech: exact, and cheap. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { PATIENCE_MS, ROOT, browsing, isConnected, lastTurn, saved, serving, sounds, speak, speakGapless, tap } from "./harness.mjs";

const TEXT = "Good evening, and thank you for waiting. The letters arrived on Thursday.";
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let server;
let chromium;

before(async () => {
  server = await serving("tones");
  chromium = await browsing();
});
after(async () => {
  await chromium?.browser.close();
  await server?.stop();
});

/** Close the page; it must have had nothing to complain about. */
async function close({ page, faults, context }) {
  assert.deepEqual([faults, await page.evaluate(() => globalThis.violations)], [[], []]);
  await context.close();
}

/** What axe finds wrong with the page. */
async function faulty(page) {
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]);
}

/** What is seen of the last turn. */
function seen(page) {
  return page.evaluate(() => {
    const line = [...document.querySelectorAll(".said.parley p")].at(-1);
    const text = (selector) => [...line.querySelectorAll(selector)].filter((node) => !node.classList.contains("hidden")).map((node) => node.textContent).join("");
    return { heard: text(".heard"), cut: text("del > span"), all: text("span") };
  });
}

test("PCM is played sample for sample and without a gap", async () => {
  const opened = await chromium.open(server.url);
  const { page } = opened;
  await page.click("summary:has-text('Connection')");
  await page.click("[name=format][value=pcm_s16le]");
  await tap(page, true);
  await page.evaluate(() => {
    globalThis.parley.live.addEventListener("audio", ({ detail }) => {
      if (detail.flags & 1) [globalThis.sent, globalThis.samples] = [[], []];
      globalThis.sent.push(detail.payload.slice());
    });
  });
  const turn = await speakGapless(page, TEXT);
  assert.equal(turn.state, "played");
  assert.deepEqual([turn.underruns, turn.overflows], [0, 0]);
  const [lost, length] = await page.evaluate(async () => {
    await new Promise((resolve) => setTimeout(resolve, 200)); // the tap's last messages
    const sent = globalThis.sent.flatMap((payload) => [...new Int16Array(payload.buffer)]);
    const heard = globalThis.samples.flatMap((quantum) => [...quantum].map((one) => Math.round(one * 32768)));
    const first = sent.findIndex((one) => Math.abs(one) > 20);
    const start = heard.findIndex((one) => Math.abs(one) > 20) - first;
    return [sent.filter((one, i) => heard[start + i] !== one).length, sent.length];
  });
  assert.ok(length > 100_000 && lost === 0, `${lost} of ${length} samples differ`);
  assert.equal(turn.heardMs, turn.done.audio_ms);
  await close(opened);
});

for (const opus of ["webcodecs", "wasm"]) {
  test(`Opus by ${opus} is whole, in place and without a gap`, async () => {
    const opened = await chromium.open(`${server.url}/${opus === "wasm" ? "?opus=wasm" : ""}`);
    const { page } = opened;
    await page.evaluate(() => {
      globalThis.parley.addEventListener("samples", ({ detail }) => {
        if (detail.position === 0) globalThis.pieces = [];
        globalThis.pieces.push([detail.position, detail.samples.length]);
      });
    });
    const turn = await speakGapless(page, TEXT);
    const pieces = await page.evaluate(() => globalThis.pieces);
    let next = 0;
    for (const [position, length] of pieces) {
      assert.equal(position, next);
      next += length;
    }
    assert.equal(next, turn.done.audio_ms * 48);
    assert.deepEqual([turn.state, turn.underruns, await page.evaluate(() => globalThis.parley.incoming.opus)], ["played", 0, opus]);
    await close(opened);
  });
}

test("words light up as they are heard, and what a key cut off is struck through, as the server has it", async () => {
  const opened = await chromium.open(server.url);
  const { page } = opened;
  await page.evaluate(() => {
    // Where the turn was done before it was cut off, its end is corrected.
    globalThis.parley.addEventListener("server", ({ detail }) => {
      if (detail.type === "context.updated" || detail.status === "cancelled") globalThis.said = detail.heard;
    });
  });
  await speak(page, TEXT);
  await sounds(page, 700);
  await page.waitForFunction(() => document.querySelector(".said .heard"));
  const during = await seen(page);
  assert.ok(during.heard.length > 0 && during.heard.length < TEXT.length, during.heard);
  await page.keyboard.press("Escape");
  const turn = await lastTurn(page);
  await page.waitForFunction(() => globalThis.said && document.querySelector(".said del"), null, { timeout: PATIENCE_MS });
  const { heard, cut } = await seen(page);
  const said = await page.evaluate(() => globalThis.said);
  assert.deepEqual([turn.state, heard, cut], ["cut", said.text, said.remaining]);
  assert.equal(heard + cut, TEXT);
  const silentMs = await page.evaluate(() => globalThis.page.figures.cancelMs);
  assert.ok(silentMs < 150, `silent after ${silentMs} ms`);
  await close(opened);
});

test("a pause loses nothing", async () => {
  const opened = await chromium.open(server.url);
  const { page } = opened;
  await speak(page, TEXT);
  await sounds(page, 500);
  await page.click("#pause");
  await page.waitForFunction(() => globalThis.parley.player.held && !globalThis.parley.player.clock.running);
  await page.waitForFunction(() => document.querySelector("#pause").textContent === "Go on");
  const held = await page.evaluate(() => globalThis.parley.player.clock.played);
  await page.waitForTimeout(300);
  assert.equal(await page.evaluate(() => globalThis.parley.player.clock.played), held);
  await page.click("#pause");
  const turn = await lastTurn(page);
  assert.deepEqual([turn.state, turn.heard.text, turn.heardMs], ["played", TEXT, turn.done.audio_ms]);
  await close(opened);
});

test("a lost socket comes back, and nobody notices", async () => {
  const opened = await chromium.open(server.url);
  const { page } = opened;
  await speak(page, TEXT);
  await sounds(page, 500);
  await page.evaluate(() => globalThis.parley.live.socket.close(4900));
  const turn = await lastTurn(page);
  assert.deepEqual([turn.state, turn.heard.text, turn.received >= turn.done.audio_ms * 48], ["played", TEXT, true]);
  assert.equal(await page.evaluate(() => globalThis.parley.live.session.resumed), true);
  await close(opened);
});

test("a page that is loaded again goes on in the same conversation", async () => {
  const opened = await chromium.open(server.url);
  const { page } = opened;
  await speak(page, TEXT);
  await sounds(page, 600);
  const session = await page.evaluate(() => globalThis.parley.live.session.session);
  await page.reload();
  await isConnected(page);
  assert.deepEqual(await page.evaluate(() => [globalThis.parley.live.session.session, globalThis.parley.live.session.resumed]), [session, true]);
  const before = await page.evaluate(() => [...globalThis.parley.turns.values()].at(-1).heardMs);
  assert.ok(before >= 500, `heard ${before} ms`);
  await page.keyboard.press("Shift"); // the gesture that lets it sound
  const turn = await lastTurn(page);
  assert.deepEqual([turn.state, turn.heard.text], ["played", TEXT]);
  await speak(page, "And on we go.");
  const next = await lastTurn(page);
  assert.deepEqual([next.done.n, (await seen(page)).heard], [2, "And on we go."]);
  const ms = ((await saved(page, "#save-wav")).length - 44) / 96;
  assert.ok(ms > turn.heardMs + next.heardMs - 100, `${ms} ms are saved of ${turn.heardMs} and ${next.heardMs}`);
  await close(opened);
});

test("the sound of a tab that is gone is not kept", async () => {
  const { page, context } = await chromium.open(server.url);
  await speak(page, TEXT);
  await lastTurn(page);
  const kept = (tab) =>
    tab.evaluate(async () => {
      const { name, store } = globalThis.page.shelf;
      const asked = store.getAllKeys();
      await new Promise((resolve) => (asked.onsuccess = resolve));
      return asked.result.map(([owner]) => (owner === name ? "own" : "other"));
    });
  const second = await context.newPage();
  await second.goto(server.url);
  await isConnected(second);
  assert.deepEqual([await kept(page), await kept(second)], [["own"], ["other"]]);
  await page.close();
  await second.waitForFunction(async () => (await navigator.locks.query()).held.length === 1);
  await second.reload();
  await isConnected(second);
  assert.deepEqual(await kept(second), []);
  await context.close();
});

test("a model at an OpenAI-compatible address is heard while it writes, and keeps of itself what was heard", async () => {
  const asked = [];
  const model = createServer((request, response) => {
    const allowed = { "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "*" };
    if (request.method === "OPTIONS") return response.writeHead(204, allowed).end();
    let body = "";
    request.on("data", (piece) => (body += piece));
    request.on("end", () => {
      asked.push({ path: request.url, key: request.headers.authorization, body: JSON.parse(body) });
      response.writeHead(200, { ...allowed, "Content-Type": "text/event-stream" });
      for (const content of ["It is ", "a fine ", "evening, ", "and there is ", "more to say about it."]) {
        response.write(`data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`);
      }
      response.end("data: [DONE]\n\n");
    });
  });
  await new Promise((resolve) => model.listen(0, "127.0.0.1", resolve));
  const opened = await chromium.open(server.url);
  const { page } = opened;
  await page.check("[name=who][value=model]", { force: true });
  await page.fill("#llm-url", `http://127.0.0.1:${model.address().port}/v1`);
  await page.fill("#llm-key", "sk-secret");
  await speak(page, "How is it?");
  await sounds(page, 700);
  await page.keyboard.press("Escape");
  const turn = await lastTurn(page);
  await speak(page, "Sorry, go on.");
  await sounds(page);
  const [first, second] = asked;
  assert.deepEqual([first.path, first.key, first.body.stream], ["/v1/chat/completions", "Bearer sk-secret", true]);
  const [, user, assistant, again] = second.body.messages;
  assert.deepEqual([user.content, assistant.content, again.content], ["How is it?", turn.done.heard.text, "Sorry, go on."]);
  assert.ok(!(await page.evaluate(() => JSON.stringify([localStorage, sessionStorage]))).includes("sk-secret"));
  await close(opened);
  model.closeAllConnections();
  model.close();
});

test("a file becomes a voice, and the next turn speaks with it", async () => {
  const opened = await chromium.open(server.url);
  const { page } = opened;
  await page.click("summary:has-text('Voices')");
  await page.setInputFiles("#voice-file", `${ROOT}tests/fixtures/hearing/answer.ogg`);
  await page.fill("#voice-text", "What is said in it.");
  await page.fill("#voice-name", "anna");
  await page.click("#new-voice button[type=submit]");
  await page.waitForFunction(() => document.querySelector("#voice-status").textContent.includes("speaks with anna"), null, { timeout: PATIENCE_MS });
  assert.equal(await page.inputValue("#voice-0"), "anna");
  await speak(page, "Hello.");
  assert.equal((await lastTurn(page)).state, "played");
  await page.setInputFiles("#voice-file", { name: "no.wav", mimeType: "audio/wav", buffer: Buffer.from("this is no sound") });
  await page.click("#new-voice button[type=submit]");
  await page.waitForFunction(() => /audio_sample/.test(document.querySelector("#voice-status").textContent), null, { timeout: PATIENCE_MS });
  const { faults } = opened;
  assert.ok(faults.splice(0).every((fault) => fault.includes("400")), "the browser's own line about the refusal");
  await close(opened);
});

test("the conversation is saved as one WAV file and as a transcript, and a take becomes a voice", async () => {
  const opened = await chromium.open(server.url);
  const { page } = opened;
  await speak(page, `${TEXT} ${TEXT}`);
  const whole = await lastTurn(page);
  await speak(page, TEXT);
  await sounds(page, 900);
  await page.keyboard.press("Escape");
  const cut = await lastTurn(page);
  const wav = await saved(page, "#save-wav");
  const silence = (wav.length - 44) / 96 - (whole.heardMs + cut.heard.ms);
  const gaps = await page.evaluate(() => [...globalThis.parley.turns.values()].flatMap(({ trace }) => trace.gaps.map(([from, to]) => to - from)));
  assert.ok(wav.readUInt16LE(22) === 1 && silence > 0 && silence < 1000 + gaps.reduce((sum, ms) => sum + ms + 100, 0), `${silence} ms of silence, of which gaps ${gaps}`);
  assert.ok((await saved(page, "#save-text")).toString().includes(`(not heard: ${cut.heard.remaining.trim()})`));
  assert.equal(await page.locator(".said .meta button").count(), 1, "what lasted too short can be no voice");
  await page.click(".said .meta button");
  await page.fill("#voice-name", "take");
  await page.click("#new-voice button[type=submit]");
  await page.waitForFunction(() => document.querySelector("#voice-status").textContent.includes("speaks with take"), null, { timeout: PATIENCE_MS });
  await close(opened);
});

test("where a key is asked for, the browser's own password is enough", async (t) => {
  const guarded = await serving("tones", { keys: ["a-key-for-the-tests"] });
  t.after(() => guarded.stop());
  const opened = await chromium.open(guarded.url, { httpCredentials: { username: "anybody", password: "a-key-for-the-tests" } });
  await speak(opened.page, "Hello.");
  assert.equal((await lastTurn(opened.page)).state, "played");
  await close(opened);
});

test("tags come from the palette, and from a list by keyboard alone", async () => {
  const opened = await chromium.open(server.url);
  const { page } = opened;
  await page.fill("#text", "");
  await page.click("#palette button:has-text('[whisper]')");
  await page.keyboard.type("hush [ex");
  await page.waitForSelector("#tag-list:not([hidden])");
  await page.keyboard.press("Enter");
  await page.keyboard.type("hey");
  assert.equal(await page.inputValue("#text"), "[whisper] hush [excited] hey");
  await page.keyboard.press("Enter");
  assert.equal((await lastTurn(page)).text, "[whisper] hush [excited] hey");
  await close(opened);
});

test("who listens to the page hears what was said and what was cut off", async () => {
  const opened = await chromium.open(server.url);
  const { page } = opened;
  await speak(page, TEXT);
  await sounds(page, 400);
  await page.click("#interrupt");
  await page.waitForFunction(() => document.querySelector("#log").textContent.includes("Not heard:"));
  await close(opened);
});

for (const [name, view] of [["light", {}], ["dark", { dark: true }], ["on a phone", { width: 390, height: 780, hasTouch: true, isMobile: true }]]) {
  test(`axe finds nothing wrong, ${name}`, async () => {
    const opened = await chromium.open(server.url, view);
    const { page } = opened;
    await page.evaluate(axe);
    assert.deepEqual(await faulty(page), []);
    await speak(page, `[whisper] <|speaker:1|>${TEXT}`);
    await sounds(page, 600);
    await page.keyboard.press("Escape");
    await lastTurn(page);
    await page.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = true)));
    await page.click("#more-voices");
    assert.deepEqual(await faulty(page), []);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(overflow, 0, "nothing is wider than the window");
    await close(opened);
  });
}

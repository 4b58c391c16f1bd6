/** What a person does with the page: by keyboard alone, by speaking, with several voices, for hours. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { PATIENCE_MS, ROOT, browsing, lastTurn, saved, serving, sounds, speak } from "./harness.mjs";

const TEXT = "Good evening, and thank you for waiting. The letters arrived on Thursday.";
let server, chromium;

before(async () => {
  server = await serving("tones");
  chromium = await browsing();
});
after(async () => {
  await chromium?.browser.close();
  await server?.stop();
});

/** What has the focus, and whether that can be seen. */
function focused(page) {
  return page.evaluate(() => {
    const node = document.activeElement;
    const shown = node.matches(".who input") ? node.nextElementSibling : node;
    const { outlineStyle, outlineWidth } = getComputedStyle(shown);
    const box = shown.getBoundingClientRect();
    const visible = outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 && box.width > 0 && box.height > 0;
    return { name: node.id || node.textContent.trim(), visible };
  });
}

test("without a mouse a text is spoken, paused, cut off and saved, and one always sees where one is", async () => {
  const { page, faults, context } = await chromium.open(server.url);
  await page.keyboard.press("Tab");
  assert.deepEqual(await focused(page), { name: "Skip to the text field", visible: true });
  await page.keyboard.press("Enter");
  await page.keyboard.press("Control+A");
  await page.keyboard.type(TEXT);
  await page.keyboard.press("Enter");
  await sounds(page, 300);
  const passed = [];
  const until = async (name) => {
    for (let i = 0; i < 60; i++) {
      await page.keyboard.press("Tab");
      const { name: found, visible } = await focused(page);
      assert.ok(visible, `the focus is seen on ${found}`);
      passed.push(found);
      if (found === name) return;
    }
    assert.fail(`${name} is not reached: ${passed}`);
  };
  await until("pause");
  await page.keyboard.press("Space");
  await page.waitForFunction(() => document.querySelector("#doing").textContent === "Parley: paused");
  await page.keyboard.press("Space");
  await page.waitForFunction(() => document.querySelector("#doing").textContent === "Parley: speaking");
  await page.keyboard.press("Escape");
  const turn = await lastTurn(page);
  assert.equal(turn.heard.text + turn.heard.remaining, TEXT);
  const saving = page.waitForEvent("download");
  await until("save-text");
  await page.keyboard.press("Enter");
  await saving;
  for (const name of ["microphone", "pace", "example"]) assert.ok(passed.includes(name), name);
  assert.deepEqual(faults, []);
  await context.close();
});

test("an example is pressed and heard, and the focus is not lost with it", async () => {
  const { page, faults, context } = await chromium.open(server.url);
  await page.click("#try button:has-text('Two speakers')");
  await sounds(page);
  assert.equal(await page.evaluate(() => document.activeElement.id), "speak");
  await page.keyboard.press("Escape");
  assert.match((await lastTurn(page)).text, /speaker:1/u);
  assert.deepEqual(faults, []);
  await context.close();
});

test("each of eight speakers may have a voice of its own", async () => {
  const { page, faults, context } = await chromium.open(server.url);
  await page.click("summary:has-text('Voices')");
  for (const name of ["anna", "bert"]) {
    await page.setInputFiles("#voice-file", `${ROOT}tests/fixtures/hearing/answer.ogg`);
    await page.fill("#voice-text", "What is said in it.");
    await page.fill("#voice-name", name);
    await page.click("#new-voice button[type=submit]");
    await page.waitForFunction((name) => document.querySelector("#voice-status").textContent.includes(`speaks with ${name}`), name, { timeout: PATIENCE_MS });
  }
  await page.click("#more-voices");
  assert.equal(await page.locator("#voices select:visible").count(), 8);
  await page.evaluate(() => globalThis.parley.addEventListener("server", ({ detail }) => detail.type === "session.updated" && (globalThis.config = detail.config)));
  await page.selectOption("#voice-0", "");
  await page.selectOption("#voice-3", "anna");
  await page.selectOption("#voice-7", "bert");
  await page.waitForFunction(() => globalThis.config?.voices["7"], null, { timeout: PATIENCE_MS });
  const { voice, voices } = await page.evaluate(() => globalThis.config);
  assert.deepEqual([voice, voices], [null, { 3: "anna", 7: "bert" }]);
  await speak(page, "<|speaker:3|>Hello there. <|speaker:7|>Hello.");
  assert.deepEqual([(await lastTurn(page)).state, faults], ["played", []]);
  await context.close();
});

test("in a browser that recognises speech one speaks instead of typing", async () => {
  const before = (page) =>
    page.addInitScript(() => {
      globalThis.SpeechRecognition = class {
        start() {
          setTimeout(() => {
            this.onresult({ results: [Object.assign([{ transcript: "Good morn" }], { isFinal: false })] });
            this.onresult({ results: [Object.assign([{ transcript: "Good morning to you." }], { isFinal: true })] });
            this.onend();
          }, 50);
        }
      };
    });
  const { page, context } = await chromium.open(server.url, { before });
  await page.click("#dictate");
  await page.waitForFunction(() => globalThis.parley.turns.size === 1, null, { timeout: PATIENCE_MS });
  const turn = await lastTurn(page);
  assert.deepEqual([turn.text, await page.getAttribute("#dictate", "aria-pressed")], ["Good morning to you.", "false"]);
  await context.close();
});

test("parley.js is a client of its own, without the page", async () => {
  const { page, faults, context } = await chromium.open(`${server.url}/health/live`, { connected: false });
  const found = await page.evaluate(async (text) => {
    const { Parley } = await import("/parley.js");
    const parley = await Parley.connect({ url: new URL("/v1/live", location.href.replace("http", "ws")) });
    await parley.unlock();
    async function* deltas() {
      for (const word of text.split(/(?<= )/u)) yield word;
    }
    const whole = await parley.say(deltas()).finished;
    const sounds = new Promise((resolve) => parley.addEventListener("started", resolve, { once: true }));
    const cut = parley.say(text);
    await sounds;
    await parley.interrupt();
    await cut.finished;
    await parley.close();
    return [whole.state, whole.heard.text, cut.state, cut.heard.text + cut.heard.remaining, parley.live.state];
  }, TEXT);
  assert.deepEqual([found, faults], [["played", TEXT, "cut", TEXT, "closed"], []]);
  await context.close();
});

test("a model that does not answer is told in words, and nothing was said", async () => {
  const { page, context } = await chromium.open(server.url);
  await page.check("[name=who][value=model]", { force: true });
  await page.fill("#text", "How is it?");
  await page.click("#speak");
  await page.waitForSelector("#notice:not([hidden])");
  assert.match(await page.textContent("#notice"), /at which address/u);
  assert.equal(await page.inputValue("#text"), "How is it?");
  await page.fill("#llm-url", `${server.url}/v1`); // somebody else answers there
  await page.click("#speak");
  await page.waitForFunction(() => document.querySelector("#notice").textContent.includes("refused with 40"), null, { timeout: PATIENCE_MS });
  await page.waitForFunction(() => document.querySelector(".said.parley .meta")?.textContent === "no answer");
  assert.doesNotMatch((await saved(page, "#save-text")).toString(), /Parley:/u);
  await context.close();
});

test("hours of conversation stay a small page, and what is saved has all of it", async () => {
  const { page, context } = await chromium.open(server.url);
  await speak(page, "Good evening.");
  await lastTurn(page);
  const count = (turns) =>
    page.evaluate(([turns, text]) => {
      const { talk } = globalThis.page;
      const words = text.split(" ");
      for (let i = 0; i < turns; i++) {
        const turn = { id: crypto.randomUUID(), text: `${text} ${text}`, state: "open", over: false, heardMs: 0, heard: null, charsAt: () => 40 };
        talk.follow(turn);
        talk.light(turn, 500);
        Object.assign(turn, { over: true, state: "cut", heardMs: 4000, heard: { text, remaining: ` ${text}`, char_end: text.length } });
        talk.end(turn);
      }
      return [document.querySelectorAll("*").length, document.querySelector("#talk").children.length, words.length];
    }, [turns, TEXT]);
  const [early] = await count(60);
  const [late, shown] = await count(300);
  assert.ok(late <= early && late < 1500, `${early} nodes, then ${late}`);
  assert.equal(shown, 60);
  const lines = (await page.evaluate(async () => (await import("./keeping.js")).transcript(globalThis.page.talk.entries))).match(/Parley:/gu);
  assert.equal(lines.length, 361);
  await page.evaluate(() => globalThis.page.keep());
  await page.reload();
  await page.waitForFunction(() => document.querySelectorAll(".said").length === 60, null, { timeout: PATIENCE_MS });
  assert.equal(await page.evaluate(() => globalThis.page.talk.entries.length), 361);
  assert.match(await page.textContent(".said:last-child .meta"), /cut off after 4\.0 s/u);
  await context.close();
});

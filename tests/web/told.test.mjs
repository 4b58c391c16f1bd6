/** What a person is told where something is not as it should be: in words, and what can be done. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { PATIENCE_MS, browsing, isConnected, lastTurn, serving, speak } from "./harness.mjs";

let server, chromium;

before(async () => {
  server = await serving("tones");
  chromium = await browsing();
});
after(async () => {
  await chromium?.browser.close();
  await server?.stop();
});

const reads = (page, place, words) => page.waitForFunction(([place, words]) => document.querySelector(place).textContent.includes(words), [place, words], { timeout: PATIENCE_MS });

test("a microphone that is not there, is refused or is taken away is told in words", async (t) => {
  for (const [args, words] of [[[], /There is no microphone/u], [["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream=deny"], /was refused.*Allow it/u]]) {
    const { browser, open } = await browsing({ args });
    t.after(() => browser.close());
    const { page, faults } = await open(server.url);
    await page.click("#microphone");
    await page.waitForSelector("#notice:not([hidden])");
    assert.match(await page.textContent("#notice"), words);
    assert.deepEqual([await page.getAttribute("#microphone", "aria-pressed"), faults], ["false", []]);
  }
  const { browser, open } = await browsing({ args: ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"] });
  t.after(() => browser.close());
  const { page } = await open(server.url);
  await page.click("#microphone[aria-pressed=false]");
  await page.waitForSelector("#microphone[aria-pressed=true]");
  await page.evaluate(() => globalThis.parley.uplink.microphone.stream.getTracks()[0].dispatchEvent(new Event("ended")));
  await page.waitForSelector("#microphone[aria-pressed=false]");
  assert.match(await page.textContent("#notice"), /taken away/u);
});

test("an address that is not secure is told, with one that is", async (t) => {
  const { browser, open } = await browsing({ args: ["--host-resolver-rules=MAP parley.test 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"] });
  t.after(() => browser.close());
  const { page, faults } = await open(server.url.replace("127.0.0.1", "parley.test"), { connected: false });
  await page.waitForSelector("#notice:not([hidden])");
  assert.ok((await page.textContent("#notice")).includes(`Open http://localhost:${new URL(server.url).port} `));
  assert.ok(await page.evaluate(() => document.querySelector("#composer").inert), "nothing is offered that cannot be done");
  assert.ok(faults.every((fault) => fault.includes("Cross-Origin-Opener-Policy")), `${faults}`); // the browser's own line about such an address
});

test("while the model loads the page says so, and then speaks what it was asked to meanwhile", async () => {
  let loading = true;
  const answer = (route) => (loading ? route.fulfill({ status: 503, json: { status: "warming_up" } }) : route.continue());
  const { page, context } = await chromium.open(server.url, { connected: false, before: (page) => page.route("**/health/ready", answer) });
  await reads(page, "#connection-text", "The model is loading");
  await speak(page, "Hello.");
  loading = false;
  await isConnected(page);
  assert.equal((await lastTurn(page)).state, "played");
  await context.close();
});

test("a server that is full says so, and lets the page in once there is room", async (t) => {
  const small = await serving("tones", { max_sessions: 1, limits: { resume_ttl_s: 0 } });
  t.after(() => small.stop());
  const first = await chromium.open(small.url);
  const { page, context } = await chromium.open(small.url, { connected: false });
  await reads(page, "#connection-text", "full");
  await first.page.evaluate(() => globalThis.parley.close());
  await isConnected(page);
  await context.close();
  await first.context.close();
});

test("a server that is gone is waited for; once it is back another conversation begins, and the page says so", async (t) => {
  const first = await serving("tones");
  t.after(() => first.kill());
  const { page, context } = await chromium.open(first.url);
  await speak(page, "Good evening.");
  await lastTurn(page);
  await first.kill();
  await reads(page, "#connection-text", "Trying again");
  await page.fill("#text", "And on we go.");
  await page.click("#speak"); // it is said once it can be
  const again = await serving("tones", { port: Number(new URL(first.url).port) });
  t.after(() => again.stop());
  await reads(page, "#notice", "new conversation");
  const turn = await lastTurn(page);
  assert.deepEqual([turn.done.n, turn.heard.text], [1, "And on we go."]);
  await context.close();
});

test("a licence that wants to be named is", async () => {
  const built = "Built with Fish Audio";
  const named = async (route) => {
    const response = await route.fetch();
    const models = await response.json();
    models.data[0].attribution = built;
    await route.fulfill({ response, json: models });
  };
  const { page, context } = await chromium.open(server.url, { before: (page) => page.route("**/v1/models", named) });
  await reads(page, "#attribution", built);
  await context.close();
});

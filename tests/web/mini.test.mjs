/** The page as a person meets it: on `parley serve mini`. Leaves pictures of it in build/web. */

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { after, before, test } from "node:test";
import { ROOT, browsing, lastTurn, serving, sounds, speak, speakGapless } from "./harness.mjs";

const PICTURES = `${ROOT}build/web`;
const STORY =
  "The lighthouse keeper had counted ships for thirty years. On the first night of winter he counted one that was not there, and " +
  "every clock in the tower stood still until it was gone.";
const KEEPS_UP = 0.7; // on two cores without other work it is 0.3
let server;
let chromium;

before(async () => {
  await mkdir(PICTURES, { recursive: true });
  server = await serving("mini");
  chromium = await browsing();
});
after(async () => {
  await chromium?.browser.close();
  await server?.stop();
});

test("the mini is heard without a gap", async (t) => {
  const { page, faults, context } = await chromium.open(server.url);
  const whole = await speakGapless(page, await page.inputValue("#text"));
  assert.deepEqual([whole.state, whole.done.status, faults], ["played", "completed", []]);
  // A machine that is busy with other things may speak slower than one listens: then there are gaps, whatever the page does.
  const { rtf } = whole.done.metrics;
  if (rtf < KEEPS_UP) assert.equal(whole.underruns, 0, `real-time factor ${rtf}`);
  else t.diagnostic(`${whole.underruns} underruns at a real-time factor of ${rtf}: too slow to tell`);
  await context.close();
});

for (const [name, view] of [["light", {}], ["dark", { dark: true }], ["phone", { width: 390, height: 844, hasTouch: true, isMobile: true }]]) {
  test(`a story ends for server and page where it was interrupted (${name})`, async () => {
    const { page, faults, context } = await chromium.open(server.url, view);
    await page.screenshot({ path: `${PICTURES}/${name}-first.png` });
    await speak(page, STORY);
    await sounds(page, 2000);
    await page.screenshot({ path: `${PICTURES}/${name}-speaking.png` });
    await page.click("#interrupt");
    const cut = await lastTurn(page);
    assert.deepEqual([cut.state, cut.heard.text + cut.heard.remaining], ["cut", STORY]);
    assert.deepEqual([cut.heard, cut.done.heard.source], [cut.done.heard, "client"]);
    assert.ok(cut.heard.char_end > 10 && cut.heard.char_end < STORY.length, cut.heard.text);
    await page.waitForFunction(() => document.querySelector(".said del"));
    await page.screenshot({ path: `${PICTURES}/${name}-cut.png` });
    assert.deepEqual([faults, await page.evaluate(() => globalThis.violations)], [[], []]);
    await context.close();
  });
}

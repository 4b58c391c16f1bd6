/**
 * The picture that README.md opens with: `node tests/web/picture.mjs FILE`, on a machine that does nothing else.
 */

import { browsing, lastTurn, serving, sounds, speak } from "./harness.mjs";

const server = await serving("mini");
const { browser, open } = await browsing();
const { page } = await open(server.url, { width: 1180, height: 760, deviceScaleFactor: 1.5 });
await speak(page, "Hello there. I speak while the text is still being written.");
await lastTurn(page);
await page.click("[for=text] + textarea");
await speak(page, "And if you interrupt me, I know exactly how far I got. What you did not hear was never said: the conversation goes on from the word at which you stopped me.");
await sounds(page, 3600);
await page.keyboard.press("Escape");
console.log((await lastTurn(page)).done.metrics);
await page.waitForFunction(() => document.querySelector(".said del"));
await page.fill("#text", "");
await page.waitForTimeout(200);
await page.screenshot({ path: process.argv[2] });
await browser.close();
await server.stop();

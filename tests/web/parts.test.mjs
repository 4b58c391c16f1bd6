/** The parts of the client and of the page that need no browser. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile, readdir } from "node:fs/promises";
import { test } from "node:test";
import { transcript } from "../../web-demo/keeping.js";
import { answer, atPace, deltas } from "../../web-demo/llm.js";
import { FIRST, fromPcm16, pack, unpack } from "../../web-demo/parley/frame.js";
import { Journal } from "../../web-demo/parley/journal.js";
import { Turn } from "../../web-demo/parley/turn.js";
import { Decimator, VoiceJudge, isVoiced } from "../../web-demo/parley/voice.js";
import { pieces, settled, spokenText } from "../../web-demo/transcript.js";

const HERE = new URL(".", import.meta.url);
const PAGE = new URL("../../web-demo/", HERE);

async function all(iterable) {
  const found = [];
  for await (const one of iterable) found.push(one);
  return found;
}

test("a header of the server's is read, and one of another kind is left alone", () => {
  const data = new ArrayBuffer(20);
  const view = new DataView(data);
  view.setUint8(0, 1);
  view.setUint8(1, 2);
  view.setUint32(4, 7, true);
  view.setBigUint64(8, 5_000_000_000n, true);
  view.setInt16(16, -32768, true);
  const message = unpack(data);
  assert.deepEqual([message.flags, message.n, message.position], [2, 7, 5_000_000_000]);
  assert.equal(fromPcm16(message.payload)[0], -1);
  view.setUint8(0, 9);
  assert.equal(unpack(data), null);
  assert.equal(unpack(new ArrayBuffer(3)), null);
});

test("sound of ours carries its position and samples", () => {
  const view = new DataView(pack(Int16Array.of(1, -2), 480, FIRST));
  assert.deepEqual([view.getUint8(0), view.getUint8(1), view.getBigUint64(8, true), view.getInt16(18, true)], [2, 1, 480n, -2]);
});

test("a session that goes on gets the rest of each turn, counted in code points", () => {
  const journal = new Journal();
  journal.start("a", { voice: "anna" });
  journal.append("a", "Good \u{1F600} morning");
  journal.end("a");
  assert.deepEqual(journal.missing([{ turn: "a", text_chars: 6, text_ended: false }]), [
    { type: "text.append", turn: "a", text: " morning" },
    { type: "turn.end", turn: "a" },
  ]);
  assert.deepEqual(journal.missing([{ turn: "a", text_chars: 14, text_ended: true }]), []);
  assert.equal(journal.again().length, 3);
  assert.deepEqual(journal.again()[0], { type: "turn.start", turn: "a", voice: "anna" });
  journal.done("a");
  assert.deepEqual(journal.again(), []);
});

test("a long text goes in pieces that one message may hold, and never through a character", () => {
  const journal = new Journal();
  journal.start("a", {});
  const text = "\u{1F600}".repeat(9000);
  const sent = journal.append("a", text);
  assert.equal(sent.map((one) => one.text).join(""), text);
  assert.ok(sent.every((one) => Array.from(one.text).length <= 4096));
});

test("text after the end of a turn is not sent", () => {
  const journal = new Journal();
  journal.start("a", {});
  journal.end("a");
  assert.deepEqual([...journal.append("a", "more"), ...journal.end("a")], []);
});

test("a turn knows how much of its text has begun to sound", () => {
  const turn = new Turn("a");
  turn.align([["Hello", 0, 400, 0, 5, null], ["there.", 400, 900, 6, 12, null]]);
  assert.deepEqual([turn.charsAt(0), turn.charsAt(399), turn.charsAt(400)], [5, 5, 12]);
});

test("a gap is nobody's fault while the sentence that comes next is still being written", () => {
  const turn = new Turn("a");
  turn.text = "Good evening. I speak, while";
  turn.align([["Good", 0, 200, 0, 4, null], ["evening.", 200, 500, 5, 13, null]]);
  assert.equal(turn.hasText, false);
  turn.text += " it comes. And";
  assert.equal(turn.hasText, true);
  turn.align([["comes.", 500, 900, 32, 38, null]]);
  assert.equal(turn.hasText, false);
  turn.ended = true;
  assert.equal(turn.hasText, true);
});

test("a turn survives being stored", () => {
  const turn = new Turn("a");
  Object.assign(turn, { n: 3, text: "Hello there.", heardMs: 250, state: "speaking" });
  turn.align([["Hello", 0, 400, 0, 5, null]]);
  const again = Turn.fromJSON(JSON.parse(JSON.stringify(turn)));
  assert.deepEqual([again.n, again.text, again.charsAt(100), again.received], [3, "Hello there.", 5, 12_000]);
});

const hum = (hz, rate, count) => Float32Array.from({ length: count }, (_, i) => 0.5 * Math.sin((2 * Math.PI * hz * i) / rate) + 0.2 * Math.sin((6 * Math.PI * hz * i) / rate));
const noise = (count, seed = 1) => Float32Array.from({ length: count }, () => ((seed = (seed * 16807) % 2147483647) / 2147483647 - 0.5));

test("a voice has a pitch, a cough has none", () => {
  for (const hz of [90, 130, 220, 350]) assert.ok(isVoiced(hum(hz, 8000, 256)), `${hz} Hz`);
  for (let seed = 1; seed < 40; seed++) assert.ok(!isVoiced(noise(256, seed * 7919)), `seed ${seed}`);
});

const judged = (judge, hops, level, voiced) => {
  for (let i = 0; i < hops; i++) judge.hear({ level, voiced: voiced && i % 3 > 0 });
};

test("200 ms of speech are meant, 150 are not, and neither is a cough of any length", () => {
  for (const [hops, voiced, meant] of [[13, true, true], [9, true, false], [40, false, false]]) {
    const judge = new VoiceJudge(200);
    judged(judge, 100, -65, false);
    judged(judge, hops, -25, voiced);
    assert.equal(judge.confirmed, meant, `${hops} hops`);
  }
});

test("two words with a breath between are one, what was said long before is not", () => {
  const judge = new VoiceJudge(200);
  judged(judge, 100, -65, false);
  judged(judge, 7, -25, true);
  judged(judge, 4, -65, false);
  judged(judge, 7, -25, true);
  assert.ok(judge.confirmed);
  judged(judge, 12, -65, false);
  judged(judge, 5, -25, true);
  assert.ok(!judge.confirmed);
});

test("noise that stays is the room, and somebody is heard above it", () => {
  const judge = new VoiceJudge(200);
  judged(judge, 800, -40, false);
  assert.ok(judge.speech.ms < 200);
  judged(judge, 14, -20, true);
  assert.ok(judge.confirmed);
});

test("taking sound down keeps a voice, removes what would fold back, and does not care how it is cut", () => {
  const power = (samples) => samples.reduce((sum, one) => sum + one * one, 0) / samples.length;
  const down = (input, cut) => {
    const decimator = new Decimator(3);
    const out = [];
    for (let at = 0; at < input.length; at += cut) decimator.push(input.subarray(at, at + cut), (sample) => out.push(sample));
    return out;
  };
  const voice = hum(300, 48000, 9600);
  assert.deepEqual(down(voice, 128), down(voice, 1000));
  assert.ok(Math.abs(power(down(voice, 128).slice(200)) / power(voice) - 1) < 0.05);
  const high = Float32Array.from({ length: 9600 }, (_, i) => Math.sin((2 * Math.PI * 12000 * i) / 48000));
  assert.ok(power(down(high, 128).slice(200)) < 1e-4);
});

test("text is cut into words, tags and speakers, and nothing of it is lost", () => {
  const text = "[whisper] Hello <|speaker:1|>there, [ not a tag < 3 \u{1F600}\n";
  const found = pieces(text);
  assert.equal(found.map((one) => one.text).join(""), text);
  assert.deepEqual(found.filter(({ kind }) => kind === "tag" || kind === "speaker").map((one) => one.text), ["[whisper]", "<|speaker:1|>"]);
  assert.equal(found.at(-1).end, Array.from(text).length);
});

test("the transcript of a recording has no tags", () => {
  assert.equal(spokenText("[whisper] Can you <|speaker:1|> hear  me? [laugh]"), "Can you hear me?");
});

test("a text at the pace of a model comes whole and in pieces, until it is stopped", async () => {
  const text = "Hello there, my friend. \n";
  const signal = new AbortController();
  assert.equal((await all(atPace(text, 1e6, signal.signal))).join(""), text);
  signal.abort();
  assert.deepEqual(await all(atPace(text, 1e6, signal.signal)), []);
});

const events = ['data: {"choices":[{"delta":{"content":"Gr\u00fc"}}]}\r\n', ": comment\n", 'data: {"choices":[]}\n\n', 'data: {"choices":[{"delta":{"content":"\u00dfe"}}]}\n', "data: [DONE]\n"].join("");

test("a model's answer is read however its bytes are cut", async () => {
  const bytes = new TextEncoder().encode(events);
  for (const cut of [1, 2, 7, 64, 1000]) {
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < bytes.length; at += cut) controller.enqueue(bytes.slice(at, at + cut));
        controller.close();
      },
    });
    assert.equal((await all(deltas(body, new AbortController().signal))).join(""), "Grüße", `cut ${cut}`);
  }
});

test("why a model cannot be asked is said in words", async (t) => {
  t.mock.method(globalThis, "fetch", async () => new Response('{"error": {"message": "no such model"}}', { status: 404 }));
  const asked = answer({ url: "http://127.0.0.1:1/v1/", model: "x", key: "" }, [], new AbortController().signal);
  await assert.rejects(all(asked), /refused with 404: no such model/u);
  assert.equal(fetch.mock.calls[0].arguments[0], "http://127.0.0.1:1/v1/chat/completions");
  assert.equal(fetch.mock.calls[0].arguments[1].headers.Authorization, undefined);
});

test("a transcript says what was not heard", () => {
  const text = transcript([
    { who: "you", text: "Hi", at: 0 },
    { who: "parley", text: "Hello there", heard: "Hello ", remaining: "there", at: 0 },
  ]);
  assert.match(text, /You: Hi\n.*Parley: Hello +\n +\(not heard: there\)/u);
});

test("a turn that is over is few pieces, and they are its text", () => {
  const text = "[whisper] Hello <|speaker:1|>there, and  on it goes \u{1F600} for [loud] ever.\n";
  for (let heard = 0; heard <= Array.from(text).length; heard++) {
    const { heard: stands, cut } = settled(text, heard);
    assert.equal([...stands, ...cut].map((one) => one.text).join(""), text);
    assert.ok(stands.length + cut.length <= 11, `${stands.length + cut.length} pieces`);
    assert.ok(!cut.some((one) => one.kind === "word" && /^\s/u.test(one.text)), "no line through the space before a word");
    assert.ok(stands.every((one) => one.start < heard));
  }
});

test("what is vendored is what was published", async () => {
  const sums = await readFile(new URL("vendor/SHA256SUMS", PAGE), "utf8");
  const [, sum, name] = /^([0-9a-f]{64}) {2}(\S+)\n$/u.exec(sums);
  assert.equal(createHash("sha256").update(await readFile(new URL(`vendor/${name}`, PAGE))).digest("hex"), sum);
});

test("the page loads nothing from elsewhere and has no inline code or style", async () => {
  const html = await readFile(new URL("index.html", PAGE), "utf8");
  assert.doesNotMatch(html, /(?:src|href)="(?:https?:)?\/\//u);
  assert.doesNotMatch(html, /<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)/u);
  for (const name of (await readdir(PAGE, { recursive: true })).filter((one) => one.endsWith(".js") && !one.startsWith("vendor"))) {
    const code = await readFile(new URL(name, PAGE), "utf8");
    assert.doesNotMatch(code, /innerHTML|insertAdjacentHTML|\beval\(|new Function/u, name);
    assert.ok(code.split("\n").length <= 470, name);
  }
});

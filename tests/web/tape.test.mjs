/** What is kept of a conversation's sound, and how it is saved. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Tape } from "../../web-demo/tape.js";
import { tripled, wavHeader } from "../../web-demo/wav.js";

const RATE = 48000;
const FRAME = 960;
const HOP = 256;

/** The channels of a WAV file. */
async function read(file) {
  const bytes = await file.arrayBuffer();
  const header = new DataView(bytes);
  const channels = header.getUint16(22, true);
  assert.equal(header.getUint32(40, true), bytes.byteLength - 44);
  assert.equal(header.getUint32(24, true), RATE);
  const samples = new Int16Array(bytes.slice(44));
  return Array.from({ length: channels }, (_, c) => samples.filter((_, i) => i % channels === c));
}

const level = (value, count) => new Float32Array(count).fill(value / 32768);

/** A turn of `frames` frames that is heard from `at` on, with what the player says each 50 ms. */
function speak(tape, turn, value, frames, at, from = 0) {
  for (let i = 0; i < frames; i++) tape.add(turn, level(value, FRAME), from + i * FRAME);
  for (let s = 0.01; s < frames * 0.02; s += 0.05) tape.place(turn, from + Math.round(s * RATE), at + s);
}

/** Somebody says something in the microphone. */
function hear(tape, value, hops, at, { loud = true, speaking = false } = {}) {
  for (let i = 0; i < hops; i++) tape.hear(new Int16Array(HOP).fill(value), loud ? -20 : -80, at + (i * HOP) / 16000, speaking);
}

/** Where samples of about this value are: [first, behind the last]. */
function where(samples, value) {
  const is = (one) => Math.abs(one - value) < 2;
  return [samples.findIndex(is), samples.findLastIndex(is) + 1];
}

const near = (found, wanted, tolerance = 60) => assert.ok(Math.abs(found - wanted) <= tolerance, `${found} for ${wanted}`);

test("a header says how much follows, at what rate and in how many channels", () => {
  const header = new DataView(wavHeader(96000, RATE, 2));
  assert.equal(header.byteLength, 44);
  assert.deepEqual([header.getUint32(4, true), header.getUint32(40, true), header.getUint16(22, true), header.getUint32(28, true)], [96036, 96000, 2, 192000]);
});

test("without a microphone there is one channel, and long silence is one second", async () => {
  const tape = new Tape();
  speak(tape, "a", 1000, 10, 100);
  speak(tape, "b", 2000, 10, 100.5);
  speak(tape, "c", 3000, 10, 900);
  const [left, ...more] = await read(await tape.conversation());
  assert.deepEqual(more, []);
  near(left.length, (0.5 + 0.2 + 1 + 0.2) * RATE);
  assert.deepEqual(where(left, 1000), [0, 9600]);
  near(where(left, 2000)[0], 0.5 * RATE);
  near(where(left, 3000)[0], 1.7 * RATE);
});

test("nothing was said: an empty file", async () => {
  assert.deepEqual(await read(await new Tape().conversation()), [new Int16Array(0)]);
});

test("of a turn that was cut only what was heard is saved, in the conversation and alone", async () => {
  const tape = new Tape();
  speak(tape, "a", 1000, 100, 5);
  tape.close("a", 300);
  assert.equal(tape.seconds("a"), 0.3);
  for (const file of [await tape.conversation(), tape.wav("a")]) assert.equal((await read(file))[0].length, 0.3 * RATE);
});

test("a pause and a gap are where they were", async () => {
  const tape = new Tape();
  for (let i = 0; i < 20; i++) tape.add("a", level(1000 + i, FRAME), i * FRAME);
  for (const [ms, at] of [[50, 7.05], [100, 7.1], [100, 7.1], [150, 7.65], [200, 7.7], [400, 7.9]]) tape.place("a", 48 * ms, at);
  const [left] = await read(await tape.conversation());
  assert.equal(left.length, 0.9 * RATE);
  assert.deepEqual([left[4799], left[4800], left[4800 + 0.5 * RATE - 1], left[4800 + 0.5 * RATE]], [1004, 0, 0, 1005]);
});

test("the caller is on the right, where he spoke", async () => {
  const tape = new Tape();
  speak(tape, "a", 1000, 150, 10); // 3 s
  hear(tape, 500, 100, 11, { speaking: true }); // 1.6 s, while Parley speaks
  tape.close("a", 1200);
  speak(tape, "b", 2000, 50, 13);
  const [left, right] = await read(await tape.conversation());
  assert.equal(left.length, right.length);
  near(left.length, 4 * RATE);
  near(where(left, 1000)[1], 1.2 * RATE);
  near(where(right, 500)[0], 1 * RATE);
  near(where(right, 500)[1], 2.6 * RATE);
  near(where(left, 2000)[0], 3 * RATE);
});

test("a quiet microphone is not kept, but what leads up to a word is", async () => {
  const tape = new Tape();
  hear(tape, 3, 1000, 0, { loud: false });
  assert.equal((await tape.conversation()).size, 44);
  hear(tape, 500, 50, 16);
  hear(tape, 3, 5000, 16.8, { loud: false });
  const [, right] = await read(await tape.conversation());
  near(right.length / RATE, (20 + 50 + 60) * 0.016, 0.05);
  near(where(right, 500)[0] / RATE, 0.32, 0.02);
});

test("an hour of talking is kept in pieces that join without a seam", async () => {
  const tape = new Tape();
  hear(tape, 500, 1500, 0);
  assert.ok(tape.runs.length > 1);
  const [, right] = await read(await tape.conversation());
  assert.equal(right.length, 1500 * HOP * 3);
  const seams = tape.runs.slice(1).map(({ at }) => Math.round(at * RATE));
  for (const seam of seams) assert.ok(right.slice(seam - 100, seam + 100).every((one) => one > 200), "no hole");
});

test("a page that is loaded again has the sound so far, and nothing twice", async () => {
  const shelf = new Map();
  const store = (key, record) => shelf.set(key, structuredClone(record));
  const tape = new Tape(store);
  hear(tape, 500, 50, 0);
  speak(tape, "a", 1000, 50, 1);
  tape.close("a", 1000);
  for (let i = 0; i < 100; i++) tape.add("b", level(2000, FRAME), i * FRAME); // 2 s have come,
  tape.place("b", 2400, 3.05);
  tape.place("b", 4800, 3.1);
  for (let i = 100; i < 150; i++) tape.add("b", level(2000, FRAME), i * FRAME); // and are stored;
  const again = new Tape(store);
  again.restore([...shelf.values()]);
  speak(again, "b", 3000, 25, 4, 4800); // 0.1 s were heard
  again.close("b", 600);
  const [left, right] = await read(await again.conversation());
  near(where(right, 500)[1], 0.8 * RATE);
  assert.deepEqual(where(left, 1000).map((one) => Math.round(one / 480)), [100, 200]);
  assert.deepEqual(where(left, 2000).map((one) => Math.round(one / 480)), [300, 310]);
  assert.deepEqual(where(left, 3000).map((one) => Math.round(one / 480)), [400, 450]);
  assert.equal(left.length, 4.5 * RATE);
});

test("sound at three times its rate is the same sound, wherever it is cut", () => {
  const tone = (rate, count) => Int16Array.from({ length: count }, (_, i) => Math.round(12000 * Math.sin((2 * Math.PI * 1000 * i) / rate)));
  const low = tone(16000, 4000);
  const high = tripled(low, 0, 12000);
  const wanted = tone(48000, 12000);
  const wrong = Math.max(...high.slice(100, -100).map((one, i) => Math.abs(one - wanted[i + 100])));
  assert.ok(wrong < 60, `${wrong}`);
  const first = 3000;
  assert.deepEqual(tripled(low.slice(first / 3 - 8, first / 3 + 40), 24, 96), high.slice(first, first + 96));
});

import assert from "node:assert/strict";
import { test } from "node:test";
import { Ring } from "../../web-demo/parley/ring.js";

const QUANTUM = 128;

/** Samples that say where they are from: their position within the turn. */
const ramp = (count, from = 0) => Float32Array.from({ length: count }, (_, i) => from + i);

/** @param {Ring} ring */
function play(ring, quanta) {
  const heard = [];
  const happened = [];
  for (let i = 0; i < quanta; i++) {
    const output = new Float32Array(QUANTUM);
    happened.push(...ring.render(output));
    heard.push(...output);
  }
  return { heard, happened };
}

test("what is pushed in pieces of any size is played sample for sample, across the ring's edge", () => {
  const ring = new Ring(1000, 10, 4);
  const heard = [];
  let position = 0;
  for (let i = 0; position < 9000; i++) {
    const count = 1 + ((i * 7919) % 300);
    ring.push(1, ramp(count, position), position);
    position += count;
    while (ring.buffered >= QUANTUM) heard.push(...play(ring, 1).heard);
  }
  ring.end(1);
  const { heard: rest, happened } = play(ring, 3);
  heard.push(...rest);
  assert.deepEqual(heard.slice(0, position), [...ramp(position)]);
  assert.ok(heard.slice(position).every((one) => one === 0));
  assert.deepEqual(happened, ["ended:1"]);
  assert.equal(ring.underruns + ring.overflows, 0);
});

test("nothing sounds until enough is gathered, and a gap counts once and is gathered for again", () => {
  const ring = new Ring(4000, 200, 4);
  ring.push(1, ramp(199), 0);
  assert.ok(play(ring, 2).heard.every((one) => one === 0));
  ring.push(1, ramp(1, 199), 199);
  assert.deepEqual(play(ring, 3).happened, ["started", "stalled"]);
  assert.equal(ring.underruns, 1);
  ring.push(1, ramp(300, 200), 200);
  assert.deepEqual(play(ring, 1).heard.slice(0, 3), [0, 0, 0], "twice as much as before the gap");
  ring.push(1, ramp(200, 500), 500);
  assert.deepEqual(play(ring, 1).heard.slice(0, 3), [200, 201, 202]);
  assert.equal(ring.underruns, 1);
});

test("after a turn without a gap less is gathered again, and never less than at first", () => {
  const ring = new Ring(4000, 200, 4);
  ring.push(1, ramp(200), 0);
  play(ring, 3);
  assert.equal(ring.gathered, 400);
  for (const [turn, gathered] of [[1, 400], [2, 200], [3, 200]]) {
    ring.push(turn, ramp(100), turn === 1 ? 200 : 0);
    ring.end(turn);
    play(ring, 3);
    assert.equal(ring.gathered, gathered);
  }
});

test("the end of a turn is no gap, and the next one follows without a sample between", () => {
  const ring = new Ring(4000, 10, 4);
  ring.push(1, ramp(100), 0);
  ring.end(1);
  ring.push(2, ramp(100, 1000), 0);
  const { heard, happened } = play(ring, 1);
  assert.deepEqual(heard, [...ramp(100), ...ramp(28, 1000)]);
  assert.deepEqual(happened, ["started", "ended:1", "started"]);
  assert.deepEqual([ring.turn, ring.played, ring.underruns], [2, 28, 0]);
});

test("the clock counts positions of the turn, also where samples were left out or it begins in the middle", () => {
  const ring = new Ring(4000, 10, 4);
  ring.push(3, ramp(64, 960), 960);
  ring.push(3, ramp(64, 2000), 2000);
  ring.end(3);
  play(ring, 1);
  assert.equal(ring.played, 2064);
});

test("holding fades to silence within its time, keeps every sample, and goes on behind it", () => {
  const ring = new Ring(4000, 10, 64);
  ring.push(1, new Float32Array(3000).fill(1), 0);
  play(ring, 1);
  ring.held = true;
  const { heard } = play(ring, 4);
  assert.ok(heard.slice(64).every((one) => one === 0) && heard[0] > 0.9);
  const before = ring.played;
  assert.ok(before <= 3 * QUANTUM);
  ring.held = false;
  const after = play(ring, 2).heard;
  assert.ok(after[0] < 0.1 && after[200] === 1);
  assert.equal(ring.played, before + 2 * QUANTUM);
});

test("stopping fades, then drops all turns and says so", () => {
  const ring = new Ring(4000, 10, 64);
  ring.push(1, new Float32Array(1000).fill(1), 0);
  ring.push(2, new Float32Array(1000).fill(1), 0);
  play(ring, 1);
  ring.stop();
  const { heard, happened } = play(ring, 2);
  assert.deepEqual(happened, ["stopped"]);
  assert.ok(heard.slice(64).every((one) => one === 0));
  assert.deepEqual([ring.buffered, ring.turn, ring.underruns], [0, null, 0]);
});

test("stopping what is held, or nothing at all, is done at once", () => {
  for (const held of [true, false]) {
    const ring = new Ring(4000, 10, 64);
    if (held) ring.push(1, new Float32Array(1000).fill(1), 0);
    play(ring, 1);
    ring.held = held;
    play(ring, 1);
    ring.stop();
    assert.deepEqual(play(ring, 1).happened, ["stopped"]);
  }
});

test("a turn that was dropped while it waited is passed over", () => {
  const ring = new Ring(4000, 10, 4);
  ring.push(1, ramp(50), 0);
  ring.end(1);
  ring.push(2, ramp(500, 1000), 0);
  ring.push(3, ramp(50, 2000), 0);
  ring.drop(2);
  assert.deepEqual(play(ring, 1).heard.slice(0, 100), [...ramp(50), ...ramp(50, 2000)]);
});

test("what does not fit is counted and not played over what is there", () => {
  const ring = new Ring(200, 10, 4);
  ring.push(1, ramp(300), 0);
  assert.equal(ring.overflows, 100);
  assert.deepEqual(play(ring, 1).heard, [...ramp(128)]);
});

/**
 * The audio thread of the microphone: 16 kHz, in pieces of 16 ms, each with its level and whether it has a pitch.
 *
 * Out: {raw: Float32Array}, what came, some 20 times a second, where the option `raw` asks for it; and
 *      {samples: Int16Array (256), level: dB of full scale, voiced: boolean, at: seconds of the context's clock at its end}
 */

import { Decimator, isVoiced } from "./voice.js";

const RATE_HZ = 16000; // what the server's detector works at
const PIECE = 256; // two of them are one hop of the detector's
const RAW = 2048; // samples: a message for each quantum would be 375 a second

class MicrophoneProcessor extends AudioWorkletProcessor {
  /** @param {{processorOptions?: {raw?: boolean}}} options */
  constructor({ processorOptions } = {}) {
    super();
    this.raw = processorOptions?.raw ? new Float32Array(RAW) : null;
    this.gathered = 0; // samples of `raw`
    this.toRate = new Decimator(Math.max(1, Math.round(sampleRate / RATE_HZ)));
    this.toPitch = new Decimator(2);
    this.piece = new Float32Array(PIECE);
    this.filled = 0;
    this.window = new Float32Array(PIECE); // the last 32 ms at 8 kHz
  }

  /** @param {Float32Array[][]} inputs */
  process([input]) {
    if (input.length) {
      if (this.raw) this.gather(this.raw, input[0]);
      this.toRate.push(input[0], (sample) => {
        this.piece[this.filled++] = sample;
        if (this.filled === PIECE) this.send();
      });
    }
    return true;
  }

  /** @param {Float32Array} raw @param {Float32Array} quantum */
  gather(raw, quantum) {
    raw.set(quantum, this.gathered);
    this.gathered += quantum.length;
    if (this.gathered < RAW) return;
    this.port.postMessage({ raw: raw.slice() });
    this.gathered = 0;
  }

  send() {
    this.filled = 0;
    let power = 1e-12;
    const samples = new Int16Array(PIECE);
    for (let i = 0; i < PIECE; i++) {
      power += this.piece[i] * this.piece[i];
      samples[i] = Math.max(-32768, Math.min(32767, Math.round(this.piece[i] * 32768)));
    }
    this.window.copyWithin(0, PIECE / 2);
    let at = PIECE / 2;
    this.toPitch.push(this.piece, (sample) => (this.window[at++] = sample));
    const level = 10 * Math.log10(power / PIECE);
    const voiced = level > -60 && isVoiced(this.window);
    this.port.postMessage({ samples, level, voiced, at: (currentFrame + 128) / sampleRate }, [samples.buffer]);
  }
}

registerProcessor("parley-microphone", MicrophoneProcessor);

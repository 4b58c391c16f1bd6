/**
 * The audio thread of the microphone: 16 kHz, in pieces of 16 ms, each with its level and whether it has a pitch.
 *
 * Out: {raw: Float32Array}, each quantum as it came, where the option `raw` asks for it; and
 *      {samples: Int16Array (256), level: dB of full scale, voiced: boolean, at: seconds of the context's clock at its end}
 */

import { Decimator, isVoiced } from "./voice.js";

const RATE_HZ = 16000; // what the server's detector works at
const PIECE = 256; // two of them are one hop of the detector's

class MicrophoneProcessor extends AudioWorkletProcessor {
  /** @param {{processorOptions?: {raw?: boolean}}} options */
  constructor({ processorOptions } = {}) {
    super();
    this.raw = processorOptions?.raw ?? false;
    this.toRate = new Decimator(Math.max(1, Math.round(sampleRate / RATE_HZ)));
    this.toPitch = new Decimator(2);
    this.piece = new Float32Array(PIECE);
    this.filled = 0;
    this.window = new Float32Array(PIECE); // the last 32 ms at 8 kHz
  }

  /** @param {Float32Array[][]} inputs */
  process([input]) {
    if (input.length) {
      if (this.raw) this.port.postMessage({ raw: input[0].slice() });
      this.toRate.push(input[0], (sample) => {
        this.piece[this.filled++] = sample;
        if (this.filled === PIECE) this.send();
      });
    }
    return true;
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

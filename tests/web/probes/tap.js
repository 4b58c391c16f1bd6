/** Passes sound through and tells of it: each quantum's power, and all samples when asked to keep them. */
class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.port.onmessage = ({ data }) => (this.keep = data.keep);
    this.keep = false;
    this.powers = [];
    this.at = 0;
  }

  process([input], [output]) {
    const samples = input[0] ?? new Float32Array(128);
    output[0].set(samples);
    let power = 0;
    for (const one of samples) power += one * one;
    if (!this.powers.length) this.at = currentFrame / sampleRate;
    this.powers.push(power / samples.length);
    if (this.keep) this.port.postMessage({ samples: samples.slice(), at: currentFrame });
    if (this.powers.length >= 16) {
      this.port.postMessage({ powers: this.powers, at: this.at });
      this.powers = [];
    }
    return true;
  }
}

registerProcessor("tap", Tap);

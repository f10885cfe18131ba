// Runs in the audio thread: hands on what the microphone gives, in pieces.

const PIECE = 2048; // samples

class Tap extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(PIECE);
    this.filled = 0;
    this.port.onmessage = () => {
      this.port.postMessage(this.piece.slice(0, this.filled));
      this.port.postMessage(null); // there is no more
      this.ended = true;
    };
  }

  process([[samples]]) {
    if (this.ended) return false;
    for (const sample of samples ?? []) {
      this.piece[this.filled++] = sample;
      if (this.filled < PIECE) continue;
      this.port.postMessage(this.piece.slice());
      this.filled = 0;
    }
    return true;
  }
}

registerProcessor("tap", Tap);

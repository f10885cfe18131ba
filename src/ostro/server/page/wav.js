// A sound as a WAV file.

const HEADER = 44;

/** samples: a Float32Array in -1…1, one channel. 16-bit PCM in RIFF, as Microsoft's "New Multimedia Data Types" has it. */
export function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(HEADER + 2 * samples.length));
  const text = (at, said) => [...said].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, HEADER - 8 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); // bytes a second
  view.setUint16(32, 2, true); // bytes a frame
  view.setUint16(34, 16, true); // bits a sample
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, at) => view.setInt16(HEADER + 2 * at, Math.round(Math.max(-1, Math.min(1, sample)) * 32767), true));
  return view.buffer;
}

// The microphone as samples. What browsers record by themselves is WebM, which servers of models seldom read.

export const RATE = 16000; // what models of speech hear

/** Why there is no sound from a microphone, in words. */
export function refusalOf(error) {
  if (error.name === "NotAllowedError" || error.name === "SecurityError") {
    return "The browser did not let this page use the microphone. Allow it in the settings of this site, beside the address, and try again.";
  }
  if (error.name === "NotFoundError") return "There is no microphone. Connect one, or attach a file.";
  if (error.name === "NotReadableError") return "The microphone cannot be used: another program may have it.";
  return `The microphone cannot be used: ${error.message}`;
}

/**
 * Start to record. heard: called with the seconds so far and the loudness (0…1) of the last piece. lost: called when the
 * microphone goes away.
 *
 * Gives {stop, cancel}; stop resolves to a Float32Array at RATE.
 */
export async function openMicrophone({ heard, lost }) {
  if (!navigator.mediaDevices) throw new Error("browsers let pages record only over https, or from the machine itself. Attach a file instead.");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  const context = new AudioContext();
  const close = () => {
    for (const track of stream.getTracks()) track.stop();
    return context.close();
  };
  try {
    await context.audioWorklet.addModule(new URL("microphone-worklet.js", import.meta.url).href);
    await context.resume();
  } catch (error) {
    close();
    throw error;
  }
  const tap = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  const pieces = [];
  let count = 0;
  let ended = null;
  tap.port.onmessage = ({ data }) => {
    if (data === null) return ended?.();
    pieces.push(data);
    count += data.length;
    if (!ended) heard(count / context.sampleRate, data.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0));
  };
  const source = context.createMediaStreamSource(stream);
  source.connect(tap);
  stream.getAudioTracks()[0].addEventListener("ended", () => ended || lost());

  async function stop() {
    await new Promise((resolve) => {
      ended = resolve;
      tap.port.postMessage("end");
    });
    const { sampleRate } = context;
    await close();
    return resampled(pieces, count, sampleRate);
  }
  return { stop, cancel: () => ((ended = () => {}), close()) };
}

async function resampled(pieces, count, rate) {
  if (!count) return new Float32Array();
  const context = new OfflineAudioContext(1, Math.ceil((count * RATE) / rate), RATE);
  const buffer = context.createBuffer(1, count, rate);
  let at = 0;
  for (const piece of pieces) {
    buffer.copyToChannel(piece, 0, at);
    at += piece.length;
  }
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.connect(context.destination);
  source.start();
  return (await context.startRendering()).getChannelData(0);
}

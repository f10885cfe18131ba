// The recorder in the composer: a button that becomes a clock with ways to stop.

import { byId, say } from "./dom.js";
import { sensesOf } from "./media.js";
import { openMicrophone, RATE, refusalOf } from "./microphone.js";
import { wav } from "./wav.js";

const MOST_S = 60;

const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds) % 60).padStart(2, "0")}`;

/** made: called with the file. tell: called with a problem in words. changed: called when recording begins or ends. */
export function makeRecorder({ made, tell, changed }) {
  const button = byId("record");
  const bar = byId("recording");
  const time = byId("recording-time");
  let microphone = null;
  let number = 0;

  async function start() {
    button.disabled = true;
    tell(null);
    say("Waiting for the microphone.");
    try {
      microphone = await openMicrophone({ heard, lost: stop });
    } catch (error) {
      tell(refusalOf(error));
      return;
    } finally {
      button.disabled = false;
    }
    heard(0, 0);
    paint();
    byId("recording-stop").focus();
    say(`Recording, ${MOST_S} seconds at most. Escape cancels.`);
  }

  function heard(seconds, loudness) {
    const text = `${clock(Math.min(seconds, MOST_S))} / ${clock(MOST_S)}`;
    if (time.textContent !== text) time.textContent = text;
    byId("recording-level").style.setProperty("--level", Math.sqrt(loudness).toFixed(2));
    if (seconds >= MOST_S && microphone) stop();
  }

  function paint() {
    bar.hidden = microphone === null;
    document.body.classList.toggle("recording-now", microphone !== null);
    changed();
  }

  /** Its samples; null where nothing is being recorded. */
  function end(how) {
    const ending = microphone;
    microphone = null;
    paint();
    byId("prompt").focus();
    return ending?.[how]() ?? null;
  }

  async function stop() {
    const samples = await end("stop");
    if (!samples) return;
    if (!samples.length) return tell("Nothing was recorded.");
    number += 1;
    made(new File([wav(samples.subarray(0, MOST_S * RATE), RATE)], `Recording ${number}.wav`, { type: "audio/wav" }));
  }

  function cancel() {
    end("cancel");
    say("The recording is thrown away.");
  }

  button.addEventListener("click", start);
  byId("recording-stop").addEventListener("click", stop);
  byId("recording-cancel").addEventListener("click", cancel);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !microphone || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    cancel();
  }, { capture: true });
  return { offer: (model) => (button.hidden = !sensesOf(model).audio), busy: () => microphone !== null };
}

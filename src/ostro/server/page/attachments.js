// What is attached to the message being written: chosen, dropped, pasted or recorded; shown, and removed again.

import { byId, h, iconButton, say } from "./dom.js";
import { ACCEPTED, MediaProblem, readMedia, sensesOf, takes } from "./media.js";
import { mediaView } from "./media-view.js";

/**
 * held: gives the media of the conversation so far. tell: called with a problem in words. changed: called after every
 * change.
 */
export function makeAttachments({ held, tell, changed }) {
  const list = byId("attached");
  const picker = byId("attach-files");
  const attached = []; // {media, view, element}
  let senses = sensesOf(null);
  let work = Promise.resolve();
  let reading = 0;

  const all = () => attached.map(({ media }) => media);

  /** What is known of the model that would answer; null while that is nothing. */
  function offer(model) {
    senses = sensesOf(model);
    byId("attach").hidden = !Object.values(senses).some(Boolean);
    picker.accept = Object.keys(ACCEPTED).filter((kind) => senses[kind]).map((kind) => ACCEPTED[kind]).join();
    const label = `Attach ${takes(senses).replace(/^text(, | and )/, "")}`;
    byId("attach").setAttribute("aria-label", label);
    byId("attach").title = label;
    byId("drop-words").textContent = Object.values(senses).some(Boolean) ? label : "This model takes text only";
  }

  /** One after the other, in their order. */
  function add(files) {
    if (!files.length) return;
    reading += 1;
    changed();
    work = work.then(async () => {
      const problems = [];
      const added = [];
      for (const file of files) {
        try {
          const media = await readMedia(file, senses, [...held(), ...all()]);
          show(media);
          added.push(media.name);
        } catch (error) {
          problems.push(error instanceof MediaProblem ? error.message : `${file.name} cannot be read.`);
        }
      }
      reading -= 1;
      const rest = problems.length > 2 ? ` So are ${problems.length - 2} more.` : "";
      tell(problems.length ? problems.slice(0, 2).join(" ") + rest : null);
      if (added.length) say(`${added.join(", ")} attached. ${count()}`);
      changed();
    });
  }

  const count = () => (attached.length ? `${attached.length} attached in all.` : "Nothing is attached.");

  function show(media) {
    const view = mediaView(media);
    const entry = { media, view };
    const removes = iconButton("close", `Remove ${media.name}`, (event) => remove(entry, event.detail === 0));
    entry.element = h("li", {}, view.element, removes);
    attached.push(entry);
    list.append(entry.element);
    list.hidden = false;
  }

  function remove(entry, byKeyboard) {
    const at = attached.indexOf(entry);
    attached.splice(at, 1);
    entry.view.leave();
    entry.element.remove();
    list.hidden = !attached.length;
    // Who goes by keyboard stays near; who points goes on writing.
    const next = byKeyboard && attached[Math.min(at, attached.length - 1)];
    (next ? next.element.querySelector("button") : byId("prompt")).focus();
    tell(null);
    say(`${entry.media.name} removed. ${count()}`);
    changed();
  }

  /** What was attached, which is no longer. */
  function take() {
    const taken = all();
    for (const { view, element } of attached.splice(0)) {
      view.leave();
      element.remove();
    }
    list.hidden = true;
    return taken;
  }

  /** In words, why the model cannot be sent what is attached; null where it can. */
  function problem() {
    const odd = all().find(({ kind }) => !senses[kind]);
    return odd ? `This model takes ${takes(senses)}: remove ${odd.name}, or choose another model.` : null;
  }

  byId("attach").addEventListener("click", () => picker.click());
  picker.addEventListener("change", () => {
    add([...picker.files]);
    picker.value = "";
    byId("prompt").focus();
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    // Office programs add a picture of the text that was copied: there the text is meant.
    if (!files.length || event.clipboardData.getData("text/plain") || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    add(files);
  });
  watchDrops(add);
  return { add, all, take, problem, offer, busy: () => reading > 0 };
}

function watchDrops(add) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files") && !document.querySelector("dialog[open]");
  const shown = (on) => (byId("drop").hidden = !on);
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault(); // else the browser would leave the page for the file
    event.dataTransfer.dropEffect = "copy";
    shown(true);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? shown(false));
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    shown(false);
    add([...event.dataTransfer.files]);
  });
}

// The three dialogs: the key, the export, the shortcuts.

import { key } from "./api.js";
import { byId, copyText, h, makeTabs, say } from "./dom.js";

export function makeDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector("[data-closes]")?.addEventListener("click", () => dialog.close());
    // A click on the backdrop is one on the dialog itself, outside of what it holds.
    dialog.addEventListener("click", (event) => event.target === dialog && outside(dialog, event) && dialog.close());
  }
}

function outside(dialog, { clientX, clientY }) {
  const { left, right, top, bottom } = dialog.getBoundingClientRect();
  return clientX < left || clientX > right || clientY < top || clientY > bottom;
}

/** Asks for the key; `given` is called when there is one. */
export function keyDialog(given) {
  const dialog = byId("key-dialog");
  const input = byId("key");
  const usable = /^[\x21-\x7e]+$/; // what a header holds
  input.addEventListener("input", () => {
    const value = input.value.trim();
    input.setCustomValidity(!value || usable.test(value) ? "" : "A key has no spaces and plain characters only.");
  });
  byId("key-later").addEventListener("click", () => dialog.close());
  byId("key-form").addEventListener("submit", () => {
    key.set(input.value.trim());
    input.value = "";
    given();
  });
  return () => {
    if (dialog.open) return;
    byId("key-title").textContent = key.get() ? "The server does not know this key" : "This server wants an API key";
    key.set("");
    dialog.showModal();
  };
}

// Images and sounds are copied and saved whole, but nobody reads them.
const shortened = (text) => text.replace(/[A-Za-z0-9+/]{400,}={0,2}/g, (long) => `${long.slice(0, 40)}… (${long.length.toLocaleString("en")} characters)`);

/** make: gives {json, curl} as texts. */
export function exportDialog(make) {
  const dialog = byId("export-dialog");
  const shown = byId("export-text");
  let texts = { json: "", curl: "" };
  let kind = "json";
  makeTabs(dialog.querySelector('[role="tablist"]'), (tab) => {
    kind = tab.id === "tab-curl" ? "curl" : "json";
    byId("export-pane").setAttribute("aria-labelledby", tab.id);
    shown.textContent = shortened(texts[kind]);
  });
  const copy = byId("export-copy");
  copy.addEventListener("click", async () => {
    try {
      await copyText(texts[kind]);
      copy.textContent = "Copied";
      say("Copied.");
    } catch {
      copy.textContent = "Could not copy";
    }
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  byId("export-save").addEventListener("click", () => {
    const url = URL.createObjectURL(new Blob([texts[kind]], { type: "text/plain" }));
    h("a", { href: url, download: kind === "json" ? "conversation.json" : "request.sh" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  });
  return () => {
    texts = make();
    shown.textContent = shortened(texts[kind]);
    dialog.showModal();
  };
}

// Keys that work anywhere on the page.

import { byId, h } from "./dom.js";

const SHORTCUTS = [
  ["Enter", "send"],
  ["Shift Enter", "new line"],
  ["Esc", "stop the answer"],
  ["↑", "in an empty message: edit the last one"],
  ["/ or Ctrl K", "go to the message"],
  ["Ctrl ,", "settings"],
  ["Alt N", "new conversation"],
  ["Alt E", "export"],
  ["?", "these shortcuts"],
];

const APPLE = /Mac|iPhone|iPad/.test(navigator.platform);

export function makeKeyboard({ stop, focus, panel, clear, exported }) {
  const dialog = byId("help-dialog");
  for (const [keys, what] of SHORTCUTS) {
    const parts = keys.split(" ").map((part) => (part === "or" ? " or " : h("kbd", {}, APPLE ? part.replace("Ctrl", "⌘").replace("Alt", "⌥") : part)));
    byId("keys").append(h("div", {}, h("dt", {}, parts), h("dd", {}, what)));
  }
  const help = () => dialog.showModal();
  byId("help").addEventListener("click", help);

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest?.("input:not([type=checkbox], [type=range]), textarea, select");
    const command = event.ctrlKey || event.metaKey;
    const does = (action) => (event.preventDefault(), action());
    if (event.key === "Escape") stop();
    else if (command && event.key.toLowerCase() === "k") does(focus);
    else if (command && event.key === ",") does(panel);
    else if (event.altKey && event.code === "KeyN") does(clear);
    else if (event.altKey && event.code === "KeyE") does(exported);
    else if (command || event.altKey || typing) return;
    else if (event.key === "/") does(focus);
    else if (event.key === "?") does(help);
  });
}

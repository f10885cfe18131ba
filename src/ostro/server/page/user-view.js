// One message of the user, which can be changed and sent again.

import { copyButton, growing, h, iconButton } from "./dom.js";

/** resend: called with the changed text; false where it cannot be sent now. */
export function userView(item, resend) {
  const shown = h("div", { class: "said-text" }, item.text);
  const buttons = h("div", { class: "actions" }, copyButton("Copy message", () => item.text), iconButton("edit", "Edit message", () => edit()));
  const element = h("article", { class: "user", "aria-label": "You" }, shown, buttons);

  function edit() {
    const area = h("textarea", { "aria-label": "Edit message", value: item.text, rows: "1", onkeydown: keys });
    const form = h("form", { class: "edit", onsubmit: (event) => (event.preventDefault(), done(area.value)) }, area,
      h("div", { class: "ends" },
        h("button", { type: "button", class: "quiet small", onclick: () => done(null) }, "Cancel"),
        h("button", { type: "submit", class: "main small" }, "Send again")));
    element.replaceChildren(form);
    growing(area);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  function keys(event) {
    if (event.key === "Escape") {
      event.stopPropagation();
      done(null);
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      done(event.target.value);
    }
  }

  function done(text) {
    if (text?.trim() && !resend(text)) return; // and nothing of the change is lost
    element.replaceChildren(shown, buttons);
    if (!text?.trim()) buttons.lastChild.focus();
  }

  return { element, edit };
}

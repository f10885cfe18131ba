// One message of the user, with what is attached, which can be changed and sent again.

import { copyButton, growing, h, iconButton } from "./dom.js";
import { mediaView } from "./media-view.js";

/** item: {text, media}. resend: called with the changed text; false where it cannot be sent now. */
export function userView(item, resend) {
  const views = item.media.map(mediaView);
  const media = views.length > 0 && h("div", { class: "media" }, views.map((view) => view.element));
  const text = item.text.trim() && h("div", { class: "said-text" }, item.text);
  const buttons = h("div", { class: "actions" }, text && copyButton("Copy message", () => item.text), iconButton("edit", "Edit message", () => edit()));
  const shown = [media, text, buttons].filter(Boolean);
  const element = h("article", { class: "user", "aria-label": "You" }, shown);
  const sendable = (changed) => changed?.trim() || (changed !== null && media);

  function edit() {
    const area = h("textarea", { "aria-label": "Edit message", value: item.text, rows: "1", onkeydown: keys });
    const form = h("form", { class: "edit", onsubmit: (event) => (event.preventDefault(), done(area.value)) }, area,
      h("div", { class: "ends" },
        h("button", { type: "button", class: "quiet small", onclick: () => done(null) }, "Cancel"),
        h("button", { type: "submit", class: "main small" }, "Send again")));
    element.replaceChildren(...[media, form].filter(Boolean));
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

  function done(changed) {
    if (sendable(changed) && !resend(changed)) return; // and nothing of the change is lost
    element.replaceChildren(...shown);
    if (!sendable(changed)) buttons.lastChild.focus();
  }

  return { element, edit, leave: () => views.forEach((view) => view.leave()) };
}

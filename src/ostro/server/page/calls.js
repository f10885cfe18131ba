// Tool calls as cards that fill as the arguments come, then ask for the results.

import { growing, h, icon } from "./dom.js";
import { parseJson } from "./formats.js";

const tidy = (text) => {
  const { value, problem } = parseJson(text || "{}");
  return problem ? text : JSON.stringify(value, null, 2);
};

/** Cards of an answer's calls. goOn: what follows when every call has its result; mayGoOn: whether it can. */
export function callCards(answer, { mayGoOn, goOn }) {
  const element = h("form", { class: "calls", hidden: true });
  const cards = [];
  let button = null;

  element.addEventListener("submit", (event) => {
    event.preventDefault();
    const missing = cards.find((card) => !card.area.value.trim());
    if (missing) {
      missing.area.setAttribute("aria-invalid", "true");
      missing.area.focus();
      return;
    }
    if (!mayGoOn()) return;
    cards.forEach((card, at) => {
      answer.calls[at].result = card.area.value;
      card.area.readOnly = true;
    });
    button.remove();
    goOn();
  });

  function make(at) {
    const name = h("code", { class: "call-name" });
    const id = h("span", { class: "call-id" });
    const text = h("pre", { class: "call-arguments", tabindex: "0", role: "region", "aria-label": "Arguments" });
    const give = h("div", { class: "field call-result", hidden: true });
    element.append(h("section", { class: "call" }, h("header", {}, icon("tool"), name, id), text, give));
    return { name, id, text, give, area: null, at };
  }

  function paint() {
    element.hidden = !answer.calls.length;
    answer.calls.forEach((call, at) => {
      cards[at] ??= make(at);
      cards[at].name.textContent = call.name;
      cards[at].id.textContent = call.id;
      cards[at].text.textContent = call.arguments;
    });
  }

  function finish() {
    if (!answer.calls.length || answer.error || answer.stopped || answer.finish === "length") return;
    cards.forEach((card, at) => {
      const call = answer.calls[at];
      const id = `result-${call.id}-${Math.random().toString(36).slice(2, 8)}`;
      card.text.textContent = tidy(call.arguments);
      card.area = h("textarea", {
        id, class: "code", rows: "1", spellcheck: "false", placeholder: '{"…": …} or any text',
        oninput: () => card.area.removeAttribute("aria-invalid"),
        onkeydown: (event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          element.requestSubmit();
        },
      });
      card.give.append(h("label", { for: id }, `Result of ${call.name}`), card.area);
      card.give.hidden = false;
      growing(card.area);
    });
    button = h("button", { type: "submit", class: "main small" }, cards.length > 1 ? "Send results" : "Send result");
    element.append(button);
    const prompt = document.getElementById("prompt");
    if (document.activeElement === prompt && !prompt.value) cards[0].area.focus();
  }

  /** The conversation goes on without results, so without these calls. */
  function leave() {
    if (!button?.isConnected) return;
    button.replaceWith(h("p", { class: "note" }, "No result was given: the model is not sent this call again."));
    for (const card of cards) card.give.hidden = true;
  }

  return { element, paint, finish, leave };
}

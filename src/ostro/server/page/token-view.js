// Tokens of an answer, shaded by how likely each was; the one that is pointed at shows its rivals.

import { h } from "./dom.js";

const percent = (logprob) => {
  const share = Math.exp(logprob) * 100;
  return share >= 99.95 ? "100%" : share >= 0.1 ? `${share.toFixed(1)}%` : share > 0 ? "<0.1%" : "0%";
};

/** A token with its white space made visible. */
export function visible(token) {
  if (token === "") return "∅";
  return token.replaceAll(" ", "·").replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍");
}

/** Seven steps from certain to unlikely, by the probability. */
function step(logprob) {
  const share = Math.exp(logprob);
  return [0.95, 0.8, 0.6, 0.4, 0.2, 0.05].findIndex((edge) => share >= edge) + 1 || 7;
}

export function tokenView(tokens) {
  const detail = h("div", { class: "token-detail", "aria-live": "polite" });
  const spans = tokens.map((token, at) =>
    h("span", {
      class: `token p${step(token.logprob)}`, role: "option", tabindex: at ? "-1" : "0", "data-at": at,
      "aria-selected": "false", "aria-label": `${visible(token.token)}, ${percent(token.logprob)}`,
    }, visible(token.token)));
  const flow = h("div", { class: "token-flow", role: "listbox", "aria-label": "Tokens; arrow keys move", "aria-orientation": "horizontal" });
  spans.forEach((span, at) => {
    flow.append(span);
    if (tokens[at].token.includes("\n")) flow.append(h("br"));
  });

  let chosen = null;
  const choose = (at) => {
    if (chosen === at) return;
    if (chosen !== null) {
      spans[chosen].setAttribute("aria-selected", "false");
      spans[chosen].tabIndex = -1;
    }
    chosen = at;
    spans[at].setAttribute("aria-selected", "true");
    spans[at].tabIndex = 0;
    detail.replaceChildren(...rivals(tokens[at], at, tokens.length));
  };
  const at = (event) => {
    const span = event.target.closest?.("[data-at]");
    return span ? Number(span.dataset.at) : null;
  };
  for (const kind of ["mouseover", "focusin", "click"]) {
    flow.addEventListener(kind, (event) => at(event) !== null && choose(at(event)));
  }
  flow.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: chosen + 1, ArrowLeft: chosen - 1, ArrowDown: chosen + 10, ArrowUp: chosen - 10, Home: 0, End: spans.length - 1 };
    if (moves[event.key] === undefined) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(spans.length - 1, moves[event.key]));
    choose(to);
    spans[to].focus();
  });
  if (tokens.length) choose(0);
  return h("div", { class: "tokens" }, legend(), flow, detail);
}

function legend() {
  const steps = [1, 2, 3, 4, 5, 6, 7].map((number) => h("i", { class: `token p${number}` }));
  return h("div", { class: "token-legend", "aria-hidden": "true" }, "certain", h("span", {}, steps), "unlikely");
}

function rivals(token, at, count) {
  const top = token.top_logprobs ?? [];
  const all = top.some((rival) => rival.token === token.token) ? top : [token, ...top];
  const rows = all.map((rival) => {
    const bar = h("span", { class: "bar-fill" });
    bar.style.setProperty("--share", Math.exp(rival.logprob));
    const own = rival.token === token.token;
    return h("li", { class: own ? "own" : "" }, h("code", {}, visible(rival.token)), h("span", { class: "bar-track" }, bar),
      h("span", { class: "number" }, percent(rival.logprob)), own && h("span", { class: "unseen" }, "(chosen)"));
  });
  const bytes = token.bytes?.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return [
    h("p", {}, `Token ${at + 1} of ${count}, log-probability ${token.logprob.toFixed(3)}`, bytes && h("span", { class: "bytes" }, `bytes ${bytes}`)),
    h("ol", { class: "rivals" }, rows),
  ];
}

// Labels of an input with their probabilities, a table for each group.

import { h } from "./dom.js";

const SHOWN = 5;

const percent = (score) => (score > 0 && score < 0.001 ? "<0.1%" : `${(score * 100).toFixed(1)}%`);

/** labels: [{label, score, group}], as the server gives them. */
export function labelView(labels) {
  const groups = new Map();
  for (const one of labels) groups.set(one.group, [...(groups.get(one.group) ?? []), one]);
  return h("div", { class: "labels", role: "group", "aria-label": "Labels" }, [...groups].map(([group, members]) => table(group, members)));
}

function table(group, members) {
  const rows = members.toSorted((one, other) => other.score - one.score).map(row);
  const rest = rows.slice(SHOWN);
  for (const hidden of rest) hidden.hidden = true;
  const all = h("button", { type: "button", class: "link", onclick: () => {
    for (const hidden of rest) hidden.hidden = false;
    all.remove();
    rest[0].tabIndex = -1;
    rest[0].focus();
  } }, `All ${rows.length}`);
  return h("div", { class: "label-group" }, h("table", {}, h("caption", {}, group), h("tbody", {}, rows)), rest.length > 0 && all);
}

function row({ label, score }, at) {
  const bar = h("span", { class: "bar-fill" });
  bar.style.setProperty("--share", score);
  return h("tr", { class: at ? "" : "own" },
    h("th", { scope: "row" }, label),
    h("td", { class: "label-bar", "aria-hidden": "true" }, h("span", { class: "bar-track" }, bar)),
    h("td", { class: "number" }, percent(score)));
}

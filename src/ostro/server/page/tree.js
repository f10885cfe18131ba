// A JSON value as a tree that opens and closes.

import { h } from "./dom.js";

const MOST_NODES = 2000;
const OPEN_DEPTH = 3;

export function tree(value) {
  let left = MOST_NODES;

  function node(name, item, depth) {
    left -= 1;
    const label = name === null ? [] : [h("span", { class: "tree-name" }, String(name)), h("span", { class: "tree-mark" }, ": ")];
    if (item === null || typeof item !== "object") {
      const kind = item === null ? "null" : typeof item;
      return h("div", { class: "tree-leaf" }, label, h("span", { class: `tree-${kind}` }, JSON.stringify(item)));
    }
    const entries = Object.entries(item);
    const list = Array.isArray(item);
    const count = list ? `[${entries.length}]` : `{${entries.length}}`;
    if (!entries.length) return h("div", { class: "tree-leaf" }, label, h("span", { class: "tree-mark" }, list ? "[]" : "{}"));
    const inside = [];
    for (const [key, part] of entries) {
      if (left <= 0) {
        inside.push(h("div", { class: "tree-leaf tree-mark" }, "… more than fits here; copy the answer to see it all"));
        break;
      }
      inside.push(node(list ? Number(key) : key, part, depth + 1));
    }
    return h("details", { open: depth < OPEN_DEPTH }, h("summary", {}, label, h("span", { class: "tree-mark" }, count)), h("div", { class: "tree-in" }, inside));
  }

  return h("div", { class: "tree" }, node(null, value, 0));
}

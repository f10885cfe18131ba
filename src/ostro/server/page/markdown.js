// A little of Markdown, made of elements and text nodes only: markup in an answer is shown, never run.

import { copyButton, h } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,}\s*$/;
const ROW = /^ {0,3}\|.*\|\s*$/;
const DIVIDER = /^ {0,3}\|(\s*:?-+:?\s*\|)+\s*$/;
const QUOTE = /^ {0,3}> ?/;
const INLINE = /``([^\n]+?)``|`([^`\n]+)`|\*\*(?=\S)([^*\n]+?)\*\*|\*(?=[^\s*])([^*\n]+?)\*/g;
const MOST_QUOTES = 8;

/** Top-level blocks of a text as {kind, lines, …}. A fence that is still open runs to the end. */
export function blocksOf(text) {
  const lines = text.split("\n");
  const blocks = [];
  let at = 0;
  const run = (test) => {
    const from = at;
    while (at < lines.length && test(lines[at], at - from)) at += 1;
    return lines.slice(from, at);
  };
  const starts = (line) => FENCE.test(line) || HEADING.test(line) || ITEM.test(line) || QUOTE.test(line) || RULE.test(line);
  while (at < lines.length) {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      at += 1;
      const closes = (inner) => inner.trim().startsWith(fence[1]) && !inner.trim().slice(fence[1].length).replaceAll(fence[1][0], "").trim();
      blocks.push({ kind: "code", language: fence[2], lines: run((inner) => !closes(inner)) });
      at += 1;
    } else if (RULE.test(line)) {
      blocks.push({ kind: "rule", lines: [lines[at++]] });
    } else if (HEADING.test(line)) {
      blocks.push({ kind: "heading", lines: [lines[at++]] });
    } else if (QUOTE.test(line)) {
      blocks.push({ kind: "quote", lines: run((inner) => QUOTE.test(inner)) });
    } else if (ROW.test(line) && DIVIDER.test(lines[at + 1] ?? "")) {
      blocks.push({ kind: "table", lines: run((inner) => ROW.test(inner)) });
    } else if (ITEM.test(line)) {
      blocks.push({ kind: "list", lines: run((inner) => ITEM.test(inner) || /^\s+\S/.test(inner)) });
    } else {
      blocks.push({ kind: "text", lines: run((inner, count) => inner.trim() && (!count || !starts(inner))) });
    }
  }
  return blocks;
}

/** Show a text in `container`. Called again as the text grows, it only makes the blocks anew that changed. */
export function render(container, text) {
  const blocks = blocksOf(text);
  const keys = blocks.map((block) => JSON.stringify(block));
  const old = container.renderedKeys ?? [];
  let same = 0;
  while (same < keys.length && keys[same] === old[same]) same += 1;
  while (container.childNodes.length > same) container.lastChild.remove();
  for (const block of blocks.slice(same)) container.append(element(block, 0));
  container.renderedKeys = keys;
}

function element(block, depth) {
  const text = block.lines.join("\n");
  switch (block.kind) {
    case "code":
      return h("div", { class: "code-block" },
        h("div", { class: "code-head" }, h("span", {}, block.language || "text"), copyButton("Copy code", () => text)),
        h("pre", { tabindex: "0" }, h("code", {}, text)));
    case "rule":
      return h("hr");
    case "heading": {
      const [, marks, title] = HEADING.exec(text);
      // The page's own headings come first: an answer's begin at the third level.
      return h(`h${Math.min(6, marks.length + 2)}`, {}, inline(title));
    }
    case "quote": {
      const inner = block.lines.map((line) => line.replace(QUOTE, "")).join("\n");
      if (depth >= MOST_QUOTES) return h("blockquote", {}, inner);
      return h("blockquote", {}, blocksOf(inner).map((part) => element(part, depth + 1)));
    }
    case "list":
      return list(block.lines);
    case "table":
      return table(block.lines);
    default:
      return h("p", {}, inline(text));
  }
}

function table([head, , ...rows]) {
  // A bar with a backslash before it belongs to its cell.
  const cells = (line) => line.trim().slice(1, -1).split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const columns = cells(head);
  const body = rows.map((line) => {
    const found = cells(line);
    return h("tr", {}, columns.map((_, at) => h("td", {}, inline(found[at] ?? ""))));
  });
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
    h("table", {}, h("thead", {}, h("tr", {}, columns.map((cell) => h("th", {}, inline(cell))))), h("tbody", {}, body)));
}

function list(lines) {
  const stack = [];
  let root = null;
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (!item) {
      stack.at(-1).list.lastChild.append("\n", ...inline(line.trim()));
      continue;
    }
    const [, indent, mark, text] = item;
    while (stack.length > 1 && indent.length < stack.at(-1).indent) stack.pop();
    if (!stack.length || indent.length > stack.at(-1).indent + 1) {
      const numbered = /\d/.test(mark);
      const made = h(numbered ? "ol" : "ul", numbered ? { start: Number.parseInt(mark, 10) } : {});
      if (stack.length) stack.at(-1).list.lastChild.append(made);
      else root = made;
      stack.push({ indent: indent.length, list: made });
    }
    stack.at(-1).list.append(h("li", {}, inline(text)));
  }
  return root;
}

function inline(text) {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, twice, once, bold, slanted] = match;
    if (match.index > from) parts.push(text.slice(from, match.index));
    if (twice ?? once) parts.push(h("code", {}, twice ?? once));
    else if (bold) parts.push(h("strong", {}, inline(bold)));
    else parts.push(h("em", {}, inline(slanted)));
    from = match.index + whole.length;
  }
  parts.push(text.slice(from));
  return parts;
}

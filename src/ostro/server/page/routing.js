// How a model weighed what it looked at: factors on attention, by layer, by who looks and by what is seen.

import { infer } from "./api.js";
import { draw, h, say } from "./dom.js";
import { inputsOf } from "./media.js";

const CELL = 34;
const LEFT = 44; // room for the names of rows
const TOP = 18; // and of columns
const LEAST_DOUBLINGS = 1;
const MOST_DOUBLINGS = 10;

/** A disclosure that asks once, when it is opened. question: {text, media}, the message that is looked at. */
export function routingView(model, question) {
  const inside = h("div", { class: "routing-in" });
  let asked = false;

  async function ask() {
    asked = true;
    inside.replaceChildren(h("p", { class: "note" }, "Asking the model."));
    try {
      const inputs = inputsOf(question);
      if (!inputs) throw new Error("Routing is shown for messages with one series at most.");
      const body = { model, inputs, max_tokens: 1, return_routing: true };
      const { routing } = await infer(body);
      inside.replaceChildren(...(routing?.layers.length ? picture(routing) : [h("p", { class: "note" }, "This model does not route its attention.")]));
      say("How attention was routed is shown.");
    } catch (error) {
      asked = false; // closed and opened, it asks again
      inside.replaceChildren(h("p", { class: "note" }, error.message));
      say(error.message);
    }
  }

  return h("details", { class: "routing", ontoggle: (event) => event.currentTarget.open && !asked && ask() },
    h("summary", {}, "How attention was routed"), inside);
}

const factor = (value) => `× ${Number(value.toPrecision(3))}`;

/** How far from 1, in doublings. */
const distance = (value) => Math.min(MOST_DOUBLINGS, Math.abs(Math.log2(value)));

function inWords(value) {
  if (distance(value) < 0.015) return "as without routing";
  return value > 1 ? "more than without routing" : "less than without routing";
}

/** routing: {senses, layers}; layers[layer][who looks][what is seen], 1 where nothing is changed. */
function picture({ senses, layers }) {
  // So many doublings up and down have colours; whole ones, so that pictures can be compared.
  const scale = Math.max(LEAST_DOUBLINGS, Math.ceil(Math.max(...layers.flat(2).map(distance)) - 0.01));
  const detail = h("p", { class: "routing-detail", "aria-live": "polite" });
  const cells = [];
  const maps = layers.map((rows, layer) => heatMap(rows, layer, senses, scale, cells));
  const group = h("div", { class: "routing-maps", role: "group", "aria-label": "Heat maps by layer; arrow keys move" }, maps);
  choosing(group, cells, senses.length, (cell) => (detail.textContent = cell.getAttribute("aria-label")));
  return [
    h("p", { class: "note" }, "Of the message alone, asked once more: rows look, columns are seen. A factor of 1 changes nothing."),
    legend(scale), group, detail,
    h("details", { class: "routing-table" }, h("summary", {}, "As a table"), table(senses, layers)),
  ];
}

function heatMap(rows, layer, senses, scale, cells) {
  const side = senses.length * CELL;
  const middle = (at) => at * CELL + CELL / 2;
  const svg = draw("svg", { viewBox: `0 0 ${LEFT + side} ${TOP + side}`, width: LEFT + side, height: TOP + side, class: "routing-map" });
  senses.forEach((sense, at) => {
    svg.append(
      draw("text", { x: LEFT + middle(at), y: TOP - 6, "text-anchor": "middle", "aria-hidden": "true" }, sense),
      draw("text", { x: LEFT - 6, y: TOP + middle(at), "text-anchor": "end", "dominant-baseline": "central", "aria-hidden": "true" }, sense),
    );
  });
  rows.forEach((row, looking) => row.forEach((value, seen) => {
    const cell = draw("rect", {
      x: LEFT + seen * CELL + 1, y: TOP + looking * CELL + 1, width: CELL - 2, height: CELL - 2, rx: 4, tabindex: -1, role: "img",
      class: value > 1 ? "more" : "less", "data-at": cells.length,
      "aria-label": `Layer ${layer + 1}: ${senses[looking]} looks at ${senses[seen]}, ${factor(value)}: ${inWords(value)}`,
    });
    cell.style.setProperty("--share", Math.min(1, distance(value) / scale).toFixed(3));
    cells.push(cell);
    svg.append(cell);
  }));
  return h("figure", {}, h("figcaption", {}, `Layer ${layer + 1}`), svg);
}

/** One tab stop for all cells; arrows move, as pointing does. */
function choosing(group, cells, columns, chosen) {
  let at = 0;
  const choose = (to) => {
    cells[at].setAttribute("tabindex", -1);
    cells[at].classList.remove("chosen");
    at = to;
    cells[at].setAttribute("tabindex", 0);
    cells[at].classList.add("chosen");
    chosen(cells[at]);
  };
  for (const kind of ["mouseover", "focusin", "click"]) {
    group.addEventListener(kind, (event) => event.target.dataset?.at && choose(Number(event.target.dataset.at)));
  }
  group.addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: cells.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(cells.length - 1, to)));
    cells[at].focus();
  });
  choose(0);
}

function legend(scale) {
  const ends = [`× 1/${2 ** scale}`, "× 1", `× ${2 ** scale}`].map((text) => h("span", {}, text));
  return h("div", { class: "routing-legend" }, h("span", { class: "routing-ramp", "aria-hidden": "true" }), h("span", { class: "routing-ends" }, ends));
}

function table(senses, layers) {
  const head = ["Layer", "Who looks", ...senses.map((sense) => `at ${sense}`)].map((text) => h("th", { scope: "col" }, text));
  const rows = layers.flatMap((layer, number) => layer.map((row, looking) =>
    h("tr", {}, h("td", {}, number + 1), h("th", { scope: "row" }, senses[looking]), row.map((value) => h("td", { class: "number" }, factor(value))))));
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Factors on attention" },
    h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows)));
}

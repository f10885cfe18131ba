// Small charts of the last minutes, drawn as lines over time.

import { draw, h } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 100;
const MOST_POINTS = 300;
// A chart that has just begun shows this many, so that its line does not fill it at once.
const LEAST_POINTS = 60;
const COLOURS = 6;

/** A chart of named series. unit: how a value is written. full: the highest value that there is, where there is one. */
export class Chart {
  constructor(title, unit, full = null) {
    this.unit = unit;
    this.full = full;
    this.series = new Map();
    this.times = [];
    this.most = h("span", { class: "most" });
    this.svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.svg.setAttribute("aria-label", title);
    this.legend = h("ul");
    this.element = h("figure", { class: "chart" }, h("h3", {}, title, this.most), this.svg, this.legend);
  }

  /** values: by series; those that are null or left out have a gap. */
  add(at, values) {
    this.times.push(at);
    for (const name of Object.keys(values)) {
      if (!this.series.has(name)) this.series.set(name, Array(this.times.length - 1).fill(null));
    }
    for (const [name, points] of this.series) points.push(values[name] ?? null);
    if (this.times.length > MOST_POINTS) {
      this.times.shift();
      for (const points of this.series.values()) points.shift();
    }
    this.show();
  }

  show() {
    const all = [...this.series.values()].flat().filter((value) => value !== null);
    const most = this.full ?? (Math.max(...all, 0) || 1);
    this.most.textContent = all.length ? `most ${this.unit(Math.max(...all, 0))}` : "";
    const lines = [...this.series.values()].map((points, index) =>
      draw("path", { class: `line c${index % COLOURS}`, d: path(points, most) }),
    );
    const grid = [0, 0.5, 1].map((part) =>
      draw("line", { class: "grid", x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part }),
    );
    this.svg.replaceChildren(...grid, ...lines);
    this.legend.replaceChildren(
      ...[...this.series].map(([name, points], index) => {
        const last = points.at(-1);
        return h("li", { class: `c${index % COLOURS}` }, `${name} `, h("span", {}, last === null ? "–" : this.unit(last)));
      }),
    );
  }
}

/** The line of some points, with gaps where there are none. */
export function path(points, most) {
  const room = Math.max(LEAST_POINTS, points.length);
  const step = WIDTH / (room - 1);
  const start = room - points.length;
  let drawn = "";
  let begun = false;
  points.forEach((value, index) => {
    if (value === null) {
      begun = false;
      return;
    }
    const x = ((start + index) * step).toFixed(1);
    const y = (HEIGHT - (value / most) * HEIGHT).toFixed(1);
    drawn += `${begun ? "L" : "M"}${x} ${y}`;
    begun = true;
  });
  return drawn;
}

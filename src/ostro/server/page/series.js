// Series of numbers from files: read as `ostro run --series` reads them, and drawn.

import { draw } from "./dom.js";

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;
const BETWEEN = /\s*[,;\t]\s*|\s+/;
const MOST_POINTS = 300; // of a drawing: more are not told apart

/** In words, why a text is no series. */
export class SeriesProblem extends Error {}

/**
 * Numbers of a text, in order: one a line, the first of which may be a heading; all in one line; or JSON, a list or
 * {"values": […]}. Throws SeriesProblem, also for several columns: which of them was meant is not guessed.
 */
export function readSeries(source) {
  const text = source.replace(/^\ufeff/, "").trim();
  if (!text) throw new SeriesProblem("it is empty");
  const values = /^[[{]/.test(text) ? fromJson(text) : fromLines(text);
  if (!values.length) throw new SeriesProblem("it holds no numbers");
  const odd = values.findIndex((value) => typeof value !== "number" || !Number.isFinite(value));
  if (odd >= 0) throw new SeriesProblem(`its value ${odd + 1} is no finite number`);
  return values;
}

function fromJson(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new SeriesProblem("it begins like JSON and is none");
  }
  const values = Array.isArray(found) ? found : found?.values;
  if (!Array.isArray(values)) throw new SeriesProblem("its JSON is no list of numbers");
  return values;
}

function fromLines(text) {
  const lines = text.split(/\r\n?|\n/).map((line, at) => [at + 1, cellsOf(line)]).filter(([, cells]) => cells.some(Boolean));
  if (lines.length > 1) {
    const wide = lines.find(([, cells], at) => cells.length > 1 && (at || NUMBER.test(cells[0])));
    if (wide) throw new SeriesProblem(`its line ${wide[0]} has ${wide[1].length} numbers or columns; one series is one column, or one line`);
    if (!NUMBER.test(lines[0][1][0])) lines.shift();
  }
  return lines.flatMap(([number, cells]) => cells.map((cell) => {
    if (!NUMBER.test(cell)) throw new SeriesProblem(`"${cell.slice(0, 40)}" in its line ${number} is no number`);
    return Number(cell);
  }));
}

/** Without the quotes of spreadsheets, and without an empty cell at the end. */
function cellsOf(line) {
  const cells = line.trim().split(BETWEEN).map((cell) => cell.replace(/^["']+|["']+$/g, ""));
  return cells.length > 1 && !cells.at(-1) ? cells.slice(0, -1) : cells;
}

/** A line through the values; of long series through the least and the most of each piece, so that no spike is lost. */
export function seriesLine(values, width, height) {
  const points = thinned(values);
  const [low, high] = points.reduce(([least, most], [, value]) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
  const across = (at) => (values.length > 1 ? (at / (values.length - 1)) * width : width / 2);
  // Halved before they are subtracted: the largest numbers there are have no difference.
  const down = (value) => (high > low ? height - ((value / 2 - low / 2) / (high / 2 - low / 2)) * height : height / 2);
  const path = points.map(([at, value], index) => `${index ? "L" : "M"}${across(at).toFixed(1)} ${down(value).toFixed(1)}`).join("");
  const line = values.length > 1
    ? draw("path", { d: path, "vector-effect": "non-scaling-stroke" })
    : draw("circle", { cx: width / 2, cy: height / 2, r: 2 });
  return draw("svg", { viewBox: `-2 -2 ${width + 4} ${height + 4}`, preserveAspectRatio: "none", class: "series-line", "aria-hidden": "true" }, line);
}

function thinned(values) {
  const all = values.map((value, at) => [at, value]);
  const piece = Math.ceil((2 * values.length) / MOST_POINTS);
  if (piece <= 2) return all;
  const points = [];
  for (let start = 0; start < all.length; start += piece) {
    const part = all.slice(start, start + piece);
    const least = part.reduce((one, other) => (other[1] < one[1] ? other : one));
    const most = part.reduce((one, other) => (other[1] > one[1] ? other : one));
    points.push(...[least, most].sort(([one], [other]) => one - other));
  }
  return points;
}

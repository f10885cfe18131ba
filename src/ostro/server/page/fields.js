// The sampling controls: what they are called, what they may be, what they mean when empty.

const REAL = "a number";
const WHOLE = "a whole number";

export const FIELDS = [
  { name: "temperature", label: "Temperature", kind: REAL, min: 0, max: 100, slide: [0, 2, 0.05], empty: 1, hint: "0 always takes the likeliest token." },
  { name: "top_p", label: "Top p", kind: REAL, min: 0, max: 1, above: true, slide: [0.05, 1, 0.05], empty: 1, hint: "Likeliest tokens that together hold this share." },
  { name: "min_p", label: "Min p", kind: REAL, min: 0, max: 1, slide: [0, 1, 0.01], empty: 0, hint: "Least likelihood beside the likeliest token." },
  { name: "presence_penalty", label: "Presence penalty", kind: REAL, min: -2, max: 2, slide: [-2, 2, 0.1], empty: 0, hint: "Against tokens that were said." },
  { name: "frequency_penalty", label: "Frequency penalty", kind: REAL, min: -2, max: 2, slide: [-2, 2, 0.1], empty: 0, hint: "Against tokens, by how often they were said." },
  { name: "top_k", label: "Top k", kind: WHOLE, min: 0, max: 2 ** 31 - 1, empty: "all", hint: "Likeliest tokens kept; 0 is all." },
  { name: "max_tokens", label: "Max tokens", kind: WHOLE, min: 1, max: 2 ** 31 - 1, empty: "fits", hint: "Per answer." },
  { name: "seed", label: "Seed", kind: WHOLE, min: Number.MIN_SAFE_INTEGER, max: Number.MAX_SAFE_INTEGER, empty: "random", hint: "Same seed, same answer." },
];

const MAX_STOPS = 16;
const MAX_STOP_LENGTH = 256;

/** What a field's text means: {value}, {} where it is empty, or {problem} in words. */
export function readField(field, text) {
  const trimmed = text.trim();
  if (!trimmed) return {};
  const pattern = field.kind === WHOLE ? /^[+-]?\d+$/ : /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
  const value = Number(trimmed.replace("−", "-"));
  if (!pattern.test(trimmed.replace("−", "-")) || !Number.isFinite(value)) return { problem: `${field.label} must be ${field.kind}.` };
  const tooLow = field.above ? value <= field.min : value < field.min;
  if (!tooLow && value <= field.max) return { value };
  const low = field.above ? `above ${field.min}` : `at least ${field.min}`;
  return { problem: `${field.label} must be ${tooLow ? low : `at most ${field.max}`}.` };
}

/** Stop strings, one a line; \n and \t stand for the characters. */
export function readStops(text) {
  const stops = text.split("\n").filter((line) => line !== "").map((line) => line.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
  if (stops.length > MAX_STOPS) return { problem: `At most ${MAX_STOPS} stop strings are allowed, not ${stops.length}.` };
  if (stops.some((stop) => stop.length > MAX_STOP_LENGTH)) return { problem: `A stop string has at most ${MAX_STOP_LENGTH} characters.` };
  return stops.length ? { value: stops } : {};
}

/** All that was set: {values, problems: {name: words}}. texts: by field name, as they were typed. */
export function readFields(texts) {
  const values = {};
  const problems = {};
  const note = (name, { value, problem }) => {
    if (problem) problems[name] = problem;
    else if (value !== undefined) values[name] = value;
  };
  for (const field of FIELDS) note(field.name, readField(field, texts[field.name] ?? ""));
  note("stop", readStops(texts.stop ?? ""));
  return { values, problems };
}

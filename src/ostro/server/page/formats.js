// What an answer may have to look like: the kinds of response_format, examples of them, and how an answer is judged.

import { check } from "./schema.js";

const SCHEMA = {
  type: "object",
  properties: {
    city: { type: "string" },
    country: { type: "string" },
    inhabitants: { type: "integer", minimum: 0 },
    landmarks: { type: "array", items: { type: "string" }, maxItems: 3 },
  },
  required: ["city", "country", "inhabitants"],
  additionalProperties: false,
};

const GRAMMAR = `start: greeting ", " NAME "!"
greeting: "Hello" | "Good morning"
NAME: /[A-Z][a-z]{2,9}/
`;

export const FORMATS = {
  text: { label: "Text", about: "Whatever the model says." },
  json_object: { label: "JSON object", about: "Any JSON object. Say in the prompt what should be in it." },
  json_schema: {
    label: "JSON by schema",
    about: "JSON that is valid against this schema, by construction.",
    field: "JSON Schema",
    json: true,
    example: JSON.stringify(SCHEMA, null, 2),
  },
  regex: {
    label: "Regular expression",
    about: "Text that matches the whole expression.",
    field: "Expression",
    example: "(Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, [0-3]?[0-9] [A-Z][a-z]+",
  },
  grammar: {
    label: "Grammar",
    about: "Text of a context-free grammar, in Lark's notation (or GBNF).",
    field: "Grammar",
    example: GRAMMAR,
  },
};

/** The response_format of a request: {value}, {} for text, or {problem} in words. */
export function readFormat(kind, text) {
  const format = FORMATS[kind];
  if (!format || kind === "text") return {};
  if (!format.field) return { value: { type: kind } };
  if (!text.trim()) return { problem: `${format.field} is empty.` };
  if (kind !== "json_schema") return { value: { type: kind, [kind]: text } };
  const { value, problem } = parseJson(text);
  if (problem) return { problem: `The schema is not valid JSON: ${problem}` };
  if (value === null || typeof value !== "object" || Array.isArray(value)) return { problem: "A schema is a JSON object." };
  return { value: { type: kind, json_schema: { name: "answer", schema: value, strict: true } } };
}

/** {value} or {problem}, with the line and column where the browser tells the place. */
export function parseJson(text) {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    const at = /position (\d+)/.exec(error.message);
    if (!at || /line \d+/.test(error.message)) return { problem: `${error.message}.` };
    const before = text.slice(0, Number(at[1])).split("\n");
    return { problem: `${error.message} (line ${before.length}, column ${before.at(-1).length + 1}).` };
  }
}

/**
 * Whether an answer is what was asked for: {good, words, value}. good: true, false, or null where the page cannot
 * tell. value: what the JSON holds. Returns null for formats that ask for nothing.
 */
export function judge(format, text) {
  if (!format || format.type === "text") return null;
  if (format.type === "regex") return judgeRegex(format.regex, text);
  if (format.type === "grammar") return { good: null, words: "Shaped by the grammar on the server; not checked again here." };
  const { value, problem } = parseJson(text);
  if (problem) return { good: false, words: `Not valid JSON: ${problem}` };
  if (format.type === "json_object") {
    const good = value !== null && typeof value === "object" && !Array.isArray(value);
    return { good, words: good ? "Valid JSON object" : "Valid JSON, but no object", value };
  }
  const { errors, unknown } = check(format.json_schema.schema, value);
  if (errors.length) return { good: false, words: `Valid JSON, but not by the schema: ${errors.slice(0, 3).join("; ")}`, value };
  if (unknown.length) return { good: null, words: `Valid JSON; not checked here: ${unknown.join(", ")}`, value };
  return { good: true, words: "Valid against the schema", value };
}

function judgeRegex(source, text) {
  let pattern;
  try {
    pattern = new RegExp(`^(?:${source})$`, "su");
  } catch {
    return { good: null, words: "Shaped by the expression on the server; this browser does not know its syntax." };
  }
  const good = pattern.test(text);
  return { good, words: good ? "Matches the expression" : "Does not match the expression" };
}

// The functions that a request offers, and which of them the model is to use.

import { parseJson } from "./formats.js";

export const EXAMPLE = JSON.stringify(
  [
    {
      type: "function",
      function: {
        name: "weather",
        description: "The weather of a city, now.",
        parameters: {
          type: "object",
          properties: { city: { type: "string" }, unit: { type: "string", enum: ["celsius", "fahrenheit"] } },
          required: ["city"],
        },
      },
    },
  ],
  null,
  2,
);

/** {tools, names} from the editor's text, or {problem} in words. */
export function readTools(text) {
  if (!text.trim()) return { problem: "There are no functions yet. The example shows their form." };
  const { value, problem } = parseJson(text);
  if (problem) return { problem: `Not valid JSON: ${problem}` };
  if (!Array.isArray(value) || !value.length) return { problem: "Write a JSON list of functions." };
  const names = value.map((tool) => tool?.function?.name);
  const nameless = names.findIndex((name) => typeof name !== "string" || !name);
  if (nameless >= 0) return { problem: `Function ${nameless + 1} has no name: it belongs at function.name.` };
  return { tools: value, names };
}

/** The fields of a request that are about tools; {} where none are offered. */
export function toolFields({ tools, names }, choice, parallel) {
  const fields = { tools };
  if (choice.startsWith("only ") && names.includes(choice.slice(5))) {
    fields.tool_choice = { type: "function", function: { name: choice.slice(5) } };
  } else if (["none", "required"].includes(choice)) {
    fields.tool_choice = choice;
  }
  if (!parallel) fields.parallel_tool_calls = false;
  return fields;
}

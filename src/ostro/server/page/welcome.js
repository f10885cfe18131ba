// What stands where the conversation will be: questions to begin with, and what the model is.

import { byId, h } from "./dom.js";

const CUSTOMERS = ["I am still waiting on my card?", "Why was I charged a fee abroad?", "The exchange rate on my transfer is wrong."];
const STARTS = { "ostro-nano": CUSTOMERS, "ostro-nano-edge": CUSTOMERS };
const ABILITIES = { function_calling: "call tools", reasoning: "reason", completion_fim: "fill in the middle", vision: "see images", audio: "hear sounds", series: "follow series" };

const ANY_STARTS = ["Explain what a KV cache is in three sentences.", "Write a haiku about a warm wind.", "What can you do?"];

/** start: called with the question that was chosen. */
export function paintWelcome(model, start) {
  if (!model) return;
  const starts = STARTS[model.id] ?? ANY_STARTS;
  byId("starts").replaceChildren(...starts.map((text) => h("button", { type: "button", class: "start", onclick: () => start(text) }, text)));
  const facts = [
    ["model", model.id],
    ["parameters", model.parameters?.toLocaleString("en")],
    ["context", model.max_context_length && `${model.max_context_length.toLocaleString("en")} tokens`],
    ["runs on", model.device && `${model.device}, ${model.dtype}`],
    ["can", Object.keys(ABILITIES).filter((what) => model.capabilities?.[what]).map((what) => ABILITIES[what]).join(", ")],
  ];
  byId("card").replaceChildren(...facts.filter(([, value]) => value).map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value))));
  byId("tools-able").textContent = model.capabilities?.function_calling === false ? "This model's tokenizer has no form for tools: requests with them are refused." : "The model may ask for these functions; you type their results.";
}

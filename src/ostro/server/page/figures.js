// The figures under an answer.

import { h } from "./dom.js";

export function milliseconds(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

const count = (number) => number.toLocaleString("en");

const ENDS = {
  stop: "stop: the model was done",
  length: "length: max tokens or the context was reached",
  tool_calls: "tool_calls: the model asks for results",
};

/** An answer's figures as [label, value, explanation], those that are known. */
export function figuresOf(answer) {
  const figures = [];
  const { usage } = answer;
  if (answer.firstTokenMs !== null) figures.push(["first token", milliseconds(answer.firstTokenMs), "From sending to the first token, seen by this page"]);
  if (answer.rate !== null) figures.push(["speed", `${answer.rate.toFixed(answer.rate < 10 ? 1 : 0)} tok/s`, "Tokens a second after the first, seen by this page"]);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    const thought = usage.completion_tokens_details?.reasoning_tokens ?? 0;
    figures.push(["prompt", `${count(usage.prompt_tokens)}${cached ? ` (${count(cached)} cached)` : ""}`, "Tokens of the prompt"]);
    figures.push(["answer", `${count(usage.completion_tokens)}${thought ? ` (${count(thought)} thought)` : ""}`, "Tokens of the answer"]);
  }
  if (answer.finish) figures.push(["finish", answer.finish, ENDS[answer.finish] ?? ""]);
  else if (answer.stopped) figures.push(["finish", "stopped", "You stopped it"]);
  return figures;
}

export function figureList(answer) {
  return figuresOf(answer).map(([label, value, title]) => h("div", { title }, h("dt", {}, label), h("dd", {}, value)));
}

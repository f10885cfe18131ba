// One answer in the conversation: reasoning, text, calls, labels, verdict, figures, and what can be done with it.

import { copyButton, h, icon, iconButton, say } from "./dom.js";
import { callCards } from "./calls.js";
import { failureView } from "./failure.js";
import { figureList, milliseconds } from "./figures.js";
import { judge } from "./formats.js";
import { labelView } from "./labels.js";
import { render } from "./markdown.js";
import { routingView } from "./routing.js";
import { tokenView } from "./token-view.js";
import { tree } from "./tree.js";

export class AnswerView {
  /**
   * actions: {again(), mayGoOn(), goOn(), show(field), routed()}
   * routed: gives the message whose routing can be looked at; null where the model has none.
   */
  constructor(answer, actions) {
    this.answer = answer;
    this.actions = actions;
    this.thinking = h("summary", {}, "Thinking…");
    this.thought = h("div", { class: "thought-text" });
    this.reasoning = h("details", { class: "thought", hidden: true }, this.thinking, this.thought);
    this.wait = h("p", { class: "wait" }, h("span", { class: "pulse", "aria-hidden": "true" }), h("span", { class: "wait-words" }, "Waiting for the first token"));
    this.prose = h("div", { class: "prose" });
    this.other = h("div", { class: "other", hidden: true });
    this.calls = callCards(answer, actions);
    this.verdict = h("div", { class: "verdict-slot" });
    this.told = h("div");
    this.failed = h("div");
    this.figures = h("dl", { class: "figures" });
    this.buttons = h("div", { class: "actions" });
    this.element = h("article", { class: "answer streaming", "aria-label": `Answer of ${answer.model}`, "aria-busy": "true" },
      h("p", { class: "who" }, answer.model), this.wait, this.reasoning, this.prose, this.other, this.calls.element, this.verdict, this.told, this.failed,
      h("footer", {}, this.figures, this.buttons));
    this.scheduled = false;
  }

  /** Show what is new, at most once a frame. */
  update() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      if (!this.answer.done) this.paint();
    });
  }

  waiting(words) {
    this.wait.lastChild.textContent = words;
  }

  paint() {
    const { answer } = this;
    this.wait.hidden = answer.firstAt !== null || answer.done;
    this.element.classList.toggle("begun", Boolean(answer.text));
    this.paintReasoning();
    if (answer.body.response_format) this.prose.textContent = answer.text; // it is no Markdown
    else render(this.prose, answer.text);
    this.prose.classList.toggle("plain", Boolean(answer.body.response_format));
    this.calls.paint();
    this.figures.replaceChildren(...figureList(answer));
  }

  paintReasoning() {
    const { answer } = this;
    if (!answer.reasoning) return;
    const first = this.reasoning.hidden;
    this.reasoning.hidden = false;
    if (first) this.reasoning.open = true;
    this.thought.textContent = answer.reasoning.trimStart();
    if ((answer.thoughtAt === null && !answer.done) || this.settled) return;
    // It opens to be watched and closes when the answer proper begins; from then on it is the reader's.
    this.settled = true;
    const end = answer.thoughtAt ?? answer.lastAt;
    this.thinking.textContent = `Thought for ${milliseconds(end - answer.firstAt)}`;
    if (!answer.empty) this.reasoning.open = false;
  }

  finish() {
    const { answer } = this;
    this.paint();
    this.element.classList.remove("streaming");
    this.element.setAttribute("aria-busy", "false");
    this.calls.finish();
    if (answer.error) this.failed.replaceChildren(failureView(answer.error, { retry: this.actions.again, show: this.actions.show }));
    else if (answer.empty && !answer.stopped && !answer.reasoning) this.prose.append(h("p", { class: "note" }, "The answer is empty."));
    if (answer.ignored) this.failed.append(h("p", { class: "note" }, `The server has no use for: ${answer.ignored}.`));
    this.paintVerdict();
    this.paintTold();
    this.offer();
  }

  paintVerdict() {
    const { answer } = this;
    const verdict = answer.text ? judge(answer.body.response_format, answer.text) : null;
    if (!verdict) return;
    const mark = { true: ["check", "good"], false: ["close", "bad"], null: ["warn", "open"] }[verdict.good];
    this.verdict.replaceChildren(h("div", { class: `verdict ${mark[1]}` }, icon(mark[0]), h("span", {}, verdict.words)));
    if (verdict.value !== undefined && verdict.value !== null && typeof verdict.value === "object") {
      this.verdict.append(tree(verdict.value));
    }
  }

  /** What the model tells of its input beside the answer. Only now: below growing text it would move with each line. */
  paintTold() {
    const { answer } = this;
    const question = answer.error ? null : this.actions.routed();
    if (answer.labels.length) this.told.append(labelView(answer.labels));
    if (question) this.told.append(routingView(answer.model, question));
  }

  offer() {
    const { answer } = this;
    const buttons = [];
    if (answer.text) buttons.push(copyButton("Copy answer", () => answer.text));
    if (!answer.error) buttons.push(iconButton("again", "Answer again", this.actions.again));
    if (answer.tokens.length) buttons.push(iconButton("tokens", "Show tokens", (event) => this.toggleTokens(event.currentTarget), { "aria-pressed": "false" }));
    this.buttons.replaceChildren(...buttons);
  }

  toggleTokens(button) {
    const shown = !this.other.hidden;
    if (!shown && !this.other.hasChildNodes()) this.other.append(tokenView(this.answer.tokens));
    this.other.hidden = shown;
    this.prose.hidden = !shown;
    button.setAttribute("aria-pressed", String(!shown));
    say(shown ? "Text" : "Tokens with probabilities");
  }
}

// An error in words: what it was, which field it was about, the request's id, and a way to try again.

import { copyButton, h, icon } from "./dom.js";

const TITLES = {
  0: "No answer came",
  401: "The key was not accepted",
  404: "Not found",
  408: "The request took too long to arrive",
  413: "The request is too large",
  429: "The server is busy",
  503: "The model is not ready",
  504: "Time ran out",
};

function title(error) {
  return TITLES[error.status] ?? (error.status >= 500 ? "The server failed" : "The request was refused");
}

/** retry: what the button does. show: called with a field's name, true where it could be shown. */
export function failureView(error, { retry, show }) {
  const facts = [];
  if (error.param) facts.push(["field", h("button", { type: "button", class: "link mono", onclick: () => show(error.param) }, error.param)]);
  if (error.code) facts.push(["code", h("code", {}, error.code)]);
  if (error.requestId) facts.push(["request id", h("code", {}, error.requestId), copyButton("Copy request id", () => error.requestId)]);
  const again = h("button", { type: "button", class: "quiet small", onclick: retry }, "Try again");
  if ([429, 503].includes(error.status)) countDown(again, Math.ceil(error.retryAfter ?? 1));
  return h("div", { class: "failure" },
    h("p", { class: "failure-title" }, icon("warn"), title(error)),
    h("p", {}, error.message),
    facts.length > 0 && h("dl", { class: "facts" }, facts.map(([label, ...values]) => h("div", {}, h("dt", {}, label), h("dd", {}, values)))),
    again);
}

/** The server said when it makes sense to ask again: the button tells how long that is, and can be pressed before. */
function countDown(button, seconds) {
  const end = performance.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((end - performance.now()) / 1000);
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left > 0 && (button.isConnected || left > seconds - 1)) setTimeout(tick, 250);
  };
  tick();
}

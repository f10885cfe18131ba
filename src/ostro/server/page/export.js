// A conversation to take along: as JSON, and as the command that asks the same.

import { key } from "./api.js";
import { asCurl, bodyOf, readSettings } from "./request.js";
import { settings } from "./settings.js";

/** items: what was said. draft: {text, media}, the message being written. Gives {json, curl}. */
export function exported(items, draft) {
  const { fields } = readSettings(settings);
  const answers = items.filter((item) => item.role === "assistant");
  const written = draft.text.trim() || draft.media.length;
  const next = written ? [...items, { role: "user", ...draft }] : items;
  // The last request as it was sent; what would be sent now where there is none, or a message is being written.
  const body = answers.length && !written ? answers.at(-1).body : bodyOf(settings, fields, next);
  return {
    json: JSON.stringify({ ...bodyOf(settings, fields, items), answers: answers.map(record) }, null, 2),
    curl: asCurl(new URL("v1/chat/completions", document.baseURI).href, body, Boolean(key.get())),
  };
}

function record({ model, text, reasoning, calls, labels, finish, usage, requestId, error, firstTokenMs, rate }) {
  const whole = {
    model,
    content: text,
    reasoning_content: reasoning,
    tool_calls: calls,
    labels,
    finish_reason: finish,
    usage,
    request_id: requestId,
    first_token_ms: firstTokenMs && Math.round(firstTokenMs),
    tokens_per_second: rate && Number(rate.toFixed(1)),
    error: error?.message,
  };
  return Object.fromEntries(Object.entries(whole).filter(([, value]) => value != null && value !== "" && value.length !== 0));
}

// From settings and a conversation to the body of a request.

import { readFields } from "./fields.js";
import { readFormat } from "./formats.js";
import { contentOf } from "./media.js";
import { readTools, toolFields } from "./tools.js";

export const TOP_LOGPROBS = 5;
const MOST_ARGUMENT = 32_000; // characters of up to 4 bytes; Linux takes 128 KiB

/** What the settings add to a request: {fields, problems: {field's name: words}}. */
export function readSettings(settings) {
  const { values, problems } = readFields(settings.sampling);
  const fields = { ...values };
  if (settings.logprobs) Object.assign(fields, { logprobs: true, top_logprobs: TOP_LOGPROBS });
  if (settings.toolsOn) {
    const read = readTools(settings.tools);
    if (read.problem) problems.tools = read.problem;
    else Object.assign(fields, toolFields(read, settings.toolChoice, settings.parallel));
  }
  const format = readFormat(settings.format, settings.formats[settings.format] ?? "");
  if (format.problem) problems.response_format = format.problem;
  else if (format.value) fields.response_format = format.value;
  return { fields, problems };
}

/** items: what was said so far, {role: "user", text, media} and Answers. */
export function messagesOf(system, items) {
  const said = items.flatMap((item) => (item.role === "user" ? [{ role: "user", content: contentOf(item) }] : item.messages()));
  return system.trim() ? [{ role: "system", content: system }, ...said] : said;
}

export function bodyOf(settings, fields, items) {
  return {
    model: settings.model,
    messages: messagesOf(settings.system, items),
    ...fields,
    stream: true,
    stream_options: { include_usage: true },
  };
}

/**
 * The request as a command for a shell. A single quote in it is closed, escaped and opened again; what is longer than an
 * argument may be is read from a here-document, in which nothing has a meaning.
 */
export function asCurl(url, body, withKey) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [`curl -N ${quoted(url)}`, "-H 'Content-Type: application/json'"];
  if (withKey) lines.push('-H "Authorization: Bearer $OSTRO_API_KEY"');
  const text = JSON.stringify(body, null, 2);
  const long = text.length > MOST_ARGUMENT;
  lines.push(long ? "--data-binary @- <<'END_OF_BODY'" : `-d ${quoted(text)}`);
  return lines.join(" \\\n  ") + (long ? `\n${text}\nEND_OF_BODY\n` : "");
}

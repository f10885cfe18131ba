// From settings and a conversation to the body of a request.

import { readFields } from "./fields.js";
import { readFormat } from "./formats.js";
import { readTools, toolFields } from "./tools.js";

export const TOP_LOGPROBS = 5;

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

/** items: what was said so far, {role: "user", text} and Answers. */
export function messagesOf(system, items) {
  const said = items.flatMap((item) => (item.role === "user" ? [{ role: "user", content: item.text }] : item.messages()));
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

/** The request as a command for a shell. A single quote in it is closed, escaped and opened again. */
export function asCurl(url, body, withKey) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [`curl -N ${quoted(url)}`, "-H 'Content-Type: application/json'"];
  if (withKey) lines.push('-H "Authorization: Bearer $OSTRO_API_KEY"');
  lines.push(`-d ${quoted(JSON.stringify(body, null, 2))}`);
  return lines.join(" \\\n  ");
}

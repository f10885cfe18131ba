// One answer as it comes: what the chunks of a stream add up to. Knows nothing of the page.

export class Answer {
  constructor(model, body) {
    this.role = "assistant";
    this.model = model;
    this.body = body; // the request, as it was sent
    this.text = "";
    this.reasoning = "";
    this.calls = []; // {id, name, arguments, result}
    this.tokens = []; // as logprobs.content has them
    this.labels = []; // {label, score, group}, of what was asked
    this.finish = null;
    this.usage = null;
    this.error = null;
    this.stopped = false;
    this.done = false;
    this.requestId = null;
    this.ignored = null;
    this.sentAt = this.firstAt = this.lastAt = this.thoughtAt = null; // ms
  }

  take(chunk, now) {
    if (chunk.usage) this.usage = chunk.usage;
    if (chunk.labels) this.labels = chunk.labels;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const { content, reasoning_content: thought, tool_calls: calls } = choice.delta ?? {};
    if (content || thought || calls || choice.finish_reason) {
      this.firstAt ??= now;
      this.lastAt = now;
    }
    if (thought) this.reasoning += thought;
    if ((content || calls) && this.reasoning) this.thoughtAt ??= now;
    if (content) this.text += content;
    for (const call of calls ?? []) this.#takeCall(call);
    if (choice.logprobs?.content) this.tokens.push(...choice.logprobs.content);
    if (choice.finish_reason) this.finish = choice.finish_reason;
  }

  #takeCall({ index = 0, id, function: part }) {
    this.calls[index] ??= { id: "", name: "", arguments: "", result: null };
    const call = this.calls[index];
    if (id) call.id = id;
    call.name += part?.name ?? "";
    call.arguments += part?.arguments ?? "";
  }

  get empty() {
    return !this.text && !this.calls.length;
  }

  /** Whether every call that was made has a result, so that the model can go on. */
  get answered() {
    return this.calls.length > 0 && this.calls.every((call) => call.result !== null);
  }

  /** Milliseconds from sending to the first token; null before it. */
  get firstTokenMs() {
    return this.firstAt === null ? null : this.firstAt - this.sentAt;
  }

  /** Tokens a second after the first one; null where there are too few to tell. */
  get rate() {
    const count = this.usage?.completion_tokens ?? 0;
    return count > 1 && this.lastAt > this.firstAt ? ((count - 1) * 1000) / (this.lastAt - this.firstAt) : null;
  }

  /** The answer as messages of the next request. Calls without a result are left out: no template has a place for them. */
  messages() {
    if (!this.answered) return this.text ? [{ role: "assistant", content: this.text }] : [];
    const calls = this.calls.map(({ id, name, arguments: text }) => ({
      id,
      type: "function",
      function: { name, arguments: text },
    }));
    const results = this.calls.map(({ id, name, result }) => ({ role: "tool", tool_call_id: id, name, content: result }));
    return [{ role: "assistant", content: this.text, tool_calls: calls }, ...results];
  }
}
